"""torchvision's FCOS: a point's score is the geometric mean of two sigmoids, the class's and the centerness's."""

import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torchvision.models import list_models
from torchvision.models.detection import FCOS
from torchvision.models.detection.fcos import FCOSClassificationHead

from rl_det.detectors.family import Family
from rl_det.detectors.recalibration import PerClass, fold, mean_of
from rl_det.detectors.torchvision.building import build_by_name, shorter_side
from rl_det.detectors.torchvision.one_stage import DELTAS, SCORES, OneStage
from rl_det.detectors.torchvision.resized import BACKGROUND, LEFT_OUT, within
from rl_det.types import Encoded

CENTERNESS = "bbox_ctrness"


class FCOSDetector(OneStage):
    """The Detector around an FCOS. Its anchors are points: squares as large as the level's stride.

    FCOS does not use torchvision's column 0, the background's: it is dropped.
    """

    model: FCOS
    read: ClassVar = {
        "head": ("classification_head", "regression_head", "compute_loss"),
        "head.classification_head": ("cls_logits", "num_classes", "num_anchors"),
        "head.regression_head": ("bbox_reg", "bbox_ctrness"),
    }

    @property
    def num_classes(self) -> int:
        """The columns without column 0."""
        return int(self.model.head.classification_head.num_classes) - 1

    def last_layers(self) -> dict[str, list[nn.Conv2d]]:
        """One for all levels. Boxes and centerness have one tower."""
        boxes = self.model.head.regression_head
        scores = self.model.head.classification_head.cls_logits
        return {SCORES: [scores], DELTAS: [boxes.bbox_reg], CENTERNESS: [boxes.bbox_ctrness]}

    def log_odds(self, predicted: dict[str, Tensor]) -> Float[Tensor, "B P C"]:
        """Those of the score by which FCOS ranks, sqrt(sigmoid(class) * sigmoid(centerness))."""
        return log_odds_of_mean(predicted[SCORES][..., 1:], predicted[CENTERNESS])

    def decode(self, deltas: Float[Tensor, "R 4"], anchors: Float[Tensor, "R 4"]) -> Float[Tensor, "R 4"]:
        """By the model's own coder."""
        boxes: Tensor = self.model.box_coder.decode(deltas, anchors)
        return boxes

    def match(self, everywhere: Encoded, objects: list[dict[str, Tensor]], crowds: list[Tensor]) -> Int[Tensor, "B N"]:
        """FCOS's own matching by centres and sizes, which its `compute_loss` hands to the head's; crowds as elsewhere."""
        handed_over = SimpleNamespace(compute_loss=lambda objects, outputs, anchors, matched: matched)
        matching = SimpleNamespace(center_sampling_radius=self.model.center_sampling_radius, head=handed_over)
        rows = []
        for image, (own, crowd) in enumerate(zip(objects, crowds, strict=True)):
            anchors = everywhere.reference[image][everywhere.mask[image]]
            points_per_level = everywhere.exact[1][image, 1:].prod(-1).tolist()
            (row,) = FCOS.compute_loss(matching, [own], {}, [anchors], points_per_level)
            rows.append(row.masked_fill((row == BACKGROUND) & within(anchors, crowd), LEFT_OUT))
        return pad_sequence(rows, batch_first=True, padding_value=LEFT_OUT)

    def _predict_on_windows(self, encoded: Encoded) -> tuple[dict[str, Tensor], Tensor]:
        """As the head does it, which cuts off negative distances."""
        predicted, embeddings = super()._predict_on_windows(encoded)
        return {**predicted, DELTAS: predicted[DELTAS].relu()}, embeddings

    def losses(
        self,
        objects: list[dict[str, Tensor]],
        predicted: dict[str, Tensor],
        anchors: Float[Tensor, "B P 4"],
        matched: Int[Tensor, "B P"],
    ) -> dict[str, Tensor]:
        """The head's losses, which are sums over the points of all images: here, of all in one list that are not left out."""
        counts = torch.tensor([0] + [len(own["labels"]) for own in objects[:-1]], device=matched.device)
        matched = matched + counts.cumsum(0)[:, None] * (matched > BACKGROUND)
        together = {name: torch.cat([own[name] for own in objects]) for name in ("boxes", "labels")}
        counted = matched != LEFT_OUT
        rows = {name: values[counted][None] for name, values in predicted.items()}
        losses: dict[str, Tensor] = self.model.head.compute_loss(
            [together], rows, [anchors[counted]], [matched[counted]]
        )
        return losses

    @torch.no_grad()
    def recalibrate(self, scale: PerClass, shift: PerClass) -> None:
        """Fold it into both factors, which is exact where class and centerness agree, and nearly elsewhere.

        The order of one point's classes stays if all have one scale and shift, that of points nearly. The centerness,
        which the classes share, takes the means; of a class's shift, the class takes what these leave of both halves.
        """
        of_both = mean_of(scale), mean_of(shift)
        for layer in self.last_layers()[SCORES]:
            fold(layer, scale, 2 * shift - of_both[1], columns=self.num_classes + 1, classes=slice(1, None))
        for layer in self.last_layers()[CENTERNESS]:
            fold(layer, *of_both, columns=1, classes=slice(None))


def log_odds_of_mean(first: Float[Tensor, "*R C"], second: Float[Tensor, "*R 1"]) -> Float[Tensor, "*R C"]:
    """log(p / (1 - p)) of p = sqrt(sigmoid(first) * sigmoid(second)), the geometric mean of two probabilities.

    With u = -log p, this is -u - log(1 - exp(-u)), and log u is known where u itself underflows. Values and gradients are
    finite and exact to float32 for all finite logits.
    """
    u = (F.softplus(-first) + F.softplus(-second)) / 2
    log_u = torch.logaddexp(_log_softplus(-first), _log_softplus(-second)) - math.log(2)
    small = u < 1e-3
    log_rest = torch.where(small, log_u - u / 2, (-torch.expm1(-u.masked_fill(small, 1.0))).log())
    return -u - log_rest


def _log_softplus(x: Tensor) -> Tensor:
    """log(log(1 + exp(x))), by its series where exp(x) is small."""
    small = x < -10
    series = x - x.clamp(max=-10).exp() / 2
    return torch.where(small, series, F.softplus(x.masked_fill(small, 0.0)).log())


def build_fcos(
    name: str, *, num_classes: int, input_size: int | None = None, weights: str | Path | None = None
) -> FCOS:
    """An FCOS by its torchvision name; `build_by_name` documents the arguments and the errors."""
    return build_by_name(FCOS_FAMILY, name, num_classes=num_classes, weights=weights, **shorter_side(input_size))


def num_classes_in(state: Mapping[str, Tensor]) -> int | None:
    """The number of classes in an FCOS's state, without background; None for another state."""
    scores, centers = (
        state.get("head.classification_head.cls_logits.bias"),
        state.get("head.regression_head.bbox_ctrness.bias"),
    )
    return None if scores is None or centers is None else len(scores) // len(centers) - 1


def replace_predictor(model: FCOS, num_classes: int) -> None:
    """Give the model a last layer of the classification with torchvision's random weights; boxes know no classes."""
    old = model.head.classification_head
    fresh = FCOSClassificationHead(old.cls_logits.in_channels, old.num_anchors, num_classes + 1, num_convs=0)
    old.cls_logits, old.num_classes = fresh.cls_logits.to(old.cls_logits.weight.device), num_classes + 1


FCOS_FAMILY = Family(
    library="torchvision",
    names=tuple(list_models(include="fcos_*")),
    takes=lambda model: isinstance(model, FCOS),
    build=build_fcos,
    around=FCOSDetector,
    classes_known=num_classes_in,
    replace_predictor=replace_predictor,
)
