"""Tune a policy by a differentiable surrogate of AP and by the detector's own losses, on cached encodings and labels.

The surrogate ranks what a user would see: the candidates that survive NMS under the policy's present boxes and logits.
It ranks all images of the batch together, class by class, because mAP is a mean over classes. A candidate is right or
wrong as in COCO's one-to-one matching, so a second detection of an object is wrong. A surrogate that takes right and
wrong is computed at each of COCO's ten IoU thresholds, and the loss is the mean. A surrogate that takes IoUs is
computed at 0.5.

Two terms protect the detector. Its supervised losses are added, because boxes and scores share a trunk, and a loss of
scores alone lets the boxes drift. If a policy has a module beside the head, what the module adds to the head's logits
has a penalty, because ranks do not depend on scale. The surrogate changes only scores. For policies that move boxes, a
box term brings the boxes nearer to their objects.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from jaxtyping import Float
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from rl_det.ap.options import IOU_THRESHOLDS
from rl_det.candidates import Observation, clipped, gather_boxes, gather_logits, observe, select_candidates
from rl_det.detectors import Detector
from rl_det.errors import UserError
from rl_det.losses.alrp import alrp_loss
from rl_det.losses.ap import ap_loss
from rl_det.losses.blackbox import blackbox_ap
from rl_det.losses.bucketed import bucketed_ap_loss, bucketed_rank_sort_loss
from rl_det.losses.listwise import list_mle, list_net
from rl_det.losses.pointwise import cross_entropy
from rl_det.losses.policy_gradient import masked_mean
from rl_det.losses.rank_sort import rank_sort_loss
from rl_det.losses.smooth_ap import smooth_ap
from rl_det.policies.build import PolicyName, build_policy
from rl_det.policies.head import head_logits
from rl_det.policies.policy import Policy
from rl_det.settings import at_least, check_settings, positive
from rl_det.strategies import health
from rl_det.strategies.class_lists import ClassLists, class_lists, match_candidates
from rl_det.strategies.hand_set import Begin, begin_at, check_begin, check_votes
from rl_det.strategies.labels import control_loop, labels_learner, supervised_loss
from rl_det.strategies.strategy import Task
from rl_det.strategies.supervised import labelled
from rl_det.training.loop import Ending
from rl_det.types import Candidates, Encoded, HeadOutput, Sample, Target

SurrogateName = Literal[
    "ap", "smooth_ap", "rank_sort", "alrp", "bucketed_ap", "bucketed_rank_sort", "list_net", "list_mle", "blackbox",
    "cross_entropy",
]  # fmt: skip
"""The surrogates of AP, and cross-entropy on the same labels, which shows the gain without ranking."""


@dataclass(frozen=True, kw_only=True)
class Surrogate:
    """A differentiable surrogate of AP, together with the detector's own losses."""

    loss: SurrogateName = field(default="smooth_ap", kw_only=False)
    """The surrogate of AP."""
    name: str = "surrogate"
    """The name of its row in the table."""
    policy: PolicyName | None = None
    """The policy that is tuned: the head alone, or the head with the policy's module; left out: as for PPO."""
    begin: Begin | None = None
    """Where the policy starts: at the warm start, or at the hand-set votes that are best on validation. Left out: at the
    votes where the policy votes."""
    num_candidates: int = 96
    """The candidates of an image from which NMS chooses those that are ranked."""
    surrogate_weight: float = 5.0
    """Weight of the surrogate."""
    supervised_weight: float = 1.0
    """Weight of the detector's own losses; at 0 the surrogate is alone."""
    box_weight: float = 1.0
    """Weight of the boxes' distance from their objects, if the policy moves boxes."""
    residual_penalty: float = 0.1
    """Weight of the mean square of what a module adds to the head's own logits, if the policy has one."""
    learning_rate: float | None = None
    """AdamW's peak rate; left out: the head's in the warm start, or a quarter of the whole detector's if all is trained."""
    max_grad_norm: float = 1.0
    """The maximum norm of the gradient; a larger gradient is scaled down."""

    def __post_init__(self) -> None:
        weights = "surrogate_weight", "supervised_weight", "box_weight", "residual_penalty"
        check_settings(
            self,
            num_candidates=at_least(1),
            learning_rate=positive(usual="2e-3"),
            max_grad_norm=positive(infinite=True),
            **dict.fromkeys(weights, at_least(0)),
        )
        check_begin(self.begin, self.policy)
        if self.policy == "refine":
            raise UserError(
                "the refining policy moves boxes alone, and a surrogate of AP ranks scores; take policy voting"
            )

    @property
    def trains(self) -> Literal["head"]:
        """The head, and the policy's module."""
        return "head"

    def start(self, detector: Detector) -> Policy:
        """The policy at the warm start."""
        policy = build_policy(self.policy, detector)
        check_votes(self.begin, policy)
        return policy

    def tune(self, policy: Policy, task: Task) -> Ending:
        """Train with the control's batches, schedule and selection, but with another loss."""
        begin_at(self.begin, policy, task)
        learner = labels_learner(policy, task, partial(policy_losses, config=self))
        loop = control_loop(task, self.learning_rate, self.max_grad_norm)
        penalty = self.residual_penalty  # by which the metric is multiplied
        return task.fit(learner, replace(loop, bounds={"residual": health.RESIDUAL * penalty} if penalty else {}))


def policy_losses(
    policy: Policy, encoded: Encoded, output: HeadOutput, targets: Sequence[Target], config: Surrogate
) -> dict[str, Float[Tensor, ""]]:
    """The weighted loss terms by name: the surrogate and the terms beside it; their sum is minimised."""
    observation = observe(select_candidates(output, encoded.mask, config.num_candidates), encoded)
    return losses_of_shown(policy, observation, policy.adjusted(observation, output), encoded, output, targets, config)


def losses_of_shown(
    policy: Policy,
    observation: Observation,
    adjusted: tuple[Float[Tensor, "B N 4"], Float[Tensor, "B N"]],
    encoded: Encoded,
    output: HeadOutput,
    targets: Sequence[Target],
    config: Surrogate,
) -> dict[str, Float[Tensor, ""]]:
    """The loss terms of the candidates shown, which the policy has adjusted to these relative boxes and logits."""
    boxes, logits = adjusted
    residual = logits - head_logits(observation, output)
    in_pixels = clipped(boxes * observation["size"][:, None], encoded.image_size)
    candidates = Candidates(
        boxes=in_pixels.detach(),
        labels=observation["labels"],
        logits=logits.detach(),
        mask=observation["mask"],
        index=observation["index"],
    )
    losses = surrogate_losses(policy.detector, in_pixels, logits, candidates, targets, config)
    losses["residual"] = config.residual_penalty * masked_mean(residual.square(), candidates.mask)
    if config.supervised_weight:
        supervised = supervised_loss(policy, encoded, output, targets)
        losses["supervised"] = config.supervised_weight * supervised
    return losses


def model_losses(detector: Detector, samples: Sequence[Sample], config: Surrogate) -> dict[str, Float[Tensor, ""]]:
    """The model's own losses and the surrogate of its detections, with gradient to the whole model, for training from scratch.

    One pass serves both. The model's losses sample proposals and add the true boxes. The surrogate ranks all proposals
    of the model, without true boxes. The model is left in eval mode.
    """
    device = detector.device
    images = [sample.image for sample in samples]
    own, encoded, output = detector.training_pass(images, [labelled(sample, device) for sample in samples])
    candidates = select_candidates(output, encoded.mask, config.num_candidates)
    boxes, logits = gather_boxes(output.boxes, candidates.index), gather_logits(output.logits, candidates.index)
    ranked = surrogate_losses(detector, boxes, logits, candidates, [sample.target for sample in samples], config)
    return {name: config.supervised_weight * loss for name, loss in own.items()} | ranked


def surrogate_losses(
    detector: Detector,
    boxes: Float[Tensor, "B N 4"],
    logits: Float[Tensor, "B N"],
    candidates: Candidates,
    targets: Sequence[Target],
    config: Surrogate,
) -> dict[str, Float[Tensor, ""]]:
    """The surrogate of candidates with these boxes (in the user's pixels) and logits, and the box term."""
    classes, nms_iou = detector.num_classes, detector.nms_iou
    matched = match_candidates(boxes.detach(), logits.detach(), candidates, targets, classes, nms_iou)
    error = generalized_box_iou_loss(boxes, matched.object_box)
    lists = class_lists(matched, logits, error)
    near = matched.kept & (matched.iou >= IOU_THRESHOLDS[0])
    return {
        config.loss: config.surrogate_weight * SURROGATES[config.loss](lists),
        "boxes": config.box_weight * masked_mean(error.where(near, 0.0), near),
    }


def at_every_threshold(
    loss: Callable[..., Tensor], *, expand: bool = True
) -> Callable[[ClassLists], Float[Tensor, ""]]:
    """Make a loss of class lists from a loss of right and wrong: its mean over COCO's IoU thresholds.

    `expand` the scores to all thresholds, unless the loss takes one list of scores for several judgements.
    """

    def mean(lists: ClassLists) -> Float[Tensor, ""]:
        num_positives = (lists.num_positives * len(lists.right)).expand(lists.right.shape[:2])
        scores = lists.scores.expand_as(lists.right) if expand else lists.scores
        return loss(scores, lists.right, lists.counted, num_positives=num_positives)

    return mean


def rank_and_sort(loss: Callable[..., Tensor]) -> Callable[[ClassLists], Float[Tensor, ""]]:
    """Make a loss of class lists from a loss that sorts the right candidates by their IoU."""
    return lambda lists: loss(
        lists.scores, lists.right[0], lists.iou, lists.counted[0], num_positives=lists.num_positives
    )


def graded(loss: Callable[..., Tensor]) -> Callable[[ClassLists], Float[Tensor, ""]]:
    """Make a loss of class lists from a loss of relevance: the share of IoU thresholds at which an entry is right."""
    return lambda lists: loss(
        lists.scores, lists.right.to(lists.scores.dtype).mean(0), lists.counted[0], num_positives=lists.num_positives
    )


def average_lrp(lists: ClassLists) -> Float[Tensor, ""]:
    """aLRP of class lists; the localisation error is 1 at an IoU of 0.5."""
    error = lists.error / (1 - IOU_THRESHOLDS[0])
    return alrp_loss(lists.scores, lists.right[0], error, lists.counted[0], num_positives=lists.num_positives)


SURROGATES: dict[str, Callable[[ClassLists], Float[Tensor, ""]]] = {
    "ap": at_every_threshold(ap_loss),
    "smooth_ap": at_every_threshold(smooth_ap, expand=False),
    "rank_sort": rank_and_sort(rank_sort_loss),
    "alrp": average_lrp,
    "bucketed_ap": at_every_threshold(bucketed_ap_loss),
    "bucketed_rank_sort": rank_and_sort(bucketed_rank_sort_loss),
    "list_net": graded(list_net),
    "list_mle": graded(list_mle),
    "blackbox": at_every_threshold(blackbox_ap),
    "cross_entropy": graded(cross_entropy),
}
