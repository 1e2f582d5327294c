"""The context policy: Gaussian shifts of logits; the mean is the head's logit plus a residual by the context module."""

from jaxtyping import Float
from torch import Tensor

from rl_det.candidates import Observation, proposal_of
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
        """The policy at the warm start: its module does not change the logits yet."""
        module = ContextModule(num_classes=detector.num_classes, embedding_size=detector.embedding_size)
        return cls(detector, module.to(detector.device), sigma=exploration.sigma)

    def logits(self, observation: Observation, output: HeadOutput) -> Float[Tensor, "B N"]:
        """The head's logits plus the module's residual; without meaning on padding."""
        alone = super().logits(observation, output)
        proposal = proposal_of(observation["index"], output.logits.shape[-1])
        chosen = proposal[..., None].expand(-1, -1, output.embeddings.shape[-1])
        logits: Tensor = self.module(
            observation["boxes"], observation["labels"], alone, observation["mask"], output.embeddings.gather(1, chosen)
        )
        return logits
