"""Transformers' query detectors as a Detector: DETR, Conditional DETR, Deformable DETR, RT-DETR, RT-DETR v2, D-FINE.

What is frozen, and what an encoding holds, for each part:

* `predictor`: the class and the box predictor of the last decoder layer are trained. An encoding holds what they take
  in: one embedding for each query (in float32, 100 queries of DETR: 0.1 MB; 300 of RT-DETR: 0.3 MB; of D-FINE: 0.8 MB),
  and the point or box that it moves.
* `head`: the last decoder layer is trained too (of DETR and Conditional DETR without the decoder's final layer norm).
  An encoding also holds the encoder's memory, padded to that of the largest image that the image processor makes: DETR
  at 800 to 1333 pixels 2.4 MB, Conditional DETR 3.1 MB, Deformable DETR 23 MB; RT-DETR at 640 pixels 9.2 MB, D-FINE
  9.7 MB. A cache in half precision takes half of it.
* `all`: the whole model is trained. An encoding holds the pixels (4.9 MB at 640, 13 MB at 800 to 1333).
"""

import copy
import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_convert

from rl_det.ap.options import COCO
from rl_det.candidates import select_candidates
from rl_det.detectors.protocol import Architecture, Part
from rl_det.detectors.recalibration import PerClass, fold, mean_of
from rl_det.detectors.torchvision.levels import Size, by_sizes
from rl_det.detectors.torchvision.resized import objects_and_crowds, xyxy
from rl_det.detectors.torchvision.traced import alone
from rl_det.detectors.torchvision.two_stage import log_odds
from rl_det.detectors.transformers.anatomy import ANATOMIES, Predictions, Seen, known_class
from rl_det.detectors.transformers.processing import (
    batches,
    fixed_size,
    largest_size,
    padded,
    processor_of,
    resized,
    resized_by_tensors,
)
from rl_det.errors import UserError
from rl_det.types import Candidates, Detections, Encoded, HeadOutput, Target, TrainingPass

FOR_LOSSES = ("scores", "boxes")
"""The predictions that the library's losses take."""


class QueryDetector:
    """The Detector around a query detector of transformers; `rl_det.detectors.protocol` documents each method.

    Proposals are queries, and all (query, class) pairs are candidates. There is no NMS, so `nms_iou` is 1. The library
    detects less: with sigmoids, the best pairs of all, at most 100, or as many as there are queries (RT-DETR and
    D-FINE); with DETR's softmax, only the best class of each query. Our boxes are clipped to the image, the library's
    are not; and a box that is inside out, as D-FINE's may be, which overlaps nothing, is empty here.

    With the part `all`, the encoder of RT-DETR, D-FINE and a two-stage Deformable DETR chooses its queries anew in each
    pass, so a proposal may look elsewhere as training goes on.
    """

    overlapping_proposals = False
    moves_boxes = True
    nms_iou = 1.0
    max_detections = COCO.max_detections

    def __init__(
        self,
        model: nn.Module,
        *,
        processor: Any = None,
        input_size: int | None = None,
        architecture: Architecture | None = None,
        is_trained: bool = True,
        part: Part = "head",
    ) -> None:
        """`processor` is the model's image processor.

        By default, it is that of the folder or hub name from which the library has loaded the model, or else that of
        the model's type; at `input_size` or the architecture's, if given.
        """
        name = known_class(model)
        if name is None:
            raise UserError(
                f"a query detector must be one of transformers' {', '.join(ANATOMIES)}; got a {type(model).__name__}"
            )
        self.model: Any = model.eval()
        self.anatomy = ANATOMIES[name](self.model)
        if input_size is None and architecture is not None:
            input_size = architecture.input_size
        self.processor = processor or processor_of(self.anatomy, input_size)
        self.num_classes = int(self.anatomy.classifier.out_features) - self.anatomy.is_softmax
        self.architecture = architecture or Architecture(
            library="transformers", name=name, num_classes=self.num_classes, input_size=input_size
        )
        self.is_trained = is_trained
        self.part: Part = part
        self._most_places: int | None = None

    @property
    def device(self) -> torch.device:
        """The model's device."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def embedding_size(self) -> int:
        """The input size of the class predictor."""
        return int(self.anatomy.classifier.in_features)

    @torch.no_grad()
    def encode(self, images: Sequence[Float[Tensor, "3 _ _"]], num_proposals: int | None = None) -> Encoded:
        """Encode the images; those of one size after resizing run together, so an image's encoding depends on no other.

        All queries stay in the encoding of the parts `head` and `all`, because they attend to each other; the head then
        gives the output of the kept ones.
        """
        self.plain()
        pixels = self._resized(images)
        limit = self.anatomy.num_queries if num_proposals is None else min(num_proposals, self.anatomy.num_queries)
        needed = {"kept", *itertools.chain(*self._names())}
        rows: list[Seen] = [{} for _ in images]
        for places, batch in batches(pixels):
            seen = {"pixels": batch.flatten(2)}
            if self.part != "all" or limit < self.anatomy.num_queries:
                seen |= self.anatomy.look(batch)[1]
            seen["kept"] = self._kept(seen, len(batch), limit)
            for row, place in enumerate(places):
                rows[place] = {name: seen[name][row] for name in needed}
        return self._encoded(images, pixels, rows)

    def _kept(self, seen: Seen, num_images: int, limit: int) -> Tensor:
        """The places of the queries with the highest class logit, in rising order [B, P]."""
        if limit == self.anatomy.num_queries:
            return torch.arange(limit, device=self.device).expand(num_images, -1)
        best = self._logits(seen["scores"]).amax(-1).topk(limit, dim=1).indices
        return best.sort(1).values

    def _encoded(self, images: Sequence[Tensor], pixels: Sequence[Tensor], rows: list[Seen]) -> Encoded:
        """What the part takes in, image by image, as one encoding."""
        names, exact = self._names()
        if self.part == "predictor":
            rows = [self._kept_only(row) for row in rows]
        features = [self._stacked(name, [row[name] for row in rows]) for name in names]
        kept = torch.stack([row["kept"] for row in rows])
        return Encoded(
            features=tuple(features),
            reference=kept.new_zeros(*kept.shape, 4, dtype=torch.float32),
            mask=torch.ones_like(kept, dtype=torch.bool),
            input_size=self._sizes(pixels),
            image_size=self._sizes(images),
            exact=tuple(torch.stack([row[name] for row in rows]) for name in exact),
        )

    @property
    def traces_any_size(self) -> bool:
        """Whether all images are resized to one size."""
        return fixed_size(self.processor) is not None

    def traced(self, image: Float[Tensor, "3 _ _"]) -> tuple[Encoded, HeadOutput]:
        """`Traceable` documents it; all queries are proposals."""
        pixels = resized_by_tensors(self.processor, image)
        _, seen = self.anatomy.look(pixels[None])
        mask = torch.ones(1, self.anatomy.num_queries, dtype=torch.bool, device=self.device)
        encoded = alone(image, ImageList(pixels[None], [tuple(pixels.shape[1:])]), seen["boxes"][0], mask[0])
        return encoded, self._output(Predictions(seen["scores"], seen["boxes"], seen["embeddings"]), encoded)

    def _names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The names of an encoding's `features`, and of its `exact`."""
        anatomy = self.anatomy
        if self.part == "predictor":
            return ("embeddings", *anatomy.context), anatomy.places
        if self.part == "head":
            features = (*anatomy.queries, *anatomy.context, *anatomy.memory)
            return features, (*anatomy.places, *anatomy.sampled, "shapes", "kept")
        return ("pixels",), ("kept",)

    def _kept_only(self, row: Seen) -> Seen:
        """The kept queries' rows of all that the predictors take in."""
        of_queries = ("embeddings", *self.anatomy.context, *self.anatomy.places)
        return {"kept": row["kept"]} | {name: row[name][row["kept"]] for name in of_queries}

    def _stacked(self, name: str, tensors: list[Tensor]) -> Tensor:
        """One feature of all images; what grows with an image's size is padded to the size of the largest there can be."""
        if name not in (*self.anatomy.memory, "pixels"):
            return torch.stack(tensors)
        axis = -1 if name == "pixels" else 0
        most = max(tensor.shape[axis] for tensor in tensors)
        largest = largest_size(self.processor)
        if largest is not None:
            most = max(most, math.prod(largest) if name == "pixels" else self._places_of(largest))
        missing = [most - tensor.shape[axis] for tensor in tensors]
        return torch.stack(
            [
                pad(tensor, (0, count) if name == "pixels" else (0, 0, 0, count))
                for tensor, count in zip(tensors, missing, strict=True)
            ]
        )

    def _places_of(self, size: tuple[int, int]) -> int:
        """The number of places in the encoder's memory of an image of this size; the largest image runs once to tell."""
        if self._most_places is None:
            _, seen = self.anatomy.look(torch.zeros(1, 3, *size, device=self.device))
            self._most_places = int(seen[self.anatomy.memory[0]].shape[1])
        return self._most_places

    def head(self, encoded: Encoded) -> HeadOutput:
        """The head's output: all classes share a query's box."""
        self.plain()
        predictions = self._predictions(encoded)
        for_losses = {name: getattr(predictions, name) for name in FOR_LOSSES} if torch.is_grad_enabled() else None
        return self._output(predictions, encoded)._replace(for_losses=for_losses)

    def _predictions(self, encoded: Encoded) -> Predictions:
        """The predictors' own results; images of one size run together."""
        names, exact = self._names()
        seen = dict(zip((*names, *exact), (*encoded.features, *encoded.exact), strict=True))
        seen |= {name: seen[name].float() for name in names}
        if self.part == "predictor":
            return self.anatomy.predict(seen)
        sizes = seen["shapes"] if self.part == "head" else encoded.input_size.long()[:, None]
        order, parts = [], []
        for images, shapes in by_sizes(sizes):
            some = {name: tensor[images] for name, tensor in seen.items()}
            predictions = self._behind_layer(some, shapes) if self.part == "head" else self._whole(some, shapes)
            kept = some["kept"][..., None]
            parts.append([tensor.gather(1, kept.expand(-1, -1, tensor.shape[-1])) for tensor in predictions])
            order.append(images)
        back = torch.cat(order).argsort()
        return Predictions(*(torch.cat(tensors)[back] for tensors in zip(*parts, strict=True)))

    def _behind_layer(self, seen: Seen, shapes: tuple[Size, ...]) -> Predictions:
        """The predictions from the last layer's arguments, for images of one size."""
        num_places = sum(height * width for height, width in shapes)
        seen |= {name: seen[name][:, :num_places] for name in self.anatomy.memory}
        hidden = self.anatomy.run_layer(seen, shapes)
        return self.anatomy.predict(seen | {"embeddings": self.anatomy.embed(hidden, is_trained=False)})

    def _whole(self, seen: Seen, shapes: tuple[Size, ...]) -> Predictions:
        """The predictions from the pixels, for images of one size."""
        ((height, width),) = shapes
        pixels = seen["pixels"][..., : height * width].unflatten(-1, (height, width))
        _, found = self.anatomy.look(pixels)
        return Predictions(found["scores"], found["boxes"], found["embeddings"])

    def _output(self, predictions: Predictions, encoded: Encoded) -> HeadOutput:
        """The predictions as a HeadOutput."""
        near, far = box_convert(predictions.boxes.float(), "cxcywh", "xyxy").clamp(0, 1).split(2, -1)
        boxes = torch.cat([near, far.maximum(near)], -1) * xyxy(encoded.image_size)[:, None]
        return HeadOutput(
            logits=self._logits(predictions.scores),
            boxes=boxes[:, :, None].expand(-1, -1, self.num_classes, -1),
            embeddings=predictions.embeddings.float(),
        )

    def _logits(self, scores: Tensor) -> Tensor:
        """The classes' log-odds."""
        if not self.anatomy.is_softmax:
            return scores.float()
        logits: Tensor = log_odds(scores.float().flatten(0, 1))[:, :-1].unflatten(0, scores.shape[:2])
        return logits

    def training_losses(
        self, images: Sequence[Float[Tensor, "3 _ _"]], labels: Sequence[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """The library's own sum over all layers, as one loss."""
        return {"loss": self._trained(images, self._resized(images), labels)[0].loss}

    def training_pass(
        self, images: Sequence[Float[Tensor, "3 _ _"]], labels: Sequence[dict[str, Tensor]]
    ) -> TrainingPass:
        """Run the whole model once, in training mode, dropout and denoising queries included; the output is this pass's.

        The only loss is the library's own sum over all layers. Only with the part `predictor` can the head read the
        encodings; with other parts they have no features.
        """
        pixels = self._resized(images)
        output, seen = self._trained(images, pixels, labels)
        seen["kept"] = self._kept(seen, len(images), self.anatomy.num_queries)
        encoded = self._for_predictor(images, pixels, seen)
        predictions = Predictions(seen["scores"], seen["boxes"], seen["embeddings"])
        return TrainingPass({"loss": output.loss}, encoded, self._output(predictions, encoded))

    def _trained(
        self, images: Sequence[Tensor], pixels: Sequence[Tensor], labels: Sequence[dict[str, Tensor]]
    ) -> tuple[Any, Seen]:
        """One pass in training mode: the library's output, and what the last layer and the predictors took in."""
        sizes = self._sizes(images)
        given = [
            relative(label["boxes"].to(self.device), label["labels"].to(self.device), size)
            for label, size in zip(labels, sizes, strict=True)
        ]
        self.model.train()
        output, seen = self.anatomy.look(*padded(pixels), labels=given)
        self.plain()
        return output, seen

    def _for_predictor(self, images: Sequence[Tensor], pixels: Sequence[Tensor], seen: Seen) -> Encoded:
        """The predictor's encodings, if it is the part, or else encodings without features."""
        of_predictor = self.part == "predictor"
        return Encoded(
            features=tuple(seen[name] for name in self._names()[0]) if of_predictor else (),
            exact=tuple(seen[name] for name in self._names()[1]) if of_predictor else (),
            reference=torch.zeros(*seen["kept"].shape, 4, device=self.device),
            mask=torch.ones_like(seen["kept"], dtype=torch.bool),
            input_size=self._sizes(pixels),
            image_size=self._sizes(images),
        )

    @torch.no_grad()
    def propose(self, encoded: Encoded, num_candidates: int) -> Candidates:
        """The best pairs over all queries and classes."""
        return select_candidates(self.head(encoded), encoded.mask, num_candidates)

    @torch.no_grad()
    def detect(self, images: Sequence[Float[Tensor, "3 _ _"]]) -> list[Detections]:
        """Detect with the library's own forward pass and post-processing, with its own limit and no score threshold."""
        self.plain()
        detections: list[Detections] = [{} for _ in images]  # type: ignore[typeddict-item]
        for places, batch in batches(self._resized(images)):
            sizes = [tuple(images[place].shape[1:]) for place in places]
            output = self.model(pixel_values=batch)
            found = self.processor.post_process_object_detection(output, threshold=-1.0, target_sizes=sizes)
            for place, each in zip(places, found, strict=True):
                best = each["scores"].argsort(descending=True, stable=True)
                detections[place] = Detections(
                    boxes=each["boxes"][best], labels=each["labels"][best] + 1, scores=each["scores"][best]
                )
        return detections

    def loss(self, encoded: Encoded, targets: Sequence[Target], output: HeadOutput) -> dict[str, Tensor]:
        """The library's own matching and losses of the last layer, as the library weighs and adds them; crowds are left out.

        What crowds hide is background to the library, which knows no crowds. The losses need boxes before clipping and
        the softmax's last column. If the output was computed without gradients, the head runs again.
        """
        predicted = output.for_losses or self._predictions(encoded)._asdict()
        boxes, classes, _ = objects_and_crowds(targets, self.device)
        labels = [relative(*own) for own in zip(boxes, classes, encoded.image_size, strict=True)]
        config = copy.copy(self.model.config)
        config.auxiliary_loss = False
        loss, *_ = self.model.loss_function(
            predicted["scores"].float(), labels, self.device, predicted["boxes"].float(), config
        )
        return {"loss": loss}

    @property
    def backbone(self) -> nn.Module:
        """The model's own, without the encoder."""
        backbone: nn.Module = self.model.model.backbone
        return backbone

    @property
    def trainable(self) -> nn.Module:
        """The predictors; with the part `head`, the last decoder layer too; with the part `all`, the whole model."""
        if self.part == "all":
            return nn.ModuleDict({"model": self.model})
        layer = {"layer": self.anatomy.layer} if self.part == "head" else {}
        return nn.ModuleDict(layer | self.anatomy.predictors)

    @property
    def recalibrates_classes(self) -> bool:
        """Whether the scores are sigmoids of one layer."""
        return not self.anatomy.is_softmax and len(self.anatomy.score_layers) == 1

    @torch.no_grad()
    def recalibrate(self, scale: PerClass, shift: PerClass) -> None:
        """Fold the recalibration into the class predictor: exactly for sigmoids, but what all classes share takes a mean."""
        background = self.num_classes if self.anatomy.is_softmax else None
        classifier, *shared = self.anatomy.score_layers
        columns, classes = classifier.out_features, slice(self.num_classes)
        fold(classifier, scale, shift, columns=columns, classes=classes, background=background)
        for layer in shared:
            fold(layer, mean_of(scale), 0.0, columns=1, classes=slice(None))

    def plain(self) -> Any:
        """The model of transformers."""
        return self.model.eval()

    def _resized(self, images: Sequence[Tensor]) -> list[Tensor]:
        return [resized(self.processor, image.to(self.device)) for image in images]

    def _sizes(self, images: Sequence[Tensor]) -> Float[Tensor, "B 2"]:
        """The images' heights and widths."""
        return torch.tensor([image.shape[1:] for image in images], dtype=torch.float32, device=self.device)


def relative(boxes: Float[Tensor, "G 4"], labels: Tensor, size: Float[Tensor, " 2"]) -> dict[str, Tensor]:
    """An image's objects in the library's form: classes from 0, boxes by center and sides, relative to the image."""
    parts = box_convert(boxes.float() / xyxy(size[None])[0], "xyxy", "cxcywh")
    return {"class_labels": labels.long() - 1, "boxes": parts}
