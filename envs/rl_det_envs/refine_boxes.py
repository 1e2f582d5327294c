"""`rl_det/RefineBoxes-v0`: several steps, each of which moves every candidate's box; the reward is the step's change of AP."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float, Int64
from torch import Tensor

from rl_det.ap.batch import DetectionBatch
from rl_det.boxes import moved
from rl_det.candidates import clipped
from rl_det.errors import UserError
from rl_det.policies.exploration import Exploration
from rl_det.rewards import Scene, Step
from rl_det.settings import at_least, check_argument
from rl_det.types import Encoded, HeadOutput
from rl_det_envs.candidate_environment import CandidateVectorEnv
from rl_det_envs.detector_environment import Groups
from rl_det_envs.single_form import DetectorEnv


class RefineBoxesVector(CandidateVectorEnv):
    """The vector form: an episode has `num_steps` steps, and an action is one flat vector of four numbers a candidate.

    The four numbers are the detector's own regression targets (`rl_det.boxes`), times `action_scale`: at its default, 1
    moves the centre by a tenth of a side, or adds a fifth to the logarithm of a side. Boxes are clipped to the image.
    Scores and order do not change. The rewards of an episode's steps add up to the difference in value between the last
    boxes and the first, independent of the path (`rl_det.rewards`). A step's credit [B, N] is what the candidate earns
    in it if it alone moves, in the whole episode, and all others stay where they stood at its start.

    After a reset of some sub-environments (`reset_mask`), the others' rewards are still measured in the pool in which
    their episodes began, so they still add up.
    """

    factors = ("boxes",)
    usual_scale = 1.0
    usual_exploration = (Exploration().box_sigma,)
    takes_baseline = False

    def __init__(self, num_envs: int = 1, *, num_steps: int = 3, **arguments: Any) -> None:
        check_argument("num_steps", num_steps, int, at_least(1), usual=3)
        self.num_steps = num_steps
        self._scenes: list[tuple[Int64[np.ndarray, " r"], Scene]] = []
        super().__init__(num_envs, **arguments)

    def action_space_of_one(self) -> spaces.Space[Any]:
        return spaces.Box(-1.0, 1.0, (self.num_candidates * 4,), np.float32)

    def begin(self, fresh: Groups) -> tuple[Encoded, HeadOutput]:
        """Episodes that go on keep their boxes, their candidates, and the scene in which their rewards are measured."""
        begun = fresh[self.rows]
        going = [(rows[~begun[rows]], scene) for rows, scene in self._scenes] if not begun.all() else []
        kept = {"": self._boxes, **self._seen} if going else {}
        encoded, output = super().begin(fresh)
        images = torch.from_numpy(self.rows).to(self.device)
        self._image_size = self.encoded.image_size[images]
        self._boxes: Float[Tensor, "B M 4"] = self.candidates.boxes[images]
        if going:
            fresh_rows = torch.from_numpy(begun).to(self.device)
            merged = {
                name: torch.where(fresh_rows.view(-1, *[1] * (own.ndim - 1)), new, own)
                for (name, own), new in zip(kept.items(), (self._boxes, *self._seen.values()), strict=True)
            }
            self._boxes, self._seen = merged.pop(""), merged
        self._scenes = [(rows, scene) for rows, scene in going if len(rows)]
        self._scenes.append((np.flatnonzero(begun), super().scene()))
        return encoded, output

    def set_baseline(self, actions: Float[Tensor, " B *one"]) -> None:
        """Raise UserError: this environment has no baseline, because each step is compared with the boxes before it."""
        raise UserError("rl_det/RefineBoxes-v0 has no baseline: each step is measured against the one before")

    def observation(self) -> dict[str, Tensor]:
        boxes = self._boxes[:, : self.num_candidates] / self._image_size[:, None, [1, 0, 1, 0]]
        return {**super().observation(), "boxes": boxes}

    def _taken(self, scene: Scene, actions: Float[Tensor, "B numbers"]) -> Step:
        """Move the boxes by the actions, from their present places, and return the step."""
        acting, context = self._boxes.split([self.num_candidates, self.context_candidates], 1)
        moves = self.action_scale * actions.unflatten(1, (-1, 4))
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
            boxes_before=None if self._at_start else before.numpy(force=True),
        )

    @property
    def _at_start(self) -> bool:
        """Whether no episode has made a step."""
        return self._steps is None or not self._steps.any()

    def scene(self) -> Scene:
        """The candidates as the detector leaves them, in the episodes that began last."""
        return self._scenes[-1][1]

    def begun_together(self, step: Step) -> list[tuple[Int64[np.ndarray, " r"], Step]]:
        if len(self._scenes) == 1:
            return super().begun_together(step)
        return [
            (rows, replace(step[rows], scene=scene, scores=scene.scores[step.images[rows]]))
            for rows, scene in self._scenes
        ]

    def drawn(self) -> tuple[DetectionBatch, DetectionBatch]:
        """The detections under each episode's first boxes, and under the present ones."""
        scene = self.scene()
        whole = Step(
            scene=scene, images=self.rows, boxes=self._boxes.numpy(force=True), scores=scene.scores[self.rows],
            factors=self.factors,
        )  # fmt: skip
        parts = self.begun_together(whole)
        order = np.argsort(np.concatenate([rows for rows, _ in parts]))
        return (
            joined([step.before.detections for _, step in parts])[order],
            joined([step.after.detections for _, step in parts])[order],
        )


def joined(batches: list[DetectionBatch]) -> DetectionBatch:
    """The rows of all batches, one after another."""
    return DetectionBatch(
        **{name: np.concatenate([getattr(batch, name) for batch in batches]) for name in vars(batches[0])}
    )


class RefineBoxes(DetectorEnv):
    """The single form: `rl_det/RefineBoxes-v0` for one image, in numpy."""

    vector_class = RefineBoxesVector
