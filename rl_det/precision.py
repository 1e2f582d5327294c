"""The precision in which networks run."""

from contextlib import AbstractContextManager
from typing import Literal

import torch

Precision = Literal["float32", "mixed"]
"""mixed: float16 on CUDA, bfloat16 on a CPU, for the operations that torch considers safe; float32 for all others."""


def running_in(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """A context in which networks on this device run in this precision; float32 switches an outer context off."""
    half = torch.float16 if device.type == "cuda" else torch.bfloat16
    return torch.autocast(device.type, dtype=half, enabled=precision == "mixed")
