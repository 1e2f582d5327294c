"""A page of tables and pictures as one HTML file that opens offline: no script, and nothing is fetched.

All texts are escaped by the template, as names of classes, files and folders may hold anything, and characters that would
break, turn or hide text are shown as escapes (`rl_det.text.printable`). Only drawings are not: they are SVG that
`rl_det.report.drawings` has made. Names stand in `<bdi>`, and within sentences they come from `rl_det.text.isolated`: one that
runs from right to left leaves its neighbours in place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from rl_det.text import printable

TEMPLATE = "report.html.j2"


@dataclass(frozen=True, kw_only=True)
class Words:
    """A paragraph."""

    kind: ClassVar[str] = "words"
    text: str


@dataclass(frozen=True, kw_only=True)
class Lines:
    """A list of short sentences."""

    kind: ClassVar[str] = "lines"
    lines: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of texts below a header; the first column names the rows. `marks` are words behind the names of some rows."""

    kind: ClassVar[str] = "table"
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    marks: dict[str, str] | None = None
    folded: bool = False
    """Whether the table is shown only when its caption is opened."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """An entry of a drawing's legend: a line of this colour and dash pattern (SVG's `stroke-dasharray`)."""

    name: str
    colour: str
    dashes: str = "none"


class Svg(NamedTuple):
    """The size and the inside of an SVG element, which is not escaped."""

    width: float
    height: float
    body: str


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """An SVG, with what it shows for those who do not see it; `name` is of what is drawn, and begins the caption."""

    svg: Svg
    label: str
    caption: str
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Drawings:
    """Drawings beside each other, with one legend; `small` ones take a quarter of the page's width."""

    kind: ClassVar[str] = "drawings"
    drawings: Sequence[Drawing]
    keys: Sequence[Key] = ()
    small: bool = False


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """An image as a data URI, its size in pixels, and what it shows."""

    uri: str
    width: int
    height: int
    alt: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """The same image before and after: its name, and how it changed."""

    name: str
    title: str
    before: Photograph
    after: Photograph


@dataclass(frozen=True, kw_only=True)
class Photographs:
    """Pairs of images below a heading."""

    kind: ClassVar[str] = "photographs"
    title: str
    pairs: Sequence[SideBySide]


@dataclass(frozen=True, kw_only=True)
class Code:
    """Text to copy; `folded` shows it only when its title is opened."""

    kind: ClassVar[str] = "code"
    title: str
    text: str
    folded: bool = False


Block = Words | Lines | Table | Drawings | Photographs | Code


@dataclass(frozen=True, kw_only=True)
class Section:
    """Blocks of the page below a heading, and one sentence that says what to look at."""

    name: str
    """A word of letters, which the page's contents link to."""
    title: str
    lead: str
    blocks: Sequence[Block]


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page: its title, a sentence below it, and its sections."""

    title: str
    lead: str
    sections: Sequence[Section]


def html(page: Page) -> str:
    """The page as a document of its own."""
    environment = Environment(
        loader=PackageLoader("rl_det.report", package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["printable"] = printable
    return environment.get_template(TEMPLATE).render(page=page)


def _shown(value: object) -> object:
    """What the template writes in place of a value: only what is markup already may hold line breaks."""
    return value if hasattr(value, "__html__") else printable(str(value))
