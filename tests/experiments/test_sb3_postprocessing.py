"""Settings by grid, by SB3's PPO and by our own: what a run writes, that the grid finds the best, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import Refusals, lines, results, small_data, tiny
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import EvalCallback

from rl_det.finetuning.settings_by_image import Search, compare_settings, settings_text
from rl_det.strategies import settings_by_sb3
from rl_det.strategies.fixed_settings import as_action, best_on_grid
from rl_det.strategies.settings_by_ppo import SettingsByPpo
from rl_det.strategies.settings_by_sb3 import SettingsBySb3

SEARCH = Search(
    refinements=1,
    stride=100,
    ppo=SettingsBySb3(num_steps=384, num_validations=4),
    own=SettingsByPpo(num_updates=8, num_validations=4),
)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refusals:
    return Refusals("sb3_postprocessing.py", capsys, monkeypatch)


def run(out: Path, **options: Any) -> dict[str, Any]:
    data = small_data()
    told = compare_settings(tiny(data), data, search=SEARCH, budget="smoke", out=out, **options)
    assert results(out)["methods"] == told["methods"]
    return told


def test_a_run_says_what_each_method_gave_and_leaves_a_model_that_sb3_loads(tmp_path: Path) -> None:
    told = run(tmp_path / "run")
    rows = ["default", "fixed_by_grid", "sb3_ppo", "sb3_ppo_last", "own_ppo", "own_ppo_last"]
    assert list(told["methods"]) == list(told["seconds"]) == rows
    assert list(told["over_grid"]) == rows[2:]
    for figures in told["methods"].values():
        assert 0.3 < figures["reward"] < 1
        assert 0.3 < figures["F1"] < 1
        assert 0.1 < figures["AP"] < 1
    for name, gain in told["over_grid"].items():
        above = told["methods"][name]["reward"] - told["methods"]["fixed_by_grid"]["reward"]
        assert gain["mean"] == pytest.approx(above, abs=1e-7)
    assert {line["stage"] for line in lines(tmp_path / "run")} == {"sb3_ppo", "own_ppo"}
    for stage in ("sb3_ppo", "own_ppo"):
        written = lines(tmp_path / "run", stage)
        assert written[-1]["best"] >= written[0]["best"]
        assert {"reward", "val_reward", "best"} <= written[0].keys()
        assert list((tmp_path / "run" / "tensorboard" / stage).iterdir())
    assert len(lines(tmp_path / "run", "own_ppo")) == 8
    for name in ("best_model", "last_model"):
        model = PPO.load(tmp_path / "run" / "checkpoints" / name, device="cpu")
        assert model.predict(torch.rand(5, 32).numpy())[0].shape == (5, 4)
    assert all((tmp_path / "run" / "checkpoints" / f"{name}.safetensors").exists() for name in rows[4:])
    assert all(name in settings_text(told) for name in rows)
    with pytest.raises(ValueError, match="holds a run already"):
        run(tmp_path / "run")


class NeverBetter(EvalCallback):
    """Nothing is better than infinity, so the start is what is kept."""

    best_mean_reward = property(lambda _: torch.inf, lambda *_: None)


def test_ppo_starts_at_the_grids_settings_for_every_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_by_sb3, "EvalCallback", NeverBetter)
    told = run(tmp_path / "run")
    assert told["methods"]["sb3_ppo"] == told["methods"]["fixed_by_grid"]
    assert told["methods"]["sb3_ppo"] != told["methods"]["default"]
    assert told["over_grid"]["sb3_ppo"] == {"mean": 0, "standard_error": 0}


def test_the_same_seed_gives_the_same_run_and_another_does_not(tmp_path: Path) -> None:
    first, second, other = (run(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert first["methods"] == second["methods"]
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in "abc"]
    assert logs[0] == logs[1] != logs[2]
    assert first["methods"]["fixed_by_grid"] == other["methods"]["fixed_by_grid"]


class OnePeak:
    """An environment whose reward falls with the distance from one action."""

    num_envs, num_candidates = 2, 128
    peak = torch.tensor([-0.37, 0.11, -0.93, -0.79])

    def reset(self, **_: Any) -> tuple[torch.Tensor, dict[str, Any]]:
        return torch.zeros(2, 32), {}

    def step(self, actions: torch.Tensor) -> tuple[Any, torch.Tensor]:
        return None, 1 - (actions - self.peak).abs().sum(1)


def test_the_grid_finds_a_best_action_that_lies_between_its_points() -> None:
    found = best_on_grid(OnePeak(), refinements=5)
    assert (found - OnePeak.peak).abs().max() < 0.02


def test_settings_and_actions_are_each_others_inverse() -> None:
    environment = OnePeak()
    torch.testing.assert_close(as_action(environment, 0.5, 0.6, 0.0, 128), torch.tensor([0.0, 0.2, -1.0, 1.0]))
    torch.testing.assert_close(as_action(environment, 0.0, 1.0, 0.125, 1), torch.tensor([-1.0, 1.0, -0.75, -1.0]))


def test_what_it_cannot_do_and_an_unknown_reward_are_refused_before_any_work(tmp_path: Path, refused: Refusals) -> None:
    training = (("--trainable", "all"), ("--precision", "mixed"), ("--cache-memory", "1"), ("--batch-size", "4"))
    for flag, value in (("--policy", "select"), ("--limits.num-updates", "3"), ("--recipe.num-steps", "3"), *training):
        assert f"Unrecognized options: {flag}" in refused(flag, value)
    assert "Unrecognized options: --resume" in refused("--resume", "--out", tmp_path / "run")
    assert "num_steps must be at least 1; got 0" in refused("--num-steps", 0, "--out", tmp_path / "run")
    assert "'f1'" in refused("--reward", "map", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()
