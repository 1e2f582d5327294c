"""The results of a run: a row for the warm start, the control and each strategy."""

import math
import operator
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.lib import format as npy

from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.detectors.card import MODEL_CARD
from rl_det.errors import UserError
from rl_det.finetuning.tuned import Tuned
from rl_det.report.bootstrap import Interval
from rl_det.report.tables import TABLE_FIGURES, endings_text, table_text
from rl_det.storage.checksums import checksum, read_sealed
from rl_det.storage.files import write_with
from rl_det.storage.run import CHECKSUMS, COMPARISON, DETECTIONS, PAGE, RESULTS, TRUTHS
from rl_det.training.loop import Ending

MOST_COMPRESSED = 1032
"""DEFLATE makes nothing smaller than by this factor; an archive that claims so would only fill the memory."""
KINDS = {"labels": "i", "mask": "b", "iscrowd": "b"}
"""numpy's kind of each array's numbers; all others are floats."""
TABLED = tuple(name for name in TABLE_FIGURES if name not in ("F1", "F1_by_class"))
"""The figures of the table that each row of `results.json` must have."""
Batch = TypeVar("Batch", DetectionBatch, TruthBatch)


@dataclass(frozen=True, kw_only=True)
class DisplayedF1:
    """F1 on the test split at IoU 0.5, all classes together, where the score thresholds are those best on validation."""

    threshold: float
    """One threshold for all classes; detections from it on are displayed."""
    f1: float
    class_thresholds: tuple[float, ...]
    """A threshold of its own for each label 1..C, of that class's best F1."""
    f1_by_class_thresholds: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """The results of one strategy or baseline on the test split."""

    name: str
    figures: dict[str, float]
    """pycocotools' twelve figures, and at IoU 0.5 F1, calibration and more, by the names of
    `rl_det.metrics.evaluation`; in [0, 1]."""
    seconds: float
    """The seconds of tuning, after the warm start, and without encoding images, which all strategies share."""
    ending: Ending
    """Why tuning ended."""
    displayed: DisplayedF1
    """The score thresholds that are best on validation, which is what a user would set, and F1 there."""
    validation_ap: float
    """The validation AP, by which `Results.best` is selected."""
    class_ap: dict[str, float]
    """COCO's AP of each class; NaN for a class without true boxes in the test split."""
    ap: Interval
    """AP with its 95 % interval over redrawn test images."""
    over_control: Interval
    """AP minus the control's on the same images, with its interval."""
    over_fitted_control: Interval | None = None
    """AP minus that of the control with fitted post-processing, with its interval; None in a run without such a row."""
    tuned: Tuned | None = field(default=None, compare=False)
    """The detector itself; None in results that were read from a file."""
    exported: Path | None = field(default=None, compare=False)
    """The folder to which the run exported the detector, in results that were read from a file."""

    def export(self, folder: str | Path) -> Path:
        """Write the detector for `load_tuned`; return the folder.

        For results that were read from a file, this copies the run's exported folder. The run exports its strategies,
        the control and the best row. Raises ValueError for any other row of such results.
        """
        if self.tuned is not None:
            return self.tuned.export(folder)
        if self.exported is None or not (self.exported / MODEL_CARD).is_file():
            raise UserError(f"{self.name}: the run has not kept this row's detector; export it where the run is made")
        return Path(shutil.copytree(self.exported, folder, dirs_exist_ok=True))


@dataclass(frozen=True, kw_only=True)
class Results:
    """The rows of a run, and the facts about the run."""

    rows: dict[str, Row]
    control: str
    """The name of the row with which the others are compared."""
    facts: dict[str, Any]
    """The data, the detector, the seed, the budget, and the settings of each strategy."""
    folder: Path
    """The run's folder."""
    checksums: dict[str, str] = field(default_factory=dict, compare=False)
    """Of the files beside `results.json` that a report reads; empty where the run is made, and in older runs."""

    @property
    def methods(self) -> dict[str, dict[str, float]]:
        """The figures of each row, by the row's name."""
        return {name: row.figures for name, row in self.rows.items()}

    @property
    def best(self) -> Row:
        """The row with the highest validation AP; the test split plays no part."""
        return max(
            self.rows.values(), key=lambda row: -math.inf if math.isnan(row.validation_ap) else row.validation_ap
        )

    def table(self) -> str:
        """The rows as text: pycocotools' figures on the test split, times 100, and the reason of each early end."""
        return table_text([self.to_json()]) + endings_text({name: row.ending for name, row in self.rows.items()})

    def to_json(self) -> dict[str, Any]:
        """The contents of `results.json`."""
        return {
            **self.facts,
            "control": self.control,
            "best_on_validation": self.best.name,
            "seconds": {name: round(row.seconds, 1) for name, row in self.rows.items()},
            "endings": {name: asdict(row.ending) for name, row in self.rows.items()},
            "validation_AP": {name: row.validation_ap for name, row in self.rows.items()},
            "class_AP": {name: row.class_ap for name, row in self.rows.items()},
            "F1_at_validations_threshold": {name: row.displayed.f1 for name, row in self.rows.items()},
            "F1_at_class_thresholds": {name: row.displayed.f1_by_class_thresholds for name, row in self.rows.items()},
            "thresholds": {name: row.displayed.threshold for name, row in self.rows.items()},
            "class_thresholds": {name: row.displayed.class_thresholds for name, row in self.rows.items()},
            "intervals": {
                name: {
                    key: asdict(own)
                    for key, own in (
                        ("AP", row.ap),
                        ("over_control", row.over_control),
                        ("over_fitted_control", row.over_fitted_control),
                    )
                    if own is not None
                }
                for name, row in self.rows.items()
            },
            "methods": self.methods,
        }


def write_detections(folder: Path, name: str, found: DetectionBatch) -> Path:
    """Write a row's detections on the test split, in numpy's own format."""
    file = folder / DETECTIONS / f"{name}.npz"
    file.parent.mkdir(exist_ok=True)
    _write_arrays(file, found)
    return file


def write_truths(folder: Path, truths: TruthBatch) -> None:
    """Write the test split's true boxes, on which all rows are measured."""
    _write_arrays(folder / TRUTHS, truths)


def read_truths(folder: Path) -> TruthBatch:
    """Read what `write_truths` wrote to a run's folder; UserError, which names the file, if it is damaged."""
    return _read_arrays(folder / TRUTHS, TruthBatch)


def _write_arrays(file: Path, batch: DetectionBatch | TruthBatch) -> None:
    def save(beside: Path) -> None:
        with beside.open("wb") as opened:  # numpy would add a suffix to the name of a file that is not open
            np.savez_compressed(opened, **vars(batch))

    write_with(file, save)


def read_detections(folder: Path, name: str) -> DetectionBatch:
    """Read what `write_detections` wrote to a run's folder; UserError, which names the file, if it is damaged."""
    return _read_arrays(folder / DETECTIONS / f"{name}.npz", DetectionBatch)


def _read_arrays(file: Path, kind: type[Batch]) -> Batch:
    """The arrays of a file; no code in it is executed, and no memory is taken that its bytes do not need."""
    try:
        with zipfile.ZipFile(file) as archive:
            batch = kind(**{Path(info.filename).stem: _array(archive, info) for info in archive.infolist()})
        shape: tuple[int, ...] = batch.mask.shape
        for name, values in vars(batch).items():
            if values.shape != ((*shape, 4) if name == "boxes" else shape) or values.dtype.kind != KINDS.get(name, "f"):
                raise UserError(f"{name} is {values.dtype} {values.shape}")
    except Exception as error:  # whatever the bytes of a broken file provoke
        raise UserError(f"{file}: must be what a run has written; it is damaged ({type(error).__name__})") from error
    return batch


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """One array of an archive; UserError if it claims to be larger than its bytes can be."""
    with archive.open(info) as opened:
        read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[npy.read_magic(opened)]
        shape, _, dtype = read_header(opened)
        size = opened.tell() + math.prod(shape) * dtype.itemsize
    if size != info.file_size or size > MOST_COMPRESSED * info.compress_size:
        raise UserError(f"{info.filename} claims {size} bytes")
    with archive.open(info) as opened:
        return npy.read_array(opened, allow_pickle=False)


def load_results(folder: str | Path) -> Results:
    """The results in a run's folder, without the detectors. Raises ValueError, which names the file, if there are none."""
    file, what = Path(folder) / RESULTS, "the results of a run of rl_det that has ended"
    if not file.exists() and (Path(folder) / COMPARISON).exists():
        raise UserError(
            f"{folder}: must be a run's folder; it is a comparison's, whose table is comparison.md and whose page is "
            f"{PAGE}; its runs are the folders in it"
        )
    told = read_sealed(file, what)
    try:
        return _of_json(told, Path(folder))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{file}: must be {what}; got {error!r}") from error


def check_files(results: Results) -> None:
    """Raise ValueError, which names the file, if one that a report reads beside `results.json` has changed since.

    Runs of older versions have not kept the checksums of their files.
    """
    for name, wanted in results.checksums.items():
        file = results.folder / name
        try:
            is_same = checksum(file) == wanted
        except OSError as error:
            raise UserError(f"{file}: must be what the run has written; got {error}") from error
        if not is_same:
            raise UserError(
                f"{file}: must be what the run has written; it is damaged: its bytes have changed since {RESULTS} was written"
            )


def _of_json(told: Mapping[str, Any], folder: Path) -> Results:
    rows = {
        name: Row(
            name=name,
            figures=_numbers(figures),
            seconds=_number(told["seconds"][name]),
            ending=Ending.of(told["endings"][name]),
            displayed=_displayed(told, name),
            validation_ap=_number(told["validation_AP"][name]),
            class_ap=_numbers(told["class_AP"][name]),
            ap=Interval(**_numbers(told["intervals"][name]["AP"])),
            over_control=Interval(**_numbers(told["intervals"][name]["over_control"])),
            over_fitted_control=(
                Interval(**_numbers(told["intervals"][name]["over_fitted_control"]))
                if "over_fitted_control" in told["intervals"][name]
                else None
            ),
            exported=folder / name,
        )
        for name, figures in told["methods"].items()
    }
    for name, kind in {"seed": int, "data": str, "detector": str, "budget": dict}.items():
        if not isinstance(told[name], kind):
            raise UserError(f"{name} is {told[name]!r}")
    rows[told["control"]]  # KeyError if the control is no row, and below if a row lacks a figure of the table
    for row in rows.values():
        operator.itemgetter(*TABLED)(row.figures)
    of_rows = {"control", "best_on_validation", "seconds", "endings", "validation_AP", "intervals",
               "F1_at_validations_threshold", "F1_at_class_thresholds", "thresholds", "class_thresholds", "methods",
               "class_AP", CHECKSUMS}  # fmt: skip
    facts = {name: value for name, value in told.items() if name not in of_rows}
    checksums = {str(name): str(value) for name, value in told.get(CHECKSUMS, {}).items()}
    return Results(rows=rows, control=told["control"], facts=facts, folder=folder, checksums=checksums)


def _displayed(told: Mapping[str, Any], name: str) -> DisplayedF1:
    """What an older run has not written is NaN, or empty."""
    return DisplayedF1(
        threshold=_number(told.get("thresholds", {}).get(name)),
        f1=_number(told["F1_at_validations_threshold"][name]),
        class_thresholds=tuple(map(_number, told.get("class_thresholds", {}).get(name, ()))),
        f1_by_class_thresholds=_number(told.get("F1_at_class_thresholds", {}).get(name)),
    )


def _numbers(figures: Mapping[str, float | None]) -> dict[str, float]:
    """The figures with NaN for JSON's null."""
    return {name: _number(value) for name, value in figures.items()}


def _number(value: float | None) -> float:
    """The number, or NaN for JSON's null; UserError for anything else."""
    if value is None:
        return math.nan
    if not isinstance(value, Real) or isinstance(value, bool):
        raise UserError(f"{value!r} is no number")
    return float(value)
