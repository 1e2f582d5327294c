"""What happens around a run's updates: checkpoints, metrics on disk, and a bar."""

import contextlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from training.toy import StopAt, ToyLearner, Watch, config
from unchecked import unchecked

import rl_det.progress
from rl_det.storage.checkpoint import DamagedError, former, read_checkpoint, remove_checkpoint, write_checkpoint
from rl_det.storage.run import Run
from rl_det.training import callbacks
from rl_det.training.callbacks import Checkpoint, MetricsLog, ProgressBar
from rl_det.training.loop import Callback, Ending, FitRun, fit
from rl_det.training.loop_config import LoopConfig

FIGURES = [0.1, 0.2, 0.5, 0.4, 0.3]
LOOP = config(num_updates=8, validate_every=2, validate_start=True)


class KilledError(Exception):
    """A run's violent end."""


def kill(run: FitRun) -> None:
    raise KilledError


def outcome(loop: LoopConfig, figures: list[Any], *callbacks: Callback, seed: int = 0) -> tuple[Any, ...]:
    """All by which two runs can differ, and their lines; the ending is None where it was killed."""
    torch.manual_seed(seed)
    learner, watch = ToyLearner(list(figures)), Watch()
    ending = None
    with contextlib.suppress(KilledError):
        ending = fit(learner, loop, name="toy", callbacks=[*callbacks, watch])
    random = torch.get_rng_state().tolist(), learner.generator.get_state().tolist()
    lines = [(update, json.dumps(metrics)) for (event, update), metrics in zip(
        [e for e in watch.events if e[0] == "step"], watch.metrics, strict=True)]  # fmt: skip
    return ending, learner.trainable.value, random, lines


VARIANTS = {
    "plain": LOOP,
    "mean": replace(LOOP, ema=0.9),
    "mixed": replace(LOOP, mixed=True, schedule="step"),
    "patience": replace(LOOP, patience=2),
    "warm up": replace(LOOP, warm_up=2, min_delta=0.01),
    "collapse": replace(LOOP, collapse_margin=0.15),
    "no start": replace(LOOP, validate_start=False),
}


@pytest.mark.parametrize("killed_at", range(9))
@pytest.mark.parametrize("name", VARIANTS)
def test_killed_at_any_update_and_resumed_it_ends_as_if_it_had_never_been_stopped(
    tmp_path: Path, name: str, killed_at: int
) -> None:
    loop, file = VARIANTS[name], tmp_path / "toy.pt"
    figures = [0.2, 0.5, 0.4, 0.3] if name == "no start" else FIGURES
    whole = outcome(loop, figures)
    killed = outcome(loop, figures, Checkpoint(file, share=0.0), StopAt(killed_at, kill))
    done = len(killed[3])
    if killed[0] is not None:  # it had ended before
        assert killed == whole
        return
    first = 0 if loop.validate_start else 1
    kept = 2 * ((killed_at - 1) // 2) if killed_at else -1
    kept = kept if kept > 0 or (kept == 0 and loop.validate_start) else -1
    told = 0 if kept < 0 else kept // 2 + (1 if loop.validate_start else 0)
    resumed = outcome(loop, figures[told:], Checkpoint(file), seed=99 if kept >= 0 else 0)
    assert resumed[:3] == whole[:3]
    assert killed[3] == whole[3][:done]
    assert resumed[3] == whole[3][kept + 1 - first if kept >= 0 else 0 :]


def test_a_run_that_has_ended_does_not_begin_again(tmp_path: Path) -> None:
    file = tmp_path / "toy.pt"
    for loop in (LOOP, replace(LOOP, patience=1)):
        remove_checkpoint(file)
        ended = outcome(loop, FIGURES, Checkpoint(file))
        again = outcome(loop, [], Checkpoint(file))
        assert again[:2] == ended[:2]
        assert again[3] == []


def test_between_validations_it_is_written_when_enough_time_has_gone(tmp_path: Path) -> None:
    file = tmp_path / "toy.pt"
    outcome(LOOP, FIGURES, Checkpoint(file, share=math.inf), StopAt(4, kill))
    assert outcome(LOOP, FIGURES[2:], Checkpoint(file))[3][0][0] == 4
    assert sorted(tmp_path.iterdir()) == [former(file), file]


def test_a_run_that_goes_on_knows_the_seconds_of_the_stopped_ones(tmp_path: Path) -> None:
    file = tmp_path / "toy.pt"
    first, second = Checkpoint(file, clock=lambda: 10.0), Checkpoint(file, clock=lambda: 3.0)
    outcome(LOOP, FIGURES, first, StopAt(3, kill))
    assert first.before == 0.0
    outcome(LOOP, FIGURES[2:], second, StopAt(5, kill))
    assert second.before == 10.0
    third = Checkpoint(file)
    outcome(LOOP, FIGURES[3:], third)
    assert third.before == 13.0


def test_what_other_callbacks_do_after_an_update_is_done_before_it_is_written(tmp_path: Path) -> None:
    file, whole = tmp_path / "toy.pt", outcome(LOOP, FIGURES, StopAt(3))
    assert whole[0].reason == "stopped"
    always = partial(Checkpoint, file, share=math.inf)
    for last, begins in ((StopAt(3, kill), 3), (Ended(kill), None)):
        remove_checkpoint(file)
        assert outcome(LOOP, FIGURES, always(), *(() if begins else (StopAt(3),)), last)[0] is None
        resumed = outcome(LOOP, FIGURES[2:], always(), StopAt(3))
        assert resumed[:3] == whole[:3]
        assert [update for update, _ in resumed[3]] == ([begins] if begins else [])


class Ended(Callback):
    """Acts when a run has ended, before anything is made of its end."""

    def __init__(self, act: Callable[[FitRun], None]) -> None:
        self.act = act

    def on_end(self, run: FitRun, ending: Ending) -> None:
        self.act(run)


def test_a_validation_is_written_once_so_the_one_before_is_older(tmp_path: Path) -> None:
    file, updates = tmp_path / "toy.pt", list[int]()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(callbacks, "write_checkpoint", lambda path, state: updates.append(state["update"]))
        outcome(LOOP, FIGURES, Checkpoint(file, share=math.inf))
    assert updates == list(range(9))


@pytest.mark.parametrize(
    ("takes", "saved"), [(0.15, [1, *range(3, 13, 2)]), (0.35, [1, 5, 9]), (0.65, [1, 7]), (99.0, [1, 7])]
)
def test_between_validations_writing_takes_its_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, takes: float, saved: list[int]
) -> None:
    clock, written, file = Clock(), list[int](), tmp_path / "toy.pt"

    def write(path: Path, state: dict[str, Any]) -> None:
        written.append(state["update"])
        clock.now += takes

    monkeypatch.setattr(callbacks, "time", clock)
    monkeypatch.setattr(callbacks, "LONGEST", 5.5)
    monkeypatch.setattr(callbacks, "write_checkpoint", write)
    long = config(num_updates=12, validate_every=12, validate_start=False)
    outcome(long, [0.5], Ticking(clock), Checkpoint(file, share=0.1))
    assert written == [*saved, 12]


class Clock:
    """In place of the module `time`."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


class Ticking(Callback):
    """An update takes a second."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_step(self, run: FitRun, metrics: dict[str, float]) -> None:
        self.clock.now += 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.2}, r"learning_rate was 0\.1 and is 0\.2"),
        ({"ema": 0.9}, r"ema was 0\.0 and is 0\.9"),
        ({"num_updates": 9}, r"num_updates was 8 and is 9"),
        ({"patience": 3}, r"patience was None and is 3"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_named_with_what_differs(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    file = tmp_path / "toy.pt"
    outcome(LOOP, FIGURES, Checkpoint(file), StopAt(3, kill))
    with pytest.raises(ValueError, match=rf"toy\.pt: .*{message}.*start afresh"):
        outcome(replace(LOOP, **changes), FIGURES, Checkpoint(file))


@pytest.mark.parametrize("content", [b"", b"weights, please"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "toy.pt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"toy\.pt: must be a whole checkpoint.*start afresh"):
        outcome(LOOP, FIGURES, Checkpoint(file))


@pytest.mark.parametrize("content", [{"weight": torch.ones(1)}, [1, 2]])
def test_other_weights_are_no_state_of_a_run(tmp_path: Path, content: Any) -> None:
    file = tmp_path / "toy.pt"
    torch.save(content, file)
    with pytest.raises(ValueError, match=r"toy\.pt: "):
        outcome(LOOP, FIGURES, Checkpoint(file))


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"signal": None}, "KeyError: 'signal'"),
        ({"update": 99}, "ValueError: update 99 of 8"),
        ({"update": -5}, "ValueError: update -5 of 8"),
        ({"update": "3"}, "TypeError"),
        ({"ending": {"reason": 3}}, "reason"),
        ({"best": {"weight": torch.ones(7)}}, "RuntimeError"),
        ({"trainable": {}}, "RuntimeError"),
        ({"skipped": [0]}, "ValueError"),
        ({"seconds": "long"}, "ValueError"),
    ],
)
def test_entries_that_do_not_fit_the_run_are_told_in_one_sentence_that_names_the_file(
    tmp_path: Path, entries: dict[str, Any], told: str
) -> None:
    file = tmp_path / "toy.pt"
    outcome(LOOP, FIGURES, Checkpoint(file), StopAt(3, kill))
    changed = read_checkpoint(file) | entries
    write_checkpoint(file, {name: value for name, value in changed.items() if value is not None or name not in entries})
    before = file.read_bytes()
    both = rf"toy\.pt and .*toy\.former\.pt: must be of this run; .*{re.escape(told)}.*; remove both to start afresh"
    with unchecked(), pytest.raises(DamagedError, match=both):
        outcome(LOOP, FIGURES, Checkpoint(file))
    assert file.read_bytes() == before
    former(file).unlink()
    with unchecked(), pytest.raises(DamagedError, match=r"toy\.pt: must be of this run; .*; remove it to start afresh"):
        outcome(LOOP, FIGURES, Checkpoint(file))
    file.unlink()
    outcome(LOOP, FIGURES, Checkpoint(file))


def test_a_machine_without_memory_is_no_fault_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    file = tmp_path / "toy.pt"
    outcome(LOOP, FIGURES, Checkpoint(file), StopAt(3, kill))
    monkeypatch.setattr(FitRun, "load_state_dict", full)
    with pytest.raises(torch.OutOfMemoryError):
        outcome(LOOP, FIGURES, Checkpoint(file))


def test_an_ending_that_a_users_own_strategy_gave_is_read_again() -> None:
    with unchecked():
        own = Ending(reason="tired", best=math.nan, update=3)  # type: ignore[arg-type]
        assert Ending.of(asdict(own)) == replace(own, best=None)


def lines(folder: Path) -> list[tuple[str, int, float | None]]:
    told = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(line["stage"], line["step"], line.get("val_AP")) for line in told]


def test_a_run_has_a_line_for_each_update_and_one_that_goes_on_drops_those_that_come_again(tmp_path: Path) -> None:
    with Run(tmp_path, {}) as folder:
        folder.log(3, "another", {"loss": 1.0})
        outcome(LOOP, FIGURES, Checkpoint(folder.checkpoints / "toy.pt"), MetricsLog(folder), StopAt(5, kill))
    assert [step for stage, step, _ in lines(tmp_path) if stage == "toy"] == [0, 1, 2, 3, 4, 5]
    with Run(tmp_path, {}, resume=True) as folder:
        outcome(LOOP, FIGURES[3:], Checkpoint(folder.checkpoints / "toy.pt"), MetricsLog(folder))
    aps = {0: 0.1, 2: 0.2, 4: 0.5, 6: 0.4, 8: 0.3}
    assert lines(tmp_path) == [("another", 3, None), *(("toy", step, aps.get(step)) for step in range(9))]


def test_a_run_that_begins_again_drops_all_of_its_lines(tmp_path: Path) -> None:
    with Run(tmp_path, {}) as folder:
        outcome(LOOP, FIGURES, MetricsLog(folder), StopAt(3, kill))
    with Run(tmp_path, {}, resume=True) as folder:
        outcome(LOOP, FIGURES, MetricsLog(folder))
    assert [step for _, step, _ in lines(tmp_path)] == list(range(9))


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The captured streams pass for a terminal's, where bars are drawn."""
    monkeypatch.setattr(rl_det.progress, "draws_bars", lambda: True)


@pytest.mark.usefixtures("terminal")
def test_a_bar_shows_the_name_the_updates_and_the_latest_figure(capsys: pytest.CaptureFixture[str]) -> None:
    outcome(LOOP, FIGURES, ProgressBar())
    shown = capsys.readouterr().err
    assert "toy" in shown
    assert "8/8" in shown
    assert "val AP 30.00" in shown


@pytest.mark.usefixtures("terminal")
def test_a_bar_of_a_run_that_goes_on_begins_where_the_run_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "toy.pt"
    outcome(LOOP, FIGURES, Checkpoint(file, share=0.0), StopAt(5, kill))
    capsys.readouterr()
    outcome(LOOP, FIGURES[3:], Checkpoint(file), ProgressBar())
    assert "4/8" in capsys.readouterr().err


def test_an_ending_that_was_kept_is_the_same(tmp_path: Path) -> None:
    file = tmp_path / "toy.pt"
    ended = outcome(replace(LOOP, patience=1), [0.3, 0.2], Checkpoint(file))
    assert ended[0] == Ending(reason="patience", update=2, best=0.3)
    assert outcome(replace(LOOP, patience=1), [], Checkpoint(file))[0] == ended[0]


def test_the_bar_is_closed_where_an_update_raises() -> None:
    def broken(number: int) -> None:
        if number == 2:
            raise KilledError

    learner, bar = ToyLearner([0.1]), ProgressBar()
    learner.before = broken
    with pytest.raises(KilledError):
        fit(learner, config(validate_every=4), name="toy", callbacks=[bar])
    assert not bar.bar._thread.is_alive()
