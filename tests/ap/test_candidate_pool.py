"""The ranking pool against pycocotools, and its changes and credits against doing the whole evaluation again."""

import contextlib
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.ops import batched_nms

from rl_det.ap.candidate_pool import CandidatePool
from rl_det.ap.padding import pad_targets
from rl_det.ap.relations import Relations, relations
from rl_det.types import Target

NUM_CLASSES = 3
NO_NMS = 1.0


class Scene:
    """Random candidates and true boxes of a few images, with ties, crowds, empty images and absent classes."""

    def __init__(self, seed: int, *, num_images: int = 6, num_candidates: int = 12, crowds: float = 0.2) -> None:
        rng = np.random.default_rng(seed)
        self.targets = [random_target(rng, image, crowds) for image in range(num_images)]
        boxes = np.stack([random_candidates(rng, target, num_candidates) for target in self.targets])
        self.boxes = torch.tensor(boxes, dtype=torch.float32)
        self.labels = torch.tensor(rng.integers(1, NUM_CLASSES + 1, boxes.shape[:2]))
        for image, target in enumerate(self.targets):
            count = min(len(target.labels), num_candidates)
            self.labels[image, :count] = target.labels[:count]
        self.mask = torch.tensor(rng.uniform(size=boxes.shape[:2]) < 0.9)
        self.scores = rng.integers(-6, 7, boxes.shape[:2]) / 4.0
        self.rng = rng

    def relations(self) -> Relations:
        return related(self, self.targets)

    def pool(self, scores: np.ndarray | None = None, nms_iou: float = 0.5) -> CandidatePool:
        return CandidatePool(self.relations(), self.scores if scores is None else scores, nms_iou=nms_iou)


def related(scene: "Scene", targets: list[Target]) -> Relations:
    return relations(
        scene.boxes.numpy(), scene.labels.numpy(), scene.mask.numpy(), pad_targets(targets), num_classes=NUM_CLASSES
    )  # fmt: skip


def random_target(rng: np.random.Generator, image: int, crowds: float) -> Target:
    count = int(rng.integers(0, 6))
    corner = rng.integers(0, 60, (count, 2))
    boxes = np.concatenate([corner, corner + rng.integers(8, 40, (count, 2))], 1).astype(np.float32)
    return Target(
        boxes=torch.tensor(boxes).reshape(-1, 4),
        labels=torch.tensor(rng.integers(1, NUM_CLASSES, count)),
        area=torch.tensor((boxes[:, 2:] - boxes[:, :2]).prod(1)),
        iscrowd=torch.tensor(rng.uniform(size=count) < crowds),
        image_id=image,
    )


def random_candidates(rng: np.random.Generator, target: Target, count: int) -> np.ndarray:
    corner = rng.integers(0, 60, (count, 2))
    boxes = np.concatenate([corner, corner + rng.integers(8, 40, (count, 2))], 1).astype(np.float32)
    for row in range(min(len(target.labels), count)):
        boxes[row] = target.boxes[row].numpy() + rng.integers(0, 3, 4)
    return boxes


def coco_ap(scene: Scene, scores: np.ndarray, nms_iou: float) -> float:
    annotations, results = [], []
    for image, target in enumerate(scene.targets):
        for box, label, area, crowd in zip(target.boxes, target.labels, target.area, target.iscrowd, strict=True):
            x1, y1, x2, y2 = box.tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": image, "category_id": int(label),
                    "bbox": [x1, y1, x2 - x1, y2 - y1], "area": float(area), "iscrowd": int(crowd),
                }
            )  # fmt: skip
        keep = scene.mask[image] & torch.isfinite(torch.tensor(scores[image]))
        index = torch.nonzero(keep).flatten()
        index = index[torch.argsort(torch.tensor(scores[image])[index], descending=True, stable=True)]
        order = torch.arange(len(index), 0, -1, dtype=torch.float32)  # ties: the lower index first
        for i in index[batched_nms(scene.boxes[image][index], order, scene.labels[image][index], nms_iou)].tolist():
            x1, y1, x2, y2 = scene.boxes[image, i].tolist()
            results.append(
                {
                    "image_id": image, "category_id": int(scene.labels[image, i]),
                    "bbox": [x1, y1, x2 - x1, y2 - y1], "score": float(scores[image, i]),
                }
            )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": image} for image in range(len(scene.targets))],
            "categories": [{"id": label} for label in range(1, NUM_CLASSES + 1)],
            "annotations": annotations,
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


@pytest.mark.parametrize("nms_iou", [0.3, 0.6, NO_NMS])
@pytest.mark.parametrize("seed", range(40))
def test_the_pools_map_is_pycocotools_to_the_last_digit(seed: int, nms_iou: float) -> None:
    scene = Scene(seed)
    expected = coco_ap(scene, scene.scores, nms_iou)
    found = scene.pool(nms_iou=nms_iou).mean_ap
    assert (np.isnan(found) and expected == -1) or found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(25))
def test_what_if_is_the_difference_of_two_whole_evaluations(seed: int) -> None:
    scene = Scene(seed, crowds=0.1)
    pool = scene.pool()
    images = np.arange(len(scene.targets))
    scores = scene.scores + scene.rng.integers(-4, 5, scene.scores.shape) / 4.0
    scores[scene.rng.uniform(size=scores.shape) < 0.1] = -np.inf
    changes, credits = pool.what_if(images, scores, scene.scores)
    for image in images:
        edited = scene.scores.copy()
        edited[image] = scores[image]
        after = scene.pool(edited).mean_ap
        assert changes[image] == pytest.approx(after - pool.mean_ap, abs=1e-12)
        for candidate in range(scores.shape[1]):
            without = edited.copy()
            without[image, candidate] = scene.scores[image, candidate]
            if scene.mask[image, candidate]:
                worth = after - scene.pool(without).mean_ap
                assert credits[image, candidate] == pytest.approx(worth, abs=1e-12)
            else:
                assert credits[image, candidate] == 0.0


def test_an_edit_does_not_change_the_pool_until_it_is_committed() -> None:
    scene = Scene(3)
    pool = scene.pool()
    before = pool.mean_ap
    pool.what_if(np.array([0]), scene.scores[:1] + 5.0, scene.scores[:1])
    assert pool.mean_ap == before
    changed = scene.scores.copy()
    changed[0] = -np.inf
    pool.replace(changed)
    assert pool.mean_ap == scene.pool(changed).mean_ap


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), factor=st.floats(0.1, 9.0), shift=st.floats(-5.0, 5.0))
def test_a_monotone_map_of_all_scores_changes_nothing(seed: int, factor: float, shift: float) -> None:
    scene = Scene(seed)
    ranks = np.unique(scene.scores, return_inverse=True)[1].reshape(scene.scores.shape).astype(float)
    np.testing.assert_equal(scene.pool(ranks * factor + shift).class_ap, scene.pool().class_ap)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_false_positives_below_every_true_positive_change_nothing(seed: int) -> None:
    scene = Scene(seed)
    dropped = scene.relations().partners[:, :, 0] < 0
    without = np.where(dropped, -np.inf, scene.scores)
    below = np.where(dropped, -100.0 + scene.scores, scene.scores)
    np.testing.assert_equal(scene.pool(below, NO_NMS).class_ap, scene.pool(without, NO_NMS).class_ap)


def test_a_pool_without_a_true_box_has_no_ap() -> None:
    scene = Scene(0, num_images=1)
    empty = [Target(
        boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64), area=torch.zeros(0),
        iscrowd=torch.zeros(0, dtype=torch.bool), image_id=0,
    )]  # fmt: skip
    outcome = related(scene, empty)
    pool = CandidatePool(outcome, scene.scores, nms_iou=0.5)
    assert np.isnan(pool.mean_ap)
    changes, credits = pool.what_if(np.array([0]), scene.scores + 1, scene.scores)
    assert not changes.any()
    assert not credits.any()
