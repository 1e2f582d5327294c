"""Read samples in batches, by worker processes if there are many."""

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from rl_det.data import Dataset
from rl_det.types import Sample

WORKERS = min(8, (os.cpu_count() or 1) // 2)
"""Processes that read images ahead."""
MANY_BATCHES = 4
"""With more batches, worker processes are worth their start."""


def read(dataset: Dataset, indices: Sequence[int]) -> list[Sample]:
    """Some samples, read in this process."""
    return [dataset[index] for index in indices]


def batches(dataset: Dataset, indices: Sequence[int], batch_size: int) -> Iterator[list[Sample]]:
    """Samples in batches; if there are many, worker processes read ahead while the caller works.

    An error in a worker is raised here as it was raised there. Targets may be kept: a worker's tensors hold one open file
    each, of which a process may have a thousand, so these are copies.
    """
    num_workers = WORKERS if len(indices) > MANY_BATCHES * batch_size else 0
    for found in sample_loader(_Tried(dataset), num_workers, batch_size=batch_size, sampler=indices):
        for sample in found:
            if isinstance(sample, Exception):
                raise sample
        yield [replace(sample, target=sample.target.copied()) for sample in found] if num_workers else found


def sample_loader(source: Any, num_workers: int, **order: Any) -> DataLoader[Any]:
    """A loader whose batches are lists of what `source` gives, read by so many worker processes (0: by this process).

    Where Python's default start method is "forkserver" (on Linux since 3.14), workers are forked all the same: a data set
    need not be picklable, nor a user's program be guarded by `if __name__ == "__main__"`. Another method that the program
    chose is kept.
    """
    default, chosen = multiprocessing.get_all_start_methods()[0], multiprocessing.get_start_method(allow_none=True)
    forked = num_workers > 0 and default == "forkserver" and chosen in (None, default)
    return DataLoader(
        source,
        collate_fn=list,
        num_workers=num_workers,
        multiprocessing_context="fork" if forked else None,
        generator=torch.Generator(),  # the loader's seeds are not drawn from torch's global generator
        **order,
    )


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
