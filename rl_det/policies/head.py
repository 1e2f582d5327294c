"""Candidates -> the logits that the detector's own head gives them now, with gradient; its state and its parameters."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from rl_det.candidates import Observation, gather_logits
from rl_det.detectors.protocol import Detector
from rl_det.types import HeadOutput


class Head:
    """The trainable part that the rescoring and the selecting policy share."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector

    def logits(self, observation: Observation, output: HeadOutput) -> Float[Tensor, "B N"]:
        """The candidates' logits under the present parameters; 0 on padding."""
        logits = gather_logits(output.logits, observation["index"])
        return logits.where(observation["mask"], 0.0)

    def adjusted(
        self, observation: Observation, output: HeadOutput
    ) -> tuple[Float[Tensor, "B N 4"], Float[Tensor, "B N"]]:
        """The candidates' boxes, relative to the image, and their logits."""
        return observation["boxes"], self.logits(observation, output)

    def parameters(self) -> list[nn.Parameter]:
        """What fine-tuning trains."""
        return self.detector.head_parameters()

    def recalibrate(self, scale: float, shift: float) -> None:
        """Fold logits -> scale * logits + shift into the weights, `scale` positive."""
        self.detector.recalibrate(scale, shift)

    def state_dict(self) -> dict[str, Any]:
        """The whole detector, copied: a user may want any of it, and only the head has changed."""
        return {"detector": copied(self.detector.plain().state_dict())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to a kept state."""
        self.detector.plain().load_state_dict(state["detector"])


class HeadWithModule(Head):
    """A head and a module beside it, trained together; a policy names this before the policy that it extends.

    The module has `scale` and `shift`, by which its logits end.
    """

    module: nn.Module

    def parameters(self) -> list[nn.Parameter]:
        """What fine-tuning trains: the head's and the module's."""
        return [*super().parameters(), *self.module.parameters()]

    def recalibrate(self, scale: float, shift: float) -> None:
        """Into the module, exactly; the plain detector beside it keeps its own calibration."""
        self.module.get_buffer("scale").mul_(scale)
        self.module.get_buffer("shift").mul_(scale).add_(shift)

    def state_dict(self) -> dict[str, Any]:
        """The detector's and the module's, copied."""
        return {**super().state_dict(), "module": copied(self.module.state_dict())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to a kept state."""
        super().load_state_dict(state)
        self.module.load_state_dict(state["module"])


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state that later training does not reach."""
    return {name: tensor.detach().clone() for name, tensor in state.items()}
