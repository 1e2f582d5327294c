"""Question: how long does it take to open annotations of COCO's size, and how much memory?

Commands: python experiments/benchmarks/open_coco_size.py --make /tmp/coco_size    # writes 118,000 small images
          python experiments/benchmarks/open_coco_size.py --open /tmp/coco_size    # the measurement
Hardware and numbers: experiments/benchmarks/README.md.

The annotations have COCO's numbers (118,000 images, 860,000 boxes of 80 classes, polygons, crowds) in COCO's own layout. The
images are of COCO's sizes, in one colour, so that their headers are real and their files small.
"""

import json
import resource
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

import rl_det
from rl_det.program import program

NUM_IMAGES = {"train": 118_000, "val": 5_000}
BOXES_PER_IMAGE = 7.29
NUM_CLASSES = 80
SIZES = ((640, 480), (480, 640), (640, 427), (500, 375))


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Write the data set, or open it."""

    make: Path | None = None
    open: Path | None = None


def make(root: Path) -> None:
    """Write both splits."""
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split, count in NUM_IMAGES.items():
        (root / f"{split}2017").mkdir(exist_ok=True)
        colours = rng.integers(0, 256, (count, 3))
        images: list[dict[str, object]] = []
        annotations: list[dict[str, object]] = []
        for k in range(count):
            name, (width, height) = f"{k:012}.jpg", SIZES[k % len(SIZES)]
            Image.new("RGB", (width, height), tuple(colours[k].tolist())).save(root / f"{split}2017" / name, quality=30)
            images.append(
                {"id": k, "file_name": name, "width": width, "height": height, "license": 3, "coco_url": name}
            )
            for _ in range(rng.poisson(BOXES_PER_IMAGE)):
                w, h = np.round(rng.uniform(5, 200, 2), 2).tolist()
                x, y = round(rng.uniform(0, width - w), 2), round(rng.uniform(0, height - h), 2)
                polygon = np.round(rng.uniform((x, y), (x + w, y + h), (20, 2)), 2).ravel().tolist()
                annotations.append(
                    {
                        "segmentation": [polygon], "area": round(w * h / 2, 4), "iscrowd": 0, "image_id": k,
                        "bbox": [x, y, w, h], "category_id": int(rng.integers(1, NUM_CLASSES + 1)), "id": len(annotations),
                    }
                )  # fmt: skip
        categories = [{"id": c, "name": f"class {c}", "supercategory": "thing"} for c in range(1, NUM_CLASSES + 1)]
        told = {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(told), encoding="utf-8")


def measure(root: Path) -> None:
    """Open the data set; print seconds, CPU seconds and the peak of memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    started, spent = time.perf_counter(), time.process_time()
    data = rl_det.open_data(root)
    seconds, cpu = time.perf_counter() - started, time.process_time() - spent
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({
        "images": len(data.train) + len(data.val) + len(data.test), "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1), "peak_gib": round(peak, 2), "gib_before": round(before, 2),
    }))  # fmt: skip


if __name__ == "__main__":
    with program():
        chosen = tyro.cli(Flags, description=__doc__)
        if chosen.make is not None:
            make(chosen.make)
        if chosen.open is not None:
            measure(chosen.open)
