"""The agents on a toy detector whose boxes are all off by the same: they move them, unless another move has the credit."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from learning.toy import NUM_FEATURES, NUM_PROPOSALS, ToyDetector, toy_data
from rl_det_envs.adjust_detections import AdjustDetectionsVector
from rl_det_envs.agent import Earned
from torch import nn

from rl_det.policies.adjust import AdjustPolicy
from rl_det.policies.detections import policy_ap
from rl_det.strategies.ppo import PPO, PpoLearner
from rl_det.strategies.reinforce import Reinforce, ReinforceLearner
from rl_det.training.loop import fit
from rl_det.training.loop_config import LoopConfig
from rl_det.types import Encoded, HeadOutput


class ToyRefiner(ToyDetector):
    """Its head moves boxes too, all by the same; the right move is four pixels to the left of where it starts."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.tensor(4.0))
        with torch.no_grad():
            self.scores.weight.copy_(torch.eye(1, NUM_FEATURES))

    def head(self, encoded: Encoded) -> HeadOutput:
        boxes = encoded.reference + self.offset * torch.tensor([1.0, 0.0, 1.0, 0.0])
        return HeadOutput(self.scores(encoded.features[0]), boxes[:, :, None], encoded.features[0])

    @property
    def trainable(self) -> nn.Module:
        return nn.ModuleDict({"scores": self.scores, "offset": nn.ParameterList([self.offset])})


class ShuffledMoves(AdjustDetectionsVector):
    """Every move gets the credit of another one of its image."""

    def act(self, actions: Any, *, baseline: Any = None) -> Earned:
        earned = super().act(actions, baseline=baseline)
        assert earned.credit is not None
        return replace(earned, credit=earned.credit.roll(int(self.np_random.integers(1, NUM_PROPOSALS)), 1))


Agent = tuple[Callable[..., Any], Any]
PPO_AGENT: Agent = (PpoLearner, PPO(policy="adjust"))
REINFORCE_AGENT: Agent = (ReinforceLearner, Reinforce(policy="adjust"))


def learnt_offset(env: type, agent: Agent) -> float:
    detector = ToyRefiner()
    options = {"num_candidates": NUM_PROPOSALS, "samples_per_image": 4}
    envs = env(64, detector=detector, dataset=toy_data(0), **options)
    envs.reset(seed=0)
    policy = AdjustPolicy(detector, sigma=0.5, box_sigma=0.5)
    make, config = agent
    learner = make(
        policy,
        envs,
        config,
        generator=torch.Generator().manual_seed(0),
        validate=lambda: policy_ap(policy, toy_data(99), NUM_PROPOSALS),
    )
    fit(learner, LoopConfig(num_updates=50, learning_rate=0.3, validate_every=50), name="toy")
    return float(detector.offset.detach())


@pytest.mark.parametrize("agent", [PPO_AGENT, REINFORCE_AGENT], ids=["ppo", "reinforce"])
def test_boxes_are_moved_to_where_the_objects_are(agent: Agent) -> None:
    assert abs(learnt_offset(AdjustDetectionsVector, agent)) < 0.5


@pytest.mark.parametrize("agent", [PPO_AGENT, REINFORCE_AGENT], ids=["ppo", "reinforce"])
def test_boxes_are_not_moved_there_when_credit_goes_to_the_wrong_candidates(agent: Agent) -> None:
    assert abs(learnt_offset(ShuffledMoves, agent)) > 1.0
