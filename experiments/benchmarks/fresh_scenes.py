"""Question: do the rows of finished runs keep their order on digit scenes that nobody has looked at?

Command: python experiments/benchmarks/fresh_scenes.py RUN...      # folders of runs with PPO on digit scenes, one a seed
Numbers: experiments/benchmarks/README.md.

The 1,000 test scenes were looked at while the method was designed. These are others, drawn from the same scans by another
seed; no run has used that seed. A last row is what `detector.pt` of PPO gives by itself, as torchvision loads it, without
votes. The runs are of different seeds; intervals are a paired bootstrap over them and the scenes.
"""

from copy import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

import rl_det
from rl_det.ap.matching import Matches, match
from rl_det.ap.padding import pad_detections, pad_targets
from rl_det.candidates.postprocessing import PostProcessingSettings
from rl_det.data.digit_scenes import CLASSES, DigitScenes
from rl_det.finetuning.plan import FITTED
from rl_det.policies.build import build_policy
from rl_det.policies.detections import detect_images, on_host
from rl_det.policies.policy import Policy
from rl_det.program import program
from rl_det.progress import bar
from rl_det.report.bootstrap import interval, redrawn_ap
from rl_det.storage.checkpoint import read_checkpoint
from rl_det.storage.run import CHECKPOINTS
from rl_det.strategies.labels import CONTROL
from rl_det.types import Detections

FITTED_CONTROL = "control, fitted"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Measure the rows of finished runs of PPO on new digit scenes."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """The folders of the runs, which have fitted rows."""
    scenes: int = 1000
    seed: int = 20_261_127
    """The seed of the scenes."""
    draws: int = 200
    """How often scenes and runs are redrawn."""


def policies_of(control: Policy, ppo: Policy, run: Path) -> dict[str, Policy]:
    """The policies of a run's rows, and the plain detector of PPO."""
    return {
        "control": control,
        FITTED_CONTROL: fitted(control, run, CONTROL),
        "PPO": ppo,
        "PPO, fitted": fitted(ppo, run, "ppo"),
        "PPO, detector.pt alone": build_policy("rescore", ppo.detector),
    }


def fitted(policy: Policy, run: Path, name: str) -> Policy:
    """The policy with the post-processing that was fitted for it."""
    own = copy(policy)
    kept = read_checkpoint(run / CHECKPOINTS / f"{name}{FITTED}.pt")
    own.postprocessing = PostProcessingSettings.of(kept["rescaled"])
    return own


def matches_of(run: Path, scenes: DigitScenes) -> dict[str, Matches]:
    """Each row's matches on the scenes."""
    control, ppo = (rl_det.load_tuned(run / name, device="cpu") for name in (CONTROL, "ppo"))
    policies = policies_of(control.policy, ppo.policy, run)
    found: dict[str, list[Detections]] = {name: [] for name in policies}
    with bar(str(run), len(scenes)) as shown:
        images = (scenes[index].image for index in range(len(scenes)))
        for batch in detect_images(list(policies.values()), images, ppo.num_candidates):
            for own, detections in zip(found.values(), batch, strict=True):
                own += map(on_host, detections)
            shown.advance(len(batch[0]))
    truths = pad_targets([scenes[index].target for index in range(len(scenes))])
    return {name: match(pad_detections(own), truths, num_classes=len(CLASSES)) for name, own in found.items()}


def main(config: Config) -> None:
    """Print the table."""
    scenes = DigitScenes("test", num_scenes=config.scenes, seed=config.seed)
    runs = [matches_of(run, scenes) for run in config.runs]
    measured = {name: [[own[name]] for own in runs] for name in runs[0]}
    drawn = redrawn_ap(measured, num_draws=config.draws, rng=np.random.default_rng(0))
    print("| row | AP | AP over the control | AP over the fitted control |\n|---|---:|---:|---:|")
    for name in measured:
        over = [interval(drawn[name] - drawn[other]) for other in ("control", FITTED_CONTROL)]
        told = [f"{100 * own.value:+.2f} ({100 * own.low:+.2f} to {100 * own.high:+.2f})" for own in over]
        print(f"| {name} | {100 * drawn[name][0]:.2f} | {told[0]} | {told[1]} |")


if __name__ == "__main__":
    with program():
        main(tyro.cli(Config, description=__doc__))
