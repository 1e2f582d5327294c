"""Post-processing before NMS: each candidate's neighbours vote on its box and logit, and a few numbers correct the logit.

The neighbours of a candidate are the candidates of its class in its image that overlap it, itself among them. So votes need
boxes, labels and logits alone, and follow any policy of any detector. With h the candidate's logit and p_j the voters'
probabilities, a vote computes

    box   <- (1 - s) * box + s * (mean of the voters' boxes, weighted by p_j ^ score_exponent * exp((IoU_j - 1) / sharpness))
             where s = step + step_slope * h / 4, cut off at 0 and 1
    logit <- h + mean_share * (mean of the voters' logits, weighted by exp((IoU_j - 1) / softness), minus h)
             + support * S + spread * D + size * A + (small or large, by COCO's sizes)

S is the logarithm of the sum of exp((IoU_j - 1) / SHARPNESS). D is how far the sides of these voters lie apart, as a share of
the box's own sides. A is the logarithm of the box's side, as a share of the side at which COCO's medium size begins.
"""

from dataclasses import astuple, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32

from rl_det.ap.compiled import compilable, compiled
from rl_det.ap.options import AREA_RANGES
from rl_det.ap.suppression import suppression_iou
from rl_det.ap.threads import kept, share_out
from rl_det.settings import at_least, check_settings, positive
from rl_det.types import Candidates

NEIGHBOUR_IOU = 0.5
"""Voters overlap by more."""
SHARPNESS, SOFTNESS = 0.1, 0.2
"""The difference of IoU that changes a vote's weight by a factor e: for boxes, and for logits."""
LOGIT_RANGE = 12.0
"""Logits are cut off here where they weigh votes or set the step, and where a policy's module sees them."""
SMALL_AREA, LARGE_AREA = AREA_RANGES["medium"]
NUM_TRAITS = 5


@dataclass(frozen=True, kw_only=True)
class Votes:
    """The numbers of a vote; with the defaults, nothing changes. Logits are log-odds."""

    sharpness: float = SHARPNESS
    """The difference of IoU that changes the weight of a voter's box by a factor e."""
    score_exponent: float = 0.5
    """The power of a voter's probability in the weight of its box."""
    step: float = 0.0
    """The share of the way to the voters' mean box that a box goes."""
    step_slope: float = 0.0
    """The change of that share for 4 logits more."""
    mean_share: float = 0.0
    """The share of the voters' mean logit in the logit."""
    softness: float = SOFTNESS
    """The difference of IoU that changes the weight of a voter's logit by a factor e."""
    support: float = 0.0
    """What the logit gains if the support grows by a factor e."""
    spread: float = 0.0
    """What the logit gains if the voters' sides lie apart by the box's own sides."""
    size: float = 0.0
    """What the logit gains if the box's sides grow by a factor e."""
    small: float = 0.0
    """What the logits of COCO's small boxes gain."""
    large: float = 0.0
    """What the logits of COCO's large boxes gain."""

    def __post_init__(self) -> None:
        check_settings(self, sharpness=positive(), softness=positive(), score_exponent=at_least(0))

    @property
    def is_neutral(self) -> bool:
        """Whether nothing changes."""
        return not any(
            (self.step, self.step_slope, self.mean_share, self.support, self.spread, self.size, self.small, self.large)
        )


class Electorate(NamedTuple):
    """Who votes on whom in B images, and what of a vote does not depend on its numbers.

    The voters on candidate i of image b are voters[k], with overlaps[k], for k from starts[b, i] up to starts[b, i + 1].
    """

    boxes: np.ndarray  # [B, N, 4]
    logits: np.ndarray  # [B, N]
    mask: np.ndarray  # [B, N]
    starts: np.ndarray  # [B, N + 1]
    voters: np.ndarray  # [pairs]
    overlaps: np.ndarray  # [pairs]
    traits: np.ndarray  # [B, N, 5]: S, D, A of the module's docstring, is it small, is it large


def electorate(candidates: Candidates) -> Electorate:
    """The electorate of the candidates, on the host."""
    boxes, labels, logits, mask = (
        part.numpy(force=True) for part in (candidates.boxes, candidates.labels, candidates.logits, candidates.mask)
    )
    boxes = np.ascontiguousarray(boxes, dtype=np.float32)
    num_images, num_candidates = mask.shape
    counts = np.zeros(mask.shape, dtype=np.int64)
    share_out(_count_voters, num_images, tuple, boxes, labels, mask, counts)
    ends = counts.cumsum().reshape(mask.shape)
    starts = np.concatenate([ends[:, :1] - counts[:, :1], ends], 1)
    total = int(counts.sum())
    voters, overlaps = np.zeros(total, dtype=np.int32), np.zeros(total)
    traits = np.zeros((num_images, num_candidates, NUM_TRAITS))
    share_out(_list_voters, num_images, tuple, boxes, labels, mask, starts, voters, overlaps, traits)
    logits = np.ascontiguousarray(logits, dtype=np.float32)
    return Electorate(boxes, logits, mask, starts, voters, overlaps, traits)


def vote(who: Electorate, votes: Votes) -> tuple[Float32[np.ndarray, "B N 4"], Float32[np.ndarray, "B N"]]:
    """The boxes and logits after the vote; those of padding as they were."""
    boxes, logits = who.boxes.copy(), who.logits.copy()
    share_out(_vote, len(who.mask), lambda: room_for_weights(who.mask.shape[1]), who, astuple(votes), boxes, logits)
    return boxes, logits


def voted(candidates: Candidates, votes: Votes) -> Candidates:
    """The candidates after the vote, in the same order; the very same object if the votes are neutral."""
    if votes.is_neutral:
        return candidates
    boxes, logits = (torch.from_numpy(part).to(candidates.boxes.device) for part in vote(electorate(candidates), votes))
    return replace(candidates, boxes=boxes, logits=logits)


@compilable
def is_voter(i: int, j: int, boxes: Any, labels: Any, mask: Any) -> Any:
    """Whether candidate j votes on candidate i, and their IoU, which is 1 for a candidate itself."""
    if i == j:
        return True, 1.0
    if not mask[j] or labels[i] != labels[j]:
        return False, 0.0
    iou = np.float64(suppression_iou(boxes[i], boxes[j]))
    return iou > NEIGHBOUR_IOU, iou


@compiled
def _count_voters(first: int, end: int, _: Any, boxes: Any, labels: Any, mask: Any, counts: Any) -> None:
    """How many vote on each candidate of a slice of the images."""
    num_candidates = labels.shape[1]
    for b in range(first, end):
        for i in range(num_candidates):
            if mask[b, i]:
                for j in range(num_candidates):
                    near, _iou = is_voter(i, j, boxes[b], labels[b], mask[b])
                    counts[b, i] += near


@compiled
def _list_voters(
    first: int, end: int, _: Any, boxes: Any, labels: Any, mask: Any, starts: Any, voters: Any, overlaps: Any, traits: Any
) -> None:  # fmt: skip
    """Write the voters, their overlaps and the traits of a slice of the images."""
    num_candidates = labels.shape[1]
    for b in range(first, end):
        for i in range(num_candidates):
            if not mask[b, i]:
                continue
            k = starts[b, i]
            for j in range(num_candidates):
                near, iou = is_voter(i, j, boxes[b], labels[b], mask[b])
                if near:
                    voters[k], overlaps[k] = j, iou
                    k += 1
            write_traits(boxes[b], i, voters, overlaps, starts[b, i], k, traits[b, i])


@compilable
def write_traits(boxes: Any, i: int, voters: Any, overlaps: Any, start: int, end: int, traits: Any) -> None:
    """Write what does not depend on the numbers of a vote, for one candidate."""
    support, spread = 0.0, 0.0
    for k in range(start, end):
        support += np.exp((overlaps[k] - 1) / SHARPNESS)
    width, height = np.float64(boxes[i, 2] - boxes[i, 0]), np.float64(boxes[i, 3] - boxes[i, 1])
    for side in range(4):
        length = max(1.0, width if side % 2 == 0 else height)
        mean, square = 0.0, 0.0
        for k in range(start, end):
            share = np.exp((overlaps[k] - 1) / SHARPNESS) / support
            apart = (np.float64(boxes[voters[k], side]) - np.float64(boxes[i, side])) / length
            mean += share * apart
            square += share * apart * apart
        spread += np.sqrt(max(0.0, square - mean * mean)) / 4
    area = width * height
    traits[0], traits[1] = np.log(support), spread
    traits[2] = 0.5 * np.log(max(1.0, area) / SMALL_AREA)
    traits[3], traits[4] = area < SMALL_AREA, area > LARGE_AREA


@kept
def room_for_weights(num_candidates: int) -> Any:
    """Room for what each candidate weighs as a voter on boxes."""
    return np.zeros(num_candidates)


@compiled
def _vote(first: int, end: int, weights: Any, who: Any, numbers: Any, boxes: Any, logits: Any) -> None:
    """`vote` for a slice of the images."""
    sharpness, exponent, step, slope, mean_share, softness, support, spread, size, small, large = numbers
    old_boxes, old_logits, mask, starts, voters, overlaps, traits = who
    moves = step != 0 or slope != 0
    for b in range(first, end):
        if moves:
            for j in range(mask.shape[1]):
                weights[j] = np.exp(-exponent * np.log1p(np.exp(-cut_off(old_logits[b, j])))) if mask[b, j] else 0.0
        for i in range(mask.shape[1]):
            if not mask[b, i]:
                continue
            start, stop, own = starts[b, i], starts[b, i + 1], np.float64(old_logits[b, i])
            share = min(1.0, max(0.0, step + slope * cut_off(own) / 4))
            if share > 0:
                move(old_boxes[b], i, voters, overlaps, start, stop, weights, sharpness, share, boxes[b, i])
            new = own
            if mean_share != 0:
                total, mean = 0.0, 0.0
                for k in range(start, stop):
                    weight = np.exp((overlaps[k] - 1) / softness)
                    total += weight
                    mean += weight * old_logits[b, voters[k]]
                new += mean_share * (mean / total - own)
            t = traits[b, i]
            new += support * t[0] + spread * t[1] + size * t[2] + small * t[3] + large * t[4]
            logits[b, i] = new


@compilable
def cut_off(logit: Any) -> Any:
    """The logit, cut off at the ends of its range."""
    return min(LOGIT_RANGE, max(-LOGIT_RANGE, np.float64(logit)))


@compilable
def move(
    boxes: Any, i: int, voters: Any, overlaps: Any, start: int, end: int, weights: Any, sharpness: float, share: float,
    moved: Any,
) -> None:  # fmt: skip
    """Write a box that has gone this share of the way to its voters' mean. It lies between boxes, so it needs no clipping."""
    total, left, top, right, bottom = 0.0, 0.0, 0.0, 0.0, 0.0
    for k in range(start, end):
        j = voters[k]
        weight = weights[j] * np.exp((overlaps[k] - 1) / sharpness)
        total += weight
        left += weight * boxes[j, 0]
        top += weight * boxes[j, 1]
        right += weight * boxes[j, 2]
        bottom += weight * boxes[j, 3]
    moved[0] = (1 - share) * boxes[i, 0] + share * (left / total)
    moved[1] = (1 - share) * boxes[i, 1] + share * (top / total)
    moved[2] = (1 - share) * boxes[i, 2] + share * (right / total)
    moved[3] = (1 - share) * boxes[i, 3] + share * (bottom / total)
