"""Draw an image with its true boxes and with the changes that an episode has made to its detections."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from rl_det.ap.batch import DetectionBatch
from rl_det.report.canvas import outline, picture_of
from rl_det.types import Sample

LEAST_WIDTH = 512  # pixels of the picture
CAPTION = 40  # pixels under it
FAINT = 0.05  # the probability under which a detection is left out, before an episode and after it
GROUP_COLOURS = {"true": "white", "kept": "deepskyblue", "dropped": "red", "changed": "orange"}


@dataclass(frozen=True)
class Change:
    """Boxes [n, 4] of the detections that an episode kept as they were, dropped, or changed (moved, rescored or added)."""

    kept: Float[np.ndarray, "k 4"]
    dropped: Float[np.ndarray, "d 4"]
    changed: Float[np.ndarray, "c 4"]

    @classmethod
    def between(cls, before: DetectionBatch, after: DetectionBatch, row: int, *, logits: bool) -> "Change":
        """The changes of one row, among what is not faint before or after; scores are logits or probabilities.

        Both batches have the same detections at the same indices; their masks say which exist.
        """
        least = math.log(FAINT / (1 - FAINT)) if logits else FAINT
        seen, seen_now = (d.mask[row] & (d.scores[row] >= least) for d in (before, after))
        same = (before.boxes[row] == after.boxes[row]).all(-1) & (before.scores[row] == after.scores[row])
        unchanged = before.mask[row] & same
        stays = (seen | seen_now) & after.mask[row]
        return cls(
            kept=after.boxes[row][stays & unchanged],
            dropped=before.boxes[row][seen & ~after.mask[row]],
            changed=after.boxes[row][stays & ~unchanged],
        )


def draw(sample: Sample, change: Change, reward: float | None) -> UInt8[np.ndarray, "H W 3"]:
    """The image (a small one enlarged) with coloured boxes, and a caption with the colours' meaning and the reward."""
    height, width = sample.image.shape[1:]
    scale = max(1, -(-LEAST_WIDTH // width))
    image = picture_of(sample.image, scale)
    groups: dict[str, Tensor] = {"true": sample.target.boxes.cpu().float()}
    groups |= {name: torch.from_numpy(np.asarray(boxes, dtype=np.float32)) for name, boxes in vars(change).items()}
    for name, boxes in groups.items():
        outline(image, scale * boxes, [GROUP_COLOURS[name]] * len(boxes), width=4 if name == "true" else 2)
    picture = Image.new("RGB", (width * scale, height * scale + CAPTION))
    picture.paste(image)
    _caption(ImageDraw.Draw(picture), groups, reward, height * scale)
    return np.asarray(picture)


def _caption(pen: ImageDraw.ImageDraw, groups: dict[str, Tensor], reward: float | None, top: int) -> None:
    """Write the number of boxes of each colour, and the reward."""
    left = 8.0
    for name, boxes in groups.items():
        text = f"{len(boxes)} {name}"
        pen.text((left, top + 4), text, fill=GROUP_COLOURS[name])
        left += pen.textlength(text) + 24
    pen.text((8, top + 22), "reward: none yet" if reward is None else f"reward {reward:+.4f}", fill="white")
