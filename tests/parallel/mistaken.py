"""A program in which the processes of the given ranks find a mistake, the main process last."""

import sys
import time

from rl_det import parallel
from rl_det.errors import UserError
from rl_det.program import program

LATE = 1.0
"""Seconds by which the main process is later; its launcher looks ten times a second whether a process has ended."""

if __name__ == "__main__":
    ranks = tuple(map(int, sys.argv[1:]))
    with program():
        if parallel.is_main():
            time.sleep(LATE)
        if parallel.rank() in ranks:
            raise UserError(f"found by {ranks}")
        parallel.of_all(None)
