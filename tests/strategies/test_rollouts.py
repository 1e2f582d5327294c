"""Rollouts: the head runs as seldom as it can, and their graph is that of the head as it is."""

import pytest
import torch
from learning.ranking import made
from learning.toy import NUM_PROPOSALS, ToyDetector, toy_data
from rl_det_envs.rescore_detections import RescoreDetectionsVector
from rl_det_envs.tune_postprocessing import TunePostprocessingVector

from rl_det.losses.advantages import leave_one_out
from rl_det.policies.distributions import BernoulliGates, GaussianShifts
from rl_det.policies.rescore import RescorePolicy
from rl_det.policies.settings import SettingsPolicy
from rl_det.strategies.ppo import PPO, PpoLearner
from rl_det.strategies.rollouts import class_shifts, collect, draws_for
from rl_det.training.loop import FitRun
from rl_det.training.loop_config import LoopConfig
from rl_det.types import Encoded, HeadOutput


class Counted(ToyDetector):
    """It counts how often its head is asked."""

    asked = 0

    def head(self, encoded: Encoded) -> HeadOutput:
        self.asked += 1
        return super().head(encoded)


@pytest.mark.parametrize("num_epochs", [1, 3])
def test_the_head_runs_once_for_the_rollout_and_the_first_epoch(num_epochs: int) -> None:
    detector = Counted()
    envs = RescoreDetectionsVector(16, detector=detector, dataset=toy_data(0), num_candidates=NUM_PROPOSALS,
                                   samples_per_image=4)  # fmt: skip
    policy = RescorePolicy(detector, sigma=0.5)
    config, generator = PPO(policy="rescore", num_epochs=num_epochs), torch.Generator().manual_seed(0)
    collect(policy, envs, generator)
    assert detector.asked == 1
    learner = PpoLearner(policy, envs, config, generator=generator, validate=lambda: 0.0)
    run = FitRun(learner, LoopConfig(num_updates=9, learning_rate=1e-3), "ppo")
    learner.update(1, run.descent)
    assert detector.asked == 1 + num_epochs


def test_a_policy_over_another_detector_than_the_environments_is_asked_itself() -> None:
    shown, own = ToyDetector(), ToyDetector()
    with torch.no_grad():
        own.scores.weight.mul_(-1)
    envs = RescoreDetectionsVector(16, detector=shown, dataset=toy_data(0), num_candidates=NUM_PROPOSALS,
                                   samples_per_image=4)  # fmt: skip
    rollout = collect(RescorePolicy(own, sigma=0.5), envs, torch.Generator().manual_seed(0))
    assert torch.equal(rollout.output.logits, own.head(rollout.encoded).logits)
    assert not torch.equal(rollout.output.logits, shown.head(rollout.encoded).logits)


def test_the_rollouts_graph_is_that_of_the_head_as_it_is() -> None:
    detector, envs = made(RescoreDetectionsVector, 0)
    policy = RescorePolicy(detector, sigma=0.5)
    rollout = collect(policy, envs, torch.Generator().manual_seed(0))
    (move,), (advantage,) = rollout.moves, rollout.advantages
    log_prob = move.distribution.log_prob(move.action)
    assert torch.equal(log_prob, move.log_prob)
    assert rollout.reward.requires_grad is advantage.requires_grad is move.log_prob.requires_grad is False
    (present,) = rollout.distributions(policy, detector.head(rollout.encoded))
    again = present.log_prob(move.action)
    (ours,) = torch.autograd.grad((log_prob * advantage).sum(), detector.scores.weight)
    (theirs,) = torch.autograd.grad((again * advantage).sum(), detector.scores.weight)
    assert torch.equal(ours, theirs)


def test_the_environment_gets_the_nearest_action_that_it_takes_and_the_density_is_that_of_the_drawn_one() -> None:
    envs = TunePostprocessingVector(16, detector=ToyDetector(), dataset=toy_data(0), num_candidates=NUM_PROPOSALS,
                                    samples_per_image=4)  # fmt: skip
    described = torch.from_numpy(envs.describe())
    generator = torch.Generator().manual_seed(0)
    policy = SettingsPolicy(torch.ones(4), described, sigma=0.3, num_hidden=4, generator=generator)
    (move,) = collect(policy, envs, generator).moves
    assert 0.3 < (move.action > 1).float().mean() < 0.7
    assert torch.equal(move.log_prob, move.distribution.log_prob(move.action))
    told = move.earned.told["settings"]
    drawn = move.action.reshape(-1, 4)
    torch.testing.assert_close(told[:, 0].float(), (drawn[:, 0].clamp(-1, 1) + 1) / 2)


@pytest.mark.parametrize("num_samples", [2, 4])
def test_gates_teach_a_baseline_of_other_samples_in_the_right_direction(num_samples: int) -> None:
    """The estimate over many images against the true gradient of the number of candidates that are kept."""
    gates = BernoulliGates(torch.tensor([[0.0, 3.0, -3.0, 1.0]]).expand(40_000, 4))
    keep, generator = gates.logits.sigmoid(), torch.Generator().manual_seed(0)
    draws = draws_for("leave_one_out", gates)
    action = gates.sample(num_samples, generator, draws)
    advantage = leave_one_out(action.sum(-1))[..., None]
    estimated = ((action - keep[:, None]) * advantage).mean((0, 1)) / (keep * (1 - keep))[0]
    torch.testing.assert_close(estimated, torch.ones(4), rtol=0, atol=0.1)
    assert draws_for("leave_one_out", GaussianShifts(torch.zeros(1, 4), 1.0)) == "antithetic"
    assert draws_for("counterfactual", gates) == "stratified"


@pytest.mark.parametrize("num_classes", [2, 80])
def test_the_mean_shift_is_of_the_classes_that_are_shown_however_many_there_are(num_classes: int) -> None:
    detector, envs = made(RescoreDetectionsVector, 0)
    (move,) = collect(RescorePolicy(detector, sigma=0.5), envs, torch.Generator().manual_seed(0)).moves
    shown = move.observation["labels"][move.mask.any(1)].unique()
    shifted = GaussianShifts(torch.full_like(move.observation["logits"], 3.0), 0.5)
    shifts = class_shifts(move, shifted, num_classes)
    assert len(shifts) == len(shown)
    torch.testing.assert_close(shifts, torch.full((len(shown),), 3.0))
