"""`rl_det/SelectDetections-v0`: an action keeps or drops each candidate; for the selecting policy."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor

from rl_det_envs.candidate_environment import CandidateVectorEnv
from rl_det_envs.single_form import DetectorEnv


class SelectDetectionsVector(CandidateVectorEnv):
    """The vector form: 1 keeps a candidate, 0 drops it; the kept candidates rank by their own logits.

    What is kept, and survives NMS, is displayed: here F1, LRP and cost know no other threshold than the choice itself.
    """

    doing_nothing = 1.0
    displayed_from = -np.inf

    def action_space_of_one(self) -> spaces.Space[Any]:
        return spaces.MultiBinary(self.num_candidates)

    def rescored(self, logits: Float[Tensor, "R N"], actions: Tensor) -> Float[Tensor, "R N"]:
        return logits.masked_fill(actions < 0.5, -torch.inf)


class SelectDetections(DetectorEnv):
    """The single form: `rl_det/SelectDetections-v0` for one image, in numpy."""

    vector_class = SelectDetectionsVector
