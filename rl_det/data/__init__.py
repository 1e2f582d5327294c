"""Data sets: sequences of images with their true boxes, read from files or drawn."""

from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from rl_det.types import Sample

Split = Literal["train", "val", "test"]


@runtime_checkable
class Dataset(Protocol):
    """A sequence of samples with labels 1..C; `classes` names the labels in this order."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of labels 1..C: label k is `classes[k - 1]`."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """The sample at an index from 0; IndexError from the length on, which ends a `for` loop."""
        ...


@runtime_checkable
class OfFiles(Protocol):
    """A data set that knows the files of its images."""

    def file_of(self, index: int) -> Path | None:
        """The image's file; None if it is not known."""
        ...


def file_of(dataset: Dataset | None, index: int) -> Path | None:
    """The file of an image, if the data set knows it."""
    return dataset.file_of(index) if isinstance(dataset, OfFiles) else None
