"""One optimiser step on a loss: precision, gradient clipping, schedule and running mean of the weights."""

import contextlib
import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from rl_det import parallel
from rl_det.errors import NotFiniteError, UserError
from rl_det.precision import running_in
from rl_det.training.schedules import SCHEDULES, ScheduleName


class Descent:
    """AdamW on a model's parameters; an update of the loop makes one step or several.

    With float16, which `mixed` is on CUDA, the loss is scaled. Raises UserError if no parameter requires a gradient.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        num_updates: int,
        learning_rate: float,
        weight_decay: float,
        schedule: ScheduleName,
        max_grad_norm: float,
        mixed: bool,
        average: AveragedModel | None,
    ) -> None:
        self.parameters = list(model.parameters())
        if not any(parameter.requires_grad for parameter in self.parameters):
            raise UserError(
                "what is trained must have parameters that require a gradient; all are frozen; unfreeze them by "
                "requires_grad_(True)"
            )
        self.model, self.average, self.mixed, self.max_grad_norm = model, average, mixed, max_grad_norm
        self.device = self.parameters[0].device
        self.optimizer = torch.optim.AdamW(self.parameters, lr=learning_rate, weight_decay=weight_decay)
        self.schedule = SCHEDULES[schedule](self.optimizer, num_updates)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=mixed and self.device.type == "cuda")
        self.num_steps = 0
        """The number of optimiser steps in the present update."""

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """The context in which a forward pass runs, with this precision."""
        return running_in("mixed" if self.mixed else "float32", self.device)

    def step(self, loss: Tensor) -> float:
        """Make one optimiser step; return the gradient's norm before clipping.

        Where several processes train together, the step is on the mean of their losses, the same in all of them.

        Raises NotFiniteError, with the weights unchanged, if the loss or the gradient is not finite. A float16 gradient
        that overflows is not an error; it skips the step.
        """
        value = parallel.mean_of(float(loss.detach()))
        if not math.isfinite(value):
            raise NotFiniteError(f"the loss is {value}")
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        parallel.average_gradients(self.parameters)
        self.scaler.unscale_(self.optimizer)
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm))
        if not (math.isfinite(norm) or self.scaler.is_enabled()):
            raise NotFiniteError(f"the gradient's norm is {norm}")
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.num_steps += self.scaler.get_scale() >= scale  # else the gradient overflowed, and nothing moved
        if self.average is not None:
            self.average.update_parameters(self.model)
        return norm

    def end_update(self) -> None:
        """Set the learning rate of the next update."""
        if self.num_steps:
            self.schedule.step()
        self.num_steps = 0

    def state_dict(self) -> dict[str, object]:
        """All that the next step depends on, except the model's own weights."""
        average = None if self.average is None else self.average.state_dict()
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": average,
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restore a saved state, which may be of another device; one that scaled no loss has nothing to say of the scale."""
        self.optimizer.load_state_dict(state["optimizer"])  # type: ignore[arg-type]
        self.schedule.load_state_dict(state["schedule"])  # type: ignore[arg-type]
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])  # type: ignore[arg-type]
        if self.average is not None:
            self.average.load_state_dict(state["average"])  # type: ignore[arg-type]
