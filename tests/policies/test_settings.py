"""The policy of post-processing settings: where it starts, what it standardises, and that a copy is its own."""

import torch

from rl_det.policies.settings import SettingsPolicy
from rl_det.strategies.rollouts import Actor

START = torch.tensor([0.2, -0.4, 0.3, -0.8])
DESCRIBED = torch.rand(50, 32, generator=torch.Generator().manual_seed(0))


def policy(seed: int = 0) -> SettingsPolicy:
    return SettingsPolicy(START, DESCRIBED, sigma=0.15, num_hidden=8, generator=torch.Generator().manual_seed(seed))


def test_it_starts_at_exactly_the_given_settings_for_every_image() -> None:
    assert isinstance(policy(), Actor)
    assert torch.equal(policy().chosen(DESCRIBED), START.expand(50, 4))
    drawn = policy().distribution(DESCRIBED, None).sample(400, torch.Generator().manual_seed(0))
    assert drawn.shape == (50, 400, 1, 4)
    torch.testing.assert_close(drawn.mean((0, 1, 2))[:3], START[:3], atol=0.01, rtol=0)
    assert abs(float(drawn[..., 0].std()) - 0.15) < 0.01


def test_images_are_told_apart_once_the_last_layer_has_weights() -> None:
    own = policy()
    torch.nn.init.ones_(own.last.weight)
    chosen = own.chosen(DESCRIBED)
    assert (chosen[0] != chosen[1]).all()
    assert chosen.abs().max() <= 1


def test_a_number_that_never_varies_leaves_the_action_finite() -> None:
    same = torch.ones(5, 32)
    own = SettingsPolicy(START, same, sigma=0.15, num_hidden=8, generator=torch.Generator().manual_seed(0))
    torch.nn.init.ones_(own.last.weight)
    assert own.chosen(same + 1).isfinite().all()
    one = SettingsPolicy(START, same[:1], sigma=0.15, num_hidden=8, generator=torch.Generator().manual_seed(0))
    assert one.chosen(same).isfinite().all()


def test_a_copy_is_its_own_and_the_seed_decides_the_network() -> None:
    own = policy()
    copy = own.copy()
    torch.nn.init.ones_(own.last.bias)
    assert torch.equal(copy.chosen(DESCRIBED), START.expand(50, 4))
    assert torch.equal(own.hidden.weight, policy().hidden.weight)
    assert not torch.equal(own.hidden.weight, policy(1).hidden.weight)
