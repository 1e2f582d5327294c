"""Shaping on a task that can be enumerated: potentials keep the best policies, the sign of the change does not."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from rewards.scenes import make_pool, untouched

from rl_det.rewards import (
    Edits,
    LengthFactor,
    PoolAp,
    PotentialShaping,
    Reward,
    SignOfIouChange,
    StepCost,
    Sum,
    Worth,
    best_iou,
    f1,
    image_ap_value,
    pool_mean_ap,
)

NUM_STEPS = 3
START = 18.0
"""Pixels between image 0's first detection and its object, 40 wide, at the start."""
MOVES = (-18.0, -5.0, 0.0)
"""What an action adds to that: all the way at once, a small step nearer, nothing."""
POOL = make_pool()


def standing(place: float) -> Edits:
    edits = untouched(POOL)[np.array([0])]
    edits.detections.boxes[0, 0] = POOL.truths.boxes[0, 1] + np.array([place, 0, place, 0])
    return edits


STANDING = {
    place: standing(place) for place in {START + sum(c) for n in range(4) for c in itertools.product(MOVES, repeat=n)}
}
OBJECTIVE = Worth(image_ap_value, "by_change")


def returns(reward: Reward, gamma: float = 1.0) -> dict[tuple[float, ...], float]:
    """Of every sequence of actions; the environment is deterministic, so they are all the policies from the start."""
    earned = {}
    for actions in itertools.product(MOVES, repeat=NUM_STEPS):
        places = START + np.concatenate([[0.0], np.cumsum(actions)])
        earned[actions] = sum(
            gamma**step
            * float(reward(STANDING[places[step]], STANDING[places[step + 1]], ended=step + 1 == NUM_STEPS)[0])
            for step in range(NUM_STEPS)
        )
    return earned


def best(earned: dict[tuple[float, ...], float]) -> set[tuple[float, ...]]:
    return {actions for actions, worth in earned.items() if worth > max(earned.values()) - 1e-9}


def own_potential(edits: Edits) -> np.ndarray:
    """A user's own: where the box stands, in pixels; it has nothing to do with the objective."""
    return edits.detections.boxes[:, 0, 0].astype(np.float64)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("potential", [best_iou, image_ap_value, pool_mean_ap, own_potential])
def test_a_potential_moves_all_returns_by_the_same_and_keeps_the_best(
    potential: Callable[[Edits], np.ndarray], gamma: float
) -> None:
    plain = returns(OBJECTIVE, gamma)
    shaped = returns(Sum((OBJECTIVE, PotentialShaping(potential=potential, gamma=gamma, weight=2.0))), gamma)
    start = 2 * float(potential(STANDING[START])[0])
    for actions, worth in plain.items():
        assert shaped[actions] == pytest.approx(worth - start, abs=1e-9)
    assert best(shaped) == best(plain)
    assert 0 < len(best(plain)) < len(plain)


def test_a_potential_with_another_gamma_than_the_returns_does_not_keep_it() -> None:
    shaping = PotentialShaping(potential=own_potential, gamma=0.5)
    assert best(returns(Sum((OBJECTIVE, shaping)))) != best(returns(OBJECTIVE))


def test_a_step_cost_keeps_the_best_where_all_episodes_are_equally_long() -> None:
    plain, priced = returns(OBJECTIVE), returns(Sum((OBJECTIVE, StepCost(price=0.1))))
    assert best(priced) == best(plain)
    for actions, worth in plain.items():
        assert priced[actions] == pytest.approx(worth - 0.1 * NUM_STEPS)


def test_the_sign_of_the_change_changes_the_best() -> None:
    """Three small steps earn three signs, and end beside the object; one large step earns one, and ends on it."""
    plain, signed = returns(OBJECTIVE), returns(Sum((OBJECTIVE, SignOfIouChange())))
    assert best(signed) == {(-5.0, -5.0, -5.0)}
    assert not best(signed) & best(plain)
    assert plain[-5.0, -5.0, -5.0] < max(plain.values()) - 0.01


def test_the_length_factor_changes_what_is_best() -> None:
    """A detection behind the last right one costs no AP; with the factor, leaving it out pays."""
    before = untouched(POOL)[np.array([1])]
    without = untouched(POOL)[np.array([1])]
    worst = np.where(without.detections.mask[0], without.detections.scores[0], np.inf).argmin()
    without.detections.mask[0, worst] = False
    plain, factored = Worth(image_ap_value), Worth(LengthFactor(value=image_ap_value))
    assert plain(before, without, ended=True) == plain(before, before, ended=True)
    assert factored(before, without, ended=True) > factored(before, before, ended=True)


@pytest.mark.parametrize("value", [f1, image_ap_value, pool_mean_ap])
def test_what_is_paid_by_change_adds_up_to_what_is_paid_at_the_end(value: Callable[[Edits], np.ndarray]) -> None:
    at_the_end, by_change = returns(Worth(value)), returns(Worth(value, "by_change"))
    start = float(value(STANDING[START])[0])
    for actions, worth in at_the_end.items():
        assert by_change[actions] == pytest.approx(worth - start, abs=1e-12)


def test_the_pools_ap_telescopes() -> None:
    for actions, worth in returns(PoolAp()).items():
        end, start = STANDING[START + sum(actions)], STANDING[START]
        assert worth == pytest.approx(float((pool_mean_ap(end) - pool_mean_ap(start))[0]), abs=1e-12)


def test_with_a_gamma_below_one_early_gains_are_preferred() -> None:
    plain = returns(OBJECTIVE, 0.9)
    early, late = (-18.0, 0.0, 0.0), (0.0, 0.0, -18.0)
    assert plain[early] > plain[late]
    assert returns(OBJECTIVE)[early] == pytest.approx(returns(OBJECTIVE)[late])


@pytest.mark.parametrize("gamma", [0.0, 1.5])
def test_a_gamma_that_is_none_is_refused(gamma: float) -> None:
    with pytest.raises(ValueError, match="gamma must lie in"):
        PotentialShaping(gamma=gamma)
