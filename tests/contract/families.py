"""Small detectors of each family with lively random weights, and images of three sizes, for the contract's tests."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from contract.one_stage_families import ONE_STAGE_FAMILIES, lively_one_stage, one_stage_model
from contract.query_families import QUERY_FAMILIES, lively_query_detector, query_model
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.backbone_utils import BackboneWithFPN

from rl_det.detectors import Detector, build_detector
from rl_det.detectors.protocol import Part
from rl_det.detectors.torchvision.tiny import tiny

NUM_CLASSES = 3
EVERY = 100_000  # more candidates, or detections, than there are
MOBILENET = "fasterrcnn_mobilenet_v3_large_320_fpn"


def retinanet() -> RetinaNet:
    return one_stage_model("retinanet", NUM_CLASSES)


@torch.no_grad()
def lively_two_stage(detector: Detector) -> Detector:
    """Random predictors say the same of everything; these do not, and spread classes and boxes."""
    model = detector.plain()
    predictor = model.roi_heads.box_predictor
    encoded = detector.encode(IMAGES)
    if isinstance(model.backbone, BackboneWithFPN):  # untrained, its signal dies away below what half precision holds
        for block in model.backbone.fpn.layer_blocks:
            block[0].weight /= encoded.features[0][encoded.mask].std()
        encoded = detector.encode(IMAGES)
    embeddings = detector.head(encoded).embeddings[encoded.mask]
    spread = float((embeddings - embeddings.mean(0)).norm(dim=1).mean().clamp(min=1e-6))
    nn.init.normal_(predictor.cls_score.weight, std=3.0 / spread)
    nn.init.normal_(predictor.bbox_pred.weight, std=2.0 / spread)
    for layer in (predictor.cls_score, predictor.bbox_pred):
        layer.bias.copy_(-layer.weight @ embeddings.mean(0))
    model.roi_heads.detections_per_img = EVERY
    return detector


def lively_retinanet() -> Detector:
    return lively_one_stage("retinanet", NUM_CLASSES)


class Case(NamedTuple):
    """A detector, how its library builds the same architecture, and what the contract leaves to each family."""

    detector: Detector
    fresh: Callable[[], nn.Module]
    early: nn.Module
    """Layers, not all frozen by the library, that run once in a training pass."""
    softmax: tuple[nn.Linear, int] | None = None
    """The linear layer and its column of the background, if classes compete in a softmax."""
    recalibrates_exactly: bool = False
    """Whether each class has a sigmoid, and no other factor."""
    is_query_detector: bool = False
    """Whether it matches one query to each object, and has no NMS."""


def images() -> list[Tensor]:
    """Three sizes: one smaller than the detectors' own, one wide, one tall."""
    generator = torch.Generator().manual_seed(0)
    coarse = [torch.rand(3, *size, generator=generator) for size in ((6, 6), (5, 12), (10, 7))]
    return [nn.functional.interpolate(image[None], scale_factor=8.0, mode="bilinear")[0] for image in coarse]


IMAGES = images()


FAMILIES = ("tiny", MOBILENET, *ONE_STAGE_FAMILIES, *QUERY_FAMILIES)


def build(family: str) -> Case:
    """One family's detector, by its name in `FAMILIES`."""
    torch.manual_seed(0)
    if family in ONE_STAGE_FAMILIES:
        return one_stage_case(family)
    if family in QUERY_FAMILIES:
        return query_case(family)
    detector = lively_two_stage(build_detector(family, num_classes=NUM_CLASSES, input_size=64))

    def fresh() -> FasterRCNN:
        if family == "tiny":
            model = tiny(NUM_CLASSES, input_size=64)
        else:
            options = {"weights_backbone": None, "min_size": 64, "max_size": 128}
            model = get_model(MOBILENET, num_classes=NUM_CLASSES + 1, box_score_thresh=0.0, **options)
        model.roi_heads.detections_per_img = EVERY
        return model

    softmax = detector.plain().roi_heads.box_predictor.cls_score, 0
    return Case(detector, fresh, detector.plain().backbone, softmax=softmax)


def one_stage_case(family: str) -> Case:
    detector = lively_one_stage(family, NUM_CLASSES)
    fresh = partial(one_stage_model, family, NUM_CLASSES)
    return Case(detector, fresh, detector.plain().backbone, recalibrates_exactly=family == "retinanet")


def query_case(family: str) -> Case:
    detector = lively_query_detector(family, NUM_CLASSES, IMAGES)
    anatomy = detector.anatomy
    return Case(
        detector,
        partial(query_model, family, NUM_CLASSES),
        detector.plain().model.encoder,
        softmax=(anatomy.classifier, NUM_CLASSES) if anatomy.is_softmax else None,
        recalibrates_exactly=not anatomy.is_softmax,
        is_query_detector=True,
    )


def same_with(part: Part, detector: Detector) -> Detector:
    """Another Detector around the same model, which trains this part."""
    return type(detector)(detector.plain(), architecture=detector.architecture, part=part)  # type: ignore[call-arg]


@contextmanager
def restored(detector: Detector) -> Iterator[None]:
    """What a test does to the weights is undone."""
    before = {name: tensor.clone() for name, tensor in detector.plain().state_dict().items()}
    try:
        yield
    finally:
        detector.plain().load_state_dict(before)
