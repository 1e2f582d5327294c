"""Who suppresses and who may match whom, against torchvision's NMS and pycocotools' IoU."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torchvision.ops import batched_nms, box_iou

from rl_det.ap.candidate_pool import CandidatePool
from rl_det.ap.options import IOU_THRESHOLDS
from rl_det.ap.padding import pad_targets
from rl_det.ap.relations import CROWD, Relations, pairwise_iou, relations
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


def related(boxes: torch.Tensor, labels: torch.Tensor, target: Target) -> Relations:
    mask = np.ones((1, len(boxes)), dtype=bool)
    return relations(boxes[None].numpy(), labels[None].numpy(), mask, pad_targets([target]), num_classes=2)


@pytest.mark.parametrize("seed", range(5))
def test_who_may_match_whom_is_pycocotools_iou_within_a_class(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes, labels, target = random_boxes(rng, 15), torch.tensor(rng.integers(1, 3, 15)), random_target(rng, 6)
    found = related(boxes, labels, target)
    same = (labels[:, None] == labels) & ~torch.eye(15, dtype=torch.bool)
    np.testing.assert_allclose(found.overlap[0], (box_iou(boxes, boxes) * same).numpy(), atol=1e-6)
    by_label = np.argsort(target.labels.numpy(), kind="stable")  # how relations know the true boxes
    crowd, true_labels = target.iscrowd.numpy()[by_label], target.labels.numpy()[by_label]
    xywh = [
        np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], 1)
        for b in (boxes.double().numpy(), target.boxes.double().numpy())
    ]
    iou = coco_mask.iou(xywh[0], xywh[1][by_label], crowd.astype(np.uint8))
    assert (found.kinds[0, :-1] == CROWD).tolist() == crowd.tolist()
    for i in range(15):
        wanted = [g for g in range(6) if true_labels[g] == labels[i] and iou[i, g] >= IOU_THRESHOLDS[0]]
        wanted.sort(key=lambda g: (crowd[g], -iou[i, g]))
        partners = [g for g in found.partners[0, i].tolist() if g >= 0]
        assert partners == wanted
        for g, passes in zip(partners, found.passes[0, i].tolist()[: len(partners)], strict=True):
            assert passes == sum(1 << t for t, threshold in enumerate(IOU_THRESHOLDS) if iou[i, g] >= threshold)
    counted = target.labels[~target.iscrowd]
    assert found.positives[0].tolist() == [int((counted == label).sum()) for label in (1, 2)]


@pytest.mark.parametrize("nms_iou", [0.3, 0.6])
@pytest.mark.parametrize("seed", range(5))
def test_those_that_survive_are_torchvisions(seed: int, nms_iou: float) -> None:
    rng = np.random.default_rng(seed)
    boxes, labels, scores = (
        random_boxes(rng, 30),
        torch.tensor(rng.integers(1, 3, 30)),
        rng.permutation(30).astype(float),
    )
    pool = CandidatePool(related(boxes, labels, random_target(rng, 3)), scores[None], nms_iou=nms_iou)
    expected = batched_nms(boxes, torch.tensor(scores).float(), labels, nms_iou).tolist()
    starts, order = pool.matches.starts[0], pool.matches.order[0]
    for label in (1, 2):
        survivors = order[starts[label] : starts[label + 1]].tolist()
        assert survivors == [i for i in expected if labels[i] == label]


def test_an_image_without_true_boxes_relates_to_nothing() -> None:
    rng = np.random.default_rng(0)
    found = related(random_boxes(rng, 4), torch.ones(4, dtype=torch.int64), random_target(rng, 0))
    assert (found.partners == -1).all()
    assert not found.passes.any()
    assert not found.positives.any()


def test_bad_candidates_are_named() -> None:
    rng = np.random.default_rng(0)
    labels = torch.tensor([1, 2, 3, 1])
    with pytest.raises(ValueError, match=r"detections.labels must be in 1..2; got 3 in image 0 at index 2"):
        related(random_boxes(rng, 4), labels, random_target(rng, 2))


def test_pairwise_iou_is_torchvisions_and_nothing_over_nothing_is_0() -> None:
    rng = np.random.default_rng(0)
    boxes, others = random_boxes(rng, 7), random_boxes(rng, 4)
    others[3] = 0  # padding
    boxes[6] = 0
    found = pairwise_iou(boxes[None].numpy(), others[None].numpy())[0]
    np.testing.assert_allclose(found[:, :3], box_iou(boxes, others[:3]).numpy(), atol=1e-6)
    assert not found[:, 3].any()
    assert found.max() > 0.1
