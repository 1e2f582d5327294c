"""The refining policy: Gaussian moves of boxes over several steps; the mean is the next vote of the proposals around it."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from rl_det.candidates import Observation
from rl_det.detectors.protocol import Detector
from rl_det.errors import UserError
from rl_det.policies.adjust import present_boxes, relative
from rl_det.policies.distributions import GaussianActions
from rl_det.policies.exploration import Exploration
from rl_det.policies.head import HeadWithModule
from rl_det.policies.refining_module import RefiningModule
from rl_det.types import HeadOutput


class RefinePolicy(HeadWithModule):
    """The head and a refining module, as a policy for `rl_det/RefineBoxes-v0`.

    The reward trains the module alone: it sees boxes and not scores, and would let the head's scores drift. The head is
    trained by its own losses, if at all. The tuned detector makes the module's steps without exploration, from the head's
    boxes on. `box_sigma`, in the unit of `rl_det.boxes`, is how widely the policy explores.
    """

    module: RefiningModule

    def __init__(self, detector: Detector, module: RefiningModule, *, box_sigma: float) -> None:
        super().__init__(detector)
        if not box_sigma > 0:
            raise UserError(f"box_sigma must be positive; got {box_sigma}; 0.2 is usual")
        self.module, self.box_sigma = module, box_sigma

    @classmethod
    def at_start(cls, detector: Detector, exploration: Exploration, num_steps: int = 3) -> "RefinePolicy":
        """The policy at the warm start: its module does not move boxes yet."""
        module = RefiningModule(detector.num_classes, num_steps=num_steps).to(detector.device)
        return cls(detector, module, box_sigma=exploration.box_sigma)

    @property
    def environment_options(self) -> dict[str, Any]:
        """The number of steps of an episode."""
        return {"num_steps": self.module.num_steps}

    def adjusted(
        self, observation: Observation, output: HeadOutput
    ) -> tuple[Float[Tensor, "B N 4"], Float[Tensor, "B N"]]:
        """The candidates' boxes after all steps, and their logits."""
        boxes, logits = present_boxes(observation, output), self.logits(observation, output)
        refined: tuple[Tensor, Tensor] = self.module(
            boxes, logits, observation["index"], relative(output, observation), output.logits
        )
        return refined

    def distribution(self, observation: Observation, output: HeadOutput) -> GaussianActions:
        """Moves from the boxes that the environment shows, with gradient to the module alone."""
        move = self.module.next_move(
            observation["boxes"],
            observation["logits"],
            observation["index"],
            relative(output, observation).detach(),
            output.logits.detach(),
        )
        return GaussianActions(move * observation["mask"][..., None], self.box_sigma)
