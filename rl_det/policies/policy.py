"""What every policy can do, and the one way from a policy to detections."""

from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rl_det.candidates import Observation, clipped, observe, select_candidates
from rl_det.candidates.postprocessing import PostProcessing
from rl_det.detectors.protocol import Detector
from rl_det.policies.distributions import Distribution
from rl_det.types import Candidates, Encoded, HeadOutput


@runtime_checkable
class Policy(Protocol):
    """The detector's head, alone or with a context module, seen as a distribution over actions on its candidates.

    At the start it reproduces the warm start exactly. `distribution` is what an agent samples from; `logits` is what the
    tuned detector ranks by.
    """

    detector: Detector
    postprocessing: PostProcessing

    def logits(self, observation: Observation, output: HeadOutput) -> Float[Tensor, "B N"]:
        """The candidates' logits under the present parameters, with gradient."""

    def adjusted(
        self, observation: Observation, output: HeadOutput
    ) -> tuple[Float[Tensor, "B N 4"], Float[Tensor, "B N"]]:
        """Where the candidates are, relative to the image, and their logits: what the tuned detector gives."""

    def distribution(self, observation: Observation, output: HeadOutput) -> Distribution:
        """What the policy would do with each candidate."""

    @property
    def trainable(self) -> nn.Module:
        """All that fine-tuning trains, as one module; its state_dict is all that distinguishes a tuned policy."""

    def copy(self) -> "Policy":
        """The same policy with a head (and a module) of its own; the frozen part of the detector is shared."""

    def recalibrate(self, scale: float, shift: float) -> None:
        """Fold logits -> scale * logits + shift into what is exported, `scale` positive."""


@torch.no_grad()
def apply_policy(policy: Policy, encoded: Encoded, num_candidates: int) -> Candidates:
    """The detector's N best candidates with the policy's logits, in the detector's order."""
    output = policy.detector.head(encoded)
    candidates = select_candidates(output, encoded.mask, num_candidates)
    observation = observe(candidates, encoded)
    boxes, logits = policy.adjusted(observation, output)
    stayed = (boxes == observation["boxes"]).all(-1, keepdim=True)  # to the last bit, which a division would change
    return replace(
        candidates,
        boxes=candidates.boxes.where(stayed, clipped(boxes * observation["size"][:, None], encoded.image_size)),
        logits=logits.masked_fill(~candidates.mask, -torch.inf),
    )
