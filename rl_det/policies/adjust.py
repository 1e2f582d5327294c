"""The adjusting policy: Gaussian shifts of logits and Gaussian moves of boxes, with the head's present output as mean."""

import torch
from jaxtyping import Float
from torch import Tensor

from rl_det.boxes import move_between
from rl_det.candidates import Observation, gather_boxes
from rl_det.detectors.protocol import Detector
from rl_det.errors import UserError
from rl_det.policies.distributions import GaussianAdjustments
from rl_det.policies.exploration import Exploration
from rl_det.policies.head import Head, head_logits
from rl_det.types import HeadOutput


class AdjustPolicy(Head):
    """The head, with its boxes, as a policy for `rl_det/AdjustDetections-v0`.

    `sigma`, in logits, and `box_sigma`, in the unit of `rl_det.boxes`, are how widely it explores.
    """

    def __init__(self, detector: Detector, *, sigma: float, box_sigma: float) -> None:
        super().__init__(detector)
        if not (sigma > 0 and box_sigma > 0):
            raise UserError(f"sigma and box_sigma must be positive; got {sigma} and {box_sigma}; 0.5 and 0.2 are usual")
        self.sigma, self.box_sigma = sigma, box_sigma

    @classmethod
    def at_start(cls, detector: Detector, exploration: Exploration) -> "AdjustPolicy":
        """The policy at the warm start."""
        return cls(detector, sigma=exploration.sigma, box_sigma=exploration.box_sigma)

    def adjusted(
        self, observation: Observation, output: HeadOutput
    ) -> tuple[Float[Tensor, "B N 4"], Float[Tensor, "B N"]]:
        return present_boxes(observation, output), self.logits(observation, output)

    def distribution(self, observation: Observation, output: HeadOutput) -> GaussianAdjustments:
        """Shifts and moves relative to the logits and boxes that the environment has shown."""
        boxes, logits = self.adjusted(observation, output)
        real = observation["mask"]
        move = move_between(observation["boxes"], boxes) * real[..., None]
        shift = (logits - observation["logits"]) * real
        residual = (logits - head_logits(observation, output)) * real
        mean = torch.cat([shift[..., None], move], -1)
        return GaussianAdjustments(mean, self.sigma, self.box_sigma, residual, adjusted=(boxes, logits))


def present_boxes(observation: Observation, output: HeadOutput) -> Float[Tensor, "B N 4"]:
    """The candidates' boxes under the head's present output, relative to the image; 0 on padding."""
    boxes = gather_boxes(relative(output, observation), observation["index"])
    return boxes.where(observation["mask"][..., None], 0.0)


def relative(output: HeadOutput, observation: Observation) -> Float[Tensor, "B P C 4"]:
    """The head's boxes, relative to the image."""
    return output.boxes / observation["size"][:, None, None]
