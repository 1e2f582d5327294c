"""Which validation figure selects the weights: for which rewards, that it is what it says, and that a run resumes with it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from strategies.scenes import Told, a_task, shipped, train_data

from rl_det.ap.padding import pad_detections, pad_targets
from rl_det.detectors.encodings import EncodedDataset
from rl_det.errors import UserError
from rl_det.metrics.evaluation import quick_evaluate
from rl_det.policies.detections import detect_encoded
from rl_det.rewards import (
    AP50,
    REWARDS,
    Cost,
    OverThePool,
    PoolAp,
    PotentialShaping,
    Sum,
    Worth,
    count_error,
    f1,
    image_ap_value,
    lrp,
)
from rl_det.rewards.thresholds import tallies_at, worth_of
from rl_det.strategies.ppo import PPO
from rl_det.strategies.reinforce import Reinforce
from rl_det.strategies.selection import metric_paid, monitored, worth_on_validation
from rl_det.strategies.strategy import Strategy
from rl_det.training.callbacks import Checkpoint
from rl_det.training.loop import Callback, FitRun

LITTLE: dict[str, Any] = {"samples_per_image": 2, "num_candidates": 12, "context_candidates": 8, "policy": "rescore"}
OF_A_METRIC = {"ap50", "ap_small", "f1", "lrp", "cost", "pool_f1", "pool_cost", "count_error"}


class KilledError(Exception):
    """A run's violent end."""


class KillAt(Callback):
    """Between two updates."""

    def on_step(self, run: FitRun, metrics: dict[str, float]) -> None:
        if run.update == 3:
            raise KilledError


@pytest.fixture(scope="module")
def data() -> EncodedDataset:
    return train_data()


@pytest.mark.parametrize("strategy", [PPO, Reinforce])
def test_the_metric_that_is_paid_selects_wherever_one_is_and_ap_elsewhere(
    strategy: type[PPO] | type[Reinforce],
) -> None:
    assert {name for name in REWARDS if monitored(strategy(reward=name)) == "paid"} == OF_A_METRIC
    for own in (PoolAp(AP50), Worth(lrp), Worth(OverThePool(Cost(found=1.0)), "by_change")):
        assert monitored(strategy(reward=own)) == "paid"
    for other in (PoolAp(), Worth(image_ap_value), Sum((PoolAp(), PotentialShaping())), lambda found, target: 0.0):
        assert monitored(strategy(reward=other)) == "AP"
    assert monitored(strategy(reward="f1", monitor="AP")) == "AP"
    assert metric_paid("pool_ap") == PoolAp()


@pytest.mark.parametrize("strategy", [PPO, Reinforce])
def test_a_metric_that_is_not_paid_cannot_select(strategy: type[PPO] | type[Reinforce]) -> None:
    message = r"monitor 'paid' needs a reward that pays a metric .*; got 'image_ap'; 'AP' is usual"
    with pytest.raises(UserError, match=message):
        strategy(reward="image_ap", monitor="paid")


def test_a_margin_of_ap_ends_no_run_that_another_metric_selects() -> None:
    assert PPO(reward="f1").loop(1, 1.0, 1).collapse_margin is None
    assert PPO(reward="f1", monitor="AP").loop(1, 1.0, 1).collapse_margin == PPO.collapse_margin
    assert PPO().loop(1, 1.0, 1).collapse_margin == PPO.collapse_margin


def test_the_figure_is_the_metric_at_the_threshold_that_is_best_for_it(data: EncodedDataset) -> None:
    policy, task = PPO(**LITTLE).start(shipped()), a_task(data)
    detections, num_classes = detect_encoded(policy, data, task.validated_candidates), policy.detector.num_classes
    figures = quick_evaluate(detections, data.targets, num_classes=num_classes)
    assert worth_on_validation(f1, policy, task) == pytest.approx(figures["F1"])
    assert worth_on_validation(PoolAp(AP50), policy, task) == pytest.approx(figures["AP50"])
    found, truths = pad_detections(detections), pad_targets(data.targets)
    thresholds = np.unique(found.scores).tolist()
    tallies = [tallies_at(found, truths, at, num_classes=num_classes) for at in thresholds]
    tried = [worth_of(count_error, own, num_classes) for own in tallies]
    assert worth_on_validation(count_error, policy, task) == pytest.approx(max(tried))


@pytest.mark.parametrize(
    "strategy",
    [
        PPO(reward="ap50", num_updates=4, **LITTLE),
        Reinforce(reward="ap50", **LITTLE),
    ],
    ids=["ppo", "reinforce"],
)
def test_the_weights_are_the_best_by_what_is_paid_and_a_killed_run_ends_the_same(
    tmp_path: Path, strategy: Strategy, data: EncodedDataset
) -> None:
    def tuned(*callbacks: Callback) -> tuple[Any, Any, list[dict[str, float]]]:
        policy, told = strategy.start(shipped()), Told()
        steps = 8 if isinstance(strategy, PPO) else 4
        task = a_task(data, num_steps=steps, validate_every=steps // 2, callbacks=[*callbacks, told])
        ending = None
        try:
            ending = strategy.tune(policy, task)
        except KilledError:
            assert callbacks
        else:
            metric = metric_paid(strategy.reward)  # type: ignore[attr-defined]
            assert metric is not None
            assert ending.best == worth_on_validation(metric, policy, task)
        return ending, policy.trainable.state_dict(), [line for _, line in told.lines if "val_paid" in line]

    whole, weights, lines = tuned()
    assert len(lines) == 3
    assert all("val_AP" in line for line in lines)
    assert whole.best == max(line["val_paid"] for line in lines)
    assert tuned(Checkpoint(tmp_path / "run.pt", share=0.0), KillAt())[0] is None
    resumed, again, _ = tuned(Checkpoint(tmp_path / "run.pt"))
    assert resumed == whole
    assert all((again[name] == value).all() for name, value in weights.items())
