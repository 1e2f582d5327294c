"""A learner of one number, whose validation is told beforehand, and callbacks that watch: what the loop's tests share."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from rl_det.training.descent import Descent
from rl_det.training.loop import Callback, Ending, FitRun
from rl_det.training.loop_config import LoopConfig


class Number(nn.Module):
    """A weight that descends towards 0."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(5.0))

    @property
    def value(self) -> float:
        return float(self.weight.detach())


class ToyLearner:
    """Each update is a step on weight squared, times noise; `figures` are told one by one, and `seen` are the weights then."""

    def __init__(self, figures: list[Any], *, scale: float = 1.0, name: str = "AP") -> None:
        self.trainable = Number()
        self.figures, self.scale, self.name = iter(figures), scale, name
        self.generator = torch.Generator().manual_seed(0)
        self.seen: list[float] = []
        self.before: Callable[[int], None] = lambda number: None

    def update(self, number: int, descent: Descent) -> dict[str, float]:
        self.before(number)
        noise = 1 + torch.rand((), generator=self.generator) + torch.rand(())
        loss = self.scale * noise * self.trainable.weight.square()
        return {"loss": float(loss.detach()), "grad_norm": descent.step(loss)}

    def validate(self) -> Mapping[str, float]:
        self.seen.append(self.trainable.value)
        figure = next(self.figures)
        return {} if figure is None else {self.name: figure}

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])


def config(**changes: Any) -> LoopConfig:
    return LoopConfig(
        **{"num_updates": 4, "learning_rate": 0.1, "validate_every": 1, "validate_start": False} | changes
    )


class Watch(Callback):
    """Every event in order, and the run itself."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []
        self.metrics: list[dict[str, float]] = []
        self.ending: Ending | None = None

    def on_start(self, run: FitRun) -> None:
        self.run = run
        self.events.append(("start", run.update))

    def on_step(self, run: FitRun, metrics: dict[str, float]) -> None:
        self.events.append(("step", run.update))
        self.metrics.append(metrics)

    def on_validation(self, run: FitRun, figures: Mapping[str, float]) -> None:
        self.events.append(("validation", run.update))

    def on_end(self, run: FitRun, ending: Ending) -> None:
        self.events.append(("end", run.update))
        self.ending = ending


class StopAt(Callback):
    """Ends the run after an update, in one way or another."""

    def __init__(self, update: int, stop: Callable[[FitRun], None] = lambda run: run.stop("enough")) -> None:
        self.update, self.act = update, stop

    def on_step(self, run: FitRun, metrics: dict[str, float]) -> None:
        if run.update == self.update:
            self.act(run)
