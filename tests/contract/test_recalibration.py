"""What every detector promises of a recalibration, asked of each family."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from contract.families import NUM_CLASSES, Case, restored
from torch import nn

from rl_det.candidates import gather_logits, select_candidates
from rl_det.detectors import Detector, FCOSDetector, SSDDetector
from rl_det.detectors.recalibration import PerClass
from rl_det.detectors.transformers.query import QueryDetector
from rl_det.types import Encoded, HeadOutput

SCALE, SHIFT = 0.7, -0.9
SCALES, SHIFTS = torch.tensor([0.7, 1.2, 0.9]), torch.tensor([-0.9, 0.4, 0.0])
"""Of each class."""


def recalibrated(
    detector: Detector, encoded: Encoded, scale: PerClass = SCALE, shift: PerClass = SHIFT
) -> tuple[HeadOutput, HeadOutput]:
    """What the head says before and after."""
    with torch.no_grad(), restored(detector):
        before = detector.head(encoded)
        detector.recalibrate(scale, shift)
        return before, detector.head(encoded)


@contextmanager
def one_rival(case: Case) -> Iterator[None]:
    """In a softmax, no class but the first has any probability beside the background; an FCOS's factors agree."""
    detector = case.detector
    with torch.no_grad(), restored(detector):
        if case.softmax:
            silence_others(*case.softmax)
        if isinstance(detector, SSDDetector):
            for layer in detector.last_layers()["cls_logits"]:
                silence_others(layer)
        if isinstance(detector, FCOSDetector):
            head = detector.plain().head
            scores, centerness = head.classification_head, head.regression_head
            scores.conv.load_state_dict(centerness.conv.state_dict())
            silence_others(scores.cls_logits)
            scores.cls_logits.weight[1], scores.cls_logits.bias[1] = centerness.bbox_ctrness.weight[0], -0.5
            centerness.bbox_ctrness.bias[0] = -0.5
        yield


def silence_others(scores: nn.Linear | nn.Conv2d, background: int = 0) -> None:
    """Leave the background's scores, and the first class's."""
    columns = [column for column in range(NUM_CLASSES + 1) if column != background]
    scores.weight.unflatten(0, (-1, NUM_CLASSES + 1))[:, columns[1:]] = 0.0
    scores.bias.unflatten(0, (-1, NUM_CLASSES + 1))[:, columns[1:]] = -100.0


def test_recalibration_leaves_the_boxes_and_the_order_of_each_proposals_classes(
    detector: Detector, encoded: Encoded
) -> None:
    before, after = recalibrated(detector, encoded)
    torch.testing.assert_close(after.boxes, before.boxes, rtol=0, atol=0)
    rising = before.logits.gather(-1, after.logits.argsort(dim=-1))
    assert (rising.diff() > -1e-5).all()


def test_recalibration_maps_the_logits_exactly_for_sigmoids_and_nearly_for_others(
    case: Case, detector: Detector, encoded: Encoded
) -> None:
    before, after = recalibrated(detector, encoded)
    wanted, got = (SCALE * before.logits + SHIFT)[encoded.mask], after.logits[encoded.mask]
    if not case.recalibrates_exactly:
        assert torch.corrcoef(torch.stack([got.flatten(), wanted.flatten()]))[0, 1] > 0.98
        assert (got - wanted).abs().mean() < (got - before.logits[encoded.mask]).abs().mean() / 2
    else:
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_each_class_may_have_a_scale_and_shift_of_its_own(case: Case, detector: Detector, encoded: Encoded) -> None:
    before, after = recalibrated(detector, encoded, SCALES, SHIFTS)
    wanted, got = (SCALES * before.logits + SHIFTS)[encoded.mask], after.logits[encoded.mask]
    torch.testing.assert_close(after.boxes, before.boxes, rtol=0, atol=0)
    shares = isinstance(detector, QueryDetector) and len(detector.anatomy.score_layers) > 1  # part of a score
    if case.recalibrates_exactly and not shares:
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    else:
        assert (got - wanted).abs().mean() < (got - before.logits[encoded.mask]).abs().mean()


def test_the_same_number_for_each_class_is_one_number_for_all(detector: Detector, encoded: Encoded) -> None:
    _, one = recalibrated(detector, encoded)
    _, each = recalibrated(detector, encoded, torch.full((NUM_CLASSES,), SCALE), torch.full((NUM_CLASSES,), SHIFT))
    torch.testing.assert_close(each.logits, one.logits, rtol=1e-5, atol=1e-5)


def test_recalibration_is_exact_where_one_class_rivals_the_background(
    case: Case, detector: Detector, encoded: Encoded
) -> None:
    with one_rival(case):
        before, after = recalibrated(detector, encoded)
    wanted = SCALE * before.logits[..., 0] + SHIFT
    torch.testing.assert_close(after.logits[..., 0][encoded.mask], wanted[encoded.mask], rtol=1e-4, atol=1e-4)


def test_recalibration_then_keeps_the_order_of_the_candidates(case: Case, detector: Detector, encoded: Encoded) -> None:
    with one_rival(case):
        before, after = recalibrated(detector, encoded)
    count = min(30, encoded.mask.shape[1])  # one pair of each proposal counts
    some, others = (select_candidates(output, encoded.mask, count).index for output in (before, after))
    same = some == others  # but for ties
    logits = gather_logits(before.logits, some), gather_logits(before.logits, others)
    assert same.float().mean() > 0.8
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)
