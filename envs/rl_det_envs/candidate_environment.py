"""The part that the environments share whose actions change candidates: observations, rewards, credit."""

from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from rl_det import parallel
from rl_det.ap.batch import DetectionBatch
from rl_det.ap.padding import pad_targets
from rl_det.candidates import observe, proposal_of, select_candidates
from rl_det.detectors.divided import said_by
from rl_det.detectors.encodings import check_finite
from rl_det.errors import UserError
from rl_det.rewards import Scene, Step, check_shape
from rl_det.rewards.edits import Factor
from rl_det.settings import at_least, check_argument, positive
from rl_det.types import Encoded, HeadOutput
from rl_det_envs.detector_environment import DetectorVectorEnv, Groups

LARGEST_NUMBER = float(np.finfo(np.float32).max)
LARGEST_SIDE = 2.0**16


class CandidateVectorEnv(DetectorVectorEnv):
    """Environments in which every candidate of an image acts; rewards are measured against a baseline.

    The baseline is to do nothing, unless `set_baseline` sets another action. A candidate's *credit* is the reward if
    this candidate alone acts and all others stay at the baseline, minus the reward of the baseline; `info["credit"]`
    [B, N] and `Earned.credit` hold it. It does not depend on the others' actions, so credit times the score function is
    an unbiased gradient of it, with a small part of the variance of the joint reward. With `credit=False` no credit is
    computed, and a step is cheaper.

    The next `context_candidates` candidates of each image do not act and are not observed, but they are ranked and
    suppress others. Without them, a policy learns to push candidates below others that it does not see.

    With `features=False`, observations have no embeddings, which an agent that trains the head itself does not need: they
    are the largest part of an observation.
    """

    doing_nothing: ClassVar[float] = 0.0
    """The action that leaves a candidate as it is."""
    usual_scale: ClassVar[float | None] = None
    """What an action of 1 means unless `action_scale` says otherwise; None: actions have no scale."""
    factors: ClassVar[tuple[Factor, ...]] = ("scores",)
    """What an action changes."""
    displayed_from: ClassVar[float] = 0.0
    """The logit from which on a detection is displayed to a user, which F1, LRP and cost go by: a probability of a half."""

    def __init__(
        self,
        num_envs: int = 1,
        *,
        context_candidates: int = 0,
        action_scale: float | None = None,
        features: bool = True,
        **arguments: Any,
    ) -> None:
        check_argument("context_candidates", context_candidates, int, at_least(0), usual=0)
        check_argument("features", features, bool, usual=True)
        check_argument("action_scale", action_scale, float | None, positive(), usual=self.usual_scale)
        if action_scale is not None and self.usual_scale is None:
            raise UserError(f"action_scale has no meaning here, where an action keeps or drops; got {action_scale}")
        scale = (self.usual_scale or 1.0) if action_scale is None else action_scale
        self.context_candidates, self.action_scale, self.shows_features = context_candidates, float(scale), features
        super().__init__(num_envs, **arguments)

    def observation_space_of_one(self) -> spaces.Space[Any]:
        """The space of one image's candidates: boxes relative to the image, labels 1..C, logits, and what else is shown."""
        shape = (self.num_candidates,)
        embeddings = spaces.Box(-LARGEST_NUMBER, LARGEST_NUMBER, (*shape, self.detector.embedding_size), np.float32)
        return spaces.Dict(
            {
                "boxes": spaces.Box(0.0, 1.0, (*shape, 4), np.float32),
                "labels": spaces.Box(0, self.detector.num_classes, shape, np.int64),
                "logits": spaces.Box(-LARGEST_NUMBER, LARGEST_NUMBER, shape, np.float32),
                "mask": spaces.Box(0, 1, shape, np.bool_),
                "index": spaces.Box(0, np.iinfo(np.int64).max, shape, np.int64),
                **({"features": embeddings} if self.shows_features else {}),
                "size": spaces.Box(0, LARGEST_SIDE, (4,), np.float32),
                "step": spaces.Box(0, self.num_steps, (1,), np.int64),
            }
        )

    def begin(self, fresh: Groups) -> tuple[Encoded, HeadOutput]:
        """Select the detector's present candidates; return the acting images' encodings and the head's output for them.

        An agent that trains this head need not run it again, if the output has a graph.
        """
        self.encoded = self.data.batch(torch.tensor(self.indices), self.detector)
        with torch.set_grad_enabled(self.with_graph):
            output = said_by(self.detector, self.encoded)
        self.candidates = select_candidates(output, self.encoded.mask, self.num_candidates + self.context_candidates)
        check_finite(self.candidates, self.candidates.mask, self.data, self.indices)
        whole: dict[str, Tensor] = dict(observe(self.candidates, self.encoded))  # type: ignore[arg-type]
        self.logits = whole["logits"]
        acting = {
            name: (values if name == "size" else values[:, : self.num_candidates])[: self.num_images]
            for name, values in whole.items()
        }
        if self.shows_features:
            proposal = proposal_of(acting["index"], self.detector.num_classes)
            image = torch.arange(len(proposal), device=self.device)[:, None]
            acting["features"] = output.embeddings.detach()[image, proposal] * acting["mask"][..., None]
        self._seen = {name: values.repeat_interleave(self.samples_per_image, 0) for name, values in acting.items()}
        shape = self.pool_images, *(self.single_action_space.shape or ())
        self._pool_actions = torch.full(shape, self.doing_nothing, device=self.device)
        self._truths = pad_targets([self.data.targets[index] for index in self.indices])
        own = slice(self.num_images)
        return self.encoded[own], output.of_images(own)

    def observation(self) -> dict[str, Tensor]:
        steps = torch.zeros(self.num_envs, dtype=torch.int64) if self._steps is None else torch.tensor(self._steps)
        return {**self._seen, "step": steps[:, None].to(self.device)}

    def set_baseline(self, actions: Float[Tensor, " B *one"]) -> None:
        """Measure this episode's rewards and credits against these actions, instead of against doing nothing."""
        self._pool_actions[: self.num_images] = actions[:: self.samples_per_image]

    def outcome(
        self, actions: Tensor, ended: Bool[np.ndarray, " B"]
    ) -> tuple[Float64[np.ndarray, " B"], Float64[np.ndarray, "B N *F"] | None, dict[str, Tensor]]:
        step = self._taken(self.scene(), actions)
        self._last = step
        parts = self.begun_together(step)
        order = np.argsort(np.concatenate([rows for rows, _ in parts]))
        paid = [self._paid(own, ended=bool(ended[rows].all())) for rows, own in parts]
        reward, *credit = (np.concatenate(each)[order] for each in zip(*paid, strict=True))
        return reward, np.ascontiguousarray(credit[0][:, : self.num_candidates]) if credit else None, {}

    def _paid(self, step: Step, *, ended: bool) -> list[Float64[np.ndarray, " R *more"]]:
        """The reward [R], and behind it the credit if it is asked for; processes that train together divide the episodes."""
        number = len(step)
        divided = 1 < parallel.world_size() <= number
        own = step[parallel.share_of(number)] if divided else step
        if self.gives_credit:
            paid = list(self.reward.credited(own, ended=ended))
        else:
            paid = [self.reward(own.before, own.after, ended=ended)]
        check_shape(paid[0], self.reward, len(own))
        if not divided:
            return paid
        owners = parallel.owners_of(number)
        parts = [torch.from_numpy(part).to(self.device) for part in paid]
        return [parallel.rows_of_all(part, owners).numpy(force=True) for part in parts]

    def begun_together(self, step: Step) -> list[tuple[Int64[np.ndarray, " r"], Step]]:
        """The step in parts: the sub-environments whose episodes began together, and their share of the step."""
        return [(np.arange(len(step.images)), step)]

    def scene(self) -> Scene:
        """All candidates of the pool's images under the baseline."""
        everywhere = torch.arange(self.pool_images)
        return Scene(
            boxes=self.boxes_after(everywhere, self._pool_actions),
            labels=self.candidates.labels.numpy(force=True),
            mask=self.candidates.mask.numpy(force=True),
            scores=self.scores_after(everywhere, self._pool_actions),
            truths=self._truths,
            num_classes=self.detector.num_classes,
            nms_iou=self.nms_iou,
            displayed_from=self.displayed_from,
        )

    def together(self, actions: Float[Tensor, " images *one"]) -> tuple[float, float]:
        """COCO's AP of the pool if all acting images do this at once, and the mean of what each earns by itself.

        AP is in [0, 1], and NaN for a pool without a true box. An episode counts as one step from the present baseline. The
        episodes and the baseline stay as they are.
        """
        earned = self._step_of(np.arange(self.num_images), self.scene(), actions)
        reward = float(self.reward(earned.before, earned.after, ended=True).mean())
        kept, self._pool_actions = self._pool_actions, torch.cat([actions, self._pool_actions[self.num_images :]])
        try:
            return self.scene().candidates.mean_ap, reward
        finally:
            self._pool_actions = kept

    def _taken(self, scene: Scene, actions: Tensor) -> Step:
        """The step that these actions of all sub-environments make from the scene."""
        return self._step_of(self.rows, scene, actions)

    def _step_of(self, rows: Int64[np.ndarray, " R"], scene: Scene, actions: Tensor) -> Step:
        """The step that an action in each of these images makes from the scene."""
        images = torch.from_numpy(rows)
        return Step(
            scene=scene,
            images=rows,
            boxes=self.boxes_after(images, actions),
            scores=self.scores_after(images, actions),
            factors=self.factors,
        )

    def drawn(self) -> tuple[DetectionBatch, DetectionBatch]:
        nothing = torch.full(self.action_space.shape or (), self.doing_nothing, device=self.device)
        step = self._taken(self.scene(), nothing) if self._rewards is None else self._last
        return step.before.detections, step.after.detections

    def boxes_after(self, images: Tensor, actions: Tensor) -> Float32[np.ndarray, "R M 4"]:
        """The boxes of all candidates after the action, in the user's pixels, on the host; unchanged unless overridden."""
        boxes: Float32[np.ndarray, "R M 4"] = self.candidates.boxes[images.to(self.device)].numpy(force=True)
        return boxes

    def scores_after(self, images: Tensor, actions: Tensor) -> Float64[np.ndarray, "R M"]:
        """The scores of all candidates and context candidates after the action: float64, on the host; ranking uses them."""
        acting, context = self.logits[images.to(self.device)].split([self.num_candidates, self.context_candidates], 1)
        scores = torch.cat([self.rescored(acting, actions), context], 1).double()
        on_host: Float64[np.ndarray, "R M"] = scores.numpy(force=True)
        return on_host

    def rescored(self, logits: Float[Tensor, "R N"], actions: Tensor) -> Float[Tensor, "R N"]:
        """The candidates' logits after the action, by which they are ranked; -inf removes one. Unchanged unless overridden."""
        return logits
