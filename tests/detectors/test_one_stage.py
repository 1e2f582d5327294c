"""One-stage adapters: against the library's own losses, detections and padding, and FCOS's score against float64."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from contract.families import IMAGES, NUM_CLASSES, same_with
from contract.one_stage_families import ONE_STAGE_FAMILIES, lively_one_stage
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from rl_det.detectors import OneStage, SSDDetector
from rl_det.detectors.protocol import Part
from rl_det.detectors.torchvision import one_stage
from rl_det.detectors.torchvision.fcos import log_odds_of_mean
from rl_det.detectors.torchvision.levels import cut_out, flattened, largest_sizes, map_sizes, windows
from rl_det.detectors.torchvision.resized import LEFT_OUT
from rl_det.types import Encoded, Target, concatenate

PARTS: tuple[Part, ...] = ("predictor", "head", "all")
OF_ONE_SIZE = [IMAGES[2], IMAGES[2].flip(2)]


@pytest.fixture(scope="module", params=ONE_STAGE_FAMILIES)
def whole(request: pytest.FixtureRequest) -> OneStage:
    torch.manual_seed(0)
    return lively_one_stage(request.param, NUM_CLASSES)


@pytest.fixture(params=PARTS)
def detector(request: pytest.FixtureRequest, whole: OneStage) -> Any:
    return same_with(request.param, whole)


def objects(*boxes: tuple[float, float, float, float], crowd: bool = False) -> Target:
    return Target(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.arange(len(boxes)) % NUM_CLASSES + 1,
        area=torch.ones(len(boxes)),
        iscrowd=torch.full((len(boxes),), crowd),
        image_id=0,
    )


TARGETS = [objects((4, 4, 30, 30), (20, 10, 44, 46)), objects((5, 20, 50, 70))]


def assert_same(some: Encoded, others: Encoded) -> None:
    for ours, theirs in zip(some.tensors().values(), others.tensors().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_an_image_is_encoded_alone_as_it_is_beside_others(detector: OneStage) -> None:
    together = detector.encode(IMAGES)
    alone = concatenate([detector.encode([image]) for image in IMAGES], len(IMAGES))
    assert_same(together, alone)
    backwards = detector.encode(IMAGES[::-1])
    assert_same(backwards[torch.tensor([2, 1, 0])], together)


def test_images_whose_sizes_alternate_keep_their_order(detector: OneStage) -> None:
    images = [IMAGES[0], IMAGES[1], IMAGES[0].flip(1), IMAGES[1].flip(1)]
    encoded = detector.encode(images)
    output = detector.head(encoded)
    for place, image in enumerate(images):
        alone = detector.encode([image])
        assert_same(encoded[place : place + 1], alone)
        for together, own in zip(output.tensors, detector.head(alone).tensors, strict=True):
            torch.testing.assert_close(together[place], own[0], rtol=1e-4, atol=1e-4)


def test_an_image_is_detected_alone_as_it_is_beside_others(whole: OneStage) -> None:
    for together, image in zip(whole.detect(IMAGES), IMAGES, strict=True):
        (alone,) = whole.detect([image])
        torch.testing.assert_close(together["scores"], alone["scores"])


def test_what_is_kept_follows_the_limit_and_the_largest_image(whole: OneStage, monkeypatch: pytest.MonkeyPatch) -> None:
    per_place = whole.model.anchor_generator.num_anchors_per_location()
    most = sum(h * w * each for (h, w), each in zip(((8, 16), (4, 8)), per_place, strict=True))
    if isinstance(whole, SSDDetector):
        most = 8 * 12 * per_place[0] + 4 * 6 * per_place[1]
    encoded = whole.encode(IMAGES)
    assert encoded.mask.shape[1] == most
    assert whole.encode(IMAGES, num_proposals=9).mask.shape[1] == 9
    monkeypatch.setattr(one_stage, "NUM_PROPOSALS", 11)
    assert whole.encode(IMAGES).mask.shape[1] == 11
    square = encoded.mask[0].sum()  # 48 x 48 becomes 64 x 64, or the fixed size
    assert square == (most if isinstance(whole, SSDDetector) else most / 2)


def test_a_small_image_without_enough_anchors_is_padded_and_has_losses(detector: OneStage) -> None:
    encoded = detector.encode(IMAGES[:1])
    output = detector.head(encoded)
    assert all(part.isfinite().all() for part in output.tensors)
    assert all(loss.isfinite() for loss in detector.loss(encoded, TARGETS[:1], output).values())
    assert all(loss.isfinite() for loss in detector.loss(encoded, [objects()], output).values())


def frozen_statistics(model: nn.Module) -> nn.Module:
    """The model in training mode, but for batch normalisation."""
    for layer in model.train().modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    return model


def test_its_losses_are_the_librarys_own(detector: OneStage) -> None:
    labels = [{"boxes": target.boxes, "labels": target.labels} for target in TARGETS]
    wanted = frozen_statistics(detector.plain())(OF_ONE_SIZE, labels)
    encoded = detector.encode(OF_ONE_SIZE)
    got = detector.loss(encoded, TARGETS, detector.head(encoded))
    assert set(got) == set(wanted)
    for name, loss in got.items():
        torch.testing.assert_close(loss, wanted[name], rtol=1e-4, atol=1e-5)


def test_its_losses_are_over_the_kept_anchors_where_only_the_last_convolutions_are_trained(whole: OneStage) -> None:
    predictor, head = same_with("predictor", whole), same_with("head", whole)
    losses = []
    for detector in (predictor, head):
        encoded = detector.encode(OF_ONE_SIZE, num_proposals=20)
        losses.append(torch.stack(list(detector.loss(encoded, TARGETS, detector.head(encoded)).values())).sum())
    same = torch.isclose(*losses)
    assert same == isinstance(whole, SSDDetector)  # whose predictor is its head


def test_losses_over_images_of_several_sizes_are_finite_and_those_of_one_are_its_own(whole: OneStage) -> None:
    encoded = whole.encode(IMAGES)
    nothing = objects()
    some = whole.loss(encoded, [TARGETS[0], nothing, nothing], whole.head(encoded))
    alone = whole.encode(IMAGES[:1])
    own = whole.loss(alone, TARGETS[:1], whole.head(alone))
    for name, loss in own.items():
        if name == "bbox_regression":  # the only one to which images without objects add nothing
            times = 3 if type(whole).__name__ == "RetinaNetDetector" else 1  # a mean over images
            torch.testing.assert_close(times * some[name], loss, rtol=1e-4, atol=1e-5)
        assert some[name].isfinite()


def test_the_losses_take_what_the_head_has_predicted_for_all_anchors(whole: OneStage) -> None:
    encoded, targets = whole.encode(OF_ONE_SIZE[:2]), TARGETS[:2]
    output, runs = whole.head(encoded), []
    with torch.no_grad():
        without = whole.head(encoded)
    hook = whole.model.head.register_forward_hook(lambda *_: runs.append(1))
    losses = whole.loss(encoded, targets, output)
    assert not runs
    again = whole.loss(encoded, targets, without)
    assert runs == [1]
    hook.remove()
    assert without.for_losses is None
    assert all(torch.equal(loss, again[name]) for name, loss in losses.items())


def test_what_is_left_out_has_no_part_in_the_losses(whole: OneStage) -> None:
    encoded = whole._everywhere(whole.encode(OF_ONE_SIZE[:1]))
    dense = whole._head(encoded, for_losses=True).for_losses
    predicted = {name: values.detach().requires_grad_() for name, values in (dense or {}).items()}
    wanted = [{"boxes": TARGETS[0].boxes, "labels": TARGETS[0].labels}]
    matched = whole.match(encoded, wanted, [torch.zeros(0, 4)])
    assert (matched >= 0).any()
    dropped = (torch.arange(matched.shape[1]) % 3 == 0)[None] & (matched == -1)
    kept = ~dropped[0] & (matched[0] != LEFT_OUT)
    losses = whole.losses(wanted, predicted, encoded.reference, matched.masked_fill(dropped, LEFT_OUT))
    rows = {name: values[:, kept] for name, values in predicted.items()}
    for name, loss in whole.losses(wanted, rows, encoded.reference[:, kept], matched[:, kept]).items():
        torch.testing.assert_close(losses[name], loss)
    torch.stack(list(losses.values())).sum().backward()
    for values in predicted.values():
        assert values.grad is not None
        assert (values.grad[dropped] == 0).all()


def test_background_in_a_crowd_is_left_out_and_objects_in_it_are_not(whole: OneStage) -> None:
    encoded = whole._everywhere(whole.encode(OF_ONE_SIZE[:1]))
    wanted = [{"boxes": TARGETS[0].boxes, "labels": TARGETS[0].labels}]
    without = whole.match(encoded, wanted, [torch.zeros(0, 4)])
    within = whole.match(encoded, wanted, [torch.tensor([[0.0, 0.0, 40.0, 200.0]])])
    assert torch.equal(without >= 0, within >= 0)
    changed = without != within
    assert changed.any()
    assert (within[changed] == LEFT_OUT).all()
    assert (encoded.reference[changed][:, 0] < 40).all()


def test_an_encoding_made_before_the_head_learned_keeps_its_anchors(detector: OneStage) -> None:
    encoded = detector.encode(IMAGES, num_proposals=15)
    before = detector.head(encoded)
    weights = {name: tensor.clone() for name, tensor in detector.plain().state_dict().items()}
    with torch.no_grad():
        detector.recalibrate(0.5, 1.0)
        after = detector.head(encoded)
        detector.plain().load_state_dict(weights)
    torch.testing.assert_close(before.boxes, after.boxes)
    assert not torch.allclose(before.logits, after.logits)


@pytest.mark.parametrize("part", PARTS)
def test_embeddings_are_what_the_last_layer_takes(part: Part) -> None:
    torch.manual_seed(0)
    detector = same_with(part, lively_one_stage("retinanet", NUM_CLASSES))
    layer = detector.plain().head.classification_head.cls_logits  # type: ignore[union-attr]
    with torch.no_grad():  # only the kernel's centre sees anything
        layer.weight[..., [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0.0
        encoded = detector.encode(IMAGES)
        output = detector.head(encoded)
        columns = (output.embeddings @ layer.weight[..., 1, 1].mT + layer.bias).unflatten(-1, (3, -1))
    anchor = (encoded.exact[0] % 3)[..., None, None]
    wanted = columns.take_along_dim(anchor, 2)[:, :, 0, 1:]
    torch.testing.assert_close(output.logits[encoded.mask], wanted[encoded.mask], rtol=1e-4, atol=1e-4)


LOGITS = torch.tensor([-300.0, -90.0, -40.0, -12.0, -5.0, -0.7, 0.0, 0.3, 4.0, 7.5, 9.0, 11.0, 30.0, 95.0, 300.0])


def slow_log_odds(first: Tensor, second: Tensor) -> Tensor:
    """In float64, from log p and log(1 - p), which is log(-log p) where p rounds to 1."""
    log_p = (nn.functional.logsigmoid(first) + nn.functional.logsigmoid(second)) / 2
    return log_p - torch.where(log_p > -1e-9, (-log_p).log(), torch.log(-torch.expm1(log_p)))


def test_log_odds_of_a_mean_and_their_gradients_equal_a_float64_reference_far_into_the_tails() -> None:
    first, second = (axis.flatten() for axis in torch.meshgrid(LOGITS, LOGITS, indexing="ij"))
    single = [axis[:, None].clone().requires_grad_() for axis in (first, second)]
    double = [axis[:, None].double().clone().requires_grad_() for axis in (first, second)]
    got, wanted = log_odds_of_mean(*single), slow_log_odds(*double)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-6)
    gradients = torch.autograd.grad(got.sum(), single), torch.autograd.grad(wanted.sum(), double)
    for ours, theirs in zip(*gradients, strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)


def test_log_odds_of_a_mean_keep_ranks_that_probabilities_lose_and_are_exact_where_both_agree() -> None:
    x = torch.linspace(-1e4, 1e4, 101)[:, None]
    torch.testing.assert_close(log_odds_of_mean(x, x), x, rtol=1e-5, atol=1e-5)
    certain = log_odds_of_mean(torch.tensor([[30.0, 31.0, 32.0]]), torch.tensor([[60.0]]))
    assert (certain.diff() > 0.9).all()


def test_no_image_has_maps_larger_than_the_largest_ones() -> None:
    transform = GeneralizedRCNNTransform(61, 117, [0.0] * 3, [1.0] * 3).eval()
    assert largest_sizes(transform) == {(64, 128), (128, 64)}
    fixed = GeneralizedRCNNTransform(9, 9, [0.0] * 3, [1.0] * 3, size_divisible=1, fixed_size=(33, 17)).eval()
    assert largest_sizes(fixed) == {tuple(fixed([torch.zeros(3, 8, 8)])[0].tensors.shape[2:])}
    rng = torch.Generator().manual_seed(0)
    for height, width in torch.randint(1, 300, (40, 2), generator=rng).tolist():
        if max(height, width) < 20 * min(height, width):
            made = transform([torch.zeros(3, height, width)])[0].tensors.shape
            assert any(made[2] <= h and made[3] <= w for h, w in largest_sizes(transform))


def test_sizes_of_maps_are_known_without_computing_them(whole: OneStage) -> None:
    backbone = whole.plain().backbone
    wanted = [tuple(level.shape[2:]) for level in backbone(torch.zeros(1, 3, 72, 120)).values()]  # type: ignore[operator]
    assert map_sizes(backbone, (72, 120)) == wanted  # type: ignore[arg-type]


class Shifted(nn.Module):
    """Keeps a tensor that is no part of its state."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.shift = inner, torch.ones(1, 3, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images + self.shift.numpy().sum())  # type: ignore[no-any-return]


def test_sizes_of_maps_are_computed_where_shapes_do_not_suffice() -> None:
    backbone = Shifted(nn.Conv2d(3, 4, 3, stride=2))

    class Reading(Shifted):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images * float(images.sum()))

    for own in (backbone, Reading(backbone)):
        assert map_sizes(own, (9, 13)) == [(4, 6)]


def test_a_change_of_the_transform_is_followed() -> None:
    torch.manual_seed(0)
    detector = lively_one_stage("retinanet", NUM_CLASSES)
    small = detector.encode(IMAGES)
    detector.plain().transform.min_size = (96,)  # type: ignore[union-attr]
    large = detector.encode(IMAGES)
    assert large.features[0].shape[2] > small.features[0].shape[2]
    assert detector.head(large).logits.isfinite().all()


def test_a_map_comes_back_from_its_row() -> None:
    maps = torch.randn(2, 3, 4, 5)
    assert torch.equal(cut_out(flattened(maps, 40), (4, 5)), maps)


def test_a_layer_says_the_same_of_windows_as_of_maps() -> None:
    torch.manual_seed(0)
    levels, layer = [torch.randn(2, 3, 4, 5), torch.randn(2, 3, 2, 3)], nn.Conv2d(3, 7, 3, padding=1)
    places = torch.tensor([[0, 19, 7, 20, 25], [25, 24, 3, 3, 12]])
    with torch.no_grad():
        wanted = torch.cat([layer(level).flatten(2).mT for level in levels], 1)
        seen = windows(levels, places, layer)
        got = nn.functional.conv2d(seen.flatten(0, 1), layer.weight, layer.bias).reshape(2, 5, 7)
    torch.testing.assert_close(got, wanted.take_along_dim(places[..., None], 1))


def test_a_copy_of_an_encoding_on_other_anchors_says_what_the_whole_says_there(whole: OneStage) -> None:
    encoded = whole.encode(OF_ONE_SIZE)
    chosen = torch.tensor([[5, 3, 60], [0, 70, 8]])
    few = replace(
        encoded,
        reference=encoded.reference.take_along_dim(chosen[..., None], 1),
        mask=encoded.mask.gather(1, chosen),
        exact=(encoded.exact[0].gather(1, chosen), encoded.exact[1]),
    )
    torch.testing.assert_close(whole.head(few).logits, whole.head(encoded).logits.take_along_dim(chosen[..., None], 1))
