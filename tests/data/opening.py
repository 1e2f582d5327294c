"""What the tests of layouts share: small files, and what reading a folder of them finds."""

from pathlib import Path
from typing import Any

from PIL import Image

from rl_det.data.check import DataError, Findings
from rl_det.data.folder import Opened, read_folder
from rl_det.types import Sample


def text(path: Path, content: str) -> Path:
    """A text file, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def picture(path: Path, size: tuple[int, int] = (20, 10), grey: int | None = None, **options: Any) -> Path:
    """An image of one colour, which differs by name, as images of two splits are compared."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, sum(map(ord, str(path))) % 256 if grey is None else grey).save(path, **options)
    return path


def read(path: Path, **options: Any) -> tuple[Opened, Findings]:
    """What is read, and what is found."""
    findings = Findings()
    return read_folder(path, findings, **options), findings


def sound(path: Path, layout: str, **options: Any) -> Opened:
    """What is read without a fault, of this layout."""
    opened, findings = read(path, **options)
    assert findings.faults == []
    assert opened.layout == layout
    return opened


def faults(path: Path) -> list[str]:
    """The faults, with paths from the folder."""
    root = path if path.is_dir() else path.parent
    try:
        found = read(path)[1].faults
    except DataError as fault:
        found = [fault]
    return [str(fault).replace(f"{root}/", "") for fault in found]


class OwnSamples:
    """A user's own sequence of samples, without a fingerprint."""

    def __init__(self, classes: tuple[str, ...], samples: list[Sample]) -> None:
        self.classes, self.samples = classes, samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]
