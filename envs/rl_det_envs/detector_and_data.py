"""The detector and the data set of an environment: the shipped detector, what encodes the data, and whether both fit."""

import numpy as np
import torch

from rl_det.data import Dataset
from rl_det.data.digit_scenes import CLASSES
from rl_det.data.splits import Splits
from rl_det.detectors import build_detector
from rl_det.detectors.encodings import EncodedDataset, Encodings, encode_dataset
from rl_det.detectors.protocol import Detector
from rl_det.detectors.torchvision.tiny import SHIPPED_WEIGHTS
from rl_det.errors import UserError
from rl_det.progress import bar
from rl_det.types import Target

SEQUENCE = ("__len__", "__getitem__", "classes")
"""What every data set has."""
SILENT = 3.0
"""Encoding a data set shows a bar if it takes longer, in seconds."""


def placed_detector(detector: Detector | None, device: str | torch.device | None) -> Detector:
    """The detector; without one, `tiny` with the shipped warm start on digit scenes, on this device or the CPU.

    Raises UserError for a device that torch cannot use here, or that is not the given detector's.
    """
    if device is None and detector is not None:
        return detector
    wanted = usable_device("cpu" if device is None else device)
    if detector is None:
        detector = build_detector("tiny", num_classes=len(CLASSES), weights=SHIPPED_WEIGHTS)
        detector.plain().to(wanted)
    elif (own := detector.device).type != wanted.type or wanted.index not in (None, own.index):
        raise UserError(f"device must be the detector's, {own}; got {device!r}; leave it out")
    return detector


def usable_device(device: str | torch.device) -> torch.device:
    """The device; UserError if torch knows none of this name, or cannot put numbers on it."""
    try:
        known = torch.device(device)
        torch.zeros(1, device=known).tolist()
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"device must be one that torch can use here; got {device!r}; cpu is usual") from error
    return known


def check_detector_and_data(detector: object, dataset: object) -> None:
    """Raise UserError if these are given and are of another kind."""
    if not (detector is None or isinstance(detector, Detector)):
        raise UserError(
            f"detector must be what rl_det.load_detector gives; got {type(detector).__name__}; the shipped one (None) is usual"
        )
    if isinstance(dataset, Splits):
        raise UserError("dataset must be one data set; got the three splits of a run; give one, such as data.val")
    if not (dataset is None or isinstance(dataset, Encodings) or all(hasattr(dataset, name) for name in SEQUENCE)):
        raise UserError(
            f"dataset must be a data set with classes, such as data.val; got {type(dataset).__name__}; None is usual"
        )


def check_classes(dataset: Dataset | Encodings, detector: Detector) -> None:
    """Raise UserError if the data set's classes are not as many as the detector's, or a label is above them."""
    source = dataset.source if isinstance(dataset, Encodings) else dataset
    if source is not None and len(source.classes) != detector.num_classes:
        raise UserError(
            f"the data set has {len(source.classes)} classes, the detector {detector.num_classes}; "
            "give detector=, one that is trained for the data set's classes"
        )
    for index, target in enumerate(dataset.targets if isinstance(dataset, Encodings) else []):
        if len(target.labels) and int(target.labels.max()) > detector.num_classes:
            raise UserError(
                f"labels must be at most the detector's {detector.num_classes} classes; "
                f"got {int(target.labels.max())} in the image at {index}"
            )


def encoded_aloud(detector: Detector, dataset: Dataset) -> EncodedDataset:
    """The data set's encodings; what takes long is said on stderr."""
    with bar("encode the data set", len(dataset), delay=SILENT) as shown:
        return encode_dataset(detector, dataset, on_batch=shown.advance)


def objects_of(targets: list[Target], num_classes: int) -> np.ndarray:
    """The number of true boxes of each label 1..C, without crowds."""
    labels = torch.cat([target.labels[~target.iscrowd] for target in targets])
    return np.bincount(labels.numpy(force=True).astype(np.int64), minlength=num_classes + 1)[1:]
