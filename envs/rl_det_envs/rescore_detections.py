"""`rl_det/RescoreDetections-v0`: an action shifts each candidate's logit; for the rescoring and the context policy."""

from typing import Any

import numpy as np
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor

from rl_det.candidates import SHIFT_OF_ONE
from rl_det.policies.exploration import Exploration
from rl_det_envs.candidate_environment import CandidateVectorEnv
from rl_det_envs.single_form import DetectorEnv


class RescoreDetectionsVector(CandidateVectorEnv):
    """The vector form: an action of 1 adds `action_scale` to a candidate's logit."""

    usual_scale = SHIFT_OF_ONE
    usual_exploration = (Exploration().sigma,)

    def action_space_of_one(self) -> spaces.Space[Any]:
        return spaces.Box(-1.0, 1.0, (self.num_candidates,), np.float32)

    def rescored(self, logits: Float[Tensor, "R N"], actions: Tensor) -> Float[Tensor, "R N"]:
        return logits + self.action_scale * actions


class RescoreDetections(DetectorEnv):
    """The single form: `rl_det/RescoreDetections-v0` for one image, in numpy."""

    vector_class = RescoreDetectionsVector
