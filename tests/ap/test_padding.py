"""Tensors of any precision -> batches; what the engine cannot take is refused by name."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ap.hostile import NUM_CLASSES, hostile

from rl_det.ap import on_device
from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.ap.data_set import coco_figures
from rl_det.ap.leave_one_out import leave_one_out
from rl_det.ap.matching import match
from rl_det.ap.padding import candidate_relations, pad_detections, pad_targets
from rl_det.ap.relations import reach
from rl_det.metrics.evaluation import evaluate, quick_evaluate
from rl_det.metrics.outcomes import outcomes
from rl_det.types import Candidates, Detections, Target

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
BOXES = torch.tensor([[0.0, 0.0, 8.0, 8.0], [16.0, 0.0, 32.0, 8.0]])
ONES = torch.ones(2, dtype=torch.int64)


def found(dtype: torch.dtype) -> Detections:
    return Detections(boxes=BOXES.to(dtype), labels=ONES, scores=torch.tensor([0.5, 0.25], dtype=dtype))


def target(dtype: torch.dtype) -> Target:
    area, nothing = torch.tensor([64.0, 128.0], dtype=dtype), torch.zeros(2, dtype=torch.bool)
    return Target(boxes=BOXES.to(dtype), labels=ONES, area=area, iscrowd=nothing, image_id=1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("true_dtype", [torch.float32, torch.bfloat16])
def test_detections_of_any_precision_are_evaluated(dtype: torch.dtype, true_dtype: torch.dtype) -> None:
    for judge in (evaluate, quick_evaluate):
        assert judge([found(dtype)], [target(true_dtype)], num_classes=1)["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_is_lost_in_a_batch(dtype: torch.dtype) -> None:
    batch = pad_detections([found(dtype), found(dtype)])
    assert batch.boxes.dtype == batch.scores.dtype == (np.float64 if dtype == torch.float64 else np.float32)
    np.testing.assert_array_equal(batch.boxes[1], BOXES.numpy())
    np.testing.assert_array_equal(batch.scores[1], [0.5, 0.25])


def test_images_of_different_precision_make_one_batch() -> None:
    batch = pad_detections([found(dtype) for dtype in DTYPES])
    np.testing.assert_array_equal(batch.scores, [[0.5, 0.25]] * len(DTYPES))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_torch_form_takes_any_precision(dtype: torch.dtype) -> None:
    own, true = found(dtype), target(dtype)
    mask = torch.ones(1, 2, dtype=torch.bool)
    batch = DetectionBatch(boxes=own["boxes"][None], labels=own["labels"][None], scores=own["scores"][None], mask=mask)
    truths = TruthBatch(
        boxes=true.boxes[None], labels=true.labels[None], area=true.area[None], iscrowd=true.iscrowd[None], mask=mask
    )
    assert float(on_device.image_ap(on_device.match(batch, truths, num_classes=1))) == pytest.approx(1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_candidates_of_any_precision_have_relations(dtype: torch.dtype) -> None:
    candidates = Candidates(
        boxes=BOXES[None].to(dtype), labels=ONES[None], logits=torch.zeros(1, 2, dtype=dtype),
        mask=torch.ones(1, 2, dtype=torch.bool), index=ONES[None],
    )  # fmt: skip
    assert candidate_relations(candidates, pad_targets([target(dtype)]), num_classes=1).partners.tolist() == [
        [[0], [1]]
    ]


@pytest.mark.parametrize("field", ["boxes", "scores"])
@pytest.mark.parametrize("entry", [match, coco_figures, leave_one_out, outcomes, reach])
def test_an_array_of_half_precision_is_refused_with_what_is_taken(entry: object, field: str) -> None:
    detections, truths = hostile(0)
    halved = replace(detections, **{field: getattr(detections, field).astype(np.float16)})
    with pytest.raises(ValueError, match=rf"detections\.{field} must be float32 or float64, .*got float16"):
        entry(halved, truths, num_classes=NUM_CLASSES)  # type: ignore[operator]


def test_targets_of_half_precision_are_refused_too() -> None:
    detections, truths = hostile(0)
    with pytest.raises(ValueError, match=r"truths\.area must be float32 or float64, .*got float16"):
        match(detections, replace(truths, area=truths.area.astype(np.float16)), num_classes=NUM_CLASSES)


def test_padded_targets_keep_their_numbers() -> None:
    np.testing.assert_array_equal(pad_targets([target(torch.float16)]).area, [[64.0, 128.0]])
