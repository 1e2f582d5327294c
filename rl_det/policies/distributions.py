"""Distributions of independent actions for each candidate, with one density for each."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from rl_det.candidates import SHIFT_OF_ONE

Draws = Literal["antithetic", "stratified", "independent"]
"""How the K samples of an image depend on each other. independent: not at all. antithetic: in pairs, the second mirrors the
first. stratified: of each candidate's number, one sample lies in each K-th of the probability (Owen 2013, chapter 10)."""


@runtime_checkable
class Distribution(Protocol):
    """Independent actions of N candidates in B images; K samples are [B, K, N], or [B, K, N, 5] with a box's move.

    Actions are in the environments' unit: gates 0 and 1, or numbers that mean so many times `action_scale`. Numbers may be
    drawn outside of [-1, 1], where their density is; an environment is given the nearest number in it.
    """

    @property
    def action_scale(self) -> float:
        """What an action of 1 means to this distribution; the environment's must be the same."""
        ...

    def sample(
        self, num_samples: int, generator: torch.Generator, draws: Draws = "antithetic"
    ) -> Float[Tensor, "B K N"]:
        """K actions for each image; each alone has the distribution's density, whatever the draws."""

    def log_prob(self, action: Float[Tensor, "B K N"]) -> Float[Tensor, "B K N"]:
        """The log density of each candidate's own action, with gradient to the distribution's parameters."""

    def greedy(self) -> Float[Tensor, "B N"]:
        """The action without exploration: the tuned detector's own output."""

    def entropy(self) -> Float[Tensor, "B N"]:
        """The entropy of each candidate's action, in nats."""

    def kl(self, reference: Any) -> Float[Tensor, "B N"]:
        """KL(self || reference) for each candidate, in nats."""

    def shift(self) -> Float[Tensor, "B N"]:
        """Each logit's shift, with gradient; 0 if the reward responds to a shift that all logits share."""


@dataclass(frozen=True)
class GaussianShifts:
    """A shift of each candidate's logit: normal with mean `mean` and one standard deviation `sigma`, both in logits.

    `residual` is what a module adds to the head's own logits.
    """

    mean: Float[Tensor, "B N"]
    sigma: float
    residual: Float[Tensor, "B N"] | None = None
    action_scale: ClassVar[float] = SHIFT_OF_ONE

    def sample(
        self, num_samples: int, generator: torch.Generator, draws: Draws = "antithetic"
    ) -> Float[Tensor, "B K N"]:
        noise = _normal(self.mean, num_samples, generator, draws)
        return (self.mean.detach()[:, None] + self.sigma * noise) / SHIFT_OF_ONE

    def log_prob(self, action: Float[Tensor, "B K N"]) -> Float[Tensor, "B K N"]:
        standard = (SHIFT_OF_ONE * action - self.mean[:, None]) / self.sigma
        return -0.5 * standard.square() - math.log(self.sigma * math.sqrt(2 * math.pi))

    def greedy(self) -> Float[Tensor, "B N"]:
        return self.mean.detach() / SHIFT_OF_ONE

    def entropy(self) -> Float[Tensor, "B N"]:
        return torch.full_like(self.mean, 0.5 + math.log(self.sigma * math.sqrt(2 * math.pi)))

    def kl(self, reference: "GaussianShifts") -> Float[Tensor, "B N"]:
        ratio = self.sigma / reference.sigma
        distance = ((self.mean - reference.mean) / reference.sigma).square()
        return 0.5 * (distance + ratio**2 - 1) - math.log(ratio)

    def shift(self) -> Float[Tensor, "B N"]:
        return self.mean


@dataclass(frozen=True)
class GaussianAdjustments:
    """A shift of each candidate's logit and, independently, a move of its box (`rl_det.boxes`), normal with mean `mean`.

    These are two factors with separate credit, so densities are [B, K, N, 2]. `residual` is what a module adds to the
    head's own logits. `adjusted` are the candidates' relative boxes and logits that the mean leads to, with gradient, so that
    a loss of labels need not ask the policy again.
    """

    mean: Float[Tensor, "B N 5"]
    sigma: float
    box_sigma: float
    residual: Float[Tensor, "B N"]
    adjusted: tuple[Float[Tensor, "B N 4"], Float[Tensor, "B N"]] | None = None
    action_scale: ClassVar[float] = SHIFT_OF_ONE

    def sample(
        self, num_samples: int, generator: torch.Generator, draws: Draws = "antithetic"
    ) -> Float[Tensor, "B K N 5"]:
        noise = _normal(self.mean, num_samples, generator, draws)
        return (self.mean.detach()[:, None] + self._sigmas() * noise) / SHIFT_OF_ONE

    def log_prob(self, action: Float[Tensor, "B K N 5"]) -> Float[Tensor, "B K N 2"]:
        sigmas = self._sigmas()
        standard = (SHIFT_OF_ONE * action - self.mean[:, None]) / sigmas
        density = -0.5 * standard.square() - (sigmas * math.sqrt(2 * math.pi)).log()
        return torch.stack([density[..., 0], density[..., 1:].sum(-1)], -1)

    def greedy(self) -> Float[Tensor, "B N 5"]:
        return self.mean.detach() / SHIFT_OF_ONE

    def entropy(self) -> Float[Tensor, "B N"]:
        one = 0.5 + (self._sigmas() * math.sqrt(2 * math.pi)).log()
        return one.sum().expand(self.mean.shape[:2])

    def kl(self, reference: "GaussianAdjustments") -> Float[Tensor, "B N"]:
        """KL(self || reference) for each candidate, in nats; both must have the same standard deviations."""
        return 0.5 * ((self.mean - reference.mean) / self._sigmas()).square().sum(-1)

    def shift(self) -> Float[Tensor, "B N"]:
        return self.mean[..., 0]

    def _sigmas(self) -> Float[Tensor, "5"]:
        return self.mean.new_tensor([self.sigma, *4 * [self.box_sigma]])


@dataclass(frozen=True)
class GaussianActions:
    """Each actor's D numbers in the environments' unit: normal with mean `mean` and standard deviation `sigma`, one factor.

    For moves of boxes step by step (four numbers a candidate), and for settings (one actor an image).
    """

    mean: Float[Tensor, "B N D"]
    sigma: float
    action_scale: ClassVar[float] = 1.0

    def sample(
        self, num_samples: int, generator: torch.Generator, draws: Draws = "antithetic"
    ) -> Float[Tensor, "B K N D"]:
        noise = _normal(self.mean, num_samples, generator, draws)
        return self.mean.detach()[:, None] + self.sigma * noise

    def log_prob(self, action: Float[Tensor, "B K N D"]) -> Float[Tensor, "B K N"]:
        standard = (action - self.mean[:, None]) / self.sigma
        return (-0.5 * standard.square() - math.log(self.sigma * math.sqrt(2 * math.pi))).sum(-1)

    def greedy(self) -> Float[Tensor, "B N D"]:
        return self.mean.detach()

    def entropy(self) -> Float[Tensor, "B N"]:
        one = 0.5 + math.log(self.sigma * math.sqrt(2 * math.pi))
        return torch.full_like(self.mean[..., 0], one * self.mean.shape[-1])

    def kl(self, reference: "GaussianActions") -> Float[Tensor, "B N"]:
        """KL(self || reference) for each actor, in nats; both must have the same standard deviation."""
        return 0.5 * ((self.mean - reference.mean) / self.sigma).square().sum(-1)

    def shift(self) -> Float[Tensor, "B N"]:
        """0, because no logit is shifted."""
        return torch.zeros_like(self.mean[..., 0])


@dataclass(frozen=True)
class BernoulliGates:
    """Keep (1) or drop (0) each candidate; `logits` are the log-odds of keeping."""

    logits: Float[Tensor, "B N"]
    action_scale: ClassVar[float] = 1.0

    def sample(
        self, num_samples: int, generator: torch.Generator, draws: Draws = "antithetic"
    ) -> Float[Tensor, "B K N"]:
        uniform = _uniform(self.logits, num_samples, generator, draws)
        return (uniform < self.logits.detach().sigmoid()[:, None]).to(self.logits.dtype)

    def log_prob(self, action: Float[Tensor, "B K N"]) -> Float[Tensor, "B K N"]:
        logits = self.logits[:, None].expand_as(action)
        return -F.binary_cross_entropy_with_logits(logits, action, reduction="none")

    def greedy(self) -> Float[Tensor, "B N"]:
        return torch.ones_like(self.logits)

    def entropy(self) -> Float[Tensor, "B N"]:
        return F.binary_cross_entropy_with_logits(self.logits, self.logits.sigmoid(), reduction="none")

    def kl(self, reference: "BernoulliGates") -> Float[Tensor, "B N"]:
        keep = self.logits.sigmoid()
        cross = F.binary_cross_entropy_with_logits(reference.logits, keep, reduction="none")
        return cross - self.entropy()

    def shift(self) -> Float[Tensor, "B N"]:
        """0, because the reward responds to a gate's probability."""
        return torch.zeros_like(self.logits)


def _normal(
    like: Float[Tensor, " B *numbers"], num_samples: int, generator: torch.Generator, draws: Draws
) -> Float[Tensor, " B K *numbers"]:
    """Standard normal numbers."""
    if draws == "antithetic":
        return _antithetic(torch.randn, like, num_samples, generator, mirror=torch.neg)
    if draws == "independent":
        return _independent(torch.randn, like, num_samples, generator)
    drawn: Tensor = torch.special.ndtri(_strata(like, num_samples, generator))
    return drawn.to(like.dtype)


def _uniform(
    like: Float[Tensor, " B *numbers"], num_samples: int, generator: torch.Generator, draws: Draws
) -> Float[Tensor, " B K *numbers"]:
    """Numbers that are uniform in [0, 1]."""
    if draws == "antithetic":
        return _antithetic(torch.rand, like, num_samples, generator, mirror=lambda u: 1 - u)
    if draws == "independent":
        return _independent(torch.rand, like, num_samples, generator)
    return _strata(like, num_samples, generator).to(like.dtype)


def _antithetic(
    draw: Callable[..., Tensor],
    like: Float[Tensor, " B *numbers"],
    num_samples: int,
    generator: torch.Generator,
    *,
    mirror: Callable[[Tensor], Tensor],
) -> Float[Tensor, " B K *numbers"]:
    """Draws in mirrored pairs; an odd K leaves the last draw without a pair."""
    num_images, *numbers = like.shape
    half = draw((num_images, (num_samples + 1) // 2, math.prod(numbers)), generator=generator, device=generator.device)
    both = torch.stack([half, mirror(half)], 2).flatten(1, 2)
    return both[:, :num_samples].to(like.device).view(num_images, num_samples, *numbers)


def _independent(
    draw: Callable[..., Tensor], like: Float[Tensor, " B *numbers"], num_samples: int, generator: torch.Generator
) -> Float[Tensor, " B K *numbers"]:
    """Draws that do not depend on each other."""
    drawn: Tensor = draw((len(like), num_samples, *like.shape[1:]), generator=generator, device=generator.device)
    return drawn.to(like.device)


def _strata(
    like: Float[Tensor, " B *numbers"], num_samples: int, generator: torch.Generator
) -> Float[Tensor, " B K *numbers"]:
    """Uniform numbers in (0, 1), float64, one in each of K equal strata; each number has an order of its own."""
    shape, source = (len(like), num_samples, *like.shape[1:]), generator.device
    place = torch.rand(shape, generator=generator, device=source).argsort(1)
    within = torch.rand(shape, generator=generator, device=source, dtype=torch.float64)
    inner = torch.finfo(torch.float64).eps
    return ((place + within) / num_samples).clamp(inner, 1 - inner).to(like.device)
