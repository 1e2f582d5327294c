"""Which kinds of error cost AP50: TIDE's breakdown of a data set's false positives and missed objects.

Bolya et al. 2020, "TIDE: A General Toolbox for Identifying Object Detection Errors". Each false positive is of the first of
these kinds that applies, in the order of the authors' program, and each kind has an oracle that mends its errors alone:

    localisation    IoU in [0.1, 0.5] with a true box of its class                    -> right, at its score
    classification  IoU >= 0.5 with a true box of another class                       -> right, in that class, at its score
    duplicate       IoU >= 0.5 with a true box of its class that another one found    -> removed
    background      IoU <= 0.1 with every true box                                    -> removed
    both            all others: the wrong class, and not well localised               -> removed
    missed          a true box that nothing found, and that no error above can mend   -> no longer to be found

A true box is mended once, by the error with the highest score of those that are nearest to it; the others are removed. The
gain of a kind is the AP50 after its oracle, minus AP50. We differ from the authors' program in two points: (1) AP50 is COCO's,
so that classes without a true box are left out and each class has its own limit of detections; (2) of true boxes with equal
IoU, a detection finds the later one, as in COCO.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64, Int64

from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.ap.data_set import class_ap
from rl_det.ap.matching import Matches, match
from rl_det.ap.options import CocoOptions
from rl_det.ap.relations import pairwise_iou

FOREGROUND, BACKGROUND = 0.5, 0.1
"""TIDE's two IoU thresholds: enough for a true box, and too little to mean one."""
OF_DETECTIONS = ("localisation", "classification", "duplicate", "background", "both")
ERRORS = (*OF_DETECTIONS, "missed")
TOTALS = ("false_positives", "false_negatives")
RIGHT, IGNORED = -1, -2
"""What a detection is that is no error."""
OPTIONS = CocoOptions(iou_thresholds=(FOREGROUND,))


@dataclass(frozen=True, kw_only=True)
class ErrorBreakdown:
    """AP50 in [0, 1], and by kind of error how many there are, and how much AP50 rises if they are mended.

    `gains` has two totals besides: all false positives removed, and the missed objects no longer to be found.
    """

    ap50: float
    counts: dict[str, int]
    gains: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class _Ranked:
    """The M detections of all images that count, image after image, and the true boxes of each label 1..C to be found.

    `kinds` is an index of `OF_DETECTIONS`, or RIGHT; `mended` is the label under which its oracle makes it right, or 0.
    """

    labels: Int64[np.ndarray, " M"]
    scores: Float64[np.ndarray, " M"]
    kinds: Int64[np.ndarray, " M"]
    mended: Int64[np.ndarray, " M"]
    positives: Int64[np.ndarray, " C"]

    @property
    def summed_ap50(self) -> float:
        """The sum over the classes; one whose true boxes are all taken out by an oracle adds 0, as in the authors' program."""
        order = np.argsort(self.labels, kind="stable")
        labels, num_classes = self.labels[order], len(self.positives)
        matches = Matches(
            positives=np.append(0, self.positives).astype(np.int32)[None, None],
            order=order.astype(np.int32)[None],
            starts=np.searchsorted(labels, np.arange(num_classes + 2)).astype(np.int32)[None],
            scores=self.scores[order][None],
            hits=(self.kinds[order] == RIGHT).astype(np.uint32)[None, None],
            ignored=np.zeros((1, 1, len(order)), dtype=np.uint32),
        )
        return float(np.nan_to_num(class_ap(matches, OPTIONS)[0, 0]).sum())


def error_breakdown(detections: DetectionBatch, truths: TruthBatch, *, num_classes: int) -> ErrorBreakdown:
    """Sort and mend the errors of a data set; ValueError on bad input, which it names.

    What lies in a crowd is no error. Without true boxes, AP50 and all gains are NaN.
    """
    ranked, missed = _sorted(detections, truths, num_classes)
    present = max(1, int((ranked.positives > 0).sum()))
    nothing = not ranked.positives.any()

    def ap50(of: _Ranked) -> float:
        return float("nan") if nothing else of.summed_ap50 / present

    before = ap50(ranked)
    gains = {kind: ap50(_mend(ranked, number)) - before for number, kind in enumerate(OF_DETECTIONS)}
    gains["missed"] = ap50(replace(ranked, positives=ranked.positives - missed)) - before
    right = ranked.kinds == RIGHT
    gains["false_positives"] = ap50(_only(ranked, right)) - before
    found = np.bincount(ranked.labels[right], minlength=num_classes + 1)[1:]
    gains["false_negatives"] = ap50(replace(ranked, positives=found)) - before
    counts = {kind: int((ranked.kinds == number).sum()) for number, kind in enumerate(OF_DETECTIONS)}
    return ErrorBreakdown(ap50=before, counts={**counts, "missed": int(missed.sum())}, gains=gains)


def _mend(ranked: _Ranked, kind: int) -> _Ranked:
    """The detections after the oracle of one kind."""
    own = ranked.kinds == kind
    made_right = own & (ranked.mended > 0)
    mended = replace(
        ranked,
        labels=np.where(made_right, ranked.mended, ranked.labels),
        kinds=np.where(made_right, RIGHT, ranked.kinds),
    )
    return _only(mended, ~own | made_right)


def _only(ranked: _Ranked, chosen: Bool[np.ndarray, " M"]) -> _Ranked:
    """Some of the detections, with all true boxes."""
    return replace(ranked, **{name: getattr(ranked, name)[chosen] for name in ("labels", "scores", "kinds", "mended")})


def _sorted(
    detections: DetectionBatch, truths: TruthBatch, num_classes: int
) -> tuple[_Ranked, Int64[np.ndarray, " C"]]:
    """The detections with their kinds, and how many true boxes of each class are missed."""
    missed = np.zeros(num_classes, dtype=np.int64)
    rows = []
    matches = match(detections, truths, num_classes=num_classes, options=OPTIONS)
    for image, (overlap, own, right, counted) in enumerate(_images(detections, truths, matches)):
        boxes = np.flatnonzero(truths.mask[image] & ~truths.iscrowd[image])
        true_labels, labels = truths.labels[image, boxes].astype(np.int64), detections.labels[image, own]
        scores = detections.scores[image, own].astype(np.float64)
        kinds, mended, lost = _of_image(overlap[:, boxes], labels, true_labels, scores, right, counted)
        missed += np.bincount(true_labels[lost], minlength=num_classes + 1)[1:]
        rows.append((labels[counted].astype(np.int64), scores[counted], kinds[counted], mended[counted]))
    labels, scores, kinds, mended = (
        np.concatenate([row[k] for row in rows]) if rows else np.zeros(0, dtype)
        for k, dtype in enumerate((np.int64, np.float64, np.int64, np.int64))
    )
    positives = matches.positives[0].sum(0, dtype=np.int64)[1:]
    return _Ranked(labels=labels, scores=scores, kinds=kinds, mended=mended, positives=positives), missed


def _images(
    detections: DetectionBatch, truths: TruthBatch, matches: Matches
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Each image's IoU of its detections, best score first, with all true boxes; their places; which are right, which count."""
    for image in range(len(detections)):
        places = matches.order[image, matches.starts[image, 1] : matches.starts[image, -1]]
        first = matches.starts[image, 1]
        hits, ignored = (
            bits[0, image, first : first + len(places)] & 1 == 1 for bits in (matches.hits, matches.ignored)
        )
        by_score = np.lexsort((places, -detections.scores[image, places].astype(np.float64)))
        own = places[by_score]
        overlap = pairwise_iou(detections.boxes[image, own][None], truths.boxes[image][None])[0]
        yield overlap, own, hits[by_score], ~ignored[by_score]


def _of_image(
    overlap: Float64[np.ndarray, "N G"],
    labels: Int64[np.ndarray, " N"],
    true_labels: Int64[np.ndarray, " G"],
    scores: Float64[np.ndarray, " N"],
    right: Bool[np.ndarray, " N"],
    counted: Bool[np.ndarray, " N"],
) -> tuple[Int64[np.ndarray, " N"], Int64[np.ndarray, " N"], Bool[np.ndarray, " G"]]:
    """The kinds of one image's detections, best first, the labels that mend them (or 0), and which true boxes are missed."""
    same = labels[:, None] == true_labels
    of_class, of_others = overlap * same, overlap * ~same
    found = _found(of_class, right)
    wrong = counted & ~right
    kinds, mended = np.where(right, RIGHT, IGNORED), np.zeros(len(labels), dtype=np.int64)
    if not len(true_labels):
        kinds[wrong] = OF_DETECTIONS.index("background")
        return kinds, mended, ~found
    own, other, any_box, taken = (part.max(1) for part in (of_class, of_others, overlap, of_class * found))
    localisation = (own >= BACKGROUND) & (own <= FOREGROUND)
    of_kind = [localisation, other >= FOREGROUND, taken >= FOREGROUND, any_box <= BACKGROUND]
    kinds[wrong] = np.select(of_kind, list(range(len(of_kind))), default=len(of_kind))[wrong]
    nearest = np.where(localisation, of_class.argmax(1), of_others.argmax(1))
    mending = np.flatnonzero(wrong & (kinds <= OF_DETECTIONS.index("classification")) & ~found[nearest])
    boxes, first = np.unique(nearest[mending], return_index=True)  # the first has the highest score
    mended[mending[first]] = true_labels[boxes]
    found[boxes] = True
    return kinds, mended, ~found


def _found(of_class: Float64[np.ndarray, "N G"], right: Bool[np.ndarray, " N"]) -> Bool[np.ndarray, " G"]:
    """Which true boxes the right detections have found: each the free one with the highest IoU, of equals the later."""
    found = np.zeros(of_class.shape[1], dtype=np.bool_)
    for place in np.flatnonzero(right).tolist():
        free = np.where(found, -1.0, of_class[place])
        found[len(free) - 1 - int(free[::-1].argmax())] = True
    return found
