"""Question: does REINFORCE on a detector's own mAP raise it above what more supervised training gives?

Command: python experiments/reinforce_finetune.py --budget short --seed 0
Hardware, minutes and expected numbers with their spread over seeds: experiments/NUMBERS.md.

Rows as in ppo_finetune.py. REINFORCE judges an action by each candidate's own credit or by its image's reward, and sees as many
images as the control. A pass costs more than PPO's, as every gradient step needs a rollout of its own.
"""

from dataclasses import dataclass, field

from rl_det import Reinforce
from rl_det.cli import PolicyFlags, parse
from rl_det.program import program


@dataclass(frozen=True, kw_only=True)
class Flags(PolicyFlags):
    """Tune a detector's head by REINFORCE, beside the control."""

    reinforce: Reinforce = field(default_factory=Reinforce)
    """Every setting of REINFORCE."""


if __name__ == "__main__":
    with program():
        flags = parse(Flags)
        flags.run(*flags.shared(flags.reinforce))
