"""A toy detector whose best ranking is known, and its data: what the agents' learning tests learn."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from rl_det.candidates import select_candidates
from rl_det.detectors import Architecture
from rl_det.detectors.encodings import EncodedDataset
from rl_det.detectors.protocol import Part
from rl_det.types import Candidates, Detections, Encoded, HeadOutput, Target, TrainingPass

NUM_PROPOSALS, NUM_FEATURES, NUM_IMAGES = 10, 6, 64


class ToyDetector:
    """One class; the head is linear. Feature 0 says whether a proposal is an object, the others say nothing."""

    num_classes, nms_iou, max_detections, embedding_size, is_trained = 1, 0.5, 100, NUM_FEATURES, True
    architecture = Architecture(library="own", name="toy", num_classes=1, input_size=None)
    device = torch.device("cpu")
    part: Part = "head"
    overlapping_proposals, moves_boxes = True, True
    backbone = nn.Identity()

    def __init__(self) -> None:
        self.scores = nn.Linear(NUM_FEATURES, 1)
        nn.init.zeros_(self.scores.bias)
        with torch.no_grad():  # a start that looks at what does not matter
            self.scores.weight.copy_(torch.tensor([[0.0, 0.5, -0.5, 0.5, 0.0, 0.0]]))

    def encode(self, images: Sequence[Float[Tensor, "3 _ _"]], num_proposals: int | None = None) -> Encoded:
        raise NotImplementedError("the toy's data set is encoded from the start")

    def training_losses(
        self, images: Sequence[Float[Tensor, "3 _ _"]], labels: Sequence[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        raise NotImplementedError

    def training_pass(
        self, images: Sequence[Float[Tensor, "3 _ _"]], labels: Sequence[dict[str, Tensor]]
    ) -> TrainingPass:
        raise NotImplementedError

    def head(self, encoded: Encoded) -> HeadOutput:
        return HeadOutput(self.scores(encoded.features[0]), encoded.reference[:, :, None], encoded.features[0])

    def propose(self, encoded: Encoded, num_candidates: int) -> Candidates:
        return select_candidates(self.head(encoded), encoded.mask, num_candidates)

    def detect(self, images: Sequence[Float[Tensor, "3 _ _"]]) -> list[Detections]:
        raise NotImplementedError

    def loss(self, encoded: Encoded, targets: Sequence[Target], output: HeadOutput) -> dict[str, Tensor]:
        raise NotImplementedError

    @property
    def trainable(self) -> nn.Module:
        return nn.ModuleDict({"scores": self.scores})

    @property
    def recalibrates_classes(self) -> bool:
        return True

    def recalibrate(self, scale: float, shift: float) -> None:
        raise NotImplementedError

    def plain(self) -> nn.Module:
        return self.scores


def toy_data(seed: int) -> EncodedDataset:
    """Boxes that do not overlap; three to six of the ten are objects."""
    rng = np.random.default_rng(seed)
    corners = np.stack([20.0 * np.arange(NUM_PROPOSALS), np.zeros(NUM_PROPOSALS)], 1)
    boxes = torch.tensor(np.concatenate([corners, corners + 10], 1), dtype=torch.float32)
    features = torch.tensor(rng.normal(size=(NUM_IMAGES, NUM_PROPOSALS, NUM_FEATURES)), dtype=torch.float16)
    targets = []
    for image in range(NUM_IMAGES):
        objects = torch.tensor(rng.permutation(NUM_PROPOSALS)[: rng.integers(3, 7)])
        features[image, :, 0] = -1.0
        features[image, objects, 0] = 1.0
        count = len(objects)
        targets.append(
            Target(
                boxes=boxes[objects],
                labels=torch.ones(count, dtype=torch.int64),
                area=torch.full((count,), 100.0),
                iscrowd=torch.zeros(count, dtype=torch.bool),
                image_id=image,
            )
        )
    encoded = Encoded(
        features=(features,),
        reference=boxes.expand(NUM_IMAGES, -1, -1).contiguous(),
        mask=torch.ones(NUM_IMAGES, NUM_PROPOSALS, dtype=torch.bool),
        input_size=torch.tensor([[10.0, 200.0]]).expand(NUM_IMAGES, -1).contiguous(),
        image_size=torch.tensor([[10.0, 200.0]]).expand(NUM_IMAGES, -1).contiguous(),
    )
    return EncodedDataset(encoded, targets)
