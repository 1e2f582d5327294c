"""A data set and a configuration -> a trained detector, trained once: the next run finds it in the cache."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rl_det.data import Dataset
from rl_det.detectors import load_state, save_state
from rl_det.detectors.protocol import Detector
from rl_det.runs import cache_folder, fingerprint
from rl_det.training import supervised


def warm_start(
    detector: Detector,
    dataset: Dataset,
    config: supervised.Config,
    *,
    identity: dict[str, Any],
    generator: torch.Generator,
    validate: Callable[[], float | None],
    on_step: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
) -> Path:
    """Train the detector, or load what the same configuration has trained before; returns the cached state's file.

    `identity` says, in JSON's types, all else that the result depends on: the data, the architecture, the seed.
    """
    known = {"config": dataclasses.asdict(config), **identity}
    file = cache_folder() / "warm_starts" / f"{fingerprint(known)}.safetensors"
    if file.exists():
        load_state(detector.plain(), file)
        return file
    supervised.train(detector, dataset, config, generator=generator, validate=validate, on_step=on_step)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_state(detector.plain(), file)
    return file
