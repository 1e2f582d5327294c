"""The pre-test: each candidate keeps its best sample by credit; what it says, and that training does not depend on it."""

from typing import Any

import gymnasium
import pytest
import torch
from rl_det_envs.candidate_environment import CandidateVectorEnv
from strategies.scenes import NUM_SCENES, a_task, shipped

from rl_det.data.digit_scenes import DigitScenes
from rl_det.detectors.encodings import EncodedDataset, encode_dataset
from rl_det.policies.build import POLICIES, PolicyName, build_policy
from rl_det.policies.detections import candidates_ap, candidates_of
from rl_det.policies.distributions import GaussianAdjustments, GaussianShifts
from rl_det.strategies import ppo, pretest
from rl_det.strategies.ppo import PPO
from rl_det.strategies.pretest import BestOfSamples, best_actions, best_of_samples
from rl_det.training.averaging import copied

SAMPLES, ACTING = 4, 24


@pytest.fixture(scope="module")
def data() -> EncodedDataset:
    return encode_dataset(shipped(), DigitScenes("train", num_scenes=NUM_SCENES))


def environment(name: PolicyName, data: EncodedDataset, **options: Any) -> CandidateVectorEnv:
    envs = gymnasium.make_vec(
        POLICIES[name].environment, num_envs=len(data) * SAMPLES, vectorization_mode="vector_entry_point", dataset=data,
        detector=shipped(), num_candidates=ACTING, samples_per_image=SAMPLES, pool_images=len(data), **options,
    )  # fmt: skip
    envs.reset(seed=0)
    assert isinstance(envs, CandidateVectorEnv)
    return envs


def test_each_candidate_keeps_its_best_sample_and_does_nothing_where_none_earns() -> None:
    own = GaussianShifts(torch.zeros(1, 3), 0.5)
    action = torch.tensor([[[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]])
    credit = torch.tensor([[[1.0, -1.0, 0.0], [2.0, -2.0, 0.5]]])
    torch.testing.assert_close(best_actions(own, action, credit), torch.tensor([[0.4, 0.0, 0.6]]))


def test_a_candidates_shift_and_its_move_keep_each_their_own_best() -> None:
    mean = torch.full((1, 1, 5), 0.16)
    own = GaussianAdjustments(mean, 0.5, 0.2, torch.zeros(1, 1))
    action = torch.arange(10.0).view(1, 2, 1, 5)
    credit = torch.tensor([[[[1.0, 1.0]], [[0.5, 2.0]]]])
    assert best_actions(own, action, credit).flatten().tolist() == [0.0, 6.0, 7.0, 8.0, 9.0]
    nothing = best_actions(own, action, torch.zeros_like(credit))
    torch.testing.assert_close(nothing, own.greedy())


@pytest.mark.parametrize("name", ["rescore", "adjust", "voting"])
def test_on_a_trained_detector_the_best_of_the_samples_rises(name: PolicyName, data: EncodedDataset) -> None:
    torch.manual_seed(0)
    policy = build_policy(name, shipped())
    found = best_of_samples(policy, environment(name, data), torch.Generator().manual_seed(0), num_batches=1)
    alone = candidates_ap(
        candidates_of(policy, data, ACTING),
        policy.postprocessing,
        data.targets,
        num_classes=policy.detector.num_classes,
    )
    assert found.ap == pytest.approx(alone, abs=1e-6)
    assert found.best_ap > found.ap + 0.005
    assert found.best_reward > found.reward
    assert found[4:] == (len(data), SAMPLES)
    assert "there is something to teach" in found.told()


def test_where_no_action_can_earn_anything_it_says_so(data: EncodedDataset) -> None:
    def indifferent(detections: object, target: object) -> float:
        return 1.0

    policy = build_policy("rescore", shipped())
    envs = environment("rescore", data, reward=indifferent)
    found = best_of_samples(policy, envs, torch.Generator().manual_seed(0), num_batches=1)
    assert found.best_reward == found.reward == 1.0
    assert found.best_ap == found.ap
    assert found.told().endswith("exploration finds nothing to teach")


def test_a_run_tells_it_once_and_training_does_not_depend_on_it(
    data: EncodedDataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    strategy = PPO(policy="rescore", samples_per_image=2, num_candidates=16, context_candidates=16)
    ends = []
    for tells in (True, False):
        if not tells:
            monkeypatch.setattr(ppo, "tell_pretest", lambda *run: None)
        policy = strategy.start(shipped())
        strategy.tune(policy, a_task(data, num_steps=4))
        ends.append(copied(policy.trainable.state_dict()))
        lines = [line for line in capsys.readouterr().err.splitlines() if "best of 2 samples" in line]
        assert len(lines) == tells
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


@pytest.mark.parametrize("other", [{"advantage": "leave_one_out"}, {"policy": "refine"}])
def test_without_credit_or_with_several_steps_nothing_is_told(
    other: dict[str, Any], data: EncodedDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    strategy = PPO(samples_per_image=2, num_candidates=16, context_candidates=16, **other)
    pretest.tell_pretest(strategy, strategy.start(shipped()), a_task(data))
    assert "best of" not in capsys.readouterr().err


def test_a_run_that_a_plain_function_pays_says_what_its_calls_cost(
    data: EncodedDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = 0

    def few(detections: dict[str, torch.Tensor], target: object) -> float:
        nonlocal calls
        calls += 1
        return -float(len(detections["scores"]))

    strategy = PPO(policy="rescore", reward=few, samples_per_image=2, num_candidates=16, context_candidates=16)
    task = a_task(data, num_steps=2)
    pretest.tell_pretest(strategy, strategy.start(shipped()), task)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "the reward's function" in line]
    num_batches = min(pretest.MOST_BATCHES, len(data) // task.batch_size)
    assert line.startswith(
        f"ppo: the reward's function few is called about {calls / num_batches:.0f} times an update, "
    )
    assert calls > len(data)


def test_the_line_has_the_figures() -> None:
    told = BestOfSamples(0.5, 0.61, 0.0, 0.02, 48, 8).told()
    assert told.startswith("best of 8 samples on 48 training images: mAP 50.0 -> 61.0, reward 0 -> 0.02;")
