"""The selecting policy: keep or drop each candidate, with log-odds that follow the detector's own logit."""

from rl_det.candidates import Observation
from rl_det.detectors.protocol import Detector
from rl_det.policies.distributions import BernoulliGates
from rl_det.policies.exploration import Exploration
from rl_det.policies.head import Head
from rl_det.types import HeadOutput


class SelectPolicy(Head):
    """The head as a policy for `rl_det/SelectDetections-v0`.

    A candidate is kept with probability sigmoid(logit + keep_bias). The gates serve exploration only. The tuned
    detector drops nothing, because dropping never raises AP; it ranks by the logits that were trained through the
    gates.
    """

    def __init__(self, detector: Detector, *, keep_bias: float) -> None:
        super().__init__(detector)
        self.keep_bias = keep_bias

    @classmethod
    def at_start(cls, detector: Detector, exploration: Exploration) -> "SelectPolicy":
        """The policy at the warm start."""
        return cls(detector, keep_bias=exploration.keep_bias)

    def distribution(self, observation: Observation, output: HeadOutput) -> BernoulliGates:
        """Gates whose log-odds are the head's present logits plus `keep_bias`."""
        return BernoulliGates(self.logits(observation, output) + self.keep_bias)
