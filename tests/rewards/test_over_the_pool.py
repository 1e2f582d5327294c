"""The rewards that are a data set's metric, against that metric of the whole pool before and after, by pycocotools."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from ap.hostile import NUM_CLASSES, pycocotools_evaluation
from rewards.test_credit import NUM_IMAGES, OBJECTS, hostile_scene, random_step
from unchecked import unchecked

from rl_det.ap.batch import DetectionBatch
from rl_det.ap.options import AREA_RANGES, CocoOptions
from rl_det.errors import UserError
from rl_det.rewards import (
    Cost,
    Edits,
    LengthFactor,
    MatchedSum,
    OverThePool,
    Pool,
    PotentialShaping,
    Sum,
    Worth,
    f1,
    reward_named,
)

MANY = 10_000
DISPLAYED_FROM = 0.75


def average_precision(pool: Pool, options: CocoOptions) -> float:
    """pycocotools' mean over classes, 0 if there is nothing to find."""
    evaluation = pycocotools_evaluation(pool.detections, pool.truths, options)
    precision = evaluation.eval["precision"][:, :, :, 0, 0]
    return float(precision[precision > -1].mean()) if (precision > -1).any() else 0.0


def ap50(pool: Pool) -> float:
    return average_precision(pool, CocoOptions(iou_thresholds=(0.5,), max_detections=MANY))


def ap_small(pool: Pool) -> float:
    return average_precision(pool, CocoOptions(area_range=AREA_RANGES["small"], max_detections=MANY))


def displayed_counts(pool: Pool) -> np.ndarray:
    """pycocotools' found, displayed and true boxes of each image and class, [P, C, 3], without crowds and what lies there."""
    d = pool.detections
    displayed = replace(d, mask=d.mask & (d.scores >= pool.displayed_from))
    options = CocoOptions(iou_thresholds=(0.5,), max_detections=MANY)
    counts = np.zeros((len(d), NUM_CLASSES, 3))
    for entry in pycocotools_evaluation(displayed, pool.truths, options).evalImgs:
        if entry is not None:
            counted = ~entry["dtIgnore"][0].astype(bool)
            found = counted & (entry["dtMatches"][0] > 0)
            objects = (~np.asarray(entry["gtIgnore"]).astype(bool)).sum()
            counts[entry["image_id"], entry["category_id"] - 1] = found.sum(), counted.sum(), objects
    return counts


def micro_f1(pool: Pool) -> float:
    found, displayed, objects = displayed_counts(pool).sum((0, 1))
    return float(2 * found / (displayed + objects)) if displayed + objects else 1.0


def mean_cost(pool: Pool) -> float:
    found, displayed, objects = displayed_counts(pool).sum((0, 1))
    return float(-(displayed - found) - (objects - found)) / NUM_IMAGES


def minus_mean_count_error(pool: Pool) -> float:
    counts = displayed_counts(pool)
    return -float(np.abs(counts[..., 1] - counts[..., 2]).mean())


METRICS: dict[str, Callable[[Pool], float]] = {
    "ap50": ap50,
    "ap_small": ap_small,
    "pool_f1": micro_f1,
    "pool_cost": mean_cost,
    "count_error": minus_mean_count_error,
}


def with_row(pool: Pool, edits: Edits, row: int) -> Pool:
    """The pool, with one image as the edit has it."""
    parts = {name: values.copy() for name, values in vars(pool.detections).items()}
    for name, values in vars(edits.detections).items():
        parts[name][edits.images[row]] = values[row]
    return replace(pool, detections=DetectionBatch(**parts))


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("seed", range(5))
def test_the_reward_and_each_credit_are_the_change_of_the_whole_pools_metric(name: str, seed: int) -> None:
    step = random_step(hostile_scene(seed, DISPLAYED_FROM), seed, ("scores", "boxes"))
    metric, pool = METRICS[name], step.scene.pool
    earned, credit = reward_named(name, OBJECTS).credited(step, ended=False)
    before = metric(pool)
    for row in range(len(earned)):
        assert earned[row] == pytest.approx(metric(with_row(pool, step.after, row)) - before, abs=1e-12)
    for number, factor in enumerate(step.factors):
        alone = step.alone(factor)
        for v in range(0, len(alone.rows), 3):
            expected = metric(with_row(pool, alone.after, v)) - before
            assert credit[alone.rows[v], alone.candidates[v], number] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_the_steps_of_an_episode_add_up_to_the_change_over_it(name: str) -> None:
    scene = hostile_scene(3, DISPLAYED_FROM)
    reward, images = reward_named(name, OBJECTS), np.arange(NUM_IMAGES)
    start = scene.edits(images, scene.boxes, scene.scores)
    middle, end = (scene.edits(images, scene.boxes, scene.scores + shift) for shift in (0.5, -0.75))
    parts = reward(start, middle, ended=False) + reward(middle, end, ended=True)
    np.testing.assert_allclose(parts, reward(start, end, ended=True), rtol=0, atol=1e-12)


def test_the_pools_cost_is_the_images_divided_by_the_number_of_images() -> None:
    step = random_step(hostile_scene(1, DISPLAYED_FROM), 1, ("scores",))
    prices = Cost(found=2.0, spurious=-0.5, missed=-3.0)
    _, of_image = Worth(prices).credited(step, ended=True)
    _, of_pool = Worth(OverThePool(prices), "by_change").credited(step, ended=True)
    np.testing.assert_allclose(of_pool, of_image / NUM_IMAGES, rtol=0, atol=1e-12)
    assert np.abs(of_pool).max() > 0


def test_a_formula_is_a_reward_as_it_is() -> None:
    step = random_step(hostile_scene(0, DISPLAYED_FROM), 0, ("scores", "boxes"))
    for formula, named in (
        (f1, "f1"),
        (Cost(), "cost"),
        (OverThePool(f1), "pool_f1"),
        (OverThePool(Cost()), "pool_cost"),
    ):
        given, wanted = (reward_named(reward, OBJECTS).credited(step, ended=True) for reward in (formula, named))
        np.testing.assert_array_equal(given[0], wanted[0])
        np.testing.assert_array_equal(given[1], wanted[1])


PARTS: dict[str, tuple[Callable[[], object], str]] = {
    "the name of a value": (lambda: Worth("f1"), r"value must be a value of detections, such as .*; got 'f1'"),  # type: ignore[arg-type]
    "the class of a value": (lambda: Worth(Cost), r"value must be a value of detections, .*; got the class Cost"),  # type: ignore[arg-type]
    "a potential's name": (lambda: PotentialShaping(potential="f1"), "potential must be a value of detections"),  # type: ignore[arg-type]
    "a factor of nothing": (lambda: LengthFactor(value=None), "value must be a value of detections, .*; got None"),  # type: ignore[arg-type]
    "names in a sum": (lambda: Sum(("pool_ap",)), r"parts must be a tuple of rewards, .*; got \('pool_ap',\)"),  # type: ignore[arg-type]
    "an empty sum": (lambda: Sum(()), r"parts must be a tuple of rewards, .*; got \(\)"),
}


@pytest.mark.parametrize("mistake", PARTS)
def test_a_part_of_a_reward_that_is_none_is_refused_at_once(mistake: str) -> None:
    make, message = PARTS[mistake]
    with unchecked(), pytest.raises(UserError, match=message):
        make()


def test_weights_of_other_classes_are_refused() -> None:
    step = random_step(hostile_scene(0, DISPLAYED_FROM), 0, ("scores", "boxes"))
    with pytest.raises(UserError, match="class_weights must be one for each of the"):
        MatchedSum(class_weights=(1.0,) * (NUM_CLASSES + 1))(step.after)
