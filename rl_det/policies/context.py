"""The context policy: Gaussian shifts of logits; the mean is the head's logit plus a residual by the context module."""

from torch import Tensor

from rl_det.candidates import Observation, proposal_of
from rl_det.policies.context_module import ContextModule
from rl_det.policies.rescore_with_module import RescoreWithModule
from rl_det.types import HeadOutput


class ContextPolicy(RescoreWithModule):
    """The head and a context module, trained together, as a policy for `rl_det/RescoreDetections-v0`."""

    module: ContextModule

    def new_module(self) -> ContextModule:
        """The module at the start."""
        return ContextModule(num_classes=self.detector.num_classes, embedding_size=self.detector.embedding_size)

    def more_inputs(self, observation: Observation, output: HeadOutput) -> tuple[Tensor, ...]:
        """The mask [B, N], and the embedding of each candidate's proposal [B, N, D]."""
        proposal = proposal_of(observation["index"], output.logits.shape[-1])
        chosen = proposal[..., None].expand(-1, -1, output.embeddings.shape[-1])
        return observation["mask"], output.embeddings.gather(1, chosen)
