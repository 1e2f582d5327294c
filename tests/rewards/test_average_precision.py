"""AP of the pool and of the batch, and every reward's credit, against evaluating everything again."""

from dataclasses import replace

import numpy as np
import pytest
from ap.test_box_moves import NMS_IOU, NUM_CANDIDATES, NUM_CLASSES, NUM_IMAGES, world
from rewards.scenes import named

from rl_det.ap.padding import pad_targets
from rl_det.rewards import REWARDS, BatchAp, PoolAp, Scene, Step, pool_mean_ap, reward_named
from rl_det.rewards.edits import Factor

EVERYWHERE = np.arange(NUM_IMAGES)
BLIND: set[tuple[str, tuple[Factor, ...]]] = {("matched_sum", ("scores",)), ("ap50", ("boxes",))}
"""What pays nothing here: the order where NMS does not ask for it either, and moves that pass no IoU of a half."""


def scene(seed: int, images: np.ndarray = EVERYWHERE) -> Scene:
    some = world(seed)
    truths = pad_targets(some.targets)
    return Scene(
        boxes=some.boxes.numpy()[images],
        labels=some.labels.numpy()[images],
        mask=some.mask.numpy()[images],
        scores=some.scores[images],
        truths=truths[images],
        num_classes=NUM_CLASSES,
        nms_iou=NMS_IOU,
    )


def act(some: Scene, seed: int, images: np.ndarray, factors: tuple[Factor, ...]) -> Step:
    """Random scores, one candidate of each image taken out, and random moves, as far as the factors say."""
    rng = np.random.default_rng(seed)
    boxes, scores = some.boxes[images].copy(), some.scores[images].copy()
    if "scores" in factors:
        scores += rng.normal(size=scores.shape)
        scores[:, 3] = -np.inf
    if "boxes" in factors:
        boxes += rng.integers(-2, 3, boxes.shape).astype(np.float32)
    return Step(scene=some, images=images, boxes=boxes, scores=scores, factors=factors)


def mean_ap(some: Scene, image: int, boxes: np.ndarray, scores: np.ndarray) -> float:
    """Of the pool with one image changed, from the start."""
    all_boxes, all_scores = some.boxes.copy(), some.scores.copy()
    all_boxes[image], all_scores[image] = boxes, scores
    return replace(some, boxes=all_boxes, scores=all_scores).candidates.mean_ap


@pytest.mark.parametrize("factors", [("scores",), ("boxes",), ("scores", "boxes")])
@pytest.mark.parametrize("seed", range(2))
def test_pool_ap_is_the_change_of_the_pools_mean_ap(seed: int, factors: tuple[Factor, ...]) -> None:
    some, images = scene(seed), np.array([3, 0, 2, 3])
    step = act(some, seed, images, factors)
    reward, credit = PoolAp().credited(step, ended=True)
    before = some.candidates.mean_ap
    for row, image in enumerate(images):
        assert reward[row] == pytest.approx(mean_ap(some, image, step.boxes[row], step.scores[row]) - before, abs=1e-12)
    np.testing.assert_allclose(PoolAp()(step.before, step.after, ended=False), reward, rtol=0, atol=1e-12)
    assert credit.shape == (4, NUM_CANDIDATES, 2)[: 1 + len(factors)]
    assert np.abs(reward).max() > 0


@pytest.mark.parametrize("factors", [("scores",), ("boxes",), ("scores", "boxes"), ("boxes", "scores")])
@pytest.mark.parametrize("name", sorted(set(REWARDS) - {"batch_ap"}))
def test_credit_is_what_a_candidates_action_alone_would_earn(name: str, factors: tuple[Factor, ...]) -> None:
    some, images, reward = scene(1), np.array([1, 3, 3]), reward_named(name, np.array([4, 7]))
    step = act(some, 1, images, factors)
    earned, credit = reward.credited(step, ended=True)
    np.testing.assert_allclose(earned, reward(step.before, step.after, ended=True), rtol=0, atol=1e-12)
    nothing = reward(step.before, step.before, ended=True)
    credit = credit.reshape(3, NUM_CANDIDATES, len(factors))
    for row in range(3):
        for candidate in range(0, NUM_CANDIDATES - 1, 2):
            for number, factor in enumerate(factors):
                boxes, scores = some.boxes[images].copy(), some.scores[images].copy()
                if factor == "boxes":
                    boxes[row, candidate] = step.boxes[row, candidate]
                else:
                    scores[row, candidate] = step.scores[row, candidate]
                alone = reward(step.before, some.edits(images, boxes, scores), ended=True)
                assert credit[row, candidate, number] == pytest.approx(alone[row] - nothing[row], abs=1e-12)
    assert not credit[:, -1].any()  # padding
    if (name, factors) not in BLIND:
        assert np.abs(credit).max() > 0


@pytest.mark.parametrize("factors", [("scores",), ("boxes",), ("scores", "boxes")])
def test_batch_ap_is_of_the_images_that_act_and_its_credit_of_one_candidate_alone(
    factors: tuple[Factor, ...],
) -> None:
    some, images = scene(2), np.array([0, 0, 3, 3])  # two data sets of images 0 and 3
    step = act(some, 2, images, factors)
    reward, credit = BatchAp().credited(step, ended=True)
    np.testing.assert_allclose(BatchAp()(step.before, step.after, ended=True), reward, rtol=0, atol=1e-12)
    assert not BatchAp()(step.before, step.after, ended=False).any()
    credit = credit.reshape(4, NUM_CANDIDATES, len(factors))
    two = scene(2, np.array([0, 3]))
    for rows in ([0, 2], [1, 3]):

        def of_batch(boxes: np.ndarray, scores: np.ndarray, rows: list[int] = rows) -> float:
            return replace(two, boxes=boxes[rows], scores=scores[rows]).candidates.mean_ap

        whole = of_batch(step.boxes, step.scores)
        np.testing.assert_allclose(reward[rows], whole, rtol=0, atol=1e-12)
        nothing = of_batch(some.boxes[step.images], some.scores[step.images])
        for candidate in range(0, NUM_CANDIDATES - 1, 3):
            for number, factor in enumerate(factors):
                boxes, scores = some.boxes[step.images], some.scores[step.images]
                row = rows[1]
                if factor == "boxes":
                    boxes[row, candidate] = step.boxes[row, candidate]
                else:
                    scores[row, candidate] = step.scores[row, candidate]
                gained = of_batch(boxes, scores) - nothing
                assert credit[row, candidate, number] == pytest.approx(gained, abs=1e-12)
    assert np.abs(credit).max() > 0


def test_a_pool_without_true_boxes_pays_nothing() -> None:
    some = scene(0, np.array([2]))
    step = act(some, 0, np.array([0, 0]), ("scores",))
    for name in ("pool_ap", "batch_ap"):
        reward, credit = named(name).credited(step, ended=True)
        assert not reward.any()
        assert not credit.any()


def test_the_pools_mean_ap_as_a_value_is_what_the_reward_is_the_change_of() -> None:
    step = act(scene(0), 0, EVERYWHERE, ("scores",))
    change = pool_mean_ap(step.after) - pool_mean_ap(step.before)
    np.testing.assert_allclose(PoolAp()(step.before, step.after, ended=True), change, rtol=0, atol=1e-12)
    np.testing.assert_allclose(pool_mean_ap(step.before), step.scene.candidates.mean_ap, rtol=0, atol=1e-12)
