"""Runs of seconds whose pages are looked at: on scenes whose classes have hostile names."""

import shutil
from pathlib import Path
from typing import Any

from finetuning.small import BUDGET, own_model, write_folder

import rl_det
from rl_det.data.splits import Splits
from rl_det.finetuning.results import load_results, read_detections, read_truths
from rl_det.finetuning.run_page import run_page
from rl_det.storage.checksums import checksum, read_sealed, write_sealed
from rl_det.storage.run import CHECKSUMS, CONFIG, RESULTS

HOSTILE = {3: "<script>alert(1)</script>", 7: '$\\frac{" onload="alert(2)\u202e\u2066\n\t\0\ud800'}
"""Class names that would run as a program, end an attribute, be read as mathematics, turn the text or break it."""


def open_hostile(folder: Path) -> Splits:
    """Scenes of the two hostile classes, in a folder whose name is hostile too."""
    place = folder / "data <b>"
    return rl_det.open_data(place if place.exists() else write_folder(place, categories=HOSTILE))


def make_run(folder: Path, data: Splits, *, seed: int = 0, baselines: bool = True, name: str = "ppo") -> Path:
    """The folder of a run of PPO for two updates; `name` is its row's."""
    detector = rl_det.load_detector(own_model(), data, device="cpu")
    detector.is_trained = True
    strategy = rl_det.PPO(policy="adjust", num_candidates=24, name=name)
    rl_det.finetune(detector, data, strategy, budget=BUDGET, seed=seed, out=folder, baselines=baselines)
    return folder


def chosen(folder: Path, row: str) -> Path:
    """The folder after validation has chosen this row."""
    file = folder / "results.json"
    told = read_sealed(file, "results")
    told["validation_AP"] = {name: float(name == row) for name in told["validation_AP"]}
    write_sealed(file, {**told, "best_on_validation": row})
    return folder


def as_seed(run: Path, folder: Path, seed: int, **settings: Any) -> Path:
    """A copy of a run in this folder, as if it were of another seed, and of other settings."""
    shutil.copytree(run, folder)
    config, told = (read_sealed(folder / name, "a run's") for name in (CONFIG, RESULTS))
    write_sealed(folder / CONFIG, {**config, "run": {**config["run"], **settings, "seed": seed}})
    checksums = {**told[CHECKSUMS], CONFIG: checksum(folder / CONFIG)}
    write_sealed(folder / RESULTS, {**told, "seed": seed, CHECKSUMS: checksums})
    return folder


def as_older(told: dict[str, Any]) -> dict[str, Any]:
    """What a file of a run says, as versions wrote it that kept no checksums."""
    return {name: value for name, value in told.items() if name not in ("checksum", "checksums")}


def page_with_images(folder: Path, data: Splits) -> str:
    """The page as the run itself writes it."""
    results = load_results(folder)
    detections = {name: read_detections(folder, name) for name in results.rows}
    return run_page(results, detections, read_truths(folder), data.test)
