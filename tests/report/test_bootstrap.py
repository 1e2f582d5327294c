"""Intervals by redrawing: what is measured comes first, methods share each draw, and the spread is the right size."""

from dataclasses import replace

import numpy as np
import pytest
from rewards.scenes import NUM_CLASSES, make_pool

from rl_det.ap.data_set import coco_figures
from rl_det.ap.matching import Matches, match
from rl_det.report.bootstrap import ap_of_drawn, interval, redrawn_ap


def matches(seed: int) -> Matches:
    pool = make_pool(seed)
    return match(pool.detections, pool.truths, num_classes=NUM_CLASSES)


def test_the_ap_of_drawn_images_is_that_of_a_data_set_that_holds_them() -> None:
    pool = make_pool(1)
    for images in np.array([[0, 1, 2, 3], [2, 2, 0, 1], [3, 0, 0, 0]]):
        expected = coco_figures(pool.detections[images], pool.truths[images], num_classes=NUM_CLASSES)["AP"]
        assert ap_of_drawn(matches(1), images) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(ap_of_drawn(matches(1), np.array([3])))


def test_the_first_value_is_the_mean_over_the_seeds_as_they_are() -> None:
    found = redrawn_ap({"a": [[matches(0)], [matches(1)]]}, num_draws=3, rng=np.random.default_rng(0))["a"]
    expected = np.mean([ap_of_drawn(matches(seed), np.arange(4)) for seed in (0, 1)])
    assert len(found) == 4
    assert found[0] == pytest.approx(expected)
    assert interval(found).value == found[0]


def test_methods_share_each_draw_so_that_equal_ones_never_differ() -> None:
    own = [[matches(0)], [matches(1)]]
    found = redrawn_ap(
        {"a": own, "b": own, "c": [[matches(2)], [matches(3)]]},
        num_draws=20,
        rng=np.random.default_rng(0),
    )
    np.testing.assert_array_equal(found["a"], found["b"])
    assert (found["a"] != found["c"]).any()
    difference = interval(found["a"] - found["b"])
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)


def slow_redrawn_ap(runs: list[list[Matches]], num_draws: int, rng: np.random.Generator) -> list[float]:
    """The same from the definition: draw seeds, then images in each fold; AP of each, mean of folds, mean of seeds."""
    found = []
    for draw in range(num_draws + 1):
        seeds = list(rng.integers(0, len(runs), len(runs))) if draw else list(range(len(runs)))
        drawn = [
            rng.integers(0, len(fold), len(fold)) if draw else np.array(range(len(fold)), dtype=np.int64)
            for fold in runs[0]
        ]
        of_seeds = []
        for seed in seeds:
            aps = [ap_of_drawn(fold, images) for fold, images in zip(runs[seed], drawn, strict=True)]
            known = [ap for ap in aps if ap == ap]
            of_seeds.append(sum(known) / len(known) if known else float("nan"))
        found.append(sum(of_seeds) / len(of_seeds))
    return found


EMPTY = np.array([3, 3, 3])
"""Of each pool, image 3 has no true box."""


@pytest.mark.parametrize(
    "runs",
    [
        [[matches(0)], [matches(1)]],
        [[matches(0), matches(1)[np.array([0, 2])]], [matches(2), matches(3)[np.array([0, 2])]]],
        [[matches(0), matches(1)[EMPTY], matches(2)]],
        [[matches(0)[EMPTY], matches(1)[EMPTY]]],
    ],
    ids=["one fold", "two folds of two seeds", "a fold without a true box", "no true box"],
)
def test_images_are_redrawn_in_each_fold_and_the_folds_aps_are_averaged(runs: list[list[Matches]]) -> None:
    found = redrawn_ap({"a": runs}, num_draws=10, rng=np.random.default_rng(4))["a"]
    np.testing.assert_allclose(found, slow_redrawn_ap(runs, 10, np.random.default_rng(4)), atol=1e-12)


def test_the_folds_never_rank_together() -> None:
    one, other = matches(0), matches(1)
    lowered = replace(other, scores=other.scores / 100)
    plain, shifted = (
        redrawn_ap({"a": [[one, own]]}, num_draws=5, rng=np.random.default_rng(0))["a"] for own in (other, lowered)
    )
    np.testing.assert_array_equal(plain, shifted)


def test_one_fold_gives_the_numbers_that_a_mean_over_seeds_gave() -> None:
    runs, rng = [matches(0), matches(1)], np.random.default_rng(0)
    found = redrawn_ap({"a": [[own] for own in runs]}, num_draws=6, rng=np.random.default_rng(0))["a"]
    expected = [np.mean([ap_of_drawn(own, np.arange(4)) for own in runs])]
    for _ in range(6):
        seeds, images = rng.integers(0, 2, 2), rng.integers(0, 4, 4)
        expected.append(np.mean([ap_of_drawn(runs[seed], images) for seed in seeds]))
    assert found.tolist() == expected


def test_an_interval_holds_ninety_five_of_a_hundred_redrawn_values() -> None:
    redrawn = np.concatenate([[7.0], np.random.default_rng(0).normal(0, 1, 20000)])
    found = interval(redrawn)
    assert found.value == 7
    assert found.low == pytest.approx(-1.96, abs=0.05)
    assert found.high == pytest.approx(1.96, abs=0.05)


def test_methods_of_different_numbers_of_seeds_or_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"as many seeds, on as many images; got .*\(1, 4\), \(2, 4\)"):
        redrawn_ap({"a": [[matches(0)]], "b": [[matches(0)]] * 2}, num_draws=1, rng=np.random.default_rng(0))


def test_a_draw_without_a_true_box_leaves_the_interval() -> None:
    drawn = np.array([0.5, np.nan, *np.linspace(0.4, 0.6, 101), np.nan])
    assert interval(drawn) == interval(drawn[~np.isnan(drawn)])
    assert np.isnan(interval(np.array([0.5, np.nan])).low)
