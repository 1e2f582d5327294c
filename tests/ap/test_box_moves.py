"""What moved boxes are worth: the same as a whole evaluation with them, crowds and images without true boxes included."""

from typing import NamedTuple

import numpy as np
import pytest
import torch

from rl_det.ap.box_moves import what_moves_are_worth
from rl_det.ap.candidate_pool import CandidatePool
from rl_det.ap.padding import pad_targets
from rl_det.ap.relations import Relations, relations
from rl_det.types import Target

NUM_IMAGES, NUM_CANDIDATES, NUM_CLASSES, NMS_IOU = 4, 12, 2, 0.5


class World(NamedTuple):
    """Candidates that cluster about their image's true boxes; the last of an image is padding."""

    boxes: torch.Tensor
    labels: torch.Tensor
    mask: torch.Tensor
    targets: list[Target]
    scores: np.ndarray


def world(seed: int) -> World:
    rng = np.random.default_rng(seed)
    targets, boxes = [], []
    for image in range(NUM_IMAGES):
        count = 0 if image == 2 else 4
        corner = rng.integers(0, 40, (4, 2))
        truth = np.concatenate([corner, corner + rng.integers(12, 20, (4, 2))], 1).astype(np.float32)
        targets.append(
            Target(
                boxes=torch.tensor(truth[:count]),
                labels=torch.tensor(rng.integers(1, NUM_CLASSES + 1, count)),
                area=torch.full((count,), 200.0),
                iscrowd=torch.tensor([True, False, False, False][:count], dtype=torch.bool),
                image_id=image,
            )
        )
        boxes.append(truth[rng.integers(0, 4, NUM_CANDIDATES)] + rng.integers(-2, 3, (NUM_CANDIDATES, 4)))
    mask = torch.ones(NUM_IMAGES, NUM_CANDIDATES, dtype=torch.bool)
    mask[:, -1] = False
    labels = torch.tensor(rng.integers(1, NUM_CLASSES + 1, (NUM_IMAGES, NUM_CANDIDATES)))
    scores = rng.normal(size=(NUM_IMAGES, NUM_CANDIDATES))
    return World(torch.tensor(np.stack(boxes), dtype=torch.float32), labels, mask, targets, scores)


def related(some: World, boxes: torch.Tensor) -> Relations:
    truths = pad_targets(some.targets)
    return relations(boxes.numpy(), some.labels.numpy(), some.mask.numpy(), truths, num_classes=NUM_CLASSES)


def mean_ap(some: World, boxes: torch.Tensor, scores: np.ndarray) -> float:
    return CandidatePool(related(some, boxes), scores, nms_iou=NMS_IOU).mean_ap


@pytest.mark.parametrize("odd", [False, True], ids=["", "ties_and_out_and_far_and_not_moved"])
@pytest.mark.parametrize("seed", range(5))
def test_each_move_is_worth_what_a_whole_evaluation_says(seed: int, odd: bool) -> None:
    some, rng = world(seed), np.random.default_rng(100 + seed)
    images = np.repeat(np.arange(NUM_IMAGES), 2)
    steps = rng.integers(-2, 3, (len(images), NUM_CANDIDATES, 4))
    if odd:
        some.scores.round(out=some.scores)
        some.scores[:, 3] = -np.inf
        steps = steps * rng.integers(0, 2, (len(images), NUM_CANDIDATES, 1))
        steps[:, 5] = 40
    moved = some.boxes[images] + torch.tensor(steps)
    scores = some.scores[images] + rng.normal(size=(len(images), NUM_CANDIDATES))
    pool = CandidatePool(related(some, some.boxes), some.scores, nms_iou=NMS_IOU)
    truths = pad_targets(some.targets)
    change, worth = what_moves_are_worth(pool, some.boxes.numpy(), truths, images, scores, moved.numpy())
    before = mean_ap(some, some.boxes, some.scores)
    for row, image in enumerate(images):
        boxes, ranked = some.boxes.clone(), some.scores.copy()
        boxes[image], ranked[image] = moved[row], scores[row]
        assert change[row] == pytest.approx(mean_ap(some, boxes, ranked) - before, abs=1e-12)
        for candidate in range(NUM_CANDIDATES):
            boxes = some.boxes.clone()
            boxes[image, candidate] = moved[row, candidate]
            assert worth[row, candidate] == pytest.approx(mean_ap(some, boxes, some.scores) - before, abs=1e-12)
    assert np.abs(worth).max() > 0


def test_a_box_turned_inside_out_is_named() -> None:
    some = world(0)
    moved = some.boxes[:2].clone()
    moved[1, 3] = torch.tensor([5.0, 0.0, 4.0, 1.0])
    pool = CandidatePool(related(some, some.boxes), some.scores, nms_iou=NMS_IOU)
    with pytest.raises(
        ValueError, match=r"x1 <= x2 and y1 <= y2; got \[5\.0, 0\.0, 4\.0, 1\.0\] in image 1 at index 3"
    ):
        what_moves_are_worth(
            pool, some.boxes.numpy(), pad_targets(some.targets), np.arange(2), some.scores[:2], moved.numpy()
        )  # fmt: skip
