"""Signals: the first one lets the update end and the run be saved, the second one acts at once."""

import os
import signal
import threading
from pathlib import Path
from types import FrameType

import pytest
from training.toy import StopAt, ToyLearner, Watch, config

from rl_det.training.callbacks import Checkpoint
from rl_det.training.interrupts import SIGNALS, Interrupted, deferred, interruptible
from rl_det.training.loop import fit


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_within_interruptible_a_signal_raises_at_once_and_the_former_handlers_come_back(
    number: signal.Signals, exit_code: int
) -> None:
    before = handlers()
    with pytest.raises(Interrupted, match=f"interrupted by {number.name}") as raised, interruptible():
        send(number)
    assert raised.value.exit_code == exit_code
    assert isinstance(raised.value, KeyboardInterrupt)
    assert handlers() == before


def test_a_first_signal_waits_and_a_second_one_acts_at_once() -> None:
    before = handlers()
    with deferred() as pending:
        assert pending.number is None
        pending.raise_if_any()
        send(signal.SIGINT)
        assert pending.number == signal.SIGINT
        with pytest.raises(Interrupted) as raised:
            send(signal.SIGTERM)
        assert raised.value.exit_code == 143
        with pytest.raises(Interrupted, match="SIGINT"):  # of which only the first one waits
            pending.raise_if_any()
    assert handlers() == before


def test_outside_of_the_main_thread_nothing_is_handled() -> None:
    before, seen = handlers(), list[object]()

    def work() -> None:
        with interruptible(), deferred() as pending:
            seen.extend([handlers(), pending.number])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before, None]


@pytest.mark.parametrize("validate_start", [True, False])
def test_a_signal_during_an_update_lets_it_end_saves_and_is_raised_and_the_run_goes_on_from_there(
    tmp_path: Path, validate_start: bool
) -> None:
    loop = config(num_updates=6, validate_every=3, validate_start=validate_start)
    figures = [0.1, 0.2, 0.3] if validate_start else [0.2, 0.3]
    whole = ToyLearner(list(figures))
    fit(whole, loop, name="toy")

    learner, watch = ToyLearner(list(figures)), Watch()
    learner.before = lambda number: send(signal.SIGTERM) if number == 2 else None
    file = tmp_path / "toy.pt"
    with pytest.raises(Interrupted) as raised:
        fit(learner, loop, name="toy", callbacks=[Checkpoint(file, share=0.0), watch])
    assert raised.value.exit_code == 143
    assert watch.events[-2:] == [("step", 2), ("end", 2)]
    assert watch.ending is not None
    assert watch.ending.reason == "interrupted"
    assert file.exists()

    again, watch = ToyLearner(figures[int(validate_start) :]), Watch()
    ending = fit(again, loop, name="toy", callbacks=[Checkpoint(file), watch])
    assert watch.events[:2] == [("start", 2), ("step", 3)]
    assert ending.reason == "budget"
    assert ending.best == 0.3


def test_a_second_signal_during_an_update_ends_it_there_and_saves_nothing(tmp_path: Path) -> None:
    learner, watch = ToyLearner([0.1] * 9), Watch()
    handled: list[signal.Signals] = []

    def twice(number: int) -> None:
        for sent in (signal.SIGINT, signal.SIGTERM):
            send(sent)
            handled.append(sent)

    learner.before = twice
    before = handlers()
    with pytest.raises(Interrupted) as raised:
        fit(learner, config(), name="toy", callbacks=[Checkpoint(tmp_path / "toy.pt"), watch])
    assert raised.value.exit_code == 143
    assert handled == [signal.SIGINT]
    assert watch.ending is None
    assert learner.trainable.value == 5.0
    assert not list(tmp_path.iterdir())
    assert handlers() == before


def test_a_signal_in_the_last_update_is_raised_after_the_run_has_ended_well() -> None:
    learner, watch = ToyLearner([0.3, 0.1]), Watch()
    learner.before = lambda number: send(signal.SIGTERM) if number == 2 else None
    with pytest.raises(Interrupted):
        fit(learner, config(num_updates=2), name="toy", callbacks=[watch])
    assert watch.ending is not None
    assert watch.ending.reason == "budget"
    assert learner.trainable.value == learner.seen[0]


def test_a_programs_own_handler_comes_back_and_hears_what_comes_later() -> None:
    heard: list[int] = []

    def own(number: int, frame: FrameType | None) -> None:
        heard.append(number)

    former = signal.signal(signal.SIGTERM, own)
    try:
        fit(ToyLearner([0.1] * 4), config(), name="toy", callbacks=[StopAt(2)])
        send(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, former)
    assert heard == [signal.SIGTERM]
