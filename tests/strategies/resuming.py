"""A strategy killed at an update, and what its going on from the checkpoint must give: for the tests of resuming."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from strategies.scenes import Told, a_task, shipped
from torch import Tensor

from rl_det.detectors.encodings import EncodedDataset
from rl_det.storage.checkpoint import former
from rl_det.strategies import supervised
from rl_det.strategies.ppo import PPO
from rl_det.strategies.strategy import Strategy
from rl_det.training.averaging import copied
from rl_det.training.callbacks import Checkpoint
from rl_det.training.loop import Callback, Ending, FitRun

UPDATES, EVERY = 4, 2
INPUT_SIZE = 64
"""Small, as what is learned does not matter here."""
FIGURES = [0.1, 0.3, 0.2]
"""Of the start, of update 2, and of update 4."""
OF_VOTES = [0.1, 0.1, 0.4, 0.1]
"""Of the hand-set votes among which a strategy that begins there chooses; a run that goes on does not ask again."""


class KilledError(Exception):
    """A run's violent end."""


class KillAt(Callback):
    """Between two updates."""

    def __init__(self, update: int) -> None:
        self.update = update

    def on_step(self, run: FitRun, metrics: dict[str, float]) -> None:
        if run.update == self.update:
            raise KilledError


class Outcome(NamedTuple):
    """All by which two runs can differ."""

    ending: Ending | None
    weights: dict[str, Tensor]
    random: Tensor
    lines: list[tuple[int, str]]


def outcome(
    strategy: Strategy,
    data: EncodedDataset,
    *callbacks: Callback,
    figures: Sequence[float] = FIGURES,
    after: int | None = None,
) -> Outcome:
    """Tune to the end, or until it is killed; what is drawn before a run that goes on is another."""
    torch.manual_seed(0 if after is None else 99)
    policy, told = strategy.start(shipped(INPUT_SIZE)), Told()
    if after is None:
        torch.manual_seed(1)
    steps = UPDATES * (2 if isinstance(strategy, PPO) else 1)
    chooses = getattr(strategy, "begin", None) == "hand_set_votes" and after is None
    told_figures = iter([*OF_VOTES, *figures] if chooses else figures)
    task = a_task(
        data,
        num_steps=steps,
        batch_size=2,
        validate_every=EVERY * steps // UPDATES,
        callbacks=[*callbacks, told],
        validation_ap=told_figures.__next__,
        goes_on=after is not None,
    )
    ending = None
    with pytest.MonkeyPatch.context() as patched, contextlib.suppress(KilledError):
        patched.setattr(supervised, "detect_dataset", lambda *_: ([], []))
        patched.setattr(supervised, "quick_evaluate", lambda *_, **__: {"AP": next(told_figures)})
        ending = strategy.tune(policy, task)
    lines = [(update, json.dumps(metrics)) for update, metrics in told.lines]
    everything = {**copied(policy.detector.plain().state_dict()), **copied(policy.trainable.state_dict())}
    return Outcome(ending, everything, torch.get_rng_state(), lines)


def assert_it_repeats_itself_and_changes_something(strategy: Strategy, data: EncodedDataset, whole: Outcome) -> None:
    again = outcome(strategy, data)
    assert again.lines == whole.lines
    assert again.ending == whole.ending == Ending(reason="budget", update=UPDATES, best=0.3)
    assert [update for update, _ in whole.lines] == list(range(UPDATES + 1))
    assert len({line for _, line in whole.lines}) == UPDATES + 1
    start = shipped(INPUT_SIZE).plain().state_dict()
    assert any(not torch.equal(whole.weights[name], value) for name, value in start.items())


def assert_it_resumes(
    folder: Path, strategy: Strategy, data: EncodedDataset, whole: Outcome, killed_at: int, *, share: float
) -> None:
    """Killed, and gone on with from its last validation (share 0) or the update before (infinite), it ends as the whole."""
    file = folder / "run.pt"
    killed = outcome(strategy, data, Checkpoint(file, share=share), KillAt(killed_at))
    kept = killed_at - 1 if share else (killed_at - 1) // EVERY * EVERY
    resumed = outcome(strategy, data, Checkpoint(file), figures=FIGURES[kept // EVERY + 1 :], after=kept)
    assert killed.ending is None
    assert killed.lines == whole.lines[:killed_at]
    assert resumed.lines == whole.lines[kept + 1 :]
    assert resumed.ending == whole.ending
    assert resumed.weights.keys() == whole.weights.keys()
    assert [name for name, value in whole.weights.items() if not torch.equal(resumed.weights[name], value)] == []
    assert torch.equal(resumed.random, whole.random)
    assert {file} <= set(folder.iterdir()) <= {file, former(file)}
