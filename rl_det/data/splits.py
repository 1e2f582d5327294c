"""The three splits of a data set, which share their classes: the data of every run."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from rl_det.data import Dataset, Split, file_of
from rl_det.types import Sample

HASHED_SAMPLES = 32
"""How many samples are hashed of a data set that has no fingerprint of its own."""


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Three splits: `train` to train on, `val` to select by, `test` to measure once.

    `name` appears in tables and folder names. `category_ids[k - 1]` is the id of label k in COCO's results.
    """

    train: Dataset
    val: Dataset
    test: Dataset
    name: str
    category_ids: tuple[int, ...]
    warm_start_images: Dataset | None = None
    """The images of the warm start, if they are not `train`."""
    notes: tuple[str, ...] = ()
    """What opening did that changes results, such as a missing split that was taken from another."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of labels 1..C: label k is `classes[k - 1]`."""
        return self.train.classes

    def __getitem__(self, split: Split) -> Dataset:
        return {"train": self.train, "val": self.val, "test": self.test}[split]

    def fingerprints(self) -> dict[str, str]:
        """For each split, hex digits that change if its images or labels change."""
        return {"train": fingerprint(self.train), "val": fingerprint(self.val), "test": fingerprint(self.test)}


class First:
    """The first samples of a data set."""

    def __init__(self, dataset: Dataset, num_images: int) -> None:
        self.dataset, self.num_images = dataset, min(num_images, len(dataset))

    @property
    def classes(self) -> tuple[str, ...]:
        """The data set's classes."""
        return self.dataset.classes

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, index: int) -> Sample:
        if index >= self.num_images:
            raise IndexError(index)
        return self.dataset[index]

    def file_of(self, index: int) -> Path | None:
        """The image's file, if it is known."""
        return file_of(self.dataset, index)


def first_of(splits: Splits, *, train: int, val: int, test: int) -> Splits:
    """The same splits with at most so many images each, the first ones."""

    def few(dataset: Dataset, count: int) -> Dataset:
        return First(dataset, count) if len(dataset) > count else dataset

    return replace(splits, train=few(splits.train, train), val=few(splits.val, val), test=few(splits.test, test))


class Chosen:
    """Some images of several data sets: item k is the image `places[k]`, (number of the data set, index in it)."""

    def __init__(self, datasets: Sequence[Dataset], places: Sequence[tuple[int, int]]) -> None:
        self.datasets, self.places = tuple(datasets), tuple(places)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, which the data sets share."""
        return self.datasets[0].classes

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"index must lie in 0..{len(self) - 1}; got {index}")
        number, place = self.places[index]
        return self.datasets[number][place]

    def file_of(self, index: int) -> Path | None:
        """The image's file, if it is known."""
        number, place = self.places[index]
        return file_of(self.datasets[number], place)

    def fingerprint(self) -> str:
        """Hex digits that change if the data sets or the choice change."""
        return digest([*(fingerprint(dataset) for dataset in self.datasets), self.places])


@runtime_checkable
class Fingerprinted(Protocol):
    """A data set with a cheap fingerprint of its own."""

    def fingerprint(self) -> str:
        """Hex digits that change if the images or labels change."""
        ...


def fingerprint(dataset: Dataset) -> str:
    """16 hex digits of a data set's contents: its own fingerprint, or a hash of its size and of samples spread over it."""
    if isinstance(dataset, Fingerprinted):
        return digest([dataset.fingerprint()])
    places = torch.linspace(0, len(dataset) - 1, min(HASHED_SAMPLES, len(dataset))).long().unique().tolist()
    return digest([len(dataset), dataset.classes, *(_hashed(dataset[place]) for place in places)])


def digest(parts: Sequence[object]) -> str:
    """16 hex digits, equal for two sequences only if they print the same."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _hashed(sample: Sample) -> str:
    target = sample.target
    parts = (sample.image, target.boxes, target.labels, target.area, target.iscrowd)
    content = b"".join(part.contiguous().numpy(force=True).tobytes() for part in parts)
    return hashlib.sha256(content).hexdigest()
