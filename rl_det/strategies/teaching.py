"""The supervised loss that reinforcement learning adds to the reward, on the images of a rollout."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from rl_det.policies.policy import Policy
from rl_det.strategies.labels import supervised_loss
from rl_det.strategies.strategy import Task
from rl_det.strategies.surrogate import Surrogate, SurrogateName, policy_losses
from rl_det.types import Encoded, HeadOutput

Supervised = Callable[[list[int], Encoded, HeadOutput], Float[Tensor, ""]]
"""(indices of images, their encodings, the head's present output) -> the supervised loss on these images."""


def taught(by: SurrogateName | None, policy: Policy, task: Task) -> Supervised:
    """The detector's supervised loss, which trains the head alone; or a surrogate's loss, which also trains a module."""

    def loss(indices: list[int], encoded: Encoded, output: HeadOutput) -> Float[Tensor, ""]:
        targets = [task.train.targets[index] for index in indices]
        if by is None:
            return supervised_loss(policy, encoded, output, targets)
        losses = policy_losses(policy, encoded, output, targets, Surrogate(by))
        return torch.stack(list(losses.values())).sum()

    return loss
