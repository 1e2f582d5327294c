"""A user's own model: what cannot be copied or trained costs one sentence, before any work."""

import copy
from collections.abc import Iterator, Sequence

from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod

from rl_det.detectors.family import Family
from rl_det.detectors.protocol import Detector
from rl_det.errors import UserError


def copied(model: nn.Module) -> nn.Module:
    """A copy of the model. Raises UserError, which says what to do, for one that is pruned or that Python cannot copy."""
    for name, module in model.named_modules():
        for pruned in _pruned(module):
            raise UserError(
                f"a model must hold its weights themselves; {f'{name}.{pruned}'.lstrip('.')} is pruned: weights and a mask; "
                f"make it permanent for each pruned layer by torch.nn.utils.prune.remove(layer, {pruned!r})"
            )
        for attribute in _computed(module):
            raise UserError(
                f"a model must be one that can be copied; {f'{name}.{attribute}'.lstrip('.')} is a result with a gradient "
                "(as the old torch.nn.utils.weight_norm leaves it); remove it, or detach it, first"
            )
    try:
        return copy.deepcopy(model)
    except Exception as error:  # whatever the user's own code holds: a lock, a generator, an open file
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"a model must be one that copy.deepcopy copies; the {type(model).__name__} is not: {why}"
        ) from error


def known_part(model: nn.Module, families: Sequence[Family]) -> str | None:
    """Where in a wrapper, such as torch.compile's or DataParallel's, a model of a family is: "module"; None: nowhere."""
    parts = (name for name, part in model.named_modules() if name and any(family.takes(part) for family in families))
    return next(parts, None)


def check_learns(detector: Detector) -> None:
    """Raise UserError if no parameter of the part that strategies train requires a gradient."""
    if not any(parameter.requires_grad for parameter in detector.trainable.parameters()):
        raise UserError(
            f"the part {detector.part} of the detector must have parameters that require a gradient; none does: all are "
            "frozen; unfreeze the model by requires_grad_(True), or choose a part that is not frozen as trainable "
            "(predictor, head, all)"
        )


def _pruned(module: nn.Module) -> Iterator[str]:
    """The names of the weights that torch's pruning computes before each pass."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, BasePruningMethod):
            yield hook._tensor_name


def _computed(module: nn.Module) -> Iterator[str]:
    """The attributes that are results of computations with a gradient, which torch does not copy."""
    for name, value in vars(module).items():
        if isinstance(value, Tensor) and not value.is_leaf:
            yield name
