"""Post-processing against torchvision's NMS and a slow soft-NMS, and the settings that are refused."""

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms, box_iou

from rl_det.candidates.soft_nms import Settings, nearest_above, soft_nms

NUM_CANDIDATES = 40


def candidates(seed: int, num_images: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 30, (num_images, NUM_CANDIDATES, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 20, corner.shape)], -1).astype(np.float32)
    labels = rng.integers(1, 4, (num_images, NUM_CANDIDATES))
    scores = rng.uniform(size=labels.shape).round(2)  # ties among them
    mask = np.arange(NUM_CANDIDATES) < np.array([NUM_CANDIDATES, 1, 0][:num_images])[:, None]
    return boxes, labels, scores, mask


@pytest.mark.parametrize("seed", range(5))
def test_hard_nms_and_a_threshold_are_torchvisions(seed: int) -> None:
    boxes, labels, scores, mask = candidates(seed)
    found = soft_nms(boxes, labels, scores, mask, Settings.fixed(3, 0.3, 0.45, np.inf, 7))
    for row in range(3):
        rows = np.flatnonzero(mask[row] & (scores[row] >= 0.3))
        kept = batched_nms(
            torch.from_numpy(boxes[row, rows]),
            torch.from_numpy(scores[row, rows]).float(),
            torch.from_numpy(labels[row, rows]),
            0.45,
        )
        by_score = sorted(rows[kept.numpy()].tolist(), key=lambda i: (-scores[row, i], i))
        assert np.flatnonzero(found.mask[row]).tolist() == sorted(by_score[:7])
    np.testing.assert_array_equal(found.scores, scores)


def slow_soft_nms(
    boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray, sigma: float, least: float
) -> dict[int, float]:
    """Bodla et al. 2017, figure 2, class by class."""
    iou = box_iou(torch.from_numpy(boxes), torch.from_numpy(boxes)).numpy().astype(float)
    left, waiting, taken = scores.copy(), set(range(len(scores))), {}
    while waiting:
        best = max(waiting, key=lambda i: (left[i], -i))
        if left[best] < least:
            break
        waiting.remove(best)
        taken[best] = left[best]
        for i in waiting:
            if labels[i] == labels[best]:
                left[i] *= np.exp(-(iou[i, best] ** 2) / sigma)
    return taken


@pytest.mark.parametrize("sigma", [0.25, 0.5, 2.0])
def test_soft_nms_is_bodlas(sigma: float) -> None:
    boxes, labels, scores, mask = candidates(0)
    found = soft_nms(boxes, labels, scores, mask, Settings.fixed(3, 0.1, 1.0, sigma, 1000))
    expected = slow_soft_nms(boxes[0], labels[0], scores[0], sigma, 0.1)
    assert np.flatnonzero(found.mask[0]).tolist() == sorted(expected)
    for i, score in expected.items():
        assert found.scores[0, i] == pytest.approx(score, rel=1e-6)
    assert found.mask[1:].sum(1).tolist() == [int(scores[1, 0] >= 0.1), 0]


def test_each_image_has_its_own_settings() -> None:
    parts = [part[:2] for part in candidates(1)]
    one, other = Settings.fixed(1, 0.1, 0.9, 0.5, 30), Settings.fixed(1, 0.6, 0.2, np.inf, 3)
    both = Settings(**{name: np.concatenate([vars(one)[name], vars(other)[name]]) for name in vars(one)})
    parts = [np.repeat(part[:1], 2, 0) for part in parts]
    found = soft_nms(*parts, both)
    for row, settings in enumerate((one, other)):
        alone = soft_nms(*[part[:1] for part in parts], settings)
        np.testing.assert_array_equal(found.mask[row], alone.mask[0])
    assert found.mask[0].sum() != found.mask[1].sum()


def test_the_nearest_above_is_of_the_class_and_ranks_higher() -> None:
    boxes, labels, scores, mask = candidates(2, 1)
    iou = box_iou(torch.from_numpy(boxes[0]), torch.from_numpy(boxes[0])).numpy()
    nearest = nearest_above(boxes, labels, scores, mask)[0]
    for i in range(NUM_CANDIDATES):
        above = [
            iou[i, j] for j in range(NUM_CANDIDATES)
            if labels[0, j] == labels[0, i] and (scores[0, j] > scores[0, i] or (scores[0, j] == scores[0, i] and j < i))
        ]  # fmt: skip
        assert nearest[i] == pytest.approx(max(above, default=0.0), abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((1.5, 0.5, 1.0, 3), r"score_threshold must lie in \[0, 1\]; got 1.5 for image 0"),
        ((0.5, np.nan, 1.0, 3), "nms_iou"),
        ((0.5, 0.5, 0.0, 3), "sigma"),
        ((0.5, 0.5, 1.0, -1), "max_detections"),
    ],
)
def test_impossible_settings_are_refused(settings: tuple[float, float, float, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings.fixed(2, *settings)
