"""No setting lies: every dataclass of settings refuses what cannot be, when it is made; and records are named as such."""

import dataclasses
import importlib
import math
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import rl_det_envs
from unchecked import unchecked

import rl_det
from rl_det.errors import UserError
from rl_det.finetuning.budget import DIGIT_RECIPE
from rl_det.rewards import f1

RECORDS = {
    "Architecture", "CachePlan", "Changes", "Code", "DisplayedF1", "Drawings", "EncodedInTheLoop", "Ending",
    "ErrorBreakdown", "Family", "Findings", "FinishedRun", "FittedPostProcessing", "FittedRow", "GaussianActions",
    "GaussianAdjustments", "GaussianShifts", "ImageCounts", "Interval", "JobFile", "ListedBoxes", "Listing", "Opened",
    "Outcomes", "Photograph", "Plan", "Pool", "Reading", "Rollout", "Row", "Rule", "Said", "Scene", "Shown", "Splits",
    "Spread", "Step", "Table", "TalliedVariants", "Target", "Task", "TensorMatches", "Tested", "ThresholdCounts",
    "Tuned", "Variants", "Wanted", "_Rows",
}  # fmt: skip
"""Dataclasses that nobody sets: what was computed, read or put together."""
LEAST: dict[str, dict[str, Any]] = {
    "BatchPlan": {"num_steps": 4, "batch_size": 2},
    "CheckFlags": {"path": Path("data")},
    "ReportFlags": {"folders": (Path("run"),)},
    "DetectFlags": {"detector": Path("tuned"), "images": (Path("a.png"),)},
    "OnnxFlags": {"detector": Path("tuned"), "file": Path("tuned.onnx")},
    "FromLabels": {"num_steps": 4, "batch_size": 2, "learning_rate": 1e-3, "flip": False, "num_workers": 0,
                   "validate_every": 1},
    "EarlyStopping": {"patience": 3},
    "FunctionValue": {"function": lambda detections, target: 0.0},
    "LoopConfig": {"num_updates": 4, "learning_rate": 1e-3},
    "PostProcessingSettings": {"nms_iou": 0.5},
    "Recipe": vars(DIGIT_RECIPE),
    "Search": {"refinements": 1},
    "Worth": {"value": f1},
}  # fmt: skip
"""What must be given."""
ANY_SIGN = {"Cost.found", "Cost.spurious", "Cost.missed", "Exploration.keep_bias", "PotentialShaping.weight",
            "PostProcessingSettings.shift",
            "SignOfIouChange.weight", "StepCost.price", "Votes.step", "Votes.step_slope",
            "Votes.mean_share", "Votes.support", "Votes.spread", "Votes.size", "Votes.small", "Votes.large"}  # fmt: skip
"""Numbers that may be negative."""


def parts(hint: Any) -> Iterator[Any]:
    yield from (hint, get_origin(hint))
    for part in get_args(hint):
        yield from parts(part)


def dataclasses_of_the_library() -> Iterator[type]:
    for package in (rl_det, rl_det_envs):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(found.name)
            for kind in vars(module).values():
                if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == module.__name__:
                    yield kind


def settable(kind: Any) -> dict[str, set[Any]]:
    """The fields with numbers, names or switches, and the types in them."""
    hints = get_type_hints(kind)
    found = {
        f.name: {kind for kind in (int, float, bool, Literal) if any(part is kind for part in parts(hints[f.name]))}
        for f in dataclasses.fields(kind)
        if f.init
    }
    return {name: types for name, types in found.items() if types}


SETTINGS = {
    kind.__name__: kind for kind in dataclasses_of_the_library() if settable(kind) and kind.__name__ not in RECORDS
}
FIELDS = [(name, field) for name, kind in SETTINGS.items() for field in settable(kind)]


def made(name: str, **given: Any) -> Any:
    with unchecked():
        return SETTINGS[name](**{**LEAST.get(name, {}), **given})


def test_every_dataclass_is_known_to_be_settings_or_a_record() -> None:
    assert {kind.__name__ for kind in dataclasses_of_the_library()} >= RECORDS, "a record that there is not"
    assert {"PPO", "Budget", "LoopConfig", "Augmentations", "Cost", "Request", "FinetuneFlags"} <= set(SETTINGS)
    for name in SETTINGS:
        made(name)


def impossible(name: str, field: str) -> Iterator[Any]:
    """What no such field takes; each number stands alone, or in a tuple of as many as the field has."""
    types, hint = settable(SETTINGS[name])[field], get_type_hints(SETTINGS[name])[field]
    yield "nonsense"
    if types & {int, float}:
        numbers = [math.nan, *([] if f"{name}.{field}" in ANY_SIGN else [-1])]
        yield from ((n,) * (len(get_args(hint)) if ... not in get_args(hint) else 1) if tuple in parts(hint) else n
                    for n in numbers)  # fmt: skip
    if int in types and float not in types:
        yield 1.5


@pytest.mark.parametrize(("name", "field"), FIELDS, ids=lambda part: part)
def test_what_cannot_be_is_refused_by_its_name(name: str, field: str) -> None:
    for value in impossible(name, field):
        with pytest.raises(UserError, match=f"{field} must .*; got |prices must be") as refused:
            made(name, **{field: value})
        assert "\n" not in str(refused.value)


LIMITS = [(name, field) for name, field in FIELDS if field in ("target_kl", "max_grad_norm", "collapse_margin")]


@pytest.mark.parametrize(("name", "field"), LIMITS, ids=lambda part: part)
def test_no_limit_is_a_limit(name: str, field: str) -> None:
    assert getattr(made(name, **{field: math.inf}), field) == math.inf
