"""Which validation figure selects the weights of a strategy that learns from a reward: AP, or the metric that is paid.

A reward that pays F1 teaches a policy that is best by F1, and its validation AP may fall meanwhile. So its weights are
selected by F1.
"""

from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from rl_det.ap.padding import pad_detections, pad_targets
from rl_det.errors import UserError
from rl_det.policies.detections import detect_encoded
from rl_det.policies.policy import Policy
from rl_det.rewards import Pool, PoolAp, RewardLike, Tallied, Worth, reward_named
from rl_det.rewards.thresholds import best_threshold
from rl_det.strategies.strategy import Task

Monitor = Literal["AP", "paid"]
Metric = Tallied | PoolAp
"""A data set's metric that a reward pays: a formula of what is displayed, or an AP."""


@runtime_checkable
class Selecting(Protocol):
    """The settings of a strategy that say by which figure its weights are selected."""

    @property
    def reward(self) -> RewardLike: ...

    @property
    def monitor(self) -> Monitor | None: ...

    @property
    def collapse_margin(self) -> float: ...


def metric_paid(reward: RewardLike) -> Metric | None:
    """The data set's metric that a reward pays; None if it pays none, as sums, shaping and plain functions do.

    An image's `f1` pays for the data set's F1, too: nobody sets a threshold for each image.
    """
    own = reward_named(reward, np.ones(1, dtype=np.int64))  # no metric here depends on the numbers of objects
    if isinstance(own, PoolAp):
        return own
    value = own.value if isinstance(own, Worth) else None
    return value if isinstance(value, Tallied) and value.kind == "displayed" else None


def monitored(config: Selecting) -> Monitor:
    """The figure that selects the weights; left out: the metric that is paid, or AP if that is paid, or no metric is."""
    if config.monitor is not None:
        return config.monitor
    return "AP" if metric_paid(config.reward) in (None, PoolAp()) else "paid"


def check_monitored(config: Selecting) -> None:
    """Raise UserError if the metric that is paid is to select the weights, and the reward pays none."""
    if config.monitor == "paid" and metric_paid(config.reward) is None:
        raise UserError(
            "monitor 'paid' needs a reward that pays a metric of the data set, such as pool_f1 or ap50; "
            f"got {config.reward!r}; 'AP' is usual"
        )


def margin_of_collapse(config: Selecting) -> float | None:
    """The margin, which is one of AP; None where another metric selects the weights."""
    return config.collapse_margin if monitored(config) == "AP" else None


def validation_paid(config: Selecting, policy: Policy, task: Task) -> Callable[[], float] | None:
    """A function that measures the policy by the metric that is paid; None if AP alone selects the weights."""
    metric = metric_paid(config.reward)
    if monitored(config) == "AP" or metric is None:
        return None
    return lambda: worth_on_validation(metric, policy, task)


def worth_on_validation(metric: Metric, policy: Policy, task: Task) -> float:
    """The metric of the policy's detections on validation images; of what is displayed, at the best threshold.

    That threshold is the one that a user would set. NaN if there is no true box for an AP.
    """
    found = pad_detections(detect_encoded(policy, task.val, task.validated_candidates))
    truths, num_classes = pad_targets(task.val.targets), policy.detector.num_classes
    if isinstance(metric, PoolAp):
        pool = Pool(detections=found, truths=truths, num_classes=num_classes)
        return pool.ranked_by(metric.options).mean_ap
    return best_threshold(metric, found, truths, num_classes=num_classes).worth
