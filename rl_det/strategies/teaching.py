"""The supervised loss that reinforcement learning adds to the reward, on the images of a rollout."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from rl_det.detectors.encodings import Encodings
from rl_det.policies.distributions import Distribution, GaussianAdjustments
from rl_det.policies.policy import Policy
from rl_det.strategies.labels import supervised_loss
from rl_det.strategies.rollouts import Rollout
from rl_det.strategies.surrogate import Surrogate, SurrogateName, losses_of_shown, policy_losses
from rl_det.types import HeadOutput

SupervisedLoss = Callable[[Rollout, HeadOutput, Distribution], Float[Tensor, ""]]
"""(rollout, the head's present output, the first move's present distribution) -> the supervised loss on its images."""


def taught(
    by: SurrogateName | None, policy: Policy, train: Encodings, residual_penalty: float = Surrogate.residual_penalty
) -> SupervisedLoss:
    """The detector's supervised loss, which trains the head alone; or a surrogate's loss, which also trains a module.

    The surrogate's loss has a penalty, of this weight, of what a module adds to the head's logits.
    """
    config = None if by is None else Surrogate(by, residual_penalty=residual_penalty)

    def loss(rollout: Rollout, output: HeadOutput, distribution: Distribution) -> Float[Tensor, ""]:
        targets, encoded = [train.targets[index] for index in rollout.indices], rollout.encoded
        assert encoded is not None
        if config is None:
            return supervised_loss(policy, encoded, output, targets)
        if isinstance(distribution, GaussianAdjustments) and distribution.adjusted is not None:
            seen = rollout.moves[0].observation
            losses = losses_of_shown(policy, seen, distribution.adjusted, encoded, output, targets, config)
        else:
            losses = policy_losses(policy, encoded, output, targets, config)
        return torch.stack(list(losses.values())).sum()

    return loss
