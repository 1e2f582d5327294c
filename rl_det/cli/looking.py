"""`rl-det check` and `rl-det report`: what a data set holds, and what finished runs found."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from rl_det.finetuning.request import DataFlags
from rl_det.program import ProgramFlags


@dataclass(frozen=True, kw_only=True)
class CheckFlags(DataFlags, ProgramFlags):
    """Read a data set once: list all faults of all files, count what it holds, and draw some images with their boxes."""

    path: tyro.conf.Positional[Path]
    """A folder in COCO's, YOLO's or Pascal VOC's layout, or an annotation file."""
    strict: bool = False
    """Count boxes that would be repaired (clipped or dropped) as faults."""
    picture: Path | None = None
    """The picture to write; left out: one beside you, named after the folder."""


def run_check(flags: CheckFlags) -> None:
    """`rl-det check`."""
    from rl_det.finetuning.inspection import inspect  # matplotlib is slow to import
    from rl_det.report.figures import form_of

    picture = flags.picture or Path(f"{flags.path.resolve().stem}-check.png")
    form_of(picture)  # before all is read
    found = inspect(
        flags.path,
        strict=flags.strict,
        limits=flags.limits_of_images,
        keep_difficult=flags.keep_difficult,
        test=flags.test_data,
    )
    print(found.text(flags.path), end="")
    found.draw(picture)
    print(f"the picture is {picture}")
    if not found.is_sound:
        raise SystemExit(1)


@dataclass(frozen=True, kw_only=True)
class ReportFlags(ProgramFlags):
    """Print the table of finished runs: one run's, or several seeds' means with intervals over seeds and test images."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs of the same strategies."""
    picture: Path | None = None
    """A PNG to draw: each row's AP over the control's, with its interval."""
    html: Path | None = None
    """A page to write: one run's, as its own report.html but without the images; or that of several runs side by side."""


def run_report(flags: ReportFlags) -> None:
    """`rl-det report`."""
    from rl_det.finetuning.reporting import report  # matplotlib is slow to import

    print(report(flags.folders, html=flags.html, picture=flags.picture), end="")
    if flags.html is not None:
        print(f"the page is {flags.html}")
