"""How widely policies explore while they learn."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Exploration:
    """The width of a policy's draws; a tuned detector draws nothing."""

    sigma: float = 0.5
    """Standard deviation of a logit's shift, in logits."""
    box_sigma: float = 0.2
    """Standard deviation of a box's move: 1 is a tenth of a side for the centre, a fifth for the logarithm of a side."""
    keep_bias: float = 2.0
    """Added to a candidate's logit, it is the log-odds with which the selecting policy keeps it."""

    def __post_init__(self) -> None:
        if not (self.sigma > 0 and self.box_sigma > 0):
            raise ValueError(
                f"sigma and box_sigma must be positive; got {self.sigma} and {self.box_sigma}; 0.5 and 0.2 are usual"
            )
