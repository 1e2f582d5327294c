"""What a Detector reads of a model's layers beside running them: a user's own layer that lacks it costs one sentence."""

from collections.abc import Mapping, Sequence
from functools import reduce

from torch import nn

from rl_det.errors import UserError

LINEAR = ("in_features", "out_features", "weight", "bias")
CONVOLUTION = ("in_channels", "kernel_size", "weight", "bias")
WITHOUT_BIAS = CONVOLUTION[:-1]


def check_parts(model: nn.Module, read: Mapping[str, Sequence[str]]) -> None:
    """Raise UserError for the first part of the model, by its dotted name, that lacks one of the attributes."""
    for name, attributes in read.items():
        part = reduce(getattr, name.split("."), model)
        if lacking := _lacking(part, attributes):
            raise UserError(
                f"{name} must have {', '.join(attributes)}, as torchvision's own has; {type(part).__name__} lacks {lacking}; "
                "give your class these attributes"
            )


def check_layer(name: str, layer: nn.Module, attributes: Sequence[str]) -> None:
    """Raise UserError if a last layer is not one that can be read: a Linear or a Conv2d, with a bias for scores."""
    if lacking := _lacking(layer, attributes):
        kind = "Linear" if attributes is LINEAR else "Conv2d"
        raise UserError(
            f"{name} must be a {kind} layer with {', '.join(attributes)}; {type(layer).__name__} lacks {lacking}; put other "
            "layers, such as a Dropout, in front of it as modules of their own"
        )


def _lacking(part: object, attributes: Sequence[str]) -> str:
    return ", ".join(each for each in attributes if getattr(part, each, None) is None)
