"""The rescoring policy with a module beside the head: Gaussian shifts, whose mean is the logit that the module gives."""

from jaxtyping import Float
from torch import Tensor

from rl_det.candidates import Observation
from rl_det.detectors.protocol import Detector
from rl_det.policies.head import HeadWithModule
from rl_det.policies.recalibrated_module import RecalibratedModule
from rl_det.policies.rescore import RescorePolicy
from rl_det.types import HeadOutput


class RescoreWithModule(HeadWithModule, RescorePolicy):
    """The head and a module that changes its logits, trained together, as a policy for `rl_det/RescoreDetections-v0`.

    A subclass says which module. It takes boxes relative to the image [B, N, 4], labels from 1 [B, N] and the head's logits
    [B, N], and what `more_inputs` adds; it returns logits [B, N], which at the start are the head's own.
    """

    def __init__(self, detector: Detector, *, sigma: float) -> None:
        super().__init__(detector, sigma=sigma)
        self.module = self.new_module().to(detector.device)

    def new_module(self) -> RecalibratedModule:
        """The module at the start, for `self.detector`."""
        raise NotImplementedError

    def more_inputs(self, observation: Observation, output: HeadOutput) -> tuple[Tensor, ...]:
        """What the module takes beside boxes, labels and logits."""
        return ()

    def logits(self, observation: Observation, output: HeadOutput) -> Float[Tensor, "B N"]:
        """The module's logits; without meaning on padding."""
        alone = super().logits(observation, output)
        more = self.more_inputs(observation, output)
        logits: Tensor = self.module(observation["boxes"], observation["labels"], alone, *more)
        return logits
