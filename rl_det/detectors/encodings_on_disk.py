"""Write encodings and targets to a folder, and read them back as memory-mapped tensors.

The folder holds one numpy file for each tensor of `Encoded`, and the targets in safetensors. It is written whole or not
at all.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from rl_det.errors import PathError, UserError
from rl_det.types import Encoded, Target, concatenate

TARGETS = "targets.safetensors"
FIELDS = ("boxes", "labels", "area", "iscrowd")


def write(folder: Path, parts: Iterator[Encoded], targets: list[Target], num_images: int) -> None:
    """Write a new folder; `targets` must be complete once `parts` is exhausted.

    Raises OSError, which names the folder, if it cannot be written; then nothing is left behind.
    """
    beside = folder.with_name(f".{folder.name}.{os.getpid()}")

    def on_disk(name: str, like: Tensor) -> Tensor:
        shape = num_images, *like.shape[1:]
        return torch.from_numpy(
            np.lib.format.open_memmap(beside / f"{name}.npy", "w+", dtype=like.numpy().dtype, shape=shape)
        )

    try:
        beside.mkdir(parents=True)
        concatenate(parts, num_images, empty=on_disk)
        counts = torch.tensor([len(target.labels) for target in targets])
        ids = torch.tensor([target.image_id for target in targets])
        joined = {name: torch.cat([getattr(target, name).cpu() for target in targets]) for name in FIELDS}
        safetensors.torch.save_file({**joined, "counts": counts, "image_ids": ids}, beside / TARGETS)
        beside.replace(folder)
    except OSError as error:
        raise PathError(f"{folder}: the encodings could not be written; got {error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def read(folder: Path) -> tuple[Encoded, list[Target]]:
    """Read what `write` wrote, memory-mapped. Raises ValueError, which names the folder, if it holds anything else."""
    try:
        encoded = Encoded.of(
            {file.stem: torch.from_numpy(np.load(file, mmap_mode="c")) for file in folder.glob("*.npy")}
        )
        told = safetensors.torch.load_file(folder / TARGETS)
    except Exception as error:  # whatever the bytes of a broken file provoke
        raise UserError(
            f"{folder}: must be a folder of encodings; got {error!r}; delete it to have it made anew"
        ) from error
    parts = zip(*(told[name].split(told["counts"].tolist()) for name in FIELDS), strict=True)
    targets = [
        Target(**dict(zip(FIELDS, own, strict=True)), image_id=int(image_id))
        for own, image_id in zip(parts, told["image_ids"], strict=True)
    ]
    return encoded, targets
