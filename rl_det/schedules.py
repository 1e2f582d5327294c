"""An optimizer and a number of steps -> the learning rate's course: a short linear warm-up, then a cosine to 0."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

WARM_UP_SHARE = 0.05


def warm_cosine(optimizer: Optimizer, num_steps: int) -> LambdaLR:
    """Every group's rate times min(1, step / warm-up) * (1 + cos(pi * step / num_steps)) / 2, for every method alike."""

    warm_up = max(1.0, WARM_UP_SHARE * num_steps)

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / num_steps)))

    return LambdaLR(optimizer, factor)
