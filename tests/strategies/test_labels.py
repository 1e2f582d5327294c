"""The control: continued supervised training of the head on cached encodings."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from strategies.scenes import Told, a_task, shipped, train_data
from torch import Tensor

from rl_det.detectors import Detector
from rl_det.detectors.encodings import EncodedDataset
from rl_det.policies.build import PolicyName, build_policy
from rl_det.policies.policy import Policy
from rl_det.strategies.labels import Labels, LabelsLearner, supervised_loss
from rl_det.training.averaging import copied
from rl_det.training.loop import Ending, fit
from rl_det.training.loop_config import LoopConfig

LITTLE = LoopConfig(num_updates=6, learning_rate=2e-3, validate_every=2)


@pytest.fixture
def detector() -> Detector:
    return shipped()


@pytest.fixture(scope="module")
def data() -> EncodedDataset:
    return train_data()


def trained(
    policy: Policy, data: EncodedDataset, config: LoopConfig, validate: Callable[[], float], batch_size: int = 4
) -> tuple[Ending, Told]:
    learner = LabelsLearner(
        policy,
        data,
        lambda *batch: {"supervised": supervised_loss(*batch)},
        batch_size=batch_size,
        generator=torch.Generator().manual_seed(0),
        validate=validate,
    )
    told = Told()
    return fit(learner, config, name="labels", callbacks=[told]), told


def weight(detector: Detector) -> Tensor:
    tensor: Tensor = detector.plain().roi_heads.box_predictor.cls_score.weight.detach().clone()
    return tensor


def test_only_the_head_is_trained_and_its_loss_falls(detector: Detector, data: EncodedDataset) -> None:
    before = {name: tensor.clone() for name, tensor in detector.plain().state_dict().items()}
    config = LoopConfig(num_updates=30, learning_rate=1e-3, validate_every=30)
    _, told = trained(build_policy("rescore", detector), data, config, iter([0.1, 0.2]).__next__, batch_size=8)
    changed = {name for name, tensor in detector.plain().state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(name.startswith("roi_heads.box_") for name in changed)
    losses = [metrics["loss"] for step, metrics in told.lines if step]
    assert losses[-1] < 0.9 * losses[0]


def test_the_best_validation_stays_and_the_warm_start_is_the_first_candidate(
    detector: Detector, data: EncodedDataset
) -> None:
    policy, before = build_policy("rescore", detector), weight(detector)
    ending, _ = trained(policy, data, LITTLE, iter([0.5, 0.4, 0.3, 0.5]).__next__)
    assert ending == Ending(reason="budget", update=6, best=0.5)
    assert torch.equal(weight(detector), before)
    ending, _ = trained(policy, data, LITTLE, iter([0.5, 0.4, 0.6, 0.5]).__next__)
    assert ending.best == 0.6
    assert not torch.equal(weight(detector), before)


@pytest.mark.parametrize("name", ["context", "voting"])
def test_labels_do_not_reach_a_module_beside_the_head(
    name: PolicyName, detector: Detector, data: EncodedDataset
) -> None:
    policy = build_policy(name, detector)
    before = {key: value.clone() for key, value in policy.trainable.state_dict().items()}
    trained(policy, data, LITTLE, iter([0.1, 0.2, 0.3, 0.4]).__next__)
    changed = {key for key, value in policy.trainable.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert all(key.startswith("head.") for key in changed)


def test_the_strategy_trains_the_head_by_the_tasks_steps_and_rate(detector: Detector, data: EncodedDataset) -> None:
    told = Told()
    task = a_task(data, num_steps=4, validate_every=2, callbacks=[told], validation_ap=iter([0.1, 0.2, 0.3]).__next__)
    strategy = Labels()
    ending = strategy.tune(strategy.start(detector), task)
    assert ending == Ending(reason="budget", update=4, best=0.3)
    assert [update for update, metrics in told.lines if "val_AP" in metrics] == [0, 2, 4]


def test_a_longer_control_makes_more_steps_and_an_averaged_one_keeps_the_mean_of_its_weights(
    detector: Detector, data: EncodedDataset
) -> None:
    task = partial(a_task, data, num_steps=4, validate_every=2)
    longer = Labels(passes=1.5)
    ending = longer.tune(longer.start(detector), task(validation_ap=iter([0.1, 0.2, 0.3, 0.4]).__next__))
    assert ending == Ending(reason="budget", update=6, best=0.4)
    ends = {}
    for ema in (0.0, 0.9):
        strategy = Labels(ema=ema)
        policy = strategy.start(detector)
        start = copied(policy.trainable.state_dict())
        strategy.tune(policy, task(validation_ap=iter([0.1, 0.2, 0.3]).__next__))
        ends[ema] = sum((value - start[name]).square().sum() for name, value in policy.trainable.state_dict().items())
    assert 0 < ends[0.9] < ends[0.0], "the mean lies between the start and the last weights"
