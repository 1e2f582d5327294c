"""Find the files that a data set's lists name, however a program has written the names, and never outside the folder."""

import hashlib
import os
import stat
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from rl_det.data.check import DataError
from rl_det.progress import SHORT_WORK, bar
from rl_det.storage.kept_digests import Stamp, keep, recalled, stamp_of

LARGEST_TEXT = 4 * 2**30
"""The largest file of text that is read, in bytes."""
LARGEST_PART = 2**24
"""The largest file of text that lists the boxes of one image, in bytes."""
MOST_FOLDERS = 100
"""The most folders of an image's name: each is looked for in turn."""
IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".dng", ".gif", ".heic", ".jp2", ".jpeg", ".jpg", ".mpo", ".pgm", ".png", ".pnm", ".ppm", ".tif"}
    | {".tiff", ".webp"}
)
"""What counts as an image in a folder; whether Pillow can read it is seen when it is opened."""


def read_file(path: Path, entry: str = "the file", largest: int = LARGEST_TEXT) -> bytes:
    """The bytes of a regular file; DataError for a larger one and anything else, which could block or never end."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise DataError(path, entry, "must be a regular file; it is a folder, a device or a pipe")
        if found.st_size > largest:
            raise DataError(path, entry, f"must hold at most {largest} bytes; it holds {found.st_size}")
        return path.read_bytes()
    except OSError as fault:
        raise DataError(path, entry, f"cannot be read ({fault.strerror})") from fault
    except ValueError as fault:  # a name with a zero byte
        if isinstance(fault, DataError):
            raise
        raise DataError(path, entry, f"cannot be read ({fault})") from fault


WORTH_KEEPING = 2**27
"""The hashes of so many bytes are kept for later processes. They take 0.2 s where the system has the files in memory
(experiments/benchmarks/README.md), and longer from a disk."""
_digests: dict[Stamp, str] = {}
"""The hashes of the files that this process has read or recalled."""


def digests(files: Sequence[Path]) -> list[str]:
    """A hash of each file's bytes; a file that was read before, and that is not written since, is not read again.

    "Before" is in this process, or, of large data sets, in any that had the same cache folder. Raises DataError, which
    names the first file that cannot be read.
    """
    stamps = [_stamp(file) for file in files]
    unread = {stamp: file for stamp, file in zip(stamps, files, strict=True) if stamp not in _digests}
    if are_many := sum(stamp.size for stamp in unread) >= WORTH_KEEPING:
        _digests.update(recalled(list(unread)))
        unread = {stamp: file for stamp, file in unread.items() if stamp not in _digests}
    found, started = dict[Stamp, str](), time.time_ns()
    with bar("contents of images", len(unread), delay=SHORT_WORK) as shown, ThreadPoolExecutor(os.cpu_count()) as pool:
        for stamp, digest in zip(unread, pool.map(_digest, unread.values()), strict=True):
            found[stamp] = digest
            shown.advance()
    if are_many:
        keep(found, since=started)
    _digests.update(found)
    return [_digests[stamp] for stamp in stamps]


def _stamp(file: Path) -> Stamp:
    try:
        return stamp_of(file)
    except OSError as fault:
        raise DataError(file, "the file", f"cannot be read ({fault.strerror})") from fault


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as fault:
        raise DataError(file, "the file", f"cannot be read ({fault.strerror})") from fault


def images_below(folder: Path) -> list[Path]:
    """The image files in a folder and its subfolders, sorted, without hidden ones; links to folders are not followed."""
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        for name in names:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                files.append(Path(parent, name))
    return sorted(files)


def inside(root: Path, path: Path) -> Path | None:
    """The path with its links followed, as one below `root`; None if there is none or it lies outside."""
    try:
        real, home = path.resolve(strict=True), root.resolve()
    except (OSError, ValueError, RuntimeError):  # nothing there, a zero byte, a loop of links
        return None
    return root / real.relative_to(home) if real.is_relative_to(home) else None


class Finder:
    """Finds images below `root`: under one of the `bases`, with the name as it is, or with less and less of its folders.

    What one name leads to does not depend on the others. `shortened` has, for each number of folders that had to be left
    out, the first name and its file.
    """

    def __init__(self, root: Path, bases: Sequence[Path]) -> None:
        self.root = root
        self.bases = [base for base in dict.fromkeys(bases) if base.is_dir()] or [root]
        self.shortened: dict[int, tuple[str, Path]] = {}
        self._files: dict[Path, frozenset[str]] = {}
        self._of_parent: dict[tuple[str, ...], list[tuple[int, Path]]] = {}
        self._inside = cache(self._resolved_inside)

    @cached_property
    def resolved_root(self) -> Path:
        """The root without links."""
        return self.root.resolve()

    def find(self, name: str, list_file: Path, entry: str) -> Path:
        """The image of this name; DataError, which names the list's entry, if there is none or it lies outside the root."""
        parts, in_list = parts_of(name), entry.removesuffix(f" of {list_file.name}")
        if not parts:
            raise DataError(list_file, in_list, "file_name must name a file; it is empty")
        if len(parts) > MOST_FOLDERS:
            raise DataError(list_file, in_list, f"file_name must have at most {MOST_FOLDERS} folders; got {len(parts)}")
        if ".." in parts:
            raise DataError(list_file, in_list, f"file_name must not leave the data's folder; got {name!r}")
        *parent, file = parts
        for left_out, folder in self._folders(tuple(parent)):
            if file in self._files[folder]:
                found = folder / file
                self.check_inside(found, entry)
                self.shortened.setdefault(left_out, (name, found))
                return found
        wanted = self.bases[0].joinpath(*parts)
        raise DataError(wanted, entry, f"there is no such image file; {self._looked(name)}")

    def _looked(self, name: str) -> str:
        """What was looked for, for a message."""
        if "\0" not in name and Path(name).is_absolute() and Path(name).exists():
            return f"{name!r} lies outside the data's folder, {self.root}, and is not read"
        folders = ", ".join(str(os.path.relpath(base, self.root)) for base in self.bases)
        return f"file names are relative to one of: {folders} (in {self.root})"

    def _folders(self, parent: tuple[str, ...]) -> list[tuple[int, Path]]:
        """The folders that a name with these folders may mean, the likeliest first, and how many of its own each leaves out."""
        if parent not in self._of_parent:
            ways = [
                (left_out, base.joinpath(*parent[left_out:]))
                for left_out in range(len(parent) + 1)
                for base in self.bases
            ]
            self._of_parent[parent] = [(left_out, folder) for left_out, folder in ways if self._listed(folder)]
        return self._of_parent[parent]

    def _listed(self, folder: Path) -> frozenset[str]:
        """The names in a folder; none if there is no such folder."""
        if folder not in self._files:
            try:
                self._files[folder] = frozenset(os.listdir(folder))
            except (OSError, ValueError):  # no such folder, or a name with a zero byte
                self._files[folder] = frozenset()
        return self._files[folder]

    def check_inside(self, path: Path, entry: str) -> None:
        """Raise DataError for a link that leads out of the root."""
        try:
            real = path.resolve() if path.is_symlink() else self._inside(path.parent) / path.name
        except (OSError, RuntimeError) as fault:
            raise DataError(path, entry, f"must be a file; it is a link that leads nowhere ({fault})") from fault
        if not real.is_relative_to(self.resolved_root):
            raise DataError(path, entry, f"must lie in the data's folder, {self.root}; it is a link to {real}")

    def _resolved_inside(self, folder: Path) -> Path:
        return folder.resolve()


def parts_of(name: str) -> list[str]:
    """The folders and the file of a name: of a POSIX or a Windows path, or of a URL (Label Studio's too)."""
    if "://" in name or "/?d=" in name:
        with suppress(ValueError):  # no URL after all
            told = urlsplit(name)
            name = unquote(parse_qs(told.query).get("d", [told.path])[0])
    name = name.replace("\\", "/")
    if len(name) > 1 and name[1] == ":":  # a drive of Windows
        name = name[2:]
    return [part for part in PurePosixPath(name).parts if part not in ("/", "//", ".", "")]
