"""The voting policy: as `adjust`, after the proposals around each candidate have voted on its box and logit."""

from jaxtyping import Float
from torch import Tensor

from rl_det.candidates import Observation
from rl_det.detectors.protocol import Detector
from rl_det.policies.adjust import AdjustPolicy, relative
from rl_det.policies.exploration import Exploration
from rl_det.policies.head import HeadWithModule
from rl_det.policies.voting_module import VotingModule
from rl_det.types import HeadOutput


class VotingPolicy(HeadWithModule, AdjustPolicy):
    """The head and a voting module, trained together."""

    module: VotingModule

    def __init__(self, detector: Detector, module: VotingModule, *, sigma: float, box_sigma: float) -> None:
        super().__init__(detector, sigma=sigma, box_sigma=box_sigma)
        self.module = module

    @classmethod
    def at_start(cls, detector: Detector, exploration: Exploration) -> "VotingPolicy":
        """The policy at the warm start: its module does not change boxes and logits yet."""
        module = VotingModule(detector.num_classes).to(detector.device)
        return cls(detector, module, sigma=exploration.sigma, box_sigma=exploration.box_sigma)

    def adjusted(
        self, observation: Observation, output: HeadOutput
    ) -> tuple[Float[Tensor, "B N 4"], Float[Tensor, "B N"]]:
        boxes, logits = super().adjusted(observation, output)
        voted: tuple[Tensor, Tensor] = self.module(
            boxes, logits, observation["index"], relative(output, observation), output.logits
        )
        return voted
