"""Question: does PPO on a detector's own mAP raise it above what more supervised training gives?

Command: python experiments/ppo_finetune.py --budget full --seed 0
Hardware, minutes and expected numbers with their spread over seeds: experiments/NUMBERS.md.

Rows from one warm start: the warm start itself; continued supervised training of the same parameters, on the same images, for
as many image passes; PPO. Each is chosen by validation AP and judged by pycocotools on the untouched test split. Where the
policy votes, the first two are shown with votes that nobody trained as well: what is not PPO's gain.
"""

from dataclasses import dataclass, field

from rl_det import PPO
from rl_det.cli import PolicyFlags, parse
from rl_det.program import program


@dataclass(frozen=True, kw_only=True)
class Flags(PolicyFlags):
    """Tune a detector's head by PPO, beside the control."""

    ppo: PPO = field(default_factory=PPO)
    """Every setting of PPO."""


if __name__ == "__main__":
    with program():
        flags = parse(Flags)
        flags.run(*flags.shared(flags.ppo))
