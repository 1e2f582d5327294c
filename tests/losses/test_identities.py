"""What each surrogate of AP is, by itself: its slow definition, its identities and its limits."""

import pytest
import torch
from hypothesis import given, settings
from losses.lists import (
    EXACT,
    LOSSES,
    PAIRWISE,
    SLOW,
    Listing,
    assert_same,
    by_hand,
    listing,
    listings,
    slow_interpolated_ap,
    value_and_gradient,
)
from torch import Tensor

from rl_det.losses.alrp import alrp_loss
from rl_det.losses.ranked_lists import MAX_PAIRS
from rl_det.losses.smooth_ap import smooth_ap


def mean_precision(lists: Listing) -> float:
    """At the positives, of all lists; no ties."""
    precisions = []
    for scores, positive, _, mask in zip(*lists, strict=True):
        ranked = positive[mask][scores[mask].argsort(descending=True)]
        precisions += (ranked.cumsum(0) / torch.arange(1, len(ranked) + 1))[ranked].tolist()
    return sum(precisions) / len(precisions)


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.parametrize("delta", [0.0, 0.5, 1.0])
@settings(max_examples=15, deadline=None)
@given(lists=listings())
def test_the_loss_and_its_update_are_those_of_the_loops(name: str, delta: float, lists: Listing) -> None:
    found = value_and_gradient(PAIRWISE[name], lists, delta=delta)
    assert_same(found, by_hand(lists, SLOW[name], delta), 3e-5)


@pytest.mark.parametrize("name", ["ap", "bucketed_ap"])
def test_with_the_exact_step_the_ap_loss_is_what_precision_lacks(name: str) -> None:
    lists = listing(0)
    value, _ = value_and_gradient(PAIRWISE[name], lists, delta=0.0)
    assert float(value) == pytest.approx(1 - mean_precision(lists), abs=1e-6)


@pytest.mark.parametrize("delta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("max_pairs", [1, MAX_PAIRS])
@settings(max_examples=15, deadline=None)
@given(lists=listings())
def test_the_interpolated_ap_loss_and_its_update_are_those_of_the_authors_loop(
    delta: float, max_pairs: int, lists: Listing
) -> None:
    found = value_and_gradient(PAIRWISE["ap"], lists, delta=delta, interpolated=True, max_pairs=max_pairs)
    assert_same(found, by_hand(lists, slow_interpolated_ap, delta), 3e-5)


def test_interpolation_takes_the_precision_of_lower_positives_if_that_is_higher() -> None:
    lists = Listing(
        torch.tensor([3.0, 2.0, 1.0, 0.0]), torch.tensor([False, True, True, True]), torch.ones(4), torch.ones(4) > 0
    )
    value, gradient = value_and_gradient(EXACT["ap"], lists)
    assert float(value) == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3)
    interpolated, shrunk = value_and_gradient(EXACT["ap"], lists, interpolated=True)
    assert float(interpolated) == pytest.approx(1 / 4)
    torch.testing.assert_close(shrunk, torch.tensor([3.0, -1.0, -1.0, -1.0]) / 12)
    assert gradient[0] > shrunk[0]


@settings(max_examples=25, deadline=None)
@given(lists=listings())
def test_the_ap_loss_is_what_its_positives_are_raised_by(lists: Listing) -> None:
    value, gradient = value_and_gradient(PAIRWISE["ap"], lists)
    assert float(gradient[lists.positive].abs().sum()) == pytest.approx(float(value), abs=1e-5)
    assert (gradient[lists.positive] <= 0).all()
    assert (gradient[~lists.positive] >= 0).all()


@pytest.mark.parametrize("name", ["ap", "rank_sort"])
@settings(max_examples=60, deadline=None)
@given(lists=listings())
def test_with_the_exact_step_buckets_lose_nothing(name: str, lists: Listing) -> None:
    bucketed = value_and_gradient(PAIRWISE[f"bucketed_{name}"], lists, delta=0.0)
    assert_same(bucketed, value_and_gradient(EXACT[name], lists), 1e-6)


@pytest.mark.parametrize("name", ["ap", "rank_sort"])
@pytest.mark.parametrize("delta", [0.1, 0.5, 1.0, 3.0])
@settings(max_examples=40, deadline=None)
@given(lists=listings())
def test_with_a_wide_step_buckets_keep_the_value_and_only_share_the_gradient_of_negatives(
    name: str, delta: float, lists: Listing
) -> None:
    value, gradient = value_and_gradient(PAIRWISE[f"bucketed_{name}"], lists, delta=delta)
    full, expected = value_and_gradient(PAIRWISE[name], lists, delta=delta)
    assert_same((value, gradient[lists.positive]), (full, expected[lists.positive]))
    negatives = (part.masked_fill(lists.positive, 0.0).sum(-1) for part in (gradient, expected))
    torch.testing.assert_close(*negatives, rtol=1e-5, atol=1e-5)


def test_with_a_wide_step_the_gradient_of_buckets_is_near() -> None:
    lists = listing(1, 1, 400, share=0.1)
    for name in ("ap", "rank_sort"):
        gradients = [value_and_gradient(PAIRWISE[kind], lists)[1] for kind in (name, f"bucketed_{name}")]
        assert float(torch.cosine_similarity(*gradients)) > 0.999


@pytest.mark.parametrize("name", ["ap", "rank_sort"])
@pytest.mark.parametrize("positives", [[0.0], [0.0, -30.0], [40.0, 0.0, -30.0]], ids=["lowest", "upper", "between"])
def test_negatives_out_of_reach_do_not_hide_those_below_a_positive(name: str, positives: list[float]) -> None:
    scores = torch.tensor([[*positives, -0.1, -0.2, *[-20.0] * 97]])
    positive = torch.zeros_like(scores, dtype=torch.bool)
    positive[:, : len(positives)] = True
    lists = Listing(scores, positive, torch.ones_like(scores), torch.ones_like(positive))
    value, gradient = value_and_gradient(PAIRWISE[f"bucketed_{name}"], lists, delta=1.0, num_positives=1.0)
    assert_same((value, gradient[positive]), tuple(
        part if part.ndim == 0 else part[positive]
        for part in value_and_gradient(PAIRWISE[name], lists, delta=1.0, num_positives=1.0)
    ))  # fmt: skip
    near = gradient[0, len(positives) : len(positives) + 2]
    assert (near > 0.1).all()
    if len(positives) == 1:
        assert float(value) == pytest.approx(0.459, abs=1e-3)
        assert not gradient[0, 3:].any()


@pytest.mark.parametrize("max_pairs", [1, 100, MAX_PAIRS])
@pytest.mark.parametrize("num_positives", [None, 7.0, torch.tensor([3.0, 5.0, 7.0])])
def test_smooth_ap_of_several_judgements_is_that_of_scores_expanded_to_them(
    max_pairs: int, num_positives: float | Tensor | None
) -> None:
    lists = listing(0)
    positive = lists.positive & (lists.iou >= torch.tensor([0.5, 0.75, 0.9])[:, None, None])
    positive[1, 2] = False
    mask = lists.mask & (listing(1, 9).mask.view(3, 3, 40) | positive)
    each = num_positives if not isinstance(num_positives, Tensor) else num_positives.expand(3, 3)
    options = {"max_pairs": max_pairs, "num_positives": each}
    values, gradients = [], []
    for expand in (False, True):
        scores = lists.scores.clone().requires_grad_()
        value = smooth_ap(scores.expand(3, 3, 40) if expand else scores, positive, mask, **options)
        values.append(value.detach())
        gradients.append(torch.autograd.grad(value, scores)[0])
    assert float(gradients[0].abs().max()) > 1e-4
    assert_same((values[0], gradients[0]), (values[1], gradients[1]), 1e-6)


def test_smooth_aps_judgements_of_other_lists_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must have the scores' shape \(10, 3, 40\).* got \(10, 3, 39\)"):
        smooth_ap(torch.zeros(3, 40), torch.zeros(10, 3, 39, dtype=torch.bool))


def test_smooth_ap_becomes_ap_as_its_temperature_falls() -> None:
    lists = listing(2)
    gaps = [
        abs(float(value_and_gradient(LOSSES["smooth_ap"], lists, temperature=t)[0]) - 1 + mean_precision(lists))
        for t in (1.0, 0.1, 0.01, 1e-4)
    ]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 1e-2
    assert gaps[-1] < 1e-5


@settings(max_examples=25, deadline=None)
@given(lists=listings())
def test_the_gradient_of_smooth_ap_is_autograds(lists: Listing) -> None:
    scores = lists.scores.clone().requires_grad_()
    errors = []
    for row, positive, mask in zip(scores, lists.positive, lists.mask, strict=True):
        above = torch.sigmoid((row[None] - row[:, None]) / 0.5) * (1 - torch.eye(len(row)))
        precision = (1 + (above * (positive & mask)).sum(1)) / (1 + (above * mask).sum(1))
        errors.append((1 - precision)[positive & mask])
    error = torch.cat(errors)
    value = error.sum() / max(1, len(error))
    expected = (value.detach(), torch.autograd.grad(value, scores)[0])
    assert_same(value_and_gradient(LOSSES["smooth_ap"], lists, temperature=0.5), expected)


def test_rank_sort_is_zero_exactly_where_negatives_are_below_and_positives_by_iou() -> None:
    iou = torch.tensor([0.9, 0.8, 0.7, 0.0, 0.0])
    positive, everywhere = iou > 0, torch.ones(5, dtype=torch.bool)

    def loss(scores: list[float]) -> float:
        return float(
            value_and_gradient(EXACT["rank_sort"], Listing(torch.tensor(scores), positive, iou, everywhere))[0]
        )

    assert loss([5.0, 4.0, 3.0, 2.0, 1.0]) == pytest.approx(0, abs=1e-7)
    assert loss([4.0, 5.0, 3.0, 2.0, 1.0]) == pytest.approx(((0.1 + 0.2) / 2 - 0.1) / 3)
    assert loss([5.0, 4.0, 2.0, 3.0, 1.0]) == pytest.approx(1 / 4 / 3)


def test_without_errors_of_localisation_alrp_is_the_ap_loss() -> None:
    lists = listing(3)
    perfect = lists._replace(iou=torch.ones_like(lists.iou))
    assert_same(value_and_gradient(PAIRWISE["alrp"], perfect), value_and_gradient(PAIRWISE["ap"], perfect))


def test_alrp_teaches_boxes_by_the_derivative_at_these_ranks_and_the_best_ranked_most() -> None:
    lists = listing(4, 1, 30)._replace(mask=torch.ones(1, 30, dtype=torch.bool))

    def value(error: Tensor) -> Tensor:
        return alrp_loss(lists.scores, lists.positive, error, delta=0.0)

    error = (1 - lists.iou).requires_grad_()
    (gradient,) = torch.autograd.grad(value(error), error)
    moved = torch.rand_like(error)
    torch.testing.assert_close(
        (gradient * moved).sum(), (value(error + moved) - value(error)).detach(), rtol=1e-5, atol=1e-6
    )
    ranked = gradient[lists.positive][lists.scores[lists.positive].argsort(descending=True)]
    assert (ranked.diff() <= 0).all()
    assert not gradient[~lists.positive].any()


def test_list_net_is_least_where_the_chances_are_the_relevances_shares() -> None:
    relevance = torch.tensor([0.6, 0.3, 0.1])
    positive = everywhere = torch.ones(3, dtype=torch.bool)
    value, gradient = value_and_gradient(
        LOSSES["list_net"], Listing(relevance.log() + 2, positive, relevance, everywhere), num_positives=3.0
    )
    assert float(value) == pytest.approx(float(-(relevance * relevance.log()).sum()))
    assert gradient.abs().max() < 1e-6


def test_list_mle_is_the_chance_of_the_right_order() -> None:
    scores, relevance = torch.tensor([0.2, 1.0, -0.5, 0.3]), torch.tensor([0.5, 0.9, 0.0, 0.0])
    everywhere = torch.ones(4, dtype=torch.bool)
    value, _ = value_and_gradient(LOSSES["list_mle"], Listing(scores, relevance > 0, relevance, everywhere))
    first, second = scores.exp()[1] / scores.exp().sum(), scores.exp()[0] / scores.exp()[[0, 2, 3]].sum()
    assert float(value) == pytest.approx(float(-(first * second).log()) / 2)


def test_of_equals_in_relevance_list_mle_asks_no_order() -> None:
    scores, relevance = torch.tensor([1.0, 2.0, -5.0]), torch.tensor([0.9, 0.9, 0.0])
    everywhere = torch.ones(3, dtype=torch.bool)
    lists = Listing(scores, relevance > 0, relevance, everywhere)
    swapped = lists._replace(scores=scores[[1, 0, 2]])
    found, expected = (value_and_gradient(LOSSES["list_mle"], part)[0] for part in (lists, swapped))
    assert float(found) == float(expected)


def test_the_blackbox_loss_is_what_the_precision_of_hardened_scores_lacks() -> None:
    lists = listing(5)
    hardened = lists._replace(scores=lists.scores + 1.5 * (0.5 - lists.positive.float()))
    value, _ = value_and_gradient(LOSSES["blackbox"], lists, margin=1.5)
    assert float(value) == pytest.approx(1 - mean_precision(hardened), abs=1e-6)


def test_the_blackbox_gradient_is_the_change_of_rank_under_the_pull() -> None:
    scores, positive = torch.tensor([2.0, 1.0, 0.0]), torch.tensor([False, False, True])
    lists = Listing(scores, positive, torch.ones(3), torch.ones(3, dtype=torch.bool))
    # The positive is third of three: precision 1/3, slope (1/3) * 3 / 3, so that 4.5 lifts it by 1.5, over the second.
    _, gradient = value_and_gradient(LOSSES["blackbox"], lists, margin=0.0, interpolation=4.5)
    torch.testing.assert_close(gradient, torch.tensor([0.0, 1.0, -1.0]) / 3 / 4.5)
