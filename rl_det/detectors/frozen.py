"""How a detector's frozen part runs while training images are encoded: its precision, and whether torch compiles it."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch.utils._pytree import tree_leaves, tree_map

from rl_det.detectors.protocol import Detector
from rl_det.errors import UserError
from rl_det.precision import Precision, WantedPrecision, half_of, running_in
from rl_det.settings import check_settings

HALVES = (torch.float16, torch.bfloat16)
_compiled: "weakref.WeakKeyDictionary[nn.Module, Callable[..., Any]]" = weakref.WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True)
class FrozenPart:
    """How the backbone runs, where it is frozen; proposals, boxes, scores and losses stay in single precision."""

    precision: WantedPrecision = "auto"
    """mixed: float16 on CUDA, bfloat16 on a CPU; auto: mixed on CUDA, and else float32."""
    compile: bool = False
    """Whether `torch.compile` makes it faster, which takes a minute or more before the first batch."""

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def is_usual(self) -> bool:
        """Whether the user wished for nothing."""
        return self.precision == "auto" and not self.compile

    def told(self, detector: Detector) -> dict[str, Any]:
        """What it comes to for this detector, in JSON's types; empty: the backbone runs as it is.

        A backbone that is trained runs as it is, and so does one of TorchScript, which cannot be told.
        """
        if detector.part == "all" or isinstance(detector.backbone, torch.jit.ScriptModule):
            return {}
        mixed = self.precision == "mixed" or (self.precision == "auto" and detector.device.type == "cuda")
        half = {"precision": str(half_of(detector.device))} if mixed else {}
        return half | ({"compiled": True} if self.compile else {})

    @contextmanager
    def of(self, detector: Detector) -> Iterator[None]:
        """A context in which the detector's backbone runs like this; its results are in single precision again."""
        told = self.told(detector)
        if not told:
            yield
            return
        backbone, device = detector.backbone, detector.device
        own, plain = vars(backbone).get("forward"), backbone.forward
        run = compiled(backbone) if self.compile else plain
        precision: Precision = "mixed" if "precision" in told else "float32"

        def forward(*inputs: Any, **named: Any) -> Any:
            with running_in(precision, device):
                output = tree_map(_single, run(*inputs, **named))
            if precision == "mixed" and not _is_finite(output):  # beyond half precision's range
                with running_in("float32", device):
                    output = plain(*inputs, **named)
            return output

        backbone.forward = forward
        try:
            yield
        finally:
            del backbone.forward
            if own is not None:
                backbone.forward = own


USUAL = FrozenPart()
PLAIN = FrozenPart(precision="float32")
"""As the library runs it."""


def compiled(backbone: nn.Module) -> Callable[..., Any]:
    """The backbone's forward pass, compiled once for each backbone; UserError from it if that is impossible here."""
    own = vars(backbone).get("forward")
    if own is None and backbone not in _compiled:
        _compiled[backbone] = torch.compile(type(backbone).forward)
    run = torch.compile(own) if own is not None else _compiled[backbone].__get__(backbone)

    def forward(*inputs: Any, **named: Any) -> Any:
        try:
            return run(*inputs, **named)
        except TorchDynamoException as error:
            why = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise UserError(f"torch.compile cannot compile the backbone here: {why}; leave compile out") from error

    return forward


def _single(part: Any) -> Any:
    return part.float() if isinstance(part, Tensor) and part.dtype in HALVES else part


def _is_finite(output: Any) -> bool:
    parts = [part for part in tree_leaves(output) if isinstance(part, Tensor) and part.is_floating_point()]
    return all(bool(part.isfinite().all()) for part in parts if part.device.type != "meta")
