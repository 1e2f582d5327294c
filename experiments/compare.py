"""Question: which strategy raises mAP most, on the same images and for as many image passes?

Command: python experiments/compare.py --budget short --seeds 0 1 2 --strategies all
Hardware, hours and the tables with their intervals: experiments/NUMBERS.md.

Every strategy and seed runs in its own process and its own folder, and with --folds 5 in each fold of the images. What has
results of the same configuration, data and weights is not run again. The script writes comparison.json, comparison.md and
comparison.png at the end.
"""

from rl_det.cli import CompareFlags, parse, run_compare
from rl_det.program import program

if __name__ == "__main__":
    with program():
        run_compare(parse(CompareFlags))
