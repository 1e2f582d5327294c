"""Write a tuned policy as one ONNX file: image -> boxes, labels and scores, with its module and its post-processing."""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.onnx import (  # type: ignore[attr-defined]
    OnnxExporterError,
    register_custom_op_symbolic,
    unregister_custom_op_symbolic,
)

from rl_det.candidates.traced import detections_of_one
from rl_det.detectors.protocol import Traceable
from rl_det.errors import UserError
from rl_det.policies.policy import Policy, apply_policy
from rl_det.storage.files import write_with

OPSET = 18
"""The first version of ONNX's operators with a scatter that takes the maximum."""
INPUT, OUTPUTS = "image", ("boxes", "labels", "scores")
FLOAT = 1
"""ONNX's number of float32."""
USUAL_SIZE = (480, 640)
"""Height and width of the image that is traced if any size will do."""


def export_onnx(
    policy: Policy,
    file: Path,
    num_candidates: int,
    *,
    image_size: tuple[int, int] | None = None,
    about: Mapping[str, Any],
) -> None:
    """Write the policy as a graph for one image, float32 RGB [3, H, W] in [0, 1] in the user's pixels.

    The graph resizes and normalises as the detector does, and gives boxes [M, 4] in the user's pixels, labels [M] from 1 and
    scores [M], best first. It takes images of every size, or of one `image_size` (height, width). `about` is written to the
    file's metadata, each value as JSON. Raises ValueError, in one sentence, without the library onnx, and for a detector that
    torch cannot trace at all, or not for every size.
    """
    detector = policy.detector
    if image_size is not None and min(image_size) < 1:
        raise UserError(f"image_size must be a height and a width, 1 at least; got {image_size}; (480, 640) is usual")
    if find_spec("onnx") is None:
        raise UserError("an ONNX file needs the library onnx, which is not installed; pip install 'rl_det[onnx]'")
    if not isinstance(detector, Traceable):
        raise UserError(f"only a detector that can be traced leaves as ONNX; a {type(detector).__name__} cannot")
    if image_size is None and not detector.traces_any_size:
        raise UserError(
            f"a {type(detector.plain()).__name__} leaves as ONNX for images of one size only; "
            "give their height and width (--image-size H W)"
        )
    whole, example = OneImage(policy, num_candidates), torch.rand(3, *(image_size or USUAL_SIZE))
    varying: dict[str, dict[int, str]] = {name: {0: "detections"} for name in OUTPUTS}
    if image_size is None:
        varying[INPUT] = {1: "height", 2: "width"}
    write_with(file, lambda beside: _write(whole, example, varying, about, beside))


class OneImage(nn.Module):
    """A copy of a policy, on the CPU, as a module from one image to its detections."""

    def __init__(self, policy: Policy, num_candidates: int) -> None:
        super().__init__()
        self.policy, self.num_candidates = deepcopy(policy), num_candidates
        self.parts = nn.ModuleList([self.policy.detector.plain(), self.policy.trainable]).cpu().eval()

    @torch.no_grad()
    def forward(self, image: Float[Tensor, "3 _ _"]) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, labels and scores, best first."""
        detector = self.policy.detector
        assert isinstance(detector, Traceable)
        encoded, output = detector.traced(image)
        candidates = apply_policy(self.policy, encoded, self.num_candidates, output)
        found = detections_of_one(candidates, self.policy.postprocessing)
        return found["boxes"], found["labels"], found["scores"]


def _write(
    whole: OneImage, example: Tensor, varying: dict[str, dict[int, str]], about: Mapping[str, Any], file: Path
) -> None:
    """Trace, translate, and add the metadata."""
    import onnx

    whole(example)  # what torchvision and a detector remember from their first image must not be traced
    with warnings.catch_warnings(), _own_translations():
        warnings.simplefilter(
            "ignore"
        )  # of constants, which are meant, and of the older exporter: the newer needs fixed sizes
        try:
            torch.onnx.export(
                whole,
                (example,),
                str(file),
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                dynamic_axes=varying,
            )
        except OnnxExporterError as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"torch must be able to write the detector as ONNX, and cannot: {reason}") from error
    model = onnx.load(str(file))
    onnx.helper.set_model_props(model, {name: json.dumps(value) for name, value in about.items()})
    onnx.save(model, str(file))


@contextmanager
def _own_translations() -> Iterator[None]:
    """torch's exporter also knows the operators that it lacks, or translates wrongly."""
    for name, translation in TRANSLATIONS.items():
        register_custom_op_symbolic(f"aten::{name}", translation, OPSET)
    try:
        yield
    finally:
        for name in TRANSLATIONS:
            unregister_custom_op_symbolic(f"aten::{name}", OPSET)


def _isneginf(graph: Any, values: Any) -> Any:
    return graph.op("IsInf", values, detect_positive_i=0)


def _index_add(graph: Any, values: Any, dim: Any, index: Any, added: Any, alpha: Any = None) -> Any:
    """Along the first axis; torch's own translation forgets all but one of those added to the same place."""
    rows = graph.op("Unsqueeze", index, graph.op("Constant", value_t=torch.tensor([-1])))
    return graph.op("ScatterND", values, rows, added, reduction_s="add")


def _logaddexp(graph: Any, first: Any, second: Any) -> Any:
    most = graph.op("Max", first, second)
    parts = [graph.op("Exp", graph.op("Sub", each, most)) for each in (first, second)]
    return graph.op("Add", most, graph.op("Log", graph.op("Add", *parts)))


def _expm1(graph: Any, values: Any) -> Any:
    """tanh(x / 2) * (exp(x) + 1), which keeps its digits near 0."""
    half, one = (graph.op("Constant", value_t=torch.tensor(number)) for number in (0.5, 1.0))
    return graph.op(
        "Mul", graph.op("Tanh", graph.op("Mul", values, half)), graph.op("Add", graph.op("Exp", values), one)
    )


def _linspace(graph: Any, start: Any, end: Any, steps: Any, *options: Any) -> Any:
    """In single precision; torch's own translation may give doubles, which the runtime does not interpolate at."""
    zero, one = (graph.op("Constant", value_t=torch.tensor(number)) for number in (0.0, 1.0))
    first, last, count = (graph.op("Cast", each, to_i=FLOAT) for each in (start, end, steps))
    gaps = graph.op("Max", graph.op("Sub", count, one), one)
    step = graph.op("Div", graph.op("Sub", last, first), gaps)
    return graph.op("Add", first, graph.op("Mul", graph.op("Range", zero, count, one), step))


TRANSLATIONS: dict[str, Callable[..., Any]] = {
    "isneginf": _isneginf,
    "index_add": _index_add,
    "logaddexp": _logaddexp,
    "expm1": _expm1,
    "linspace": _linspace,
}
"""Operators of torch in those of ONNX, by their names in aten."""
