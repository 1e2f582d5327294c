"""The module of the refining policy: the vote of the proposals around each candidate, step by step from where it stands.

It is box voting, repeated: after a step other proposals are near, and vote with other weights, as in a mean shift. Scores
and order do not change. It depends only on torch.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rl_det.boxes import move_between, moved
from rl_det.candidates.selection import column_of
from rl_det.errors import UserError
from rl_det.policies.voting_module import VotingModule

LARGEST_MOVE = 1.0
"""The largest move of a step, in the unit of `rl_det.boxes`: the border of the environment's actions."""


class RefiningModule(VotingModule):
    """The boxes of candidates [B, N] after `num_steps` votes, and their logits, recalibrated; at the start unchanged."""

    def __init__(self, num_classes: int, *, num_steps: int = 3, width: int = 32) -> None:
        super().__init__(num_classes, width=width)
        if num_steps < 1:
            raise UserError(f"num_steps must be at least 1; got {num_steps}; 3 is usual")
        self.num_steps = num_steps
        self.mean_share.requires_grad_(False)  # logits are not voted on

    def forward(
        self,
        boxes: Float[Tensor, "B N 4"],
        logits: Float[Tensor, "B N"],
        index: Int[Tensor, "B N"],
        all_boxes: Float[Tensor, "B P C 4"],
        all_logits: Float[Tensor, "B P C"],
    ) -> tuple[Float[Tensor, "B N 4"], Float[Tensor, "B N"]]:
        """The boxes after all steps, and the logits; all boxes are relative to the image."""
        for _ in range(self.num_steps):
            move = self.next_move(boxes, logits, index, all_boxes, all_logits)
            step = move.clamp(-LARGEST_MOVE, LARGEST_MOVE)
            after = moved(boxes, step).clamp(0, 1)
            boxes = torch.where((step != 0).any(-1, keepdim=True), after, boxes)
        return boxes, self.recalibrated(logits, column_of(index, all_logits.shape[-1]))

    def next_move(
        self,
        boxes: Float[Tensor, "B N 4"],
        logits: Float[Tensor, "B N"],
        index: Int[Tensor, "B N"],
        all_boxes: Float[Tensor, "B P C 4"],
        all_logits: Float[Tensor, "B P C"],
    ) -> Float[Tensor, "B N 4"]:
        """The move of the next step, in the unit of `rl_det.boxes`, with gradient; all boxes are relative to the image."""
        voted, _ = super().forward(boxes, logits, index, all_boxes, all_logits)
        return move_between(boxes, voted)
