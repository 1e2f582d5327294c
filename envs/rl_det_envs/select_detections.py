"""Candidates -> keep or drop each -> the change of AP: the environment of the selecting policy."""

from typing import Any, ClassVar

import torch
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor

from rl_det_envs.candidate_world import CandidateEnv, CandidateVectorEnv


class SelectDetectionsVector(CandidateVectorEnv):
    """`rl_det/SelectDetections-v0`, natively batched: 1 keeps a candidate, 0 drops it; the kept rank by their own logits.

    A candidate's credit is half the difference to the opposite choice, that is, its worth against a fair coin: unbiased
    for independent gates, as the coin does not depend on the choice.
    """

    doing_nothing = 1.0
    credit_share: ClassVar[float] = 0.5

    def action_space_of_one(self) -> spaces.Space[Any]:
        return spaces.MultiBinary(self.num_candidates)

    def scores(self, logits: Float[Tensor, "R N"], actions: Float[Tensor, "R N"]) -> Float[Tensor, "R N"]:
        return logits.masked_fill(actions < 0.5, -torch.inf)

    def alternative(self, actions: Float[Tensor, "B N"], baseline: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        return 1 - actions


class SelectDetections(CandidateEnv):
    """`rl_det/SelectDetections-v0` for one image, in numpy."""

    native = SelectDetectionsVector
