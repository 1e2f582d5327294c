"""Three splits of one data set, which agree in their classes: what every run works on, wherever it came from."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from rl_det.data import Dataset, Split
from rl_det.types import Sample

HASHED_SAMPLES = 32
"""Of a data set that cannot say itself what it holds, so many samples stand for all."""


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Images to train on, to choose by, and to judge by once.

    `name` is how tables and folders call the data; `category_ids[k - 1]` is what a detection with label k is called in
    COCO's results.
    """

    train: Dataset
    val: Dataset
    test: Dataset
    name: str
    category_ids: tuple[int, ...]
    warm_start_images: Dataset | None = None
    """Where the warm start is trained, if that is elsewhere than on `train`."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of label k is `classes[k - 1]`."""
        return self.train.classes

    def __getitem__(self, split: Split) -> Dataset:
        return {"train": self.train, "val": self.val, "test": self.test}[split]

    def fingerprints(self) -> dict[str, str]:
        """For each split, hex digits that change where its images or labels do."""
        return {"train": fingerprint(self.train), "val": fingerprint(self.val), "test": fingerprint(self.test)}


@runtime_checkable
class Fingerprinted(Protocol):
    """A data set that can say cheaply what it holds."""

    def fingerprint(self) -> str:
        """Hex digits that change where the images or labels do."""
        ...


def fingerprint(dataset: Dataset) -> str:
    """16 hex digits of what a data set holds: as it says itself, else of its size and of samples spread over it."""
    if isinstance(dataset, Fingerprinted):
        return digest([dataset.fingerprint()])
    places = torch.linspace(0, len(dataset) - 1, min(HASHED_SAMPLES, len(dataset))).long().unique().tolist()
    return digest([len(dataset), dataset.classes, *(_hashed(dataset[place]) for place in places)])


def digest(parts: Sequence[object]) -> str:
    """16 hex digits that two sequences share only if they print the same."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _hashed(sample: Sample) -> str:
    target = sample.target
    parts = (sample.image, target.boxes, target.labels, target.area, target.iscrowd)
    content = b"".join(part.contiguous().numpy(force=True).tobytes() for part in parts)
    return hashlib.sha256(content).hexdigest()
