"""How long does the AP of each image of a batch take on an accelerator, and on the CPU path in the same run?

    python experiments/benchmarks/ap_on_device.py --device cuda

Prints one JSON object: medians of interleaved repeats, the largest difference of the APs and the number of decisions that
differ (must be 0). A minute on a GPU; `--device cpu --images 128` tries it out without one. The goal is 5 ms for the default
batch on a large GPU.
"""

import json
import platform
from collections.abc import Callable
from dataclasses import dataclass, fields
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
import tyro
from scenes import typical

from rl_det.ap import average_precision, matching, on_device


@dataclass(frozen=True, kw_only=True)
class Config:
    device: str = "cuda"
    """Where the torch path runs: "cuda" or "cpu"."""
    images: int = 1024
    detections: int = 100
    """Detections an image; its true boxes are 10 to 30."""
    classes: int = 80
    repeats: int = 21
    seed: int = 0


def on(device: str, batch: Any) -> Any:
    """The same batch in tensors of the device."""
    values = {field.name: torch.as_tensor(getattr(batch, field.name)).to(device) for field in fields(batch)}
    return type(batch)(**values)


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def milliseconds(function: Callable[[], Any], device: str) -> float:
    synchronize(device)
    start = perf_counter()
    function()
    synchronize(device)
    return 1000 * (perf_counter() - start)


def num_different(found: on_device.TensorMatches, expected: matching.Matches, num_thresholds: int) -> int:
    """How many decisions are not the same; all detections are shown, so that both have them in the same order."""
    different = 0
    for name in ("hits", "ignored"):
        bits = getattr(expected, name)[0][..., None] >> np.arange(num_thresholds, dtype=np.uint32) & 1
        in_order = getattr(found, name).take_along_dim(found.order[..., None], dim=1)
        different += int((in_order.cpu().numpy() != bits.astype(bool)).sum())
    return different


def main(config: Config) -> None:
    rng = np.random.default_rng(config.seed)
    batch = typical(rng, config.images, config.classes, num_detections=config.detections)
    moved = tuple(on(config.device, part) for part in batch)
    classes = config.classes

    def run_on_device() -> Any:
        return on_device.image_ap(on_device.match(*moved, num_classes=classes))

    def run_cpu_path() -> Any:
        return average_precision.image_ap(matching.match(*batch, num_classes=classes))[0]

    difference = np.nanmax(np.abs(run_on_device().cpu().numpy() - run_cpu_path()))  # and all is compiled, and warm
    cuda = config.device != "cpu"
    if cuda:
        torch.cuda.reset_peak_memory_stats(config.device)
    times = [
        (milliseconds(run_on_device, config.device), milliseconds(run_cpu_path, "cpu")) for _ in range(config.repeats)
    ]
    device_ms, cpu_path_ms = (median(column) for column in zip(*times, strict=True))
    found = on_device.match(*moved, num_classes=classes)
    expected = matching.match(*batch, num_classes=classes)
    result = {
        "device": torch.cuda.get_device_name(config.device) if cuda else platform.machine(),
        "images": config.images,
        "device_ms": device_ms,
        "cpu_path_ms": cpu_path_ms,
        "ratio_cpu_path": cpu_path_ms / device_ms,
        "peak_mib": torch.cuda.max_memory_allocated(config.device) / 2**20 if cuda else None,
        "max_abs_diff": float(difference),
        "different_decisions": num_different(found, expected, found.hits.shape[2]),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main(tyro.cli(Config))
