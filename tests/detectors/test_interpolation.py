"""The resizing by matrix products against torch's own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from rl_det.detectors.interpolation import interpolated, shares

SIDES = st.integers(1, 90)
SEVERAL = st.integers(2, 90)
"""torch's antialiasing does not interpolate the rows of what comes out one pixel wide."""


@pytest.mark.parametrize("antialias", [False, True])
@given(SIDES, SIDES, SEVERAL, SEVERAL, st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_an_image_is_resized_as_torch_resizes_it(
    antialias: bool, height: int, width: int, high: int, wide: int, seed: int
) -> None:
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))
    wanted = interpolate(image[None], (high, wide), mode="bilinear", align_corners=False, antialias=antialias)[0]
    torch.testing.assert_close(interpolated(image, (high, wide), antialias=antialias), wanted, rtol=0, atol=2e-6)


def test_the_first_and_the_last_place_of_a_long_side_keep_their_digits() -> None:
    """Where places are counted in thousands, another rounding of the centre costs the fourth digit."""
    image = torch.rand(3, 2, 1920, generator=torch.Generator().manual_seed(0))
    wanted = interpolate(image[None], (2, 1333), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(interpolated(image, (2, 1333)), wanted, rtol=0, atol=5e-6)


@pytest.mark.parametrize("antialias", [False, True])
@given(SIDES, SIDES)
@settings(max_examples=40, deadline=None)
def test_the_shares_of_each_new_place_are_one_together(antialias: bool, before: int, after: int) -> None:
    share = shares(before, after, antialias=antialias)
    assert share.shape == (after, before)
    assert bool((share >= 0).all())
    torch.testing.assert_close(share.sum(1), torch.ones(after))
