"""Image files and a tuned detector -> pictures with boxes, and the detections as COCO results JSON."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torchvision.utils import draw_bounding_boxes

from rl_det.data.images import read_image
from rl_det.storage.files import as_json, write_whole, write_with
from rl_det.types import Detections

RESULTS = "detections.json"
COLOURS = ("deepskyblue", "orange", "lime", "magenta", "yellow", "red", "cyan", "white")


def draw_and_write(
    detect: Callable[[Iterable[Float[Tensor, "3 _ _"]]], list[Detections]],
    classes: Sequence[str],
    category_ids: Sequence[int],
    files: Sequence[Path],
    folder: Path,
    threshold: float,
) -> list[Path]:
    """One picture for each image, and `detections.json`; returns the files.

    The JSON is COCO's results: boxes x, y, width, height in the image's pixels, the data set's category ids, and as `image_id`
    the file's name. ValueError names an image that cannot be read.
    """
    if not files:
        raise ValueError("detect needs an image at least")
    images = [read_image(file, "the image") for file in files]
    found = detect(images)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / f"{file.stem}.png" for file in files]
    for image, own, path in zip(images, found, written, strict=True):
        picture = drawn(image, own, classes, threshold)
        write_with(path, lambda beside, picture=picture: picture.save(beside, format="PNG"))  # type: ignore[misc]
    rows = [row for file, own in zip(files, found, strict=True) for row in coco_rows(file.name, own, category_ids)]
    write_whole(folder / RESULTS, as_json(rows))
    return [*written, folder / RESULTS]


def coco_rows(image_id: str | int, found: Detections, category_ids: Sequence[int]) -> list[dict[str, object]]:
    """One image's detections as entries of COCO's results format."""
    corners = found["boxes"]
    boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    return [
        {"image_id": image_id, "category_id": category_ids[label - 1], "bbox": box, "score": score}
        for box, label, score in zip(boxes.tolist(), found["labels"].tolist(), found["scores"].tolist(), strict=True)
    ]


def drawn(image: Float[Tensor, "3 H W"], found: Detections, classes: Sequence[str], threshold: float) -> Image.Image:
    """The image with the detections from a score on, each class in its colour, with its name and score."""
    shown = (found["scores"] >= threshold) & (found["boxes"][:, 2:] > found["boxes"][:, :2]).all(1)
    canvas = (255 * image).round().to(torch.uint8)
    labels = found["labels"][shown].tolist()
    if labels:
        texts = [
            f"{classes[label - 1]} {score:.2f}"
            for label, score in zip(labels, found["scores"][shown].tolist(), strict=True)
        ]
        colours = [COLOURS[label % len(COLOURS)] for label in labels]
        canvas = draw_bounding_boxes(canvas, found["boxes"][shown], labels=texts, colors=colours, width=2)
    return Image.fromarray(canvas.permute(1, 2, 0).numpy())
