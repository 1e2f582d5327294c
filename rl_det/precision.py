"""The precision in which networks run."""

from contextlib import AbstractContextManager
from typing import Literal

import torch

Precision = Literal["float32", "mixed"]
"""mixed: half precision (`half_of`) for the operations that torch considers safe; float32 for all others."""
WantedPrecision = Precision | Literal["auto"]
"""auto: mixed on CUDA, and else float32."""


def half_of(device: torch.device) -> torch.dtype:
    """The half precision of a device: float16 on CUDA, bfloat16 on a CPU."""
    return torch.float16 if device.type == "cuda" else torch.bfloat16


def running_in(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """A context in which networks on this device run in this precision; float32 switches an outer context off."""
    return torch.autocast(device.type, dtype=half_of(device), enabled=precision == "mixed")
