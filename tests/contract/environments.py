"""Every registered environment, a small detector, six scenes, and random actions: what the environments' tests share."""

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import rl_det_envs  # noqa: F401  (registers the ids)
import torch

from rl_det.candidates import SHIFT_OF_ONE
from rl_det.data.digit_scenes import CLASSES, DigitScenes
from rl_det.detectors import Detector, build_detector
from rl_det.detectors.encodings import EncodedDataset, encode_dataset
from rl_det.detectors.torchvision.tiny import SHIPPED_WEIGHTS
from rl_det.types import Target

ADJUST, REFINE, RESCORE, SELECT, TUNE = (
    f"rl_det/{name}-v0"
    for name in ("AdjustDetections", "RefineBoxes", "RescoreDetections", "SelectDetections", "TunePostprocessing")
)
ENVIRONMENTS = sorted(name for name in gymnasium.registry if name.startswith("rl_det/"))
NUM_CANDIDATES = 24
NUM_IMAGES = 6
NO_OBJECTS = 2
"""The image whose labels are taken away."""
OTHER_IDS = (3, 30, 1, 30, 12, 0)
"""Image ids that are not the images' positions; two entries share one."""


def shipped() -> Detector:
    return build_detector("tiny", num_classes=len(CLASSES), weights=SHIPPED_WEIGHTS)


def scenes(detector: Detector) -> EncodedDataset:
    encoded = encode_dataset(detector, DigitScenes("val", num_scenes=NUM_IMAGES))
    encoded.targets[NO_OBJECTS] = no_objects()
    return encoded


def with_other_ids(data: EncodedDataset) -> EncodedDataset:
    targets = [replace(target, image_id=own) for target, own in zip(data.targets, OTHER_IDS, strict=True)]
    return EncodedDataset(data.encoded, targets, data.source)


def no_objects() -> Target:
    return Target(
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        area=torch.zeros(0),
        iscrowd=torch.zeros(0, dtype=torch.bool),
        image_id=NO_OBJECTS,
    )


def make_vector(env_id: str, num_envs: int, **options: Any) -> Any:
    return gymnasium.make_vec(env_id, num_envs=num_envs, vectorization_mode="vector_entry_point", **options).unwrapped


def random_actions(env_id: str, num_envs: int, seed: int) -> torch.Tensor:
    """Logit shifts of about 1, moves of about a tenth of a side, two of three candidates kept, any settings."""
    generator = torch.Generator().manual_seed(seed)
    shape = {ADJUST: (NUM_CANDIDATES, 5), REFINE: (4 * NUM_CANDIDATES,), TUNE: (4,)}.get(env_id, (NUM_CANDIDATES,))
    noise = torch.randn(num_envs, *shape, generator=generator)
    if env_id == SELECT:
        return (noise > -0.5).float()
    return noise.clamp(-1, 1) if env_id in (REFINE, TUNE) else noise / SHIFT_OF_ONE


def numbers(observation: Any) -> dict[str, np.ndarray]:
    """An observation as a dictionary of arrays, whichever its space."""
    parts = observation if isinstance(observation, dict) else {"": observation}
    return {name: np.asarray(values) for name, values in parts.items()}
