"""Question: how good a detector can two CPU cores train on digit scenes within ten minutes?

Command: python experiments/warm_start.py --out rl_det/detectors/weights/tiny_digit_scenes.safetensors
Minutes and mAP: experiments/README.md. This is how the shipped weights were made.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from task import DIGITS_HEAD, DIGITS_WARM_START, train_warm_start

from rl_det.data.digit_scenes import CLASSES, DigitScenes
from rl_det.detectors import build_detector
from rl_det.storage.weights import save_state


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Where to."""

    out: Path
    """The file to write, .safetensors or .pt, in half precision."""


def main(arguments: Arguments) -> None:
    """Train tiny from random weights and save it."""
    torch.manual_seed(0)
    detector = build_detector("tiny", num_classes=len(CLASSES))
    train_warm_start(
        detector,
        DigitScenes("train", num_scenes=24_000, seed=1),
        DigitScenes("val", num_scenes=300),
        DIGITS_WARM_START,
        DIGITS_HEAD,
        identity={"detector": "tiny", "data": "digit scenes", "seed": 0},
    )
    save_state(detector.plain(), arguments.out, torch.float16)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
