"""Question: which way of bringing mAP into training raises it most, on the same images and for as many image passes?

Command: python experiments/compare.py --budget short --seeds 0 1 2
Hardware, hours and the tables with their intervals: experiments/README.md.

Every strategy and seed is a process of its own with a folder of its own; one that has its results, of the same configuration,
data and weights, is not run again. At the end: comparison.json, comparison.md and comparison.png.
"""

from rl_det.cli import CompareFlags, parse, run_compare
from rl_det.program import program

if __name__ == "__main__":
    with program():
        run_compare(parse(CompareFlags))
