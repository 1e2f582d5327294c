"""A data set and two configurations -> a trained detector, trained once: the next run finds it in the cache.

First the whole detector learns, then its head alone, on encodings made once: a step of the head costs a tenth, and a head
that has not converged would make every later method look good.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rl_det.data import Dataset
from rl_det.detectors.encodings import encode_dataset
from rl_det.detectors.protocol import Detector
from rl_det.policies.detections import mean_ap
from rl_det.policies.rescore import RescorePolicy
from rl_det.storage.cache import cache_folder, fingerprint
from rl_det.storage.weights import load_state, save_state
from rl_det.training import continued, supervised

NUM_CANDIDATES = 100
"""Of an image, by which validation judges the detector."""
HEAD_IMAGES = 4000
"""How many images the head alone is trained on, at most; their encodings lie in memory."""


def warm_start(
    detector: Detector,
    dataset: Dataset,
    val: Dataset,
    config: supervised.Config,
    head_config: continued.Config,
    *,
    identity: dict[str, Any],
    generator: torch.Generator,
    on_step: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
) -> Path:
    """Train the detector, or load what the same configurations have trained before; returns the cached state's file.

    `identity` says, in JSON's types, all else that the result depends on: the data, the architecture, the seed. The steps
    that `on_step` hears of are the detector's and then, counted on, its head's.
    """
    configs = {"config": dataclasses.asdict(config), "head_config": dataclasses.asdict(head_config)}
    file = cache_folder() / "warm_starts" / f"{fingerprint({**configs, **identity})}.safetensors"
    if file.exists():
        load_state(detector.plain(), file)
        return file
    policy = RescorePolicy(detector, sigma=1.0)
    supervised.train(
        detector,
        dataset,
        config,
        generator=generator,
        validate=lambda: {
            "AP": mean_ap(policy, encode_dataset(detector, val), NUM_CANDIDATES, nms_iou=detector.nms_iou)
        },
        on_step=on_step,
    )
    encoded_val = encode_dataset(detector, val)
    continued.train(
        policy,
        encode_dataset(detector, dataset, num_images=HEAD_IMAGES),
        head_config,
        generator=generator,
        validate=lambda: mean_ap(policy, encoded_val, NUM_CANDIDATES, nms_iou=detector.nms_iou),
        on_step=lambda step, metrics: on_step(config.num_steps + step, metrics),
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    save_state(detector.plain(), file)
    return file
