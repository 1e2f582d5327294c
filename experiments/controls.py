"""Question: is the control weak: does it gain by another learning rate, by averaged weights, or by as many seconds as PPO?

Commands: python experiments/controls.py --budget short --seed 0      # and seeds 1, 2; --data FOLDER for other images
          rl-det report FOLDER...                                     # the table over these runs
Numbers: experiments/README.md.

These rows are continued supervised training of the head on the same images: the control itself; at half and at twice its
rate; with the running mean of its weights; and with so many more image passes that it takes as long as PPO. Beside them are
PPO, and smooth-AP from where PPO begins, on the same parameters: what PPO's loss has without reward. The last line names the
learning rate that is best on validation, which is a user's fair choice.
"""

from dataclasses import dataclass

from rl_det import PPO, Labels, Surrogate
from rl_det.cli import RunFlags, parse
from rl_det.finetuning.budget import recipe_for
from rl_det.program import program
from rl_det.strategies.labels import CONTROL

HALF, TWICE = f"{CONTROL}_half_rate", f"{CONTROL}_twice_the_rate"


@dataclass(frozen=True, kw_only=True)
class Flags(RunFlags):
    """Tune a detector's head by labels in five ways, by a surrogate of AP, and by PPO."""

    passes: float = 1.75
    """The image passes of the control that takes as long as PPO, as a multiple of the others'."""
    ema: float = 0.99
    """The decay of the running mean of the weights."""


def main(flags: Flags) -> None:
    """Run all, and name the best rate."""
    rate = (flags.recipe or recipe_for(flags.open()[0])).rate_for(flags.trained_part)
    results = flags.run(
        Labels(),
        Labels(name=HALF, learning_rate=rate / 2),
        Labels(name=TWICE, learning_rate=2 * rate),
        Labels(name=f"{CONTROL}_averaged", ema=flags.ema),
        Labels(name=f"{CONTROL}_longer", passes=flags.passes),
        Surrogate("smooth_ap"),
        PPO(),
    )
    best = max((CONTROL, HALF, TWICE), key=lambda name: results.rows[name].validation_ap)
    print(f"the rate that is best on validation: {best}")


if __name__ == "__main__":
    with program():
        main(parse(Flags))
