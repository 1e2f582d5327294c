"""A torchvision one-stage detector as a Detector: a head on the backbone's maps predicts for every anchor."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD

from rl_det.candidates import select_candidates
from rl_det.detectors.own_layers import CONVOLUTION, WITHOUT_BIAS, check_layer, check_parts, inputs_of
from rl_det.detectors.protocol import Architecture, Part
from rl_det.detectors.recalibration import PerClass
from rl_det.detectors.torchvision.groups import in_order, one_size_together, padded
from rl_det.detectors.torchvision.levels import (
    Size,
    as_levels,
    at_places,
    at_rows,
    by_sizes,
    cut_out,
    flattened,
    largest_sizes,
    map_sizes,
    places_of_anchors,
    windows,
)
from rl_det.detectors.torchvision.resized import LEFT_OUT, assign_objects, original_boxes, resized_targets
from rl_det.detectors.torchvision.traced import alone, best_places, transformed
from rl_det.types import Candidates, Detections, Encoded, HeadOutput, Target, TrainingPass, concatenate

NUM_PROPOSALS = 1000
"""How many anchors an encoding keeps, if the caller does not say."""
SCORES, DELTAS = "cls_logits", "bbox_regression"
"""The head's outputs that every family has, by torchvision's names."""


class HeadRun(NamedTuple):
    """One run of the head over images of one padded size, for all their anchors."""

    predicted: dict[str, Tensor]
    """The head's outputs by torchvision's names, each [B, N, K]."""
    inputs: dict[str, list[Tensor]]
    """What the last layer of each output takes, for each level [B, D, H, W]."""


class OneStage(ABC):
    """The Detector around a one-stage model; `rl_det.detectors.protocol` documents each method.

    An encoding keeps the anchors with the highest class logit, and `exact` holds their numbers and the sizes of the padded
    image and of the maps. What is encoded are the resized images (part `all`), the backbone's maps (`head`), or what the
    last convolutions see at each kept anchor (`predictor`). Maps of all sizes are flattened to the length of the largest.

    Each image is encoded, and detected, as it is alone: only images of one padded size run together, because torchvision
    would pad all images of a batch to the largest, and then sees other zeros at their borders.
    """

    overlapping_proposals, moves_boxes, traces_any_size = True, True, True
    read: ClassVar[Mapping[str, tuple[str, ...]]]
    """What is read of the model's parts, by their dotted names, before the last layers."""

    def __init__(
        self,
        model: RetinaNet | FCOS | SSD,
        *,
        architecture: Architecture | None = None,
        is_trained: bool = True,
        part: Part = "head",
    ) -> None:
        check_parts(model, self.read)
        self.model = model.eval()
        for name, layers in self.last_layers().items():
            for layer in layers:
                check_layer(f"the last layer of {name}", layer, WITHOUT_BIAS if name == DELTAS else CONVOLUTION)
        self.architecture = architecture or Architecture.own(model, self.num_classes)
        self.is_trained, self.part = is_trained, part
        self._lengths: dict[frozenset[Size], list[int]] = {}

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """C, without the background."""

    @abstractmethod
    def last_layers(self) -> dict[str, list[nn.Conv2d]]:
        """The convolutions that give each of the head's outputs: one for each level, or one for all."""

    @abstractmethod
    def log_odds(self, predicted: dict[str, Tensor]) -> Float[Tensor, "B P C"]:
        """The log-odds of the classes, without the background."""

    def decode(self, deltas: Float[Tensor, "R 4"], anchors: Float[Tensor, "R 4"]) -> Float[Tensor, "R 4"]:
        """Boxes in resized pixels, not clipped, by the model's own coder."""
        boxes: Tensor = self.model.box_coder.decode_single(deltas, anchors)
        return boxes

    @abstractmethod
    def losses(
        self,
        objects: list[dict[str, Tensor]],
        predicted: dict[str, Tensor],
        anchors: Float[Tensor, "B P 4"],
        matched: Int[Tensor, "B P"],
    ) -> dict[str, Tensor]:
        """The library's own losses, without the anchors that `matched` leaves out."""

    @property
    def recalibrates_classes(self) -> bool:
        """Whether the scores are sigmoids of their own."""
        return False

    @abstractmethod
    def recalibrate(self, scale: PerClass, shift: PerClass) -> None:
        """Fold the recalibration into the last layers."""

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
    def max_detections(self) -> int:
        """The model's own `detections_per_img`."""
        return int(self.model.detections_per_img)

    @property
    def embedding_size(self) -> int:
        """The number of input channels of the last layer of the classification; the largest, if levels differ."""
        return max(layer.in_channels for layer in self.last_layers()[SCORES])

    @property
    def backbone(self) -> nn.Module:
        """The model's own."""
        backbone: nn.Module = self.model.backbone
        return backbone

    @property
    def trainable(self) -> nn.Module:
        """The last convolutions; beyond them the head; beyond it the backbone. Layers that the user froze stay as they are."""
        if self._on_windows:
            return nn.ModuleDict({name: layer for name, (layer,) in self.last_layers().items()})
        parts = {"head": self.model.head}
        return nn.ModuleDict({"backbone": self.model.backbone, **parts} if self.part == "all" else parts)

    def plain(self) -> RetinaNet | FCOS | SSD:
        """The torchvision model."""
        return self.model.eval()

    @torch.no_grad()
    def encode(self, images: Sequence[Float[Tensor, "3 _ _"]], num_proposals: int | None = None) -> Encoded:
        """Run the whole model, to know the best anchors; keep as many as there are in the largest image, at most."""
        model, images, lengths = self.plain(), self._placed(images), self._longest()
        count = min(NUM_PROPOSALS if num_proposals is None else num_proposals, self._most_anchors())
        parts, order = [], []
        for rows, resized in one_size_together(model.transform, images):
            maps = as_levels(model.backbone(resized.tensors))
            parts.append(self._encoded([images[row] for row in rows], resized, maps, self._run(maps), count, lengths))
            order += rows
        return concatenate(parts, len(images))[torch.tensor(order, device=self.device).argsort()]

    def training_losses(
        self, images: Sequence[Float[Tensor, "3 _ _"]], labels: Sequence[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """torchvision's losses over all anchors."""
        losses: dict[str, Tensor] = self.model.train()(self._placed(images), list(labels))
        self.plain()
        return losses

    def training_pass(
        self, images: Sequence[Float[Tensor, "3 _ _"]], labels: Sequence[dict[str, Tensor]]
    ) -> TrainingPass:
        """Run the whole model once, its head included, all in training mode and with all images in one batch."""
        images = self._placed(images)
        seen: dict[str, Any] = {}
        model = self.model.train()
        with (
            model.transform.register_forward_hook(lambda _, __, output: seen.update(resized=output[0])),
            model.backbone.register_forward_hook(lambda _, __, output: seen.update(maps=as_levels(output))),
            model.head.register_forward_hook(lambda _, __, output: seen.update(predicted=output)),
            inputs_of(self.last_layers()) as inputs,
        ):
            losses: dict[str, Tensor] = model(images, list(labels))
        self.plain()
        run = HeadRun(seen["predicted"], inputs)
        shapes = [seen["resized"].tensors.shape, *(level.shape for level in seen["maps"])]
        count = min(NUM_PROPOSALS, run.predicted[SCORES].shape[1])
        encoded = self._encoded(images, seen["resized"], seen["maps"], run, count, [h * w for *_, h, w in shapes])
        kept = self._kept(run, encoded.exact[0], [(h, w) for *_, h, w in shapes[1:]])
        return TrainingPass(losses, encoded, self._output(encoded, *kept))

    def head(self, encoded: Encoded) -> HeadOutput:
        """The head's output: all classes share an anchor's box, and all anchors of one place share an embedding."""
        return self._head(encoded, for_losses=torch.is_grad_enabled())

    def _head(self, encoded: Encoded, *, for_losses: bool) -> HeadOutput:
        """The head's output, with what its losses take if it is wanted."""
        if self._on_windows:
            on_windows, embeddings = self._predict_on_windows(encoded)
            return self._output(encoded, on_windows, embeddings)._replace(for_losses=on_windows if for_losses else None)
        parts, dense, order = [], [], []
        for rows, run, sizes in self._runs(encoded):
            predicted, embeddings = self._kept(run, encoded.exact[0][rows], sizes)
            parts.append({**predicted, "embeddings": embeddings})
            dense.append(run.predicted)
            order.append(rows)
        joined = in_order(parts, order)
        output = self._output(encoded, joined, joined.pop("embeddings"))
        return output._replace(for_losses=in_order(padded(dense), order)) if for_losses else output

    @torch.no_grad()
    def propose(self, encoded: Encoded, num_candidates: int) -> Candidates:
        """The best pairs over all kept anchors and classes."""
        return select_candidates(self.head(encoded), encoded.mask, num_candidates)

    @torch.no_grad()
    def detect(self, images: Sequence[Float[Tensor, "3 _ _"]]) -> list[Detections]:
        """Detect with the model's own `score_thresh`, `topk_candidates`, `nms_thresh` and `detections_per_img`.

        Detections of torchvision's column 0, which is no class, are dropped.
        """
        images = self._placed(images)
        found: dict[int, dict[str, Tensor]] = {}
        for rows, _ in one_size_together(self.plain().transform, images):
            found.update(zip(rows, self.plain()([images[row] for row in rows]), strict=True))
        kept = [(found[row], found[row]["labels"] > 0) for row in range(len(images))]
        return [
            Detections(boxes=own["boxes"][real], labels=own["labels"][real], scores=own["scores"][real])
            for own, real in kept
        ]

    def loss(self, encoded: Encoded, targets: Sequence[Target], output: HeadOutput) -> dict[str, Tensor]:
        """torchvision's own losses; only the treatment of crowds differs from torchvision's training.

        They are over all anchors; the head runs again if the output was computed without gradients. Where only the last
        convolutions are trained, they are over the kept anchors; these have the objects that they have among all.
        """
        objects, crowds = resized_targets(encoded, targets)
        everywhere = self._everywhere(encoded)
        matched = self.match(everywhere, objects, crowds)
        if self._on_windows:
            matched = matched.gather(1, encoded.exact[0]).masked_fill(~encoded.mask, LEFT_OUT)
        predicted = output.for_losses or self._head(encoded, for_losses=True).for_losses or {}
        reference = encoded.reference if self._on_windows else everywhere.reference
        return self.losses(objects, dict(predicted), reference, matched)

    def match(self, everywhere: Encoded, objects: list[dict[str, Tensor]], crowds: list[Tensor]) -> Int[Tensor, "B N"]:
        """The object of every anchor, as `assign_objects` documents it, by the model's own matcher."""
        return assign_objects(everywhere, objects, crowds, self.model.proposal_matcher)

    def traced(self, image: Float[Tensor, "3 _ _"]) -> tuple[Encoded, HeadOutput]:
        """`Traceable` documents it; as many anchors as an encoding usually keeps. The first call must not be traced."""
        count = min(NUM_PROPOSALS, self._most_anchors())
        resized = transformed(self.plain().transform, image)
        maps = as_levels(self.model.backbone(resized.tensors))
        run = self._run(maps)
        (anchors,) = self.model.anchor_generator(resized, maps)
        kept, mask = best_places(self.log_odds(run.predicted)[0].amax(-1), count)
        encoded = alone(image, resized, anchors[kept], mask)
        sizes = [(level.shape[2], level.shape[3]) for level in maps]
        return encoded, self._output(encoded, *self._kept(run, kept[None], sizes))

    @property
    def _on_windows(self) -> bool:
        """Whether the last convolutions alone are trained. If each level has its own, they are the head."""
        return self.part == "predictor" and all(len(layers) == 1 for layers in self.last_layers().values())

    def _anchors_per_place(self) -> list[int]:
        counts: list[int] = self.model.anchor_generator.num_anchors_per_location()
        return counts

    def _longest(self) -> list[int]:
        """The number of pixels of the largest resized image, and of places in each level's map of it."""
        largest = frozenset(largest_sizes(self.model.transform))
        if largest not in self._lengths:
            several = [[size, *map_sizes(self.plain().backbone, size)] for size in largest]
            self._lengths[largest] = [max(h * w for h, w in level) for level in zip(*several, strict=True)]
        return self._lengths[largest]

    def _most_anchors(self) -> int:
        """The number of anchors of the largest resized image."""
        return sum(length * each for length, each in zip(self._longest()[1:], self._anchors_per_place(), strict=True))

    def _run(self, maps: list[Tensor]) -> HeadRun:
        """Run the head on the maps of all levels."""
        with inputs_of(self.last_layers()) as inputs:
            predicted: dict[str, Tensor] = self.plain().head(maps)
        return HeadRun(predicted, inputs)

    def _encoded(
        self,
        images: Sequence[Tensor],
        resized: ImageList,
        maps: list[Tensor],
        run: HeadRun,
        count: int,
        lengths: list[int],
    ) -> Encoded:
        """The encoding that keeps `count` anchors, padded if there are fewer."""
        anchors = torch.stack(self.model.anchor_generator(resized, maps))
        best = self.log_odds(run.predicted).detach().amax(-1).topk(min(count, anchors.shape[1])).indices
        kept = F.pad(best.sort().values, (0, count - best.shape[1]))
        mask = (torch.arange(count, device=kept.device) < best.shape[1]).expand(len(images), -1)
        sizes = [tuple(level.shape[2:]) for level in (resized.tensors, *maps)]
        return Encoded(
            features=self._features(resized, maps, run, kept, lengths),
            reference=at_rows(anchors, kept),
            mask=mask.clone(),
            input_size=anchors.new_tensor(resized.image_sizes),
            image_size=anchors.new_tensor([image.shape[1:] for image in images]),
            exact=(kept, torch.tensor([sizes] * len(images), device=kept.device)),
        )

    def _features(
        self, resized: ImageList, maps: list[Tensor], run: HeadRun, kept: Int[Tensor, "B P"], lengths: list[int]
    ) -> tuple[Tensor, ...]:
        """What the trained part takes: images, maps, or what the last convolutions of both branches see."""
        if self._on_windows:
            places = self._places(kept, [(level.shape[2], level.shape[3]) for level in maps])
            return tuple(windows(run.inputs[name], places, self.last_layers()[name][0]) for name in (SCORES, DELTAS))
        if self.part == "all":
            return (flattened(resized.tensors, lengths[0]),)
        return tuple(flattened(level, length) for level, length in zip(maps, lengths[1:], strict=True))

    def _places(self, kept: Int[Tensor, "B P"], sizes: Sequence[Size]) -> Int[Tensor, "B P"]:
        """The places of the anchors with these numbers."""
        return places_of_anchors(sizes, self._anchors_per_place(), kept.device)[kept]

    def _kept(self, run: HeadRun, kept: Int[Tensor, "B P"], sizes: Sequence[Size]) -> tuple[dict[str, Tensor], Tensor]:
        """The predictions for the kept anchors, and their embeddings [B, P, D]."""
        predicted = {name: at_rows(values, kept) for name, values in run.predicted.items()}
        return predicted, at_places(run.inputs[SCORES], self._places(kept, sizes), self.embedding_size)

    def _runs(self, encoded: Encoded) -> Iterator[tuple[Int[Tensor, " b"], HeadRun, list[Size]]]:
        """Run the head, or the whole model, on images of equal sizes together: their rows, and the sizes of their maps."""
        for rows, (whole, *sizes) in by_sizes(encoded.exact[1]):
            features = [level[rows] for level in encoded.features]
            if self.part == "all":
                maps = as_levels(self.plain().backbone(cut_out(features[0], whole)))
            else:
                maps = [cut_out(level, size) for level, size in zip(features, sizes, strict=True)]
            yield rows, self._run(maps), sizes

    def _predict_on_windows(self, encoded: Encoded) -> tuple[dict[str, Tensor], Tensor]:
        """The head's outputs for the kept anchors, by torchvision's names [B, P, K], and their embeddings [B, P, D].

        They come from what the last convolutions see, whose weights all levels share.
        """
        seen = {SCORES: encoded.features[0].float()}
        each = self._anchors_per_place()[0]
        anchor = (encoded.exact[0] % each)[..., None, None]  # which of the anchors of its place
        predicted = {}
        for name, (layer,) in self.last_layers().items():
            inputs = seen.get(name, encoded.features[1].float())
            columns = F.conv2d(inputs.flatten(0, 1), layer.weight, layer.bias).reshape(*anchor.shape[:2], each, -1)
            predicted[name] = columns.take_along_dim(anchor, 2).squeeze(2)
        high, wide = seen[SCORES].shape[-2:]
        return predicted, seen[SCORES][..., high // 2, wide // 2]

    def _output(self, encoded: Encoded, predicted: dict[str, Tensor], embeddings: Float[Tensor, "B P D"]) -> HeadOutput:
        """The predictions for the kept anchors as a HeadOutput; the boxes of padding have no area, so they overlap nothing."""
        boxes = self.decode(predicted[DELTAS].flatten(0, 1), encoded.reference.flatten(0, 1))
        boxes = original_boxes(boxes.unflatten(0, encoded.mask.shape)[:, :, None], encoded)
        boxes = boxes.where(encoded.mask[..., None, None], 0.0)
        return HeadOutput(
            logits=self.log_odds(predicted), boxes=boxes.expand(-1, -1, self.num_classes, -1), embeddings=embeddings
        )

    def _everywhere(self, encoded: Encoded) -> Encoded:
        """The same images with all their anchors, padded to those of the largest."""
        rows: dict[int, Tensor] = {}
        for images, (whole, *sizes) in by_sizes(encoded.exact[1]):
            blank = encoded.reference.new_empty(()).expand(1, 3, *whole)  # only shapes matter
            maps = [blank[:, :, :1, :1].expand(-1, -1, *size) for size in sizes]
            (anchors,) = self.model.anchor_generator(ImageList(blank, [whole]), maps)
            rows.update(dict.fromkeys(images.tolist(), anchors))
        in_order = [rows[image] for image in range(len(encoded))]
        reference = pad_sequence(in_order, batch_first=True)
        number = torch.arange(reference.shape[1], device=reference.device)
        mask = number < torch.tensor([len(own) for own in in_order], device=number.device)[:, None]
        kept = number.expand(len(encoded), -1).where(mask, 0)
        return replace(encoded, reference=reference, mask=mask, exact=(kept, encoded.exact[1]))

    def _placed(self, images: Sequence[Tensor]) -> list[Tensor]:
        return [image.to(self.device) for image in images]
