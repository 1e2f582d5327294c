"""Candidates -> a gate for each one, kept or dropped; the log-odds of keeping follow the detector's own logit."""

from rl_det.candidates import Observation
from rl_det.detectors.protocol import Detector
from rl_det.policies.distributions import BernoulliGates
from rl_det.policies.exploration import Exploration
from rl_det.policies.head import Head
from rl_det.types import HeadOutput


class SelectPolicy(Head):
    """The head as a policy for `rl_det/SelectDetections-v0`.

    A candidate is kept with probability sigmoid(logit + keep_bias). The gates are how the policy explores: the tuned
    detector drops nothing, as AP never gains by it, but ranks by the logits that the gates have taught.
    """

    def __init__(self, detector: Detector, *, keep_bias: float) -> None:
        super().__init__(detector)
        self.keep_bias = keep_bias

    @classmethod
    def at_start(cls, detector: Detector, exploration: Exploration) -> "SelectPolicy":
        """The policy at the warm start."""
        return cls(detector, keep_bias=exploration.keep_bias)

    def distribution(self, observation: Observation, output: HeadOutput) -> BernoulliGates:
        """Gates about the head's present logits."""
        return BernoulliGates(self.logits(observation, output) + self.keep_bias)
