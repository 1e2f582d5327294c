"""A small comparison, for the tests of `compare`, and for the processes that they start."""

from pathlib import Path
from typing import Any

from small_runs import SMALL

from rl_det.finetuning import request
from rl_det.finetuning.comparison import compare
from rl_det.finetuning.request import Request
from rl_det.strategies.labels import CONTROL

QUICK = ("post_processing_by_grid", CONTROL)
REQUEST = Request(budget="smoke", device="cpu")
SCENES = {"train": 12, "val": 8, "test": 8}


def few_scenes() -> None:
    """Of this process; the processes of jobs that it starts get theirs by `sitecustomize`."""
    request.NUM_SCENES["smoke"] = dict(SCENES)


def compared(folder: Path, **options: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"strategies": QUICK, "seeds": (0,), "workers": 2, "budget": SMALL} | options
    return compare(REQUEST, out=folder, **given)
