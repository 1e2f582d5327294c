"""Rewards and credits against evaluating everything again."""

import numpy as np
import pytest
import torch

from rl_det.metrics.candidate_pool import CandidatePool
from rl_det.metrics.padding import pad_targets
from rl_det.metrics.relations import Relations, relations
from rl_det.rewards import reward_named
from rl_det.rewards.average_precision import image_ap, pool_ap
from rl_det.types import Target

NUM_IMAGES, NUM_CANDIDATES = 4, 8


def scene(seed: int) -> tuple[Relations, list[Relations], np.ndarray, np.ndarray]:
    """The pool's relations, each image's own, the baseline and other scores."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 30, (NUM_IMAGES, NUM_CANDIDATES, 2))
    boxes = torch.tensor(np.concatenate([corner, corner + 15], 2), dtype=torch.float32)
    labels = torch.tensor(rng.integers(1, 3, (NUM_IMAGES, NUM_CANDIDATES)))
    targets = [
        Target(
            boxes=boxes[image, :count] + 1,
            labels=labels[image, :count],
            area=torch.full((count,), 225.0),
            iscrowd=torch.zeros(count, dtype=torch.bool),
            image_id=image,
        )
        for image, count in enumerate((3, 2, 0, 4))
    ]
    mask = torch.ones(NUM_IMAGES, NUM_CANDIDATES, dtype=torch.bool)

    def related(images: slice) -> Relations:
        return relations(
            boxes[images].numpy(), labels[images].numpy(), mask[images].numpy(), pad_targets(targets[images]),
            num_classes=2,
        )  # fmt: skip

    alone = [related(slice(image, image + 1)) for image in range(NUM_IMAGES)]
    baseline = rng.normal(size=(NUM_IMAGES, NUM_CANDIDATES))
    return related(slice(None)), alone, baseline, baseline + rng.normal(size=baseline.shape)


def change(related: Relations, baseline: np.ndarray, edited: np.ndarray) -> float:
    before, after = (CandidatePool(related, scores, nms_iou=0.5).mean_ap for scores in (baseline, edited))
    return 0.0 if np.isnan(before) else after - before


@pytest.mark.parametrize("seed", range(3))
def test_pool_ap_is_the_change_of_the_pool_and_credit_that_of_one_candidate_alone(seed: int) -> None:
    pool, _, baseline, scores = scene(seed)
    images = np.arange(NUM_IMAGES)
    rewards, credits = pool_ap(pool, baseline, images, scores, nms_iou=0.5)
    for image in images:
        edited = baseline.copy()
        edited[image] = scores[image]
        assert rewards[image] == pytest.approx(change(pool, baseline, edited), abs=1e-12)
        for candidate in range(NUM_CANDIDATES):
            edited = baseline.copy()
            edited[image, candidate] = scores[image, candidate]
            assert credits[image, candidate] == pytest.approx(change(pool, baseline, edited), abs=1e-12)
    assert np.abs(credits).max() > 0


@pytest.mark.parametrize("seed", range(3))
def test_image_ap_is_the_change_of_the_image_by_itself(seed: int) -> None:
    pool, alone, baseline, scores = scene(seed)
    images = np.array([3, 0, 2, 3])
    rewards, credits = image_ap(pool, baseline, images, scores[images], nms_iou=0.5)
    for row, image in enumerate(images):
        own = baseline[image : image + 1]
        assert rewards[row] == pytest.approx(change(alone[image], own, scores[image : image + 1]), abs=1e-12)
        for candidate in range(NUM_CANDIDATES):
            edited = own.copy()
            edited[0, candidate] = scores[image, candidate]
            assert credits[row, candidate] == pytest.approx(change(alone[image], own, edited), abs=1e-12)
    assert not rewards[2]  # the image without true boxes


def test_a_common_shift_of_one_images_scores_is_judged_by_the_pool_alone() -> None:
    pool, _, baseline, _ = scene(0)
    images = np.arange(NUM_IMAGES)
    assert pool_ap(pool, baseline, images, baseline + 3, nms_iou=0.5)[0].any()
    np.testing.assert_allclose(image_ap(pool, baseline, images, baseline + 3, nms_iou=0.5)[0], 0, atol=1e-15)


def test_an_unknown_reward_is_told_the_known_ones() -> None:
    assert reward_named("pool_ap") is pool_ap
    with pytest.raises(ValueError, match=r"image_ap.*pool_ap.*'map'"):
        reward_named("map")
