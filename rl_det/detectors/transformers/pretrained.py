"""Load, build, save and change query detectors of transformers: from a folder, a hub name or a model type, never a pickle."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rl_det.detectors.family import Family
from rl_det.detectors.protocol import Architecture, Part
from rl_det.detectors.transformers.anatomy import ANATOMIES, known_class
from rl_det.detectors.transformers.library import library, without_progress_bars
from rl_det.detectors.transformers.processing import image_processor
from rl_det.detectors.transformers.query import QueryDetector
from rl_det.errors import UserError
from rl_det.progress import tell
from rl_det.storage.weights import SUFFIXES, load_state, state_file

CONFIG, WEIGHTS, SHARDS = "config.json", "model.safetensors", "model.safetensors.index.json"
CLASSIFIERS = ("class_labels_classifier.bias", "class_embed.0.bias", "model.decoder.class_embed.0.bias")
"""The entries of a state_dict that tell its number of classes."""
ONLY_DETR_LACKS = "model.decoder.ref_point_head.layers.0.weight"
"""An entry of Conditional DETR, whose class predictor has DETR's name but no column for "no object"."""


def is_pretrained(source: str | Path) -> bool:
    """Whether `source` is a folder with a configuration of transformers; it may still be that of another task."""
    return (Path(source) / CONFIG).is_file()


def load_pretrained(
    source: str | Path, num_classes: int | None = None, *, input_size: int | None = None, part: Part = "head"
) -> QueryDetector:
    """The query detector in a folder of transformers, or of a name on its hub; of its own classes, or so many others.

    A folder holds `config.json` and `model.safetensors` (or its shards), and perhaps `preprocessor_config.json`; with
    `config.json` alone, the weights are random. If the model has another number of classes, its class predictor gets
    random weights. With any random weights, the detector is not `is_trained`. Raises ValueError, in one sentence, for
    a folder or a name without a query detector, a hub that cannot be reached, and weights that are missing, do not fit
    or are a pickle.
    """
    config = _config(source)
    name = _class_of(config, source)
    folder = Path(source)
    if folder.is_dir() and not ((folder / WEIGHTS).is_file() or (folder / SHARDS).is_file()):
        _refuse_pickle(folder)
        model, is_trained = _random(name, config), False
    else:
        model, is_trained = _from_pretrained(name, source), True
    processor = image_processor(ANATOMIES[name], input_size, str(source))
    architecture = Architecture(library="transformers", name=name, num_classes=config.num_labels, input_size=input_size)
    detector = QueryDetector(model, processor=processor, architecture=architecture, is_trained=is_trained, part=part)
    return detector if num_classes in (None, detector.num_classes) else with_new_predictor(detector, num_classes)


def with_new_predictor(detector: QueryDetector, num_classes: int) -> QueryDetector:
    """The detector around the same model and image processor, with a random class predictor: it is not `is_trained`."""
    replace_predictor(detector.plain(), num_classes)
    return QueryDetector(
        detector.plain(),
        processor=detector.processor,
        architecture=replace(detector.architecture, num_classes=num_classes),
        is_trained=False,
        part=detector.part,
    )


def names_known(model: nn.Module) -> tuple[str, ...] | None:
    """The names of the model's classes in its configuration; None if the configuration only counts them."""
    config: Any = model.config
    names = tuple(str(config.id2label[place]) for place in range(config.num_labels))
    return None if names == tuple(f"LABEL_{place}" for place in range(config.num_labels)) else names


def save_pretrained(detector: QueryDetector, folder: str | Path, classes: tuple[str, ...] = ()) -> None:
    """Write `config.json`, `model.safetensors` and `preprocessor_config.json`, which transformers loads without rl_det.

    `classes` are the names of the classes, for the configuration.
    """
    if classes:
        detector.plain().config.id2label = dict(enumerate(classes))
        detector.plain().config.label2id = {name: place for place, name in enumerate(classes)}
    with without_progress_bars():
        detector.plain().save_pretrained(folder)
    detector.processor.save_pretrained(folder)


def rebuild(folder: str | Path, architecture: Architecture, *, part: Part = "head") -> QueryDetector:
    """The detector that `save_pretrained` wrote; the input size is that of the folder's own image processor."""
    return load_pretrained(folder, architecture.num_classes, part=part)


def replace_predictor(model: nn.Module, num_classes: int) -> None:
    """Give every layer's class predictor, and all else of one row a class, the library's own random weights for new classes."""
    whole: Any = model
    config = copy.deepcopy(whole.config)
    config.num_labels = num_classes
    fresh = type(model)(config).to(next(model.parameters()).device)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters(remove_duplicate=False)}
    for name, parameter in list(fresh.named_parameters(remove_duplicate=False)):
        if parameter.shape != shapes[name]:
            owner, _, leaf = name.rpartition(".")[0].rpartition(".")
            setattr(model.get_submodule(owner), leaf, fresh.get_submodule(f"{owner}.{leaf}" if owner else leaf))
    whole.config.num_labels = num_classes
    model.eval()


def build(
    name: str, *, num_classes: int, input_size: int | None = None, weights: str | Path | None = None
) -> nn.Module:
    """A model type of default size, with a ResNet of transformers as backbone, random or with the weights in a file.

    `input_size` belongs to the image processor (`QueryDetector`), not to the model, and is ignored.
    """
    if name not in ANATOMIES:
        raise UserError(f"a query detector of transformers must be one of {', '.join(ANATOMIES)}; got {name!r}")
    file = state_file(weights)
    if file is None and weights not in (None, "none"):
        raise UserError(f"the weights of {name} must be 'none' or a file ({', '.join(SUFFIXES)}); got {weights!r}")
    config_class = getattr(library(), name.replace("ForObjectDetection", "Config"))
    backbone = {} if ANATOMIES[name].is_square else {"backbone_config": _resnet(name)}
    model: nn.Module = _random(name, config_class(num_labels=num_classes, **backbone))
    if file is not None:
        load_state(model, file, tell=tell)
    return model


def around(
    model: nn.Module, *, architecture: Architecture | None = None, is_trained: bool = True, part: Part = "head"
) -> QueryDetector:
    """The Detector around a model, with the model's own image processor if a Detector around it has had one."""
    return QueryDetector(model, architecture=architecture, is_trained=is_trained, part=part)


def classes_known(state: Mapping[str, Tensor]) -> int | None:
    """The number of classes in a state_dict of a query detector, without "no object"; None for any other."""
    name = next((name for name in CLASSIFIERS if name in state), None)
    if name is None:
        return None
    is_softmax = name == CLASSIFIERS[0] and ONLY_DETR_LACKS not in state
    return len(state[name]) - is_softmax


def _resnet(name: str) -> Any:
    stages = ["stage2", "stage3", "stage4"] if name.startswith("Deformable") else ["stage4"]
    return library().ResNetConfig(out_features=stages)


def _config(source: str | Path) -> Any:
    """The configuration in a folder or of a hub name."""
    folder = Path(source)
    if folder.is_dir() and not is_pretrained(folder):
        raise UserError(f"{source}: must be a folder of a transformers detector; it has no {CONFIG}")
    try:
        return library().AutoConfig.from_pretrained(str(source))
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        kind = "a folder of a transformers detector" if folder.is_dir() else "a folder, or a name on a hub in reach"
        raise UserError(f"{source}: must be {kind}; its configuration cannot be loaded: {reason}") from error


def _class_of(config: Any, source: str | Path) -> str:
    """The name of the detector's class. Raises ValueError for a model type or a task that is not ours."""
    known = {getattr(library(), name).config_class.model_type: name for name in ANATOMIES}
    if config.model_type not in known:
        raise UserError(f"{source}: must be a query detector ({', '.join(known)}); it is a {config.model_type}")
    name = known[config.model_type]
    if config.architectures and name not in config.architectures:
        raise UserError(f"{source}: must be a detector, {name}; it is a {config.architectures[0]}, of another task")
    return name


def _refuse_pickle(folder: Path) -> None:
    """Raise ValueError for a folder with weights in a form that could run code."""
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".pth"))
    if pickles and "model.json" not in (file.name for file in folder.iterdir()):
        raise UserError(
            f"{folder}: must hold its weights as {WEIGHTS}; it holds {pickles[0]}, which is a pickle; "
            "load it where you trust it, and save it with save_pretrained"
        )


def _random(name: str, config: Any) -> Any:
    """A model with the library's own random weights."""
    try:
        return getattr(library(), name)(config).eval()
    except ImportError as error:  # a backbone of timm
        raise UserError(f"{name}: must be buildable here; {str(error).strip().splitlines()[0]}") from error


def _from_pretrained(name: str, source: str | Path) -> Any:
    """A model with its weights, from a safetensors file."""
    try:
        with without_progress_bars():
            model, report = getattr(library(), name).from_pretrained(
                str(source), use_safetensors=True, output_loading_info=True, dtype=torch.float32
            )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{source}: must hold readable weights of a {name}; {reason}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise UserError(f"{source}: must hold all weights of its {name}; the entry {missing[0]} is missing")
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = (
            tensor.data.clone()
        )  # not mapped from the file, which may change, and whose alignment rounds otherwise
    return model.eval()


QUERY_DETECTORS = Family(
    library="transformers",
    names=tuple(ANATOMIES),
    takes=lambda model: known_class(model) is not None,
    build=build,
    around=around,
    classes_known=classes_known,
    replace_predictor=replace_predictor,
)
"""The family of transformers' query detectors."""
