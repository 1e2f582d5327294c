"""Actions per candidate: densities, entropies and divergences as torch.distributions has them; mirrored samples."""

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal, kl_divergence

from rl_det.candidates import SHIFT_OF_ONE
from rl_det.policies.distributions import (
    BernoulliGates,
    Distribution,
    Draws,
    GaussianActions,
    GaussianAdjustments,
    GaussianShifts,
)

SHAPE = 2, 5
SIGMA = 0.7


def logits(seed: int = 0) -> Tensor:
    return 2 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(seed: int = 0, sigma: float = SIGMA) -> GaussianShifts:
    return GaussianShifts(logits(seed), sigma)


@pytest.fixture(params=["gaussian", "bernoulli"])
def distribution(request: pytest.FixtureRequest) -> Distribution:
    return gaussian() if request.param == "gaussian" else BernoulliGates(logits())


def parameter(distribution: Distribution) -> Tensor:
    return distribution.mean if isinstance(distribution, GaussianShifts) else distribution.logits


def reference(distribution: Distribution) -> Normal | Bernoulli:
    """torch's own, over images and candidates."""
    if isinstance(distribution, GaussianShifts):
        return Normal(distribution.mean, distribution.sigma)
    return Bernoulli(logits=distribution.logits)


def in_its_unit(distribution: Distribution, action: Tensor) -> Tensor:
    """Logits, of which a Gaussian's action of 1 is `SHIFT_OF_ONE`; gates as they are."""
    return action if isinstance(distribution, BernoulliGates) else SHIFT_OF_ONE * action


def test_the_log_probability_of_each_candidates_action_is_torchs(distribution: Distribution) -> None:
    action = distribution.sample(6, generator())
    own, shift = reference(distribution), in_its_unit(distribution, action)
    wanted = torch.stack([own.log_prob(shift[:, k]) for k in range(6)], 1)
    torch.testing.assert_close(distribution.log_prob(action), wanted)


def test_the_gradient_of_the_log_probability_is_torchs(distribution: Distribution) -> None:
    action = distribution.sample(5, generator())  # odd: mirrored pairs of shifts would cancel
    leaf = parameter(distribution).requires_grad_()
    (own,) = torch.autograd.grad(distribution.log_prob(action).sum(), leaf)
    shift = in_its_unit(distribution, action).transpose(0, 1)
    (wanted,) = torch.autograd.grad(reference(distribution).log_prob(shift).sum(), leaf)
    torch.testing.assert_close(own, wanted)
    assert (own != 0).all()


def test_the_entropy_is_torchs(distribution: Distribution) -> None:
    torch.testing.assert_close(distribution.entropy(), reference(distribution).entropy().expand(SHAPE))


def test_the_divergence_is_torchs_and_0_from_itself() -> None:
    for some, other in ((gaussian(0), gaussian(1, 0.4)), (BernoulliGates(logits(0)), BernoulliGates(logits(1)))):
        torch.testing.assert_close(some.kl(other), kl_divergence(reference(some), reference(other)))
        torch.testing.assert_close(some.kl(some), torch.zeros(SHAPE))
        assert (some.kl(other) > 0).all()


def test_saturated_gates_have_finite_densities_and_divergences() -> None:
    certain = BernoulliGates(torch.tensor([[200.0, -200.0]]))
    action = torch.tensor([[[0.0, 0.0], [1.0, 1.0]]])
    torch.testing.assert_close(certain.log_prob(action), torch.tensor([[[-200.0, 0.0], [0.0, -200.0]]]))
    assert certain.entropy().tolist() == [[0.0, 0.0]]
    assert certain.kl(BernoulliGates(torch.tensor([[-200.0, -200.0]]))).tolist() == [[200.0, 0.0]]


@pytest.mark.parametrize("num_samples", [1, 2, 5, 8])
def test_there_are_as_many_samples_as_asked_for_also_where_that_is_odd(
    distribution: Distribution, num_samples: int
) -> None:
    assert distribution.sample(num_samples, generator()).shape == (2, num_samples, 5)


def test_samples_of_a_gaussian_come_in_pairs_mirrored_about_the_mean() -> None:
    action = SHIFT_OF_ONE * gaussian().sample(7, generator())
    for first in (0, 2, 4):
        torch.testing.assert_close((action[:, first] + action[:, first + 1]) / 2, logits())
    assert not torch.allclose(action[:, 0], action[:, 2])


def test_of_a_mirrored_pair_of_even_gates_exactly_one_keeps_each_candidate() -> None:
    action = BernoulliGates(torch.zeros(SHAPE)).sample(6, generator())
    for first in (0, 2, 4):
        assert (action[:, first] + action[:, first + 1] == 1).all()
    assert action.unique().tolist() == [0.0, 1.0]


def test_samples_have_the_moments_of_the_distribution_candidate_by_candidate(distribution: Distribution) -> None:
    action = in_its_unit(distribution, distribution.sample(20_000, generator()))
    torch.testing.assert_close(action.mean(1), reference(distribution).mean, rtol=0, atol=0.02)
    torch.testing.assert_close(action.std(1), reference(distribution).stddev.expand(SHAPE), rtol=0, atol=0.02)
    some, other = (action[:, ::2, column] - action[:, ::2, column].mean(1, keepdim=True) for column in (0, 1))
    assert (some * other).mean(1).abs().max() < 0.02  # candidates are independent


DRAWS: tuple[Draws, ...] = ("antithetic", "stratified")


def test_each_kth_of_the_probability_holds_one_of_k_stratified_samples_of_every_number(
    distribution: Distribution,
) -> None:
    if isinstance(distribution, BernoulliGates):
        kept = distribution.sample(1000, generator(), "stratified").sum(1)
        torch.testing.assert_close(kept, (1000 * distribution.logits.sigmoid()), rtol=0, atol=1.0)
        return
    action = SHIFT_OF_ONE * distribution.sample(7, generator(), "stratified")
    place = (7 * reference(distribution).cdf(action.transpose(0, 1)).transpose(0, 1)).floor()
    assert torch.equal(place.sort(1).values, torch.arange(7.0)[None, :, None].expand_as(place))
    assert not torch.equal(place[:, :, 0], place[:, :, 1])  # each number has an order of its own


def test_stratified_samples_have_the_moments_of_the_distribution_candidate_by_candidate(
    distribution: Distribution,
) -> None:
    few = [distribution.sample(4, own, "stratified") for own in [generator()] for _ in range(5000)]
    action = in_its_unit(distribution, torch.cat(few, 1))
    torch.testing.assert_close(action.mean(1), reference(distribution).mean, rtol=0, atol=0.02)
    torch.testing.assert_close(action.std(1), reference(distribution).stddev.expand(SHAPE), rtol=0, atol=0.02)
    some, other = (action[:, :, column] - action[:, :, column].mean(1, keepdim=True) for column in (0, 1))
    assert (some * other).mean(1).abs().max() < 0.02  # candidates are independent


def test_strata_estimate_the_same_gradient_with_less_noise() -> None:
    """Of the mean of exp(shift), which is known: exp(mean + sigma^2 / 2)."""
    mean = torch.tensor([[0.2, -0.3]])
    found = {}
    for draws in DRAWS:
        source, own = generator(), GaussianShifts(mean.requires_grad_(), 0.5)
        each = []
        for _ in range(4000):
            action = own.sample(8, source, draws)
            earned = (SHIFT_OF_ONE * action).exp()
            (gradient,) = torch.autograd.grad((earned * own.log_prob(action)).mean(1).sum(), mean)
            each.append(gradient[0])
        found[draws] = torch.stack(each)
    exact = (mean.detach()[0] + 0.125).exp()
    for draws in DRAWS:
        torch.testing.assert_close(found[draws].mean(0), exact, rtol=0.02, atol=0)
    assert (found["stratified"].var(0) < 0.5 * found["antithetic"].var(0)).all()


def test_the_same_seed_draws_the_same_and_another_one_other_samples(distribution: Distribution) -> None:
    some = distribution.sample(5, generator(3))
    assert torch.equal(some, distribution.sample(5, generator(3)))
    assert not torch.equal(some, distribution.sample(5, generator(4)))


def test_global_chance_has_no_say(distribution: Distribution) -> None:
    torch.manual_seed(0)
    some = distribution.sample(5, generator(3))
    torch.manual_seed(1)
    assert torch.equal(some, distribution.sample(5, generator(3)))


def test_samples_and_greedy_actions_carry_no_gradient(distribution: Distribution) -> None:
    parameter(distribution).requires_grad_()
    assert not distribution.sample(3, generator()).requires_grad
    assert not distribution.greedy().requires_grad


def test_the_greedy_action_is_the_mean_shift_or_keeps_everything() -> None:
    assert torch.equal(SHIFT_OF_ONE * gaussian().greedy(), logits())
    assert torch.equal(BernoulliGates(logits()).greedy(), torch.ones(SHAPE))


def test_a_number_beyond_the_range_of_actions_is_drawn_as_it_is_and_has_its_own_density() -> None:
    far = GaussianShifts(torch.tensor([[40.0, -40.0, 8.0]]), SIGMA)
    assert far.greedy().tolist() == [[2.5, -2.5, 0.5]]
    drawn = far.sample(50, generator())
    assert drawn.abs().max() > 1
    torch.testing.assert_close(far.log_prob(drawn), Normal(far.mean[:, None], SIGMA).log_prob(SHIFT_OF_ONE * drawn))


def test_the_gradient_is_unbiased_where_the_range_cuts_actions_off() -> None:
    mean = torch.tensor([[[0.9]]], requires_grad=True)
    own = GaussianActions(mean, 0.2)
    drawn = own.sample(200_000, generator())
    reward = drawn.clamp(-1, 1)[..., 0]
    (gradient,) = torch.autograd.grad((reward * own.log_prob(drawn)).mean(), mean)
    exact = Normal(0.0, 1.0).cdf(torch.tensor(0.5))  # d E[clip(a)] / d mean, the chance of no cut
    torch.testing.assert_close(gradient.squeeze(), exact, atol=0.02, rtol=0)


def test_only_gaussians_have_a_shift_and_it_has_a_gradient() -> None:
    mean = logits().requires_grad_()
    (gradient,) = torch.autograd.grad(GaussianShifts(mean, SIGMA).shift().sum(), mean)
    assert (gradient == 1).all()
    assert not BernoulliGates(logits()).shift().any()


def test_images_without_candidates_have_empty_actions() -> None:
    for empty in (GaussianShifts(torch.zeros(2, 0), SIGMA), BernoulliGates(torch.zeros(2, 0))):
        action = empty.sample(3, generator())
        assert action.shape == empty.log_prob(action).shape == (2, 3, 0)


def test_both_are_distributions() -> None:
    assert isinstance(gaussian(), Distribution)
    assert isinstance(BernoulliGates(logits()), Distribution)


def adjustments(seed: int = 0, count: int = 5) -> GaussianAdjustments:
    """Logits' shifts at sigma 0.7, boxes' moves at 0.2."""
    mean = torch.randn(2, count, 5, generator=generator(seed))
    return GaussianAdjustments(mean, SIGMA, 0.2, torch.zeros(2, count))


def test_adjustments_are_two_independent_factors_with_torchs_densities_entropy_and_divergence() -> None:
    own, other = adjustments(0), adjustments(1)
    normal, other_normal = (
        Normal(some.mean, torch.tensor([SIGMA, 0.2, 0.2, 0.2, 0.2]).expand(2, 5, 5)) for some in (own, other)
    )
    action = own.sample(4, generator())
    assert action.shape == (2, 4, 5, 5)
    density = normal.log_prob(SHIFT_OF_ONE * action.transpose(0, 1)).transpose(0, 1)
    expected = torch.stack([density[..., 0], density[..., 1:].sum(-1)], -1)
    torch.testing.assert_close(own.log_prob(action), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(own.entropy(), normal.entropy().sum(-1))
    torch.testing.assert_close(own.kl(other), kl_divergence(normal, other_normal).sum(-1))


def test_adjustments_come_in_mirrored_pairs_with_their_own_spreads_and_shift_by_their_first_number() -> None:
    own = adjustments()
    action = SHIFT_OF_ONE * own.sample(4, generator())
    torch.testing.assert_close(action[:, 0] + action[:, 1], 2 * own.mean)
    many = SHIFT_OF_ONE * own.sample(20_000, generator()).std(1)
    torch.testing.assert_close(many, torch.tensor([SIGMA, 0.2, 0.2, 0.2, 0.2]).expand(2, 5, 5), rtol=0.05, atol=0)
    assert torch.equal(own.shift(), own.mean[..., 0])
    assert torch.equal(SHIFT_OF_ONE * own.greedy(), own.mean)
    assert adjustments(count=0).log_prob(adjustments(count=0).sample(3, generator())).shape == (2, 3, 0, 2)
    assert isinstance(own, Distribution)
