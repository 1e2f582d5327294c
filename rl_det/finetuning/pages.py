"""The pages of a run's folder beside its table, each drawn by a function of `rl_det.report`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.data import Dataset
from rl_det.finetuning.results import Results
from rl_det.progress import tell
from rl_det.report.precision_recall import Curves, log_curves
from rl_det.storage.files import write_whole
from rl_det.storage.run import DETECTIONS, PAGE, Run


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A finished run, as its pages see it."""

    results: Results
    curves: Mapping[str, Curves]
    """Each row's precision-recall curves on the test split."""
    detections: Mapping[str, DetectionBatch]
    """Each row's detections on the test split."""
    truths: TruthBatch
    """The test split's true boxes."""
    test: Dataset
    """The test split itself, with its images."""
    run: Run
    """The open run folder."""


def precision_recall(finished: FinishedRun) -> None:
    """Write each row's precision-recall curves to the metrics, and draw them in a file beside its detections."""
    from rl_det.report.precision_recall_picture import draw_curves  # matplotlib is slow to import

    for name, curves in finished.curves.items():
        log_curves(finished.run, finished.results.rows[name].ending.update, f"{name}_test", curves)
        draw_curves(curves, finished.run.folder / DETECTIONS / f"{name}.png", f"{name}, test split")


def report(finished: FinishedRun) -> None:
    """Write the page that explains the run."""
    from rl_det.finetuning.run_page import run_page  # matplotlib is slow to import

    page = run_page(finished.results, finished.detections, finished.truths, finished.test)
    write_whole(finished.run.folder / PAGE, page)


PAGES: dict[str, Callable[[FinishedRun], None]] = {"precision_recall": precision_recall, "report": report}
"""The pages made at the end of each run. A new page is one function in `rl_det.report` and one line here."""


def make_pages(finished: FinishedRun) -> None:
    """Make all pages; one that fails is told of, and costs a run of hours nothing else."""
    for name, page in PAGES.items():
        try:
            page(finished)
        except Exception as error:
            what = " ".join(f"{type(error).__name__}: {error}".split())
            tell(f"warning: the page {name!r} could not be made ({what}); all else is whole")
