"""Settings by grid and by SB3's PPO: what the script writes, that the grid finds the best, and that mistakes are refused."""

import json
from pathlib import Path
from typing import Any

import fixed_settings
import pytest
import sb3_postprocessing
import task
import torch
import tyro
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import EvalCallback

NUM_SCENES = {"train": 12, "val": 8, "test": 8}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smoke budget made smaller still."""
    monkeypatch.setitem(task.NUM_SCENES, "smoke", NUM_SCENES)
    monkeypatch.setattr(sb3_postprocessing, "NUM_VALIDATIONS", 4)


def run(out: Path, **arguments: Any) -> dict[str, Any]:
    given = sb3_postprocessing.Arguments(**{"budget": "smoke", "device": "cpu", "out": out} | arguments)
    sb3_postprocessing.main(given)
    results: dict[str, Any] = json.loads((out / "results.json").read_text())
    return results


def test_a_run_says_what_each_method_gave_and_leaves_a_model_that_sb3_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = run(tmp_path / "run")
    assert list(results["methods"]) == ["default", "fixed_by_grid", "sb3_ppo", "sb3_ppo_last"]
    for figures in results["methods"].values():
        assert 0.3 < figures["reward"] < 1
        assert 0.3 < figures["F1"] < 1
        assert 0.1 < figures["AP"] < 1
    gain = results["over_grid"]["sb3_ppo"]["mean"]
    assert gain == pytest.approx(
        results["methods"]["sb3_ppo"]["reward"] - results["methods"]["fixed_by_grid"]["reward"], abs=1e-7
    )
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in lines} == {"sb3_ppo"}
    assert lines[-1]["best"] >= lines[0]["best"]
    for name in ("best_model", "last_model"):
        model = PPO.load(tmp_path / "run" / "checkpoints" / name, device="cpu")
        assert model.predict(torch.rand(5, 32).numpy())[0].shape == (5, 4)
    assert "fixed_by_grid" in capsys.readouterr().out


class NeverBetter(EvalCallback):
    """Nothing is better than infinity, so the start is what is kept."""

    best_mean_reward = property(lambda _: torch.inf, lambda *_: None)


def test_ppo_starts_at_the_grids_settings_for_every_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sb3_postprocessing, "EvalCallback", NeverBetter)
    results = run(tmp_path / "run")
    assert results["methods"]["sb3_ppo"] == results["methods"]["fixed_by_grid"]
    assert results["methods"]["sb3_ppo"] != results["methods"]["default"]
    assert results["over_grid"]["sb3_ppo"] == {"mean": 0, "standard_error": 0}


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
    found = fixed_settings.best_on_grid(OnePeak(), "full")
    assert (found - OnePeak.peak).abs().max() < 0.02


def test_settings_and_actions_are_each_others_inverse() -> None:
    environment = OnePeak()
    torch.testing.assert_close(
        fixed_settings.as_action(environment, 0.5, 0.6, 0.0, 128), torch.tensor([0.0, 0.2, -1.0, 1.0])
    )
    torch.testing.assert_close(
        fixed_settings.as_action(environment, 0.0, 1.0, 0.125, 1), torch.tensor([-1.0, 1.0, -0.75, -1.0])
    )


def test_a_policy_cannot_be_chosen_and_an_unknown_reward_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit):
        tyro.cli(sb3_postprocessing.Arguments, args=["--policy", "select"])
    assert "policy" in capsys.readouterr().err
    monkeypatch.delattr(sb3_postprocessing, "open_task")
    with pytest.raises(ValueError, match=r"reward must be one of .*'f1'.*got 'map'"):
        run(tmp_path / "run", reward="map")
    assert not (tmp_path / "run").exists()
