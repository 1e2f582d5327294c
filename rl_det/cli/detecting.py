"""`rl-det detect` and `rl-det onnx`: what a tuned detector is used for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from rl_det.data import Split
from rl_det.data.annotated import AnnotatedImages
from rl_det.detectors.loading import Device
from rl_det.errors import UserError
from rl_det.finetuning.detecting import draw_and_write, image_files, pictures_of
from rl_det.finetuning.request import DataFlags
from rl_det.finetuning.tuned import load_tuned
from rl_det.program import ProgramFlags
from rl_det.progress import bar
from rl_det.settings import at_least, check_settings, within


@dataclass(frozen=True, kw_only=True)
class DetectFlags(DataFlags, ProgramFlags):
    """Run a tuned detector on images: write pictures with boxes, and detections as COCO results JSON."""

    detector: tyro.conf.Positional[Path]
    """A folder that a run exported."""
    images: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Image files, or folders of them."""
    data: Path | None = None
    """A data set, whose images are taken instead; the JSON then has its image and category ids, as pycocotools reads them."""
    split: Split = "test"
    """The split of the data set."""
    out: Path = Path("detections")
    """The folder to write to."""
    threshold: float = 0.5
    """The pictures show detections of at least this score; the JSON has all detections."""
    device: Device = "auto"
    """The device of the network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(self, threshold=within("[0, 1]"))
        for name in ("test_data", "keep_difficult"):
            if getattr(self, name):
                raise UserError(
                    f"detect has no use for {name}: the images' own data set is --data, and boxes are not read"
                )


def run_detect(flags: DetectFlags) -> None:
    """`rl-det detect`."""
    tuned = load_tuned(flags.detector, device=flags.device)
    if (flags.data is None) != bool(flags.images):
        raise UserError("detect needs an image at least, or --data; not both")
    files, image_ids, category_ids = image_files(flags.images) if flags.images else [], None, tuned.category_ids
    if flags.data is not None:
        files, image_ids, category_ids = _of_data(flags, tuned.classes)
    pictures = pictures_of(files, flags.out, flags.limits_of_images)
    with bar("detect", len(files)) as shown:
        written = draw_and_write(
            tuned.detect,
            tuned.classes,
            category_ids,
            pictures,
            flags.out,
            flags.threshold,
            image_ids=image_ids,
            limits=flags.limits_of_images,
            on_image=shown.advance,
        )
    print(f"the pictures and {written.name} are in {flags.out}")


def _of_data(flags: DetectFlags, classes: Sequence[str]) -> tuple[list[Path], dict[Path, list[int]], tuple[int, ...]]:
    """The files of a data set's split, the image ids of each, and its category ids for the detector's classes."""
    assert flags.data is not None
    splits = flags.open_folder(flags.data)
    missing = [name for name in classes if name not in splits.classes]
    if missing:
        raise UserError(f"{flags.data}: must have the detector's classes; {', '.join(missing)} is not among its own")
    images = splits[flags.split]
    assert isinstance(images, AnnotatedImages)
    image_ids: dict[Path, list[int]] = {}
    for own in images.images:
        image_ids.setdefault(own.file, []).append(own.image_id)
    ids = dict(zip(splits.classes, splits.category_ids, strict=True))
    return list(image_ids), image_ids, tuple(ids[name] for name in classes)


@dataclass(frozen=True, kw_only=True)
class OnnxFlags(ProgramFlags):
    """Write a tuned detector, its module and its post-processing as one ONNX file, from an image to its detections."""

    detector: tyro.conf.Positional[Path]
    """A folder that a run exported."""
    file: tyro.conf.Positional[Path]
    """The file to write."""
    image_size: tuple[int, int] | None = None
    """Height and width of the images; left out: any. DETR, Conditional and Deformable DETR need it."""

    def __post_init__(self) -> None:
        check_settings(self, image_size=at_least(1, usual="480 640"))


def run_onnx(flags: OnnxFlags) -> None:
    """`rl-det onnx`."""
    written = load_tuned(flags.detector, device="cpu").to_onnx(flags.file, image_size=flags.image_size)
    print(f"the ONNX file is {written}")
