"""Decide where encodings are kept (in memory, on disk, or not at all), and how many proposals of an image they hold.

The part that is trained decides what an encoding is; the budgets decide where it goes. The decision, its bytes and its
time are said before the work begins.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl_det import parallel
from rl_det.candidates import select_candidates
from rl_det.data import Dataset
from rl_det.data.splits import digest
from rl_det.detectors import Detector
from rl_det.detectors.contents import identity
from rl_det.detectors.encodings import (
    BATCH_BYTES,
    EncodedDataset,
    EncodedInTheLoop,
    Encodings,
    divided,
    encode_dataset,
    encode_in_the_loop,
    images_in,
)
from rl_det.detectors.frozen import PLAIN, FrozenPart
from rl_det.detectors.reading import batches
from rl_det.errors import UserError
from rl_det.policies.detections import candidates_ap, joined
from rl_det.policies.head import own_postprocessing
from rl_det.progress import bar, tell
from rl_det.settings import at_least, check_settings
from rl_det.storage.files import write_whole
from rl_det.types import Candidates, Encoded, Target

GIB = 2**30
NUMBERS = (100, 150, 200, 300, 500)
"""The numbers of proposals that are tried, the smallest first."""
LARGEST_CHANGE = 0.0005
"""The validation AP may change by this much if an image keeps fewer proposals."""
PROPOSALS = "proposals.txt"
"""The file that keeps the number of proposals beside encodings."""
ENCODED_TOGETHER = 16
"""The most images that are encoded in one batch."""

Place = Literal["memory", "disk", "nowhere"]


@dataclass(frozen=True, kw_only=True)
class CacheLimits:
    """How much room encodings may take."""

    memory: float | None = None
    """The most memory for encodings, in GiB; left out: a third of the machine's. Beyond it, they are kept on disk."""
    disk: float | None = None
    """The most disk for encodings, in GiB; left out: half of what is free. Beyond it, images are encoded in the loop."""

    def __post_init__(self) -> None:
        check_settings(self, memory=at_least(0), disk=at_least(0))

    def memory_bytes(self) -> int:
        """The limit of memory, in bytes."""
        return int(total_memory() / 3 if self.memory is None else self.memory * GIB)

    def disk_bytes(self, folder: Path) -> int:
        """The limit of disk at this folder, which need not exist, in bytes."""
        if self.disk is not None:
            return int(self.disk * GIB)
        there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        return shutil.disk_usage(there).free // 2


@dataclass(frozen=True, kw_only=True)
class CachePlan:
    """Where the encodings of a run go, and what they hold."""

    place: Place
    num_images: int
    image_bytes: int
    """The size of one image's encoding, features in half precision."""
    num_proposals: int | None
    """The proposals that an image keeps; None: all."""
    of_proposals: int
    """The proposals of an image that the detector makes."""
    batch_size: int
    """The images that are encoded in one batch."""
    seconds: float
    """About how long encoding all of them takes once."""
    copied: bool = False
    """Whether the disk has room for a copy of what is in memory, with which a stopped run goes on at once."""
    why: str = ""

    def told(self) -> str:
        """The plan in one line."""
        kept = f"the best {self.num_proposals} of " if self.num_proposals is not None else ""
        what = f"{self.num_images:,} images x {self.image_bytes / 1e6:.2f} MB, {kept}{self.of_proposals} proposals each"
        where = {
            "memory": f"in memory ({self.num_images * self.image_bytes / GIB:.2f} GiB)",
            "disk": f"on disk ({self.num_images * self.image_bytes / GIB:.2f} GiB)",
            "nowhere": "not kept: images are read and encoded each time",
        }[self.place]
        each = "each pass" if self.place == "nowhere" else "once"
        return f"encodings: {what}; {where}{self.why}; about {max(1, round(self.seconds / 60))} min {each}"

    def facts(self) -> dict[str, object]:
        """The plan in JSON's types, without what depends on the machine."""
        return {name: value for name, value in asdict(self).items() if name in ("place", "num_proposals")}


def plan_cache(
    detector: Detector,
    splits: Mapping[str, Dataset],
    limits: CacheLimits,
    *,
    folder: Path,
    num_candidates: int,
    chosen: Path,
    frozen: FrozenPart = PLAIN,
) -> CachePlan:
    """Plan the encodings of these splits ("train", "val"); the file `chosen` keeps the number of proposals for later runs.

    An image of each split is encoded to measure bytes and seconds. Fewer proposals are kept if validation AP, with
    `num_candidates` candidates, stays the same (`fewest_proposals`). Raises ValueError if the limits leave no room for
    one image.
    """
    val, images = splits["val"], sum(len(dataset) for dataset in splits.values())
    first = [splits[name][0].image for name in splits]
    with frozen.of(detector):
        encoded = detector.encode(first)  # allocates, and compiles what is compiled
        started = time.perf_counter()
        detector.encode(first)
        seconds = (time.perf_counter() - started) / len(first) * images
    of_proposals = encoded.mask.shape[1]
    together = images_in(BATCH_BYTES, encoded, most=ENCODED_TOGETHER)
    num_proposals = None
    if detector.part != "all":
        num_proposals = remembered(
            chosen,
            digest(sorted(identity(detector, val).items())),
            lambda: fewest_proposals(detector, val, num_candidates, batch_size=together, of_proposals=of_proposals),
        )
    kept = detector.encode(first[:1], num_proposals).to("cpu", torch.float16)
    each = sum(tensor.element_size() * tensor.numel() for tensor in kept.tensors().values())
    plan = CachePlan(
        place="memory",
        num_images=images,
        image_bytes=each,
        num_proposals=num_proposals,
        of_proposals=of_proposals,
        batch_size=together,
        seconds=seconds,
    )
    if detector.part == "all":
        return replace(plan, place="nowhere", why=" (all of the detector is trained)")
    return _placed(plan, limits, folder)


def _placed(plan: CachePlan, limits: CacheLimits, folder: Path) -> CachePlan:
    """The plan with the first place that has room for all encodings: memory, disk, else nowhere."""
    each, images = plan.image_bytes, plan.num_images
    memory, disk = limits.memory_bytes(), limits.disk_bytes(folder)
    if each * images <= memory:
        return replace(plan, copied=each * images <= disk)
    if each * images <= disk:
        return replace(plan, place="disk", why=f", above the {memory / GIB:.1f} GiB of memory for them: {folder}")
    if 0 < max(memory, disk) < each:
        raise UserError(
            f"the encoding of one image takes {each / GIB:.6f} GiB; cache_memory and cache_disk must leave room for one, or "
            "be left out (or 0: nothing is kept); a smaller image_size or trainable='predictor' makes encodings smaller"
        )
    return replace(plan, place="nowhere", why=f" (disk for them: {disk / GIB:.1f} GiB)")


def encodings_by(
    plan: CachePlan,
    detector: Detector,
    dataset: Dataset,
    *,
    folder: Path | None,
    frozen: FrozenPart = PLAIN,
    remake: bool = False,
    in_memory: bool = False,
    on_batch: Callable[[int], None] = lambda num_images: None,
) -> Encodings:
    """A data set's encodings, where the plan puts them; `folder` keeps them on disk, and is used again.

    If what it holds is of something else, or damaged, it is refused, or with `remake` made anew (`encode_dataset`). With
    `in_memory`, the encodings are in memory too, and the folder is for another time. Processes that train together divide the
    data set; each has a folder of its own beside this one.
    """
    if folder is not None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if (number := parallel.world_size()) > 1:
            folder = folder.with_name(f"{folder.name}.{parallel.rank() + 1}of{number}")

    def encode(images: Dataset) -> EncodedDataset | EncodedInTheLoop:
        if plan.place == "nowhere":
            return encode_in_the_loop(
                images,
                batch_size=plan.batch_size,
                num_proposals=plan.num_proposals,
                frozen=frozen,
                on_batch=on_batch,
            )
        kept = encode_dataset(
            detector,
            images,
            batch_size=plan.batch_size,
            num_proposals=plan.num_proposals,
            frozen=frozen,
            folder=folder,
            remake=remake,
            on_batch=on_batch,
        )
        return kept.in_memory() if in_memory else kept

    return divided(encode, dataset)


def fewest_proposals(
    detector: Detector, val: Dataset, num_candidates: int, *, batch_size: int, of_proposals: int
) -> int | None:
    """The smallest of `NUMBERS` that leaves the validation AP as it is with all proposals, within 0.05 points; None: all.

    An image keeps the proposals of the highest class logit. Nothing is tried where proposals do not overlap, or are few.
    """
    numbers = [number for number in NUMBERS if number < of_proposals]
    if not detector.overlapping_proposals or not numbers:
        return None
    found: dict[int, list[Candidates]] = {number: [] for number in (*numbers, of_proposals)}
    targets: list[Target] = []
    with bar("proposals", len(val)) as shown:
        for samples in batches(val, range(len(val)), batch_size):
            encoded = detector.encode([sample.image for sample in samples])
            for number, candidates in _thinned(detector, encoded, list(found), num_candidates):
                found[number].append(candidates)
            targets.extend(sample.target for sample in samples)
            shown.advance(len(samples))
    how = own_postprocessing(detector)
    aps = {
        number: candidates_ap(joined(parts), how, targets, num_classes=detector.num_classes)
        for number, parts in found.items()
    }
    enough = next((number for number in numbers if abs(aps[number] - aps[of_proposals]) <= LARGEST_CHANGE), None)
    tried = ", ".join(f"{number}: {100 * ap:.2f}" for number, ap in aps.items())
    tell(f"validation AP x 100 by the number of proposals that an image keeps: {tried}")
    return enough


@torch.no_grad()
def _thinned(
    detector: Detector, encoded: Encoded, numbers: list[int], num_candidates: int
) -> Iterator[tuple[int, Candidates]]:
    """For each number, the candidates of the best proposals alone, on the CPU."""
    output = detector.head(encoded)
    for number in numbers:
        mask = best(output.logits.amax(-1), encoded.mask, number)
        yield number, select_candidates(output, mask, num_candidates).to("cpu")


def best(worth: Float[Tensor, "B P"], mask: Bool[Tensor, "B P"], number: int) -> Bool[Tensor, "B P"]:
    """Which proposals are among the `number` of the highest worth in their image."""
    kept = worth.masked_fill(~mask, -torch.inf).topk(min(number, worth.shape[1]), dim=1).indices
    return torch.zeros_like(mask).scatter(1, kept, value=True) & mask


def remembered(file: Path, about: str, choose: Callable[[], int | None]) -> int | None:
    """The number in the file, if it was chosen for the same (`about`); else what `choose` returns, which the file keeps.

    A file of something else, or damaged, is told in one line. None is not kept.
    """
    with suppress(FileNotFoundError):
        text = file.read_bytes()
        with suppress(ValueError, IndexError):
            number = int(text.split()[0])
            if text == _choice(number, about):
                return number
        tell(f"{file}: is damaged, or of other data, weights or code; the number of proposals is chosen anew")
    chosen = choose()
    if chosen is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, _choice(chosen, about).decode())
    return chosen


def _choice(number: int, about: str) -> bytes:
    return f"{number} {digest([number, about])}\n".encode()


def total_memory() -> int:
    """The machine's memory in bytes, or the container's, if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 16 * GIB
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # "max", or no such file
            total = min(total, int(Path(file).read_text(encoding="ascii")))
    return total
