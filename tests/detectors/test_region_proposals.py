"""The RPN of a Faster R-CNN that is trained as a whole: its losses against torchvision's own, which draw anchors."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers

from rl_det.detectors import TwoStage, build_detector
from rl_det.detectors.torchvision.two_stage import named
from rl_det.errors import UserError
from rl_det.types import Encoded, Target

SIDE, RESIZED = 48, 64


def target(boxes: list[tuple[int, int, int, int]], crowds: list[bool] | None = None) -> Target:
    return Target(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.ones(len(boxes), dtype=torch.long),
        area=torch.ones(len(boxes)),
        iscrowd=torch.tensor(crowds or [False] * len(boxes), dtype=torch.bool),
        image_id=0,
    )


def of_images() -> tuple[TwoStage, Encoded, list[Target]]:
    """A detector of which all is trained, two images, and their objects."""
    torch.manual_seed(0)
    tiny = build_detector("tiny", num_classes=3, input_size=RESIZED)
    assert isinstance(tiny, TwoStage)
    built = TwoStage(tiny.model, part="all")
    images = [torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    return built, built.encode(images), [target([(5, 5, 15, 15)]), target([(20, 20, 30, 30), (0, 0, 10, 11)])]


def losses(built: TwoStage, some: Encoded, targets: list[Target]) -> dict[str, Tensor]:
    return built.loss(some, targets, built.head(some))


def torchvisions_proposal_losses(built: TwoStage, some: Encoded, targets: list[Target]) -> tuple[Tensor, Tensor]:
    """Those of the model's own RPN, which draws."""
    rpn, (images,) = built.model.rpn, some.features
    maps = named(built.model.backbone(images))
    levels = list(maps.values())
    objectness, moves = concat_box_prediction_layers(*rpn.head(levels))
    anchors = rpn.anchor_generator(ImageList(images, [(RESIZED, RESIZED)] * len(images)), levels)
    labels, boxes = rpn.assign_targets_to_anchors(anchors, [{"boxes": own.boxes * RESIZED / SIDE} for own in targets])
    losses: tuple[Tensor, Tensor] = rpn.compute_loss(objectness, moves, labels, rpn.box_coder.encode(boxes, anchors))
    return losses


def test_where_all_is_trained_the_rpns_losses_are_torchvisions_own_if_it_draws_all_anchors() -> None:
    built, some, targets = of_images()
    built.model.rpn.fg_bg_sampler.batch_size_per_image = 10**6
    objectness, boxes = torchvisions_proposal_losses(built, some, targets)
    got = losses(built, some, targets)
    assert set(got) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    assert boxes > 0
    torch.testing.assert_close(got["loss_objectness"], objectness)
    torch.testing.assert_close(got["loss_rpn_box_reg"], boxes)


def test_where_torchvision_draws_some_anchors_the_rpns_losses_are_the_mean_over_its_draws() -> None:
    built, some, targets = of_images()
    rpn = built.model.rpn
    rpn.fg_bg_sampler.batch_size_per_image, rpn.fg_bg_sampler.positive_fraction = 8, 0.13  # one positive of each image
    for layer in (rpn.head.cls_logits, rpn.head.bbox_pred):
        nn.init.normal_(layer.weight, std=0.3)
    got = losses(built, some, targets)
    torch.manual_seed(3)
    with torch.no_grad():
        draws = torch.tensor([torchvisions_proposal_losses(built, some, targets) for _ in range(400)])
    error = draws.std(0) / len(draws) ** 0.5
    assert (error > 0).all()  # both draw
    for own, mean, one in zip((got["loss_objectness"], got["loss_rpn_box_reg"]), draws.mean(0), error, strict=True):
        assert abs(own.item() - mean) < 4 * one


def test_where_all_is_trained_backbone_and_rpn_learn_by_the_rpns_losses_and_a_crowd_is_no_background() -> None:
    built, some, targets = of_images()
    got = losses(built, some, targets)
    (got["loss_objectness"] + got["loss_rpn_box_reg"]).backward()
    assert all(own.grad is not None and own.grad.abs().sum() > 0 for own in built.model.rpn.parameters())
    assert any(own.grad is not None for own in built.model.backbone.parameters())
    assert all(own.grad is None for own in built.model.roi_heads.parameters())
    crowded = [target([(5, 5, 15, 15), (0, 0, 48, 48)], [False, True]), targets[1]]
    assert losses(built, some, crowded)["loss_objectness"] != got["loss_objectness"]


def test_an_output_without_gradients_has_the_same_losses_and_no_object_has_none_of_boxes() -> None:
    built, some, targets = of_images()
    with torch.no_grad():
        output = built.head(some)
    assert output.for_losses is None
    wanted = losses(built, some, targets)
    for name, value in built.loss(some, targets, output).items():
        torch.testing.assert_close(value, wanted[name])
    without = losses(built, some, [target([]), target([])])
    assert without["loss_rpn_box_reg"] == 0 < without["loss_objectness"]
    torch.stack(list(without.values())).sum().backward()


def test_an_rpn_of_ones_own_that_lacks_what_its_losses_read_is_refused_where_all_is_trained_alone() -> None:
    tiny = build_detector("tiny", num_classes=3, input_size=RESIZED)
    model = tiny.plain()
    del model.rpn.anchor_generator
    TwoStage(model, part="head")
    with pytest.raises(UserError, match=r"^rpn must have head, anchor_generator, .* lacks anchor_generator"):
        TwoStage(model, part="all")
