"""The training loop: why a run ends, when it validates, which weights stay, and what callbacks hear."""

import math
import re
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training.toy import StopAt, ToyLearner, Watch, config
from unchecked import unchecked

from rl_det.errors import NotFiniteError, UserError
from rl_det.training.descent import Descent
from rl_det.training.loop import Ending, FitRun, fit
from rl_det.training.loop_config import LoopConfig


def run(learner: ToyLearner, **changes: Any) -> Ending:
    torch.manual_seed(0)
    return fit(learner, config(**changes), name="toy")


def test_a_run_ends_with_its_budget_at_the_best_weights() -> None:
    learner = ToyLearner([0.1, 0.3, 0.2, 0.1])
    assert run(learner) == Ending(reason="budget", update=4, best=0.3)
    assert learner.trainable.value == learner.seen[1]
    assert len(set(learner.seen)) == 4


def test_a_run_ends_when_validations_bring_no_progress() -> None:
    learner = ToyLearner([0.3, 0.2, 0.3])
    assert run(learner, patience=2) == Ending(reason="patience", update=3, best=0.3)
    assert learner.trainable.value == learner.seen[0]


def test_a_run_ends_when_the_figure_falls_far_under_the_starts() -> None:
    learner = ToyLearner([0.5, 0.6, 0.55, 0.4])
    ending = run(learner, validate_start=True, collapse_margin=0.05, num_updates=9)
    assert ending == Ending(reason="collapse", update=3, best=0.6, detail="AP x 100 fell from 50.00 to 40.00")
    assert learner.trainable.value == learner.seen[1]


def test_an_error_collapses_when_it_rises() -> None:
    learner = ToyLearner([0.5, 0.3, 0.56], name="moLRP")
    ending = run(learner, validate_start=True, collapse_margin=0.05, num_updates=9, monitor="moLRP")
    assert ending == Ending(reason="collapse", update=2, best=0.3, detail="moLRP x 100 fell from 50.00 to 56.00")


def test_a_run_without_any_gradient_ends_at_its_first_validation() -> None:
    learner = ToyLearner([0.5, 0.5], scale=0.0)
    ending = run(learner, validate_start=True, validate_every=3, num_updates=9)
    assert ending == Ending(reason="nothing to learn", update=3, best=0.5)


def test_one_update_with_a_gradient_is_enough_to_go_on() -> None:
    learner = ToyLearner([0.5] * 3, scale=0.0)

    def wake(number: int) -> None:
        learner.scale = float(number == 2)

    learner.before = wake
    assert run(learner, validate_every=3, num_updates=9).reason == "budget"


def test_an_updates_own_signal_counts_before_its_gradient() -> None:
    class Signalled(ToyLearner):
        def update(self, number: int, descent: Descent) -> dict[str, float]:
            return super().update(number, descent) | {"signal": 0.0}

    assert run(Signalled([0.5])).reason == "nothing to learn"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_losses_that_are_not_finite_skip_their_updates_and_too_many_in_a_row_end_the_run_at_its_best_weights(
    value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    learner, broken = ToyLearner([0.1, 0.3, 0.2, 0.2, 0.2]), {2, 4, 5, 6}

    def break_it(number: int) -> None:
        learner.scale = value if number in broken else 1.0

    learner.before = break_it
    ending = run(learner, num_updates=9, most_skipped=3)
    why = f"the loss is {value} in update"
    assert ending == Ending(
        reason="not finite", update=6, best=0.3, skipped=4, first_skipped=f"{why} 2",
        detail=f"{why} 6, the last of 3 in a row",
    )  # fmt: skip
    assert learner.trainable.value == learner.seen[1]
    assert capsys.readouterr().err.count("such updates are skipped and counted") == 1


def test_a_skipped_update_leaves_the_weights_and_the_others_are_made() -> None:
    learner = ToyLearner([0.5] * 8)

    def break_it(number: int) -> None:
        learner.scale = math.nan if number % 2 else 1.0

    learner.before = break_it
    ending = run(learner, num_updates=8)
    assert (ending.reason, ending.update, ending.skipped) == ("budget", 8, 4)
    assert [one == other for one, other in pairwise([5.0, *learner.seen])] == [True, False] * 4


class Unsound(ToyLearner):
    """Its validations find numbers that are not finite from the given one on."""

    def __init__(self, from_validation: int) -> None:
        super().__init__([])
        self.validations_left = from_validation

    def validate(self) -> dict[str, float]:
        self.validations_left -= 1
        if self.validations_left < 0:
            raise NotFiniteError("the detector's output is NaN or infinite", ["7 ('seven.png')"])
        return {"AP": 0.5}


def test_a_validation_that_is_not_finite_ends_the_run_and_at_the_start_nothing_is_trained() -> None:
    what = "the detector's output is NaN or infinite, images 7 ('seven.png')"
    ending = run(Unsound(1), num_updates=9)
    assert ending == Ending(
        reason="not finite",
        update=ending.update,
        best=0.5,
        detail=f"{what} in the validation after update {ending.update}",
    )
    with pytest.raises(UserError, match=re.escape(what)):
        run(Unsound(0), num_updates=9, validate_start=True)


def test_a_gradient_that_is_not_finite_leaves_the_weights_as_they_were() -> None:
    learner = ToyLearner([])
    descent = FitRun(learner, config(), "toy").descent
    with pytest.raises(NotFiniteError, match="gradient's norm is inf"):
        descent.step(learner.trainable.weight * 0 + (learner.trainable.weight * 1e-30 * 1e30 - 5).sqrt())
    assert learner.trainable.value == 5.0


def test_a_callback_ends_the_run_after_the_update_and_the_best_weights_stay() -> None:
    learner, watch = ToyLearner([0.3, 0.2]), Watch()
    ending = fit(learner, config(num_updates=9), name="toy", callbacks=[StopAt(2), watch])
    assert ending == watch.ending == Ending(reason="stopped", update=2, best=0.3, detail="enough")
    assert learner.trainable.value == learner.seen[0]


def test_the_first_reason_stays() -> None:
    fit_run = FitRun(ToyLearner([]), config(), "toy")
    fit_run.stop("first")
    fit_run.end("budget")
    assert fit_run.ending is not None
    assert (fit_run.ending.reason, fit_run.ending.detail) == ("stopped", "first")


def test_without_any_figure_the_last_weights_stay_and_cost_no_patience() -> None:
    learner = ToyLearner([None, math.nan, None, None])
    assert run(learner, patience=1) == Ending(reason="budget", update=4)
    assert learner.trainable.value == learner.seen[-1]


def test_the_start_is_validated_where_that_is_asked_for_and_training_is_the_same() -> None:
    without, learner = ToyLearner([0.1] * 4), ToyLearner([0.4, 0.1, 0.4, 0.3, 0.2])
    run(without)
    assert run(learner, validate_start=True) == Ending(reason="budget", update=4, best=0.4)
    assert learner.trainable.value == learner.seen[0] == 5.0
    assert learner.seen[1:] == without.seen


def test_a_figure_where_less_is_better_is_led_downwards() -> None:
    learner = ToyLearner([0.5, 0.3, 0.4, 0.35], name="calibration_error")
    assert run(learner, monitor="calibration_error").best == 0.3
    assert learner.trainable.value == learner.seen[1]


@pytest.mark.parametrize(
    ("every", "due"),
    [
        (2, [2, 4, 6, 7]),
        (10, [7]),
        (Fraction(6, 4), [2, 3, 5, 6, 7]),  # 6 images by 4: the last of epoch 1 is the second of update 2
        (Fraction(1, 2), [1, 2, 3, 4, 5, 6, 7]),  # two epochs an update: one validation all the same
        (Fraction(10, 3), [4, 7]),
    ],
)
def test_validation_is_due_when_an_interval_is_full_and_at_the_end(every: int | Fraction, due: list[int]) -> None:
    loop = config(num_updates=7, validate_every=every)
    assert [update for update in range(1, 8) if loop.is_due(update)] == due
    learner, watch = ToyLearner([0.1] * 7), Watch()
    fit(learner, loop, name="toy", callbacks=[watch])
    assert [update for event, update in watch.events if event == "validation"] == due


def test_the_running_mean_of_the_weights_is_what_is_validated_and_kept() -> None:
    plain, learner = ToyLearner([0.1, 0.2, 0.3, 0.4]), ToyLearner([0.1, 0.2, 0.3, 0.2])
    run(plain)
    run(learner, ema=0.999)
    mean = plain.seen[0]
    assert learner.seen[0] == pytest.approx(mean)
    for count, current in enumerate(plain.seen[1:], 1):
        decay = (1 + count) / (10 + count)
        mean = decay * mean + (1 - decay) * current
        assert learner.seen[count] == pytest.approx(mean)  # and the training itself went on from its own weights
    assert learner.trainable.value == learner.seen[2]


def test_without_any_figure_the_last_running_mean_stays() -> None:
    learner = ToyLearner([None] * 4)
    run(learner, ema=0.9)
    assert learner.trainable.value == learner.seen[-1]


def test_the_rate_follows_the_schedule_whatever_the_number_of_steps_in_an_update() -> None:
    class Twice(ToyLearner):
        def update(self, number: int, descent: Descent) -> dict[str, float]:
            super().update(number, descent)
            return super().update(number, descent)

    rates = []
    for learner in (ToyLearner([0.1] * 4), Twice([0.1] * 4)):
        watch = Watch()
        own: list[float] = []
        learner.before = lambda number, own=own, watch=watch: own.append(
            watch.run.descent.optimizer.param_groups[0]["lr"]
        )  # type: ignore[misc]
        fit(learner, config(), name="toy", callbacks=[watch])
        rates.append(own)
    assert rates[1] == [rate for rate in rates[0] for _ in range(2)]
    assert rates[0] == sorted(rates[0], reverse=True)


def test_callbacks_hear_of_a_run_in_this_order() -> None:
    watch = Watch()
    ending = fit(
        ToyLearner([0.1, 0.2]),
        config(num_updates=2, validate_every=2, validate_start=True),
        name="toy",
        callbacks=[watch],
    )
    assert watch.events == [
        ("start", 0), ("step", 0), ("validation", 0), ("step", 1), ("step", 2), ("validation", 2), ("end", 2),
    ]  # fmt: skip
    assert [set(metrics) for metrics in watch.metrics] == [
        {"val_AP"}, {"loss", "grad_norm"}, {"loss", "grad_norm", "val_AP"},
    ]  # fmt: skip
    assert watch.ending == ending


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_updates": 0},
        {"validate_every": 0},
        {"validate_every": Fraction(-1, 2)},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"learning_rate": math.inf},
        {"weight_decay": -0.1},
        {"max_grad_norm": 0.0},
        {"schedule": "linear"},
        {"ema": 1.0},
        {"ema": -0.1},
        {"collapse_margin": 0.0},
        {"patience": 0},
        {"min_delta": -0.1},
        {"warm_up": -1},
    ],
)
def test_impossible_settings_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(wrong))} must .*got"), unchecked():
        config(**wrong)


def test_an_unknown_figure_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"AP, AP50.*moLRP; got 'mAP'"):
        LoopConfig(num_updates=1, learning_rate=0.1, monitor="mAP")


@settings(max_examples=200, deadline=None)
@given(
    num_updates=st.integers(1, 60),
    validate_every=st.one_of(st.integers(1, 70), st.fractions(Fraction(1, 8), 70, max_denominator=8)),
    validate_start=st.booleans(),
)
def test_the_number_of_validations_is_known_beforehand(
    num_updates: int, validate_every: int | Fraction, validate_start: bool
) -> None:
    loop = config(num_updates=num_updates, validate_every=validate_every, validate_start=validate_start)
    due = sum(loop.is_due(update) for update in range(1, num_updates + 1))
    assert loop.num_validations == due + validate_start


@pytest.mark.parametrize(("patience", "warm_up"), [(3, 0), (2, 1), (100, 0)])
def test_a_patience_that_cannot_end_the_run_is_told_at_its_start(
    capsys: pytest.CaptureFixture[str], patience: int, warm_up: int
) -> None:
    run(ToyLearner([0.4, 0.3, 0.2, 0.1]), patience=patience, warm_up=warm_up)
    told = f"toy: a patience of {patience} cannot end this run, which has 4 validations"
    assert (told in capsys.readouterr().err) == (patience + warm_up > 3)
    assert config(patience=patience, warm_up=warm_up).patience_can_end == (patience + warm_up <= 3)
    ending = run(ToyLearner([0.4, 0.3, 0.2, 0.1]), patience=patience, warm_up=warm_up)
    assert ending.reason == ("patience" if patience + warm_up <= 3 else "budget")


def test_a_warm_up_after_which_no_validation_counts_is_refused() -> None:
    config(warm_up=3)
    with pytest.raises(ValueError, match="warm_up must leave a validation that counts, of 4; got 4; 0 is usual"):
        config(warm_up=4)
