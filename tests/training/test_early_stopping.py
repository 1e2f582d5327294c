"""Patience with a metric that should rise, and with one that is missing."""

import math

import pytest

from rl_det.training.early_stopping import EarlyStopping


def told(stopping: EarlyStopping, *metrics: float | None) -> list[bool]:
    return [stopping.improved(metric) for metric in metrics]


def test_only_what_beats_the_best_is_progress_and_ties_keep_the_earlier() -> None:
    stopping = EarlyStopping(patience=3)
    assert told(stopping, 0.1, 0.1, 0.2, 0.15, 0.2) == [True, False, True, False, False]
    assert stopping.best == 0.2
    assert not stopping.exhausted
    stopping.improved(0.1)
    assert stopping.exhausted


def test_a_missing_or_nan_metric_is_no_progress_and_costs_no_patience() -> None:
    stopping = EarlyStopping(patience=1)
    assert told(stopping, None, math.nan, 0.1, None, math.nan) == [False, False, True, False, False]
    assert not stopping.exhausted
    assert stopping.best == 0.1


def test_progress_of_min_delta_or_less_is_none() -> None:
    stopping = EarlyStopping(patience=2, min_delta=0.125)
    assert told(stopping, 0.0, 0.125, 0.25) == [True, False, True]


def test_progress_renews_patience() -> None:
    stopping = EarlyStopping(patience=2)
    told(stopping, 0.1, 0.0, 0.2, 0.1)
    assert not stopping.exhausted


def test_the_warm_up_does_not_count_and_a_missing_metric_is_no_part_of_it() -> None:
    stopping = EarlyStopping(patience=1, warm_up=2)
    assert told(stopping, 0.9, None, 0.8, 0.1) == [False, False, False, True]
    assert not stopping.exhausted
    assert stopping.best == 0.1


def test_it_goes_on_from_a_kept_state() -> None:
    metrics = [0.3, 0.1, None, 0.4, 0.4, math.nan, 0.1, 0.2]
    whole = EarlyStopping(patience=4, warm_up=1)
    expected = told(whole, *metrics)
    for stop in range(len(metrics)):
        before, after = EarlyStopping(patience=4, warm_up=1), EarlyStopping(patience=4, warm_up=1)
        first = told(before, *metrics[:stop])
        after.load_state_dict(before.state_dict())
        assert first + told(after, *metrics[stop:]) == expected
        assert after == whole


@pytest.mark.parametrize(
    "arguments",
    [
        {"patience": 0},
        {"patience": 1, "min_delta": -0.1},
        {"patience": 1, "min_delta": math.nan},
        {"patience": 1, "warm_up": -1},
    ],
)
def test_impossible_arguments_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="usual"):
        EarlyStopping(**arguments)  # type: ignore[arg-type]
