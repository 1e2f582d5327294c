"""Strategies without training: hand-set votes and post-processing, the best of a few settings on validation.

They cost seconds, so a trained policy has to beat them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product
from typing import ClassVar, Literal

import numpy as np

from rl_det.candidates.postprocessing import PostProcessingSettings
from rl_det.detectors import Detector
from rl_det.errors import UserError
from rl_det.policies.build import PolicyName, build_policy
from rl_det.policies.detections import candidates_ap, candidates_of
from rl_det.policies.policy import Policy
from rl_det.policies.recalibration import recalibrated
from rl_det.policies.voting import VotingPolicy
from rl_det.progress import SHORT_WORK, bar
from rl_det.settings import check_settings
from rl_det.strategies.labels import Labels
from rl_det.strategies.strategy import Strategy, Task
from rl_det.training.loop import Ending

WARM_START = "warm_start"
VOTED = "_voted"
"""The suffix of a row's name for the same head with hand-set votes."""
Begin = Literal["warm_start", "hand_set_votes"]
"""Where a policy starts: at the warm start, or at the hand-set votes that are best on validation."""
PLAIN_VOTES = ((1.0, 0.0), (1.0, 0.35), (1.0, 0.5), (1.0, 0.75))
"""The settings among which hand-set votes are chosen: step of the boxes, share of the mean logit."""
NMS_IOUS = (0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 1.0)
DECAYS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
"""1 / sigma of soft-NMS; 0 is hard NMS."""


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """The detector as it is: the strategy changes nothing."""

    name: str = WARM_START
    """The name of its row in the table."""

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def trains(self) -> Literal["head"]:
        """The head, in the sense that validation selects it; nothing is trained."""
        return "head"

    def start(self, detector: Detector) -> Policy:
        """The rescoring policy on the detector's head."""
        return build_policy("rescore", detector)

    def tune(self, policy: Policy, task: Task) -> Ending:
        """Change nothing; report the validation AP."""
        return Ending(reason="budget", best=task.validation_ap(policy))


def check_runs_first(strategy: WarmStart | Labels) -> None:
    """Raise UserError for settings that do nothing in a strategy whose head another one takes over."""
    usual = type(strategy)()
    for setting in ("name", "policy"):
        if (given := getattr(strategy, setting, None)) != getattr(usual, setting, None):
            raise UserError(f"{setting} does nothing in a strategy that runs first; got {given!r}; leave it out")


@dataclass(frozen=True, kw_only=True)
class HandSetVotes:
    """Hand-set votes on the head that another strategy leaves."""

    policy: ClassVar[PolicyName] = "voting"
    """The policy that it needs."""
    name: str = "voting_untrained"
    """The name of its row in the table."""
    after: WarmStart | Labels = field(default_factory=WarmStart)
    """The strategy that runs first; its name and its policy are left out, because this row has its own."""

    def __post_init__(self) -> None:
        check_settings(self)
        check_runs_first(self.after)

    @property
    def trains(self) -> Literal["head"]:
        """The head, which the strategy before trains."""
        return "head"

    def start(self, detector: Detector) -> Policy:
        """The voting policy, whose votes do not change anything yet."""
        return build_policy("voting", detector)

    def tune(self, policy: Policy, task: Task) -> Ending:
        """Run the strategy before, then set the votes."""
        ending = self.after.tune(policy, task)
        set_best_votes(policy, task.validation_ap)
        return replace(ending, best=task.validation_ap(policy), best_update=None)


@dataclass(frozen=True, kw_only=True)
class PostProcessingGrid:
    """The NMS IoU and soft-NMS with the best validation AP on a grid; without a score threshold, which never improves AP."""

    name: str = "post_processing_by_grid"
    """The name of its row in the table."""
    after: WarmStart | Labels = field(default_factory=WarmStart)
    """The strategy that runs first; its name and its policy are left out, because this row has its own."""

    def __post_init__(self) -> None:
        check_settings(self)
        check_runs_first(self.after)

    @property
    def trains(self) -> Literal["head"]:
        """The head, which the strategy before trains."""
        return "head"

    def start(self, detector: Detector) -> Policy:
        """The rescoring policy on the detector's head."""
        return build_policy("rescore", detector)

    def tune(self, policy: Policy, task: Task) -> Ending:
        """Run the strategy before, recalibrate (soft-NMS decays probabilities, so their scale matters), and search the grid."""
        ending = self.after.tune(policy, task)
        calibrated = recalibrated(policy, task.val, task.evaluated_candidates, task.validation_ap)
        policy.trainable.load_state_dict(calibrated.trainable.state_dict())
        candidates = candidates_of(policy, task.val, task.evaluated_candidates)

        grid = (PostProcessingSettings.soft(iou, decay) for iou, decay in product(NMS_IOUS, DECAYS))
        choices = [replace(policy.postprocessing, nms_iou=one.nms_iou, sigma=one.sigma) for one in grid]
        scored = []
        with bar("post-processing by grid", len(choices), delay=SHORT_WORK) as shown:
            for choice in choices:
                scored.append(
                    candidates_ap(candidates, choice, task.val.targets, num_classes=policy.detector.num_classes)
                )
                shown.advance()
        policy.postprocessing = choices[int(np.argmax(scored))]
        return replace(ending, best=max(scored), best_update=None)


def trains_nothing(strategy: Strategy) -> bool:
    """Whether a strategy leaves all weights of the detector as they are: the warm start itself, or what follows it alone."""
    return isinstance(getattr(strategy, "after", strategy), WarmStart)


def check_begin(begin: Begin | None, policy: PolicyName | None) -> None:
    """Raise UserError if a policy that does not vote is to begin at hand-set votes."""
    if begin == "hand_set_votes" and policy not in (None, "voting"):
        raise UserError(f"only the voting policy can begin at hand-set votes; got policy {policy!r}")


def check_votes(begin: Begin | None, policy: Policy) -> None:
    """Raise UserError if a detector's policy is to begin at hand-set votes, and has none."""
    if begin == "hand_set_votes" and not isinstance(policy, VotingPolicy):
        name = policy.detector.architecture.name
        raise UserError(f"begin='hand_set_votes' needs proposals that vote; a {name} has none")


def begin_at(begin: Begin | None, policy: Policy, task: Task) -> None:
    """Give a voting policy its hand-set votes, unless it is to begin at the warm start, or has begun before."""
    if begin != "warm_start" and isinstance(policy, VotingPolicy) and not task.goes_on:
        set_best_votes(policy, task.validation_ap)


def set_best_votes(policy: Policy, validation_ap: Callable[[Policy], float]) -> None:
    """Give a voting policy the hand-set votes with the best validation AP."""
    assert isinstance(policy, VotingPolicy)
    scored = []
    with bar("hand-set votes", len(PLAIN_VOTES), delay=SHORT_WORK) as shown:
        for step, mean_share in PLAIN_VOTES:
            policy.module.vote_plainly(step, mean_share)
            scored.append(validation_ap(policy))
            shown.advance()
    policy.module.vote_plainly(*PLAIN_VOTES[int(np.argmax(scored))])
