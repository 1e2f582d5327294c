"""What nobody trains: votes and post-processing that are set by hand, the best of a few on validation.

They are the rival that a trained policy has to beat, as they cost seconds.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from typing import Literal

import numpy as np

from rl_det.ap.data_set import class_ap
from rl_det.ap.matching import match
from rl_det.ap.padding import pad_targets
from rl_det.candidates.postprocessing import PostProcessing, ranked
from rl_det.detectors import Detector
from rl_det.policies.build import build_policy
from rl_det.policies.detections import candidates_of
from rl_det.policies.policy import Policy
from rl_det.policies.recalibration import recalibrated
from rl_det.policies.voting import VotingPolicy
from rl_det.strategies.labels import Labels
from rl_det.strategies.strategy import Task
from rl_det.training.loop import Ending

PLAIN_VOTES = ((1.0, 0.0), (1.0, 0.35), (1.0, 0.5), (1.0, 0.75))
"""Steps of the boxes and shares of the mean logit among which votes that are set by hand may choose."""
NMS_IOUS = (0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 1.0)
DECAYS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
"""1 / sigma of soft-NMS; 0 is hard."""


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """The detector as it comes: nothing is done."""

    name: str = "warm_start"
    """The row of the table."""

    @property
    def trains(self) -> Literal["head"]:
        """Nothing, but it is chosen like a head."""
        return "head"

    def start(self, detector: Detector) -> Policy:
        """The head as it is."""
        return build_policy("rescore", detector)

    def tune(self, policy: Policy, task: Task) -> Ending:
        """Nothing."""
        return Ending(reason="budget", best=task.validation_ap(policy))


@dataclass(frozen=True, kw_only=True)
class HandSetVotes:
    """Votes that are set by hand, on the head as another strategy leaves it."""

    name: str = "voting_untrained"
    """The row of the table."""
    after: WarmStart | Labels = field(default_factory=WarmStart)
    """What is done before."""

    @property
    def trains(self) -> Literal["head"]:
        """The head, by what is done before."""
        return "head"

    def start(self, detector: Detector) -> Policy:
        """The voting policy, whose votes are silent yet."""
        return build_policy("voting", detector)

    def tune(self, policy: Policy, task: Task) -> Ending:
        """Tune as before, then let the votes be heard."""
        ending = self.after.tune(policy, task)
        set_best_votes(policy, task.validation_ap)
        return Ending(reason=ending.reason, update=ending.update, best=task.validation_ap(policy), detail=ending.detail)


@dataclass(frozen=True, kw_only=True)
class PostProcessingGrid:
    """NMS IoU and soft-NMS by validation AP over a grid; no threshold, as AP is never better for one."""

    name: str = "post_processing_by_grid"
    """The row of the table."""
    after: WarmStart | Labels = field(default_factory=WarmStart)
    """What is done before."""

    @property
    def trains(self) -> Literal["head"]:
        """The head, by what is done before."""
        return "head"

    def start(self, detector: Detector) -> Policy:
        """The head as it is."""
        return build_policy("rescore", detector)

    def tune(self, policy: Policy, task: Task) -> Ending:
        """Tune as before, recalibrate (soft-NMS decays probabilities, so their scale counts), and choose on the grid."""
        ending = self.after.tune(policy, task)
        calibrated = recalibrated(policy, task.val, task.evaluated_candidates, task.validation_ap)
        policy.trainable.load_state_dict(calibrated.trainable.state_dict())
        candidates, truths = candidates_of(policy, task.val, task.evaluated_candidates), pad_targets(task.val.targets)

        def worth(choice: PostProcessing) -> float:
            aps = class_ap(match(ranked(candidates, choice), truths, num_classes=policy.detector.num_classes))[0]
            return float(np.nanmean(aps))

        choices = [PostProcessing.soft(iou, decay) for iou, decay in product(NMS_IOUS, DECAYS)]
        policy.postprocessing = max(choices, key=worth)
        best = worth(policy.postprocessing)
        return Ending(reason=ending.reason, update=ending.update, best=best, detail=ending.detail)


def set_best_votes(policy: Policy, validation_ap: Callable[[Policy], float]) -> None:
    """Give a voting policy the votes that are best on validation of those that nobody trained."""
    assert isinstance(policy, VotingPolicy)
    scored = []
    for step, mean_share in PLAIN_VOTES:
        policy.module.vote_plainly(step, mean_share)
        scored.append(validation_ap(policy))
    policy.module.vote_plainly(*PLAIN_VOTES[int(np.argmax(scored))])
