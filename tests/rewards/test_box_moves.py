"""The rewards of scores and boxes together: those of scores alone where no box moves, and blind to other images or not."""

import numpy as np
import pytest
from metrics.test_box_moves import NMS_IOU, NUM_CANDIDATES, NUM_IMAGES, related, world

from rl_det.metrics.padding import pad_targets
from rl_det.rewards import MOVE_REWARDS, REWARDS


@pytest.mark.parametrize("name", REWARDS)
def test_where_no_box_moves_it_is_the_reward_of_the_scores(name: str) -> None:
    some, rng = world(1), np.random.default_rng(1)
    images, relations = np.arange(NUM_IMAGES), related(some, some.boxes)
    scores = some.scores + rng.normal(size=some.scores.shape)
    boxes = some.boxes.numpy()
    reward, credit = MOVE_REWARDS[name](
        relations, pad_targets(some.targets), boxes, some.scores, images, scores, boxes, nms_iou=NMS_IOU
    )  # fmt: skip
    expected, expected_credit = REWARDS[name](relations, some.scores, images, scores, nms_iou=NMS_IOU)
    np.testing.assert_allclose(reward, expected, rtol=0, atol=1e-15)
    np.testing.assert_array_equal(credit[..., 0], expected_credit)
    assert not credit[..., 1].any()
    assert np.abs(reward).max() > 0


def test_an_images_own_ap_does_not_know_the_other_images_and_the_pools_does() -> None:
    some, rng = world(2), np.random.default_rng(2)
    images, relations, truths = np.arange(NUM_IMAGES), related(some, some.boxes), pad_targets(some.targets)
    boxes = some.boxes.numpy()
    moved = boxes + rng.integers(-2, 3, boxes.shape).astype(np.float32)
    elsewhere = some.scores.copy()
    elsewhere[1:] += rng.normal(size=(NUM_IMAGES - 1, NUM_CANDIDATES))

    def of_first(name: str, baseline: np.ndarray) -> tuple[float, np.ndarray]:
        reward, credit = MOVE_REWARDS[name](
            relations, truths, boxes, baseline, images[:1], baseline[:1] + 0.5, moved[:1], nms_iou=NMS_IOU
        )  # fmt: skip
        return float(reward[0]), credit[0]

    for ours, theirs in zip(of_first("image_ap", some.scores), of_first("image_ap", elsewhere), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert of_first("pool_ap", some.scores)[0] != of_first("pool_ap", elsewhere)[0]
    assert MOVE_REWARDS.keys() == REWARDS.keys()
