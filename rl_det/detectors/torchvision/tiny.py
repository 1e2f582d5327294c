"""Build `tiny`, a torchvision Faster R-CNN with less than a million parameters, quick to train on a CPU."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import Conv2dNormActivation, MultiScaleRoIAlign

from rl_det.detectors.torchvision.two_stage import FASTER_RCNN
from rl_det.errors import UserError
from rl_det.progress import tell
from rl_det.storage.weights import SUFFIXES, load_state, state_file

SHIPPED_WEIGHTS = Path(__file__).parents[1] / "weights" / "tiny_digit_scenes.safetensors"
"""The warm start on digit scenes, in half precision, made by `experiments/warm_start.py`."""


class TinyBackbone(nn.Module):
    """Images [B, 3, H, W] -> one feature map [B, 64, H/4, W/4]: fine in place, coarse in meaning (a small FPN)."""

    out_channels = 64

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            Conv2dNormActivation(3, 24, kernel_size=3, stride=2), Conv2dNormActivation(24, 48, kernel_size=3, stride=2)
        )
        self.fine = nn.Sequential(Residual(48), Residual(48))
        self.coarse = nn.Sequential(Conv2dNormActivation(48, 96, kernel_size=3, stride=2), Residual(96), Residual(96))
        self.lateral = nn.Conv2d(48, self.out_channels, kernel_size=1)
        self.top = nn.Conv2d(96, self.out_channels, kernel_size=1)
        self.smooth = Conv2dNormActivation(self.out_channels, self.out_channels, kernel_size=3)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.fine(self.stem(images))
        top = self.top(self.coarse(fine))
        mixed = self.lateral(fine) + F.interpolate(top, size=fine.shape[-2:], mode="nearest")
        smooth: Tensor = self.smooth(mixed)
        return smooth


class Residual(nn.Module):
    """Two 3 x 3 convolutions with a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = Conv2dNormActivation(channels, channels, kernel_size=3)
        self.second = Conv2dNormActivation(channels, channels, kernel_size=3, activation_layer=None)

    def forward(self, features: Tensor) -> Tensor:
        return F.relu(features + self.second(self.first(features)))


def tiny(num_classes: int, *, input_size: int = 128) -> FasterRCNN:
    """The detector with random weights; `num_classes` excludes the background, `input_size` is the shorter side in pixels."""
    backbone = TinyBackbone().to(memory_format=torch.channels_last)  # a fifth faster to train on a CPU
    return FasterRCNN(
        backbone,
        min_size=input_size,
        max_size=2 * input_size,
        rpn_anchor_generator=AnchorGenerator(sizes=((16, 23, 32, 44),), aspect_ratios=((1.0, 1.5),)),
        rpn_pre_nms_top_n_train=400,
        rpn_pre_nms_top_n_test=300,
        rpn_nms_thresh=0.8,
        rpn_post_nms_top_n_train=150,
        rpn_post_nms_top_n_test=100,
        rpn_batch_size_per_image=128,
        box_roi_pool=MultiScaleRoIAlign(["0"], output_size=5, sampling_ratio=1),
        box_head=TwoMLPHead(backbone.out_channels * 25, 192),
        box_predictor=FastRCNNPredictor(192, num_classes + 1),
        box_batch_size_per_image=64,
        box_score_thresh=0.0,
        box_nms_thresh=0.6,  # digits overlap; 0.5 is torchvision's
    )


def built(
    name: str, *, num_classes: int, input_size: int | None = None, weights: str | Path | None = None
) -> FasterRCNN:
    """`tiny` with random weights or those of a file. Raises ValueError for other weights, and for those that do not fit."""
    model = tiny(num_classes, **({} if input_size is None else {"input_size": input_size})).eval()
    file = state_file(weights)
    if file is not None:
        load_state(model, file, tell=tell)
    elif weights not in (None, "none"):
        raise UserError(f"the weights of {name} must be 'none' or a file ({', '.join(SUFFIXES)}); got {weights!r}")
    return model


TINY = replace(FASTER_RCNN, library="rl_det", names=("tiny",), takes=lambda model: False, build=built)
