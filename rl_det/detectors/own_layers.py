"""What a Detector reads of a model's layers: attributes, which a user's own may lack, and what layers take while they run."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import reduce

from torch import Tensor, nn

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


@contextmanager
def inputs_of(layers: Mapping[str, Sequence[nn.Module]]) -> Iterator[dict[str, list[Tensor]]]:
    """Collect what these layers take while they run, in order."""
    taken: dict[str, list[Tensor]] = {name: [] for name in layers}
    with ExitStack() as hooks:
        for name, several in layers.items():
            for layer in several:
                hooks.enter_context(
                    layer.register_forward_pre_hook(lambda _, inputs, to=taken[name]: to.append(*inputs))
                )
        yield taken


def _lacking(part: object, attributes: Sequence[str]) -> str:
    return ", ".join(each for each in attributes if getattr(part, each, None) is None)
