"""Two processes give what one gives: 20 updates of every strategy, each on the same batches as one process."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from parallel.curves import STRATEGIES, UPDATES, curves
from parallel.launching import launch

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes said."""
    file = tmp_path_factory.mktemp("two") / "curves"
    launch(2, "--module", "parallel.curves", file, *STRATEGIES)
    return [json.loads(Path(f"{file}.{rank}").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("name", STRATEGIES)
def test_losses_of_two_processes_are_those_of_one(name: str, of_two: list[dict[str, Any]]) -> None:
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
