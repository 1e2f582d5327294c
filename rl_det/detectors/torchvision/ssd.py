"""torchvision's SSD and SSDlite: a softmax with a background, and each level with layers of its own."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.models import list_models
from torchvision.models.detection.ssd import SSD, SSDClassificationHead
from torchvision.models.detection.ssdlite import SSDLiteClassificationHead

from rl_det.detectors.family import Family
from rl_det.detectors.recalibration import PerClass, fold
from rl_det.detectors.torchvision.building import build_by_name
from rl_det.detectors.torchvision.levels import map_sizes
from rl_det.detectors.torchvision.one_stage import DELTAS, SCORES, OneStage
from rl_det.detectors.torchvision.resized import LEFT_OUT
from rl_det.detectors.torchvision.two_stage import log_odds
from rl_det.errors import UserError

CERTAIN = 1e4
"""A score beside which a softmax gives all others exactly nothing."""


class SSDDetector(OneStage):
    """The Detector around an SSD or an SSDlite. Its parts `predictor` and `head` are the same: the head.

    Each level has layers of its own, which take the backbone's maps; an embedding is the input of the last of them.
    """

    model: SSD
    read: ClassVar = {
        "head": ("classification_head", "regression_head"),
        "head.classification_head": ("module_list", "num_columns"),
        "head.regression_head": ("module_list",),
    }

    @property
    def num_classes(self) -> int:
        """The softmax's columns without the background."""
        return int(self.model.head.classification_head.num_columns) - 1

    def last_layers(self) -> dict[str, list[nn.Conv2d]]:
        """One for each level: an SSD's only one, the last of an SSDlite's."""
        head = self.model.head
        branches = {SCORES: head.classification_head, DELTAS: head.regression_head}
        return {name: [_last(level) for level in branch.module_list] for name, branch in branches.items()}

    def log_odds(self, predicted: dict[str, Tensor]) -> Float[Tensor, "B P C"]:
        """Those of the softmax."""
        scores = predicted[SCORES]
        logits: Tensor = log_odds(scores.flatten(0, 1))[:, 1:].unflatten(0, scores.shape[:2])
        return logits

    def losses(
        self,
        objects: list[dict[str, Tensor]],
        predicted: dict[str, Tensor],
        anchors: Float[Tensor, "B P 4"],
        matched: Int[Tensor, "B P"],
    ) -> dict[str, Tensor]:
        """The model's own losses, with its mining of hard background; an image without objects teaches nothing.

        An anchor that is left out is certain background: it has no loss and no gradient, and is mined last.
        """
        background = torch.zeros_like(predicted[SCORES])
        background[..., 0] = CERTAIN
        scores = torch.where((matched == LEFT_OUT)[..., None], background, predicted[SCORES])
        losses: dict[str, Tensor] = self.model.compute_loss(
            objects, {**predicted, SCORES: scores}, list(anchors), list(matched)
        )
        return losses

    @torch.no_grad()
    def recalibrate(self, scale: PerClass, shift: PerClass) -> None:
        """Scale and shift each class's distance from the background's score."""
        for layer in self.last_layers()[SCORES]:
            fold(layer, scale, shift, columns=self.num_classes + 1, classes=slice(1, None), background=0)


def _last(level: nn.Module) -> nn.Conv2d:
    """A level's last layer, which `OneStage` checks."""
    last: Any = level[-1] if isinstance(level, nn.Sequential) else level
    layer: nn.Conv2d = last
    return layer


def build_ssd(name: str, *, num_classes: int, input_size: int | None = None, weights: str | Path | None = None) -> SSD:
    """An SSD by its torchvision name; `build_by_name` documents the arguments and the errors.

    All images are resized to a square, of side `input_size` if it is given. Raises ValueError if it is too small.
    """
    model: SSD = build_by_name(SSD_FAMILY, name, num_classes=num_classes, weights=weights)
    if input_size is not None:
        model.transform.min_size, model.transform.max_size = (input_size,), input_size
        model.transform.fixed_size = (input_size, input_size)
        try:
            map_sizes(model.backbone, (input_size, input_size))
        except RuntimeError as error:  # a kernel larger than its map
            raise UserError(
                f"input_size must leave a place on the coarsest map of {name}; got {input_size}; its own (None) is usual"
            ) from error
    return model


def num_classes_in(state: Mapping[str, Tensor]) -> int | None:
    """The number of classes in the state of an SSD or SSDlite, without background; None for another state."""
    for last in ("0", "0.1"):
        scores, deltas = (
            state.get(f"head.{branch}_head.module_list.{last}.bias") for branch in ("classification", "regression")
        )
        if scores is not None and deltas is not None:
            return 4 * len(scores) // len(deltas) - 1
    return None


def replace_predictor(model: SSD, num_classes: int) -> None:
    """Give each level a last layer of the classification with torchvision's random weights; boxes know no classes."""
    old = model.head.classification_head
    lasts = [_last(level) for level in old.module_list]
    channels, device = [last.in_channels for last in lasts], lasts[0].weight.device
    of_lite = isinstance(old.module_list[0], nn.Sequential)
    head = partial(SSDLiteClassificationHead, norm_layer=nn.BatchNorm2d) if of_lite else SSDClassificationHead
    fresh = head(channels, model.anchor_generator.num_anchors_per_location(), num_classes + 1).to(device)
    for level, own in enumerate(fresh.module_list):
        if of_lite:
            old.module_list[level][-1] = own[-1]
        else:
            old.module_list[level] = own
    old.num_columns = num_classes + 1


SSD_FAMILY = Family(
    library="torchvision",
    names=tuple(list_models(include=["ssd300_*", "ssdlite320_*"])),
    takes=lambda model: isinstance(model, SSD),
    build=build_ssd,
    around=SSDDetector,
    classes_known=num_classes_in,
    replace_predictor=replace_predictor,
)
