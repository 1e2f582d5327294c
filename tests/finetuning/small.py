"""Small data, a detector of the user's own, and a budget of seconds, for the tests of the front door."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.transforms.functional import to_pil_image

from rl_det import Budget
from rl_det.data.digit_scenes import CLASSES, DigitScenes
from rl_det.types import Sample

NUM_IMAGES = {"train": 6, "val": 5, "test": 5}
SEEDS = {"train": 11, "val": 12, "test": 13}
BUDGET = Budget(
    num_updates=2,
    images_per_update=4,
    num_validations=2,
    max_views=1,
    num_draws=5,
    evaluated_candidates=80,
    validated_candidates=64,
    supervised_steps=2,
    supervised_validations=1,
    warm_start_share=0.004,
)
TWO = {3: "low", 7: "high"}
"""Categories of digits up to 4, and of the others, with ids of their own."""


@cache
def scene(split: str, index: int) -> Sample:
    """A digit scene, drawn once."""
    return DigitScenes("train", num_scenes=index + 1, seed=SEEDS[split])[index]


def write_folder(root: Path, categories: dict[int, str] | None = None, **num_images: int) -> Path:
    """Digit scenes as a COCO-format folder: of ten categories named after digits, or of the two that are given."""
    (root / "images").mkdir(parents=True)
    names = categories or dict(enumerate(CLASSES, start=1))
    ids = list(names)
    for split, count in (NUM_IMAGES | num_images).items():
        document: dict[str, Any] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": key, "name": name} for key, name in names.items()],
        }
        for index in range(count):
            sample = scene(split, index)
            file = f"{split}{index}.png"
            to_pil_image(sample.image).save(root / "images" / file)
            document["images"].append({"id": index + 1, "file_name": file, "width": 128, "height": 128})
            for box, label in zip(sample.target.boxes.tolist(), sample.target.labels.tolist(), strict=True):
                document["annotations"].append(
                    {
                        "id": len(document["annotations"]) + 1,
                        "image_id": index + 1,
                        "category_id": ids[(label - 1) * len(ids) // 10],
                        "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                        "area": (box[2] - box[0]) * (box[3] - box[1]),
                        "iscrowd": 0,
                    }
                )
        (root / f"{split}.json").write_text(json.dumps(document))
    return root


class Pairs(torch.utils.data.Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """A user's own data set, as torchvision's references train on it: of two classes."""

    def __init__(self, split: str, count: int | None = None) -> None:
        self.split, self.count = split, count or NUM_IMAGES[split]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        if index >= self.count:
            raise IndexError(index)
        image, target = scene(self.split, index).image.clone(), scene(self.split, index).target
        return image, {"boxes": target.boxes.clone(), "labels": (target.labels + 4) // 5}


class OfThree(Pairs):
    """Digit scenes of as many classes as the contract's detectors have."""

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image, target = super().__getitem__(index)
        return image, {"boxes": target["boxes"], "labels": (scene(self.split, index).target.labels - 1) % 3 + 1}


def pairs() -> list[Pairs]:
    """Train, val and test."""
    return [Pairs(split) for split in NUM_IMAGES]


class OneMap(nn.Module):
    """A backbone with one map, of stride 8."""

    out_channels = 16

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 16, 8, stride=8), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images)
        return features


def own_model(num_classes: int = 2, seed: int = 0) -> FasterRCNN:
    """A Faster R-CNN that the user has built; random weights, and scores that are not all the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FasterRCNN(
            OneMap(),
            min_size=128,
            max_size=256,
            rpn_anchor_generator=AnchorGenerator(sizes=((24, 36),), aspect_ratios=((1.0,),)),
            rpn_pre_nms_top_n_test=100,
            rpn_post_nms_top_n_test=40,
            rpn_pre_nms_top_n_train=100,
            rpn_post_nms_top_n_train=40,
            box_roi_pool=MultiScaleRoIAlign(["0"], output_size=3, sampling_ratio=1),
            box_head=TwoMLPHead(OneMap.out_channels * 9, 32),
            box_predictor=FastRCNNPredictor(32, num_classes + 1),
            box_score_thresh=0.0,
        )
        nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.5)
    return model.eval()


def same_state(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two state_dicts are equal, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
