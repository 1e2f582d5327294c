"""`report.html`: the page that explains a run, made at its end or again from its folder, and the page of a comparison."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.data import Dataset
from rl_det.data.annotated import AnnotatedImages
from rl_det.errors import UserError
from rl_det.finetuning.plan import FITTED
from rl_det.finetuning.results import Results, check_files, read_detections, read_truths
from rl_det.progress import tell
from rl_det.report.comparison import comparison_rows, ending_lines, folds_text
from rl_det.report.drawings import intervals_drawing, keys_of, lines_drawing
from rl_det.report.html import (
    Block,
    Code,
    Drawing,
    Drawings,
    Lines,
    Page,
    Photograph,
    Photographs,
    Section,
    SideBySide,
    Table,
    Words,
)
from rl_det.report.html import html as html_of
from rl_det.report.photographs import photograph
from rl_det.report.pictures import shown
from rl_det.report.sections import (
    Contrast,
    calibration_section,
    changed_images,
    changes_section,
    configuration_section,
    curves_section,
    gain_section,
    points,
    recall_section,
    times_100,
)
from rl_det.report.tables import DIFFERENCES, endings_text, table_rows
from rl_det.storage.files import as_json
from rl_det.storage.run import CONFIG, RESULTS, TRUTHS, read_config, read_metrics
from rl_det.strategies.hand_set import WARM_START
from rl_det.strategies.labels import CONTROL
from rl_det.text import isolated
from rl_det.types import Detections

NUM_IMAGES = 3
"""So many images that gained, and as many that lost, are drawn."""
USUAL_THRESHOLD = 0.5
"""Pictures show detections from this score on if the run has not written the row's own threshold."""


def run_page(
    results: Results, detections: Mapping[str, DetectionBatch], truths: TruthBatch | None, test: Dataset | None
) -> str:
    """The page of one run, as HTML. `truths` are None in a run of an older version; without `test`, no images are drawn."""
    folder, best = results.folder, results.best
    config = read_config(folder)
    sections = [_table(results), curves_section(read_metrics(folder, tell), list(results.rows))]
    if truths is None:
        told = "This run is of an older version, which has not kept the true boxes; run it again for what is drawn from them."
        sections.append(Section(name="gain", title="Where the gain comes from", lead=told, blocks=[]))
    else:
        sections += _contrasts(results, detections, truths, test, _classes(config, folder))
    sections.append(_configuration(config, results))
    lead = [f"{isolated(best.name)} is best on validation: AP x 100 {times_100(best.figures['AP'])} on test"]
    for name, gain in ((results.control, best.over_control), (CONTROL + FITTED, best.over_fitted_control)):
        if gain is not None and best.name != name:
            lead.append(
                f"{times_100(gain.value, '+')} over {isolated(name)} "
                f"(95 % from {times_100(gain.low, '+')} to {times_100(gain.high, '+')} over test images)"
            )
    title = f"{isolated(str(results.facts['data']))}: {isolated(str(results.facts['detector']))}, seed {results.facts['seed']}"
    return html_of(Page(title=title, lead=", ".join(lead) + ".", sections=sections))


def page_of_folder(results: Results) -> str:
    """The page of a finished run, from its folder; the run's own page has the images."""
    check_files(results)
    kept = (results.folder / TRUTHS).exists()
    detections = {name: read_detections(results.folder, name) for name in results.rows} if kept else {}
    return run_page(results, detections, read_truths(results.folder) if kept else None, None)


def page_of_seeds(compared: dict[str, Any], folders: Sequence[Path]) -> str:
    """The page of runs of several seeds, as `rl_det.finetuning.compared.compared_seeds` has joined them."""
    by_seed: dict[str, list[Path]] = {}
    for seed, folder in zip(compared["seeds"], folders, strict=True):
        by_seed.setdefault(str(seed), []).append(folder)
    return comparison_page(compared, dict.fromkeys(compared["methods"], by_seed))


def comparison_page(compared: dict[str, Any], folders: Mapping[str, Mapping[str, Sequence[Path]]]) -> str:
    """The page of several seeds, and folds: table, gains and curves. `folders` are each row's runs, by their seed's name."""
    header, *rows = comparison_rows(compared)
    seeds = ", ".join(map(str, compared["seeds"]))
    caption = f"Test split, x 100: means over seeds {seeds}; in brackets 95 % intervals over seeds and test images"
    blocks: list[Block] = [Table(caption=caption, header=header, rows=rows)]
    if "folds" in compared:
        blocks.append(Words(text=folds_text(compared)))
    if told := ending_lines(compared):
        blocks.append(Lines(lines=told))
    sections = [
        Section(
            name="table",
            title="Results",
            lead="Look at the AP over the control, and whether its interval holds 0.",
            blocks=blocks,
        ),
        _gains(compared),
        _curves_of_seeds(compared, folders),
    ]
    facts = {key: value for key, value in compared.items() if key not in ("methods", "runs")}
    runs = dict.fromkeys(str(one) for of_row in folders.values() for own in of_row.values() for one in own)
    sections.append(
        Section(
            name="configuration",
            title="Configuration and runs",
            lead="Look into a run's folder for its own page, with its configuration and the command that makes it again.",
            blocks=[
                Code(title="The folders of the runs", text="\n".join(runs)),
                Code(title="What the runs share", text=as_json(facts), folded=True),
            ],
        )
    )
    title = f"{isolated(Path(compared['data']).name)}: {isolated(compared['detector'])}, seeds {seeds}"
    return html_of(Page(title=title, lead=f"{compared['images']['test']} test images.", sections=sections))


def _table(results: Results) -> Section:
    """The table of a run as in the terminal, with the validation AP, by which the best row is chosen."""
    header, *rows = table_rows([results.to_json()])
    full = [[*row, times_100(results.rows[row[0]].validation_ap)] for row in rows]
    endings = endings_text({isolated(name): row.ending for name, row in results.rows.items()}).splitlines()
    notes = [str(note) for note in results.facts.get("data_notes", [])]
    caption = "Test split, x 100; in brackets 95 % intervals over redrawn test images"
    table = Table(caption=caption, header=[*header, "validation AP"], rows=full,
                  marks={results.best.name: "best on validation"})  # fmt: skip
    lead = "Look at AP over the control, and whether its interval holds 0. The marked row is chosen by validation."
    lines = [Lines(lines=told) for told in (endings, notes) if told]
    return Section(name="table", title="Results", lead=lead, blocks=[table, *lines])


def _contrasts(
    results: Results,
    detections: Mapping[str, DetectionBatch],
    truths: TruthBatch,
    test: Dataset | None,
    classes: tuple[str, ...],
) -> list[Section]:
    """What is drawn from the detections of two rows; one sentence where all is one row."""
    best = results.best.name
    start = WARM_START if WARM_START in results.rows else results.control

    def between(before: str) -> Contrast:
        return Contrast(before_name=before, after_name=best, before=detections[before], after=detections[best],
                        truths=truths, classes=classes)  # fmt: skip

    reference = results.control if results.control != best else start
    if start == best and reference == best:
        told = f"The best row, {isolated(best)}, has no row to be compared with: it is where this run starts."
        return [Section(name="gain", title="Where the gain comes from", lead=told, blocks=[])]
    sections = [gain_section(between(reference))]
    if start == best:
        return sections
    contrast = between(start)
    images = _images(contrast, results, test)
    return [*sections, recall_section(contrast), calibration_section(contrast), images, changes_section(contrast)]


def _images(contrast: Contrast, results: Results, test: Dataset | None) -> Section:
    """The images that gained and lost most, side by side."""
    name, title = "images", "Images that gained and lost most"
    gained, lost = changed_images(contrast, NUM_IMAGES)
    lead = (
        "Chosen by the change of each image's exact AP. Look at what changed: right boxes are green and solid, wrong ones red "
        "and dashed, missed objects white and dotted."
    )
    if test is None:
        listed = [
            f"test image {place}: AP x 100 {times_100(one)} to {times_100(other)}"
            for place, one, other in gained + lost
        ]
        told = "The images are drawn in the run's own report.html; this page is made from the folder, without the data."
        return Section(name=name, title=title, lead=told, blocks=[Lines(lines=listed)])
    blocks: list[Block] = []
    for what, rows in (("Gained", gained), ("Lost", lost)):
        pairs = [_pair(contrast, results, test, *row) for row in rows]
        blocks.append(Photographs(title=what, pairs=pairs) if pairs else Words(text=f"{what}: no image."))
    return Section(name=name, title=title, lead=lead, blocks=blocks)


def _pair(contrast: Contrast, results: Results, test: Dataset, place: int, before: float, after: float) -> SideBySide:
    """One image with the detections of both rows."""
    sample = test[place]
    own = test.images[place].file.name if isinstance(test, AnnotatedImages) else f"test image {place}"

    def drawn(when: str, row: str, found: DetectionBatch) -> Photograph:
        threshold = results.rows[row].displayed.threshold
        threshold = USUAL_THRESHOLD if np.isnan(threshold) else threshold
        outcome = shown(sample.target, _unpadded(found, place), len(contrast.classes), threshold)
        return photograph(
            sample.image,
            sample.target,
            outcome,
            contrast.classes,
            f"{when}, {isolated(row)}, scores from {threshold:.2f}",
        )

    title = f"AP x 100 {times_100(before)} to {times_100(after)}"
    pictures = [drawn(*given) for given in zip(("Before", "After"), contrast.names, contrast.both, strict=True)]
    return SideBySide(name=own, title=title, before=pictures[0], after=pictures[1])


def _unpadded(found: DetectionBatch, place: int) -> Detections:
    """One image's detections as tensors."""
    own = found.mask[place]
    boxes, labels, scores = (torch.as_tensor(part[place][own]) for part in (found.boxes, found.labels, found.scores))
    return Detections(boxes=boxes, labels=labels, scores=scores)


def _classes(config: Mapping[str, Any], folder: Path) -> tuple[str, ...]:
    """The classes of the run's data."""
    data = config["run"].get("data")
    classes = data.get("classes") if isinstance(data, dict) else None
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise UserError(f"{folder / CONFIG}: must be a run's configuration; it does not name the data's classes")
    return tuple(classes)


def _configuration(config: Mapping[str, Any], results: Results) -> Section:
    """The command, and what the folder holds of configuration and circumstances."""
    circumstances = dict(config.get("circumstances", {}))
    command = str(circumstances.pop("command", "it was not written"))
    return configuration_section(
        command,
        {
            "Configuration (config.json)": as_json(config["run"]),
            "Versions and machine": as_json(circumstances),
            f"All figures of all rows ({RESULTS})": as_json(results.methods),
        },
    )


def _gains(compared: dict[str, Any]) -> Section:
    """Each row's AP over the control, the best on top."""
    drawings = []
    for key, what in DIFFERENCES.items():
        own = {name: method[key] for name, method in compared["methods"].items() if key in method}
        ranked = sorted(own.items(), key=lambda item: -item[1]["value"])
        intervals = {name: tuple(100 * figure[part] for part in ("value", "low", "high")) for name, figure in ranked}
        if not intervals:
            continue
        told = "; ".join(
            f"{isolated(name)} {value:+.2f} ({low:+.2f} to {high:+.2f})"
            for name, (value, low, high) in intervals.items()
        )
        svg = intervals_drawing(intervals, x_label=f"{what}, x 100")
        drawings.append(Drawing(svg=svg, label=f"{what}, x 100, with 95 % intervals: {told}", caption=f"{what}, x 100"))
    lead = "Look for intervals that lie to the right of 0: they hold 95 % of the values over redrawn seeds and test images."
    return Section(name="gains", title="Gains with intervals", lead=lead, blocks=[Drawings(drawings=drawings)])


def _curves_of_seeds(compared: dict[str, Any], folders: Mapping[str, Mapping[str, Sequence[Path]]]) -> Section:
    """Each trained row's validation AP by updates, a line for each run."""
    lines = {folder: read_metrics(folder, tell) for of in folders.values() for own in of.values() for folder in own}
    keys = dict(zip(map(str, compared["seeds"]), keys_of([f"seed {seed}" for seed in compared["seeds"]]), strict=True))
    drawings = []
    for row, of_seeds in folders.items():
        drawn = [
            (keys[seed], *points(lines[folder], row, "val_AP")) for seed, own in of_seeds.items() for folder in own
        ]
        drawn = [(key, x, [100 * value for value in y]) for key, x, y in drawn if x]
        if drawn:
            told = "; ".join(f"{key.name} from {y[0]:.2f} to {y[-1]:.2f}" for key, _, y in drawn)
            svg = lines_drawing(drawn, x_label="updates", y_label="validation AP x 100")
            drawings.append(
                Drawing(
                    svg=svg, label=f"{isolated(row)}, validation AP x 100 by updates: {told}", caption=isolated(row)
                )
            )
    lead = "Look whether all seeds rise, and whether they still rise at the end."
    blocks: list[Block] = [Words(text="No row was trained.")]
    if drawings:
        blocks = [Drawings(drawings=drawings, keys=list(keys.values()))]
    return Section(name="curves", title="Learning curves of each seed", lead=lead, blocks=blocks)
