"""Learning rate schedules: a short linear warm-up, then a cosine to 0, or steps."""

import math
from bisect import bisect_right
from collections.abc import Callable
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

WARM_UP_SHARE = 0.05
DROPS = (2 / 3, 8 / 9)
"""The shares of the training after which the rate drops: steps 60,000 and 80,000 of Detectron's 90,000."""
DROP = 0.1


def warm_cosine(optimizer: Optimizer, num_steps: int) -> LambdaLR:
    """Multiply every group's rate by min(1, step / warm-up) * (1 + cos(pi * step / num_steps)) / 2, for all strategies."""

    warm_up = max(1.0, WARM_UP_SHARE * num_steps)

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / num_steps)))

    return LambdaLR(optimizer, factor)


def warm_steps(optimizer: Optimizer, num_steps: int) -> LambdaLR:
    """Multiply every group's rate by min(1, step / warm-up), and by `DROP` at each of `DROPS`."""

    warm_up = max(1.0, WARM_UP_SHARE * num_steps)
    drops = [share * num_steps for share in DROPS]

    def factor(step: int) -> float:
        return float(min(1.0, (step + 1) / warm_up) * DROP ** bisect_right(drops, step))

    return LambdaLR(optimizer, factor)


ScheduleName = Literal["cosine", "step"]
SCHEDULES: dict[ScheduleName, Callable[[Optimizer, int], LambdaLR]] = {"cosine": warm_cosine, "step": warm_steps}
