"""The rescoring policy: Gaussian shifts of logits, with the head's present logits as mean."""

from rl_det.candidates import Observation
from rl_det.detectors.protocol import Detector
from rl_det.errors import UserError
from rl_det.policies.distributions import GaussianShifts
from rl_det.policies.exploration import Exploration
from rl_det.policies.head import Head, head_logits
from rl_det.types import HeadOutput


class RescorePolicy(Head):
    """The head as a policy for `rl_det/RescoreDetections-v0`; `sigma`, in logits, is how widely it explores."""

    def __init__(self, detector: Detector, *, sigma: float) -> None:
        super().__init__(detector)
        if not sigma > 0:
            raise UserError(f"sigma must be positive; got {sigma}; 0.5 is usual")
        self.sigma = sigma

    @classmethod
    def at_start(cls, detector: Detector, exploration: Exploration) -> "RescorePolicy":
        """The policy at the warm start."""
        return cls(detector, sigma=exploration.sigma)

    def distribution(self, observation: Observation, output: HeadOutput) -> GaussianShifts:
        """Shifts relative to the logits that the environment has shown."""
        logits = self.logits(observation, output)
        residual = (logits - head_logits(observation, output)) * observation["mask"]
        return GaussianShifts(logits - observation["logits"], self.sigma, residual)
