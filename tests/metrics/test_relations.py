"""Who suppresses and who matches whom, against torchvision's NMS and pycocotools' IoU."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torchvision.ops import batched_nms, box_iou

from rl_det.metrics.options import IOU_THRESHOLDS
from rl_det.metrics.relations import relations, resolve
from rl_det.types import Target


def random_boxes(rng: np.random.Generator, count: int) -> torch.Tensor:
    corner = rng.uniform(0, 50, (count, 2))
    return torch.tensor(np.concatenate([corner, corner + rng.uniform(5, 40, (count, 2))], 1), dtype=torch.float32)


def random_target(rng: np.random.Generator, count: int) -> Target:
    return Target(
        boxes=random_boxes(rng, count),
        labels=torch.tensor(rng.integers(1, 3, count)),
        area=torch.ones(count),
        iscrowd=torch.tensor(rng.uniform(size=count) < 0.4),
        image_id=0,
    )


@pytest.mark.parametrize("seed", range(5))
def test_relations_are_torchvisions_and_pycocotools_iou_within_a_class(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes, labels, target = random_boxes(rng, 15), torch.tensor(rng.integers(1, 3, 15)), random_target(rng, 6)
    found = relations(boxes[None], labels[None], torch.ones(1, 15, dtype=torch.bool), [target], num_classes=2)
    same = (labels[:, None] == labels) & ~torch.eye(15, dtype=torch.bool)
    np.testing.assert_allclose(found.overlap[0], (box_iou(boxes, boxes) * same).numpy(), atol=1e-6)
    order = np.argsort(target.iscrowd.numpy(), kind="stable")
    xywh = [
        torch.cat([b[:, :2].double(), (b[:, 2:].double() - b[:, :2].double())], 1).numpy()
        for b in (boxes, target.boxes)
    ]
    expected = coco_mask.iou(xywh[0], xywh[1][order], target.iscrowd.numpy()[order].astype(np.uint8))
    other = labels.numpy()[:, None] != target.labels.numpy()[order]
    np.testing.assert_allclose(found.iou[0], np.where(other, -1.0, expected), atol=1e-12)
    assert found.crowd[0].tolist() == sorted(target.iscrowd.tolist())
    counted = target.labels[~target.iscrowd]
    assert found.positives[0].tolist() == [int((counted == label).sum()) for label in (1, 2)]


@pytest.mark.parametrize("nms_iou", [0.3, 0.6])
@pytest.mark.parametrize("seed", range(5))
def test_those_that_survive_are_torchvisions(seed: int, nms_iou: float) -> None:
    rng = np.random.default_rng(seed)
    boxes, count = random_boxes(rng, 30), 30
    labels = torch.ones(1, count, dtype=torch.int64)
    found = relations(
        boxes[None], labels, torch.ones(1, count, dtype=torch.bool), [random_target(rng, 3)], num_classes=2
    )
    scores = rng.permutation(count).astype(float)
    survivors = np.zeros(count, dtype=np.int64)
    bits = np.zeros(count, dtype=np.uint16), np.zeros(count, dtype=np.uint16)
    alive = resolve(
        scores,
        np.arange(count),
        found.overlap[0],
        found.iou[0],
        found.crowd[0],
        nms_iou,
        IOU_THRESHOLDS,
        survivors,
        *bits,
    )
    expected = batched_nms(boxes, torch.tensor(scores).float(), labels[0], nms_iou)
    assert survivors[:alive].tolist() == expected.tolist()


def test_an_image_without_true_boxes_relates_to_nothing() -> None:
    rng = np.random.default_rng(0)
    found = relations(
        random_boxes(rng, 4)[None], torch.ones(1, 4, dtype=torch.int64), torch.ones(1, 4, dtype=torch.bool),
        [random_target(rng, 0)], num_classes=2,
    )  # fmt: skip
    assert (found.iou == -1).all()
    assert not found.positives.any()
