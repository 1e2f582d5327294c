"""The ways of raising mAP that compare.py sets side by side: each a policy at the warm start, and what is done with it.

All that train do so on the same images, for as many image passes, at the same rate, and are chosen by validation AP. What
they train is the head, but where the policy has a module beside it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, get_args

import numpy as np
import torch
import tuning
from methods import EVALUATED_CANDIDATES, detect, plainly_voted, recalibrated
from ppo_finetune import fine_tune_by_ppo
from reinforce_finetune import fine_tune_by_reinforce
from surrogate_finetune import fine_tune_by_surrogate
from task import Arguments, PolicyName

from rl_det.ap.batch import DetectionBatch
from rl_det.ap.data_set import class_ap
from rl_det.ap.matching import match
from rl_det.ap.padding import pad_detections, pad_targets
from rl_det.candidates.soft_nms import Settings, soft_nms
from rl_det.detectors.encodings import EncodedDataset
from rl_det.policies.detections import candidates_of
from rl_det.policies.policy import Policy
from rl_det.policies.voting import VotingPolicy
from rl_det.report.tables import CONTROL
from rl_det.storage.run import Run
from rl_det.training.surrogate import SurrogateName

Detect = Callable[[EncodedDataset], DetectionBatch]
Tune = Callable[[Policy, EncodedDataset, EncodedDataset, Arguments, Run], None]
"""(a policy at the warm start, images to train on, images to validate on, flags, the run): the policy is tuned in place."""

NMS_IOUS = (0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 1.0)
DECAYS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
"""1 / sigma of soft-NMS; 0 is hard."""
MOST_DETECTIONS = 100
BESIDE_A_MODULE: dict[PolicyName, tuple[SurrogateName, ...]] = {
    "voting": ("cross_entropy", "smooth_ap", "rank_sort"),
    "context": ("cross_entropy", "smooth_ap"),
}
"""What trains the modules' policies without RL: labels alone, and surrogates that had served well."""


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """What acts, how it is tuned, and how the tuned one detects."""

    policy: PolicyName = "rescore"
    tune: Tune = lambda policy, train, val, arguments, run: None
    finish: Callable[[Policy, EncodedDataset], Detect] = lambda policy, val: detecting(recalibrated(policy, val))


def detecting(policy: Policy) -> Detect:
    """The policy's detections, after the detector's own NMS."""
    return lambda data: pad_detections(detect(policy, data))


def voting_plainly(policy: Policy, val: EncodedDataset) -> Detect:
    """The head as it is, with voting that nobody trained."""
    assert isinstance(policy, VotingPolicy)
    return detecting(recalibrated(plainly_voted(policy, val), val))


def best_post_processing(policy: Policy, val: EncodedDataset) -> Detect:
    """NMS IoU and soft-NMS by validation AP over a grid; no threshold, as AP is never better for one."""
    policy = recalibrated(policy, val)
    truths, num_images = pad_targets(val.targets), len(val)
    raw = _candidates(policy, val)

    def worth(nms_iou: float, decay: float) -> float:
        found = _ranked(soft_nms(*raw, _settings(num_images, nms_iou, decay)))
        return float(np.nanmean(class_ap(match(found, truths, num_classes=policy.detector.num_classes))[0]))

    best = max(product(NMS_IOUS, DECAYS), key=lambda choice: worth(*choice))
    return lambda data: _ranked(soft_nms(*_candidates(policy, data), _settings(len(data), *best)))


def by_surrogate(loss: SurrogateName) -> Tune:
    """The detector's own losses and this surrogate's."""
    return lambda policy, train, val, arguments, run: fine_tune_by_surrogate(
        policy, train, val, arguments, run, loss=loss
    )


def by_reinforce(advantage: Any) -> Tune:
    """REINFORCE with this advantage."""
    return lambda *given: fine_tune_by_reinforce(*given, advantage=advantage)


def by_ppo(advantage: Any = "counterfactual", taught_by: SurrogateName | None = None) -> Tune:
    """PPO with this advantage, and with a surrogate mixed in, if one is named."""
    return lambda *given: fine_tune_by_ppo(*given, advantage=advantage, taught_by=taught_by)


def from_plain_votes(
    policy: Policy, train: EncodedDataset, val: EncodedDataset, arguments: Arguments, run: Run
) -> None:
    """PPO that begins where voting that nobody trained is best, and not at the warm start."""
    assert isinstance(policy, VotingPolicy)
    policy.load_state_dict(plainly_voted(policy, val).state_dict())
    fine_tune_by_ppo(policy, train, val, arguments, run)


STRATEGIES: dict[str, Strategy] = {
    "warm_start": Strategy(),
    "post_processing_by_grid": Strategy(finish=best_post_processing),
    "voting_untrained": Strategy(policy="voting", finish=voting_plainly),
    CONTROL: Strategy(tune=tuning.continue_supervised),
    f"{CONTROL}_voting_untrained": Strategy(policy="voting", tune=tuning.continue_supervised, finish=voting_plainly),
    **{loss: Strategy(tune=by_surrogate(loss)) for loss in get_args(SurrogateName)},
    **{
        f"{policy}_{loss}": Strategy(policy=policy, tune=by_surrogate(loss))
        for policy, losses in BESIDE_A_MODULE.items()
        for loss in losses
    },
    "reinforce_without_credit": Strategy(tune=by_reinforce("leave_one_out")),
    "reinforce": Strategy(tune=by_reinforce("counterfactual")),
    "ppo_rescore_group": Strategy(tune=by_ppo("group")),
    "ppo_rescore": Strategy(tune=by_ppo()),
    "ppo_select": Strategy(policy="select", tune=by_ppo()),
    "ppo_context": Strategy(policy="context", tune=by_ppo()),
    "ppo_adjust": Strategy(policy="adjust", tune=by_ppo()),
    "ppo_voting": Strategy(policy="voting", tune=by_ppo()),
    "ppo_voting_and_smooth_ap": Strategy(policy="voting", tune=by_ppo(taught_by="smooth_ap")),
    "ppo_voting_from_plain_votes": Strategy(policy="voting", tune=from_plain_votes),
}


def check_strategies(names: Sequence[str]) -> None:
    """ValueError, listing the known ones, for a name that is not known."""
    if unknown := sorted(set(names) - set(STRATEGIES)):
        raise ValueError(f"a method must be one of {', '.join(STRATEGIES)}; got {unknown[0]!r}")


def _candidates(policy: Policy, data: EncodedDataset) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, labels, probabilities and mask of what NMS chooses from."""
    found = candidates_of(policy, data, EVALUATED_CANDIDATES)
    probabilities = torch.where(found.mask, found.logits, 0.0).double().sigmoid().numpy()
    return found.boxes.numpy(), found.labels.numpy(), probabilities, found.mask.numpy()


def _settings(num_images: int, nms_iou: float, decay: float) -> Settings:
    return Settings.fixed(num_images, 0.0, nms_iou, np.inf if decay == 0 else 1 / decay, MOST_DETECTIONS)


def _ranked(found: DetectionBatch) -> DetectionBatch:
    """Without the places of what NMS took away: an image's best, first."""
    order = np.argsort(np.where(found.mask, -found.scores, np.inf), 1, kind="stable")[:, :MOST_DETECTIONS]
    rows = np.arange(len(found))[:, None]
    return replace(found, **{name: values[rows, order] for name, values in vars(found).items()})
