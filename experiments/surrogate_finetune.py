"""Question: does a differentiable surrogate of AP raise a detector's mAP above what more supervised training gives?

Command: python experiments/surrogate_finetune.py --surrogate.loss smooth_ap --budget short --seed 0
Hardware, minutes and expected numbers with their spread over seeds: experiments/NUMBERS.md.

Rows as in ppo_finetune.py: parameters, images, passes and the choice by validation are the same, so that the two can be
compared. The detector's own losses are mixed into the surrogate.
"""

from dataclasses import dataclass, field

from rl_det import Surrogate
from rl_det.cli import PolicyFlags, parse
from rl_det.program import program


@dataclass(frozen=True, kw_only=True)
class Flags(PolicyFlags):
    """Tune a detector's head by a surrogate of AP, beside the control."""

    surrogate: Surrogate = field(default_factory=Surrogate)
    """Every setting of the surrogate."""


if __name__ == "__main__":
    with program():
        flags = parse(Flags)
        flags.run(*flags.shared(flags.surrogate))
