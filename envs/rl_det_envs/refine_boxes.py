"""`rl_det/RefineBoxes-v0`: several steps, each of which moves every candidate's box; the reward is the step's change of AP."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor

from rl_det.ap.batch import DetectionBatch
from rl_det.boxes import moved
from rl_det.candidates import clipped
from rl_det.errors import UserError
from rl_det.rewards import Scene, Step
from rl_det_envs.candidate_environment import CandidateVectorEnv
from rl_det_envs.detector_environment import DetectorEnv


class RefineBoxesVector(CandidateVectorEnv):
    """The vector form: an episode has `num_steps` steps, and an action is one flat vector of four numbers a candidate.

    The four numbers are the detector's own regression targets (`rl_det.boxes`): 1 moves the centre by a tenth of a
    side, or adds a fifth to the logarithm of a side. Boxes are clipped to the image. Scores and order do not change.
    The rewards of an episode's steps add up to the difference in value between the last boxes and the first,
    independent of the path (`rl_det.rewards`). `info["credit"]` [B, N] is the reward of each move of this step alone,
    relative to the boxes before the step.
    """

    factors = ("boxes",)

    def __init__(self, num_envs: int = 1, *, num_steps: int = 3, **arguments: Any) -> None:
        if num_steps < 1:
            raise UserError(f"num_steps must be at least 1; got {num_steps}; 3 is usual")
        self.num_steps = num_steps
        self._scene: Scene | None = None
        super().__init__(num_envs, **arguments)

    def action_space_of_one(self) -> spaces.Space[Any]:
        return spaces.Box(-1.0, 1.0, (self.num_candidates * 4,), np.float32)

    def begin(self) -> dict[str, Any]:
        info, self._scene = super().begin(), None
        images = torch.from_numpy(self.rows).to(self.device)
        self._boxes: Float[Tensor, "B M 4"] = self.candidates.boxes[images]
        self._image_size = self.encoded.image_size[images]
        return info

    def set_baseline(self, action: Float[Tensor, " B *one"]) -> None:
        """Raise ValueError: this environment has no baseline, because each step is compared with the boxes before it."""
        raise ValueError("rl_det/RefineBoxes-v0 has no baseline: each step is measured against the one before")

    def observation(self) -> dict[str, Tensor]:
        boxes = self._boxes[:, : self.num_candidates] / self._image_size[:, None, [1, 0, 1, 0]]
        return {**super().observation(), "boxes": boxes}

    def _taken(self, scene: Scene, actions: Float[Tensor, "B numbers"]) -> Step:
        """Move the boxes by the actions, from their present places, and return the step."""
        acting, context = self._boxes.split([self.num_candidates, self.context_candidates], 1)
        moves = actions.unflatten(1, (-1, 4))
        mask = self._seen["mask"]
        after = clipped(moved(acting, moves), self._image_size).where(
            (moves != 0).any(-1, keepdim=True) & mask[..., None], acting
        )
        before, self._boxes = self._boxes, torch.cat([after, context], 1)
        return Step(
            scene=scene,
            images=self.rows,
            boxes=self._boxes.numpy(force=True),
            scores=scene.scores[self.rows],
            factors=self.factors,
            boxes_before=None if not self._step else before.numpy(force=True),
        )

    def scene(self) -> Scene:
        """The candidates as the detector leaves them; computed once an episode."""
        if self._scene is None:
            self._scene = super().scene()
        return self._scene

    def drawn(self) -> tuple[DetectionBatch, DetectionBatch]:
        """The detections under the episode's first boxes, and under the present ones."""
        scene = self.scene()
        step = Step(
            scene=scene, images=self.rows, boxes=self._boxes.numpy(force=True), scores=scene.scores[self.rows],
            factors=self.factors,
        )  # fmt: skip
        return step.before.detections, step.after.detections


class RefineBoxes(DetectorEnv):
    """The single form: `rl_det/RefineBoxes-v0` for one image, in numpy."""

    vector_class = RefineBoxesVector
