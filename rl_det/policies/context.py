"""Candidates -> a Gaussian shift of each one's logit; the mean is the head's logit and what the neighbours add to it."""

from jaxtyping import Float
from torch import Tensor

from rl_det.candidates import Observation
from rl_det.detectors.protocol import Detector
from rl_det.policies.context_module import ContextModule
from rl_det.policies.exploration import Exploration
from rl_det.policies.head import HeadWithModule
from rl_det.policies.rescore import RescorePolicy
from rl_det.types import HeadOutput


class ContextPolicy(HeadWithModule, RescorePolicy):
    """The head and a context module, trained together, as a policy for `rl_det/RescoreDetections-v0`."""

    module: ContextModule

    def __init__(self, detector: Detector, module: ContextModule, *, sigma: float) -> None:
        super().__init__(detector, sigma=sigma)
        self.module = module

    @classmethod
    def at_start(cls, detector: Detector, exploration: Exploration) -> "ContextPolicy":
        """The policy at the warm start, whose module leaves the logits as they are."""
        module = ContextModule(num_classes=detector.num_classes, embedding_size=detector.embedding_size)
        return cls(detector, module.to(detector.device), sigma=exploration.sigma)

    def logits(self, observation: Observation, output: HeadOutput) -> Float[Tensor, "B N"]:
        """The head's logits with what the neighbours add; without meaning on padding."""
        alone = super().logits(observation, output)
        proposal = observation["index"].div(output.logits.shape[-1], rounding_mode="floor")
        chosen = proposal[..., None].expand(-1, -1, output.embeddings.shape[-1])
        logits: Tensor = self.module(
            observation["boxes"], observation["labels"], alone, observation["mask"], output.embeddings.gather(1, chosen)
        )
        return logits
