"""The cheap credit of every reward, in hostile scenes, against suppressing and matching the whole image for each candidate."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from ap.hostile import NUM_CLASSES, hostile
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rl_det.errors import UserError
from rl_det.rewards import (
    REWARDS,
    Edits,
    FunctionValue,
    OverThePool,
    PoolAp,
    Reward,
    Scene,
    Step,
    Worth,
    f1,
    image_ap_value,
    lrp,
    reward_named,
)
from rl_det.rewards.edits import Factor
from rl_det.rewards.function import targets_of
from rl_det.types import Detections, Target

NUM_IMAGES, NUM_CANDIDATES, NUM_SAMPLES = 3, 14, 5
OBJECTS = np.array([4, 7, 2, 1])
IN_INTEGERS = {"f1", "cost", "pool_f1", "pool_cost", "count_error"}
"""Formulas of whole numbers: their credit is the same to the last bit."""
FACTORS: tuple[tuple[Factor, ...], ...] = (("scores",), ("boxes",), ("scores", "boxes"))


def worth(found: Detections, target: Target) -> float:
    return float((found["scores"] * found["boxes"][:, 2]).sum()) + 0.1 * len(found["labels"]) * len(target.labels)


ALL: dict[str, Reward] = {
    **{name: reward_named(name, OBJECTS) for name in REWARDS if name != "batch_ap"},
    "lrp by change": Worth(lrp, "by_change"),
    "lrp over the pool": Worth(OverThePool(lrp), "by_change"),
    "f1 over the pool, at the end": Worth(OverThePool(f1)),
    "a function": Worth(FunctionValue(worth)),
}


def grid_scores(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Few different scores, so that many are equal; some candidates are out."""
    return np.where(rng.uniform(size=shape) < 0.15, -np.inf, rng.integers(0, 8, shape) / 4.0)


def hostile_scene(seed: int, displayed_from: float, num_candidates: int = NUM_CANDIDATES) -> Scene:
    """Clusters about true boxes, crowds, boxes without area, absent classes, padding anywhere."""
    rng = np.random.default_rng(seed)
    found, truths = hostile(seed, num_images=NUM_IMAGES, num_detections=num_candidates, num_truths=5, crowds=(0.0, 0.5))
    return Scene(
        boxes=found.boxes, labels=found.labels, mask=found.mask, scores=grid_scores(rng, found.mask.shape), truths=truths,
        num_classes=NUM_CLASSES, nms_iou=float(rng.choice([0.3, 0.5, 0.8, 1.0])), displayed_from=displayed_from,
    )  # fmt: skip


def random_step(scene: Scene, seed: int, factors: tuple[Factor, ...], *, later: bool = False) -> Step:
    """Some candidates act, some stay; a later step starts from other boxes and scores than the scene's."""
    rng, images = np.random.default_rng(seed), np.random.default_rng(seed).integers(0, NUM_IMAGES, NUM_SAMPLES)

    def acted() -> tuple[np.ndarray, np.ndarray]:
        boxes, scores = scene.boxes[images].copy(), scene.scores[images].copy()
        shape = scores.shape
        if "scores" in factors:
            scores = np.where(rng.uniform(size=shape) < 0.7, grid_scores(rng, shape), scores)
        if "boxes" in factors:
            moves = rng.integers(-6, 7, (*shape, 2)) * (rng.uniform(size=(*shape, 1)) < 0.7)
            boxes += np.concatenate([moves, moves + rng.integers(0, 2, (*shape, 2))], -1).astype(np.float32)
        return boxes, scores

    (boxes_before, scores_before), (boxes, scores) = acted(), acted()
    return Step(
        scene=scene, images=images, boxes=boxes, scores=scores, factors=factors,
        boxes_before=boxes_before if later and "boxes" in factors else None,
        scores_before=scores_before if later and "scores" in factors else None,
    )  # fmt: skip


def slow_edits(step: Step, factor: Factor, boxes: np.ndarray | None, scores: np.ndarray | None) -> Edits:
    """R * N whole images, in each of which one candidate has its own box or score."""
    rows, candidates = np.indices(step.scores.shape).reshape(2, -1)
    images = step.images[rows]
    all_boxes, all_scores = step.scene.boxes[images].copy(), step.scene.scores[images].copy()
    one = np.arange(len(rows)), candidates
    if factor == "boxes" and boxes is not None:
        all_boxes[one] = boxes[rows, candidates]
    if factor == "scores" and scores is not None:
        all_scores[one] = scores[rows, candidates]
    return step.scene.edits(images, all_boxes, all_scores)


def slow_credit(reward: Reward, step: Step, ended: bool) -> np.ndarray:
    """The definition: what the candidate alone earns, minus what doing nothing earns."""
    at_rest = step.scene.edits(step.images, step.scene.boxes[step.images], step.scene.scores[step.images])
    nothing = np.repeat(reward(at_rest, at_rest, ended=ended), step.scores.shape[1])
    credits = []
    for factor in step.factors:
        before = slow_edits(step, factor, step.boxes_before, step.scores_before)
        after = slow_edits(step, factor, step.boxes, step.scores)
        there = step.scene.mask[step.images].reshape(-1)
        credits.append((reward(before, after, ended=ended) - nothing) * there)
    shape = step.scores.shape
    return credits[0].reshape(shape) if len(credits) == 1 else np.stack([own.reshape(shape) for own in credits], -1)


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    factors=st.sampled_from(FACTORS),
    displayed_from=st.sampled_from([-np.inf, 0.0, 0.75, 5.0]),
    later=st.booleans(),
)
@pytest.mark.parametrize("name", ALL)
def test_credit_in_hostile_scenes_is_the_definition(
    name: str, seed: int, factors: tuple[Factor, ...], displayed_from: float, later: bool
) -> None:
    step = random_step(hostile_scene(seed, displayed_from), seed, factors, later=later)
    earned, credit = ALL[name].credited(step, ended=True)
    expected = slow_credit(ALL[name], step, ended=True)
    if name in IN_INTEGERS:
        np.testing.assert_array_equal(credit, expected)
    else:
        np.testing.assert_allclose(credit, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(earned, ALL[name](step.before, step.after, ended=True), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_some_credit_is_not_nothing(name: str) -> None:
    steps = [random_step(hostile_scene(seed, 0.75), seed, ("scores", "boxes")) for seed in range(4)]
    assert max(np.abs(ALL[name].credited(step, ended=True)[1]).max() for step in steps) > 0


@pytest.mark.parametrize("name", ["f1", "image_ap", "a function"])
def test_a_value_that_is_paid_at_the_end_has_no_credit_before(name: str) -> None:
    step = random_step(hostile_scene(1, 0.0), 1, ("scores", "boxes"))
    earned, credit = ALL[name].credited(step, ended=False)
    assert not earned.any()
    assert not credit.any()


@pytest.mark.parametrize("name", sorted({*IN_INTEGERS, "lrp", "image_ap", "ap_small"}))
def test_scenes_without_candidates_or_true_boxes_have_credit_of_the_right_shape(name: str) -> None:
    scene = hostile_scene(2, 0.0)
    nobody = replace(scene, mask=np.zeros_like(scene.mask))
    empty = replace(scene, truths=replace(scene.truths, mask=np.zeros_like(scene.truths.mask)))
    for own in (nobody, empty):
        step = random_step(own, 2, ("scores", "boxes"))
        credit = ALL[name].credited(step, ended=True)[1]
        np.testing.assert_allclose(credit, slow_credit(ALL[name], step, ended=True), rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_a_chain_of_suppressions_is_followed_to_its_end(seed: int) -> None:
    """Each box suppresses the next: taking out the first brings back the second, which takes out the third, and so on."""
    scene = hostile_scene(seed, -np.inf)
    boxes, labels = scene.boxes.copy(), np.ones_like(scene.labels)
    boxes[:] = np.array([0, 0, 20, 20]) + 6 * np.arange(NUM_CANDIDATES)[:, None] * np.array([1, 0, 1, 0])
    mask, scores = np.ones_like(scene.mask), np.tile(-np.arange(NUM_CANDIDATES, dtype=float), (NUM_IMAGES, 1))
    chain = replace(scene, boxes=boxes, labels=labels, mask=mask, scores=scores, nms_iou=0.5)
    removed = chain.scores[np.array([0])].copy()
    removed[0, 0] = -np.inf
    step = Step(scene=chain, images=np.array([0]), boxes=chain.boxes[:1], scores=removed, factors=("scores",))
    variant = step.alone("scores").after
    before, after = (edits.detections.mask[0] for edits in (step.baseline, variant))
    assert before.tolist() == [True, False] * (NUM_CANDIDATES // 2)
    assert after.tolist() == [False, True] * (NUM_CANDIDATES // 2)
    for name in ("f1", "lrp", "image_ap"):
        expected = slow_credit(ALL[name], step, ended=True)
        np.testing.assert_allclose(ALL[name].credited(step, ended=True)[1], expected, rtol=0, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), factors=st.sampled_from(FACTORS[:2]))
def test_a_function_is_called_for_what_differs_and_once_for_equal_detections(
    seed: int, factors: tuple[Factor, ...]
) -> None:
    told: list[tuple[bytes, ...]] = []

    def heard(found: Detections, target: Target) -> float:
        told.append((target.boxes.numpy().tobytes(), *(part.numpy().tobytes() for part in found.values())))  # type: ignore[attr-defined]
        return worth(found, target)

    step = random_step(hostile_scene(seed, 0.0), seed, factors)
    truths = targets_of(step.scene.pool.truths)
    assume(len({target.boxes.numpy().tobytes() for target in truths}) == len(truths))  # the images can be told apart
    Worth(FunctionValue(heard)).credited(step, ended=True)
    at_rest, alone, joint = set(seen(step.baseline)), set(seen(step.alone(factors[0]).after)), set(seen(step.after))
    slow = set(seen(slow_edits(step, factors[0], step.boxes, step.scores)))
    assert slow - at_rest <= alone <= slow
    assert len(told) == len(at_rest) + len(alone) + len(joint)
    assert set(told) == at_rest | alone | joint


@cache
def reader() -> tuple[FunctionValue, list[tuple[bytes, ...]]]:
    """A function value, and what its function has been shown since the list was emptied."""
    shown: list[tuple[bytes, ...]] = []

    def note(found: Detections, target: Target) -> float:
        shown.append((target.boxes.numpy().tobytes(), *(part.numpy().tobytes() for part in found.values())))  # type: ignore[attr-defined]
        return 0.0

    return FunctionValue(note), shown


def seen(edits: Edits) -> list[tuple[bytes, ...]]:
    """What a function sees of each edit."""
    value, shown = reader()
    shown.clear()
    for row in range(len(edits)):
        value(edits[np.array([row])])
    return list(shown)


@pytest.mark.parametrize("value", [image_ap_value, OverThePool(f1)])
def test_over_the_pool_takes_what_one_image_displays(value: Worth) -> None:
    with pytest.raises(UserError, match="value must be a formula of what one image displays, such as f1"):
        OverThePool(value)


def test_the_pools_ap_by_cocos_own_options_is_the_default() -> None:
    step = random_step(hostile_scene(3, 0.0), 3, ("scores", "boxes"))
    for own, other in zip(PoolAp().credited(step, ended=True), ALL["pool_ap"].credited(step, ended=True), strict=True):
        np.testing.assert_array_equal(own, other)
