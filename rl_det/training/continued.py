"""A policy and cached encodings with labels -> the same policy, trained on by labels alone: the control of every claim.

Continued supervised training of the very parameters that reinforcement learning tunes, on the same images, in batches of
the same size, for as many image passes, under the same schedule and the same selection by validation AP. It learns by
the detector's own losses. No label speaks of a context module's residual, which stays zero: the other ways to teach it
that were tried are in experiments/LOG.md, and none served better.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rl_det.detectors.encodings import EncodedDataset
from rl_det.policies.policy import Policy
from rl_det.training.early_stopping import EarlyStopping
from rl_det.training.schedules import warm_cosine
from rl_det.types import Encoded, HeadOutput, Target

Losses = Callable[[Policy, Encoded, HeadOutput, Sequence[Target]], dict[str, Float[Tensor, ""]]]
"""(a policy, some images' encodings, what its head says of them, the labels) -> losses by name, to be summed."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """How a policy goes on learning from labels."""

    num_steps: int = 2400
    """Batches; as many image passes as the method that this is the control of."""
    batch_size: int = 48
    """Images a step."""
    learning_rate: float = 2e-3
    """AdamW's peak rate: a short linear warm-up, then a cosine to 0."""
    max_grad_norm: float = 1.0
    """The gradient is scaled down to this norm."""
    validate_every: int = 200
    """Steps between two validations."""

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")


def train(
    policy: Policy,
    data: EncodedDataset,
    config: Config,
    *,
    generator: torch.Generator,
    validate: Callable[[], float],
    losses: Losses = lambda *batch: {"supervised": supervised_loss(*batch)},
    on_step: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
) -> float:
    """Train the policy in place and leave it at its best validation AP, which is returned.

    The control of a claim has the losses that come by default; of several, the metrics have each.
    """
    optimizer = torch.optim.AdamW(policy.parameters(), lr=config.learning_rate, weight_decay=0.01)
    schedule = warm_cosine(optimizer, config.num_steps)
    stopping = EarlyStopping(patience=config.num_steps)
    stopping.improved(validate())
    best = policy.state_dict()
    device = policy.parameters()[0].device
    order = torch.zeros(0, dtype=torch.int64)
    for step in range(1, config.num_steps + 1):
        while len(order) < config.batch_size:
            order = torch.cat([order, torch.randperm(len(data), generator=generator)])
        images, order = order[: config.batch_size], order[config.batch_size :]
        encoded, targets = data.batch(images, device), [data.targets[image] for image in images.tolist()]
        output = policy.detector.head(encoded)
        parts = losses(policy, encoded, output, targets)
        loss = torch.stack(list(parts.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
        optimizer.step()
        schedule.step()
        metrics = {"loss": float(loss.detach())}
        if len(parts) > 1:
            metrics |= {name: float(part.detach()) for name, part in parts.items()}
        if step % config.validate_every == 0 or step == config.num_steps:
            metrics["val_AP"] = validate()
            if stopping.improved(metrics["val_AP"]):
                best = policy.state_dict()
        on_step(step, metrics)
    policy.load_state_dict(best)
    return stopping.best


def supervised_loss(
    policy: Policy, encoded: Encoded, output: HeadOutput, targets: Sequence[Target]
) -> Float[Tensor, ""]:
    """The sum of the detector's own losses of the head."""
    return torch.stack(list(policy.detector.loss(encoded, targets, output).values())).sum()
