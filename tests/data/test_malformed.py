"""Some hundred damaged data sets: each is refused by file and entry, or repaired and counted, or read as if nothing were wrong.

Nothing else may come out: no other error, no hang, no full memory. A case is drawn from its number (`data.damages`), so
`case(kind, number)` shows what a failing message names.
"""

import os
import resource
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from data.damages import KINDS, case
from data.sound_folders import Content, coco, voc, yolo

from rl_det.data.check import DataError, Findings
from rl_det.data.folder import read_folder

CASES = 90
"""Of each kind."""
SECONDS = 20
"""The longest that one case may take."""
MEMORY = 2 * 2**30
"""The most memory that all cases of one kind may take, in bytes."""


def write(root: Path, content: Content) -> Path:
    """The folder with these files, a link that leads out, one that leads to itself, and a pipe that nobody writes to."""
    for name, own in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(own)
    folder = root / "images" if (root / "images").is_dir() else root / "JPEGImages"
    for place in (folder, root):
        (place / "loop.xyz").symlink_to("loop.xyz")
    if (root / "train.json").exists():  # of the other layouts all files of a folder count
        (folder / "out.png").symlink_to("/etc/passwd")
        (folder / "out").symlink_to("/etc")
        (folder / "loop.png").symlink_to("loop.png")
        (folder / "loop").symlink_to("loop")
        (folder / "nowhere.png").symlink_to("nowhere")
        os.mkfifo(folder / "pipe.png")
    return root


Result = dict[str, list[Any]]


def opened(root: Path) -> tuple[Result | None, list[DataError], list[str]]:
    """All that is read, or the faults, and what is told; every image is decoded."""
    findings = Findings()
    result: Result = {}
    try:
        folder = read_folder(root, findings)
        if findings.faults:
            return None, findings.faults, []
        for split, images in folder.splits.items():
            result[split] = [images.classes, images.category_ids]
            for index in range(len(images)):
                sample = images[index]
                check_fair(sample.target, sample.image, len(images.classes))
                target = sample.target
                columns = target.boxes, target.labels, target.area, target.iscrowd
                result[split].append((target.image_id, sample.image.shape, *(column.tolist() for column in columns)))
    except DataError as fault:
        return None, [fault], []
    return result, [], [*findings.told(), *folder.notes]


def check_fair(target: Any, image: torch.Tensor, num_classes: int) -> None:
    """What holds for every sample."""
    height, width = image.shape[1:]
    boxes = target.boxes
    assert torch.isfinite(image).all() and 0 <= image.min() <= image.max() <= 1  # noqa: PT018
    assert torch.isfinite(boxes).all() and (boxes >= 0).all()  # noqa: PT018
    assert (boxes <= torch.tensor([width, height, width, height])).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert ((target.labels >= 1) & (target.labels <= num_classes)).all()
    assert torch.isfinite(target.area).all() and (target.area >= 0).all()  # noqa: PT018


def check_named(fault: DataError, root: Path) -> None:
    """A fault names a file of the data set and an entry in one line that can be printed."""
    path, entry, message = fault.args
    assert Path(path).is_relative_to(root)
    assert entry and message  # noqa: PT018
    assert str(fault).isprintable()
    assert len(str(fault)) < 22_000, "names of 5000 letters come twice at most"


@contextmanager
def limits() -> Iterator[None]:
    """No more memory than now and `MEMORY`; an alarm rings after `SECONDS`."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"longer than {SECONDS} s")

    status = Path("/proc/self/status").read_text() if Path("/proc/self/status").exists() else ""
    held = next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData")), None)
    before, old = resource.getrlimit(resource.RLIMIT_DATA), signal.signal(signal.SIGALRM, ring)
    if held is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (held + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
        signal.signal(signal.SIGALRM, old)


@pytest.fixture(scope="module")
def fair() -> dict[str, Result]:
    """What is read of the layouts when nothing is wrong."""
    results = {}
    for layout, content in (("coco", coco()), ("yolo", yolo()), ("voc", voc())):
        with tempfile.TemporaryDirectory() as root:
            result, faults, told = opened(write(Path(root), content))
            assert result is not None, faults
            assert not told
            results[layout] = result
    return results


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_data_is_refused_by_file_and_entry_or_repaired_and_counted_or_read_as_it_was(
    kind: str, fair: dict[str, Result], tmp_path: Path
) -> None:
    outcomes: Counter[str] = Counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with limits():
        for number in range(CASES):
            content, may_differ = case(kind, number)
            root = write(tmp_path / str(number), content)
            signal.alarm(SECONDS)
            try:
                result, faults, told = opened(root)
            except Exception as error:
                raise AssertionError(f"case({kind!r}, {number}) ended in {type(error).__name__}: {error}") from error
            finally:
                signal.alarm(0)
            for fault in faults:
                check_named(fault, root)
            unchanged = result in fair.values()
            known = bool(faults or told or unchanged or may_differ)
            assert known, f"case({kind!r}, {number}) was read as another data set without a word"
            outcomes["refused" if faults else "told" if told else "unchanged" if unchanged else "another"] += 1
            shutil.rmtree(root)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < MEMORY
    assert outcomes["refused"] >= CASES / 5, outcomes
    print(kind, dict(outcomes))
