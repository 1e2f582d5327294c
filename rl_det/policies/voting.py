"""Candidates -> what `refine` does, after the proposals around each have voted on its box and its logit."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from rl_det.candidates import Observation
from rl_det.detectors.protocol import Detector
from rl_det.policies.head import copied
from rl_det.policies.refine import RefinePolicy, relative
from rl_det.policies.voting_module import VotingModule
from rl_det.types import HeadOutput


class VotingPolicy(RefinePolicy):
    """The head and a voting module, trained together."""

    def __init__(self, detector: Detector, module: VotingModule, *, sigma: float, box_sigma: float) -> None:
        super().__init__(detector, sigma=sigma, box_sigma=box_sigma)
        self.module = module

    def adjusted(
        self, observation: Observation, output: HeadOutput
    ) -> tuple[Float[Tensor, "B N 4"], Float[Tensor, "B N"]]:
        boxes, logits = super().adjusted(observation, output)
        voted: tuple[Tensor, Tensor] = self.module(
            boxes, logits, observation["index"], relative(output, observation), output.logits
        )
        return voted

    def parameters(self) -> list[nn.Parameter]:
        """What fine-tuning trains: the head's and the module's."""
        return [*super().parameters(), *self.module.parameters()]

    def recalibrate(self, scale: float, shift: float) -> None:
        """Into the module, exactly; the plain detector beside it keeps its own calibration."""
        self.module.scale.mul_(scale)
        self.module.shift.mul_(scale).add_(shift)

    def state_dict(self) -> dict[str, Any]:
        """The detector's and the module's, copied."""
        return {**super().state_dict(), "voting": copied(self.module.state_dict())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to a kept state."""
        super().load_state_dict(state)
        self.module.load_state_dict(state["voting"])
