"""Candidates -> keep or drop each -> the change of AP: the environment of the selecting policy."""

from typing import Any

import torch
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor

from rl_det_envs.candidate_world import CandidateEnv, CandidateVectorEnv


class SelectDetectionsVector(CandidateVectorEnv):
    """`rl_det/SelectDetections-v0`, natively batched: 1 keeps a candidate, 0 drops it; the kept rank by their own logits."""

    doing_nothing = 1.0

    def action_space_of_one(self) -> spaces.Space[Any]:
        return spaces.MultiBinary(self.num_candidates)

    def scores(self, logits: Float[Tensor, "R N"], actions: Float[Tensor, "R N"]) -> Float[Tensor, "R N"]:
        return logits.masked_fill(actions < 0.5, -torch.inf)


class SelectDetections(CandidateEnv):
    """`rl_det/SelectDetections-v0` for one image, in numpy."""

    native = SelectDetectionsVector
