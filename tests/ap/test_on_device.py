"""The torch path's decisions against the CPU path's, to the bit, and its AP; on every device that there is."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ap.hostile import NUM_CLASSES, hostile
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_det.ap import average_precision, matching, on_device, preference
from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.ap.options import COCO, CocoOptions

no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=no_cuda)])

OPTIONS = {
    "coco": COCO,
    "one threshold": CocoOptions(iou_thresholds=(0.5,)),
    "exact boxes": CocoOptions(iou_thresholds=(0.3, 0.7, 1.0)),
    "medium objects": CocoOptions(area_range=(300.0, 96.0**2)),
    "three detections": CocoOptions(max_detections=3),
    "other recall points": CocoOptions(recall_points=(0.0, 0.1, 0.5, 1.0)),
}

Batch = tuple[DetectionBatch, TruthBatch]


def coarse(batch: Batch) -> Batch:
    """The same, in place, on a grid so coarse that IoUs are often equal, with both zeros as scores and nonsense as padding."""
    detections, truths = batch
    for part in batch:
        part.boxes[:] = part.boxes // 12
        part.boxes[~part.mask] = -np.inf
        part.labels[~part.mask] = -7
    detections.scores[:] = np.floor(detections.scores * 2) / 2
    detections.scores[:, ::2] *= np.where(detections.scores[:, ::2] == 0, -1, 1)
    detections.scores[~detections.mask] = np.nan
    truths.area[~truths.mask] = -1
    return batch


def tensors(batch: Batch, device: str, dtype: torch.dtype | None = None) -> Batch:
    """The same on a device; floating-point numbers in another precision, if asked."""

    def moved(values: np.ndarray) -> torch.Tensor:
        tensor = torch.as_tensor(values)
        return tensor.to(device, dtype if tensor.is_floating_point() else None)

    detections, truths = batch
    return (
        DetectionBatch(**{name: moved(values) for name, values in vars(detections).items()}),
        TruthBatch(**{name: moved(values) for name, values in vars(truths).items()}),
    )


def in_detections_order(matches: matching.Matches, bits: np.ndarray, num_thresholds: int) -> np.ndarray:
    """[B, N, T] of the CPU path's bits, which stand class by class."""
    decisions = np.zeros((*matches.order.shape, num_thresholds), dtype=bool)
    for image, order in enumerate(matches.order):
        count = matches.starts[image, -1]
        decisions[image, order[:count]] = bits[0, image, :count, None] >> np.arange(num_thresholds) & 1
    return decisions


def assert_as_on_cpu(
    batch: Batch, device: str, options: CocoOptions = COCO, dtype: torch.dtype = torch.float64
) -> None:
    expected = matching.match(*batch, num_classes=NUM_CLASSES, options=options)
    found = on_device.match(*tensors(batch, device, dtype), num_classes=NUM_CLASSES, options=options)
    num_thresholds = len(options.iou_thresholds)
    np.testing.assert_array_equal(found.hits.cpu(), in_detections_order(expected, expected.hits, num_thresholds))
    np.testing.assert_array_equal(found.ignored.cpu(), in_detections_order(expected, expected.ignored, num_thresholds))
    np.testing.assert_array_equal(found.positives.cpu(), expected.positives[0])
    for image, order in enumerate(expected.order):
        count = expected.starts[image, -1]
        np.testing.assert_array_equal(found.order[image, len(order) - count :].cpu(), order[:count])
        labels = batch[0].labels[image, order[:count]]
        places = np.arange(count) - expected.starts[image, labels]
        np.testing.assert_array_equal(found.rank[image].cpu()[order[:count]], places)
    for ap in ("image_ap", "image_class_ap"):
        values = getattr(on_device, ap)(found, options)
        assert values.dtype == torch.float64
        assert values.device == found.hits.device
        np.testing.assert_allclose(
            values.cpu(), getattr(average_precision, ap)(expected, options)[0], rtol=0, atol=1e-12
        )


@devices
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("crowds", [(0.0, 0.1), (0.4, 0.9)])
def test_every_decision_and_every_ap_is_the_cpu_paths(crowds: tuple[float, float], name: str, device: str) -> None:
    for seed in range(3):
        batch = hostile(seed, num_images=20, crowds=crowds)
        assert_as_on_cpu(batch, device, OPTIONS[name])
        assert_as_on_cpu(coarse(batch), device, OPTIONS[name])


@devices
def test_more_than_max_detections_of_a_class_are_as_on_the_cpu(device: str) -> None:
    assert_as_on_cpu(hostile(3, num_images=4, num_detections=700, num_truths=90, crowds=(0.0, 0.2)), device)


@devices
@pytest.mark.parametrize("num_images", [0, 3])
@pytest.mark.parametrize("num_detections", [0, 4])
@pytest.mark.parametrize("num_truths", [0, 4])
def test_nothing_is_as_on_the_cpu(num_images: int, num_detections: int, num_truths: int, device: str) -> None:
    sizes = {"num_images": num_images, "num_detections": num_detections, "num_truths": num_truths}
    assert_as_on_cpu(hostile(0, **sizes), device)


@devices
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_precision_that_holds_the_numbers_gives_the_same(dtype: torch.dtype, device: str) -> None:
    assert_as_on_cpu(hostile(5, num_images=30), device, dtype=dtype)


@devices
def test_iou_is_the_cpu_paths_to_the_last_bit(device: str) -> None:
    """At float64 coordinates every step is rounded, and the order of the steps shows."""
    rng = np.random.default_rng(6)
    corner = rng.uniform(0, 10, (2, 40, 2))
    boxes, true_boxes = np.concatenate([corner, corner + rng.uniform(5, 20, corner.shape)], 2)
    crowds = rng.uniform(size=40) < 0.3
    areas = (true_boxes[:, 2] - true_boxes[:, 0]) * (true_boxes[:, 3] - true_boxes[:, 1])
    truths = np.vstack([true_boxes.T, areas])
    expected = [
        [preference.overlap(tuple(box), (box[2] - box[0]) * (box[3] - box[1]), truths, g, crowds[g]) for g in range(40)]
        for box in boxes
    ]
    found = on_device.overlaps(*(torch.as_tensor(v, device=device)[None] for v in (boxes, true_boxes, crowds)))
    np.testing.assert_array_equal(found[0].cpu(), expected)


@devices
def test_float64_boxes_are_not_rounded_to_float32(device: str) -> None:
    detections, truths = scene([[0.0, 0.0, 1.0, 1.0]], [0.5], [[0.0, 0.0, 1.0, 1.0]], device)
    for width, hit in ((0.75, True), (0.75 - 1e-12, False)):
        boxes = torch.tensor([[[0.0, 0.0, width, 1.0]]], dtype=torch.float64, device=device)
        narrow, narrow_truths = replace(detections, boxes=boxes), replace(truths, boxes=boxes)
        options = CocoOptions(iou_thresholds=(0.75,))
        assert on_device.match(narrow, truths, num_classes=1, options=options).hits.item() is hit
        assert on_device.match(detections, narrow_truths, num_classes=1, options=options).hits.item() is hit


@devices
def test_small_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    batch = tensors(hostile(7, num_images=30), device)
    whole = on_device.match(*batch, num_classes=NUM_CLASSES)
    ap = on_device.image_ap(whole)
    monkeypatch.setattr(on_device, "MAX_ELEMENTS", 1500)
    assert len(list(on_device.chunks(30, 24 * 8 + 32 * 10))) == 15
    chunked = on_device.match(*batch, num_classes=NUM_CLASSES)
    assert torch.equal(chunked.hits, whole.hits)
    assert torch.equal(chunked.ignored, whole.ignored)
    assert torch.equal(on_device.image_ap(chunked).nan_to_num(-1), ap.nan_to_num(-1))


def scene(boxes: list[list[float]], scores: list[float], true_boxes: list[list[float]], device: str) -> Batch:
    """One image of one class, without crowds."""
    return (
        DetectionBatch(
            boxes=torch.tensor([boxes], device=device),
            labels=torch.ones(1, len(boxes), dtype=torch.int64, device=device),
            scores=torch.tensor([scores], device=device),
            mask=torch.ones(1, len(boxes), dtype=torch.bool, device=device),
        ),
        TruthBatch(
            boxes=torch.tensor([true_boxes], device=device),
            labels=torch.ones(1, len(true_boxes), dtype=torch.int64, device=device),
            area=torch.ones(1, len(true_boxes), device=device),
            iscrowd=torch.zeros(1, len(true_boxes), dtype=torch.bool, device=device),
            mask=torch.ones(1, len(true_boxes), dtype=torch.bool, device=device),
        ),
    )


@devices
def test_of_true_boxes_with_equal_iou_the_later_is_taken(device: str) -> None:
    left, middle, right = [0.0, 0.0, 8.0, 10.0], [1.0, 0.0, 9.0, 10.0], [2.0, 0.0, 10.0, 10.0]
    # The middle box overlaps both alike; the second detection is good for the left one alone, at IoU 1.
    options = CocoOptions(iou_thresholds=(0.75,))
    later_is_free = scene([middle, left], [0.9, 0.8], [left, right], device)
    later_is_needed = scene([middle, left], [0.9, 0.8], [right, left], device)
    assert on_device.match(*later_is_free, num_classes=1, options=options).hits.flatten().tolist() == [True, True]
    assert on_device.match(*later_is_needed, num_classes=1, options=options).hits.flatten().tolist() == [True, False]


@devices
def test_of_equal_scores_the_lower_index_comes_first(device: str) -> None:
    box = [0.0, 0.0, 8.0, 10.0]
    for scores in ([0.5, 0.5], [-0.0, 0.0], [0.0, -0.0]):
        found = on_device.match(*scene([box, box], scores, [box], device), num_classes=1)
        assert found.hits.any(2).tolist() == [[True, False]]
        assert found.rank.tolist() == [[0, 1]]


@devices
def test_a_chain_of_refusals_is_followed_to_its_end(device: str) -> None:
    """All 30 prefer the same true boxes in the same order, so that the last is refused 29 times."""
    true_boxes = [[0.0, 0.0, 100.0, 100.0 - 0.5 * g] for g in range(30)]
    batch = scene([[0.0, 0.0, 100.0, 100.0]] * 30, [1.0 - n / 30 for n in range(30)], true_boxes, device)
    found = on_device.match(*batch, num_classes=1, options=CocoOptions(iou_thresholds=(0.5, 0.9)))
    assert found.hits[0, :, 0].all()
    assert found.hits[0, :, 1].tolist() == [n <= 20 for n in range(30)]


@devices
def test_no_gradient_is_asked_for_or_flows(device: str) -> None:
    detections, truths = tensors(hostile(10), device)
    detections = replace(detections, boxes=detections.boxes.clone().requires_grad_())
    found = on_device.match(detections, truths, num_classes=NUM_CLASSES)
    assert not on_device.image_ap(found).requires_grad


grid = st.integers(0, 4)
rows = st.tuples(grid, grid, st.integers(0, 3), st.integers(0, 3), st.integers(1, 2), st.integers(0, 3), st.booleans())


def small_image(found: list[tuple[int, ...]], true: list[tuple[int, ...]]) -> Batch:
    """One image of rows: corner, size, label, score or area, crowd."""

    def columns(image: list[tuple[int, ...]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        table = np.array(image, dtype=np.int64).reshape(1, -1, 7)
        boxes = np.concatenate([table[..., :2], table[..., :2] + table[..., 2:4]], 2).astype(np.float32)
        mask = np.ones(table.shape[:2], dtype=bool)
        labels, numbers, marks = np.moveaxis(table[..., 4:], 2, 0).copy()
        return boxes, labels, numbers.astype(np.float64), marks.astype(bool), mask

    boxes, labels, scores, _, mask = columns(found)
    true_boxes, true_labels, area, iscrowd, true_mask = columns(true)
    return (
        DetectionBatch(boxes=boxes, labels=labels, scores=scores, mask=mask),
        TruthBatch(boxes=true_boxes, labels=true_labels, area=area, iscrowd=iscrowd, mask=true_mask),
    )


@given(found=st.lists(rows, max_size=8), true=st.lists(rows, max_size=6))
@settings(deadline=None, max_examples=100)
def test_any_image_is_as_on_the_cpu(found: list[tuple[int, ...]], true: list[tuple[int, ...]]) -> None:
    assert_as_on_cpu(small_image(found, true), "cpu", CocoOptions(area_range=(1.0, 8.0), max_detections=5))


FAULTS = [
    ("detections", "boxes", [float("nan"), 0.0, 1.0, 1.0], r"be finite; got \[nan, 0\.0, 1\.0, 1\.0\]"),
    ("detections", "boxes", [2.0, 0.0, 1.0, 1.0], r"have x1 <= x2 and y1 <= y2; got \[2\.0, 0\.0, 1\.0, 1\.0\]"),
    ("detections", "labels", 0, r"be in 1\.\.4; got 0"),
    ("detections", "scores", float("inf"), r"be finite; got inf"),
    ("truths", "boxes", [0.0, 2.0, 1.0, 1.0], r"have x1 <= x2 and y1 <= y2; got \[0\.0, 2\.0, 1\.0, 1\.0\]"),
    ("truths", "labels", 5, r"be in 1\.\.4; got 5"),
    ("truths", "area", float("nan"), r"be finite; got nan"),
    ("truths", "area", -1.0, r"not be negative; got -1\.0"),
]


@devices
@pytest.mark.parametrize(("argument", "field", "value", "message"), FAULTS)
def test_bad_input_is_named(argument: str, field: str, value: float | list[float], message: str, device: str) -> None:
    detections, truths = tensors(hostile(11), device)
    part = {"detections": detections, "truths": truths}[argument]
    for image, index in ((2, 3), (2, 4), (3, 0)):
        part.mask[image, index] = True
        getattr(part, field)[image, index] = torch.tensor(value, device=device)
    with pytest.raises(ValueError, match=rf"{argument}\.{field} must {message} in image 2 at index 3"):
        on_device.match(detections, truths, num_classes=NUM_CLASSES)


@devices
@pytest.mark.parametrize("seed", range(20))
def test_of_several_faults_the_first_is_named_as_by_the_cpu_path(seed: int, device: str) -> None:
    rng, batch = np.random.default_rng(seed), hostile(seed)
    for part, name in zip(batch, ("scores", "area"), strict=True):
        numbers = getattr(part, name)
        part.boxes[rng.random(part.mask.shape) < 0.05] *= -1
        part.labels[rng.random(part.mask.shape) < 0.05] += NUM_CLASSES
        numbers[rng.random(part.mask.shape) < 0.05] = -np.inf
        numbers[rng.random(part.mask.shape) < 0.05] = -1
    with pytest.raises(ValueError, match="must") as expected:
        matching.match(*batch, num_classes=NUM_CLASSES)
    with pytest.raises(ValueError, match="must") as found:
        on_device.match(*tensors(batch, device), num_classes=NUM_CLASSES)
    assert str(found.value) == str(expected.value)


def test_arrays_that_do_not_fit_together_are_refused() -> None:
    detections, truths = tensors(hostile(13), "cpu")
    with pytest.raises(ValueError, match=r"num_classes must be at least 1; got 0"):
        on_device.match(detections, truths, num_classes=0)
    with pytest.raises(ValueError, match=r"detections\.boxes must be a torch tensor; got ndarray"):
        on_device.match(*hostile(13), num_classes=NUM_CLASSES)
    elsewhere = replace(truths, area=truths.area.to("meta"))
    with pytest.raises(ValueError, match=r"truths\.area must be on cpu, as detections\.mask is; got meta"):
        on_device.match(detections, elsewhere, num_classes=NUM_CLASSES)
    fewer = truths[1:]
    with pytest.raises(ValueError, match=r"detections and truths must hold the same images; got 8 and 7"):
        on_device.match(detections, fewer, num_classes=NUM_CLASSES)
