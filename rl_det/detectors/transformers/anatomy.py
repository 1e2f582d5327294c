"""Where each of transformers' query detectors keeps its last decoder layer and its predictors, and what they take in.

The library's own modules compute everything. Forward hooks read what enters the last decoder layer, and this file puts
the modules behind that cut together again. Two names recur: the *embeddings* are what the class predictor takes in, and
the *reference* is the point or box that the box predictor moves. No predictor of the last layer shares a weight with
anything that runs before the cut: Deformable DETR shares one class predictor between all layers, but earlier layers'
scores are used in its training only.
"""

import inspect
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import pad
from torch.utils.hooks import RemovableHandle

from rl_det.detectors.own_layers import LINEAR, check_layer

Seen = dict[str, Any]
"""What one forward pass shows, by name: the arguments of the last decoder layer by the library's names, and our own."""


class Predictions(NamedTuple):
    """Class scores [B, P, K], boxes [B, P, 4] in the form (x, y, width, height) relative to the image, embeddings [B, P, D].

    K is the number of classes, and one more (the last, "no object") for a softmax. Boxes are not clipped.
    """

    scores: Tensor
    boxes: Tensor
    embeddings: Tensor


class Anatomy:
    """What all model types have in common; a subclass says what differs."""

    queries: ClassVar[tuple[str, ...]]
    """The last layer's arguments with one row for each query."""
    memory: ClassVar[tuple[str, ...]] = ("encoder_hidden_states",)
    """Its arguments with one row for each place of the encoder's maps."""
    sampled: ClassVar[tuple[str, ...]] = ("reference_points",)
    """Its arguments that say where a query looks; no cache may round them."""
    context: ClassVar[tuple[str, ...]] = ()
    """What the predictors take in beside the embeddings."""
    places: ClassVar[tuple[str, ...]] = ("reference",)
    """The same, but what no cache may round."""
    is_softmax: ClassVar[bool] = False
    is_square: ClassVar[bool] = False
    """Whether images are resized to a square, as default of the model type."""
    processor: ClassVar[str]
    """The library's image processor for this model type."""

    def __init__(self, model: Any) -> None:
        self.model = model
        check_layer("the class predictor of the last layer", self.classifier, LINEAR)

    @property
    def decoder(self) -> Any:
        """The decoder."""
        return self.model.model.decoder

    @property
    def index(self) -> int:
        """The place of the last decoder layer that detection uses."""
        return len(self.decoder.layers) - 1

    @property
    def layer(self) -> nn.Module:
        """The last decoder layer."""
        layer: nn.Module = self.decoder.layers[self.index]
        return layer

    @property
    def num_queries(self) -> int:
        """The number of queries in detection."""
        return int(self.model.config.num_queries)

    @property
    def classifier(self) -> nn.Linear:
        """The class predictor of the last layer."""
        classifier: nn.Linear = self.decoder.class_embed[self.index]
        return classifier

    @property
    def regressor(self) -> nn.Module:
        """The box predictor of the last layer."""
        regressor: nn.Module = self.decoder.bbox_embed[self.index]
        return regressor

    @property
    def predictors(self) -> dict[str, nn.Module]:
        """The last layer's predictors by name."""
        return {"classifier": self.classifier, "regressor": self.regressor}

    @property
    def score_layers(self) -> tuple[nn.Linear, ...]:
        """The linear layers whose sum is the class scores."""
        return (self.classifier,)

    def look(self, pixels: Tensor, mask: Tensor | None = None, labels: list[dict[str, Tensor]] | None = None) -> Any:
        """Run the library's whole model; return its output, and what the last layer and the predictors took in.

        In training mode, denoising queries come first; they are left out of what is returned by name.
        """
        seen: Seen = {}
        with ExitStack() as hooks:
            for handle in self.watch(seen):
                hooks.callback(handle.remove)
            output = self.model(pixel_values=pixels, pixel_mask=mask, labels=labels)
        seen |= {"embeddings": self.embed(seen["layer"]), "scores": output.logits, "boxes": output.pred_boxes}
        seen |= self.surroundings(output, seen)
        own = ("embeddings", "scores", "boxes")
        for name in (*own, *self.queries, *self.sampled, *self.context, *self.places):
            seen[name] = seen[name][:, -self.num_queries :]
        seen["shapes"] = self.shapes(seen)
        return output, seen

    def watch(self, seen: Seen) -> Iterator[RemovableHandle]:
        """Hooks that write the last layer's arguments and its result ("layer") into `seen`."""
        signature = inspect.signature(self.layer.forward)

        def arguments(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.update(signature.bind(*args, **kwargs).arguments)

        def result(_: nn.Module, __: Any, output: Tensor) -> None:
            seen["layer"] = output

        yield self.layer.register_forward_pre_hook(arguments, with_kwargs=True)
        yield self.layer.register_forward_hook(result)

    def shapes(self, seen: Seen) -> Tensor:
        """Height and width of each of the encoder's maps, for each image [B, levels, 2]."""
        shapes: Tensor = seen["spatial_shapes"]
        return shapes.expand(len(seen["embeddings"]), -1, -1)

    def surroundings(self, output: Any, seen: Seen) -> Seen:
        """What `context` and `places` name."""
        return {}

    def embed(self, hidden: Tensor, *, is_trained: bool = True) -> Tensor:
        """The embeddings from the last layer's result; if not `is_trained`, without gradient to what lies between."""
        return hidden

    def run_layer(self, seen: Seen, shapes: tuple[tuple[int, int], ...]) -> Tensor:
        """The last layer's result, from its arguments, for images whose maps have these shapes."""
        given = {name: seen[name] for name in (*self.queries, *self.memory, *self.sampled)}
        result: Tensor = self.layer(**given, **self.settings(seen, shapes))
        return result

    def settings(self, seen: Seen, shapes: tuple[tuple[int, int], ...]) -> dict[str, Any]:
        """The last layer's arguments that follow from the maps' shapes."""
        sizes = torch.tensor(shapes, device=seen[self.memory[0]].device)
        starts = torch.cat([sizes.new_zeros(1), sizes.prod(1).cumsum(0)[:-1]])
        return {"spatial_shapes": sizes, "spatial_shapes_list": list(shapes), "level_start_index": starts}

    def predict(self, seen: Seen) -> Predictions:
        """The predictors' result, from the embeddings and what `context` and `places` name."""
        moves, reference = self.regressor(seen["embeddings"]), self._inverse_sigmoid(seen["reference"])
        boxes = (moves + pad(reference, (0, 4 - reference.shape[-1]))).sigmoid()
        return Predictions(self.classifier(seen["embeddings"]), boxes, seen["embeddings"])

    @property
    def source(self) -> Any:
        """The library's file with the model's code."""
        return sys.modules[next(cls.__module__ for cls in type(self.model).__mro__ if cls.__name__ in ANATOMIES)]

    def _inverse_sigmoid(self, reference: Tensor) -> Tensor:
        result: Tensor = self.source.inverse_sigmoid(reference)
        return result


class Detr(Anatomy):
    """DETR: boxes without a reference, and a softmax whose last column is "no object"."""

    queries: ClassVar[tuple[str, ...]] = ("hidden_states", "object_queries_position_embeddings")
    memory = ("encoder_hidden_states", "spatial_position_embeddings")
    sampled = ()
    places: ClassVar[tuple[str, ...]] = ()
    is_softmax = True
    processor = "DetrImageProcessor"

    @property
    def classifier(self) -> nn.Linear:
        """The class predictor, of which there is one."""
        classifier: nn.Linear = self.model.class_labels_classifier
        return classifier

    @property
    def regressor(self) -> nn.Module:
        """The box predictor, of which there is one."""
        regressor: nn.Module = self.model.bbox_predictor
        return regressor

    def shapes(self, seen: Seen) -> Tensor:
        """The number of places: nothing behind the cut needs the map's sides."""
        memory = seen["encoder_hidden_states"]
        return torch.tensor([[[memory.shape[1], 1]]], device=memory.device).expand(len(memory), -1, -1)

    def embed(self, hidden: Tensor, *, is_trained: bool = True) -> Tensor:
        """The decoder's layer norm; a model with auxiliary losses applies it twice, and after earlier layers too."""
        norm = self.decoder.layernorm
        frozen = {name: weight.detach() for name, weight in norm.named_parameters()}
        for _ in range(2 if self.model.config.auxiliary_loss else 1):
            hidden = norm(hidden) if is_trained else functional_call(norm, frozen, hidden)
        return hidden

    def settings(self, seen: Seen, shapes: tuple[tuple[int, int], ...]) -> dict[str, Any]:
        """None."""
        return {}

    def predict(self, seen: Seen) -> Predictions:
        """The two predictors on the embeddings alone."""
        embeddings = seen["embeddings"]
        return Predictions(self.classifier(embeddings), self.regressor(embeddings).sigmoid(), embeddings)


class ConditionalDetr(Detr):
    """Conditional DETR: each query has a reference point, and sigmoids."""

    queries = ("hidden_states", "query_position_embeddings", "query_sine_embed")
    places = ("reference",)
    is_softmax = False
    processor = "ConditionalDetrImageProcessor"

    def watch(self, seen: Seen) -> Iterator[RemovableHandle]:
        """And the decoder's reference points, which the model's output lacks."""

        def reference(_: nn.Module, __: Any, output: Any) -> None:
            seen["reference"] = output.reference_points.transpose(0, 1)  # [P, B, 2] -> [B, P, 2]

        yield from super().watch(seen)
        yield self.decoder.register_forward_hook(reference)

    def settings(self, seen: Seen, shapes: tuple[tuple[int, int], ...]) -> dict[str, Any]:
        """Whether the last layer is the first."""
        return {"is_first": self.index == 0}

    def predict(self, seen: Seen) -> Predictions:
        """The box predictor moves the reference point."""
        return Anatomy.predict(self, seen)


class DeformableDetr(Anatomy):
    """Deformable DETR, with or without box refinement and two stages; two stages have one more predictor, the encoder's."""

    queries = ("hidden_states", "object_queries_position_embeddings")
    processor = "DeformableDetrImageProcessor"

    @property
    def num_queries(self) -> int:
        """With two stages, the number of the encoder's proposals."""
        config = self.model.config
        return int(config.two_stage_num_proposals if config.two_stage else config.num_queries)

    @property
    def classifier(self) -> nn.Linear:
        """The class predictor of the last layer; without two stages, all layers share it."""
        classifier: nn.Linear = self.model.class_embed[self.index]
        return classifier

    @property
    def regressor(self) -> nn.Module:
        """The box predictor of the last layer; without box refinement, all layers share it."""
        regressor: nn.Module = self.model.bbox_embed[self.index]
        return regressor

    def surroundings(self, output: Any, seen: Seen) -> Seen:
        """The reference, which the layer's own argument has scaled by the padding."""
        refined = output.intermediate_reference_points
        return {"reference": refined[:, self.index - 1] if self.index else output.init_reference_points}


class RTDetr(Anatomy):
    """RT-DETR, both versions."""

    queries = ("hidden_states", "object_queries_position_embeddings")
    is_square = True
    processor = "RTDetrImageProcessor"

    def surroundings(self, output: Any, seen: Seen) -> Seen:
        """The reference is the layer's own."""
        return {"reference": seen["reference_points"][:, :, 0]}


class DFine(Anatomy):
    """D-FINE: the last layer corrects the layers' joint distribution of each box side, whose certainty corrects the score."""

    queries = ("hidden_states", "position_embeddings")
    context = ("previous", "corners")
    is_square = True
    processor = "RTDetrImageProcessor"

    @property
    def index(self) -> int:
        """The configuration's own layer."""
        return int(self.decoder.eval_idx)

    @property
    def quality(self) -> Any:
        """The last layer's module that adds the boxes' certainty to the class scores."""
        return self.decoder.lqe_layers[self.index]

    @property
    def predictors(self) -> dict[str, nn.Module]:
        """And the quality of the box."""
        return super().predictors | {"quality": self.quality}

    @property
    def score_layers(self) -> tuple[nn.Linear, ...]:
        """The class predictor and the quality's last layer."""
        return (self.classifier, self.quality.reg_conf.layers[-1])

    def watch(self, seen: Seen) -> Iterator[RemovableHandle]:
        """And the distributions of each layer."""
        seen["distributions"] = []

        def distributions(_: nn.Module, args: tuple[Any, ...]) -> None:
            seen["distributions"].append(args[0])

        yield from super().watch(seen)
        yield self.decoder.integral.register_forward_pre_hook(distributions)

    def surroundings(self, output: Any, seen: Seen) -> Seen:
        """The layer before: its result and its distributions; and the first boxes, which all layers move."""
        previous, corners = seen["hidden_states"], seen["distributions"][max(self.index - 1, 0)]
        if not self.index:
            previous, corners = torch.zeros_like(previous), torch.zeros_like(corners)
        return {
            "previous": previous.detach(),
            "corners": corners,
            "reference": output.initial_reference_points[:, -1],
        }

    def predict(self, seen: Seen) -> Predictions:
        """The predictors, as in the library's decoder."""
        decoder, embeddings = self.decoder, seen["embeddings"]
        corners = self.regressor(embeddings + seen["previous"]) + seen["corners"]
        project = self.source.weighting_function(decoder.max_num_bins, decoder.up, decoder.reg_scale)
        sides = decoder.integral(corners, project)
        boxes = self.source.distance2bbox(seen["reference"], sides, decoder.reg_scale)
        return Predictions(self.quality(self.classifier(embeddings), corners), boxes, embeddings)


ANATOMIES: dict[str, type[Anatomy]] = {
    "DetrForObjectDetection": Detr,
    "ConditionalDetrForObjectDetection": ConditionalDetr,
    "DeformableDetrForObjectDetection": DeformableDetr,
    "RTDetrForObjectDetection": RTDetr,
    "RTDetrV2ForObjectDetection": RTDetr,
    "DFineForObjectDetection": DFine,
}
"""The anatomy of each model class of the library. A new model type is one class and one line here."""


def known_class(model: nn.Module) -> str | None:
    """The name of the library's class of which the model is an object; None for any other model."""
    classes = [cls for cls in type(model).__mro__ if cls.__module__.startswith("transformers.")]
    return next((cls.__name__ for cls in classes if cls.__name__ in ANATOMIES), None)
