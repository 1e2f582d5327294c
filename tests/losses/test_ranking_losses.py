"""What every surrogate of AP promises: it stays in its chunks, lists and precision, and says what is wrong with its input."""

import math

import pytest
import torch
from hypothesis import given, settings
from losses.lists import LOSSES, PAIRWISE, Listing, Loss, assert_same, listing, listings, value_and_gradient

EVERY = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
CHUNKED = pytest.mark.parametrize("loss", PAIRWISE.values(), ids=PAIRWISE)


@CHUNKED
@pytest.mark.parametrize("max_pairs", [1, 100])
def test_chunks_change_nothing(loss: Loss, max_pairs: int) -> None:
    lists = listing(0)
    assert_same(value_and_gradient(loss, lists, max_pairs=max_pairs), value_and_gradient(loss, lists), 1e-6)


@EVERY
@settings(max_examples=25, deadline=None)
@given(lists=listings())
def test_value_and_gradient_are_finite_and_padding_feels_nothing(loss: Loss, lists: Listing) -> None:
    value, gradient = value_and_gradient(loss, lists)
    assert value >= 0
    assert gradient.isfinite().all()
    assert not gradient[~lists.mask].any()
    elsewhere = lists.scores.where(lists.mask, math.nan)
    assert_same(value_and_gradient(loss, lists._replace(scores=elsewhere)), (value, gradient), 0)


@EVERY
@settings(max_examples=25, deadline=None)
@given(lists=listings())
def test_no_common_shift_is_taught(loss: Loss, lists: Listing) -> None:
    assert abs(float(value_and_gradient(loss, lists)[1].sum())) < 1e-4


@EVERY
def test_positives_are_pulled_up_and_negatives_pushed_down(loss: Loss) -> None:
    lists = listing(1)._replace(iou=torch.full((3, 40), 0.8))  # with the IoUs alike, positives have no order
    _, gradient = value_and_gradient(loss, lists)
    pushed = float(gradient[~lists.positive].sum())
    assert pushed > 0
    assert float(gradient[lists.positive].sum()) == pytest.approx(-pushed, rel=1e-4)


@EVERY
def test_small_steps_along_the_gradient_sort_the_list(loss: Loss) -> None:
    lists = listing(2, 1, 30)._replace(iou=torch.ones(1, 30))
    before, _ = value_and_gradient(loss, lists)
    scores = lists.scores
    for _ in range(200):
        _, gradient = value_and_gradient(loss, lists._replace(scores=scores))
        scores = scores - 0.1 * gradient / gradient.abs().max().clamp(min=1e-3)
    assert value_and_gradient(loss, lists._replace(scores=scores))[0] < before
    real, positive = lists.mask[0], lists.positive[0]
    assert scores[0, real & positive].min() > scores[0, real & ~positive].max()


@EVERY
@settings(max_examples=15, deadline=None)
@given(lists=listings())
def test_the_order_of_entries_does_not_matter(loss: Loss, lists: Listing) -> None:
    gaps = (lists.scores[:, :, None] - lists.scores[:, None]).abs()
    if len(lists.scores.unique()) < lists.scores.numel() or (gaps == 1).any():
        return  # of ties, some losses take the first; blackbox makes some of a gap that is its margin
    order = torch.randperm(lists.scores.shape[1], generator=torch.Generator().manual_seed(0))
    value, gradient = value_and_gradient(loss, lists)
    assert_same(value_and_gradient(loss, Listing(*(part[:, order] for part in lists))), (value, gradient[:, order]))


@EVERY
def test_lists_are_ranked_each_by_itself_and_one_long_list_is_not_the_same(loss: Loss) -> None:
    lists = listing(3, 2)
    count = float((lists.positive & lists.mask).sum())
    together = value_and_gradient(loss, lists)
    alone = [value_and_gradient(loss, Listing(*(part[[i]] for part in lists)), num_positives=count) for i in range(2)]
    values, gradients = zip(*alone, strict=True)
    assert_same((sum(values), torch.cat(gradients)), together)
    flat, _ = value_and_gradient(loss, Listing(*(part.flatten() for part in lists)))
    assert abs(float(flat - together[0])) > 1e-3


@EVERY
def test_the_number_of_positives_divides_for_all_lists_or_for_each(loss: Loss) -> None:
    lists = listing(4, 2)
    value, gradient = value_and_gradient(loss, lists, num_positives=1.0)
    assert_same(value_and_gradient(loss, lists, num_positives=50.0), (value / 50, gradient / 50))
    each = torch.tensor([2.0, 5.0])
    values = [value_and_gradient(loss, lists, num_positives=torch.tensor([n, math.inf]))[0] for n in (2.0, 1.0)]
    assert_same((values[0], values[0]), (values[1] / 2, values[1] / 2))
    assert_same((value_and_gradient(loss, lists, num_positives=each)[1],) * 2, (gradient / each[:, None],) * 2)


@EVERY
@pytest.mark.parametrize("shape", [(0,), (1,), (7,), (2, 5), (0, 5), (2, 0)])
def test_without_positives_it_is_a_zero_with_a_graph(loss: Loss, shape: tuple[int, ...]) -> None:
    nobody = Listing(
        torch.randn(shape), torch.zeros(shape, dtype=torch.bool), torch.rand(shape), torch.rand(shape) < 0.7
    )
    value, gradient = value_and_gradient(loss, nobody)
    assert value == 0
    assert gradient.shape == shape
    assert not gradient.any()


@EVERY
def test_one_positive_alone_asks_for_nothing(loss: Loss) -> None:
    one = Listing(torch.tensor([3.0]), torch.tensor([True]), torch.tensor([1.0]), torch.tensor([True]))
    value, gradient = value_and_gradient(loss, one)
    assert float(value) == pytest.approx(0, abs=1e-6)
    assert float(gradient) == pytest.approx(0, abs=1e-6)


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_half_precision_are_computed_in_single(loss: Loss, dtype: torch.dtype) -> None:
    lists = listing(5)._replace(scores=listing(5).scores.to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, gradient = value_and_gradient(loss, lists)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    plain = value_and_gradient(loss, lists._replace(scores=lists.scores.float()))
    assert_same((value, gradient), (plain[0], plain[1].to(dtype)), 1e-6)


@EVERY
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_that_is_not_finite_is_named(loss: Loss, value: float) -> None:
    lists = listing(6)
    lists.mask[1, 7] = True
    lists.scores[1, 7] = value
    with pytest.raises(ValueError, match=r"scores must be finite; got \w+ at \[1, 7\]"):
        value_and_gradient(loss, lists)


@pytest.mark.parametrize("name", ["rank_sort", "bucketed_rank_sort", "alrp", "list_net", "list_mle"])
def test_an_iou_that_is_not_finite_is_named_where_it_matters(name: str) -> None:
    lists = listing(6)
    lists.mask[1, 7], lists.positive[1, 7] = True, True
    lists.iou[1, 7] = math.inf
    with pytest.raises(ValueError, match=r"must be finite; got -?inf at \[1, 7\]"):
        value_and_gradient(LOSSES[name], lists)


@EVERY
@pytest.mark.parametrize("part", ["positive", "mask"])
def test_another_shape_than_the_scores_is_refused(loss: Loss, part: str) -> None:
    lists = listing(6)
    other = lists._replace(**{part: getattr(lists, part)[:, :-1]})
    if part == "positive":
        other = other._replace(iou=lists.iou[:, :-1])
    with pytest.raises(ValueError, match=r"must have the scores' shape \(3, 40\).* got \(3, 39\)"):
        value_and_gradient(loss, other)


@EVERY
def test_as_many_numbers_of_positives_as_lists_are_wanted(loss: Loss) -> None:
    with pytest.raises(ValueError, match=r"one for each list, of shape \(3,\); got shape \(2,\)"):
        value_and_gradient(loss, listing(6), num_positives=torch.ones(2))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ap", {"delta": -1.0}, "delta must not be negative or infinite; got -1.0"),
        ("rank_sort", {"delta": math.nan}, "delta must not be negative or infinite; got nan"),
        ("bucketed_ap", {"delta": math.inf}, "delta must not be negative or infinite; got inf"),
        ("smooth_ap", {"temperature": 0.0}, "temperature must be positive; got 0.0"),
        ("list_net", {"temperature": 0.0}, "temperature must be positive; got 0.0"),
        ("blackbox", {"interpolation": 0.0}, "interpolation must be positive; got 0.0"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        value_and_gradient(LOSSES[name], listing(6), **options)


def test_a_negative_relevance_is_refused() -> None:
    lists = listing(6)
    with pytest.raises(ValueError, match=r"relevance must not be negative; got -0\.5"):
        value_and_gradient(LOSSES["list_mle"], lists._replace(iou=torch.full_like(lists.iou, -0.5)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@EVERY
def test_a_gpu_says_the_same(loss: Loss) -> None:
    lists = listing(7)
    moved = Listing(*(part.cuda() for part in lists))
    found = tuple(part.cpu() for part in value_and_gradient(loss, moved))
    assert_same((found[0], found[1]), value_and_gradient(loss, lists))
