"""Intervals by redrawing: what is measured comes first, methods share each draw, and the spread is the right size."""

import numpy as np
import pytest
from rewards.scenes import NUM_CLASSES, make_pool

from rl_det.ap.data_set import coco_figures
from rl_det.ap.matching import Matches, match
from rl_det.report.bootstrap import interval, mean_ap, redrawn_ap


def matches(seed: int) -> Matches:
    pool = make_pool(seed)
    return match(pool.detections, pool.truths, num_classes=NUM_CLASSES)


def test_the_ap_of_drawn_images_is_that_of_a_data_set_that_holds_them() -> None:
    pool = make_pool(1)
    for images in np.array([[0, 1, 2, 3], [2, 2, 0, 1], [3, 0, 0, 0]]):
        expected = coco_figures(pool.detections[images], pool.truths[images], num_classes=NUM_CLASSES)["AP"]
        assert mean_ap(matches(1), images) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(mean_ap(matches(1), np.array([3])))


def test_the_first_value_is_the_mean_over_the_seeds_as_they_are() -> None:
    found = redrawn_ap({"a": [matches(0), matches(1)]}, num_draws=3, rng=np.random.default_rng(0))["a"]
    expected = np.mean([mean_ap(matches(seed), np.arange(4)) for seed in (0, 1)])
    assert len(found) == 4
    assert found[0] == pytest.approx(expected)
    assert interval(found).value == found[0]


def test_methods_share_each_draw_so_that_equal_ones_never_differ() -> None:
    found = redrawn_ap(
        {"a": [matches(0), matches(1)], "b": [matches(0), matches(1)], "c": [matches(2), matches(3)]},
        num_draws=20,
        rng=np.random.default_rng(0),
    )
    np.testing.assert_array_equal(found["a"], found["b"])
    assert (found["a"] != found["c"]).any()
    difference = interval(found["a"] - found["b"])
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)


def test_an_interval_holds_ninety_five_of_a_hundred_redrawn_values() -> None:
    redrawn = np.concatenate([[7.0], np.random.default_rng(0).normal(0, 1, 20000)])
    found = interval(redrawn)
    assert found.value == 7
    assert found.low == pytest.approx(-1.96, abs=0.05)
    assert found.high == pytest.approx(1.96, abs=0.05)


def test_methods_of_different_numbers_of_seeds_or_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"as many seeds, on as many images; got .*\(1, 4\), \(2, 4\)"):
        redrawn_ap({"a": [matches(0)], "b": [matches(0)] * 2}, num_draws=1, rng=np.random.default_rng(0))
