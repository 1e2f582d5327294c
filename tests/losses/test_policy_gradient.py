"""The losses of REINFORCE and PPO, against sums over all actions and against hand calculation."""

import itertools

import pytest
import torch

from rl_det.losses.policy_gradient import approximate_kl, clipped_loss, masked_mean, reinforce_loss

ALL = torch.ones(3, dtype=torch.bool)


def test_reinforce_summed_over_all_actions_is_the_gradient_of_the_expected_reward() -> None:
    logits = torch.tensor([0.3, -1.0, 0.7], requires_grad=True)
    keep = torch.distributions.Bernoulli(logits=logits)
    actions = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)))
    reward = torch.tensor([0.1, 0.5, -0.2, 0.9, 0.3, 0.0, 1.0, 0.4])
    probability = keep.log_prob(actions).sum(1).exp()
    (exact,) = torch.autograd.grad((probability * reward).sum(), logits, retain_graph=True)
    losses = torch.stack(
        [reinforce_loss(keep.log_prob(a), r.expand(3), ALL) for a, r in zip(actions, reward, strict=True)]
    )
    (found,) = torch.autograd.grad(-3 * (probability.detach() * losses).sum(), logits)
    torch.testing.assert_close(found, exact)


def test_a_gain_beyond_the_clip_earns_nothing_and_a_loss_beyond_it_is_felt() -> None:
    log_ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1]).log().requires_grad_()
    advantage = torch.tensor([2.0, -2.0, 2.0, -2.0, 1.0])
    loss = clipped_loss(log_ratio, advantage, torch.ones(5, dtype=torch.bool), clip=0.2)
    assert float(loss.detach()) == pytest.approx(-(2.4 - 3.0 + 1.0 - 1.6 + 1.1) / 5)
    (gradient,) = torch.autograd.grad(loss, log_ratio)
    assert (gradient != 0).tolist() == [False, True, True, False, True]


def test_at_the_start_of_an_update_ppos_gradient_is_reinforces() -> None:
    log_prob, advantage = torch.zeros(3, requires_grad=True), torch.tensor([1.0, -2.0, 0.5])
    (ppo,) = torch.autograd.grad(clipped_loss(log_prob, advantage, ALL, clip=0.2), log_prob)
    (plain,) = torch.autograd.grad(reinforce_loss(log_prob, advantage, ALL), log_prob)
    torch.testing.assert_close(ppo, plain)


def test_the_approximate_kl_is_never_negative_and_right_on_average() -> None:
    generator = torch.Generator().manual_seed(0)
    old, new = torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(0.3, 1.0)
    actions = torch.randn(200_000, generator=generator)
    log_ratio = new.log_prob(actions) - old.log_prob(actions)
    everywhere = torch.ones(len(actions), dtype=torch.bool)
    assert float(approximate_kl(log_ratio, everywhere)) == pytest.approx(0.045, rel=0.02)
    assert all(float(approximate_kl(value[None], everywhere[:1])) >= 0 for value in log_ratio[:50])


def test_the_mean_of_nothing_is_zero_with_a_graph() -> None:
    values = torch.ones(3, requires_grad=True)
    found = masked_mean(values, ~ALL)
    assert float(found.detach()) == 0.0
    assert not torch.autograd.grad(found, values)[0].any()
    assert float(masked_mean(torch.tensor([1.0, 3.0, 9.0]), torch.tensor([True, True, False]))) == 2.0
