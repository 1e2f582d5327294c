"""All that a training has at one step <-> one file: a training that is killed goes on from it as if it had not been.

What goes on draws the same numbers: torchvision's detectors draw from torch's global generators, so these are in the
file too. The order of the images is a function of the generator's state at the start, which is there, and of the step.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rl_det.storage.checkpoint import check_same, read_checkpoint
from rl_det.storage.files import write_with
from rl_det.storage.weights import check_state
from rl_det.training.early_stopping import EarlyStopping

PARTS = ("optimizer", "schedule", "scaler", "average", "stopping")


@dataclass(kw_only=True)
class TrainingState:
    """A model in training, and what trains it; `step` steps have been made.

    `identity` says, in JSON's types, what a training must have in common with one that was stopped, to go on from it.
    """

    model: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler
    scaler: torch.amp.GradScaler
    average: AveragedModel | None
    stopping: EarlyStopping
    generator: torch.Generator
    identity: dict[str, Any]
    step: int = 0
    best: dict[str, Tensor] | None = None
    start: Tensor = field(init=False)
    """The generator's state before its first draw."""

    def __post_init__(self) -> None:
        self.start = self.generator.get_state()

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Within this context the model has its averaged weights, if there are any: those are validated and kept."""
        if self.average is None:
            yield
            return
        own = copied(self.model)
        self.model.load_state_dict(self.average.module.state_dict())
        try:
            yield
        finally:
            self.model.load_state_dict(own)

    def finish(self) -> None:
        """Leave the model at its best weights, or where no evaluation brought a metric at its last."""
        if self.best is not None:
            self.model.load_state_dict(self.best)
        elif self.average is not None:
            self.model.load_state_dict(self.average.module.state_dict())
        self.model.eval()

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        state = {
            "identity": self.identity, "step": self.step, "model": self.model.state_dict(), "best": self.best,
            "start": self.start, "random": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all(),
            **{name: part.state_dict() for name, part in self._parts().items()},
        }  # fmt: skip
        write_with(path, lambda file: torch.save(state, file))

    def load(self, path: Path) -> None:
        """Go on from the file; ValueError, naming it and what does not fit, with nothing changed."""
        state = read_checkpoint(path)
        missing = {"identity", "step", "model", "best", "start", "random", *self._parts()} - state.keys()
        if missing:
            raise ValueError(f"{path}: must be the state of a training; it lacks {', '.join(sorted(missing))}")
        check_state(self.model, state["model"], path)
        check_same(path, state["identity"], self.identity)
        if not torch.equal(state["start"], self.start):
            raise ValueError(f"{path}: what goes on must be what was stopped; the generator had another seed")
        self.model.load_state_dict(state["model"])
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.step, self.best = state["step"], state["best"]
        torch.set_rng_state(state["random"])
        if len(state.get("cuda", [])) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])

    def _parts(self) -> Mapping[str, Any]:
        return {name: getattr(self, name) for name in PARTS if getattr(self, name) is not None}


def copied(model: nn.Module) -> dict[str, Tensor]:
    """The model's state, which later training does not reach."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """The running mean of a model's weights and of its normalisation's statistics, each step's share 1 - decay.

    In the first steps the decay is less, (1 + n) / (10 + n) after n, so that the random start is soon forgotten (the rule
    of TensorFlow's ExponentialMovingAverage).
    """

    def update(mean: Any, current: Any, num_averaged: Any) -> None:
        count = float(num_averaged)
        get_ema_multi_avg_fn(min(decay, (1 + count) / (10 + count)))(mean, current, num_averaged)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)
