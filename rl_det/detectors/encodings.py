"""A data set's encodings: kept in memory or on disk, as the frozen part's output does not change, or computed in the loop."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from rl_det.data import Dataset
from rl_det.detectors import encodings_on_disk
from rl_det.detectors.protocol import Detector
from rl_det.errors import UserError
from rl_det.storage.memory import give_back
from rl_det.storage.weights import state_fingerprint
from rl_det.types import Encoded, HeadOutput, Sample, Target, concatenate


@dataclass
class Said:
    """What one head said of a data set, so that policies on the same head need not ask it again; the last head alone."""

    head: str = ""
    """The fingerprint of its weights."""
    of_batches: dict[tuple[int, int], tuple[Encoded, HeadOutput]] = field(default_factory=dict)
    """By the first and the last image: the encodings without features, and the head's output."""


@dataclass(frozen=True)
class EncodedDataset:
    """A data set's encodings, on the CPU or on disk with features in half precision, and its targets."""

    encoded: Encoded
    targets: list[Target]
    source: Dataset | None = None
    """The images themselves, if they are known."""
    said: Said = field(default_factory=Said, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def batch_size(self) -> int:
        """The images whose encodings in single precision take a quarter of a gigabyte, at most 50."""
        return images_in(BATCH_BYTES, self.encoded, most=50)

    def batch(self, images: Int[Tensor, " b"], detector: Detector) -> Encoded:
        """The encodings of some images, on the detector's device, with features in single precision."""
        return self.encoded[images].to(detector.device, torch.float32)


@dataclass(frozen=True)
class EncodedInTheLoop:
    """A data set whose images are read and encoded each time that they are asked for; nothing is kept but the targets.

    Features are rounded as in a cache, so that a run does not depend on where its encodings are; images, if the whole
    detector is trained, are not.
    """

    source: Dataset
    targets: list[Target]
    batch_size: int
    num_proposals: int | None = None
    said: Said = field(default_factory=Said, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, images: Int[Tensor, " b"], detector: Detector) -> Encoded:
        """Encode some images by this detector, which must share its frozen part with every other that asks."""
        samples = read(self.source, images.tolist())
        encoded = detector.encode([sample.image for sample in samples], self.num_proposals)
        if detector.part == "all":
            return encoded
        return encoded.to(encoded.mask.device, torch.float16).to(encoded.mask.device, torch.float32)


Encodings = EncodedDataset | EncodedInTheLoop

SAID_BYTES = 2**28
"""The most memory for what a head said of a data set."""
CHECKED = 6
"""How many images are encoded again to check that the encodings in a folder are this detector's."""
BATCH_BYTES = 2**28
"""The features of one batch, in single precision."""
WORKERS = min(8, (os.cpu_count() or 1) // 2)
"""Processes that read images ahead."""
MANY_BATCHES = 4
"""With more batches, worker processes are worth their start."""


@torch.no_grad()
def spoken(data: Encodings, detector: Detector, batch_size: int) -> Iterator[tuple[Encoded, HeadOutput]]:
    """What the head says of all images, batch after batch, without gradient; the encodings may lack features.

    It is remembered until another head is asked, if it is small enough.
    """
    head = state_fingerprint(detector.trainable)
    if data.said.head != head:
        data.said.head, data.said.of_batches = head, {}
    for images in torch.arange(len(data)).split(batch_size):
        place = int(images[0]), int(images[-1])
        if place in data.said.of_batches:
            yield data.said.of_batches[place]
            continue
        encoded = data.batch(images, detector)
        output = detector.head(encoded)
        each = sum(part.element_size() * part.numel() for part in output.tensors) // len(images)
        if each * len(data) <= SAID_BYTES:
            data.said.of_batches[place] = replace(encoded, features=()), output
        yield encoded, output


def encode_dataset(
    detector: Detector,
    dataset: Dataset,
    *,
    num_images: int | None = None,
    batch_size: int = 16,
    num_proposals: int | None = None,
    folder: Path | None = None,
    on_batch: Callable[[int], None] = lambda num_images: None,
) -> EncodedDataset:
    """Encode every image, or the first `num_images`, in order; `on_batch` is called with each batch's number of images.

    Worker processes read images ahead. `num_proposals` keeps each image's best proposals only
    (`Detector.encode`). With a folder, the encodings are kept there instead of in memory, and the next call reuses them.
    It first encodes a few images again, and raises ValueError, which names the folder, if the kept encodings are of
    another detector or of other images.
    """
    end = len(dataset) if num_images is None else min(num_images, len(dataset))
    targets: list[Target] = []

    def parts() -> Iterator[Encoded]:
        for samples in batches(dataset, range(end), batch_size):
            yield _encoded(detector, samples, num_proposals)
            targets.extend(sample.target for sample in samples)
            give_back()
            on_batch(len(samples))

    if folder is None:
        return EncodedDataset(concatenate(parts(), end), targets, dataset)
    if not folder.exists():
        encodings_on_disk.write(folder, parts(), targets, end)
    kept = EncodedDataset(*encodings_on_disk.read(folder), dataset)
    _check_kept(kept, folder, detector, dataset, end, num_proposals)
    return kept


def encode_in_the_loop(
    dataset: Dataset,
    *,
    batch_size: int = 16,
    num_proposals: int | None = None,
    on_batch: Callable[[int], None] = lambda num_images: None,
) -> EncodedInTheLoop:
    """Read all targets now; read and encode images when they are asked for, at most `batch_size` at a time in validations."""
    targets: list[Target] = []
    for samples in batches(dataset, range(len(dataset)), batch_size):
        targets.extend(sample.target for sample in samples)
        on_batch(len(samples))
    return EncodedInTheLoop(dataset, targets, batch_size, num_proposals)


def read(dataset: Dataset, indices: Sequence[int]) -> list[Sample]:
    """Some samples, read in this process."""
    return [dataset[index] for index in indices]


def batches(dataset: Dataset, indices: Sequence[int], batch_size: int) -> Iterator[list[Sample]]:
    """Samples in batches; if there are many, worker processes read ahead while the caller works.

    An error in a worker is raised here as it was raised there.
    """
    loader: DataLoader[Any] = DataLoader(
        _Tried(dataset),
        batch_size=batch_size,
        sampler=indices,
        collate_fn=list,
        num_workers=WORKERS if len(indices) > MANY_BATCHES * batch_size else 0,
        generator=torch.Generator(),  # the loader's seeds are not drawn from torch's global generator
    )
    for found in loader:
        for sample in found:
            if isinstance(sample, Exception):
                raise sample
        yield found


class _Tried(TorchDataset["Sample | Exception"]):
    """A data set that returns its errors, because a worker process would wrap them in its traceback."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample | Exception:
        try:
            return self.dataset[index]
        except Exception as error:
            return error


def images_in(num_bytes: int, encoded: Encoded, *, most: int) -> int:
    """The number of images whose features take so many bytes in single precision; at least 1, at most `most`."""
    each = sum(4 * level[:1].numel() for level in encoded.features)
    return max(1, min(most, num_bytes // max(each, 1)))


def _encoded(detector: Detector, samples: list[Sample], num_proposals: int | None) -> Encoded:
    """Encode one batch, in half precision on the CPU."""
    return detector.encode([sample.image for sample in samples], num_proposals).to("cpu", torch.float16)


def _check_kept(
    kept: EncodedDataset, folder: Path, detector: Detector, dataset: Dataset, end: int, num_proposals: int | None
) -> None:
    """Raise ValueError unless the kept encodings and labels of some images, spread over the data set, are right."""
    images = torch.linspace(0, end - 1, min(CHECKED, end)).long()
    if same := len(kept) == end:
        samples = read(dataset, images.tolist())
        fresh, there = _encoded(detector, samples, num_proposals).tensors(), kept.encoded[images].tensors()
        same = fresh.keys() == there.keys() and all(
            torch.equal(kept.targets[index].boxes, sample.target.boxes)
            for index, sample in zip(images.tolist(), samples, strict=True)
        )
        for name in (name for name in fresh if same and (name == "mask" or name.startswith("features"))):
            ours, theirs = fresh[name].float(), there[name].float()
            same = ours.shape == theirs.shape and bool((ours - theirs).abs().max() <= 0.02 * ours.abs().max())
    if not same:
        raise UserError(
            f"{folder}: must hold this detector's encodings of these {end} images; it holds others, of {len(kept)}; "
            "give another folder, or delete it to have it made anew"
        )
