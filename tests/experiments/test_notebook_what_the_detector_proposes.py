"""The notebook runs from top to bottom, and what is committed of it is a whole run."""

import pytest
from nbclient.exceptions import CellExecutionError
from notebook_checks import check_committed, check_runs


def test_it_runs_in_small() -> None:
    check_runs("what_the_detector_proposes", "NUM_SCENES, IMAGE = 8, 3")


def test_what_is_committed_is_one_run_from_top_to_bottom_with_its_pictures() -> None:
    check_committed("what_the_detector_proposes")


def test_a_cell_that_fails_is_an_error() -> None:
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        check_runs("what_the_detector_proposes", "1 / 0")
