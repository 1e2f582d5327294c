"""The part that all policies share: the detector's own head, its logits for candidates, its parameters and state."""

from copy import deepcopy
from typing import Any, TypeVar

from jaxtyping import Float
from torch import Tensor, nn

from rl_det.candidates import Observation, gather_logits
from rl_det.candidates.postprocessing import PostProcessingSettings
from rl_det.detectors.protocol import Detector
from rl_det.detectors.recalibration import PerClass, one_per_class
from rl_det.policies.recalibrated_module import RecalibratedModule
from rl_det.types import HeadOutput

Own = TypeVar("Own", bound="Head")
"""A type variable instead of `Self`, which the tests' shape checks do not support."""


class Head:
    """The detector's head as the base of every policy: logits, boxes, copy and recalibration."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.postprocessing = own_postprocessing(detector)

    def logits(self, observation: Observation, output: HeadOutput) -> Float[Tensor, "B N"]:
        """The candidates' logits under the present parameters; 0 on padding."""
        return head_logits(observation, output)

    def adjusted(
        self, observation: Observation, output: HeadOutput
    ) -> tuple[Float[Tensor, "B N 4"], Float[Tensor, "B N"]]:
        """The candidates' boxes, relative to the image, and their logits."""
        return observation["boxes"], self.logits(observation, output)

    @property
    def environment_options(self) -> dict[str, Any]:
        """What the policy asks of its environment when that is made."""
        return {}

    @property
    def trainable(self) -> nn.Module:
        """The part that fine-tuning trains, as one module: the detector's head."""
        return nn.ModuleDict({"head": self.detector.trainable})

    def copy(self: Own) -> Own:
        """A copy with its own head (and module); the frozen part of the detector is shared."""
        return deepcopy(self, {id(part): part for part in frozen_parts(self.detector)})

    def recalibrate(self, scale: PerClass, shift: PerClass) -> None:
        """Fold logits -> scale * logits + shift, for each class, into the weights; scales must be positive."""
        self.detector.recalibrate(scale, shift)


class HeadWithModule(Head):
    """A head and a module beside it, trained together; list this class before the policy that it extends."""

    module: RecalibratedModule

    @property
    def trainable(self) -> nn.Module:
        """The part that fine-tuning trains, as one module: the detector's head and the module beside it."""
        return nn.ModuleDict({"head": self.detector.trainable, "module": self.module})

    def recalibrate(self, scale: PerClass, shift: PerClass) -> None:
        """Fold the recalibration into the module, exactly; the plain detector keeps its own calibration."""
        self.module.recalibrate(*(one_per_class(value, self.module.scale) for value in (scale, shift)))


def head_logits(observation: Observation, output: HeadOutput) -> Float[Tensor, "B N"]:
    """The head's own logits for the candidates, without what a module adds; 0 on padding."""
    return gather_logits(output.logits, observation["index"]).where(observation["mask"], 0.0)


def own_postprocessing(detector: Detector) -> PostProcessingSettings:
    """The detector's own post-processing, but for its score threshold."""
    return PostProcessingSettings(nms_iou=detector.nms_iou, max_detections=detector.max_detections)


def frozen_parts(detector: Detector) -> list[nn.Module]:
    """The largest submodules of the library's model that have no trained parameter."""
    trained = {id(parameter) for parameter in detector.trainable.parameters()}

    def parts(module: nn.Module) -> list[nn.Module]:
        if not any(id(parameter) in trained for parameter in module.parameters()):
            return [module]
        return [part for child in module.children() for part in parts(child)]

    return parts(detector.plain())
