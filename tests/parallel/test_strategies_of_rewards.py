"""Two processes give what one gives: strategies that learn from a reward."""

from typing import Any

import pytest
from parallel.alike import check_alike, said_by_two
from parallel.curves import OF_REWARDS


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return said_by_two(tmp_path_factory.mktemp("two"), OF_REWARDS)


@pytest.mark.parametrize("name", OF_REWARDS)
def test_losses_of_two_processes_are_those_of_one(name: str, of_two: list[dict[str, Any]]) -> None:
    check_alike(name, of_two)
