"""A policy and cached encodings with labels -> the same policy, tuned by a surrogate of its own AP and by its own losses.

What is ranked is what a user would see: the candidates that survive NMS under the policy's present boxes and logits, all
images of the batch together, class by class, since mAP is a mean over classes. Right and wrong are COCO's: one-to-one, so
that a second detection of an object is wrong. A surrogate that knows but right and wrong is asked at each of COCO's ten IoU
thresholds, and their mean is taken; one that is graded by IoU is asked at 0.5.

Two protections. The detector's supervised losses are mixed in, as boxes and scores share a trunk, and a loss of scores alone
lets the boxes drift. And where a policy has a module beside the head, what it adds to the head's logits has a penalty, as
ranks do not feel a scale. Scores move no box; boxes have a term of their own, by which those that a policy moves come nearer
to their objects. It is nothing to a policy that moves none.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from rl_det.ap.candidate_pool import CandidatePool
from rl_det.ap.options import IOU_THRESHOLDS
from rl_det.ap.padding import candidate_relations, pad_targets
from rl_det.candidates import clipped, gather_logits, observe, select_candidates
from rl_det.detectors.encodings import EncodedDataset
from rl_det.detectors.protocol import Detector
from rl_det.losses.alrp import alrp_loss
from rl_det.losses.ap import ap_loss
from rl_det.losses.blackbox import blackbox_ap
from rl_det.losses.bucketed import bucketed_ap_loss, bucketed_rank_sort_loss
from rl_det.losses.listwise import list_mle, list_net
from rl_det.losses.pointwise import cross_entropy
from rl_det.losses.policy_gradient import masked_mean
from rl_det.losses.rank_sort import rank_sort_loss
from rl_det.losses.smooth_ap import smooth_ap
from rl_det.policies.policy import Policy
from rl_det.training import continued
from rl_det.training.supervised import labelled
from rl_det.types import Candidates, Encoded, HeadOutput, Sample, Target

SurrogateName = Literal[
    "ap", "smooth_ap", "rank_sort", "alrp", "bucketed_ap", "bucketed_rank_sort", "list_net", "list_mle", "blackbox",
    "cross_entropy",
]  # fmt: skip
"""Surrogates of AP, and the cross-entropy of the same labels: what is gained without ranking."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which surrogate, and what stands beside it."""

    loss: str = "smooth_ap"
    """The surrogate of AP, one of `SurrogateName`."""
    num_candidates: int = 96
    """Of an image, from which NMS chooses what is ranked."""
    surrogate_weight: float = 5.0
    """Weight of the surrogate."""
    supervised_weight: float = 1.0
    """Weight of the detector's own losses; 0 is the surrogate alone."""
    box_weight: float = 1.0
    """Weight of the boxes' distance from their objects, where the policy moves boxes."""
    residual_penalty: float = 0.1
    """Weight of the mean square of what a module adds to the head's own logits, where the policy has one."""

    def __post_init__(self) -> None:
        if self.loss not in get_args(SurrogateName):
            raise ValueError(f"loss must be one of {', '.join(get_args(SurrogateName))}; got {self.loss!r}")
        if self.num_candidates < 1:
            raise ValueError(f"num_candidates must be at least 1; got {self.num_candidates}; 96 is usual")


def train(
    policy: Policy,
    data: EncodedDataset,
    config: Config,
    schedule: continued.Config,
    *,
    generator: torch.Generator,
    validate: Callable[[], float],
    on_step: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
) -> float:
    """Train the policy in place and leave it at its best validation AP, which is returned.

    Batches, schedule and selection are the control's: its loop with another loss.
    """
    return continued.train(
        policy,
        data,
        schedule,
        generator=generator,
        validate=validate,
        on_step=on_step,
        losses=partial(policy_losses, config=config),
    )


def policy_losses(
    policy: Policy, encoded: Encoded, output: HeadOutput, targets: Sequence[Target], config: Config
) -> dict[str, Float[Tensor, ""]]:
    """The surrogate and all that stands beside it, weighted; their sum is to be minimised."""
    candidates = select_candidates(output, encoded.mask, config.num_candidates)
    observation = observe(candidates, encoded)
    boxes, logits = policy.adjusted(observation, output)
    residual = logits - policy.logits(observation, output)
    in_pixels = clipped(boxes * observation["size"][:, None], encoded.image_size)
    losses = surrogate_losses(policy.detector, in_pixels, logits, candidates, targets, config)
    losses["residual"] = config.residual_penalty * masked_mean(residual.square(), candidates.mask)
    if config.supervised_weight:
        supervised = continued.supervised_loss(policy, encoded, output, targets)
        losses["supervised"] = config.supervised_weight * supervised
    return losses


def model_losses(detector: Detector, samples: Sequence[Sample], config: Config) -> dict[str, Float[Tensor, ""]]:
    """For training from the start: the model's own losses, and the surrogate of what it detects; gradient to all of it.

    One pass serves both. The model's losses draw some proposals and add the true boxes to them; the surrogate ranks all that
    the model proposes, and no true box. The model is left in eval mode.
    """
    device = detector.head_parameters()[0].device
    images = [sample.image for sample in samples]
    own, encoded, output = detector.training_pass(images, [labelled(sample, device) for sample in samples])
    candidates = select_candidates(output, encoded.mask, config.num_candidates)
    image = torch.arange(len(samples), device=device)[:, None]
    boxes, logits = output.boxes.flatten(1, 2)[image, candidates.index], gather_logits(output.logits, candidates.index)
    ranked = surrogate_losses(detector, boxes, logits, candidates, [sample.target for sample in samples], config)
    return {name: config.supervised_weight * loss for name, loss in own.items()} | ranked


def surrogate_losses(
    detector: Detector,
    boxes: Float[Tensor, "B N 4"],
    logits: Float[Tensor, "B N"],
    candidates: Candidates,
    targets: Sequence[Target],
    config: Config,
) -> dict[str, Float[Tensor, ""]]:
    """The surrogate of candidates with these boxes, in the user's pixels, and logits; and the boxes' own term."""
    classes, nms_iou = detector.num_classes, detector.nms_iou
    matched = match_candidates(boxes.detach(), logits.detach(), candidates, targets, classes, nms_iou)
    error = generalized_box_iou_loss(boxes, matched.object_box)
    lists = class_lists(matched, logits, error)
    near = matched.kept & (matched.iou >= IOU_THRESHOLDS[0])
    return {
        config.loss: config.surrogate_weight * SURROGATES[config.loss](lists),
        "boxes": config.box_weight * masked_mean(error.where(near, 0.0), near),
    }


@dataclass(frozen=True, kw_only=True)
class MatchedCandidates:
    """B images' candidates after matching: which NMS has kept, and at which IoU thresholds they are right or do not count.

    `iou` is that with the nearest true box of the candidate's class, which is `object_box`; where there is none, 0 and the
    candidate's own. `positives` counts the true boxes of each class.
    """

    labels: Int[Tensor, "B N"]
    kept: Bool[Tensor, "B N"]
    right: Bool[Tensor, "T B N"]
    ignored: Bool[Tensor, "T B N"]
    iou: Float[Tensor, "B N"]
    object_box: Float[Tensor, "B N 4"]
    positives: Float[Tensor, " C"]


def match_candidates(
    boxes: Float[Tensor, "B N 4"],
    logits: Float[Tensor, "B N"],
    candidates: Candidates,
    targets: Sequence[Target],
    num_classes: int,
    nms_iou: float,
) -> MatchedCandidates:
    """NMS, and COCO's matching at all thresholds, by the engine."""
    moved = Candidates(
        boxes=boxes, labels=candidates.labels, logits=logits, mask=candidates.mask, index=candidates.index
    )
    related = candidate_relations(moved, targets, num_classes=num_classes)
    scores = np.ascontiguousarray(logits.double().numpy(force=True))
    matches = CandidatePool(related, scores, nms_iou=nms_iou).matches
    image, place = np.nonzero(np.arange(logits.shape[1]) < matches.starts[:, -1:])
    candidate = matches.order[image, place]
    kept = np.zeros(logits.shape, dtype=np.bool_)
    kept[image, candidate] = True
    bits = np.zeros((2, *logits.shape), dtype=np.int64)
    bits[0, image, candidate], bits[1, image, candidate] = (
        matches.hits[0, image, place],
        matches.ignored[0, image, place],
    )
    threshold = np.arange(len(IOU_THRESHOLDS)).reshape(-1, 1, 1, 1)
    right, ignored = (torch.from_numpy((bits >> threshold & 1).astype(np.bool_)).to(boxes.device)).unbind(1)
    iou, object_box = nearest_objects(boxes, candidates, targets)
    return MatchedCandidates(
        labels=candidates.labels,
        kept=torch.from_numpy(kept).to(boxes.device),
        right=right,
        ignored=ignored,
        iou=iou,
        object_box=object_box,
        positives=torch.from_numpy(related.positives.sum(0)).to(boxes),
    )


def nearest_objects(
    boxes: Float[Tensor, "B N 4"], candidates: Candidates, targets: Sequence[Target]
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N 4"]]:
    """Each candidate's IoU with the nearest true box of its class that is no crowd, and that box; else 0 and its own."""
    truths = pad_targets(targets)
    if not truths.mask.size:
        return torch.zeros_like(boxes[..., 0]), boxes
    wanted = torch.from_numpy(truths.mask & ~truths.iscrowd).to(boxes.device)
    labels, true_boxes = torch.from_numpy(truths.labels).to(boxes.device), torch.from_numpy(truths.boxes).to(boxes)
    own, others = boxes[:, :, None], true_boxes[:, None]
    sides = (own[..., 2:].minimum(others[..., 2:]) - own[..., :2].maximum(others[..., :2])).clamp(min=0)
    shared = sides[..., 0] * sides[..., 1]
    areas = [(part[..., 2] - part[..., 0]) * (part[..., 3] - part[..., 1]) for part in (own, others)]
    overlap = shared / (areas[0] + areas[1] - shared).clamp(min=1e-9)
    allowed = wanted[:, None] & (labels[:, None] == candidates.labels[..., None]) & candidates.mask[..., None]
    iou, nearest = overlap.where(allowed, 0.0).max(2)
    found = true_boxes.gather(1, nearest[..., None].expand(-1, -1, 4))
    return iou, found.where((iou > 0)[..., None], boxes)


@dataclass(frozen=True, kw_only=True)
class ClassLists:
    """The kept candidates of all images, class by class, padded to the longest; only classes that are truly there.

    `scores` and `error`, the boxes' distance from their objects, have a graph. `num_positives` is such that the loss is
    a mean over the classes of means over their true boxes.
    """

    scores: Float[Tensor, "C M"]
    right: Bool[Tensor, "T C M"]
    counted: Bool[Tensor, "T C M"]
    iou: Float[Tensor, "C M"]
    error: Float[Tensor, "C M"]
    num_positives: Float[Tensor, " C"]


def class_lists(matched: MatchedCandidates, logits: Float[Tensor, "B N"], error: Float[Tensor, "B N"]) -> ClassLists:
    """The matched candidates as lists to rank."""
    present = matched.positives > 0
    ranked = (matched.kept & present[matched.labels - 1]).flatten().nonzero().flatten()
    labels, order = matched.labels.flatten()[ranked].sort(stable=True)
    ranked = ranked[order]
    place = torch.arange(len(ranked), device=ranked.device) - torch.searchsorted(labels, labels)
    shape = len(present), int(place.max()) + 1 if len(place) else 0
    index, mask = ranked.new_zeros(shape), torch.zeros(shape, dtype=torch.bool, device=ranked.device)
    index[labels - 1, place], mask[labels - 1, place] = ranked, True
    index, mask = index[present], mask[present]
    right, ignored = (part.flatten(1)[:, index] for part in (matched.right, matched.ignored))
    return ClassLists(
        scores=logits.flatten()[index],
        right=right & mask,
        counted=mask & ~ignored,
        iou=matched.iou.flatten()[index],
        error=error.flatten()[index],
        num_positives=matched.positives[present] * present.sum(),
    )


def at_every_threshold(loss: Callable[..., Tensor]) -> Callable[[ClassLists], Float[Tensor, ""]]:
    """The mean over COCO's IoU thresholds of a loss that knows right and wrong."""

    def mean(lists: ClassLists) -> Float[Tensor, ""]:
        num_positives = (lists.num_positives * len(lists.right)).expand(lists.right.shape[:2])
        scores = lists.scores.expand_as(lists.right)
        return loss(scores, lists.right, lists.counted, num_positives=num_positives)

    return mean


def rank_and_sort(loss: Callable[..., Tensor]) -> Callable[[ClassLists], Float[Tensor, ""]]:
    """A loss that sorts the right ones by their IoU."""
    return lambda lists: loss(
        lists.scores, lists.right[0], lists.iou, lists.counted[0], num_positives=lists.num_positives
    )


def graded(loss: Callable[..., Tensor]) -> Callable[[ClassLists], Float[Tensor, ""]]:
    """A loss of lists graded by the share of IoU thresholds at which an entry is right."""
    return lambda lists: loss(
        lists.scores, lists.right.to(lists.scores.dtype).mean(0), lists.counted[0], num_positives=lists.num_positives
    )


def average_lrp(lists: ClassLists) -> Float[Tensor, ""]:
    """aLRP, whose errors of localisation are 1 where the IoU is 0.5."""
    error = lists.error / (1 - IOU_THRESHOLDS[0])
    return alrp_loss(lists.scores, lists.right[0], error, lists.counted[0], num_positives=lists.num_positives)


SURROGATES: dict[str, Callable[[ClassLists], Float[Tensor, ""]]] = {
    "ap": at_every_threshold(ap_loss),
    "smooth_ap": at_every_threshold(smooth_ap),
    "rank_sort": rank_and_sort(rank_sort_loss),
    "alrp": average_lrp,
    "bucketed_ap": at_every_threshold(bucketed_ap_loss),
    "bucketed_rank_sort": rank_and_sort(bucketed_rank_sort_loss),
    "list_net": graded(list_net),
    "list_mle": graded(list_mle),
    "blackbox": at_every_threshold(blackbox_ap),
    "cross_entropy": graded(cross_entropy),
}
