"""The head of every family, on a batch that two processes divide: output, losses and gradients are those of one process."""

import pytest
import torch
from contract.families import FAMILIES
from parallel.heads import said_and_gradients
from parallel.launching import Found, found_by_two


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """What each of two processes found."""
    return found_by_two("parallel.heads", tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_losses_and_gradients_are_those_of_one_process(family: str, of_two: list[Found]) -> None:
    alone = said_and_gradients(family)
    first, second = (own[family] for own in of_two)
    assert alone.keys() == first.keys() == second.keys()
    for part, value in alone.items():
        assert torch.equal(first[part], second[part]), part
        assert first[part].shape == value.shape, part
        apart = (first[part] - value).nan_to_num(0.0, 0.0, 0.0).norm()
        assert float(apart) <= 1e-4 * float(value.nan_to_num(0.0, 0.0, 0.0).norm()), part
        assert float(value.abs().sum()) > 0, part
