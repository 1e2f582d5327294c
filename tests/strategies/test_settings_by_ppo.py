"""Settings by our PPO: it learns on a small data set, keeps validation's best, and is the same for the same seed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from learning.toy import NUM_IMAGES, NUM_PROPOSALS, ToyDetector, toy_data
from rl_det_envs.tune_postprocessing import TunePostprocessingVector

from rl_det.errors import UserError
from rl_det.strategies.fixed_settings import judged
from rl_det.strategies.settings_by_ppo import Progress, SettingsByPpo, learn_settings
from rl_det.training.callbacks import Checkpoint
from rl_det.training.loop import Callback, FitRun

START = torch.tensor([-0.6, 0.0, -0.5, 0.5])
"""A threshold far below where objects and other proposals are told apart."""
QUICK = SettingsByPpo(num_updates=60, num_validations=6, learning_rate=1e-2, weight_decay=0.0, target_kl=0.5)


def detector() -> ToyDetector:
    """One that tells objects from the rest, by probabilities of 0.73 and 0.27."""
    own = ToyDetector()
    with torch.no_grad():
        own.scores.weight.copy_(torch.eye(1, own.scores.in_features))
    return own


def environment(data_seed: int, samples: int = 1, **options: Any) -> Any:
    return TunePostprocessingVector(
        NUM_IMAGES * samples,
        detector=detector(),
        dataset=toy_data(data_seed),
        num_candidates=NUM_PROPOSALS,
        samples_per_image=samples,
        **options,
    )


def learnt(config: SettingsByPpo = QUICK, seed: int = 0, callbacks: tuple[Callback, ...] = (), **options: Any) -> Any:
    train, val = environment(0, config.samples_per_image, **options), environment(1)
    return learn_settings(train, val, START, config, seed=seed, callbacks=callbacks)


def worth(choose: Any) -> float:
    """The mean F1 on images that were not trained on."""
    return float(judged(environment(2), choose).mean())


def test_it_learns_where_objects_and_the_rest_are_told_apart() -> None:
    assert worth(lambda seen: START.expand(len(seen), -1)) < 0.7
    best, last = learnt()
    assert worth(best.chosen) > 0.95
    assert worth(last.chosen) > 0.95


def test_it_does_not_learn_when_every_reward_is_the_same() -> None:
    best, last = learnt(reward=lambda detections, target: 1.0)
    assert torch.equal(best.last.bias, last.last.bias)
    assert torch.equal(best.chosen(torch.rand(3, 32)), START.expand(3, 4))


def test_the_start_is_kept_where_nothing_is_better_on_validation() -> None:
    good = torch.tensor([0.0, 0.0, -1.0, 1.0])
    train, val = environment(0, QUICK.samples_per_image), environment(1)
    assert judged(val, lambda seen: good.expand(len(seen), -1)).mean() == 1
    best, last = learn_settings(train, val, good, QUICK, seed=0)
    described = torch.from_numpy(val.describe())
    assert torch.equal(best.chosen(described), good.expand(NUM_IMAGES, 4))
    assert not torch.equal(last.chosen(described), best.chosen(described))


def test_the_same_seed_gives_the_same_policy_and_another_does_not() -> None:
    first, second, other = (learnt(seed=seed)[1].last.weight for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


class StopAt(Callback):
    """End the run after an update, as a kill would: nothing later is saved."""

    def __init__(self, update: int) -> None:
        self.update = update

    def on_step(self, run: FitRun, metrics: dict[str, float]) -> None:
        if run.update == self.update:
            raise InterruptedError


def test_a_run_that_was_killed_goes_on_from_its_checkpoint_to_the_same_policy(tmp_path: Path) -> None:
    whole = learnt()
    with pytest.raises(InterruptedError):
        learnt(callbacks=(Checkpoint(tmp_path / "run.pt"), StopAt(25)))
    resumed = learnt(callbacks=(Checkpoint(tmp_path / "run.pt"),))
    for own, other in zip(whole, resumed, strict=True):
        assert torch.equal(own.last.weight, other.last.weight)


def test_its_log_counts_actions_and_tells_the_last_and_the_best_validation() -> None:
    written: list[tuple[int, dict[str, float]]] = []
    learnt(callbacks=(Progress(lambda step, metrics: written.append((step, metrics)), NUM_IMAGES * 4),))
    assert [step for step, _ in written] == [NUM_IMAGES * 4 * update for update in range(1, 61)]
    assert all(metrics["best"] >= metrics["val_reward"] for _, metrics in written)


def test_settings_that_cannot_be_are_refused() -> None:
    for wrong in ({"samples_per_image": 1}, {"sigma": 0.0}, {"clip": 1.0}, {"num_validations": 0}):
        with pytest.raises(UserError):
            SettingsByPpo(**wrong)
