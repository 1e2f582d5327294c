"""Candidates -> for each a logit shift and a move of its box -> the change of AP: the world of refining and voting."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor

from rl_det.boxes import moved
from rl_det.candidates import clipped
from rl_det.metrics.padding import candidate_relations, pad_targets
from rl_det.rewards import MOVE_REWARDS
from rl_det_envs.candidate_world import CandidateEnv, CandidateVectorEnv

LARGEST = 20.0


class AdjustDetectionsVector(CandidateVectorEnv):
    """`rl_det/AdjustDetections-v0`, natively batched; an action is a logit shift and four numbers of `rl_det.boxes.moved`.

    `info["credit"]` [B, N, 2] is what a candidate's shift alone would change, and what its move alone would. Boxes are moved
    before NMS and matching, and clipped to the image.
    """

    doing_nothing = 0.0

    def action_space_of_one(self) -> spaces.Space[Any]:
        return spaces.Box(-LARGEST, LARGEST, (self.num_candidates, 5), np.float32)

    def scores(self, logits: Float[Tensor, "R N"], actions: Float[Tensor, "R N"]) -> Float[Tensor, "R N"]:
        return logits + actions

    def outcome(self, images: np.ndarray, actions: Tensor) -> tuple[np.ndarray, np.ndarray]:
        before = replace(self._candidates, boxes=self._moved(torch.arange(self.pool_images), self._pool_actions))
        reward, credit = MOVE_REWARDS[self.reward_name](
            candidate_relations(before, self._targets, num_classes=self.detector.num_classes),
            pad_targets(self._targets),
            before.boxes.numpy(force=True),
            self._ranked(self._logits, self._pool_actions[..., 0]),
            images,
            self._ranked(self._logits[images], actions[..., 0]),
            self._moved(torch.from_numpy(images), actions).numpy(force=True),
            nms_iou=self.nms_iou,
        )
        return reward, credit[:, : self.num_candidates]

    def _moved(self, images: Tensor, actions: Float[Tensor, "R N 5"]) -> Float[Tensor, "R M 4"]:
        """All candidates' boxes, those that act moved; in the user's pixels."""
        images = images.to(self.device)
        acting, standing_by = self._candidates.boxes[images].split([self.num_candidates, self.num_bystanders], 1)
        after = clipped(moved(acting, actions[..., 1:]), self._encoded.original[images])
        still = (actions[..., 1:] == 0).all(-1) | ~self._candidates.mask[images][:, : self.num_candidates]
        return torch.cat([torch.where(still[..., None], acting, after), standing_by], 1)


class AdjustDetections(CandidateEnv):
    """`rl_det/AdjustDetections-v0` for one image, in numpy."""

    native = AdjustDetectionsVector
