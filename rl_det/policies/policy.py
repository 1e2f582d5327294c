"""The Policy protocol, and the function that applies a policy to a detector's candidates."""

from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rl_det.candidates import Observation, clipped, observe, select_candidates
from rl_det.candidates.postprocessing import PostProcessingSettings
from rl_det.detectors.divided import said_by
from rl_det.detectors.protocol import Detector
from rl_det.detectors.recalibration import PerClass
from rl_det.policies.distributions import Distribution
from rl_det.types import Candidates, Encoded, HeadOutput


@runtime_checkable
class Policy(Protocol):
    """The detector's head, alone or with a module beside it, as a distribution over actions on its candidates.

    At the start it reproduces the warm start exactly. An agent samples from `distribution`; the tuned detector ranks by
    `logits`.
    """

    detector: Detector
    postprocessing: PostProcessingSettings

    def logits(self, observation: Observation, output: HeadOutput) -> Float[Tensor, "B N"]:
        """The candidates' logits under the present parameters, with gradient."""

    def adjusted(
        self, observation: Observation, output: HeadOutput
    ) -> tuple[Float[Tensor, "B N 4"], Float[Tensor, "B N"]]:
        """The candidates' boxes, relative to the image, and their logits, as the tuned detector gives them."""

    def distribution(self, observation: Observation, output: HeadOutput) -> Distribution:
        """The distribution of the policy's actions on each candidate."""

    @property
    def environment_options(self) -> dict[str, Any]:
        """What the policy asks of its environment when that is made."""

    @property
    def trainable(self) -> nn.Module:
        """All that fine-tuning trains, as one module; tuned policies differ only in its state_dict."""

    def copy(self) -> "Policy":
        """A copy with its own head (and module); the frozen part of the detector is shared."""

    def recalibrate(self, scale: PerClass, shift: PerClass) -> None:
        """Fold logits -> scale * logits + shift, for each class, into what is exported; scales must be positive."""


@torch.no_grad()
def apply_policy(policy: Policy, encoded: Encoded, num_candidates: int, output: HeadOutput | None = None) -> Candidates:
    """The detector's N best candidates with the policy's logits, in the detector's order; `output` is the head's, if known."""
    output = said_by(policy.detector, encoded) if output is None else output
    candidates = select_candidates(output, encoded.mask, num_candidates)
    observation = observe(candidates, encoded)
    boxes, logits = policy.adjusted(observation, output)
    stayed = (boxes == observation["boxes"]).all(-1, keepdim=True)  # to the last bit, which a division would change
    return replace(
        candidates,
        boxes=candidates.boxes.where(stayed, clipped(boxes * observation["size"][:, None], encoded.image_size)),
        logits=logits.masked_fill(~candidates.mask, -torch.inf),
    )
