"""The cross-entropy that surrogates are measured against: its value, its gradient, its lists, and what it refuses."""

import pytest
import torch
from losses.lists import listing

from rl_det.losses.pointwise import cross_entropy


def test_the_value_is_that_of_its_formula_and_the_gradient_is_probability_minus_relevance() -> None:
    lists = listing(0)
    scores, relevance = lists.scores.double().requires_grad_(), (lists.iou * lists.positive).double()
    value = cross_entropy(scores, relevance, lists.mask)
    value.backward()  # type: ignore[no-untyped-call]
    chance, count = scores.detach().sigmoid(), (lists.positive & lists.mask).sum()
    surprise = -(relevance * chance.log() + (1 - relevance) * (1 - chance).log())
    assert float(value.detach()) == pytest.approx(float(surprise[lists.mask].sum() / count), rel=1e-12)
    assert scores.grad is not None
    torch.testing.assert_close(scores.grad, (chance - relevance) * lists.mask / count)


def test_each_list_may_have_a_number_of_its_own_and_one_without_positives_is_pushed_down() -> None:
    scores = torch.zeros(2, 3, requires_grad=True)
    relevance = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    cross_entropy(scores, relevance, num_positives=torch.tensor([1.0, 2.0])).backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None
    assert scores.grad.tolist() == [[-0.5, 0.5, 0.5], [0.25, 0.25, 0.25]]


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan")])
def test_a_relevance_that_is_no_share_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="relevance"):
        cross_entropy(torch.zeros(1, 2), torch.tensor([[0.5, wrong]]))
