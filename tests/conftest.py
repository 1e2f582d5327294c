"""One core for each of pytest's worker processes: more threads than cores make everything slower."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["NUMBA_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
