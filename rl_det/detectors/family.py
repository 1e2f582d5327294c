"""What a family of detectors tells `load_detector`: its names, how it is built, and what wraps it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from rl_det.detectors.protocol import Detector, Library


@dataclass(frozen=True, kw_only=True)
class Family:
    """The detectors that one adapter wraps."""

    library: Library
    """The code that builds them."""
    names: tuple[str, ...]
    """The names by which `build` knows them."""
    takes: Callable[[nn.Module], bool]
    """Whether a user's own model is one of them."""
    build: Callable[..., nn.Module]
    """The library's model, by `name`, `num_classes` (without background), `input_size` (the shorter side; None: its own)
    and `weights` (None or "none": random; a file; a name of the library's). If the weights know another number of classes,
    the predictor is random."""
    around: Callable[..., Detector]
    """The Detector around a model; with keywords `architecture`, `is_trained` and `part`."""
    classes_known: Callable[[Mapping[str, Tensor]], int | None]
    """The number of classes in a state_dict, without background; None if it is not of this family."""
    replace_predictor: Callable[[nn.Module, int], None]
    """Give the model a predictor with random weights for so many classes, without background."""
