"""The refining policy: its detections are those of its greedy episode, and its number of steps goes home with it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from contract.environments import NUM_CANDIDATES, REFINE, make_vector, scenes, shipped

import rl_det
from rl_det.detectors import Detector
from rl_det.errors import UserError
from rl_det.finetuning.tuned import tuned
from rl_det.policies.build import build_policy
from rl_det.policies.policy import apply_policy
from rl_det.policies.refine import RefinePolicy
from rl_det.policies.refining_module import LARGEST_MOVE, RefiningModule

DATA = rl_det.digit_scenes(2, 2, 2)


def voting(detector: Detector, num_steps: int, step: float = 0.7) -> Any:
    policy = build_policy("refine", detector, num_steps=num_steps)
    assert isinstance(policy, RefinePolicy)
    policy.module.vote_plainly(step, 0.0)
    return policy


@pytest.mark.parametrize("num_steps", [1, 3])
def test_its_detections_are_the_boxes_at_the_end_of_its_greedy_episode(num_steps: int) -> None:
    detector = shipped()
    data, policy = scenes(detector), voting(detector, num_steps)
    options = {"detector": detector, "dataset": data, "num_candidates": NUM_CANDIDATES, "pool_images": 4}
    envs = make_vector(REFINE, 4, **options, **policy.environment_options)
    shown = envs.show(seed=0)
    observation, first = shown.observation, shown.observation["boxes"]
    for _ in range(num_steps):
        observation = envs.act(policy.distribution(observation, shown.output).greedy().flatten(1)).observation
    found = apply_policy(policy, data.batch(torch.tensor(shown.indices), detector), NUM_CANDIDATES)
    torch.testing.assert_close(found.boxes / 128, observation["boxes"], rtol=0, atol=1e-5)
    assert (observation["boxes"] - first).abs().max() > 0.001


def test_more_steps_go_further_and_none_beyond_the_environments_border() -> None:
    detector = shipped()
    encoded = scenes(detector).batch(torch.arange(4), detector)
    once, thrice = (apply_policy(voting(detector, steps), encoded, 24).boxes for steps in (1, 3))
    start = apply_policy(build_policy("refine", detector), encoded, 24).boxes
    assert (thrice - start).abs().mean() > (once - start).abs().mean() > 0
    wild = voting(detector, 1, step=1000.0)
    sides = (start[..., 2:] - start[..., :2]).repeat(1, 1, 2)
    far = (apply_policy(wild, encoded, 24).boxes - start).abs() / sides
    assert far.max() < LARGEST_MOVE * (
        0.1 + 0.12
    )  # a tenth of a side for the centre, half of exp(0.2) - 1 for the side


def test_the_reward_trains_the_module_alone() -> None:
    detector = shipped()
    data, policy = scenes(detector), voting(detector, 2)
    envs = make_vector(REFINE, 2, detector=detector, dataset=data, num_candidates=NUM_CANDIDATES, pool_images=2)
    shown = envs.show(seed=0, with_graph=True)
    distribution = policy.distribution(shown.observation, shown.output)
    action = distribution.sample(1, torch.Generator().manual_seed(0))
    distribution.log_prob(action).sum().backward()
    assert all(parameter.grad is None for parameter in detector.trainable.parameters())
    assert policy.module.verdict.weight.grad.abs().max() > 0
    assert policy.module.mean_share.grad is None


def test_an_exported_policy_makes_as_many_steps(tmp_path: Path) -> None:
    policy = voting(shipped(), 2)
    images = [DATA.test[index].image for index in range(2)]
    own = tuned(policy, DATA, 100, "ppo")
    again = rl_det.load_tuned(own.export(tmp_path / "better"))
    assert again.policy.module.num_steps == 2  # type: ignore[attr-defined]
    for ours, theirs in zip(own.detect(images), again.detect(images), strict=True):
        assert torch.equal(ours["boxes"], theirs["boxes"])
        assert torch.equal(ours["scores"], theirs["scores"])


def test_several_steps_are_refused_where_one_is_made() -> None:
    for make in (
        lambda: rl_det.PPO(policy="voting", num_steps=3),
        lambda: rl_det.Reinforce(policy="adjust", num_steps=2),
    ):
        with pytest.raises(UserError, match=r"num_steps is for the refining policy; policy '\w+' makes one step; got"):
            make()
    for make in (lambda: rl_det.PPO(policy="refine", num_steps=0), lambda: RefiningModule(2, num_steps=0)):
        with pytest.raises(UserError, match="num_steps must be at least 1; got 0"):
            make()
    with pytest.raises(UserError, match="gamma does nothing in an episode of one step"):
        rl_det.PPO(gamma=0.9)
    assert rl_det.PPO(policy="refine", gamma=0.9).gamma == 0.9
    with pytest.raises(UserError, match="the refining policy moves boxes alone"):
        rl_det.Surrogate(policy="refine")
