"""What every detector promises, asked of each family."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest
import torch
from contract.families import EVERY, IMAGES, NUM_CLASSES, Case, restored
from torch import Tensor, nn

from rl_det.candidates import gather_logits, nms
from rl_det.detectors import Detector, SSDDetector, TwoStage
from rl_det.policies.build import build_policy
from rl_det.policies.detections import detections
from rl_det.types import Detections, Encoded, Target, concatenate


def target(*boxes: tuple[float, float, float, float], crowd: bool = False) -> Target:
    count = len(boxes)
    return Target(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(count, 4),
        labels=torch.arange(count) % NUM_CLASSES + 1,
        area=torch.ones(count),
        iscrowd=torch.full((count,), crowd),
        image_id=0,
    )


def targets() -> list[Target]:
    """The second image is empty."""
    return [target((4, 4, 30, 30), (20, 10, 44, 46)), target(), target((5, 20, 50, 70))]


def normalised(module: nn.Module) -> bool:
    """Whether a batch's statistics change what the module says."""
    return any(isinstance(layer, nn.BatchNorm2d) for layer in module.modules())


def own_losses(detector: Detector, encoded: Encoded, targets: Sequence[Target]) -> dict[str, Tensor]:
    return detector.loss(encoded, targets, detector.head(encoded))


def assert_same_detections(some: Detections, others: Detections) -> None:
    """One to one, whatever the order of near ties: same label, box and score."""
    assert len(some["boxes"]) == len(others["boxes"])
    box_gap = torch.cdist(some["boxes"], others["boxes"], p=torch.inf)
    score_gap = (some["scores"][:, None] - others["scores"]).abs()
    same = (box_gap < 1e-2) & (score_gap < 1e-4) & (some["labels"][:, None] == others["labels"])
    assert same.any(0).all()
    assert same.any(1).all()


def test_it_is_a_detector(detector: Detector) -> None:
    assert isinstance(detector, Detector)
    assert detector.num_classes == NUM_CLASSES


def test_the_encoding_has_no_gradient_and_is_repeatable(detector: Detector, encoded: Encoded) -> None:
    detector.plain().train()
    again = detector.encode(IMAGES)
    assert not any(level.requires_grad for level in again.features)
    for level, same in zip(encoded.features, again.features, strict=True):
        torch.testing.assert_close(level, same, rtol=0, atol=0)
    torch.testing.assert_close(encoded.reference, again.reference, rtol=0, atol=0)
    assert encoded.image_size.tolist() == [[48, 48], [40, 96], [80, 56]]


def test_encodings_of_two_batches_concatenate_into_one(detector: Detector, encoded: Encoded) -> None:
    assert concatenate([encoded, detector.encode(IMAGES[:1])], 4).mask.shape == (4, encoded.mask.shape[1])
    parts = concatenate([encoded[:1], encoded[1:]], len(encoded))
    torch.testing.assert_close(detector.head(parts).logits, detector.head(encoded).logits)
    with pytest.raises(ValueError, match=r"must hold 4 images.*got 3"):
        concatenate([encoded], len(encoded) + 1)


def test_the_head_speaks_of_every_proposal_and_class_with_gradient(detector: Detector, encoded: Encoded) -> None:
    output = detector.head(encoded)
    assert output.logits.shape == (*encoded.mask.shape, NUM_CLASSES)
    assert output.boxes.shape == (*encoded.mask.shape, NUM_CLASSES, 4)
    assert output.embeddings.shape[:2] == encoded.mask.shape
    assert output.logits.isfinite().all()
    assert output.logits[encoded.mask].std() > 0.1
    total = output.logits.square().sum() + output.boxes.sum() + output.embeddings.sum()
    gradients = torch.autograd.grad(total, detector.trainable.parameters())
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_one_training_pass_gives_the_models_losses_and_the_heads_output_with_gradient_to_all(
    case: Case, detector: Detector
) -> None:
    labels = [{"boxes": one.boxes, "labels": one.labels} for one in targets()]
    passes: list[None] = []
    with restored(detector):  # batch normalisation takes its statistics
        with case.early.register_forward_hook(lambda *_: passes.append(None)):
            losses, encoded, output = detector.training_pass(IMAGES, labels)
        assert len(passes) == 1
        assert not detector.plain().training
        assert not encoded.reference.requires_grad
        if encoded.features and not normalised(detector.trainable):
            # a query detector's head cannot read them; where the pass takes statistics, it is not what the head then says
            for ours, same in zip(output.tensors, detector.head(encoded).tensors, strict=True):
                torch.testing.assert_close(ours, same)
        trained = [parameter for parameter in case.early.parameters() if parameter.requires_grad]
        scalars = [torch.stack(list(losses.values())).sum()]
        if encoded.mask.any():  # in training mode, random weights may propose nothing
            scalars += [output.logits.square().sum(), output.boxes.sum()]
        for scalar in scalars:
            gradients = torch.autograd.grad(scalar, trained, retain_graph=True, allow_unused=True)
            assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
        own = {"loss"} if case.is_query_detector else set(detector.plain().train()(IMAGES, labels))
        assert set(losses) == own
        detector.plain()


def test_only_the_head_parameters_take_part_in_the_head(detector: Detector, encoded: Encoded) -> None:
    detector.plain().zero_grad()
    detector.head(encoded).logits.sum().backward()
    own = {id(parameter) for parameter in detector.trainable.parameters()}
    assert all(parameter.grad is None for parameter in detector.plain().parameters() if id(parameter) not in own)
    detector.plain().zero_grad()


def test_a_cache_in_half_precision_changes_the_logits_little(detector: Detector, encoded: Encoded) -> None:
    exact, cached = detector.head(encoded), detector.head(encoded.to("cpu", torch.float16))
    assert all(part.dtype == torch.float32 for part in cached.tensors)
    gap = (exact.logits - cached.logits)[encoded.mask].abs().max()
    assert 0 < gap < 0.02 * exact.logits[encoded.mask].std()


def test_boxes_are_in_the_users_pixels_and_inside_the_image(detector: Detector, encoded: Encoded) -> None:
    boxes = detector.head(encoded).boxes.flatten(1, 2)
    for found, (height, width) in zip(boxes, encoded.image_size, strict=True):
        assert found.min() >= 0
        assert found[:, [0, 2]].max() <= width * 1.00001
        assert found[:, [1, 3]].max() <= height * 1.00001
        assert found[:, [0, 2]].max() > 0.9 * width  # and not in any smaller image's
        assert found[:, [1, 3]].max() > 0.9 * height


def test_padding_has_no_area_so_it_votes_on_nothing(detector: Detector, encoded: Encoded) -> None:
    boxes = detector.head(encoded).boxes[~encoded.mask]
    assert (boxes[..., 2:] == boxes[..., :2]).all()


def test_it_proposes_the_best_pairs_of_all_in_falling_order(detector: Detector, encoded: Encoded) -> None:
    num_candidates = 40
    candidates = detector.propose(encoded, num_candidates)
    assert not candidates.logits.requires_grad
    with torch.no_grad():
        output = detector.head(encoded)
    for image in range(len(encoded)):
        pairs = [
            (float(output.logits[image, p, c]), p, c)
            for p in range(encoded.mask.shape[1])
            for c in range(NUM_CLASSES)
            if encoded.mask[image, p]
        ]
        best = sorted(pairs, reverse=True)[:num_candidates]
        count = int(candidates.mask[image].sum())
        assert count == len(best)
        assert candidates.mask[image, :count].all()
        torch.testing.assert_close(candidates.logits[image, :count], torch.tensor([logit for logit, _, _ in best]))
    proposal, column = candidates.index // NUM_CLASSES, candidates.index % NUM_CLASSES
    rows = torch.arange(len(encoded))[:, None]
    assert (candidates.labels == column + 1)[candidates.mask].all()
    found = output.boxes[rows, proposal, column][candidates.mask]
    torch.testing.assert_close(candidates.boxes[candidates.mask], found)


def test_the_head_can_be_asked_again_about_the_same_candidates(detector: Detector, encoded: Encoded) -> None:
    candidates = detector.propose(encoded, 40)
    logits = gather_logits(detector.head(encoded).logits, candidates.index)
    assert logits.requires_grad
    torch.testing.assert_close(logits[candidates.mask], candidates.logits[candidates.mask])


@contextmanager
def without_ties(detector: Detector) -> Iterator[None]:
    """An untrained backbone pools the same from many proposals; between equal scores, NMS is left to rounding."""

    def spread(module: nn.Module, inputs: tuple[object, ...], pooled: Tensor) -> Tensor:
        noise = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(0))
        return pooled + 0.1 * pooled.std() * noise

    with ExitStack() as hooks:
        if isinstance(detector, TwoStage):
            hooks.enter_context(detector.plain().roi_heads.box_roi_pool.register_forward_hook(spread))
        yield


def test_postprocessed_candidates_are_what_the_detector_detects(case: Case, detector: Detector) -> None:
    if case.is_query_detector:
        pytest.skip("the library keeps only some pairs")
    with without_ties(detector):
        encoded, detected = detector.encode(IMAGES), detector.detect(IMAGES)
    found = nms(detector.propose(encoded, EVERY), nms_iou=detector.nms_iou, max_detections=EVERY)
    for ours, own in zip(found, detected, strict=True):
        assert len(ours["boxes"]) > 10
        sides = own["boxes"][:, 2:] - own["boxes"][:, :2]
        real = (sides >= 1e-2).all(1)  # a RetinaNet also lists boxes that clipping has emptied
        own = Detections(boxes=own["boxes"][real], labels=own["labels"][real], scores=own["scores"][real])
        assert_same_detections(ours, own)
        assert (ours["scores"].diff() <= 0).all()


def test_its_losses_reach_every_parameter_of_the_head(detector: Detector, encoded: Encoded) -> None:
    losses = own_losses(detector, encoded, targets())
    total = torch.stack(list(losses.values())).sum()
    gradients = torch.autograd.grad(total, detector.trainable.parameters())
    assert total > 0
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_images_without_any_object_still_have_a_loss(detector: Detector, encoded: Encoded) -> None:
    losses = own_losses(detector, encoded, [target()] * 3)
    total = torch.stack(list(losses.values())).sum()
    assert (
        total >= 0 if isinstance(detector, SSDDetector) else total > 0
    )  # an SSD mines background beside objects alone
    assert total.isfinite()
    total.backward()
    detector.plain().zero_grad()


def test_a_crowd_is_neither_an_object_nor_background(case: Case, detector: Detector, encoded: Encoded) -> None:
    everywhere = target((-500, -500, 500, 500), crowd=True)
    losses = own_losses(detector, encoded, [everywhere] * 3)
    if case.is_query_detector:  # the library's losses know no crowds: it is no object
        assert losses == own_losses(detector, encoded, [target()] * 3)
        return
    assert all(loss == 0 and loss.requires_grad for loss in losses.values())


def test_the_losses_fall_when_the_head_learns(detector: Detector, encoded: Encoded) -> None:
    before = {name: tensor.clone() for name, tensor in detector.plain().state_dict().items()}
    optimizer = torch.optim.Adam(detector.trainable.parameters(), lr=3e-5)
    totals = []
    with restored(detector):
        for _ in range(4):
            total = torch.stack(list(own_losses(detector, encoded, targets()).values())).sum()
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            totals.append(total.item())
        after = detector.plain().state_dict()
        changed = {name for name in after if not torch.equal(after[name], before[name])}
        own = {parameter.data_ptr() for parameter in detector.trainable.parameters()}
        assert all(after[name].data_ptr() in own for name in changed)
    assert totals[-1] < totals[0]
    assert changed
    assert not any(name.startswith(("backbone", "rpn")) for name in changed)


def test_its_nms_iou_is_that_of_its_own_post_processing(case: Case, detector: Detector) -> None:
    if case.is_query_detector:
        assert detector.nms_iou == 1.0
        return
    model = detector.plain()
    owner, name = (model.roi_heads, "nms_thresh") if isinstance(detector, TwoStage) else (model, "nms_thresh")
    usual = detector.nms_iou
    assert 0 < usual < 1
    many = sum(len(found["boxes"]) for found in detector.detect(IMAGES))
    try:
        setattr(owner, name, 0.1)
        assert detector.nms_iou == 0.1
        assert sum(len(found["boxes"]) for found in detector.detect(IMAGES)) < many
    finally:
        setattr(owner, name, usual)


def test_its_limit_of_detections_is_that_of_its_own_post_processing(case: Case, detector: Detector) -> None:
    policy = build_policy("rescore", detector)
    assert policy.postprocessing.max_detections == detector.max_detections
    if case.is_query_detector:
        assert detector.max_detections == 100
        return
    owner = detector.plain().roi_heads if isinstance(detector, TwoStage) else detector.plain()
    usual = owner.detections_per_img
    assert detector.max_detections == usual
    try:
        owner.detections_per_img = 3
        assert detector.max_detections == 3
        found = detections(build_policy("rescore", detector), detector.encode(IMAGES), EVERY)
        assert [len(each["boxes"]) for each in found] == [3] * len(IMAGES)
    finally:
        owner.detections_per_img = usual


def test_its_embedding_size_is_that_of_its_embeddings(detector: Detector, encoded: Encoded) -> None:
    assert detector.head(encoded).embeddings.shape[-1] == detector.embedding_size


def test_the_plain_model_detects_the_same_without_this_library(case: Case) -> None:
    if case.is_query_detector:
        pytest.skip("a subprocess asks the library itself, in test_query_detectors")
    model = case.fresh()
    model.load_state_dict(case.detector.plain().state_dict())
    with torch.no_grad():
        one_size = isinstance(case.detector, SSDDetector)  # others see other borders in a batch
        own = model.eval()(IMAGES) if one_size else [model.eval()([image])[0] for image in IMAGES]
    for ours, theirs in zip(case.detector.detect(IMAGES), own, strict=True):
        real = theirs["labels"] > 0
        for name in ("boxes", "labels", "scores"):
            torch.testing.assert_close(ours[name], theirs[name][real], rtol=0, atol=0)
