"""Write a module as a program that needs only torch. Modules that differ in their weights alone share one trace.

A trace takes seconds, and a run writes several modules of one kind: of each tuned row, and of its row with fitted
post-processing.
"""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from rl_det.storage.files import write_with

_traced: dict[tuple[Any, ...], ExportedProgram] = {}
"""A program for each kind of module that this process has written, with the weights of the last one."""
OWN = ("rl_det.", "torch.nn.modules.")
"""The modules of Python whose classes are known to trace alike if they have the same settings and shapes."""
OF_TORCH = frozenset(vars(nn.Module()))
PLAIN_TYPES = (bool, int, float, str, type(None))


def write_program(module: nn.Module, example: tuple[Tensor, ...], dynamic_shapes: tuple[Any, ...], file: Path) -> Path:
    """Write the module as it is in evaluation on the CPU; `torch.export.load(file).module()` is called as the module is.

    `example` are arguments, and `dynamic_shapes` says which of their sizes may differ, as for `torch.export.export`.
    """
    own = deepcopy(module).cpu().eval()  # the module may go on training, on its device
    program = _program_of(own, example, dynamic_shapes)
    write_with(file, lambda beside: _save(program, beside))
    return file


def _program_of(own: nn.Module, example: tuple[Tensor, ...], dynamic_shapes: tuple[Any, ...]) -> ExportedProgram:
    """The module's program; it may share its tensors with the next one."""
    if not all(_is_known(part) for part in own.modules()):
        return torch.export.export(own, example, dynamic_shapes=dynamic_shapes)
    kind = (*_kind(own), *((part.dtype, part.shape) for part in example), str(dynamic_shapes))
    if kind not in _traced:
        _traced[kind] = torch.export.export(own, example, dynamic_shapes=dynamic_shapes)
    program = _traced[kind]
    with torch.no_grad():
        for name, value in own.state_dict().items():
            program.state_dict[name].copy_(value)
    return program


def _is_known(part: nn.Module) -> bool:
    """Whether `_kind` tells all that a trace of this module depends on: a class of this library or torch's, nothing added."""
    return (
        f"{type(part).__module__}.".startswith(OWN)
        and all(type(value) in PLAIN_TYPES for value in _settings(part).values())
        and not any(value for name, value in vars(part).items() if name.endswith("_hooks"))
        and not part._non_persistent_buffers_set
    )


def _settings(part: nn.Module) -> dict[str, Any]:
    """The attributes of a module that torch did not give it; tuples of plain values, such as a shape, as text."""
    own = {name: value for name, value in vars(part).items() if name not in OF_TORCH}
    return {
        name: repr(value) if isinstance(value, tuple) and all(type(one) in PLAIN_TYPES for one in value) else value
        for name, value in own.items()
    }


def _kind(own: nn.Module) -> Iterator[tuple[Any, ...]]:
    """Classes, settings, names, shapes, and which tensors are one. The classes are held, so no later one takes their place."""
    for name, part in own.named_modules():
        yield name, type(part), *((key, repr(value)) for key, value in sorted(_settings(part).items()))
    first: dict[int, str] = {}
    for name, tensor in own.state_dict(keep_vars=True).items():
        yield name, first.setdefault(id(tensor), name), tensor.dtype, tensor.shape


def _save(program: ExportedProgram, file: Path) -> None:
    """Save the program through an open file, because torch refuses names that do not end in .pt2."""
    with file.open("wb") as opened:
        torch.export.save(program, opened)
