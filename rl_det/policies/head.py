"""Candidates -> the logits that the detector's own head gives them now, with gradient; its state and its parameters."""

from copy import deepcopy
from typing import TypeVar

from jaxtyping import Float
from torch import Tensor, nn

from rl_det.candidates import Observation, gather_logits
from rl_det.candidates.postprocessing import PostProcessing
from rl_det.detectors.protocol import Detector
from rl_det.types import HeadOutput

Own = TypeVar("Own", bound="Head")
"""Not `Self`, which the checks of shapes in the tests do not know."""


class Head:
    """The trainable part that the rescoring and the selecting policy share."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.postprocessing = PostProcessing(nms_iou=detector.nms_iou)

    def logits(self, observation: Observation, output: HeadOutput) -> Float[Tensor, "B N"]:
        """The candidates' logits under the present parameters; 0 on padding."""
        logits = gather_logits(output.logits, observation["index"])
        return logits.where(observation["mask"], 0.0)

    def adjusted(
        self, observation: Observation, output: HeadOutput
    ) -> tuple[Float[Tensor, "B N 4"], Float[Tensor, "B N"]]:
        """The candidates' boxes, relative to the image, and their logits."""
        return observation["boxes"], self.logits(observation, output)

    @property
    def trainable(self) -> nn.Module:
        """What fine-tuning trains, as one module: the detector's head."""
        return nn.ModuleDict({"head": self.detector.trainable})

    def copy(self: Own) -> Own:
        """The same policy with a head (and a module) of its own; the frozen part of the detector is shared."""
        return deepcopy(self, {id(part): part for part in frozen_parts(self.detector)})

    def recalibrate(self, scale: float, shift: float) -> None:
        """Fold logits -> scale * logits + shift into the weights, `scale` positive."""
        self.detector.recalibrate(scale, shift)


class HeadWithModule(Head):
    """A head and a module beside it, trained together; a policy names this before the policy that it extends.

    The module has `scale` and `shift`, by which its logits end.
    """

    module: nn.Module

    @property
    def trainable(self) -> nn.Module:
        """What fine-tuning trains, as one module: the detector's head, and the module beside it."""
        return nn.ModuleDict({"head": self.detector.trainable, "module": self.module})

    def recalibrate(self, scale: float, shift: float) -> None:
        """Into the module, exactly; the plain detector beside it keeps its own calibration."""
        self.module.get_buffer("scale").mul_(scale)
        self.module.get_buffer("shift").mul_(scale).add_(shift)


def frozen_parts(detector: Detector) -> list[nn.Module]:
    """The largest parts of the library's model that hold nothing that is trained."""
    trained = {id(parameter) for parameter in detector.trainable.parameters()}

    def parts(module: nn.Module) -> list[nn.Module]:
        if not any(id(parameter) in trained for parameter in module.parameters()):
            return [module]
        return [part for child in module.children() for part in parts(child)]

    return parts(detector.plain())
