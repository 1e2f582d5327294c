"""Question: how good a detector can two CPU cores train on digit scenes within ten minutes?

Command: python experiments/warm_start.py --out rl_det/detectors/weights/tiny_digit_scenes.safetensors
Minutes and mAP: experiments/NUMBERS.md. This is how the shipped weights were made.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

import rl_det
from rl_det.detectors import save_state
from rl_det.finetuning.budget import DIGIT_RECIPE
from rl_det.finetuning.warm_start import warm_start
from rl_det.program import ProgramFlags, program


@dataclass(frozen=True, kw_only=True)
class Arguments(ProgramFlags):
    """Where to."""

    out: Path
    """The file to write, .safetensors or .pt, in half precision."""


def main(arguments: Arguments) -> None:
    """Train tiny from random weights and save it."""
    data = rl_det.digit_scenes(train=1, val=300, test=1)
    detector = rl_det.load_detector("tiny", data, weights="none")
    warm_start(detector, data, DIGIT_RECIPE)
    save_state(detector.plain(), arguments.out, torch.float16)


if __name__ == "__main__":
    with program(again=""):  # it goes on where it was stopped by itself
        main(tyro.cli(Arguments))
