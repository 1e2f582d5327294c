"""How a detector's frozen part runs while training images are encoded: its precision, and whether torch compiles it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from torch.utils._pytree import tree_map

from rl_det.detectors.protocol import Detector, Part
from rl_det.errors import UserError
from rl_det.precision import Precision, running_in
from rl_det.settings import check_settings


@dataclass(frozen=True, kw_only=True)
class FrozenPart:
    """How the backbone runs, where it is frozen; proposals, boxes, scores and losses stay in single precision."""

    precision: Precision = "float32"
    """mixed: float16 on CUDA, bfloat16 on a CPU."""
    compile: bool = False
    """Whether `torch.compile` makes it faster, which takes a minute or more before the first batch."""

    def __post_init__(self) -> None:
        check_settings(self)

    @contextmanager
    def of(self, detector: Detector) -> Iterator[None]:
        """A context in which the detector's backbone runs like this; its results are in single precision again."""
        if self == PLAIN:
            yield
            return
        backbone = detector.backbone
        own, of_kind = vars(backbone).get("forward"), type(backbone).forward
        if own is None:
            run = (_compiled(of_kind) if self.compile else of_kind).__get__(backbone)
        else:
            run = _compiled(own) if self.compile else own

        def forward(*inputs: Any, **named: Any) -> Any:
            with running_in(self.precision, detector.device):
                try:
                    output = run(*inputs, **named)
                except TorchDynamoException as error:
                    why = str(error).strip().splitlines()[0]
                    raise UserError(
                        f"torch.compile cannot compile the backbone here: {why}; leave compile out"
                    ) from error
            return tree_map(_single, output)

        backbone.forward = forward
        try:
            yield
        finally:
            del backbone.forward
            if own is not None:
                backbone.forward = own


PLAIN = FrozenPart()
"""As the library runs it."""


def frozen_part(
    precision: Precision | Literal["auto"], *, compile: bool, part: Part, device: torch.device
) -> FrozenPart:
    """How the frozen part runs by a user's wish; auto is mixed on CUDA, and else float32.

    Raises ValueError if no part is frozen, and one is to run in mixed precision or compiled.
    """
    if part == "all":
        if precision == "mixed" or compile:
            raise UserError(
                "precision='mixed' and compile are for the frozen part; with trainable='all' nothing is frozen; leave them out"
            )
        return PLAIN
    if precision == "auto":
        precision = "mixed" if device.type == "cuda" else "float32"
    return FrozenPart(precision=precision, compile=compile)


@cache
def _compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The forward pass of a kind of module, compiled once for all modules of this kind."""
    return torch.compile(forward)


def _single(part: Any) -> Any:
    return part.float() if isinstance(part, Tensor) and part.dtype in (torch.float16, torch.bfloat16) else part
