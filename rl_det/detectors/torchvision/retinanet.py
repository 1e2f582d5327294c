"""torchvision's RetinaNets: sigmoids, and towers of convolutions that all levels share."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.models import list_models
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.retinanet import RetinaNetClassificationHead

from rl_det.detectors.family import Family
from rl_det.detectors.recalibration import PerClass, fold
from rl_det.detectors.torchvision.building import build_by_name, shorter_side
from rl_det.detectors.torchvision.one_stage import DELTAS, SCORES, OneStage


class RetinaNetDetector(OneStage):
    """The Detector around a RetinaNet, which does not use torchvision's column 0, the background's: it is dropped."""

    model: RetinaNet
    read: ClassVar = {
        "head": ("classification_head", "regression_head", "compute_loss"),
        "head.classification_head": ("cls_logits", "num_classes", "num_anchors"),
        "head.regression_head": ("bbox_reg",),
    }

    @property
    def num_classes(self) -> int:
        """The columns without column 0."""
        return int(self.model.head.classification_head.num_classes) - 1

    def last_layers(self) -> dict[str, list[nn.Conv2d]]:
        """One for all levels."""
        head = self.model.head
        return {SCORES: [head.classification_head.cls_logits], DELTAS: [head.regression_head.bbox_reg]}

    def log_odds(self, predicted: dict[str, Tensor]) -> Float[Tensor, "B P C"]:
        """The sigmoids' logits themselves."""
        return predicted[SCORES][..., 1:]

    def losses(
        self,
        objects: list[dict[str, Tensor]],
        predicted: dict[str, Tensor],
        anchors: Float[Tensor, "B P 4"],
        matched: Int[Tensor, "B P"],
    ) -> dict[str, Tensor]:
        """The focal and the box loss; RetinaNet's own training leaves anchors out as well."""
        losses: dict[str, Tensor] = self.model.head.compute_loss(objects, predicted, list(anchors), list(matched))
        return losses

    @property
    def recalibrates_classes(self) -> bool:
        """True: each class has a sigmoid of its own."""
        return True

    @torch.no_grad()
    def recalibrate(self, scale: PerClass, shift: PerClass) -> None:
        """Exact."""
        (scores,) = self.last_layers()[SCORES]
        fold(scores, scale, shift, columns=self.num_classes + 1, classes=slice(1, None))


def build_retinanet(
    name: str, *, num_classes: int, input_size: int | None = None, weights: str | Path | None = None
) -> RetinaNet:
    """A RetinaNet by its torchvision name; `build_by_name` documents the arguments and the errors."""
    return build_by_name(RETINANET, name, num_classes=num_classes, weights=weights, **shorter_side(input_size))


def num_classes_in(state: Mapping[str, Tensor]) -> int | None:
    """The number of classes in a RetinaNet's state, without background; None for another state."""
    scores, deltas = (
        state.get("head.classification_head.cls_logits.bias"),
        state.get("head.regression_head.bbox_reg.bias"),
    )
    if scores is None or deltas is None or "head.regression_head.bbox_ctrness.bias" in state:
        return None
    return 4 * len(scores) // len(deltas) - 1


def replace_predictor(model: RetinaNet, num_classes: int) -> None:
    """Give the model a last layer of the classification with torchvision's random weights; boxes know no classes."""
    old = model.head.classification_head
    fresh = RetinaNetClassificationHead(old.cls_logits.in_channels, old.num_anchors, num_classes + 1)
    old.cls_logits, old.num_classes = fresh.cls_logits.to(old.cls_logits.weight.device), num_classes + 1


RETINANET = Family(
    library="torchvision",
    names=tuple(list_models(include="retinanet_*")),
    takes=lambda model: isinstance(model, RetinaNet),
    build=build_retinanet,
    around=RetinaNetDetector,
    classes_known=num_classes_in,
    replace_predictor=replace_predictor,
)
