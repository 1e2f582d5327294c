"""Question: how far does supervised training of the whole detector go, led by its own validation mAP?

Command: python experiments/supervised.py --budget full --seed 0
Hardware, minutes and expected numbers: experiments/NUMBERS.md.

From the warm start, or from random weights (`--weights none`), on the images that the other experiments tune on. Stopped
and kept by validation, where the warm start is the first candidate; judged by pycocotools on the untouched test split. Each
class's AP and precision-recall curve go to the run's folder.
"""

from rl_det.cli import SupervisedFlags, parse, run_supervised
from rl_det.program import program

if __name__ == "__main__":
    with program():
        run_supervised(parse(SupervisedFlags))
