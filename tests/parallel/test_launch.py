"""A run in several processes: the same table and files as in one, once and again."""

from pathlib import Path

import pytest
from parallel.launching import launch
from parallel.small_run import RUN, run
from small_runs import files, results


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run in one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    run(folder)
    return folder


def test_two_processes_write_what_one_writes_and_print_it_once_and_may_tune_twice(alone: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    printed = launch(2, *RUN, first, second)
    assert printed.count("2 processes") == 2
    assert printed.count("the tuned detectors") == 2
    assert files(first) - _logs(first) == files(second) - _logs(second) == files(alone) - _logs(alone)
    one, two = results(alone), results(first)
    assert results(second)["methods"] == two["methods"]
    assert one["methods"].keys() == two["methods"].keys()
    for name in one["methods"]:
        assert two["methods"][name] == pytest.approx(one["methods"][name], abs=1e-3), name


def _logs(folder: Path) -> set[str]:
    return {name for name in files(folder) if "tensorboard" in name}
