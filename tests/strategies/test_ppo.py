"""PPO and REINFORCE as strategies: what they refuse, where they begin, and what holds them to their start."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from strategies.scenes import Told, a_task, shipped, train_data
from unchecked import unchecked

from rl_det.candidates import observe, select_candidates
from rl_det.detectors.encodings import EncodedDataset
from rl_det.errors import UserError
from rl_det.losses.policy_gradient import masked_mean
from rl_det.policies.build import PolicyName
from rl_det.policies.detections import policy_ap
from rl_det.policies.exploration import Exploration
from rl_det.policies.voting import VotingPolicy
from rl_det.rewards import PoolAp
from rl_det.strategies.hand_set import HandSetVotes, PostProcessingGrid, WarmStart
from rl_det.strategies.labels import Labels
from rl_det.strategies.ppo import PPO
from rl_det.strategies.reinforce import Reinforce
from rl_det.strategies.surrogate import Surrogate
from rl_det.strategies.teaching import taught

LITTLE: dict[str, Any] = {"samples_per_image": 2, "num_candidates": 12, "context_candidates": 8}


@pytest.fixture(scope="module")
def data() -> EncodedDataset:
    return train_data()


@pytest.mark.parametrize("strategy", [PPO, Reinforce])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"reward": "map"}, r"reward must be one of .*'pool_ap'.*; got 'map'"),
        ({"samples_per_image": 0}, "samples_per_image must be at least 1; got 0"),
        ({"num_candidates": 0}, "num_candidates must be at least 1; got 0"),
        ({"num_updates": 0}, "num_updates must be at least 1; got 0"),
        ({"learning_rate": -1.0}, r"learning_rate must be positive; got -1\.0"),
        ({"max_grad_norm": 0.0}, r"max_grad_norm must be positive; got 0\.0"),
        ({"patience": 0}, "patience must be at least 1; got 0"),
        ({"collapse_margin": 0.0}, r"collapse_margin must be positive; got 0\.0"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_read(
    strategy: type[PPO] | type[Reinforce], wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        strategy(**wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_epochs": 0}, "num_epochs must be at least 1; got 0"),
        ({"clip": 0.0}, r"clip must lie in \(0, 1\); got 0\.0"),
        ({"clip": 1.0}, r"clip must lie in \(0, 1\); got 1\.0"),
        ({"begin": "hand_set_votes", "policy": "rescore"}, "only the voting policy can begin .*; got policy 'rescore'"),
    ],
)
def test_impossible_settings_of_ppo_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PPO(**wrong)


def test_a_reward_of_ones_own_and_the_known_names_are_taken() -> None:
    own = PoolAp()
    assert PPO(reward=own).reward is own
    assert PPO(reward="image_ap").reward == "image_ap"
    assert PPO(begin="hand_set_votes").policy is None, "the detector decides"


def course(strategy: PPO, data: EncodedDataset, metric: str, num_steps: int) -> list[float]:
    """The metric in each update, from the shipped detector on."""
    told = Told()
    torch.manual_seed(0)
    policy = strategy.start(shipped())
    validations = iter([0.5, 0.6]).__next__
    task = a_task(data, num_steps=num_steps, validate_every=num_steps, callbacks=[told], validation_ap=validations)
    strategy.tune(policy, task)
    return [metrics[metric] for update, metrics in told.lines if update]


@pytest.mark.parametrize("name", ["rescore", "adjust", "voting"])
def test_a_price_of_leaving_the_start_is_paid_by_a_reference_of_its_own(name: PolicyName, data: EncodedDataset) -> None:
    distances = {}
    for weight in (0.01, 100.0):
        strategy = PPO(policy=name, begin="warm_start", kl_weight=weight, num_epochs=1, supervised_weight=0.0, **LITTLE)
        distances[weight] = course(strategy, data, "kl_start", 3)
    free, held = distances[0.01], distances[100.0]
    assert free[0] == held[0] == pytest.approx(0.0, abs=1e-9), "at its start the policy is the reference"
    assert 0 < held[-1] < free[-1]


@pytest.mark.parametrize("taught", [{"supervised_weight": 0.0}, {"taught_by": "smooth_ap"}])
@pytest.mark.parametrize("name", ["context", "voting"])
def test_what_any_module_adds_to_the_heads_logits_has_a_price(
    name: PolicyName, taught: dict[str, Any], data: EncodedDataset
) -> None:
    added = {}
    for weight in (0.0, 1000.0):
        settings = {"residual_penalty": weight, "mean_shift_penalty": 0.0, "num_epochs": 1, "learning_rate": 1e-2}
        settings |= {**taught, **LITTLE}
        added[weight] = course(PPO(policy=name, begin="warm_start", **settings), data, "residual", 4)
    free, held = added[0.0], added[1000.0]
    assert free[0] == held[0] == pytest.approx(0.0, abs=1e-9), "at its start the module adds nothing"
    assert 0 < 2 * held[-1] < free[-1]


def test_without_a_price_the_loss_of_labels_has_none_either(data: EncodedDataset) -> None:
    policy = VotingPolicy.at_start(shipped(), Exploration(sigma=0.5, box_sigma=0.2))
    policy.module.vote_plainly(1.0, 0.5)
    encoded = data.batch(torch.arange(len(data)), policy.detector)
    output = policy.detector.head(encoded)
    observation = observe(select_candidates(output, encoded.mask, 12), encoded)
    shown = SimpleNamespace(observation=observation)
    rollout: Any = SimpleNamespace(indices=range(len(data)), encoded=encoded, moves=[shown])
    with unchecked(), torch.no_grad():
        free, usual, dear = (
            float(taught("smooth_ap", policy, data, weight)(rollout, output, policy.distribution(observation, output)))
            for weight in (0.0, 0.1, 1.1)
        )
    residual = policy.distribution(observation, output).residual
    own = float(masked_mean(residual.square(), observation["mask"]).detach())
    assert own > 0.01
    assert usual - free == pytest.approx(0.1 * own, rel=1e-3)
    assert dear - free == pytest.approx(1.1 * own, rel=1e-3)


@pytest.mark.parametrize(
    "strategy",
    [
        PPO(begin="hand_set_votes", learning_rate=1e-9, **LITTLE),
        PPO(learning_rate=1e-9, **LITTLE),
        Surrogate(learning_rate=1e-9),
    ],
)
def test_a_strategy_begins_at_the_votes_that_are_best_on_validation(
    strategy: PPO | Surrogate, data: EncodedDataset
) -> None:
    task = a_task(data, num_steps=2)
    policy = strategy.start(shipped())
    start = task.validation_ap(policy)
    ending = strategy.tune(policy, task)
    assert isinstance(policy, VotingPolicy)
    assert float(policy.module.verdict.bias[1].detach()) == pytest.approx(1.0, abs=1e-6)
    plain = HandSetVotes()
    other = plain.start(shipped())
    assert plain.tune(other, task).best == pytest.approx(ending.best, abs=1e-6)
    assert ending.best is not None
    assert ending.best > start


@pytest.mark.parametrize("strategy", [PPO(**LITTLE), Reinforce(policy="rescore", **LITTLE)])
def test_a_strategy_leaves_the_policy_at_its_best_validation(strategy: PPO | Reinforce, data: EncodedDataset) -> None:
    told, task = Told(), a_task(data, num_steps=4, validate_every=2)
    task.fit = a_task(data, callbacks=[told]).fit
    policy = strategy.start(shipped())
    ending = strategy.tune(policy, task)
    aps = [metrics["val_AP"] for _, metrics in told.lines if "val_AP" in metrics]
    assert ending.best == max(aps) == pytest.approx(policy_ap(policy, task.val, task.validated_candidates), abs=1e-9)
    assert {"reward", "signal", "mean_shift", "supervised", "grad_norm"} <= told.lines[1][1].keys()
    assert "kl_start" not in told.lines[1][1]


def test_a_policy_explores_as_widely_as_the_strategy_says() -> None:
    policy: Any = PPO(exploration=Exploration(sigma=0.125, box_sigma=0.25)).start(shipped())
    assert (policy.sigma, policy.box_sigma) == (0.125, 0.25)


def test_an_unknown_policy_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"policy must be one of rescore, .*; got 'vote'"), unchecked():
        PPO(policy="vote").start(shipped())  # type: ignore[arg-type]


@pytest.mark.parametrize("weights", [(1.0, 2.0), (1.0, 4.0, 2.0)])
def test_a_weight_without_a_factor_is_refused(weights: tuple[float, ...], data: EncodedDataset) -> None:
    rescoring = PPO(policy="rescore", factor_weights=weights, **LITTLE)
    with pytest.raises(
        UserError, match=r"factor_weights must have one weight for each of the action's factors, 1; got"
    ):
        rescoring.tune(rescoring.start(shipped()), a_task(data))


@pytest.mark.parametrize("first", [Labels(name="mine"), Labels(policy="voting"), WarmStart(name="mine")])
@pytest.mark.parametrize("strategy", [HandSetVotes, PostProcessingGrid])
def test_a_name_and_a_policy_of_what_runs_first_are_refused(strategy: Any, first: Any) -> None:
    with pytest.raises(
        UserError, match=r"(name|policy) does nothing in a strategy that runs first; got '(mine|voting)'"
    ):
        strategy(after=first)
