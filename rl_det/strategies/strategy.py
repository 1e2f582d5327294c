"""The Strategy protocol, and the task that every strategy receives."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import sha256
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from torch import Tensor

from rl_det.data import Dataset
from rl_det.detectors import Detector
from rl_det.detectors.encodings import Encodings
from rl_det.policies.detections import mean_ap
from rl_det.policies.policy import Policy
from rl_det.settings import at_least, check_settings, positive
from rl_det.training.loop import Ending, Learner
from rl_det.training.loop_config import LoopConfig

Value = TypeVar("Value")
Fit = Callable[[Learner, LoopConfig], Ending]
"""`rl_det.training.loop.fit`, with the run's name and callbacks already given."""


@dataclass(frozen=True, kw_only=True)
class FromLabels:
    """The usual settings on the task's data for training the whole detector from labels."""

    num_steps: int
    batch_size: int
    learning_rate: float
    flip: bool
    num_workers: int
    validate_every: int

    def __post_init__(self) -> None:
        check_settings(
            self,
            num_steps=at_least(1),
            batch_size=at_least(1),
            learning_rate=positive(usual="2e-3"),
            num_workers=at_least(0),
            validate_every=at_least(1),
        )


@dataclass(kw_only=True)
class Task:
    """The data and the amount of work of a strategy: the same for all strategies of a run, so they can be compared.

    A *step* is a gradient step on `batch_size` images. Strategies that make several steps on one batch count each step,
    so all strategies see the same number of images.
    """

    train_images: Dataset
    val_images: Dataset
    encode: Callable[[Literal["train", "val"]], Encodings]
    """The function that gives a split's encodings; called once for each, and only by strategies that train the head
    alone."""
    num_steps: int
    batch_size: int
    learning_rate: float
    """AdamW's peak rate of the head in the warm start."""
    validate_every: int
    """Steps between two validations."""
    validated_candidates: int
    """The candidates of an image that are ranked in validations between updates."""
    evaluated_candidates: int
    """The candidates of an image from which NMS chooses in the final evaluation."""
    from_labels: FromLabels
    seed: int
    fit: Fit
    goes_on: bool = False
    """Whether `fit` resumes a stopped run. It then restores all that is trained, so a strategy need not search again for
    where to begin. Who gives a task another `fit` says so here too."""

    @cached_property
    def train(self) -> Encodings:
        """The encodings of the training images."""
        return self.encode("train")

    @cached_property
    def val(self) -> Encodings:
        """The encodings of the validation images."""
        return self.encode("val")

    def validation_ap(self, policy: Policy) -> float:
        """The validation mAP in [0, 1], by which the best weights are selected."""
        return mean_ap(policy, self.val, self.validated_candidates)


@runtime_checkable
class Strategy(Protocol):
    """A way of raising the metric, with its settings: a frozen dataclass whose fields are keywords and flags."""

    @property
    def name(self) -> str:
        """The name of its row in the table."""
        ...

    @property
    def trains(self) -> Literal["head", "all"]:
        """The part of the detector that changes: its head alone, or all of it."""
        ...

    def start(self, detector: Detector) -> Policy:
        """The policy at the warm start; may draw from torch's global generator."""
        ...

    def tune(self, policy: Policy, task: Task) -> Ending:
        """Tune the policy in place, leave it at its best validation weights, and return why training ended."""
        ...


def given(value: Value | None, usual: Value) -> Value:
    """The value, or the usual one if it is None."""
    return usual if value is None else value


def settings_of(strategy: Strategy) -> dict[str, Any]:
    """A strategy's settings in JSON's types; equal settings mean equal results.

    A function is named with a hash of what it computes, so that another function of the same name is another setting.
    The hash depends on Python's version.
    """
    plain = {name: _plain(value) for name, value in vars(strategy).items()}
    return {"strategy": type(strategy).__name__, "name": strategy.name, **plain}


def _plain(value: Any) -> Any:
    if isinstance(value, bool | int | float | str | None):
        return value
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, np.ndarray | Tensor):
        numbers = value.numpy(force=True) if isinstance(value, Tensor) else value
        return {"shape": list(numbers.shape), "sha256": sha256(numbers.tobytes()).hexdigest()[:16]}
    if isinstance(value, partial):
        return {"partial": _plain(value.func), "args": _plain(value.args), "keywords": _plain(value.keywords)}
    if isinstance(value, FunctionType):
        meant = json.dumps(_meaning(value, ()), sort_keys=True)
        return f"{value.__module__}.{value.__qualname__} {sha256(meant.encode()).hexdigest()[:16]}"
    if isinstance(value, MethodType):
        return {"method": _plain(value.__func__), "of": _plain(value.__self__)}
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return f"{value.__module__}.{value.__qualname__}"
    fields = {name: _plain(part) for name, part in vars(value).items()} if hasattr(value, "__dict__") else {}
    return {"type": type(value).__name__, **fields}


def _meaning(function: FunctionType, callers: tuple[FunctionType, ...]) -> Any:
    """What a plain function computes: its code, its defaults, and the values and functions of its module that it uses."""
    if function in callers:
        return function.__qualname__
    used = {name: function.__globals__[name] for name in _names(function.__code__) if name in function.__globals__}
    used |= dict(zip(function.__code__.co_freevars, (_held(cell) for cell in function.__closure__ or ()), strict=True))

    def told(value: Any) -> Any:
        if isinstance(value, FunctionType) and value.__module__ == function.__module__:
            return _meaning(value, (*callers, function))
        return value.__name__ if isinstance(value, ModuleType) else _plain(value)

    return [
        _instructions(function.__code__), _plain(function.__defaults__), _plain(function.__kwdefaults__),
        {name: told(value) for name, value in used.items()},
    ]  # fmt: skip


def _held(cell: CellType) -> Any:
    """What a closure holds; None while it holds nothing."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _names(code: CodeType) -> set[str]:
    """The names that a function, or a function in it, looks up."""
    inner = [_names(part) for part in code.co_consts if isinstance(part, CodeType)]
    return set(code.co_names).union(*inner)


def _instructions(code: CodeType) -> Any:
    """A function's instructions and constants, without its place in a file."""
    constants = [_instructions(part) if isinstance(part, CodeType) else _constant(part) for part in code.co_consts]
    return [code.co_code.hex(), constants, list(code.co_names), list(code.co_varnames)]


def _constant(value: Any) -> str:
    """A constant as text; a set in sorted order, as its own is another in each process."""
    if isinstance(value, frozenset):
        return f"frozenset({sorted(map(_constant, value))})"
    return f"({', '.join(map(_constant, value))})" if isinstance(value, tuple) else repr(value)
