"""A policy of post-processing settings: a small network chooses one action for each image, from the image's description.

It acts in `rl_det/TunePostprocessing-v0`, where an image is one actor with four numbers. It has no detector, because the
detector does not change.
"""

from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import skip_init

from rl_det.policies.distributions import GaussianActions

LIMIT = 5.0
"""Standardised descriptions are cut off at this many standard deviations."""
LEAST_SPREAD = 1e-3
"""A number that hardly varies over the images is divided by this instead of its standard deviation."""


class SettingsPolicy(nn.Module):
    """Settings of an image: normal, with a mean by a network of one hidden layer; before the first update it is `start`.

    `descriptions` are those of the training images; their mean and standard deviation standardise what the network sees.
    The last layer starts at 0, and the generator draws the first one.
    """

    start: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(
        self,
        start: Float[Tensor, " A"],
        descriptions: Float[Tensor, "D F"],
        *,
        sigma: float,
        num_hidden: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.sigma = sigma
        self.register_buffer("start", start.float())
        self.register_buffer("centre", descriptions.mean(0))
        self.register_buffer("spread", descriptions.std(0, correction=0).clamp(min=LEAST_SPREAD))
        self.hidden = skip_init(nn.Linear, descriptions.shape[1], num_hidden)
        self.last = skip_init(nn.Linear, num_hidden, len(start))
        nn.init.orthogonal_(self.hidden.weight, generator=generator)
        for zero in (self.hidden.bias, self.last.weight, self.last.bias):
            nn.init.zeros_(zero)

    @property
    def trainable(self) -> nn.Module:
        """The network."""
        return self

    def forward(self, descriptions: Float[Tensor, "B F"]) -> Float[Tensor, "B A"]:
        """The mean action of each image, which may lie outside [-1, 1]."""
        standard = ((descriptions - self.centre) / self.spread).clamp(-LIMIT, LIMIT)
        moved: Tensor = self.last(torch.tanh(self.hidden(standard)))
        return self.start + moved

    def distribution(self, observation: Float[Tensor, "B F"], output: Any) -> GaussianActions:
        """The distribution of each image's action; one actor an image."""
        return GaussianActions(self(observation)[:, None], self.sigma)

    @torch.no_grad()
    def chosen(self, descriptions: Float[Tensor, "B F"]) -> Float[Tensor, "B A"]:
        """The actions without exploration, in [-1, 1]."""
        means: Tensor = self(descriptions)
        return means.clamp(-1, 1)

    def copy(self) -> "SettingsPolicy":
        """A copy whose network is its own."""
        return deepcopy(self)
