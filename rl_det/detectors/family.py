"""A family of detectors: how to recognise, build and wrap the models of one library."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from rl_det.detectors.protocol import Detector


@dataclass(frozen=True, kw_only=True)
class Family:
    """What loading has to know about one kind of library model. Numbers of classes exclude the background."""

    names: tuple[str, ...]
    """The names of its models, which `build` takes."""
    takes: Callable[[nn.Module], bool]
    """Whether a model belongs to the family."""
    build: Callable[..., nn.Module]
    """The library's model by the keywords name, num_classes, input_size and weights."""
    around: Callable[..., Detector]
    """The Detector around a model; keywords architecture, is_trained and part."""
    classes_known: Callable[[Mapping[str, Tensor]], int | None]
    """The number of classes in a state_dict of the family; None for any other state_dict."""
    replace_predictor: Callable[[nn.Module, int], None]
    """Give the model a classifier with random weights for another number of classes."""
