"""Samples in batches, from worker processes."""

import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from own_process import run
from parallel.launching import environment

from rl_det.data.digit_scenes import DigitScenes
from rl_det.detectors.reading import batches, sample_loader

KEPT = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
from rl_det.data.digit_scenes import DigitScenes
from rl_det.detectors import reading
reading.WORKERS = 1
kept = [sample.target for samples in reading.batches(DigitScenes("train", num_scenes=60), range(60), 8) for sample in samples]
print(len(kept))
"""


def test_the_targets_of_many_images_may_be_kept_where_few_files_may_be_open() -> None:
    ended = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, env=environment())
    assert ended.stdout.strip() == "60", ended.stderr


def test_worker_processes_give_what_this_process_gives() -> None:
    scenes, indices = DigitScenes("train", num_scenes=12), [7, 3, 11, 0, 5, 2, 9, 1, 10, 4]
    found = [sample for samples in batches(scenes, indices, 2) for sample in samples]
    assert len(indices) > 4 * 2
    assert len(found) == len(indices)
    for sample, index in zip(found, indices, strict=True):
        assert torch.equal(sample.image, scenes[index].image)
        for name, part in vars(scenes[index].target).items():
            own = getattr(sample.target, name)
            assert own == part if name == "image_id" else torch.equal(own, part), name


UNGUARDED = """
import multiprocessing

multiprocessing.get_all_start_methods = lambda: ["forkserver", "fork", "spawn"]  # as on Linux since Python 3.14
multiprocessing.set_start_method("forkserver")
from rl_det.data.digit_scenes import DigitScenes
from rl_det.detectors import reading

reading.WORKERS = 1
scenes = DigitScenes("train", num_scenes=12)


class Mine:
    def __init__(self):
        self.read = lambda index: scenes[index]  # cannot be pickled

    def __len__(self):
        return len(scenes)

    def __getitem__(self, index):
        return self.read(index)


assert sum(len(samples) for samples in reading.batches(Mine(), range(12), 2)) == 12
print("done")
"""


def test_a_program_without_a_guard_reads_by_workers_what_cannot_be_pickled(tmp_path: Path) -> None:
    run(UNGUARDED, tmp_path)


@pytest.mark.parametrize(
    ("default", "chosen", "context"),
    [
        ("fork", None, None),
        ("fork", "forkserver", None),
        ("forkserver", None, "fork"),
        ("forkserver", "forkserver", "fork"),
        ("forkserver", "spawn", None),
        ("spawn", None, None),
    ],
)
def test_workers_are_forked_where_a_forkserver_is_only_the_default(
    default: str, chosen: str | None, context: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: [default])
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none: chosen)
    loader = sample_loader([], 1)
    assert (loader.multiprocessing_context and loader.multiprocessing_context.get_start_method()) == context
    assert sample_loader([], 0).multiprocessing_context is None
