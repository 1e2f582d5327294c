"""Files or drawings come in; Samples go out: a data set is a sequence of images, each with what is truly in it."""

from typing import Literal, Protocol, runtime_checkable

from rl_det.types import Sample

Split = Literal["train", "val", "test"]


@runtime_checkable
class Dataset(Protocol):
    """A sequence of samples whose labels 1..C are named by `classes`, in that order."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of label k is `classes[k - 1]`."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """The sample at an index from 0; IndexError from the length on, which ends a `for` loop."""
        ...
