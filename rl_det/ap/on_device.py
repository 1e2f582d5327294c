"""Padded torch tensors of any device, made for CUDA -> matches and AP as `matching` and `average_precision` have them.

COCO's greedy matching is a loop over detections. The same answer, in parallel: all true boxes of a class prefer detections by
one and the same ranking, the score, so greedy's is the only stable matching, and deferred acceptance (Gale and Shapley 1962)
finds it whatever the order of the proposals:

    every detection proposes to the true box that it likes best of those that have not refused it;
    every true box keeps the best-ranked of those that propose, and refuses the others; a crowd keeps everybody;
    until nobody is refused.

All images, thresholds and classes do so at once. It ends, as the k-th best detection of a class can be refused k - 1 times at
most, once by each box that a better one holds; contrived preferences take 1 + N (N - 1) / 2 rounds, detections of real images
a few. Decisions are the CPU path's to the bit: IoU is computed in float64 in its order of operations (run this eagerly: a
compiler that fuses a multiplication with an addition changes last bits), and who comes before whom is decided by stable sorts
and integers that are never equal.

The host waits for the device once to check the input and once a round, and the first time for a few constants; where a batch
is too large for `MAX_ELEMENTS`, its chunks have rounds of their own. A device needs float64.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int, Int64
from torch import Tensor
from torch.nn.functional import pad

from rl_det.ap.average_precision import EPSILON
from rl_det.ap.batch import (
    INSIDE_OUT,
    LABEL_OUT_OF_RANGE,
    NEGATIVE,
    NOT_FINITE,
    NOT_FINITE_BOX,
    DetectionBatch,
    TruthBatch,
    check_shapes,
    raise_fault,
)
from rl_det.ap.options import COCO, CocoOptions
from rl_det.boxes import area, intersection

MAX_ELEMENTS = 2**23
"""How many pairs, or detections at a threshold, are worked on at once; at less than 100 bytes each, under 1 GiB."""

FAULTS = (NOT_FINITE_BOX, INSIDE_OUT, LABEL_OUT_OF_RANGE, NOT_FINITE, NEGATIVE)
COUNTED = 2**62  # lies above the bits of any IoU, which are below those of 2.0


@dataclass(frozen=True, kw_only=True)
class TensorMatches:
    """The outcome of every detection of B images, under one area range, on the detections' device.

    In the detections' own order: `hits`, is it a true positive at each IoU threshold; `ignored`, does it not count at all (in
    a crowd, out of the area range, beyond `max_detections`); `rank`, its place among those of its image and class by falling
    score, the first 0. Padding is neither hit nor ignored.

    `order[b]` lists image b's indices by class, each class by falling score, padding first, as label 0; `labels` are theirs,
    in that order. `positives[b, c]` counts the true boxes of label c = 0..C that are to be found (none of label 0), and
    `max_positives` is what no count exceeds.
    """

    hits: Bool[Tensor, "B N T"]
    ignored: Bool[Tensor, "B N T"]
    rank: Int64[Tensor, "B N"]
    order: Int64[Tensor, "B N"]
    labels: Int64[Tensor, "B N"]
    positives: Int64[Tensor, "B L"]
    max_positives: int

    def __len__(self) -> int:
        return len(self.order)


@torch.no_grad()
def match(
    detections: DetectionBatch, truths: TruthBatch, *, num_classes: int, options: CocoOptions = COCO
) -> TensorMatches:
    """Match every image as COCO does, without a copy of the data through the host; no gradient flows.

    Raises ValueError on bad input, naming argument, image and index, and where the arrays are not tensors of one device.
    """
    check(detections, truths, num_classes)
    order, labels = by_class_and_score(detections)
    rank = torch.arange(order.shape[1], device=order.device) - torch.searchsorted(labels, labels)
    boxes = detections.boxes.double().take_along_dim(order[..., None], dim=1)
    low, high = options.area_range
    true_area = truths.area.double()  # a float32 area would be compared with rounded limits
    uncounted = truths.iscrowd | (true_area < low) | (true_area > high)
    late = rank >= options.max_detections
    proposing = torch.where(late | (labels == 0), -1, labels)
    num_detections, num_truths, num_thresholds = order.shape[1], true_area.shape[1], len(options.iou_thresholds)
    elements = num_detections * num_truths + (num_detections + num_truths) * num_thresholds
    true_labels = torch.where(truths.mask, truths.labels, 0)  # no detection that proposes has label 0
    hits, skipped = [], []
    for rows in chunks(len(order), elements):
        wishes = preferences(
            boxes[rows], proposing[rows], truths.boxes[rows].double(), true_labels[rows], truths.iscrowd[rows],
            uncounted[rows], options,
        )  # fmt: skip
        refusals = deferred_acceptance(wishes)
        hits.append(refusals < wishes.counted)
        skipped.append((refusals < wishes.counted + wishes.uncounted) & ~hits[-1])
    hit = torch.cat(hits)
    own_area = area(boxes)
    out = (labels > 0) & (late | (own_area < low) | (own_area > high))
    ignored = torch.cat(skipped) | (out[..., None] & ~hit)
    place = torch.argsort(order, dim=1)
    return TensorMatches(
        hits=hit.take_along_dim(place[..., None], dim=1),
        ignored=ignored.take_along_dim(place[..., None], dim=1),
        rank=rank.take_along_dim(place, dim=1),
        order=order,
        labels=labels,
        positives=count_positives(truths, ~uncounted, num_classes),
        max_positives=num_truths,
    )


@torch.no_grad()
def image_ap(matches: TensorMatches, options: CocoOptions = COCO) -> Float64[Tensor, " B"]:
    """COCO's AP of each image by itself, in [0, 1]: the mean over the classes that it holds; NaN where it holds none.

    The options must be those of the matching.
    """
    present = (matches.positives > 0).sum(1)
    return worth(matches, options).sum(1) / present / len(options.iou_thresholds)


@torch.no_grad()
def image_class_ap(matches: TensorMatches, options: CocoOptions = COCO) -> Float64[Tensor, "B C"]:
    """The same for each class; NaN where an image does not hold it."""
    aps = torch.zeros(matches.positives.shape, dtype=torch.float64, device=matches.positives.device)
    images = torch.arange(len(matches), device=aps.device)[:, None].expand_as(matches.labels)
    # Not scatter_add_: on CUDA the order of its additions, and with it the last bit, changes from run to run.
    aps.index_put_((images, matches.labels), worth(matches, options), accumulate=True)
    return torch.where(matches.positives > 0, aps / len(options.iou_thresholds), torch.nan)[:, 1:]


def check(detections: DetectionBatch, truths: TruthBatch, num_classes: int) -> None:
    """`rl_det.ap.batch.check` for tensors, at the price of one wait for the device."""
    for argument, batch in (("detections", detections), ("truths", truths)):
        for field, values in vars(batch).items():
            if not isinstance(values, Tensor):
                raise ValueError(
                    f"{argument}.{field} must be a torch tensor; got {type(values).__name__}; "
                    "numpy arrays are for rl_det.ap.matching"
                )
            if values.device != detections.mask.device:
                raise ValueError(
                    f"{argument}.{field} must be on {detections.mask.device}, as detections.mask is; got {values.device}"
                )
    check_shapes(detections, truths, num_classes)
    d, t = detections, truths
    parts: tuple[tuple[str, Any, str, Tensor], ...] = (
        ("detections", d, "scores", d.scores),
        ("truths", t, "area", t.area),
    )
    firsts = torch.stack(
        [first_fault(batch, numbers, num_classes, name == "area") for _, batch, name, numbers in parts]
    )
    for first, (argument, batch, name, numbers) in zip(firsts.tolist(), parts, strict=True):
        place, fault = divmod(first, len(FAULTS))
        if place < batch.mask.numel():
            image, index = divmod(place, batch.mask.shape[1])
            raise_fault(FAULTS[fault], argument, name, image, index, batch.boxes, batch.labels, numbers, num_classes)


def first_fault(batch: Any, numbers: Tensor, num_classes: int, positive: bool) -> Int64[Tensor, ""]:
    """What is wrong first: (b * N + i) * len(FAULTS) + the fault's place in FAULTS; B * N * len(FAULTS) if nothing is."""
    boxes, labels = batch.boxes, batch.labels
    faults = (
        ~boxes.isfinite().all(-1),
        (boxes[..., 2:] < boxes[..., :2]).any(-1),
        (labels < 1) | (labels > num_classes),
        ~numbers.isfinite(),
        (numbers < 0) & positive,
    )
    # One that is always there stands last, so that the least of them exists.
    faulty = pad((torch.stack(faults, -1) & batch.mask[..., None]).flatten(), (0, 1), value=True)
    places = torch.arange(len(faulty), device=faulty.device)
    return torch.where(faulty, places, len(faulty) - 1).amin()


def chunks(num_images: int, elements: int) -> Iterator[slice]:
    """Slices of images that hold `MAX_ELEMENTS` together at most, if one image does; one slice at least."""
    size = max(1, MAX_ELEMENTS // max(1, elements))
    for first in range(0, max(1, num_images), size):
        yield slice(first, first + size)


def by_class_and_score(detections: DetectionBatch) -> tuple[Int64[Tensor, "B N"], Int64[Tensor, "B N"]]:
    """Each image's indices by class, then by falling score, then by index, padding first; and their labels, 0 for padding."""
    scores = detections.scores.double() + 0.0  # makes 0.0 of -0.0, which a sort by bits would not take for its equal
    by_score = scores.argsort(dim=1, descending=True, stable=True)
    labels = torch.where(detections.mask, detections.labels, 0).long().take_along_dim(by_score, dim=1)
    labels, by_label = labels.sort(dim=1, stable=True)
    return by_score.take_along_dim(by_label, dim=1), labels


def count_positives(truths: TruthBatch, counted: Bool[Tensor, "B G"], num_classes: int) -> Int64[Tensor, "B L"]:
    """How many true boxes of each label are to be found; of label 0, none."""
    labels = torch.where(truths.mask, truths.labels, 0).long()
    positives = torch.zeros((len(truths), num_classes + 1), dtype=torch.int64, device=labels.device)
    return positives.scatter_add_(1, labels, (counted & truths.mask).long())


@dataclass(frozen=True, kw_only=True)
class Preferences:
    """Which true boxes each detection would have, at each threshold.

    `slots` has all G true boxes with the dearest last: those that count, then those that do not (with IoU enough for no
    threshold: first, in any order). A slot is a true box's index; G + n, where detection n is alone, for a crowd, which
    refuses nobody. At threshold t detection n would have the last `counted[b, n, t]` of them, then the last
    `uncounted[b, n, t]` of the first `split[b, n]`.
    """

    slots: Int64[Tensor, "B N G"]
    counted: Int64[Tensor, "B N T"]
    uncounted: Int64[Tensor, "B N T"]
    split: Int64[Tensor, "B N 1"]


def preferences(
    boxes: Float64[Tensor, "B N 4"],
    labels: Int64[Tensor, "B N"],
    true_boxes: Float64[Tensor, "B G 4"],
    true_labels: Int[Tensor, "B G"],
    crowd: Bool[Tensor, "B G"],
    uncounted: Bool[Tensor, "B G"],
    options: CocoOptions,
) -> Preferences:
    """True boxes of a detection's class by preference: those that count first, then by falling IoU, of equals the later."""
    num_truths = true_boxes.shape[1]
    overlap = overlaps(boxes, true_boxes, crowd)
    enough = (labels[:, :, None] == true_labels[:, None]) & (overlap >= float(options.needed_iou.min()))
    # Doubles above zero are in the order of their bits; a stable sort leaves the later of equals nearer to the end.
    keys = torch.where(enough, overlap.view(torch.int64) + torch.where(uncounted, 0, COUNTED)[:, None], -1)
    keys, order = keys.sort(dim=2, stable=True)
    limits = _limits(options, boxes.device).expand(*labels.shape, -1).contiguous()
    below, split, below_counted = torch.searchsorted(keys, limits).split(
        [len(options.iou_thresholds), 1, len(options.iou_thresholds)], dim=2
    )
    truths = torch.arange(num_truths, device=boxes.device)
    alone = num_truths + torch.arange(boxes.shape[1], device=boxes.device)
    slots = torch.where(crowd[:, None], alone[:, None], truths).gather(2, order)
    return Preferences(slots=slots, counted=num_truths - below_counted, uncounted=split - below, split=split)


@lru_cache(maxsize=8)  # kept on the device: a copy of even a few bytes from the host makes the host wait
def _limits(options: CocoOptions, device: torch.device) -> Int64[Tensor, " L"]:
    """The least sort keys for each threshold of boxes that do not count, of any box that counts, and for each threshold."""
    bits = options.needed_iou.view(np.int64)
    return torch.as_tensor(np.concatenate([bits, [COUNTED], COUNTED + bits]), device=device)


def overlaps(
    boxes: Float64[Tensor, "B N 4"], true_boxes: Float64[Tensor, "B G 4"], crowd: Bool[Tensor, "B G"]
) -> Float64[Tensor, "B N G"]:
    """Intersection over union to pycocotools' last bit; over the detection's own area where the truth is a crowd.

    NaN where both areas are 0.
    """
    shared, own_area = intersection(boxes[:, :, None], true_boxes[:, None]), area(boxes)[:, :, None]
    return shared / torch.where(crowd[:, None], own_area, own_area + area(true_boxes)[:, None] - shared)


def deferred_acceptance(wishes: Preferences) -> Int64[Tensor, "B N T"]:
    """How many of its true boxes refuse each detection before one keeps it, or it has no more; detections by falling score."""
    num_images, num_detections, num_truths = wishes.slots.shape
    refusals = torch.zeros_like(wishes.counted)
    if not wishes.slots.numel():
        return refusals
    detection = torch.arange(num_detections, device=refusals.device)[:, None].expand_as(refusals)
    held_by_nobody = refusals.new_full((num_images, num_truths + num_detections, refusals.shape[2]), num_detections)
    after_counted = wishes.split + wishes.counted - 1
    while True:
        last = torch.where(refusals < wishes.counted, num_truths - 1, after_counted)
        slot = wishes.slots.gather(2, (last - refusals).clamp(min=0))
        # Who has no more proposes to the slot where it is alone.
        slot = torch.where(refusals < wishes.counted + wishes.uncounted, slot, num_truths + detection)
        holder = held_by_nobody.scatter_reduce(1, slot, detection, "amin")
        refused = holder.gather(1, slot) != detection
        if not refused.any():
            return refusals
        refusals += refused


def worth(matches: TensorMatches, options: CocoOptions) -> Float64[Tensor, "B N"]:
    """What each detection, in `matches.order`, adds to the AP of its image and class, summed over the thresholds.

    As in `rl_det.ap.average_precision`: weight[k] * (max precision from k on) for the k-th true positive.
    """
    weights = _weights(options, matches.max_positives, matches.order.device)
    elements = matches.order.shape[1] * len(options.iou_thresholds)
    parts = []
    for rows in chunks(len(matches), elements):
        order, labels = matches.order[rows, :, None], matches.labels[rows]
        hits = matches.hits[rows].take_along_dim(order, dim=1)
        shown = ~matches.ignored[rows].take_along_dim(order, dim=1)
        start = torch.searchsorted(labels, labels)
        found, counted = up_to_here(hits, start), up_to_here(shown, start)
        precision = torch.where(hits, found / (counted.double() + EPSILON), 0.0)
        envelope = max_from_here(precision, labels, options.max_detections)
        positives = matches.positives[rows].gather(1, labels)[..., None]
        weight = weights.take(positives * weights.shape[1] + found)
        parts.append(torch.where(hits, weight * envelope, 0.0).sum(2))
    return torch.cat(parts)


@lru_cache(maxsize=8)
def _weights(options: CocoOptions, positives: int, device: torch.device) -> Float64[Tensor, "P K"]:
    """The tables of `rl_det.ap.options.RecallWeights`, on the device."""
    return torch.as_tensor(options.recall_weights.up_to(positives), device=device)


def up_to_here(marks: Bool[Tensor, "B N T"], start: Int64[Tensor, "B N"]) -> Int64[Tensor, "B N T"]:
    """How many marks each class has up to and including each place; `start` is where the place's class begins."""
    counts = marks.cumsum(1)
    return counts - (counts - marks.long()).take_along_dim(start[..., None], dim=1)


def max_from_here(
    values: Float64[Tensor, "B N T"], labels: Int64[Tensor, "B N"], longest: int
) -> Float64[Tensor, "B N T"]:
    """The largest value from each place on to the end of its class, of which the first `longest` alone are not 0.

    By doubling, as `cummax` does not stop where a class ends: after the k-th step, 2^k places are covered.
    """
    values, step = values.clone(), 1
    while step < min(values.shape[1], longest):
        same = (labels[:, step:] == labels[:, :-step])[..., None]
        values[:, :-step] = torch.maximum(values[:, :-step], torch.where(same, values[:, step:], 0.0))
        step *= 2
    return values
