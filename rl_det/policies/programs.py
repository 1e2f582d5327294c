"""Write a module as a program that needs only torch. Modules that differ in their weights alone share one trace.

A trace takes seconds, and a run writes several modules of one kind: of each tuned row, and of its row with fitted
post-processing.
"""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from rl_det.storage.files import write_with

_traced: dict[str, ExportedProgram] = {}
"""A program for each kind of module that this process has written, with the weights of the last one."""


def write_program(module: nn.Module, example: tuple[Any, ...], dynamic_shapes: tuple[Any, ...], file: Path) -> Path:
    """Write the module as it is in evaluation on the CPU; `torch.export.load(file).module()` is called as the module is.

    `example` are arguments, and `dynamic_shapes` says which of their sizes may differ, as for `torch.export.export`.
    """
    own = deepcopy(module).cpu().eval()  # the module may go on training, on its device
    program = _program_of(own, example, dynamic_shapes)
    write_with(file, lambda beside: _save(program, beside))
    return file


def _program_of(own: nn.Module, example: tuple[Any, ...], dynamic_shapes: tuple[Any, ...]) -> ExportedProgram:
    """The module's program; it may share its tensors with the next one."""
    try:
        kind = "\n".join([*_kind(own), *(f"{part.dtype} {part.shape}" for part in example), str(dynamic_shapes)])
    except TypeError:
        return torch.export.export(own, example, dynamic_shapes=dynamic_shapes)
    if kind not in _traced:
        _traced[kind] = torch.export.export(own, example, dynamic_shapes=dynamic_shapes)
    program = _traced[kind]
    with torch.no_grad():
        for name, value in own.state_dict().items():
            program.state_dict[name].copy_(value)
    return program


def _kind(own: nn.Module) -> Iterator[str]:
    """All that a trace depends on: classes, settings, names and shapes; TypeError if a part holds anything else."""
    for name, part in own.named_modules():
        yield f"{name}: {type(part)} {id(type(part))}"
        for attribute, value in vars(part).items():
            if attribute.startswith("_"):  # torch's own: parameters, buffers, modules, hooks
                if "hooks" in attribute and value:
                    raise TypeError(f"{name} has hooks")
            elif isinstance(value, bool | int | float | str | None | tuple):
                yield f"{attribute}={value!r}"
            else:
                raise TypeError(f"{name}.{attribute} is no plain value")
    kept = own.state_dict()
    for name, tensor in (*own.named_parameters(), *own.named_buffers()):
        if name not in kept:
            raise TypeError(f"{name} is not kept")
        yield f"{name}: {tensor.dtype} {tensor.shape}"


def _save(program: ExportedProgram, file: Path) -> None:
    """Save the program through an open file, because torch refuses names that do not end in .pt2."""
    with file.open("wb") as opened:
        torch.export.save(program, opened)
