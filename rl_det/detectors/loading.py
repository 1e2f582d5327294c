"""Load a `Detector` for a data set's classes from a name, a file, a folder or a user's own model."""

import itertools
import os
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn
from torchvision.models import get_model_weights, list_models

from rl_det import parallel
from rl_det.data.digit_scenes import CLASSES as DIGITS
from rl_det.data.open import Source, open_data
from rl_det.detectors.bypassed import bypassed
from rl_det.detectors.card import MODEL_CARD, read_card, refuse_run
from rl_det.detectors.family import Family
from rl_det.detectors.own_model import copied, known_part
from rl_det.detectors.protocol import Architecture, Detector, Part
from rl_det.detectors.torchvision.fcos import FCOS_FAMILY
from rl_det.detectors.torchvision.retinanet import RETINANET
from rl_det.detectors.torchvision.ssd import SSD_FAMILY
from rl_det.detectors.torchvision.tiny import SHIPPED_WEIGHTS, TINY, tiny
from rl_det.detectors.torchvision.two_stage import FASTER_RCNN
from rl_det.detectors.transformers.pretrained import (
    QUERY_DETECTORS,
    is_pretrained,
    load_pretrained,
    rebuild,
)
from rl_det.detectors.transformers.pretrained import names_known as names_of
from rl_det.errors import UserError
from rl_det.progress import tell
from rl_det.settings import at_least, check_argument
from rl_det.storage.weights import (
    SUFFIXES,
    as_named_now,
    check_state,
    load_state,
    read_state,
    readings,
    state_file,
)

FAMILIES: tuple[Family, ...] = (TINY, FASTER_RCNN, RETINANET, FCOS_FAMILY, SSD_FAMILY, QUERY_DETECTORS)
"""The families of detectors. A new family is one file and one entry here."""
DETECTORS: tuple[str, ...] = tuple(name for family in FAMILIES for name in family.names)
TINY_INPUT_SIZE = 192
"""The shorter side to which `tiny` resizes images other than digit scenes, in pixels."""
DETECTOR = "detector.pt"
BACKGROUND, UNNAMED = ("__background__",), "N/A"
"""How torchvision calls the background, and numbers that no class has."""
Device = Literal["auto", "cpu", "cuda"]
OtherClasses = Literal["refuse", "replace"]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What `load_detector` is asked for beside the detector itself."""

    classes: tuple[str, ...]
    """The data's classes."""
    data: str
    """The data's name."""
    image_size: int | None
    part: Part
    other_classes: OtherClasses


def load_detector(
    source: str | Path | nn.Module,
    data: Source,
    *,
    weights: str | Path | None = None,
    image_size: int | None = None,
    trainable: Part = "head",
    other_classes: OtherClasses = "refuse",
    device: Device = "auto",
) -> Detector:
    """The detector that `source` names or holds, for the classes of `data`.

    `source` is a name of `DETECTORS`, a file of weights (its entries reveal the architecture), a folder that
    `Results.best.export` wrote, a folder or a hub name of a transformers detector, or the user's own model object of one of
    these libraries, which is copied and does not change. `image_size` is the shorter side after resizing; by default the
    detector's own. `weights` goes with a name: a file, a torchvision name, or "none" for random weights. By default these
    are the shipped weights for `tiny`, and torchvision's "DEFAULT" for its models. `trainable` is the part that strategies
    train on frozen features: the last layers (`predictor`), all behind the features (`head`), or everything (`all`).

    If the weights have another number of classes than the data, the predictor gets random weights, and a line on stderr
    says so. If they have as many of other names, `other_classes="replace"` does the same; by default they are refused. A
    detector with a random predictor or random weights is not `is_trained`, and `finetune` first warm-starts it by
    supervised training. Raises ValueError, in one sentence, for any other input.
    """
    splits = open_data(data)
    for name, value, known in (
        ("trainable", trainable, Part),
        ("other_classes", other_classes, OtherClasses),
        ("device", device, Device),
    ):
        if value not in get_args(known):
            raise UserError(f"{name} must be one of {', '.join(get_args(known))}; got {value!r}")
    check_argument("image_size", image_size, int | None, at_least(1), usual="the detector's own (None)")
    if isinstance(source, type) or not isinstance(source, nn.Module | str | os.PathLike):
        got = source.__name__ if isinstance(source, type) else type(source).__name__
        raise UserError(f"a detector must be a name, a path, or a model object; got {got}; tiny is usual")
    wanted = Wanted(
        classes=splits.classes, data=splits.name, image_size=image_size, part=trainable, other_classes=other_classes
    )
    with torch.random.fork_rng(
        devices=[]
    ):  # fresh weights are always the same, and the user's generator stays as it was
        torch.manual_seed(0)
        if isinstance(source, nn.Module):
            _refuse(weights=weights, image_size=image_size)
            family_of(source)  # a wrapper may not be one that can be copied
            detector = of_model(copied(source), part=trainable)
            if left_out := bypassed(detector.plain()):
                tell(
                    f"warning: {', '.join(left_out)} of this model do not run: transform, backbone and heads run one by one, "
                    "to have every candidate, so no row of a table has what these change; move it into one of these parts"
                )
            names = names_of(detector.plain()) if detector.architecture.library == "transformers" else None
            detector = _fitted(detector, wanted, names)
        elif str(source) in DETECTORS:
            detector = _named(str(source), wanted, weights)
        else:
            _refuse(weights=weights)
            detector = _of_path(Path(source), wanted)
    detector.plain().to(device_named(device))
    return detector


def device_named(device: Device) -> torch.device:
    """The device; "auto" is CUDA if it is available. Raises UserError if CUDA is asked for and not available."""
    if device not in get_args(Device):
        raise UserError(f"device must be one of {', '.join(get_args(Device))}; got {device!r}; auto is usual")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda needs a CUDA device, and torch sees none; use auto or cpu (--device auto or cpu)")
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return parallel.own_device()


def build_detector(
    name: str,
    *,
    num_classes: int,
    input_size: int | None = None,
    weights: str | Path | None = None,
    part: Part = "head",
) -> Detector:
    """The detector of this name, independent of any data; `num_classes` excludes the background.

    `weights` is None or "none" (random), the file of a state_dict (a string counts as a file by its suffix), or for
    torchvision's models a torchvision name such as "DEFAULT". Raises ValueError for an unknown name, and for weights
    that do not fit.
    """
    family = family_named(name)
    model = family.build(name, num_classes=num_classes, input_size=input_size, weights=weights)
    known = names_known(name, weights)
    is_trained = weights not in (None, "none") and (known is None or len(known) == num_classes)
    architecture = Architecture(library=family.library, name=name, num_classes=num_classes, input_size=input_size)
    return family.around(model, architecture=architecture, is_trained=is_trained, part=part)


def build_model(architecture: Architecture) -> nn.Module:
    """The library's model with random weights. Raises ValueError for an unknown name."""
    return family_named(architecture.name).build(
        architecture.name, num_classes=architecture.num_classes, input_size=architecture.input_size, weights=None
    )


def of_model(model: nn.Module, *, part: Part = "head") -> Detector:
    """The Detector around a user's own model, in float32. Raises ValueError for a model of no known family."""
    kinds = {each.dtype for each in model.parameters() if each.is_floating_point()} - {torch.float32}
    if kinds:
        others = sorted(str(kind).removeprefix("torch.") for kind in kinds)
        tell(f"the model's weights in {' and '.join(others)} are taken in float32, in which strategies train")
        model.float()
    return family_of(model).around(model.eval(), part=part)


def family_named(name: str) -> Family:
    """The family that knows this name. Raises ValueError, which lists the known names, if none does."""
    for family in FAMILIES:
        if name in family.names:
            return family
    raise UserError(f"the detector must be one of {', '.join(DETECTORS)}; got {name!r}")


def family_of(model: nn.Module) -> Family:
    """The family of a user's own model. Raises ValueError if it has none."""
    for family in FAMILIES:
        if family.takes(model):
            return family
    part = known_part(model, FAMILIES)
    remedy = "" if part is None else f", which holds one; give model.{part}"
    raise UserError(
        "a model must be one of torchvision's detection models (FasterRCNN, MaskRCNN, KeypointRCNN, RetinaNet, FCOS, SSD), "
        "or of transformers' DETR, Conditional DETR, Deformable DETR, RT-DETR, RT-DETR v2 and D-FINE; "
        f"got a {type(model).__module__}.{type(model).__name__}{remedy}"
    )


def names_known(name: str, weights: str | Path | None) -> tuple[str, ...] | None:
    """The classes of a library's own weights, without the background; None for others."""
    if weights is None or state_file(weights) is not None or name not in list_models():
        return None
    known = get_model_weights(name).__members__
    categories = known[str(weights)].meta.get("categories", ()) if weights in known else ()
    names = tuple(category for category in categories if category not in BACKGROUND)
    return names or None


def _fitted(detector: Detector, wanted: Wanted, known: tuple[str, ...] | None) -> Detector:
    """The detector, with a random predictor if its classes are not the data's; `known` are its classes, if they have names.

    Raises ValueError for as many classes of other names, unless they may be replaced.
    """
    count = len(wanted.classes)
    if detector.num_classes == count:
        other = _first_other(known, wanted.classes)
        if other is None:
            return detector
        ours, theirs = other
        if wanted.other_classes == "refuse":
            raise UserError(
                f"the detector knows other classes than {wanted.data}: {ours!r} where the data has {theirs!r}; "
                "rename them if they mean the same, order the data's as the detector's by open_data(path, classes=...), or "
                "give the detector a new predictor by other_classes='replace' (--other-classes replace)"
            )
    tell(
        f"the detector knows {detector.num_classes} classes, and {wanted.data} has {count}: "
        "its predictor is new, with random weights"
    )
    architecture = detector.architecture
    family = family_of(detector.plain()) if architecture.library == "own" else family_named(architecture.name)
    family.replace_predictor(detector.plain(), count)
    architecture = replace(architecture, num_classes=count)
    return family.around(detector.plain(), architecture=architecture, is_trained=False, part=detector.part)


def _first_other(known: tuple[str, ...] | None, classes: tuple[str, ...]) -> tuple[str, str] | None:
    """The detector's and the data's first class that differ, letter case aside; None if they agree.

    A class whose name is its own number has none.
    """
    pairs = enumerate(zip(known, classes, strict=True), start=1) if known else ()
    named = (pair for label, pair in pairs if not {str(label), UNNAMED} & set(pair))
    return next((pair for pair in named if pair[0].casefold() != pair[1].casefold()), None)


def _named(name: str, wanted: Wanted, weights: str | Path | None) -> Detector:
    """A detector of `DETECTORS`; without `weights`, with the best weights available."""
    if name != "tiny":
        usual = "DEFAULT" if family_named(name).library == "torchvision" else "none"
        return _built(name, wanted, usual if weights is None else weights)
    on_digits = wanted.classes == DIGITS
    size = wanted.image_size if wanted.image_size is not None or on_digits else TINY_INPUT_SIZE
    if weights is None and on_digits:
        weights = SHIPPED_WEIGHTS
    detector = _built(name, replace(wanted, image_size=size), weights)
    if weights is None:
        _start_from_digits(detector)
    return detector


def _built(name: str, wanted: Wanted, weights: str | Path | None) -> Detector:
    """The detector of this name; its predictor is random if the weights have other classes."""
    file, names = state_file(weights), names_known(name, weights)
    if file is not None:
        counts = map(family_named(name).classes_known, readings(read_state(file)).values())
        known = next((count for count in counts if count is not None), None)
    else:
        known = None if names is None else len(names)
    built = build_detector(
        name, num_classes=known or len(wanted.classes), input_size=wanted.image_size, weights=weights, part=wanted.part
    )
    return _fitted(built, wanted, names)


def _start_from_digits(detector: Detector) -> None:
    """Load all shipped weights except the box predictor's, which has other classes."""
    digits = tiny(len(DIGITS))
    load_state(digits, SHIPPED_WEIGHTS)
    state = {name: value for name, value in digits.state_dict().items() if "box_predictor" not in name}
    detector.plain().load_state_dict(state, strict=False)


def _of_path(path: Path, wanted: Wanted) -> Detector:
    """The detector in an exported folder, in a folder or of a hub name of transformers, or in a file of weights."""
    exported = path.is_dir() or (path.is_file() and path.name == DETECTOR)
    folder = path if path.is_dir() else path.parent
    if exported and (folder / MODEL_CARD).is_file():
        _refuse(image_size=wanted.image_size)
        return _exported(folder, wanted)
    refuse_run(path)
    if is_pretrained(path) or _may_be_on_a_hub(path):
        detector = load_pretrained(path, input_size=wanted.image_size, part=wanted.part)
        return _fitted(detector, wanted, names_of(detector.plain()))
    if not path.is_file():
        raise UserError(
            f"{path}: a detector must be one of {', '.join(DETECTORS)}, a file of weights ({', '.join(SUFFIXES)}), "
            "a folder that was exported or that transformers saved, or a model; "
            f"{'it is none' if path.exists() else 'there is no such file'}"
        )
    return _built(_architecture_of(path, len(wanted.classes)), wanted, path)


def _exported(folder: Path, wanted: Wanted) -> Detector:
    """The detector in an exported folder, at its own input size."""
    card, architecture = read_card(folder / MODEL_CARD)
    if architecture.library == "own":
        raise UserError(
            f"{folder}: the detector is a {architecture.name} of your own code; load its {DETECTOR} into such a model, and "
            "give load_detector the model"
        )
    return _fitted(exported(folder, architecture, part=wanted.part), wanted, tuple(card["classes"]))


def exported(folder: Path, architecture: Architecture, *, part: Part) -> Detector:
    """The trained detector in a folder that rl_det exported; its code must be a library's."""
    if architecture.library == "transformers":
        return rebuild(folder, architecture, part=part)
    family = family_named(architecture.name)
    model = build_model(architecture)
    load_state(model, folder / DETECTOR)
    return family.around(model, architecture=architecture, part=part)


def _may_be_on_a_hub(path: Path) -> bool:
    """Whether this may be a name on the Hugging Face hub: owner/name, without a file's suffix, and no such path here."""
    named = len(path.parts) == 2 and not path.is_absolute() and path.suffix.lower() not in SUFFIXES
    return named and not path.exists() and find_spec("transformers") is not None


def _architecture_of(path: Path, num_classes: int) -> str:
    """The one known architecture with the entries of a file of weights; ValueError if there is none, or several."""
    fitting: list[str] = []
    for family, state in itertools.product(FAMILIES, readings(read_state(path)).values()):
        known = family.classes_known(state)
        for name in family.names if known is not None else ():
            with torch.device("meta"):
                model = build_model(
                    Architecture(library=family.library, name=name, num_classes=known or num_classes, input_size=None)
                )
            try:
                check_state(model, as_named_now(model, state), path)
            except UserError:
                continue
            fitting += [] if name in fitting else [name]
    if len(fitting) != 1:
        found = f"it fits {' and '.join(fitting)}" if fitting else "it fits none of them"
        raise UserError(
            f"{path}: must hold the weights of one of {', '.join(DETECTORS)}; {found}; "
            "name the detector, and give the file as its weights"
        )
    return fitting[0]


def _refuse(**given: object) -> None:
    """Raise ValueError for arguments that have no meaning here."""
    for name, value in given.items():
        if value is not None:
            raise UserError(
                f"{name} goes with the name of a detector only, as a model or a file has its own; got {value!r}"
            )
