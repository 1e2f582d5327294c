"""What must not pay: for every reward by name, and for the shaping that keeps the optimum, each known way of cheating."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from rewards.scenes import (
    IMAGE_SIDE,
    LABELS,
    NUM_CLASSES,
    NUM_IMAGES,
    WITH_OBJECTS,
    add,
    copied,
    iou,
    make_pool,
    named,
    untouched,
)

from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.ap.ranking_pool import RankingPool
from rl_det.rewards import (
    REWARDS,
    Edits,
    Pool,
    PoolAp,
    PotentialShaping,
    Reward,
    SignOfIouChange,
    Sum,
    Worth,
    best_iou,
    image_ap_value,
)

PER_IMAGE = ("image_ap", "image_ap_delta", "matched_sum", "f1", "lrp", "cost", "pool_f1", "pool_cost", "count_error")
"""Those that a common shift of an image's scores does not change, if all is displayed."""
ALL: dict[str, Reward] = {name: named(name) for name in REWARDS} | {
    "pool_ap, shaped by the best IoU": Sum((PoolAp(), PotentialShaping())),
    "pool_ap, shaped by AP": Sum((PoolAp(), PotentialShaping(potential=image_ap_value))),
}
Hack = Callable[[DetectionBatch, TruthBatch, np.random.Generator], None]


def copies(count: int, how_much_lower: float) -> Hack:
    """Each detection of a true box, again and again."""

    def hack(found: DetectionBatch, truths: TruthBatch, rng: np.random.Generator) -> None:
        for image, labels in enumerate(LABELS):
            right = np.arange(max(0, len(labels) - 1))  # the scenes' first detections are the right ones
            for _ in range(count):
                scores = found.scores[image, right] - how_much_lower
                add(found, image, found.boxes[image, right], found.labels[image, right], scores)

    return hack


def as_large_as_the_image(found: DetectionBatch, truths: TruthBatch, rng: np.random.Generator) -> None:
    for image in range(NUM_IMAGES):
        for label in range(1, NUM_CLASSES + 1):
            add(found, image, np.array([[0, 0, IMAGE_SIDE, IMAGE_SIDE]]), np.array([label]), np.array([9.0]))


def flood_that_hits_nothing(found: DetectionBatch, truths: TruthBatch, rng: np.random.Generator) -> None:
    """Three hundred random boxes an image, but those that would find an object by chance."""
    for image in range(NUM_IMAGES):
        boxes, labels, scores = random_boxes(rng)
        objects = [box for box, there in zip(truths.boxes[image], truths.mask[image], strict=True) if there]
        missing = [all(iou(box, other) < 0.5 for other in objects) for box in boxes]
        add(found, image, boxes[missing], labels[missing], scores[missing])


def absent_class(found: DetectionBatch, truths: TruthBatch, rng: np.random.Generator) -> None:
    """High above all else."""
    for image, labels in enumerate(LABELS):
        for label in set(range(1, NUM_CLASSES + 1)) - set(labels):
            add(found, image, np.array([[10, 400, 50, 440]]), np.array([label]), np.array([9.0]))


def permuted_classes(found: DetectionBatch, truths: TruthBatch, rng: np.random.Generator) -> None:
    found.labels[:] = found.labels % NUM_CLASSES + 1


def random_boxes(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    corner = rng.uniform(0, IMAGE_SIDE - 100, (300, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(10, 100, (300, 2))], 1)
    return boxes, rng.integers(1, NUM_CLASSES + 1, 300), rng.normal(0, 2, 300)


HACKS: dict[str, Hack] = {
    "one copy": copies(1, 0.0),
    "twenty copies": copies(20, 0.0),
    "copies a little lower": copies(5, 1e-3),
    "a box as large as the image": as_large_as_the_image,
    "three hundred random boxes": flood_that_hits_nothing,
    "an absent class": absent_class,
    "permuted classes": permuted_classes,
}


def pool_for(reward: str, seed: int = 0) -> Pool:
    """The scenes; of half the size where small objects alone count."""
    pool = make_pool(seed)
    if reward != "ap_small":
        return pool
    found, truths = pool.detections, pool.truths
    return replace(
        pool,
        detections=replace(found, boxes=found.boxes / 2),
        truths=replace(truths, boxes=truths.boxes / 2, area=truths.area / 4),
    )


def hacked(hack: Hack, pool: Pool, seed: int) -> Edits:
    found = copied(pool.detections)
    hack(found, pool.truths, np.random.default_rng(seed))
    return Edits(pool, np.arange(NUM_IMAGES), found)


def gain(reward: Reward, pool: Pool, after: Edits) -> np.ndarray:
    """What the edits earn over doing nothing."""
    before = untouched(pool)[after.images]
    return reward(before, after, ended=True) - reward(before, before, ended=True)


@pytest.mark.parametrize("hack", HACKS)
@pytest.mark.parametrize("reward", [name for name in ALL if name != "count_error"])
@pytest.mark.parametrize("seed", range(3))
def test_it_does_not_pay(reward: str, hack: str, seed: int) -> None:
    pool = pool_for(reward, seed)
    after = hacked(HACKS[hack], pool, seed)
    if hack == "permuted classes":  # of an image without objects, other names of its mistakes may well do less harm
        after = after[WITH_OBJECTS]
    assert (gain(ALL[reward], pool, after) <= 1e-12).all()


@pytest.mark.parametrize("reward", [name for name in ALL if name != "matched_sum"])
def test_and_it_costs_where_the_hacked_detections_rank_above_the_right_ones(reward: str) -> None:
    """`matched_sum` says itself what it lets pass, and `ap_small` does."""
    pool, larger = pool_for(reward), ("a box as large as the image", "an absent class")
    for hack in ("twenty copies", "permuted classes", *(larger if reward != "ap_small" else ())):
        assert gain(ALL[reward], pool, hacked(HACKS[hack], pool, 0)).min() < -1e-6, hack


def test_matched_sum_is_hackable_by_design_random_boxes_pay() -> None:
    """A mistake that reaches nothing is free, so what is found by chance is a gain; AP is what it costs."""
    pool, paid, cost = make_pool(), [], []
    for seed in range(40):
        edits, rng = untouched(pool)[np.array([0])], np.random.default_rng(seed)
        corner = rng.uniform(0, 60, (30, 2))  # about the object that is missed
        boxes = np.concatenate([corner, corner + rng.uniform(30, 50, (30, 2))], 1)
        add(edits.detections, 0, boxes, rng.integers(1, NUM_CLASSES + 1, 30), np.full(30, 9.0))
        paid.append(gain(named("matched_sum"), pool, edits)[0])
        cost.append(gain(named("pool_ap"), pool, edits)[0])
    assert np.mean(paid) > 0.02
    assert np.mean(cost) < -0.02


def test_ap_small_is_hackable_by_design_larger_mistakes_are_free() -> None:
    """COCO leaves out what is of another size and finds nothing small; all sizes together do not."""
    pool = pool_for("ap_small")
    for hack in ("a box as large as the image", "an absent class"):
        after = hacked(HACKS[hack], pool, 0)
        assert not gain(named("ap_small"), pool, after).any()
        assert gain(named("pool_ap"), pool, after).min() < -1e-3


def test_a_count_is_hackable_by_design_a_copy_stands_for_what_is_missed() -> None:
    """It does not ask where a detection is; a flood, and a class that is not there, cost all the same."""
    pool, first = make_pool(), np.array([2])
    edits = untouched(pool)[first]
    add(edits.detections, 0, edits.detections.boxes[0, :1], edits.detections.labels[0, :1], np.array([9.0]))
    assert gain(named("count_error"), pool, edits)[0] > 0
    assert gain(named("pool_f1"), pool, edits)[0] < 0
    for hack in ("twenty copies", "a box as large as the image", "three hundred random boxes", "an absent class"):
        assert gain(named("count_error"), pool, hacked(HACKS[hack], pool, 0)).min() < -1e-3, hack


@pytest.mark.parametrize("shift", [-3.0, 0.5, 7.0])
@pytest.mark.parametrize("reward", PER_IMAGE)
def test_a_constant_added_to_an_images_scores_changes_no_reward_of_the_image_by_itself(
    reward: str, shift: float
) -> None:
    pool = make_pool()
    np.testing.assert_allclose(gain(named(reward), pool, shifted(pool, shift)), 0, atol=1e-12)


@pytest.mark.parametrize("name", ["pool_f1", "pool_cost", "count_error"])
def test_over_the_pool_too_a_constant_is_paid_for_what_it_lets_through(name: str) -> None:
    """A shift by -2 in one image under a threshold of 0 is a threshold of 2 in that image."""
    pool = make_pool(displayed_from=0.0)
    higher = untouched(replace(pool, displayed_from=2.0)).displayed
    expected = named(name)(untouched(pool), Edits(pool, np.arange(NUM_IMAGES), higher), ended=True)
    np.testing.assert_allclose(gain(named(name), pool, shifted(pool, -2.0)), expected, atol=1e-12)
    assert np.abs(expected).max() > 0


@pytest.mark.parametrize("reward", ["f1", "lrp", "cost"])
def test_where_a_threshold_decides_what_is_displayed_a_constant_is_paid_for_what_it_lets_through(reward: str) -> None:
    """No hack: it is what these rewards are for. A shift by -2 under a threshold of 0 is a threshold of 2."""
    pool = make_pool(displayed_from=0.0)
    higher = untouched(replace(pool, displayed_from=2.0))
    before = untouched(pool)
    expected = named(reward)(higher, higher, ended=True)
    np.testing.assert_allclose(named(reward)(before, shifted(pool, -2.0), ended=True), expected, atol=1e-12)
    assert (expected != named(reward)(before, before, ended=True)).any()


@pytest.mark.parametrize("shift", [-3.0, 0.5, 7.0])
def test_the_pools_ap_judges_a_constant_by_what_it_does_to_the_data_set(shift: float) -> None:
    pool = make_pool()
    after = gain(PoolAp(), pool, shifted(pool, shift))
    for image in range(NUM_IMAGES):
        whole = copied(pool.detections)
        whole.scores[image] += shift
        expected = Pool(detections=whole, truths=pool.truths, num_classes=NUM_CLASSES).ranking.mean_ap
        assert after[image] == pytest.approx(expected - pool.ranking.mean_ap, abs=1e-12)
    assert np.abs(after).max() > 1e-3


def shifted(pool: Pool, shift: float) -> Edits:
    edits = untouched(pool)
    edits.detections.scores[:] += shift
    return edits


def walk(pool: Pool, places: list[float]) -> list[Edits]:
    """Image 0's first detection stands so many pixels from its object, one place after the other."""
    along = []
    for place in places:
        edits = untouched(pool)[np.array([0])]
        edits.detections.boxes[0, 0] = pool.truths.boxes[0, 1] + np.array([place, 0, place, 0])
        along.append(edits)
    return along


def returned(reward: Reward, path: list[Edits]) -> float:
    last = len(path) - 2
    return sum(
        float(reward(before, after, ended=step == last)[0])
        for step, (before, after) in enumerate(itertools.pairwise(path))
    )


@pytest.mark.parametrize("reward", ALL)
def test_waiting_and_walking_in_a_circle_earn_what_standing_still_does(reward: str) -> None:
    pool = pool_for(reward)
    still = returned(ALL[reward], walk(pool, [8, 8]))
    for circle in ([8, 8, 8, 8, 8], [8, 4, 0, 4, 8], [8, 0, 20, 15, 8], [8, 6, 4, 2, 8]):
        assert returned(ALL[reward], walk(pool, circle)) == pytest.approx(still, abs=1e-12)


def test_the_sign_of_the_change_is_hackable_by_design_a_circle_pays() -> None:
    pool = make_pool()
    circle = walk(pool, [8, 6, 4, 2, 8])  # three small steps nearer, one large step back
    assert returned(SignOfIouChange(), circle) == 2
    assert returned(Worth(best_iou, "by_change"), circle) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("reward", [*ALL, "sign"])
def test_boxes_that_are_none_are_refused_by_image_and_index(reward: str) -> None:
    pool = make_pool()
    for box, must in (([0, 0, np.nan, 5], "finite"), ([9, 9, 3, 3], "x1 <= x2")):
        edits = untouched(pool)
        edits.detections.boxes[2, 1] = box
        with pytest.raises(ValueError, match=rf"boxes must .*{must}.* in image 2 at index 1"):
            ALL.get(reward, SignOfIouChange())(untouched(pool), edits, ended=True)


def test_the_naive_mean_over_an_images_own_classes_does_not_see_an_absent_class() -> None:
    """The hole that `image_ap` closes by counting what is predicted too."""
    pool, first = make_pool(), np.array([0])
    after = hacked(absent_class, pool, 0)
    naive = [RankingPool(edits.matches).mean_ap for edits in (untouched(pool)[first], after[first])]
    assert naive[0] == naive[1]
    assert gain(named("image_ap"), pool, after)[0] < -0.1
