"""A torchvision RetinaNet as a Detector: the feature maps are frozen, the convolutional heads are trained."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.image_list import ImageList

from rl_det.candidates import select_candidates
from rl_det.detectors.family import Family
from rl_det.detectors.protocol import Architecture, Part
from rl_det.detectors.torchvision.resized import assign_objects, original_boxes, resized_targets
from rl_det.errors import UserError
from rl_det.types import Candidates, Detections, Encoded, HeadOutput, Target, TrainingPass


class OneStage:
    """The Detector around a RetinaNet; `rl_det.detectors.protocol` documents each method.

    Proposals are the anchors of all levels, so P depends on the images' size, and only encodings of one size can be
    concatenated. RetinaNet does not use torchvision's column 0, the background's, so it is dropped everywhere.
    """

    overlapping_proposals, moves_boxes = True, True

    def __init__(
        self,
        model: RetinaNet,
        *,
        architecture: Architecture | None = None,
        is_trained: bool = True,
        part: Part = "head",
    ) -> None:
        self.model = model.eval()
        self.num_classes: int = model.head.classification_head.num_classes - 1
        self.architecture = architecture or Architecture.own(model, self.num_classes)
        self.is_trained, self.part = is_trained, part

    @property
    def device(self) -> torch.device:
        """The model's device."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def nms_iou(self) -> float:
        """The model's own `nms_thresh`."""
        return float(self.model.nms_thresh)

    @property
    def embedding_size(self) -> int:
        """The number of input channels of the last convolution of the classification head."""
        return int(self.model.head.classification_head.cls_logits.in_channels)

    @torch.no_grad()
    def encode(self, images: Sequence[Float[Tensor, "3 _ _"]], num_proposals: int | None = None) -> Encoded:
        """The feature maps of every level, and every level's anchors."""
        model, images = self.plain(), self._placed(images)
        resized, _ = model.transform(images)
        return self._encoded(images, resized, model.backbone(resized.tensors))

    def training_pass(
        self, images: Sequence[Float[Tensor, "3 _ _"]], labels: Sequence[dict[str, Tensor]]
    ) -> TrainingPass:
        """Run the whole model once, its head included."""
        images = self._placed(images)
        seen: dict[str, Any] = {}
        hidden: list[Tensor] = []
        model = self.model.train()
        with (
            model.transform.register_forward_hook(lambda _, __, output: seen.update(resized=output[0])),
            model.backbone.register_forward_hook(lambda _, __, output: seen.update(maps=output)),
            model.head.register_forward_hook(lambda _, __, output: seen.update(predicted=output)),
            model.head.classification_head.conv.register_forward_hook(lambda _, __, output: hidden.append(output)),
        ):
            losses: dict[str, Tensor] = model(images, list(labels))
        encoded = self._encoded(images, seen["resized"], seen["maps"])
        return TrainingPass(losses, encoded, self._output(encoded, seen["predicted"], hidden))

    def _encoded(self, images: Sequence[Tensor], resized: ImageList, maps: Tensor | dict[str, Tensor]) -> Encoded:
        """The backbone's maps, with their anchors."""
        model = self.plain()
        levels = [maps] if isinstance(maps, Tensor) else list(maps.values())
        anchors = torch.stack(model.anchor_generator(resized, levels))
        return Encoded(
            features=tuple(levels),
            reference=anchors,
            mask=torch.ones(anchors.shape[:2], dtype=torch.bool, device=anchors.device),
            input_size=anchors.new_tensor(resized.image_sizes),
            image_size=anchors.new_tensor([image.shape[1:] for image in images]),
        )

    def head(self, encoded: Encoded) -> HeadOutput:
        """The head's output: all classes share an anchor's box, and all anchors of one place share an embedding."""
        hidden: list[Tensor] = []
        conv = self.model.head.classification_head.conv
        with conv.register_forward_hook(lambda _, __, output: hidden.append(output)):
            predicted = self._predict(encoded)
        return self._output(encoded, predicted, hidden)

    def _output(self, encoded: Encoded, predicted: dict[str, Tensor], hidden: list[Tensor]) -> HeadOutput:
        """The head's predictions and its last hidden layer, level by level, as a HeadOutput."""
        deltas, shape = predicted["bbox_regression"], encoded.mask.shape
        boxes = self.model.box_coder.decode_single(deltas.flatten(0, 1), encoded.reference.flatten(0, 1))
        boxes = original_boxes(boxes.unflatten(0, shape)[:, :, None], encoded)
        places = torch.cat([level.flatten(2).mT for level in hidden], 1)  # [B, places of all levels, D]
        return HeadOutput(
            logits=predicted["cls_logits"][..., 1:],
            boxes=boxes.expand(-1, -1, self.num_classes, -1),
            embeddings=places.repeat_interleave(self.model.head.classification_head.num_anchors, 1),
        )

    @torch.no_grad()
    def propose(self, encoded: Encoded, num_candidates: int) -> Candidates:
        """The best pairs over all anchors and classes."""
        return select_candidates(self.head(encoded), encoded.mask, num_candidates)

    @torch.no_grad()
    def detect(self, images: Sequence[Float[Tensor, "3 _ _"]]) -> list[Detections]:
        """Detect with the model's own `score_thresh`, `topk_candidates`, `nms_thresh` and `detections_per_img`."""
        detections = self.plain()(self._placed(images))
        kept = [detection["labels"] > 0 for detection in detections]
        return [
            Detections(boxes=found["boxes"][real], labels=found["labels"][real], scores=found["scores"][real])
            for found, real in zip(detections, kept, strict=True)
        ]

    def loss(self, encoded: Encoded, targets: Sequence[Target], output: HeadOutput) -> dict[str, Tensor]:
        """torchvision's focal and box losses; only the treatment of crowds differs from torchvision's training.

        The head runs again, because the losses need the background's column and the box deltas, which `output` lacks.
        """
        objects, crowds = resized_targets(encoded, targets)
        matched = assign_objects(encoded, objects, crowds, self.model.proposal_matcher)
        losses: dict[str, Tensor] = self.model.head.compute_loss(
            objects, self._predict(encoded), list(encoded.reference), list(matched)
        )
        return losses

    @property
    def trainable(self) -> nn.Module:
        """The classification and the regression head."""
        return nn.ModuleDict({"head": self.model.head})

    @torch.no_grad()
    def recalibrate(self, scale: float, shift: float) -> None:
        """Fold the recalibration into the last convolution, exactly."""
        scores = self.model.head.classification_head.cls_logits
        scores.weight.mul_(scale)
        scores.bias.mul_(scale).add_(shift)

    def plain(self) -> RetinaNet:
        """The torchvision model."""
        return self.model.eval()

    def _predict(self, encoded: Encoded) -> dict[str, Tensor]:
        """The head's outputs by torchvision's names: cls_logits [B, P, C + 1], bbox_regression [B, P, 4]."""
        output: dict[str, Tensor] = self.plain().head([level.float() for level in encoded.features])
        return output

    def _placed(self, images: Sequence[Tensor]) -> list[Tensor]:
        return [image.to(self.device) for image in images]


def _known_shape(model: nn.Module, num_classes: int) -> None:
    raise UserError(f"the model must know the {num_classes} classes of the data; give it a head for them")


RETINANET = Family(
    names=(),
    takes=lambda model: isinstance(model, RetinaNet),
    build=RetinaNet,
    around=OneStage,
    classes_known=lambda state: None,
    replace_predictor=_known_shape,
)
