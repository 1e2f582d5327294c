"""Question: do post-processing settings that PPO chooses image by image beat the best fixed ones, ours and SB3's alike?

Command: python experiments/sb3_postprocessing.py --budget full --seed 0
Hardware, minutes and expected numbers with their spread over seeds: experiments/NUMBERS.md.

Rows: the detector's own NMS at a score threshold of a half; the fixed settings that are best on validation, by a grid; SB3's
PPO and our own, started at the grid's settings, at their best validation and at their end. The detector stays as it is.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from rl_det.cli import parse
from rl_det.finetuning.request import Opening
from rl_det.finetuning.settings_by_image import SEARCHES, compare_settings, settings_text
from rl_det.program import ProgramFlags, program


@dataclass(frozen=True, kw_only=True)
class Flags(Opening, ProgramFlags):
    """Choose post-processing settings by a grid, and image by image."""

    seed: int = 0
    """The seed of everything that is drawn."""
    out: Path | None = None
    """The run's folder; left out: one in runs/, named after the run."""
    overwrite: bool = False
    """Replace the run in the folder, if there is one; SB3's PPO cannot go on where it was stopped."""
    reward: str = "f1"
    """What settings are chosen and judged by: f1, lrp, cost or another; in AP the lowest threshold is never beaten."""
    num_steps: int | None = None
    """Images that SB3's PPO is shown; left out: by budget."""


def main(flags: Flags) -> None:
    """Default, grid, both PPOs; the table is written whatever it says."""
    search = SEARCHES[flags.budget]
    if flags.num_steps is not None:
        search = replace(search, ppo=replace(search.ppo, num_steps=flags.num_steps))
    data, detector = flags.open()
    results = compare_settings(
        detector,
        data,
        reward=flags.reward,
        budget=flags.budget,
        search=search,
        seed=flags.seed,
        out=flags.out,
        overwrite=flags.overwrite,
        track=flags.track,
    )
    print(settings_text(results), end="")


if __name__ == "__main__":
    with program(again="--overwrite"):
        main(parse(Flags))
