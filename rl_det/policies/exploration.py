"""How widely policies explore while they learn."""

from dataclasses import dataclass

from rl_det.settings import check_settings, positive


@dataclass(frozen=True, kw_only=True)
class Exploration:
    """The standard deviations and bias of a policy's actions while it learns; a tuned detector does not explore."""

    sigma: float = 0.5
    """Standard deviation of a logit's shift, in logits."""
    box_sigma: float = 0.2
    """Standard deviation of a box's move: 1 is a tenth of a side for the centre, a fifth for the logarithm of a side."""
    keep_bias: float = 2.0
    """The selecting policy keeps a candidate with log-odds of its logit plus this bias."""

    def __post_init__(self) -> None:
        check_settings(self, sigma=positive(), box_sigma=positive())
