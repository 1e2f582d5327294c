"""A strategy in two processes against itself in one: 20 updates on the same batches, alike in every number."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from parallel.curves import UPDATES, curves
from parallel.launching import launch

TOLERANCE = 1e-5


def said_by_two(folder: Path, names: Iterable[str]) -> list[dict[str, Any]]:
    """What each of two processes says of these strategies of `parallel.curves`."""
    file = folder / "curves"
    launch(2, "--module", "parallel.curves", file, *names)
    return [json.loads(Path(f"{file}.{rank}").read_text()) for rank in (0, 1)]


def check_alike(name: str, of_two: list[dict[str, Any]]) -> None:
    """Fail where what two processes said of this strategy differs, from each other or from what one process says."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = curves(name)
    finally:
        torch.set_num_threads(threads)
    first, second = (own[name] for own in of_two)
    assert first == second  # losses, validation and weights are the same in all processes, bit for bit
    assert len(alone["lines"]) == UPDATES + 1
    for update, (one, both) in enumerate(zip(alone["lines"], first["lines"], strict=True)):
        assert one.keys() == both.keys()
        for metric, value in one.items():
            tolerance = 10 * TOLERANCE if metric == "grad_norm" else TOLERANCE  # a unit at a ReLU's border, on or off
            assert both[metric] == pytest.approx(value, rel=tolerance, abs=tolerance), f"{metric} of update {update}"
    assert alone["weights"] != first["weights"] or name == "supervised"  # sums in another order
