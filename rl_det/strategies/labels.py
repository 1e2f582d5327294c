"""The control: continued supervised training of a policy's head, on cached encodings and labels.

It trains the same parameters as the other strategies, on the same images, in batches of the same size, for as many
image passes, under the same schedule and the same selection by validation AP. It learns by the detector's own losses.
Labels do not train a module beside the head, which does not change. experiments/LOG.md has other forms of teaching it
by labels; none did better.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rl_det.detectors import Detector
from rl_det.detectors.divided import said_by
from rl_det.detectors.encodings import Encodings, check_finite, names_of
from rl_det.errors import naming
from rl_det.policies.build import PolicyName, build_policy
from rl_det.policies.policy import Policy
from rl_det.settings import check_settings, positive, within
from rl_det.strategies.strategy import Task, given
from rl_det.training.batches import ShuffledBatches
from rl_det.training.descent import Descent
from rl_det.training.loop import Ending
from rl_det.training.loop_config import LoopConfig
from rl_det.types import Encoded, HeadOutput, Target

CONTROL = "continued_supervised"
Losses = Callable[[Policy, Encoded, HeadOutput, Sequence[Target]], dict[str, Float[Tensor, ""]]]
"""(policy, encodings, the head's output, labels) -> losses by name, which are summed."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Continued supervised training of the head: the control, with which every other strategy is compared."""

    name: str = CONTROL
    """The name of its row in the table."""
    policy: PolicyName | None = "rescore"
    """The policy whose head is trained; a module beside the head does not change. None: as for PPO."""
    learning_rate: float | None = None
    """AdamW's peak rate; left out: the head's in the warm start, or a quarter of the whole detector's if all is trained."""
    max_grad_norm: float = 1.0
    """The maximum norm of the gradient; a larger gradient is scaled down."""
    passes: float = 1.0
    """The image passes, as a multiple of the other strategies'; a control with as many seconds as PPO has more of them."""
    ema: float = 0.0
    """The decay of the running mean of the weights, which is validated and kept in place of the last ones; 0: none."""

    def __post_init__(self) -> None:
        check_settings(
            self,
            learning_rate=positive(usual="2e-3"),
            max_grad_norm=positive(infinite=True),
            passes=positive(usual="1"),
            ema=within("[0, 1)", usual="0.99"),
        )

    @property
    def trains(self) -> Literal["head"]:
        """The head alone."""
        return "head"

    def start(self, detector: Detector) -> Policy:
        """The policy at the warm start."""
        return build_policy(self.policy, detector)

    def tune(self, policy: Policy, task: Task) -> Ending:
        """Train the policy's head by the detector's own losses."""
        losses: Losses = lambda *batch: {"supervised": supervised_loss(*batch)}  # noqa: E731
        loop = control_loop(task, self.learning_rate, self.max_grad_norm)
        num_updates = max(1, round(self.passes * task.num_steps))
        return task.fit(labels_learner(policy, task, losses), replace(loop, num_updates=num_updates, ema=self.ema))


def labels_learner(policy: Policy, task: Task, losses: Losses) -> "LabelsLearner":
    """The learner with these losses, on the task's batches."""
    return LabelsLearner(
        policy,
        task.train,
        losses,
        batch_size=task.batch_size,
        generator=torch.Generator().manual_seed(task.seed),
        validate=lambda: task.validation_ap(policy),
    )


def control_loop(task: Task, learning_rate: float | None, max_grad_norm: float) -> LoopConfig:
    """The loop settings of all strategies whose update is one step on one batch."""
    return LoopConfig(
        num_updates=task.num_steps,
        learning_rate=given(learning_rate, task.learning_rate),
        max_grad_norm=max_grad_norm,
        validate_every=task.validate_every,
    )


class LabelsLearner:
    """A learner whose update is one step on one batch of encodings, by these losses."""

    def __init__(
        self,
        policy: Policy,
        data: Encodings,
        losses: Losses,
        *,
        batch_size: int,
        generator: torch.Generator,
        validate: Callable[[], float],
    ) -> None:
        self.policy, self.data, self.losses, self.validation_ap = policy, data, losses, validate
        self.batches = ShuffledBatches(len(data), batch_size, generator)

    @property
    def trainable(self) -> nn.Module:
        """The policy's trainable part."""
        return self.policy.trainable

    def update(self, number: int, descent: Descent) -> dict[str, float]:
        """Make one step on one batch; if there are several losses, the metrics have each."""
        images = self.batches.draw()
        encoded = self.data.batch(images, self.policy.detector)
        targets = [self.data.targets[image] for image in images.tolist()]
        output = said_by(self.policy.detector, encoded)
        check_finite(output, encoded.mask, self.data, images.tolist())
        parts = self.losses(self.policy, encoded, output, targets)
        loss = torch.stack(list(parts.values())).sum()
        with naming(lambda: names_of(self.data, images.tolist())):
            norm = descent.step(loss)
        named = {name: float(part.detach()) for name, part in parts.items()} if len(parts) > 1 else {}
        return {"loss": float(loss.detach()), **named, "grad_norm": norm}

    def validate(self) -> dict[str, float]:
        """The validation mAP."""
        return {"AP": self.validation_ap()}

    def state_dict(self) -> dict[str, Any]:
        """The state of the order of the images."""
        return self.batches.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved order."""
        self.batches.load_state_dict(state)


def supervised_loss(
    policy: Policy, encoded: Encoded, output: HeadOutput, targets: Sequence[Target]
) -> Float[Tensor, ""]:
    """The sum of the detector's own losses of the head."""
    return torch.stack(list(policy.detector.loss(encoded, targets, output).values())).sum()
