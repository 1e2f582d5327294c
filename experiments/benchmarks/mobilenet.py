"""A Faster R-CNN on MobileNetV2 with a feature pyramid: a detector of one's own, of real size, that trains on a CPU."""

from pathlib import Path

import torch
from torchvision.models import mobilenet_v2
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign

STAGES = {"6": "0", "13": "1", "18": "2"}
"""Of MobileNetV2's features: strides 8, 16 and 32."""
POOLED = 7


def mobilenet_faster_rcnn(
    num_classes: int,
    image_size: int,
    weights: Path | None = None,
    *,
    num_channels: int = 128,
    representation_size: int = 1024,
) -> FasterRCNN:
    """The detector, random but for the backbone's ImageNet `weights`; `num_classes` is without background.

    The pyramid's maps have `num_channels`, the box head's two layers `representation_size` units.
    """
    network = mobilenet_v2(weights=None)
    if weights is not None:
        network.load_state_dict(torch.load(weights, weights_only=True))
    backbone = BackboneWithFPN(network.features, STAGES, [32, 96, 1280], out_channels=num_channels)
    sizes = tuple((size,) for size in (16, 32, 64, 128))  # the pyramid has one more level, by pooling
    return FasterRCNN(
        backbone,
        min_size=image_size,
        max_size=2 * image_size,
        rpn_anchor_generator=AnchorGenerator(sizes=sizes, aspect_ratios=((0.5, 1.0, 2.0),) * len(sizes)),
        rpn_post_nms_top_n_train=500,
        rpn_post_nms_top_n_test=500,
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], output_size=POOLED, sampling_ratio=2),
        box_head=TwoMLPHead(num_channels * POOLED**2, representation_size),
        box_predictor=FastRCNNPredictor(representation_size, num_classes + 1),
        box_score_thresh=0.0,
    )
