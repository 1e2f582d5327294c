"""Candidates: the best pairs of a head's output, padded; asked again; and turned into torchvision's own detections."""

import math

import pytest
import torch
from torch import Tensor, nn

from rl_det.candidates import gather_boxes, gather_logits, nms, observe, select_candidates
from rl_det.detectors import Detector, build_detector
from rl_det.types import Candidates, Encoded, HeadOutput

NUM_CLASSES = 3
EVERY = 10_000


def random_output(num_images: int = 2, num_proposals: int = 5) -> HeadOutput:
    generator = torch.Generator().manual_seed(0)
    shape = num_images, num_proposals
    return HeadOutput(
        logits=torch.randn(*shape, NUM_CLASSES, generator=generator),
        boxes=torch.rand(*shape, NUM_CLASSES, 4, generator=generator),
        embeddings=torch.zeros(*shape, 1),
    )


def all_real(output: HeadOutput) -> Tensor:
    return torch.ones(output.logits.shape[:2], dtype=torch.bool)


def candidates(boxes: list[tuple[float, ...]], logits: list[float], labels: list[int] | None = None) -> Candidates:
    """One image's, all real, best first."""
    return Candidates(
        boxes=torch.tensor([boxes], dtype=torch.float32).reshape(1, -1, 4),
        labels=torch.tensor([labels or [1] * len(logits)], dtype=torch.long),
        logits=torch.tensor([logits], dtype=torch.float32),
        mask=torch.ones(1, len(logits), dtype=torch.bool),
        index=torch.arange(len(logits))[None],
    )


def test_the_best_pairs_come_in_falling_order_with_their_own_box_label_and_index() -> None:
    output = random_output()
    selected = select_candidates(output, all_real(output), 6)
    for image in range(2):
        pairs = [(float(output.logits[image, p, c]), p, c) for p in range(5) for c in range(NUM_CLASSES)]
        for n, (logit, p, c) in enumerate(sorted(pairs, reverse=True)[:6]):
            assert selected.logits[image, n] == logit
            assert selected.index[image, n] == p * NUM_CLASSES + c
            assert selected.labels[image, n] == c + 1
            assert torch.equal(selected.boxes[image, n], output.boxes[image, p, c])
    assert selected.mask.all()


def test_no_gradient_comes_along() -> None:
    output = random_output()
    output.logits.requires_grad_()
    output.boxes.requires_grad_()
    selected = select_candidates(output, all_real(output), 6)
    assert not selected.logits.requires_grad
    assert not selected.boxes.requires_grad


def test_padded_proposals_are_never_selected_however_high_their_logits() -> None:
    output, mask = random_output(), torch.tensor([[True] * 5, [True, False, False, False, False]])
    output.logits[~mask] = 99.0
    selected = select_candidates(output, mask, 6)
    assert selected.mask.sum(1).tolist() == [6, 3]
    assert (selected.index[1, :3] < NUM_CLASSES).all()
    assert selected.logits[selected.mask].max() < 99


def test_padding_has_box_0_label_1_logit_minus_infinity_and_index_0() -> None:
    output = random_output()
    selected = select_candidates(output, torch.tensor([[True] * 5, [False] * 5]), 20)
    assert selected.mask.sum(1).tolist() == [15, 0]
    padding = ~selected.mask
    assert (selected.boxes[padding] == 0).all()
    assert (selected.labels[padding] == 1).all()
    assert selected.logits[padding].isneginf().all()
    assert (selected.index[padding] == 0).all()
    assert selected.logits.shape == (2, 20)


def test_a_nan_stays_in_sight() -> None:
    output = random_output()
    output.logits[0, 2, 1] = math.nan
    selected = select_candidates(output, all_real(output), 4)
    assert selected.logits[0].isnan().sum() == 1
    assert selected.mask[0, selected.logits[0].isnan()].all()
    assert selected.logits[1].isfinite().all()


def test_of_tied_pairs_each_is_selected_once() -> None:
    output = random_output()
    output.logits.zero_()
    selected = select_candidates(output, all_real(output), 15)
    assert selected.index.sort(1).values.tolist() == [list(range(15))] * 2


def test_later_logits_are_gathered_with_gradient_to_the_chosen_pairs_alone() -> None:
    output = random_output()
    selected = select_candidates(output, all_real(output), 4)
    later = (2 * output.logits).requires_grad_()
    gathered = gather_logits(later, selected.index)
    assert torch.equal(gathered, 2 * selected.logits)
    gathered.sum().backward()
    chosen = torch.zeros(2, 15).scatter(1, selected.index, 1.0)
    assert later.grad is not None
    assert torch.equal(later.grad.flatten(1), chosen)


def test_later_boxes_are_gathered_with_gradient_to_the_chosen_pairs_alone() -> None:
    output = random_output()
    selected = select_candidates(output, all_real(output), 4)
    later = (2 * output.boxes).requires_grad_()
    gathered = gather_boxes(later, selected.index)
    assert torch.equal(gathered, 2 * selected.boxes)
    gathered.sum().backward()
    chosen = torch.zeros(2, 15).scatter(1, selected.index, 1.0)
    assert later.grad is not None
    assert torch.equal(later.grad.flatten(1, 2), chosen[..., None].expand(-1, -1, 4))


@pytest.fixture(scope="module")
def detector() -> Detector:
    """Its random predictor is made to say different things of different boxes."""
    torch.manual_seed(0)
    detector = build_detector("tiny", num_classes=NUM_CLASSES, input_size=64)
    heads = detector.plain().roi_heads
    nn.init.normal_(heads.box_predictor.cls_score.weight, std=2.0)
    nn.init.normal_(heads.box_predictor.bbox_pred.weight, std=1.0)
    heads.detections_per_img = EVERY
    return detector


@pytest.fixture(scope="module")
def images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, *size, generator=generator) for size in ((48, 48), (40, 96), (80, 56))]


def test_postprocessing_every_candidate_gives_torchvisions_own_detections(
    detector: Detector, images: list[Tensor]
) -> None:
    every = detector.propose(detector.encode(images), EVERY)
    found = nms(every, nms_iou=detector.nms_iou, max_detections=EVERY)
    alone = [detector.plain()([image])[0] for image in images]
    for ours, own in zip(found, alone, strict=True):
        assert len(ours["boxes"]) == len(own["boxes"]) > 10
        ours_order = [sorted(zip(*part, strict=True)) for part in (rows(ours), rows(own))]
        for mine, theirs in zip(*ours_order, strict=True):
            assert mine == pytest.approx(theirs, abs=2e-2)


def rows(found: dict[str, Tensor]) -> tuple[list[float], ...]:
    """Columns label, score to four digits, and box."""
    return (
        found["labels"].tolist(),
        found["scores"].mul(1e4).round().div(1e4).tolist(),
        *found["boxes"].mT.tolist(),
    )


def test_a_limit_keeps_the_first_of_all_detections(detector: Detector, images: list[Tensor]) -> None:
    every = detector.propose(detector.encode(images), EVERY)
    found = nms(every, nms_iou=detector.nms_iou, max_detections=EVERY)
    few = nms(every, nms_iou=detector.nms_iou, max_detections=7)
    for some, all_of_them in zip(few, found, strict=True):
        for name in ("boxes", "labels", "scores"):
            torch.testing.assert_close(some[name], all_of_them[name][:7])


NEAR = ((0.0, 0.0, 10.0, 10.0), (0.0, 1.0, 10.0, 11.0), (30.0, 30.0, 40.0, 40.0))


def test_a_lower_overlapping_detection_of_its_class_is_suppressed_and_of_another_class_is_not() -> None:
    (alike,) = nms(candidates([*NEAR], [2.0, 1.0, 0.0]), nms_iou=0.5, max_detections=9)
    (mixed,) = nms(candidates([*NEAR], [2.0, 1.0, 0.0], [1, 2, 1]), nms_iou=0.5, max_detections=9)
    assert alike["boxes"].tolist() == [list(NEAR[0]), list(NEAR[2])]
    assert mixed["boxes"].tolist() == [list(box) for box in NEAR]
    torch.testing.assert_close(alike["scores"], torch.tensor([2.0, 0.0]).sigmoid())


def test_detections_follow_rescored_logits_and_not_the_order_of_the_candidates() -> None:
    (found,) = nms(candidates([*NEAR], [0.0, 1.0, 2.0]), nms_iou=0.5, max_detections=9)
    assert found["boxes"].tolist() == [list(NEAR[2]), list(NEAR[1])]


def test_logits_whose_sigmoids_tie_keep_their_order() -> None:
    boxes = [(20.0 * n, 0.0, 20.0 * n + 10, 10.0) for n in range(4)]
    (found,) = nms(candidates(boxes, [40.0, 60.0, 50.0, 70.0]), nms_iou=0.5, max_detections=9)
    assert (found["scores"] == 1).all()
    assert found["boxes"].tolist() == [list(boxes[n]) for n in (3, 1, 2, 0)]


def test_of_equal_logits_exactly_one_of_two_duplicates_survives() -> None:
    (found,) = nms(candidates([NEAR[0], NEAR[0]], [1.0, 1.0]), nms_iou=0.5, max_detections=9)
    assert found["boxes"].tolist() == [list(NEAR[0])]


def test_boxes_without_area_are_dropped() -> None:
    (found,) = nms(candidates([(5, 0, 5, 10), (0, 0, 10, 10)], [2.0, 1.0]), nms_iou=0.5, max_detections=9)
    assert found["boxes"].tolist() == [[0, 0, 10, 10]]


def test_an_image_of_padding_alone_has_no_detections() -> None:
    output = random_output(num_images=1)
    nothing = select_candidates(output, ~all_real(output), 4)
    (found,) = nms(nothing, nms_iou=0.5, max_detections=9)
    assert found["boxes"].shape == (0, 4)
    assert found["labels"].shape == found["scores"].shape == (0,)


def test_observed_boxes_are_relative_to_the_images_own_width_and_height() -> None:
    encoded = Encoded(
        features=(torch.zeros(1, 3, 1),),
        reference=torch.zeros(1, 3, 4),
        mask=torch.ones(1, 3, dtype=torch.bool),
        input_size=torch.tensor([[64.0, 64.0]]),
        image_size=torch.tensor([[20.0, 40.0]]),
    )
    seen = observe(candidates([(0, 0, 40, 20), (10, 5, 20, 10), (0, 0, 4, 4)], [2.0, 1.0, 0.0]), encoded)
    wanted = [[0.0, 0.0, 1.0, 1.0], [0.25, 0.25, 0.5, 0.5], [0.0, 0.0, 0.1, 0.2]]
    torch.testing.assert_close(seen["boxes"], torch.tensor([wanted]))
    assert seen["logits"].tolist() == [[2.0, 1.0, 0.0]]


def test_observed_logits_are_0_on_padding_and_all_else_is_the_candidates(
    detector: Detector, images: list[Tensor]
) -> None:
    encoded = detector.encode(images)
    some = detector.propose(encoded, 400)
    seen = observe(some, encoded)
    assert not some.mask.all()
    assert (seen["logits"][~some.mask] == 0).all()
    assert torch.equal(seen["logits"][some.mask], some.logits[some.mask])
    for name in ("labels", "mask", "index"):
        assert torch.equal(seen[name], getattr(some, name))
    assert seen["boxes"].min() >= 0
    assert 0.9 < seen["boxes"].max() <= 1.00001
