"""Find images that are in two splits, by their bytes."""

import hashlib
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path

from rl_det.data import Split
from rl_det.data.annotated import AnnotatedImages

HEAD = 65536


def images_in_both(splits: Mapping[Split, AnnotatedImages]) -> Iterator[tuple[Split, Split, int]]:
    """Each two splits that share images, and how many images of the second are in the first.

    Only files of one size are read, and of these the first 64 KiB; all of them where these agree.
    """
    by_size = {
        split: [(own.file, own.file.stat().st_size) for own in images.images] for split, images in splits.items()
    }
    heads: dict[Path, bytes] = {}
    for one, other in combinations(splits, 2):
        sizes: dict[int, list[Path]] = {}
        for file, size in by_size[one]:
            sizes.setdefault(size, []).append(file)
        count = sum(any(_same(file, twin, heads) for twin in sizes.get(size, ())) for file, size in by_size[other])
        if count:
            yield one, other, count


def _same(one: Path, other: Path, heads: dict[Path, bytes]) -> bool:
    if one == other:
        return True
    for file in (one, other):
        if file not in heads:
            with file.open("rb") as opened:
                heads[file] = hashlib.blake2b(opened.read(HEAD)).digest()
    return heads[one] == heads[other] and (one.stat().st_size <= HEAD or one.read_bytes() == other.read_bytes())
