"""`rl_det/AdjustDetections-v0`: an action shifts each candidate's logit and moves its box; for `adjust` and `voting`."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float, Float32
from torch import Tensor

from rl_det.boxes import moved
from rl_det.candidates import SHIFT_OF_ONE, clipped
from rl_det.policies.exploration import Exploration
from rl_det_envs.candidate_environment import CandidateVectorEnv
from rl_det_envs.single_form import DetectorEnv


class AdjustDetectionsVector(CandidateVectorEnv):
    """The vector form: an action is, for each candidate, a logit shift and the four numbers of `rl_det.boxes.moved`.

    An action of 1 means `action_scale` in each of the five numbers. Credit is [B, N, 2]: that of the candidate's shift
    alone, and that of its move alone. Boxes are moved before NMS and matching, and clipped to the image.
    """

    usual_scale = SHIFT_OF_ONE
    usual_exploration = (Exploration().sigma, *[Exploration().box_sigma] * 4)
    factors = ("scores", "boxes")

    def action_space_of_one(self) -> spaces.Space[Any]:
        return spaces.Box(-1.0, 1.0, (self.num_candidates, 5), np.float32)

    def rescored(self, logits: Float[Tensor, "R N"], actions: Float[Tensor, "R N 5"]) -> Float[Tensor, "R N"]:
        return logits + self.action_scale * actions[..., 0]

    def boxes_after(self, images: Tensor, actions: Float[Tensor, "R N 5"]) -> Float32[np.ndarray, "R M 4"]:
        images = images.to(self.device)
        acting, context = self.candidates.boxes[images].split([self.num_candidates, self.context_candidates], 1)
        moves = self.action_scale * actions[..., 1:]
        after = clipped(moved(acting, moves), self.encoded.image_size[images])
        still = (moves == 0).all(-1) | ~self.candidates.mask[images][:, : self.num_candidates]
        boxes = torch.cat([torch.where(still[..., None], acting, after), context], 1)
        on_host: Float32[np.ndarray, "R M 4"] = boxes.numpy(force=True)
        return on_host


class AdjustDetections(DetectorEnv):
    """The single form: `rl_det/AdjustDetections-v0` for one image, in numpy."""

    vector_class = AdjustDetectionsVector
