"""Load a `Detector` for a data set's classes from a name, a file, a folder or a user's own model."""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, RetinaNet

from rl_det.data.digit_scenes import CLASSES as DIGITS
from rl_det.data.open import Source, open_data
from rl_det.detectors.protocol import Architecture, Detector
from rl_det.detectors.torchvision.retinanet import RetinaNetDetector
from rl_det.detectors.torchvision.tiny import SHIPPED_WEIGHTS, tiny
from rl_det.detectors.torchvision.two_stage import (
    FASTER_RCNNS,
    TwoStage,
    replace_predictor,
    torchvision_faster_rcnn,
)
from rl_det.errors import UserError
from rl_det.storage.weights import check_state, load_state, read_state, state_file

DETECTORS: tuple[str, ...] = ("tiny", *FASTER_RCNNS)
FAMILIES: dict[type[nn.Module], Callable[..., Detector]] = {FasterRCNN: TwoStage, RetinaNet: RetinaNetDetector}
"""The library's model classes, and the Detector that wraps each. A new family is one file and one line here."""
TINY_INPUT_SIZE = 192
"""The shorter side to which `tiny` resizes images other than digit scenes, in pixels."""
NUM_COCO_CLASSES = 90
"""The number of classes in torchvision's own weights, without the background."""
MODEL_CARD, DETECTOR = "model.json", "detector.pt"
Device = Literal["auto", "cpu", "cuda"]


def load_detector(
    source: str | Path | nn.Module,
    data: Source,
    *,
    weights: str | Path | None = None,
    input_size: int | None = None,
    device: Device = "auto",
) -> Detector:
    """The detector that `source` names or holds, for the classes of `data`.

    `source` is a name of `DETECTORS`, a file of weights (its entries reveal the architecture), a folder that
    `Results.best.export` wrote, or the user's own torchvision FasterRCNN or RetinaNet, which is copied and does not
    change. `input_size` is the shorter side after resizing; by default the detector's own. `weights` goes with a name:
    a file, a torchvision name, or "none" for random weights. By default these are the shipped weights for `tiny`, and
    torchvision's "DEFAULT" for its models.

    If the weights have another number of classes than the data, the box predictor gets random weights. A detector with
    a random predictor or random weights is not `is_trained`, and `finetune` first warm-starts it by supervised
    training. Raises ValueError, in one sentence, for any other input.
    """
    splits = open_data(data)
    if input_size is not None and input_size < 1:
        raise UserError(f"input_size must be at least 1; got {input_size}; the detector's own (None) is usual")
    with torch.random.fork_rng(
        devices=[]
    ):  # fresh weights are always the same, and the user's generator stays as it was
        torch.manual_seed(0)
        if isinstance(source, nn.Module):
            _refuse(weights=weights, input_size=input_size)
            detector = of_model(copy.deepcopy(source), len(splits.classes))
        elif str(source) in DETECTORS:
            detector = _named(str(source), splits.classes, weights, input_size)
        else:
            _refuse(weights=weights)
            detector = _of_path(Path(source), len(splits.classes), input_size)
    detector.plain().to(device_named(device))
    return detector


def device_named(device: Device) -> torch.device:
    """The device; "auto" is CUDA if it is available. Raises ValueError if CUDA is asked for and not available."""
    if device not in get_args(Device):
        raise UserError(f"device must be one of {', '.join(get_args(Device))}; got {device!r}; auto is usual")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda needs a CUDA device, and torch sees none; use auto or cpu (--device auto or cpu)")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def build_detector(
    name: str, *, num_classes: int, input_size: int | None = None, weights: str | Path | None = None
) -> Detector:
    """The detector of this name, independent of any data; `num_classes` excludes the background.

    `weights` is None or "none" (random), the file of a state_dict (a string counts as a file by its suffix), or for
    torchvision's models a torchvision name such as "DEFAULT". Raises ValueError for an unknown name, and for weights
    that do not fit.
    """
    architecture = Architecture(
        library="rl_det" if name == "tiny" else "torchvision", name=name, num_classes=num_classes, input_size=input_size
    )
    is_trained = weights not in (None, "none")
    if name in FASTER_RCNNS:
        is_trained = is_trained and (state_file(weights) is not None or num_classes == NUM_COCO_CLASSES)
        model = torchvision_faster_rcnn(name, num_classes=num_classes, input_size=input_size, weights=weights)
        return TwoStage(model, architecture=architecture, is_trained=is_trained)
    model = build_model(architecture)
    file = state_file(weights)
    if file is not None:
        load_state(model, file)
    elif is_trained:
        raise UserError(f"the weights of tiny must be 'none' or a file (.pt, .pth, .safetensors); got {weights!r}")
    return TwoStage(model, architecture=architecture, is_trained=is_trained)


def build_model(architecture: Architecture) -> FasterRCNN:
    """The library's model with random weights. Raises ValueError for an unknown name."""
    if architecture.name not in DETECTORS:
        raise UserError(f"the detector must be one of {', '.join(DETECTORS)}; got {architecture.name!r}")
    size = architecture.input_size
    if architecture.name != "tiny":
        return torchvision_faster_rcnn(architecture.name, num_classes=architecture.num_classes, input_size=size)
    return tiny(architecture.num_classes, **({} if size is None else {"input_size": size})).eval()


def of_model(model: nn.Module, num_classes: int) -> Detector:
    """The Detector around a library's model; its box predictor gets random weights if its number of classes differs."""
    for family, around in FAMILIES.items():
        if isinstance(model, family):
            detector = around(model.eval())
            break
    else:
        known = ", ".join(f"{family.__module__}.{family.__name__}" for family in FAMILIES)
        raise UserError(f"a model must be one of {known}; got a {type(model).__module__}.{type(model).__name__}")
    return _knowing(num_classes, detector)


def _knowing(num_classes: int, detector: Detector) -> Detector:
    """The detector, with a random box predictor if its number of classes differs; ValueError if that is impossible."""
    if detector.num_classes == num_classes:
        return detector
    if not isinstance(detector, TwoStage):
        raise UserError(
            f"the model must know the {num_classes} classes of the data; it knows {detector.num_classes}; "
            "give it a head for them"
        )
    replace_predictor(detector.model, num_classes)
    architecture = replace(detector.architecture, num_classes=num_classes)
    return TwoStage(detector.model, architecture=architecture, is_trained=False)


def _named(name: str, classes: tuple[str, ...], weights: str | Path | None, input_size: int | None) -> Detector:
    """A detector of `DETECTORS`; without `weights`, with the best weights available."""
    num_classes = len(classes)
    if name != "tiny":
        weights = "DEFAULT" if weights is None else weights
        return _built(name, num_classes, weights, input_size)
    on_digits = classes == DIGITS
    size = input_size if input_size is not None or on_digits else TINY_INPUT_SIZE
    if weights is None and on_digits:
        weights = SHIPPED_WEIGHTS
    detector = _built(name, num_classes, weights, size)
    if weights is None:
        _start_from_digits(detector)
    return detector


def _built(name: str, num_classes: int, weights: str | Path | None, input_size: int | None) -> Detector:
    """The detector of this name; its box predictor is random if a file's weights have another number of classes."""
    file = state_file(weights)
    known = num_classes if file is None else _classes_known(read_state(file), num_classes)
    return _knowing(num_classes, build_detector(name, num_classes=known, input_size=input_size, weights=weights))


def _classes_known(state: Mapping[str, Tensor], otherwise: int) -> int:
    """A Faster R-CNN's number of classes, read from its weights, without background; `otherwise` for other weights."""
    bias = state.get("roi_heads.box_predictor.cls_score.bias")
    return otherwise if bias is None or len(bias) < 2 else len(bias) - 1


def _start_from_digits(detector: Detector) -> None:
    """Load all shipped weights except the box predictor's, which has other classes."""
    digits = tiny(len(DIGITS))
    load_state(digits, SHIPPED_WEIGHTS)
    state = {name: value for name, value in digits.state_dict().items() if "box_predictor" not in name}
    detector.plain().load_state_dict(state, strict=False)


def _of_path(path: Path, num_classes: int, input_size: int | None) -> Detector:
    """The detector in an exported folder or a file of weights."""
    exported = path.is_dir() or (path.is_file() and path.name == DETECTOR)
    folder = path if path.is_dir() else path.parent
    if exported and (folder / MODEL_CARD).is_file():
        _refuse(input_size=input_size)
        return _exported(folder, num_classes)
    if state_file(path) is None or not path.is_file():
        raise UserError(
            f"{path}: a detector must be one of {', '.join(DETECTORS)}, a file of weights (.pt, .pth, .safetensors), "
            f"a folder that was exported, or a model; {'it is none' if path.exists() else 'there is no such file'}"
        )
    return _built(_architecture_of(path, num_classes), num_classes, path, input_size)


def _exported(folder: Path, num_classes: int) -> Detector:
    """The detector in an exported folder, at its own input size."""
    architecture = read_card(folder / MODEL_CARD)[1]
    if architecture.library == "own":
        raise UserError(
            f"{folder}: the detector is a {architecture.name} of your own code; load its {DETECTOR} into such a model, and "
            "give load_detector the model"
        )
    model = build_model(architecture)
    load_state(model, folder / DETECTOR)
    return _knowing(num_classes, TwoStage(model, architecture=architecture))


def _architecture_of(path: Path, num_classes: int) -> str:
    """The one known architecture with the entries of a file of weights; ValueError if there is none, or several."""
    state, fitting = read_state(path), []
    known = _classes_known(state, num_classes)
    for name in DETECTORS:
        with torch.device("meta"):
            model = build_model(Architecture(library="torchvision", name=name, num_classes=known, input_size=None))
        try:
            check_state(model, state, path)
        except UserError:
            continue
        fitting.append(name)
    if len(fitting) != 1:
        found = f"it fits {' and '.join(fitting)}" if fitting else "it fits none of them"
        raise UserError(
            f"{path}: must hold the weights of one of {', '.join(DETECTORS)}; {found}; "
            "name the detector, and give the file as its weights"
        )
    return fitting[0]


def read_card(card: Path) -> tuple[dict[str, Any], Architecture]:
    """The contents of a `model.json`, and its architecture; ValueError, which names the file, if it is not one."""
    try:
        told = json.loads(card.read_text(encoding="utf-8"))
        return told, Architecture(**told["architecture"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{card}: must be a model.json that rl_det has exported; got {error!r}") from error


def _refuse(**given: object) -> None:
    """Raise ValueError for arguments that have no meaning here."""
    for name, value in given.items():
        if value is not None:
            raise UserError(
                f"{name} goes with the name of a detector only, as a model or a file has its own; got {value!r}"
            )
