"""Find images that are the same, by their bytes."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

from rl_det.data import Split
from rl_det.data.annotated import AnnotatedImages

HEAD = 65536
Key = tuple[object, ...]


def images_in_both(splits: Mapping[Split, AnnotatedImages]) -> Iterator[tuple[Split, Split, int]]:
    """Each two splits that share images, and how many images of the second are in the first.

    Only files whose size is that of a file of another split are read: the first 64 KiB of each, and all of it where these
    agree with another's.
    """
    keys: dict[Split, list[tuple[Path, Key]]] = {
        split: [(own.file, (own.file.stat().st_size,)) for own in images.images] for split, images in splits.items()
    }
    for length in (HEAD, -1):
        shared = _shared(keys)
        keys = {
            split: [(file, (*key, _digest(file, length))) for file, key in own if key in shared]
            for split, own in keys.items()
        }
    for one, other in combinations(splits, 2):
        there = {key for _, key in keys[one]}
        if count := sum(key in there for _, key in keys[other]):
            yield one, other, count


def keys_of(files: Sequence[Path]) -> list[Key]:
    """A key of each file; two of these files have the same key only if their bytes are the same.

    Only files whose size another one has are read: the first 64 KiB of each, and all of it where these agree with another's.
    """
    keys: list[Key] = [(file.stat().st_size,) for file in files]
    for length in (HEAD, -1):
        count = Counter(keys)
        keys = [(*key, _digest(file, length)) if count[key] > 1 else key for file, key in zip(files, keys, strict=True)]
    return keys


def _shared(keys: Mapping[Split, list[tuple[Path, Key]]]) -> set[Key]:
    """The keys that are in two splits at least."""
    each = [{key for _, key in own} for own in keys.values()]
    return {key for one, other in combinations(each, 2) for key in one & other}


def _digest(file: Path, length: int) -> bytes:
    with file.open("rb") as opened:
        return hashlib.blake2b(opened.read(length), digest_size=16).digest()
