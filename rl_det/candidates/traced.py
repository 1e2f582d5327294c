"""Post-processing of one image by operations of tensors alone, which torch can trace; the engine's own is compiled code.

Both give the same detections: `rl_det.candidates.votes` has the formulas of the votes, `rl_det.candidates.soft_nms` those of
the decay.
"""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from rl_det.boxes import iou
from rl_det.candidates.nms import has_area
from rl_det.candidates.postprocessing import PostProcessingSettings, detections_of
from rl_det.candidates.votes import LARGE_AREA, LOGIT_RANGE, NEIGHBOUR_IOU, SHARPNESS, SMALL_AREA, Votes
from rl_det.types import Candidates, Detections


def detections_of_one(candidates: Candidates, how: PostProcessingSettings) -> Detections:
    """The detections of one image, best score first, as `detections_of` gives them."""
    if not how.votes.is_neutral:
        candidates = voted(candidates, how.votes)
    if not how.is_hard:
        return _softly(candidates, how)
    (found,) = detections_of(candidates, replace(how, votes=Votes()))
    return found


def voted(candidates: Candidates, votes: Votes) -> Candidates:
    """The candidates of one image after the vote; what padding becomes has no meaning."""
    boxes, logits = candidates.boxes[0], candidates.logits[0].masked_fill(~candidates.mask[0], 0.0)
    exact, own = boxes.double(), logits.double()
    seen = own.clamp(-LOGIT_RANGE, LOGIT_RANGE)
    overlap = overlaps(boxes)
    near = _alike(candidates) & (overlap > NEIGHBOUR_IOU) | torch.eye(len(boxes), dtype=torch.bool)
    overlap = overlap.masked_fill(torch.eye(len(boxes), dtype=torch.bool), 1.0)
    worth = (-votes.score_exponent * (-seen).exp().log1p()).exp()
    mean_box = _shares(near, overlap, votes.sharpness, worth) @ exact
    step = (votes.step + votes.step_slope * seen / 4).clamp(0, 1)[:, None]
    mean_logit = (_shares(near, overlap, votes.softness) @ own[:, None])[:, 0]
    agreed = own + votes.mean_share * (mean_logit - own) + _corrections(exact, near, overlap, votes)
    moved = ((1 - step) * exact + step * mean_box).float().where(step > 0, boxes)
    return replace(candidates, boxes=moved[None], logits=agreed.float()[None].where(candidates.mask, -torch.inf))


def _corrections(
    boxes: Float64[Tensor, "N 4"], near: Bool[Tensor, "N N"], overlap: Float64[Tensor, "N N"], votes: Votes
) -> Float64[Tensor, " N"]:
    """What agreement, disagreement and size add to the logits."""
    share = _shares(near, overlap, SHARPNESS)
    support = (((overlap - 1) / SHARPNESS).exp() * near).sum(1).log()
    sides = (boxes[:, 2:] - boxes[:, :2]).float().double()
    spread = torch.zeros_like(support)
    for side in range(4):
        apart = (boxes[:, side] - boxes[:, side, None]) / sides[:, side % 2, None].clamp(min=1)
        spread = spread + ((share * apart.square()).sum(1) - (share * apart).sum(1).square()).clamp(min=0).sqrt() / 4
    area = sides[:, 0] * sides[:, 1]
    size = 0.5 * (area.clamp(min=1) / SMALL_AREA).log()
    of_sizes = votes.small * (area < SMALL_AREA).double() + votes.large * (area > LARGE_AREA).double()
    return votes.support * support + votes.spread * spread + votes.size * size + of_sizes


def _shares(
    near: Bool[Tensor, "N N"],
    overlap: Float64[Tensor, "N N"],
    sharpness: float,
    worth: Float64[Tensor, " N"] | None = None,
) -> Float64[Tensor, "N N"]:
    """Each voter's share in a candidate's mean, by overlap and by what the voter is worth."""
    weight = ((overlap - 1) / sharpness).exp() * near
    weight = weight if worth is None else weight * worth
    return weight / weight.sum(1, keepdim=True)


def _softly(candidates: Candidates, how: PostProcessingSettings) -> Detections:
    """Soft-NMS: the best that waits is taken, and lowers those of its class; as often as there may be detections."""
    one_more = torch.zeros(1, dtype=torch.bool)  # so that there is one to take where none waits
    waiting = torch.cat([candidates.mask[0] & has_area(candidates.boxes[0]), one_more])
    left = torch.cat([candidates.logits[0].double().sigmoid(), torch.zeros(1, dtype=torch.float64)])
    overlap = torch.nn.functional.pad(overlaps(candidates.boxes[0]) * _alike(candidates), (0, 1, 0, 1))
    lowered, every = (-overlap.square() / how.sigma).exp(), torch.arange(len(left))
    taken, scores, real = [], [], []
    for _ in range(how.max_detections):
        best = left.where(waiting, -1.0).argmax(keepdim=True)
        taken.append(best)
        scores.append(left[best])
        real.append(waiting[best])
        waiting = waiting & (every != best) & (overlap[best][0] <= how.nms_iou)
        left = left * lowered[best][0]
    counted = torch.cat(real)
    place, score = torch.cat(taken)[counted], torch.cat(scores)[counted]
    labels = candidates.labels[0][place]
    if how.recalibrates:
        scale, shift = (_of_labels(own, labels) for own in (how.scale, how.shift))
        score = (scale * (score / (1 - score)).log() + shift).sigmoid()
    order = score.sort(descending=True).indices
    return Detections(boxes=candidates.boxes[0][place[order]], labels=labels[order], scores=score[order].float())


def overlaps(boxes: Float[Tensor, "N 4"]) -> Float64[Tensor, "N N"]:
    """The IoU of every pair in single precision, as NMS computes it: a box that is not finite overlaps none."""
    found = iou(boxes[:, None], boxes)
    return found.where(found > 0, 0.0).double()


def _alike(candidates: Candidates) -> Bool[Tensor, "N N"]:
    """Whether both of a pair are real, and of one class."""
    labels, real = candidates.labels[0], candidates.mask[0]
    return (labels[:, None] == labels) & real[:, None] & real


def _of_labels(values: tuple[float, ...], labels: Int[Tensor, " N"]) -> Float64[Tensor, " N"]:
    """Each detection's own number, of one for all classes or one for each."""
    every = torch.tensor(values, dtype=torch.float32).double()
    return every.expand(labels.shape) if len(values) == 1 else every[labels - 1]
