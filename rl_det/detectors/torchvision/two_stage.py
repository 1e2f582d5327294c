"""A torchvision Faster R-CNN as a Detector: the RoI-pooled features are frozen, the box head is trained."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torchvision.models import list_models
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import fastrcnn_loss

from rl_det.candidates import select_candidates
from rl_det.detectors.family import Family
from rl_det.detectors.own_layers import LINEAR, check_layer, check_parts
from rl_det.detectors.protocol import Architecture, Part
from rl_det.detectors.recalibration import PerClass, fold
from rl_det.detectors.torchvision.building import build_by_name, shorter_side
from rl_det.detectors.torchvision.groups import as_large_as_the_largest, joined, one_size_together
from rl_det.detectors.torchvision.levels import Size, by_sizes, sound
from rl_det.detectors.torchvision.region_proposals import READ_OF_RPN, proposal_losses, said_of_anchors
from rl_det.detectors.torchvision.resized import (
    BACKGROUND,
    LEFT_OUT,
    assign_objects,
    in_all_objects,
    original_boxes,
    resized_targets,
)
from rl_det.detectors.torchvision.traced import alone, filled, transformed
from rl_det.errors import UserError
from rl_det.types import Candidates, Detections, Encoded, HeadOutput, Target, TrainingPass, concatenate

FASTER_RCNNS: tuple[str, ...] = tuple(list_models(include=["fasterrcnn_*", "maskrcnn_*", "keypointrcnn_*"]))
"""torchvision's builders; Mask and Keypoint R-CNNs are Faster R-CNNs with one branch more."""


class TwoStage:
    """The Detector around a Faster R-CNN; `rl_det.detectors.protocol` documents each method.

    What is encoded are the resized images (part `all`), RoI-pooled features (`head`) or the box head's output
    (`predictor`). Each image is encoded, and detected, as it is alone (`one_size_together`). A proposal's place has no
    gradient; under `all`, the RPN proposes on the maps of the backbone as it is, and its own losses are among the
    detector's. A Mask or Keypoint R-CNN is taken by its boxes: its other branches do not run, and do not change.
    """

    overlapping_proposals, moves_boxes, traces_any_size = True, True, True

    def __init__(
        self,
        model: FasterRCNN,
        *,
        architecture: Architecture | None = None,
        is_trained: bool = True,
        part: Part = "head",
    ) -> None:
        if missing := {"cls_score", "bbox_pred"} - dict(model.roi_heads.box_predictor.named_children()).keys():
            got = type(model.roi_heads.box_predictor).__name__
            raise UserError(
                f"a box predictor must have the layers cls_score and bbox_pred; {got} lacks {sorted(missing)}"
            )
        check_layer("roi_heads.box_predictor.cls_score", model.roi_heads.box_predictor.cls_score, LINEAR)
        if part == "all":
            check_parts(model, {"rpn": READ_OF_RPN})
        self.model = model.eval()
        self.num_classes: int = model.roi_heads.box_predictor.cls_score.out_features - 1
        self.architecture = architecture or Architecture.own(model, self.num_classes)
        self.is_trained, self.part = is_trained, part

    @property
    def device(self) -> torch.device:
        """The model's device."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def nms_iou(self) -> float:
        """`roi_heads`' own `nms_thresh`."""
        return float(self.model.roi_heads.nms_thresh)

    @property
    def max_detections(self) -> int:
        """`roi_heads`' own `detections_per_img`."""
        return int(self.model.roi_heads.detections_per_img)

    @property
    def embedding_size(self) -> int:
        """The input size of the box predictor."""
        return int(self.model.roi_heads.box_predictor.cls_score.in_features)

    @torch.no_grad()
    def encode(self, images: Sequence[Float[Tensor, "3 _ _"]], num_proposals: int | None = None) -> Encoded:
        """Encode the images; each has as many proposals as the RPN may keep, padded if it kept fewer."""
        images, parts, order = self._placed(images), [], []
        for rows, resized in one_size_together(self.plain().transform, images):
            parts.append(self._encoded([images[row] for row in rows], resized, num_proposals))
            order += rows
        if self.part == "all":
            parts = as_large_as_the_largest(parts)
        return concatenate(parts, len(images))[torch.tensor(order, device=self.device).argsort()]

    def training_losses(
        self, images: Sequence[Float[Tensor, "3 _ _"]], labels: Sequence[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """torchvision's losses of the RPN and the box head."""
        with boxes_alone(self.model.train()):
            losses: dict[str, Tensor] = self.model(self._placed(images), list(labels))
        self.plain()
        return losses

    def training_pass(
        self, images: Sequence[Float[Tensor, "3 _ _"]], labels: Sequence[dict[str, Tensor]]
    ) -> TrainingPass:
        """Run the transform and the backbone once, and the RPN a second time, without gradient, for detection's proposals."""
        images = self._placed(images)
        seen: dict[str, Any] = {}
        model = self.model.train()
        with (
            boxes_alone(model),
            model.transform.register_forward_hook(lambda _, __, output: seen.update(resized=output[0])),
            model.backbone.register_forward_hook(lambda _, __, output: seen.update(maps=output)),
        ):
            losses: dict[str, Tensor] = model(images, list(labels))
        located = self._located(images, seen["resized"], maps := sound(named(seen["maps"])))
        pooled = self._pooled(maps, located)
        embeddings = self._embedded(pooled)
        features = {"predictor": embeddings, "head": pooled, "all": seen["resized"].tensors}[self.part]
        return TrainingPass(losses, replace(located, features=(features,)), self._output(located, embeddings))

    def head(self, encoded: Encoded) -> HeadOutput:
        """The head's output, with class-specific boxes; the embeddings are the box head's output."""
        self.plain()
        (features,) = encoded.features
        if self.part == "predictor":
            return self._output(encoded, features.float())
        if self.part == "head":
            return self._output(encoded, self._embedded(features))
        rows, outputs = zip(
            *((own, self._whole(encoded[own], size)) for own, size in self._sizes(encoded)), strict=True
        )
        return outputs[0] if len(outputs) == 1 else joined(outputs).of_images(torch.cat(rows).argsort())

    @torch.no_grad()
    def propose(self, encoded: Encoded, num_candidates: int) -> Candidates:
        """The best pairs over all proposals and classes."""
        return select_candidates(self.head(encoded), encoded.mask, num_candidates)

    @torch.no_grad()
    def detect(self, images: Sequence[Float[Tensor, "3 _ _"]]) -> list[Detections]:
        """Detect with `roi_heads`' own `score_thresh`, `nms_thresh` and `detections_per_img`."""
        model = self.plain()
        images, found = self._placed(images), dict[int, Detections]()
        with boxes_alone(model):
            for rows, _ in one_size_together(model.transform, images):
                found.update(zip(rows, model([images[row] for row in rows]), strict=True))
        return [found[row] for row in range(len(images))]

    def loss(self, encoded: Encoded, targets: Sequence[Target], output: HeadOutput) -> dict[str, Tensor]:
        """torchvision's two losses over all proposals; torchvision's training samples some and adds the true boxes.

        Where all is trained, the RPN's two are among them, and the backbone runs again if the output has no gradients.
        """
        objects, crowds = resized_targets(encoded, targets)
        losses = self._box_losses(encoded, objects, crowds, output)
        if self.part != "all":
            return losses
        said = output.for_losses
        if said is None:
            with torch.enable_grad():
                said = self.head(encoded).for_losses
        assert said is not None
        return losses | proposal_losses(self.model.rpn, encoded, objects, crowds, said)

    @property
    def backbone(self) -> nn.Module:
        """The model's own."""
        backbone: nn.Module = self.model.backbone
        return backbone

    @property
    def trainable(self) -> nn.Module:
        """`box_predictor`; beyond it `box_head`; beyond it RPN and backbone. Layers that the user froze stay as they are."""
        model, heads = self.model, self.model.roi_heads
        parts = {
            "backbone": model.backbone,
            "rpn": model.rpn,
            "box_head": heads.box_head,
            "box_predictor": heads.box_predictor,
        }
        trained: dict[Part, tuple[str, ...]] = {"predictor": ("box_predictor",), "head": ("box_head", "box_predictor")}
        return nn.ModuleDict({name: parts[name] for name in trained.get(self.part, tuple(parts))})

    @property
    def recalibrates_classes(self) -> bool:
        """False: classes compete in a softmax."""
        return False

    @torch.no_grad()
    def recalibrate(self, scale: PerClass, shift: PerClass) -> None:
        """Scale and shift each class's distance from the background's score."""
        scores = self.model.roi_heads.box_predictor.cls_score
        fold(scores, scale, shift, columns=self.num_classes + 1, classes=slice(1, None), background=0)

    def plain(self) -> FasterRCNN:
        """The torchvision model."""
        return self.model.eval()

    def traced(self, image: Float[Tensor, "3 _ _"]) -> tuple[Encoded, HeadOutput]:
        """`Traceable` documents it; as many proposals as the RPN may keep."""
        model = self.plain()
        resized = transformed(model.transform, image)
        maps = named(model.backbone(resized.tensors))
        (proposals,), _ = model.rpn(resized, maps)
        pooled = model.roi_heads.box_roi_pool(maps, [proposals], resized.image_sizes)
        count = model.rpn.post_nms_top_n()
        reference, mask = filled(proposals, count)
        embeddings, _ = filled(model.roi_heads.box_head(pooled), count)
        encoded = alone(image, resized, reference, mask)
        return encoded, self._output(encoded, embeddings[None])

    @torch.no_grad()
    def _located(self, images: Sequence[Tensor], resized: ImageList, maps: dict[str, Tensor]) -> Encoded:
        """The resized images, and the RPN's proposals on `sound` maps, as in detection.

        The RPN drops proposals that are not finite. An image whose maps are NaN keeps one, so that this is seen.
        """
        model = self.plain()
        proposals, _ = model.rpn(resized, maps)
        shape = len(images), model.rpn.post_nms_top_n()
        counts = torch.tensor([len(own) for own in proposals], device=resized.tensors.device)
        mask = torch.arange(shape[1], device=counts.device) < counts[:, None]
        reference = resized.tensors.new_zeros(*shape, 4)
        reference[mask] = torch.cat(proposals)
        mask[:, 0] |= next(iter(maps.values()))[:, 0, 0, 0].isnan()
        return Encoded(
            features=(resized.tensors,),
            reference=reference,
            mask=mask,
            input_size=reference.new_tensor(resized.image_sizes),
            image_size=reference.new_tensor([image.shape[1:] for image in images]),
        )

    def _encoded(self, images: Sequence[Tensor], resized: ImageList, num_proposals: int | None) -> Encoded:
        """The encoding of images of one padded size."""
        located = self._located(images, resized, maps := sound(named(self.model.backbone(resized.tensors))))
        if num_proposals is not None and num_proposals < located.mask.shape[1]:
            output = self._output(located, self._embedded(self._pooled(maps, located)))
            located = best_proposals(located, output, num_proposals)
        if self.part == "all":
            return located
        pooled = self._pooled(maps, located)
        return replace(located, features=(pooled if self.part == "head" else self._embedded(pooled),))

    def _sizes(self, encoded: Encoded) -> Iterator[tuple[Int[Tensor, " b"], Size]]:
        """The images of one padded size together: their rows, and that size."""
        step = self.model.transform.size_divisible
        padded = (encoded.input_size / step).ceil().long() * step
        for rows, (size,) in by_sizes(padded[:, None]):
            yield rows.to(self.device), size

    def _whole(self, encoded: Encoded, size: Size) -> HeadOutput:
        """The output of backbone and head for images of one padded size, with what the RPN says if gradients are wanted."""
        images = encoded.features[0][..., : size[0], : size[1]]
        maps = sound(named(self.model.backbone(images)))
        output = self._output(encoded, self._embedded(self._pooled(maps, encoded)))
        if not torch.is_grad_enabled():
            return output
        return output._replace(for_losses=said_of_anchors(self.model.rpn, images, maps))

    def _pooled(self, maps: dict[str, Tensor], encoded: Encoded) -> Float[Tensor, "B P C h w"]:
        """The proposals' RoI features, zeros on padding."""
        proposals = list(encoded.reference[encoded.mask].split(encoded.mask.sum(1).tolist()))
        sizes = [(int(height), int(width)) for height, width in encoded.input_size.tolist()]
        real = self.model.roi_heads.box_roi_pool(maps, proposals, sizes)
        pooled: Tensor = real.new_zeros(*encoded.mask.shape, *real.shape[1:])
        pooled[encoded.mask] = real
        return pooled

    def _embedded(self, pooled: Float[Tensor, "B P C h w"]) -> Float[Tensor, "B P D"]:
        """The box head's output; the model must be in eval mode."""
        embeddings: Tensor = self.model.roi_heads.box_head(pooled.flatten(0, 1).float())
        return embeddings.reshape(*pooled.shape[:2], -1)

    def _box_losses(
        self, encoded: Encoded, objects: list[dict[str, Tensor]], crowds: list[Tensor], output: HeadOutput
    ) -> dict[str, Tensor]:
        """The box head's losses over all proposals."""
        scores, deltas = self.model.roi_heads.box_predictor(output.embeddings.flatten(0, 1))
        coder, matcher = self.model.roi_heads.box_coder, self.model.roi_heads.proposal_matcher
        matched = assign_objects(encoded, objects, crowds, matcher)
        positive, counted = matched > BACKGROUND, (matched != LEFT_OUT).flatten()
        if not counted.any():  # the mean over no proposal: zero, with a graph
            return {"loss_classifier": scores.sum() * 0.0, "loss_box_reg": deltas.sum() * 0.0}
        index = in_all_objects(matched, objects)
        labels, wanted = torch.zeros_like(matched), torch.zeros_like(encoded.reference)
        labels[positive] = torch.cat([target["labels"] for target in objects])[index]
        wanted[positive] = coder.encode_single(
            torch.cat([target["boxes"] for target in objects])[index], encoded.reference[positive]
        )
        classifier, box = fastrcnn_loss(
            scores[counted], deltas[counted], [labels.flatten()[counted]], [wanted.flatten(0, 1)[counted]]
        )
        return {"loss_classifier": classifier, "loss_box_reg": box}

    def _output(self, encoded: Encoded, embeddings: Float[Tensor, "B P D"]) -> HeadOutput:
        """The predictor's output; the model must be in eval mode."""
        heads, shape = self.model.roi_heads, encoded.mask.shape
        scores, deltas = heads.box_predictor(embeddings.flatten(0, 1))
        boxes = heads.box_coder.decode(deltas, [encoded.reference.flatten(0, 1)])
        return HeadOutput(
            logits=log_odds(scores)[:, 1:].reshape(*shape, -1),
            boxes=original_boxes(boxes[:, 1:].reshape(*shape, -1, 4), encoded),
            embeddings=embeddings,
        )

    def _placed(self, images: Sequence[Tensor]) -> list[Tensor]:
        return [image.to(self.device) for image in images]


def best_proposals(encoded: Encoded, output: HeadOutput, num_proposals: int) -> Encoded:
    """Each image's proposals of the highest class logit, in their order; the features stay those of the images."""
    worth = output.logits.amax(-1).masked_fill(~encoded.mask, -math.inf)
    kept = worth.topk(num_proposals, dim=1).indices.sort(dim=1).values
    rows = torch.arange(len(kept), device=kept.device)[:, None]
    return replace(encoded, reference=encoded.reference[rows, kept], mask=encoded.mask[rows, kept])


def named(maps: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
    """A backbone's maps by name; a single map is "0", as torchvision names it."""
    return {"0": maps} if isinstance(maps, Tensor) else maps


@contextmanager
def boxes_alone(model: FasterRCNN) -> Iterator[None]:
    """The branches for masks and keypoints, if there are any, are left out of what runs inside."""
    heads = model.roi_heads
    branches = {name: getattr(heads, name) for name in ("mask_roi_pool", "keypoint_roi_pool") if hasattr(heads, name)}
    try:
        for name in branches:
            setattr(heads, name, None)
        yield
    finally:
        for name, branch in branches.items():
            setattr(heads, name, branch)


def log_odds(scores: Float[Tensor, "R K"]) -> Float[Tensor, "R K"]:
    """log(p / (1 - p)) of every class of a softmax: its score minus the logsumexp of all others.

    Values and gradients are exact also where p rounds to 1. Only the best class can have p > 1/2, so only this class is
    compared with the others' logsumexp; all other classes have 1 - p >= 1/2.
    """
    best = one_hot(scores.argmax(-1), scores.shape[-1]).bool()
    others = scores.masked_fill(best, -math.inf).logsumexp(-1, keepdim=True)
    log_p = scores.log_softmax(-1).masked_fill(best, -1.0)  # the filling is never used; it keeps log1p finite
    return torch.where(best, scores - others, log_p - torch.log1p(-log_p.exp()))


def torchvision_faster_rcnn(
    name: str, *, num_classes: int, input_size: int | None = None, weights: str | Path | None = None
) -> FasterRCNN:
    """A Faster R-CNN by its torchvision name; `build_by_name` documents the arguments and the errors."""
    model: FasterRCNN = build_by_name(
        FASTER_RCNN, name, num_classes=num_classes, weights=weights, **shorter_side(input_size)
    )
    return model


def num_classes_in(state: Mapping[str, Tensor]) -> int | None:
    """The number of classes in a Faster R-CNN's state, without background."""
    bias = state.get("roi_heads.box_predictor.cls_score.bias")
    return None if bias is None or len(bias) < 2 else len(bias) - 1


def replace_predictor(model: FasterRCNN, num_classes: int) -> None:
    """Give the model a box predictor with random weights for this number of classes, without the background."""
    features = model.roi_heads.box_predictor.cls_score.in_features
    device = model.roi_heads.box_predictor.cls_score.weight.device
    model.roi_heads.box_predictor = FastRCNNPredictor(features, num_classes + 1).to(device)


FASTER_RCNN = Family(
    library="torchvision",
    names=FASTER_RCNNS,
    takes=lambda model: isinstance(model, FasterRCNN),
    build=torchvision_faster_rcnn,
    around=TwoStage,
    classes_known=num_classes_in,
    replace_predictor=replace_predictor,
)
