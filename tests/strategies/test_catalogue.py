"""The strategies of `compare` by name: what is compared by default, and what is refused."""

import pytest

from rl_det.cli import CompareFlags
from rl_det.errors import UserError
from rl_det.strategies.catalogue import CATALOGUE, USUAL, named


def test_by_default_a_comparison_is_of_a_few_and_all_are_compared_on_demand() -> None:
    assert CompareFlags().strategies == named(USUAL) == USUAL
    assert set(USUAL) <= set(CATALOGUE)
    assert len(USUAL) == 4
    assert named(["all"]) == tuple(CATALOGUE)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("continued_supervised", "ppo", "pposs"),
            "a strategy must be one of warm_start, .*, or all alone; got 'pposs'",
        ),
        (("all", "ppo"), "or all alone; got 'all'"),
        (("ppo",), "the strategies must hold continued_supervised, with which all are compared; got ppo"),
        ((), "the strategies must hold continued_supervised"),
    ],
)
def test_unknown_names_and_a_comparison_without_the_control_are_refused(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        named(names)
