"""Two processes that train a whole detector, each on its part of a batch, have the losses and gradients of one."""

import pytest
import torch
from parallel.gradients import MODELS, losses_and_gradients
from parallel.launching import Found, found_by_two


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """What each of two processes found."""
    return found_by_two("parallel.gradients", tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("name", MODELS)
def test_losses_gradients_and_running_statistics_are_those_of_one_process(name: str, of_two: list[Found]) -> None:
    alone = losses_and_gradients(name)
    first, second = (own[name] for own in of_two)
    assert alone.keys() == first.keys() == second.keys()
    for part, value in alone.items():
        assert torch.equal(first[part], second[part]), part
        assert float((first[part] - value).double().norm()) <= 1e-6 * float(value.double().norm()) + 1e-12, part
    assert any(float(value.abs().sum()) > 0 for part, value in alone.items() if part.endswith("weight"))
