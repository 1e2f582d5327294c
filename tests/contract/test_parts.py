"""What every detector promises of the three parts that can be trained, and of the proposals that it keeps."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
from contract.families import FAMILIES, IMAGES, MOBILENET, NUM_CLASSES, build, same_with
from torch import Tensor

from rl_det.candidates import select_candidates
from rl_det.detectors import Detector
from rl_det.detectors.protocol import Part
from rl_det.types import Encoded, Target

PARTS: tuple[Part, ...] = get_args(Part)
BOXES = torch.tensor([[4.0, 4.0, 30.0, 30.0], [20.0, 10.0, 44.0, 46.0]])


def target(image: int) -> Target:
    """Two objects, or none in the second image."""
    count = 0 if image == 1 else 2
    return Target(
        boxes=BOXES[:count],
        labels=torch.arange(count) % NUM_CLASSES + 1,
        area=torch.ones(count),
        iscrowd=torch.zeros(count, dtype=torch.bool),
        image_id=image,
    )


TARGETS = [target(image) for image in range(3)]


@pytest.fixture(
    scope="module", params=[family for family in FAMILIES if family != MOBILENET]
)  # it is tiny's family, and slow
def whole(request: pytest.FixtureRequest) -> Detector:
    return build(request.param).detector


@pytest.fixture(params=PARTS)
def detector(request: pytest.FixtureRequest, whole: Detector) -> Detector:
    return same_with(request.param, whole)


def state(detector: Detector) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in detector.plain().state_dict().items()}


def trained_names(detector: Detector) -> set[str]:
    own = {id(parameter) for parameter in detector.trainable.parameters() if parameter.requires_grad}
    named = detector.plain().named_parameters(remove_duplicate=False)  # the library may hold one by several names
    return {name for name, parameter in named if id(parameter) in own}


def test_the_parts_lie_in_one_another(whole: Detector) -> None:
    predictor, head, everything = (trained_names(same_with(part, whole)) for part in PARTS)
    assert predictor
    assert predictor <= head < everything


def test_the_parts_say_the_same_of_the_same_images(detector: Detector, whole: Detector) -> None:
    wanted, encoded = whole.encode(IMAGES), detector.encode(IMAGES)
    assert torch.equal(encoded.mask, wanted.mask)
    real = encoded.mask
    torch.testing.assert_close(encoded.reference[real], wanted.reference[real])
    with torch.no_grad():
        for ours, theirs in zip(detector.head(encoded).tensors, whole.head(wanted).tensors, strict=True):
            torch.testing.assert_close(ours[real], theirs[real], rtol=1e-4, atol=1e-3)
            assert ours.isfinite().all()


def test_an_image_is_encoded_as_it_is_alone_whatever_the_sizes_of_the_others(detector: Detector) -> None:
    together = detector.encode(IMAGES)
    with torch.no_grad():
        of_all = detector.head(together)
        for row, image in enumerate(IMAGES):
            encoded = detector.encode([image])
            real = encoded.mask[0]
            assert torch.equal(together.mask[row], real)
            torch.testing.assert_close(together.reference[row][real], encoded.reference[0][real], rtol=1e-4, atol=1e-3)
            for ours, theirs in zip(of_all.tensors, detector.head(encoded).tensors, strict=True):
                torch.testing.assert_close(ours[row][real], theirs[0][real], rtol=1e-4, atol=1e-3)


def test_gradient_reaches_exactly_the_trained_part(detector: Detector) -> None:
    encoded = detector.encode(IMAGES)
    detector.plain().zero_grad()
    output = detector.head(encoded)
    (output.logits.square().sum() + output.boxes.sum()).backward()
    named = detector.plain().named_parameters(remove_duplicate=False)
    reached = {name for name, parameter in named if parameter.grad is not None}
    detector.plain().zero_grad()
    if detector.part == "all" and not detector.overlapping_proposals:  # the rest helps the model's own training alone
        assert reached <= trained_names(detector)
        assert any(name.startswith("model.encoder.") for name in reached)
        return
    by_losses_alone = {name for name in trained_names(detector) if name.startswith("rpn.")}  # a place has no gradient
    assert reached == trained_names(detector) - by_losses_alone


def test_training_a_part_leaves_everything_else_bit_for_bit(detector: Detector) -> None:
    before, encoded = state(detector), detector.encode(IMAGES)
    optimizer = torch.optim.SGD(detector.trainable.parameters(), lr=1e-6)
    try:
        for _ in range(2):
            optimizer.zero_grad()
            torch.stack(list(detector.loss(encoded, TARGETS, detector.head(encoded)).values())).sum().backward()
            optimizer.step()
        changed = {name for name, tensor in detector.plain().state_dict().items() if not tensor.equal(before[name])}
    finally:
        detector.plain().load_state_dict(before)
        detector.plain().zero_grad()
    assert changed
    assert changed <= trained_names(detector)
    if any(name.startswith("rpn.") for name in trained_names(detector)):
        assert any(name.startswith("rpn.") for name in changed)


def test_a_cache_in_half_precision_changes_the_logits_little(detector: Detector) -> None:
    encoded = detector.encode(IMAGES)
    cached = encoded.to("cpu", torch.float16).to("cpu", torch.float32)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(cached.exact, encoded.exact, strict=True))
    with torch.no_grad():
        exact, rounded = detector.head(encoded), detector.head(cached)
    assert all(part.dtype == torch.float32 for part in rounded.tensors)
    gap = (exact.logits - rounded.logits)[encoded.mask].abs().max()
    if detector.part == "all" and not detector.overlapping_proposals:  # rounded pixels may choose other queries
        assert gap > 0
        return
    assert 0 < gap < 0.05 * exact.logits[encoded.mask].std()


def best(detector: Detector, encoded: Encoded, count: int) -> Tensor:
    """The logits of the best candidates."""
    with torch.no_grad():
        return select_candidates(detector.head(encoded), encoded.mask, count).logits


def test_the_number_of_proposals_keeps_the_best(detector: Detector, whole: Detector) -> None:
    everything, few = whole.encode(IMAGES), detector.encode(IMAGES, num_proposals=7)
    assert few.mask.shape == (len(IMAGES), 7)
    assert len({len(few), *(len(tensor) for tensor in few.tensors().values())}) == 1
    with torch.no_grad():
        worth = whole.head(everything).logits.amax(-1).masked_fill(~everything.mask, -torch.inf)
        kept = detector.head(few).logits.amax(-1)
    wanted = worth.topk(7).values
    real = few.mask
    assert torch.equal(real.sum(1), wanted.isfinite().sum(1))
    got = kept.masked_fill(~real, -torch.inf).sort(descending=True).values
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(best(detector, few, 5), best(whole, everything, 5), rtol=1e-4, atol=1e-3)


def test_a_crowd_is_neither_an_object_nor_background(detector: Detector) -> None:
    encoded = detector.encode(IMAGES)
    crowd = Target(
        boxes=torch.tensor([[-500.0, -500.0, 500.0, 500.0]]),
        labels=torch.ones(1, dtype=torch.long),
        area=torch.ones(1),
        iscrowd=torch.ones(1, dtype=torch.bool),
        image_id=0,
    )
    losses = detector.loss(encoded, [crowd] * 3, detector.head(encoded))
    if not detector.overlapping_proposals:  # set losses know no crowds: it is no object
        empty = [replace(TARGETS[1], image_id=image) for image in range(3)]
        assert losses == detector.loss(encoded, empty, detector.head(encoded))
        return
    assert all(loss == 0 and loss.requires_grad for loss in losses.values())
