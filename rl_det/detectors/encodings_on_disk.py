"""Write encodings and targets to a folder, and read them back as memory-mapped tensors, if every byte is as it was written.

The folder holds one numpy file for each tensor of `Encoded`, the targets in safetensors, and `contents.json`: what the
encodings are of, and each file's checksum. It is written whole or not at all.
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from rl_det.errors import PathError, UserError
from rl_det.storage.checksums import checksum, read_sealed, write_sealed
from rl_det.storage.files import reserve
from rl_det.storage.memory import returns_pages
from rl_det.types import Encoded, Target, concatenate

CONTENTS = "contents.json"
TARGETS = "targets.safetensors"
FIELDS = ("boxes", "labels", "area", "iscrowd")


class KeptError(UserError):
    """Kept encodings that cannot be used; `what` is wrong with them, without what to do about it."""

    def __init__(self, what: str, advice: str = "delete it to have it made anew") -> None:
        super().__init__(f"{what}; {advice}")
        self.what = what


def write(
    folder: Path,
    parts: Iterator[Encoded],
    targets: list[Target],
    num_images: int,
    about: Mapping[str, Any],
    *,
    replace: bool = False,
) -> None:
    """Write a new folder; `targets` must be complete once `parts` is exhausted.

    `about` says what the encodings are of, in JSON's types. A folder that is there by then stays; with `replace`, only if
    it holds the same, as another process may have written it. Raises OSError, which names the folder, if it cannot be
    written; then nothing is left behind, and a former folder is untouched.
    """
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}")

    def on_disk(name: str, like: Tensor) -> Tensor:
        shape, file = (num_images, *like.shape[1:]), beside / f"{name}.npy"
        array = np.lib.format.open_memmap(file, "w+", dtype=like.numpy().dtype, shape=shape)
        reserve(file)
        return torch.from_numpy(returns_pages(array))

    try:
        beside.mkdir(parents=True)
        concatenate(parts, num_images, empty=on_disk)
        counts = torch.tensor([len(target.labels) for target in targets])
        ids = torch.tensor([target.image_id for target in targets])
        joined = {name: torch.cat([getattr(target, name).cpu() for target in targets]) for name in FIELDS}
        safetensors.torch.save_file({**joined, "counts": counts, "image_ids": ids}, beside / TARGETS)
        checksums = {file.name: checksum(file) for file in sorted(beside.iterdir())}
        write_sealed(beside / CONTENTS, {**about, "checksums": checksums})
        if replace:
            _move_away(folder, beside)
        _put(beside, folder)
    except (OSError, safetensors.SafetensorError) as error:
        raise PathError(f"{folder}: the encodings could not be written; got {error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def read_contents(folder: Path) -> dict[str, Any]:
    """What the folder says of itself. Raises KeptError, which names the file, if it cannot be read."""
    file = folder / CONTENTS
    try:
        return read_sealed(file, "the contents of a folder of encodings", demanded=True)
    except UserError as error:
        raise KeptError(
            f"{folder}: must be a folder of encodings; {CONTENTS} is missing or damaged ({error})"
        ) from error


def read(folder: Path) -> tuple[Encoded, list[Target]]:
    """Read what `write` wrote, memory-mapped, after checking all bytes; KeptError names a file of which one has changed."""
    checksums = read_contents(folder)["checksums"]
    for name, wanted in checksums.items():
        _check_file(folder, name, wanted)
    try:
        encoded = Encoded.of(
            {
                Path(name).stem: torch.from_numpy(returns_pages(np.load(folder / name, mmap_mode="c")))
                for name in checksums
                if name != TARGETS
            }
        )
        told = safetensors.torch.load_file(folder / TARGETS)
    except Exception as error:  # changed since it was checked
        raise KeptError(f"{folder}: must be a folder of encodings; got {error!r}") from error
    parts = zip(*(told[name].split(told["counts"].tolist()) for name in FIELDS), strict=True)
    targets = [
        Target(**dict(zip(FIELDS, own, strict=True)), image_id=int(image_id))
        for own, image_id in zip(parts, told["image_ids"], strict=True)
    ]
    return encoded, targets


def _check_file(folder: Path, name: str, wanted: str) -> None:
    """Raise KeptError, which names the file, unless its bytes have this checksum."""
    try:
        found = checksum(folder / name)
    except OSError as error:
        raise KeptError(f"{folder}: must be a folder of encodings; {name} cannot be read ({error.strerror})") from error
    if found != wanted:
        raise KeptError(f"{folder}: must be a folder of encodings; {name} is damaged: its bytes have changed")


def _put(beside: Path, folder: Path) -> None:
    """Move the new folder to its place, unless there is one, which is checked when it is read."""
    try:
        beside.replace(folder)
    except OSError:
        if not folder.exists():
            raise


def _move_away(folder: Path, beside: Path) -> None:
    """Remove the former folder, unless it holds what the new one holds."""
    if not _same(beside, folder):
        former = beside.with_name(f"{beside.name}.former")
        with contextlib.suppress(FileNotFoundError):  # another process has removed it
            folder.replace(former)
        if former.is_symlink() or former.is_file():
            former.unlink(missing_ok=True)
        shutil.rmtree(former, ignore_errors=True)


def _same(ours: Path, theirs: Path) -> bool:
    """Whether the other folder is whole, and of the same."""
    try:
        read(theirs)
        told = [{**read_contents(folder), "checksums": None} for folder in (ours, theirs)]
    except KeptError:
        return False
    return told[0] == told[1]
