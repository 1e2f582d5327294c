"""docs/metrics.md explains every number that a strategy logs, and every figure of results.json."""

import re
from typing import Any

import pytest
import torch
from documentation.reading import DOCS, rows
from strategies import scenes

import rl_det
from rl_det.detectors.encodings import EncodedDataset
from rl_det.metrics.evaluation import quick_evaluate
from rl_det.strategies.strategy import Strategy
from rl_det.types import Detections

PAGE = (DOCS / "metrics.md").read_text()
FIGURES, LOGGED = PAGE.split("## What is logged while a run goes on")
FEW: dict[str, Any] = {"num_candidates": 24, "context_candidates": 8, "samples_per_image": 2}
STRATEGIES: dict[str, Strategy] = {
    "labels": rl_det.Labels(),
    "ppo": rl_det.PPO(**FEW, kl_weight=0.1, begin="warm_start"),
    "ppo, refine": rl_det.PPO(**FEW, policy="refine"),
    "ppo, F1": rl_det.PPO(**FEW, policy="rescore", reward="f1"),
    "reinforce": rl_det.Reinforce(**FEW),
    "supervised": rl_det.Supervised(ema=0.0),
    **{
        name: rl_det.Surrogate(name, num_candidates=24, begin="warm_start", policy="rescore")  # type: ignore[arg-type]
        for name in (
            "ap",
            "smooth_ap",
            "rank_sort",
            "alrp",
            "bucketed_ap",
            "bucketed_rank_sort",
            "list_net",
            "list_mle",
        )
    },
    "blackbox": rl_det.Surrogate("blackbox", num_candidates=24, begin="warm_start"),
    "cross_entropy": rl_det.Surrogate("cross_entropy", num_candidates=24, policy="rescore"),
}


def names(text: str) -> set[str]:
    """The names in the first or, where figures are, second cells of all rows."""
    return {name for row in rows(text) for cell in row[:2] for name in re.findall(r"`([^`]+)`", cell)}


def explained(name: str) -> bool:
    """Whether the page has the name in its table; figures of validation stand in the table of figures."""
    return name in names(LOGGED) or (name.startswith("val_") and name.removeprefix("val_") in names(FIGURES))


@pytest.fixture(scope="module")
def data() -> EncodedDataset:
    return scenes.train_data(scenes.shipped(64))


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_a_strategy_logs_is_explained(name: str, data: EncodedDataset) -> None:
    torch.manual_seed(0)
    strategy, told = STRATEGIES[name], scenes.Told()
    task = scenes.a_task(data, num_steps=4, batch_size=2, callbacks=[told])
    strategy.tune(strategy.start(scenes.shipped(64)), task)
    logged = {metric for _, metrics in told.lines for metric in metrics}
    assert {"val_AP", "grad_norm"} <= logged
    assert sorted(metric for metric in logged if not explained(metric)) == []


def test_all_figures_of_a_report_are_explained(data: EncodedDataset) -> None:
    nothing = [
        Detections(boxes=target.boxes[:0], labels=target.labels[:0], scores=target.area[:0]) for target in data.targets
    ]
    figures = quick_evaluate(nothing, data.targets, num_classes=10)
    assert [name for name in figures if name not in names(FIGURES)] == []


def test_a_metric_that_is_not_in_the_table_is_found() -> None:
    assert explained("signal")
    assert explained("val_APs")
    assert not explained("signals")
    assert not explained("val_signal")
