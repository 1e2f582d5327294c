"""What the files of a data set list, in one form for all layouts; a layout's reader fills it."""

from array import array
from collections.abc import Callable, MutableSequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rl_det.data import Split
from rl_det.data.check import Corners, Findings
from rl_det.data.images import ImageLimits

UNKNOWN_AREA = float("nan")
"""The area of a box whose files give none: it becomes that of the clipped box."""


class ListedImage(NamedTuple):
    """One image; `entry` names it in messages ("image 5 of train.json").

    `size` is the (width, height) of the upright picture that the files give, or None.
    """

    image_id: int
    file: Path
    entry: str
    size: tuple[int, int] | None = None


@dataclass(kw_only=True)
class ListedBoxes:
    """The boxes of all images, column by column: `add` appends one to each."""

    named: Callable[[int], str] = "annotation {}".format
    """How a message names the box with this number."""
    number: MutableSequence[int] = field(default_factory=lambda: array("q"))
    image: MutableSequence[int] = field(default_factory=lambda: array("q"))
    """The position of the image in `Listing.images`."""
    category_id: MutableSequence[int] = field(default_factory=lambda: array("q"))
    corners: MutableSequence[float] = field(default_factory=lambda: array("d"))
    """Four numbers a box: xyxy in pixels, not clipped."""
    area: MutableSequence[float] = field(default_factory=lambda: array("d"))
    iscrowd: MutableSequence[int] = field(default_factory=lambda: array("b"))

    def add(
        self,
        number: int,
        image: int,
        category_id: int,
        corners: Corners,
        *,
        area: float = UNKNOWN_AREA,
        iscrowd: bool = False,
    ) -> None:
        """Append one box."""
        self.number.append(number)
        self.image.append(image)
        self.category_id.append(category_id)
        self.corners.extend(corners)
        self.area.append(area)
        self.iscrowd.append(iscrowd)

    def __len__(self) -> int:
        return len(self.number)


@dataclass(kw_only=True)
class Listing:
    """One split as its files list it.

    `categories` maps each id to its name. No image may lie outside `root`.
    """

    path: Path
    """The file or folder that lists the split; messages name it."""
    root: Path
    images: list[ListedImage]
    categories: dict[int, str]
    boxes: ListedBoxes
    root_categories: frozenset[int] = frozenset()
    """Categories that are the supercategory of others."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How files are read."""

    findings: Findings
    keep_difficult: bool = False
    """Whether Pascal VOC's difficult objects count like others; else detections of them count neither way."""
    limits: ImageLimits = field(default_factory=ImageLimits)
    """For readers that need an image's size."""


Reader = Callable[[Path, Reading], "dict[Split, Listing] | None"]
"""(folder or file, reading) -> the splits that its files list, or None where the files are of another layout.

Faults of single entries are added to the findings, and the entry is left out. Raises DataError for a file that cannot be
read at all.
"""
