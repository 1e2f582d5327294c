"""Small one-stage detectors with lively random weights, for the contract's tests."""

from collections import OrderedDict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead

from rl_det.detectors import FCOSDetector, OneStage, RetinaNetDetector, SSDDetector
from rl_det.detectors.protocol import Part

EVERY = 100_000  # more detections than there are
AROUND: dict[str, type[OneStage]] = {
    "retinanet": RetinaNetDetector,
    "fcos": FCOSDetector,
    "ssd": SSDDetector,
    "ssdlite": SSDDetector,
}
ONE_STAGE_FAMILIES = tuple(AROUND)


class TwoLevels(nn.Module):
    """A backbone with two maps, strides 8 and 16: small, but with levels that can be confused."""

    def __init__(self, fine: int, coarse: int) -> None:
        super().__init__()
        self.out_channels = fine if fine == coarse else [fine, coarse]
        self.fine = nn.Sequential(nn.Conv2d(3, fine, 8, stride=8), nn.ReLU())
        self.coarse = nn.Sequential(nn.Conv2d(fine, coarse, 2, stride=2), nn.ReLU())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        fine = self.fine(images)
        return OrderedDict([("0", fine), ("1", self.coarse(fine))])


def one_stage_model(family: str, num_classes: int) -> Any:
    """The library's model with its own random weights."""
    options: dict[str, Any] = {
        "num_classes": num_classes + 1,
        "score_thresh": 0.0,
        "topk_candidates": EVERY,
        "detections_per_img": EVERY,
    }
    if family == "retinanet":
        anchors = AnchorGenerator(sizes=((16,), (32,)), aspect_ratios=((0.5, 1.0, 2.0),) * 2)
        return RetinaNet(TwoLevels(16, 16), min_size=64, max_size=128, anchor_generator=anchors, **options)
    if family == "fcos":  # its head normalises groups of 32 channels
        anchors = AnchorGenerator(sizes=((8,), (16,)), aspect_ratios=((1.0,),) * 2)
        return FCOS(TwoLevels(32, 32), min_size=64, max_size=128, anchor_generator=anchors, **options)
    boxes = DefaultBoxGenerator([[2], [2, 3]], scales=[0.3, 0.6, 0.9])
    if family == "ssdlite":
        counts, norm_layer = boxes.num_anchors_per_location(), partial(nn.BatchNorm2d, eps=0.001)
        options["head"] = SSDLiteHead([16, 24], counts, num_classes + 1, norm_layer)
    return SSD(TwoLevels(16, 24), boxes, (96, 64), **options)


@torch.no_grad()
def lively_one_stage(family: str, num_classes: int, part: Part = "head") -> OneStage:
    """Random heads say nearly the same of everything; these do not, and spread classes and boxes."""
    model = one_stage_model(family, num_classes)
    for layer in model.head.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    detector = AROUND[family](model.eval(), part=part)
    for layer in detector.last_layers()["cls_logits"]:
        columns = layer.bias.fill_(0.4).view(-1, num_classes + 1)
        # a trained softmax mostly says background, and a trained sigmoid never fires in torchvision's unused column for it
        columns[:, 0] = 3.0 if isinstance(model, SSD) else -40.0
    return detector
