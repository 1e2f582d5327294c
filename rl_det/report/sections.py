"""The sections of a run's page: tables and drawings of rows, metrics and detections, each with what to look at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from rl_det.ap.average_precision import image_ap
from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.ap.data_set import class_ap, class_precision
from rl_det.ap.matching import match, match_ranges
from rl_det.ap.options import AREA_RANGES, IOU_THRESHOLDS, RECALL_POINTS
from rl_det.metrics.calibration import detection_calibration_error, reliability
from rl_det.metrics.changes import KINDS, SAME_BOX, SEEN, changes
from rl_det.metrics.errors import ERRORS, TOTALS, error_breakdown
from rl_det.metrics.outcomes import outcomes
from rl_det.report.drawings import BEFORE, bars_drawing, before_after, keys_of, lines_drawing, recall_drawing
from rl_det.report.html import Block, Code, Drawing, Drawings, Key, Lines, Section, Table, Words
from rl_det.text import isolated, printable

MOST_CLASSES = 12
"""With more classes, drawings show those whose AP changed most; the tables have all."""
MOST_LETTERS = 16
"""A longer name is cut in a drawing; the tables have all of it."""
MOVED_IOU = 0.99
"""A box with a lower IoU with its former place has moved."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Two rows' detections on the same test images."""

    before_name: str
    after_name: str
    before: DetectionBatch
    after: DetectionBatch
    truths: TruthBatch
    classes: tuple[str, ...]

    @property
    def both(self) -> tuple[DetectionBatch, DetectionBatch]:
        """The detections before and after."""
        return self.before, self.after

    @property
    def names(self) -> tuple[str, str]:
        """The rows' names."""
        return self.before_name, self.after_name


class Figures(NamedTuple):
    """Figures by their names, before and after; NaN where there is none."""

    names: Sequence[str]
    before: Float64[np.ndarray, " K"]
    after: Float64[np.ndarray, " K"]

    def of(self, places: Sequence[int]) -> "Figures":
        """Some of the figures."""
        return Figures([self.names[place] for place in places], self.before[list(places)], self.after[list(places)])

    @property
    def known(self) -> "Figures":
        """Those that exist."""
        return self.of(np.flatnonzero(~np.isnan(self.before)).tolist())


def times_100(value: float | None, sign: str = "") -> str:
    """A figure for a table; a dash where there is none."""
    return "-" if value is None or np.isnan(value) else f"{100 * value:{sign}.2f}"


def curves_section(lines: Sequence[Mapping[str, Any]], rows: Sequence[str]) -> Section:
    """Validation figures and rewards by updates, of all rows that were trained. `lines` are those of `metrics.jsonl`."""
    trained = [row for row in rows if any(line["stage"] == row for line in lines)]
    keys = dict(zip(trained, keys_of(trained), strict=True))
    figures = list(
        dict.fromkeys(name for line in lines for name in line if name.startswith("val_") or name == "reward")
    )
    drawings, numbers = [], []
    for figure in figures:
        series = {row: points(lines, row, figure) for row in trained}
        known = {row: xy for row, xy in series.items() if xy[0]}
        if not known:
            continue
        title = figure.replace("val_", "validation ")
        scale = 1 if figure == "reward" else 100
        drawn = [(keys[row], x, [scale * value for value in y]) for row, (x, y) in known.items()]
        label = title if scale == 1 else f"{title} x 100"
        said = "; ".join(
            f"{isolated(row)} from {scale * y[0]:.4g} to {scale * y[-1]:.4g}" for row, (_, y) in known.items()
        )
        svg = lines_drawing(drawn, x_label="updates", y_label=label)
        drawings.append(Drawing(svg=svg, label=f"{label} by updates: {said}", caption=f"{label}, by updates"))
        for row, (x, y) in known.items():
            best = int(np.argmax(y))
            numbers.append(
                [
                    f"{isolated(row)}: {label}",
                    *(f"{scale * value:.4g}" for value in (y[0], y[best], y[-1])),
                    f"{x[best]:.0f}",
                ]
            )
    blocks: list[Block] = [Words(text="No row of this run was trained.")]
    if drawings:
        table = Table(caption="The curves in numbers", header=["curve", "first", "highest", "last", "highest at update"],
                      rows=numbers, folded=True)  # fmt: skip
        blocks = [Drawings(drawings=drawings, keys=[keys[row] for row in trained]), table]
    lead = "Look whether validation still rises at the end: then more updates may pay. The best weights are kept, not the last."
    return Section(name="curves", title="Learning curves", lead=lead, blocks=blocks)


def points(lines: Sequence[Mapping[str, Any]], row: str, figure: str) -> tuple[list[float], list[float]]:
    """The steps and values of one figure of one row, where there is a value."""
    own = [(line["step"], line[figure]) for line in lines if line["stage"] == row and line.get(figure) is not None]
    return [float(step) for step, _ in own], [float(value) for _, value in own]


def gain_section(contrast: Contrast) -> Section:
    """AP by IoU threshold, size and class, and TIDE's errors, of two rows."""
    ranges, num_classes = tuple(AREA_RANGES.values()), len(contrast.classes)
    aps = [class_ap(match_ranges(found, contrast.truths, ranges, num_classes=num_classes)) for found in contrast.both]
    by_iou = Figures(
        [f"IoU {threshold:.2f}" for threshold in IOU_THRESHOLDS.tolist()], *(mean_of(ap[0], 1) for ap in aps)
    )
    by_size = Figures(list(AREA_RANGES), *(mean_of(ap.mean(1), 1) for ap in aps)).known
    by_class = Figures(contrast.classes, *(ap[0].mean(0) for ap in aps))
    shown = by_class.of(most_changed(by_class.before, by_class.after))
    mended = [error_breakdown(found, contrast.truths, num_classes=num_classes) for found in contrast.both]
    by_kind = Figures(ERRORS, *(np.array([own.gains[kind] for kind in ERRORS]) for own in mended))
    costs = "By kind of error (TIDE): how much AP50 would rise if all errors of a kind were mended; shorter is better."
    drawings = [
        _change_drawing(by_iou),
        _bars(by_kind, "AP50 that each kind costs, x 100", costs),
        _bars(by_size, "AP x 100", "By size of the object, in COCO's sizes."),
        _bars(shown, "AP x 100", _of_classes(len(shown.names), num_classes)),
    ]
    blocks: list[Block] = [
        Drawings(drawings=drawings, keys=before_after(*contrast.names)),
        _compared_table("AP by IoU threshold, x 100", by_iou, contrast),
        _compared_table("AP by size of the object, x 100", by_size, contrast),
        _compared_table("AP of each class, x 100", by_class, contrast),
        _error_table(mended, contrast),
    ]
    before, after = map(isolated, contrast.names)
    lead = (
        f"{before} against {after}, on test. Look at which IoU thresholds AP rose most, and which "
        "kind of error became cheaper."
    )
    return Section(name="gain", title="Where the gain comes from", lead=lead, blocks=blocks)


def mean_of(values: Float64[np.ndarray, "..."], axis: int) -> Any:
    """The mean over what there is; NaN where there is nothing."""
    known = ~np.isnan(values)
    counts = known.sum(axis)
    return np.where(counts > 0, np.where(known, values, 0).sum(axis) / np.maximum(counts, 1), np.nan)


def most_changed(before: Float64[np.ndarray, " C"], after: Float64[np.ndarray, " C"]) -> list[int]:
    """The places of the classes whose AP changed most, in the classes' order; none without an AP."""
    change = np.nan_to_num(np.abs(after - before), nan=-1.0)
    chosen = np.argsort(-change, kind="stable")[:MOST_CLASSES]
    return sorted(place for place in chosen.tolist() if change[place] >= 0)


def _of_classes(shown: int, total: int) -> str:
    return (
        "By class."
        if shown == total
        else f"By class: the {shown} of {total} classes that changed most; the table has all."
    )


def _said(figures: Figures) -> str:
    """The numbers of a drawing in words."""
    pairs = zip(figures.names, figures.before.tolist(), figures.after.tolist(), strict=True)
    return "; ".join(
        f"{isolated(name)}: {times_100(one)} before, {times_100(other)} after" for name, one, other in pairs
    )


def _change_drawing(by_iou: Figures) -> Drawing:
    """AP after minus AP before at each IoU threshold, and no change."""
    thresholds, (_, key) = IOU_THRESHOLDS.tolist(), before_after("", "")
    none = Key(name="", colour=BEFORE, dashes="7 3")
    change = (100 * (by_iou.after - by_iou.before)).tolist()
    lines = [(none, [thresholds[0], thresholds[-1]], [0.0, 0.0]), (key, thresholds, change)]
    return Drawing(
        svg=lines_drawing(lines, x_label="IoU threshold", y_label="change of AP x 100"),
        label=f"AP x 100 at each IoU threshold: {_said(by_iou)}",
        caption="By IoU threshold: a gain on the left is in what is found, on the right in how exactly.",
    )


def _bars(figures: Figures, x_label: str, caption: str) -> Drawing:
    names = [printable(name) for name in figures.names]
    short = [name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 1]}\u2026" for name in names]
    svg = bars_drawing(short, (100 * figures.before).tolist(), (100 * figures.after).tolist(), x_label=x_label)
    return Drawing(svg=svg, label=f"{x_label}: {_said(figures)}", caption=caption)


def _compared_table(caption: str, figures: Figures, contrast: Contrast) -> Table:
    rows = [
        [name, times_100(one), times_100(other), times_100(other - one, "+")]
        for name, one, other in zip(figures.names, figures.before.tolist(), figures.after.tolist(), strict=True)
    ]
    return Table(caption=caption, header=["of", *contrast.names, "change"], rows=rows, folded=True)


def _error_table(mended: Sequence[Any], contrast: Contrast) -> Table:
    """How many errors of each kind there are, and what they cost."""
    header = ["kind", *(f"{what}, {name}" for what in ("number", "costs AP50 x 100") for name in contrast.names)]
    rows = [
        [kind.replace("_", " "), *(str(own.counts.get(kind, "")) for own in mended),
         *(times_100(own.gains[kind]) for own in mended)]
        for kind in (*ERRORS, *TOTALS)
    ]  # fmt: skip
    return Table(caption="Errors in TIDE's sense, on test; the last two rows mend all wrong detections, and all missed objects",
                 header=header, rows=rows, folded=True)  # fmt: skip


def recall_section(contrast: Contrast) -> Section:
    """The precision-recall curve of each class before and after, as means over COCO's IoU thresholds."""
    matches = [match(found, contrast.truths, num_classes=len(contrast.classes)) for found in contrast.both]
    curves = [class_precision(own)[0].mean(0) for own in matches]
    aps = [curve.mean(0) for curve in curves]
    drawings = []
    for place in most_changed(*aps):
        name, told = contrast.classes[place], f"AP {times_100(aps[0][place])} to {times_100(aps[1][place])}"
        before, after = (curve[:, place].tolist() for curve in curves)
        svg = recall_drawing(before, after, RECALL_POINTS.tolist())
        drawings.append(
            Drawing(
                svg=svg, label=f"Precision by recall of the class {isolated(name)}: {told}", caption=told, name=name
            )
        )
    lead = (
        "Precision (upwards) by recall, the mean over IoU .50 to .95. Look where a curve rises: on the left are the best "
        "scores, on the right the hardest objects."
    )
    blocks: list[Block] = [Drawings(drawings=drawings, keys=before_after(*contrast.names), small=True)]
    if len(drawings) < len(contrast.classes):
        blocks.append(Words(text=_of_classes(len(drawings), len(contrast.classes))))
    return Section(name="recall", title="Precision and recall of each class", lead=lead, blocks=blocks)


def calibration_section(contrast: Contrast) -> Section:
    """The reliability diagram of both rows."""
    found = [outcomes(own, contrast.truths, num_classes=len(contrast.classes)) for own in contrast.both]
    bins, errors = [reliability(own) for own in found], [detection_calibration_error(own) for own in found]
    keys = before_after(*contrast.names)
    lines = []
    for key, own in zip(keys, bins, strict=True):
        known = own.counts > 0
        lines.append((key, own.mean_scores[known].tolist(), own.precision[known].tolist()))
    told = " and ".join(f"{times_100(error)} {when}" for error, when in zip(errors, ("before", "after"), strict=True))
    svg = lines_drawing(lines, x_label="mean score", y_label="share that is right", square=True, size=(4.2, 4.0))
    label = f"Share of right detections by their score. Calibration error x 100: {told}."
    rows = [
        [f"{edge / len(bins[0].counts):.2f} to {(edge + 1) / len(bins[0].counts):.2f}",
         *(text for own in bins for text in (str(int(own.counts[edge])), times_100(own.mean_scores[edge]),
                                             times_100(own.precision[edge])))]
        for edge in range(len(bins[0].counts))
    ]  # fmt: skip
    header = ["scores", *(f"{what}, {name}" for name in contrast.names for what in ("number", "mean score", "right"))]
    return Section(
        name="calibration",
        title="Calibration",
        lead="Look how near the lines are to the diagonal: there, of the detections with score 0.7, 70 % are right (IoU 0.5).",
        blocks=[
            Drawings(drawings=[Drawing(svg=svg, label=label, caption=label)], keys=keys),
            Table(caption="Detections by score; scores and shares x 100", header=header, rows=rows, folded=True),
        ],
    )


def changed_images(
    contrast: Contrast, most: int
) -> tuple[list[tuple[int, float, float]], list[tuple[int, float, float]]]:
    """The images whose exact AP rose most and those whose AP fell most: place, AP before and after."""
    num_classes = len(contrast.classes)
    before, after = (image_ap(match(found, contrast.truths, num_classes=num_classes))[0] for found in contrast.both)
    change = np.nan_to_num(after - before)
    order = np.argsort(-change, kind="stable").tolist()
    rows = [(place, float(before[place]), float(after[place])) for place in order]
    gained = [row for row in rows[:most] if row[2] > row[1]]
    return gained, [row for row in rows[::-1][:most] if row[2] < row[1]]


def changes_section(contrast: Contrast) -> Section:
    """How the second row's detections differ from the first's, one by one."""
    found = changes(contrast.before, contrast.after, contrast.truths, num_classes=len(contrast.classes))
    sums = [sum(own.values()) for own in (found.right, found.wrong)]
    rows = [
        [kind, *(_share(own[kind], total) for own, total in zip((found.right, found.wrong), sums, strict=True))]
        for kind in KINDS
    ]
    lines = []
    if len(found.overlap):
        moved = found.overlap < MOVED_IOU
        lines.append(
            f"{100 * moved.mean():.1f} % of the pairs moved (IoU below {MOVED_IOU} with their former box); the mean IoU of all "
            f"pairs is {found.overlap.mean():.3f}."
        )
    nearer = found.nearer[~np.isnan(found.nearer)]
    if len(nearer):
        lines.append(
            f"Of the right ones, {100 * (nearer > 0).mean():.1f} % came nearer to their true box and "
            f"{100 * (nearer < 0).mean():.1f} % went away from it; their mean IoU with it changed by {nearer.mean():+.4f}."
        )
    before, after = map(isolated, contrast.names)
    caption = (
        f"Detections by what became of them, from {before} to {after}: paired if of one class with "
        f"IoU {SAME_BOX} at least; raised and lowered in rank among the pairs of their class; scores below {SEEN} left out"
    )
    return Section(
        name="changes",
        title="What was raised, dropped and moved",
        lead="Look whether right detections were raised and wrong ones lowered or dropped more often than the other way round.",
        blocks=[
            Table(caption=caption, header=["change", "right detections", "wrong detections"], rows=rows),
            Lines(lines=lines),
        ],
    )


def _share(count: int, total: int) -> str:
    return f"{count} ({100 * count / total:.1f} %)" if total else "0"


def configuration_section(command: str, parts: Mapping[str, str]) -> Section:
    """The command that makes the run again, and folded texts by their titles."""
    how = (
        "The same command makes the same figures again in a new folder (--out). A stopped run goes on with --resume, from "
        "Python with resume=True."
    )
    folded = [Code(title=title, text=text, folded=True) for title, text in parts.items()]
    return Section(
        name="configuration",
        title="Configuration and command",
        lead="All that the results depend on: with the same data and weights, it gives them again.",
        blocks=[Code(title="The command", text=command), Words(text=how), *folded],
    )
