"""Draw crowded scenes of handwritten digits on photographs, with exact boxes; nothing is downloaded.

The digits are the real ones that scikit-learn ships (1,797 scans of 8 x 8, UCI "Optical Recognition of Handwritten
Digits"). The backgrounds are its two photographs. Every scene is a pure function of (split, seed, index), so a data set
of any length costs no memory. No source digit appears in two splits.
"""

from functools import cache
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from rl_det.data import Split
from rl_det.errors import UserError
from rl_det.types import Sample, Target

CLASSES = tuple("0123456789")
IMAGE_SIZE = 128
SOURCE_FRACTIONS: dict[Split, float] = {"train": 0.7, "val": 0.15, "test": 0.15}


class DigitScenes:
    """A sequence of scenes; the label of digit d is d + 1."""

    classes = CLASSES

    def __init__(self, split: Split, *, num_scenes: int, seed: int = 0) -> None:
        if split not in SOURCE_FRACTIONS:
            raise UserError(f"split must be one of {list(SOURCE_FRACTIONS)}; got {split!r}")
        if num_scenes < 1:
            raise UserError(f"num_scenes must be at least 1; got {num_scenes}")
        self.split, self.num_scenes, self.seed = split, num_scenes, seed

    def __len__(self) -> int:
        return self.num_scenes

    def fingerprint(self) -> str:
        """The settings that determine the scenes."""
        return f"{self.split} {self.num_scenes} {self.seed}"

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.num_scenes:
            raise IndexError(f"scene {index} of {self.num_scenes}")
        rng = np.random.default_rng([list(SOURCE_FRACTIONS).index(self.split), self.seed, index])
        return draw_scene(rng, *source_digits(self.split), image_id=index + 1)


@cache
def source_digits(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """The scans [n, 8, 8] in [0, 1] and digits [n] of one split, by a permutation that never changes."""
    table = np.loadtxt(_shipped() / "data" / "digits.csv.gz", delimiter=",")
    scans, digits = table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)
    order = np.random.default_rng(20_260_101).permutation(len(digits))
    ends = np.round(np.cumsum([0.0, *SOURCE_FRACTIONS.values()]) * len(order)).astype(int)
    part = list(SOURCE_FRACTIONS).index(split)
    chosen = order[ends[part] : ends[part + 1]]
    return scans[chosen] / 16.0, digits[chosen]


@cache
def photographs() -> tuple[Image.Image, ...]:
    """scikit-learn's two bundled photographs."""
    files = (_shipped() / "images" / name for name in ("china.jpg", "flower.jpg"))
    return tuple(Image.open(file).convert("RGB") for file in files)


def _shipped() -> Path:
    """The folder with scikit-learn's small data sets, which are read without the package: its import takes over a second."""
    return Path(str(distribution("scikit-learn").locate_file("sklearn/datasets")))


def draw_scene(rng: np.random.Generator, scans: np.ndarray, digits: np.ndarray, *, image_id: int) -> Sample:
    """Draw one scene of 4 to 14 digits; a later digit covers an earlier one, but never most of it."""
    canvas = draw_background(rng)
    boxes = np.zeros((0, 4))
    labels: list[int] = []
    for _ in range(rng.integers(4, 15)):
        chosen = rng.integers(len(scans))
        alpha = draw_digit(rng, scans[chosen])
        box = place(rng, tight_size(alpha), boxes)
        if box is None:
            continue
        paint(canvas, alpha, box, colour=rng.uniform(0, 1, 3))
        boxes, labels = np.concatenate([boxes, box[None]]), [*labels, int(digits[chosen]) + 1]
    canvas += rng.normal(0, 0.02, canvas.shape)
    sides = boxes[:, 2:] - boxes[:, :2]
    target = Target(
        boxes=torch.tensor(boxes, dtype=torch.float32),
        labels=torch.tensor(labels, dtype=torch.int64),
        area=torch.tensor(sides.prod(1), dtype=torch.float32),
        iscrowd=torch.zeros(len(boxes), dtype=torch.bool),
        image_id=image_id,
    )
    image = torch.from_numpy(np.clip(canvas, 0, 1).astype(np.float32)).permute(2, 0, 1)
    return Sample(image=image.contiguous(), target=target)


def draw_background(rng: np.random.Generator) -> np.ndarray:
    """A random crop of a photograph [128, 128, 3], in random contrast and brightness."""
    photograph = photographs()[rng.integers(len(photographs()))]
    side = int(rng.integers(IMAGE_SIZE, 400))
    left, top = (int(rng.integers(0, extent - side + 1)) for extent in photograph.size)
    crop = photograph.crop((left, top, left + side, top + side)).resize((IMAGE_SIZE, IMAGE_SIZE))
    pixels = np.asarray(crop, dtype=np.float64) / 255.0
    return pixels * rng.uniform(0.5, 1.0) + rng.uniform(0.0, 0.3)


def draw_digit(rng: np.random.Generator, scan: np.ndarray) -> np.ndarray:
    """The scan as an opacity map [h, w], enlarged to 18 to 46 px, slightly turned and stretched, cropped to its ink."""
    height = rng.uniform(18, 46)
    width = height * rng.uniform(0.75, 1.15)
    image = Image.fromarray((scan * 255).astype(np.uint8))
    image = image.resize((round(width), round(height)), Image.Resampling.BICUBIC)
    image = image.rotate(rng.uniform(-15, 15), Image.Resampling.BICUBIC, expand=True)
    alpha = np.asarray(image, dtype=np.float64) / 255.0
    rows, columns = (np.flatnonzero((alpha > 0.3).any(axis)) for axis in (1, 0))
    return alpha[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] * rng.uniform(0.6, 1.0)


def tight_size(alpha: np.ndarray) -> np.ndarray:
    """Width and height of an opacity map."""
    return np.array([alpha.shape[1], alpha.shape[0]], dtype=np.float64)


def place(rng: np.random.Generator, size: np.ndarray, boxes: np.ndarray, num_tries: int = 20) -> np.ndarray | None:
    """A box [4] of this size, or None: IoU at most 0.6 with every earlier box, and at most 0.75 of any of them covered."""
    for _ in range(num_tries):
        corner = np.floor(rng.uniform(0, IMAGE_SIZE - size))
        box = np.concatenate([corner, corner + size])
        overlap = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
        shared = np.clip(overlap, 0, None).prod(1)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        if np.all(shared <= 0.75 * areas) and np.all(shared <= 0.6 * (areas + size.prod() - shared)):
            return box
    return None


def paint(canvas: np.ndarray, alpha: np.ndarray, box: np.ndarray, *, colour: np.ndarray) -> None:
    """Draw a coloured digit on the canvas, in place."""
    left, top, right, bottom = box.astype(int)
    region = canvas[top:bottom, left:right]
    region[...] = region * (1 - alpha[..., None]) + colour * alpha[..., None]
