"""The notebook runs from top to bottom, and what is committed of it is a whole run."""

from notebook_checks import check_committed, check_runs


def test_it_runs_in_small() -> None:
    check_runs("what_the_reward_sees", "NUM_SCENES, NUM_ROUNDS, IMAGE = 64, 1, 3")


def test_what_is_committed_is_one_run_from_top_to_bottom_with_its_pictures() -> None:
    check_committed("what_the_reward_sees")
