"""Candidates -> a logit shift for each -> the change of AP: the environment of the rescoring and the context policy."""

from typing import Any

import numpy as np
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor

from rl_det_envs.candidate_world import CandidateEnv, CandidateVectorEnv

LARGEST_SHIFT = 20.0


class RescoreDetectionsVector(CandidateVectorEnv):
    """`rl_det/RescoreDetections-v0`, natively batched: the action is added to the logits, padding does not count."""

    doing_nothing = 0.0

    def action_space_of_one(self) -> spaces.Space[Any]:
        return spaces.Box(-LARGEST_SHIFT, LARGEST_SHIFT, (self.num_candidates,), np.float32)

    def scores(self, logits: Float[Tensor, "R N"], actions: Float[Tensor, "R N"]) -> Float[Tensor, "R N"]:
        return logits + actions


class RescoreDetections(CandidateEnv):
    """`rl_det/RescoreDetections-v0` for one image, in numpy."""

    native = RescoreDetectionsVector
