"""Images and a detector -> episodes of one step in which every candidate of an image acts; what both worlds share.

The native form (`CandidateVectorEnv`) runs the head once for all its images and keeps torch tensors on their device. The
single form (`CandidateEnv`) is the native one with one image, in numpy. An episode ends with its step; the next begins
with `reset` (Gymnasium's AutoresetMode.DISABLED).
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from jaxtyping import Float, Float64
from torch import Tensor

from rl_det.candidates import observe, select_candidates
from rl_det.data import Dataset
from rl_det.data.digit_scenes import CLASSES, DigitScenes
from rl_det.detectors import build_detector
from rl_det.detectors.cache import EncodedDataset, encode_dataset
from rl_det.detectors.protocol import Detector
from rl_det.detectors.tiny import SHIPPED_WEIGHTS
from rl_det.metrics.padding import candidate_relations
from rl_det.rewards import reward_named

LARGEST_LOGIT = float(np.finfo(np.float32).max)
LARGEST_SIDE = 2.0**16


class CandidateVectorEnv(VectorEnv[Any, Any, Any], ABC):
    """B sub-environments over one detector and one data set; consecutive groups of `samples_per_image` show one image.

    Without a detector it is the shipped one, without a data set a few digit scenes, without `nms_iou` the detector's own.
    Images come in a random order, each once before any comes again. The candidates are the detector's present ones: if its
    head is trained, they move along.

    The reward is the change of AP against the baseline, which is that nothing is done, or what `set_baseline` says.
    `info["credit"]` [B, N] is what each candidate's own action alone would change, all others keeping to the baseline:
    as it does not depend on what the others do, credit times the score function is an unbiased gradient of it, with a
    small part of the variance that the joint reward has. The next `num_bystanders` candidates of each image do not act
    and are not shown, but rank and suppress: without them a policy learns to push down what then falls under the others.
    The pool that AP is taken over holds the images at hand, filled up to `pool_images` as the detector leaves them.
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012  (Gymnasium writes it so)
    """`autoreset_mode` is the instance's own: DISABLED waits for reset, NEXT_STEP and SAME_STEP are Gymnasium's."""

    def __init__(
        self,
        num_envs: int = 1,
        *,
        detector: Detector | None = None,
        dataset: Dataset | EncodedDataset | None = None,
        num_candidates: int = 64,
        num_bystanders: int = 0,
        samples_per_image: int = 1,
        pool_images: int = 32,
        reward: str = "pool_ap",
        nms_iou: float | None = None,
        autoreset_mode: AutoresetMode = AutoresetMode.DISABLED,
        device: str | torch.device = "cpu",
    ) -> None:
        if num_envs < 1 or samples_per_image < 1 or num_envs % samples_per_image:
            raise ValueError(
                f"num_envs must be a positive multiple of samples_per_image; got {num_envs} and {samples_per_image}"
            )
        self.reward, self.reward_name = reward_named(reward), reward
        self.detector = detector or build_detector("tiny", num_classes=len(CLASSES), weights=SHIPPED_WEIGHTS)
        source = dataset if dataset is not None else DigitScenes("train", num_scenes=pool_images)
        self.data = source if isinstance(source, EncodedDataset) else encode_dataset(self.detector, source)
        self.num_envs, self.samples_per_image = num_envs, samples_per_image
        self.num_images = num_envs // samples_per_image
        self.pool_images = max(self.num_images, min(pool_images, len(self.data)))
        self.num_candidates, self.num_bystanders = num_candidates, num_bystanders
        self.nms_iou = self.detector.nms_iou if nms_iou is None else nms_iou
        self.device = torch.device(device)
        self.single_observation_space = observation_space(num_candidates, self.detector.num_classes)
        self.single_action_space = self.action_space_of_one()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self._queue: list[int] = []
        self._candidates: Any = None
        self._observation: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Show the next images; `info` has their "encoded" (one each), "image_ids", and "samples_per_image".

        `options={"image_ids": [...]}` chooses them: one position in the data set for each group of `samples_per_image`.
        """
        chosen = self._chosen(options)
        super().reset(seed=seed)
        if seed is not None:
            self._queue = []
        shown = self._draw(self.pool_images, chosen)
        self._encoded = self.data.batch(torch.tensor(shown), self.device)
        with torch.no_grad():
            output = self.detector.head(self._encoded)
        candidates = select_candidates(output, self._encoded.mask, self.num_candidates + self.num_bystanders)
        self._candidates, self._targets = candidates, [self.data.targets[image] for image in shown]
        whole: dict[str, Tensor] = dict(observe(candidates, self._encoded))  # type: ignore[arg-type]
        self._logits = whole["logits"]
        shape = self.pool_images, *(self.single_action_space.shape or ())
        self._pool_actions = torch.full(shape, self.doing_nothing, device=self.device)
        self._observation = {
            name: (values if name == "size" else values[:, : self.num_candidates])[: self.num_images].repeat_interleave(
                self.samples_per_image, 0
            )
            for name, values in whole.items()
        }
        info = {
            "encoded": self._encoded[: self.num_images],
            "image_ids": shown[: self.num_images],
            "samples_per_image": self.samples_per_image,
        }
        return self._observation, info

    def set_baseline(self, action: Float[Tensor, "B *one"]) -> None:
        """What this episode's rewards and credits are measured against, instead of doing nothing."""
        self._pool_actions[: self.num_images] = self._checked(action)[:: self.samples_per_image]

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Act on every candidate; rewards [B] and `info["credit"]` [B, N] in mAP, float32."""
        if self._candidates is None:
            if self.autoreset_mode is AutoresetMode.NEXT_STEP and self._observation is not None:
                return self._begun()
            raise gymnasium.error.ResetNeeded("an episode is one step long; call reset before the next step")
        actions = self._checked(actions)
        images = np.repeat(np.arange(self.num_images), self.samples_per_image)
        reward, credit = self.outcome(images, actions)
        self._candidates = None
        ended = torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
        info = {"credit": torch.as_tensor(credit, dtype=torch.float32, device=self.device)}
        rewards = torch.as_tensor(reward, dtype=torch.float32, device=self.device)
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            final = {"final_obs": self._observation, "_final_obs": ended, "final_info": info, "_final_info": ended}
            observation, begun = self.reset()
            return observation, rewards, ended, ~ended, {**begun, **final}
        return self._observation, rewards, ended, ~ended, info

    def _begun(self) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """What a step gives that only resets: the action is ignored, nothing is earned, nothing has ended."""
        observation, info = self.reset()
        ended = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        return observation, torch.zeros(self.num_envs, device=self.device), ended, ended.clone(), info

    def outcome(self, images: np.ndarray, actions: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Rewards [B] and credits of the candidates that act [B, N, ...], on the host."""
        related = candidate_relations(self._candidates, self._targets, num_classes=self.detector.num_classes)
        baseline = self._ranked(self._logits, self._pool_actions)
        scores = self._ranked(self._logits[images], actions)
        reward, credit = self.reward(related, baseline, images, scores, nms_iou=self.nms_iou)
        return reward, credit[:, : self.num_candidates]

    def _ranked(self, logits: Float[Tensor, "R M"], actions: Float[Tensor, "R N"]) -> Float64[np.ndarray, "R M"]:
        """What all candidates rank by, the bystanders too; on the host, in the precision in which ranks are decided."""
        acting, standing_by = logits.split([self.num_candidates, self.num_bystanders], 1)
        scores = torch.cat([self.scores(acting, actions), standing_by], 1).double()
        on_host: Float64[np.ndarray, "R M"] = scores.numpy(force=True)
        return on_host

    def _chosen(self, options: dict[str, Any] | None) -> list[int]:
        """The images that reset's options ask for; none if they ask for none."""
        if unknown := set(options or {}) - {"image_ids"}:
            raise ValueError(f"options must be {{'image_ids': [...]}}; got {sorted(unknown)}")
        chosen = [int(image) for image in (options or {}).get("image_ids", [])]
        if options and (len(chosen) != self.num_images or len(set(chosen)) < len(chosen)):
            raise ValueError(f"image_ids must be {self.num_images} different images; got {chosen}")
        if wrong := [image for image in chosen if not 0 <= image < len(self.data)]:
            raise ValueError(f"image_ids must be positions in the data set, 0..{len(self.data) - 1}; got {wrong[0]}")
        return chosen

    def _draw(self, count: int, chosen: list[int]) -> list[int]:
        """Those chosen, then the next: a permutation is used up before another begins; no image comes twice in a draw."""
        drawn = list(chosen)
        while len(drawn) < count:
            if not self._queue:
                self._queue = self.np_random.permutation(len(self.data)).tolist()
            fresh = next((image for image in self._queue if image not in drawn), None)
            if fresh is None:
                self._queue += self.np_random.permutation(len(self.data)).tolist()
                continue
            self._queue.remove(fresh)
            drawn.append(fresh)
        return drawn

    def _checked(self, given: Any) -> Float[Tensor, "B *one"]:
        """The actions as a tensor; ValueError where the shape is wrong or a number is not finite."""
        actions: Tensor = torch.as_tensor(given, device=self.device).to(torch.float32)
        if actions.shape != self.action_space.shape:
            raise ValueError(f"actions must have shape {self.action_space.shape}; got {tuple(actions.shape)}")
        if not torch.isfinite(actions).all():
            where = torch.nonzero(~torch.isfinite(actions))[0].tolist()
            raise ValueError(f"actions must be finite; got {actions[tuple(where)]} at {where}")
        return actions

    doing_nothing: ClassVar[float]
    """The action that leaves a candidate as it is."""

    @abstractmethod
    def action_space_of_one(self) -> spaces.Space[Any]:
        """The space of one image's action."""

    @abstractmethod
    def scores(self, logits: Float[Tensor, "R N"], actions: Float[Tensor, "R N"]) -> Float[Tensor, "R N"]:
        """What the candidates rank by after the action; -inf takes one out."""


class CandidateEnv(gymnasium.Env[Any, Any]):
    """One image at a time, numpy in and out: for SB3, and for looking. Takes the native form's arguments."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  (Gymnasium writes it so)
    native: ClassVar[type[CandidateVectorEnv]]

    def __init__(self, **arguments: Any) -> None:
        self.batched = self.native(1, **arguments)
        self.observation_space = self.batched.single_observation_space
        self.action_space = self.batched.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Show the next image, or that of `options={"image_id": ...}`, a position in the data set."""
        if unknown := set(options or {}) - {"image_id"}:
            raise ValueError(f"options must be {{'image_id': ...}}; got {sorted(unknown)}")
        chosen = self.batched._chosen({"image_ids": [options["image_id"]]}) if options else []
        super().reset(seed=seed)
        if seed is not None or self.batched._np_random is None:
            self.batched.np_random = self.np_random
            self.batched._queue = []
        observation, info = self.batched.reset(options={"image_ids": chosen} if chosen else None)
        return _first(observation), {"image_id": info["image_ids"][0]}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Act on every candidate; `info["credit"]` [N] says what each one's part was worth."""
        observation, reward, terminated, truncated, info = self.batched.step(np.asarray(action)[None])
        credit = info["credit"][0].numpy(force=True)
        return _first(observation), float(reward[0]), bool(terminated[0]), bool(truncated[0]), {"credit": credit}


def observation_space(num_candidates: int, num_classes: int) -> spaces.Space[Any]:
    """One image's candidates: boxes relative to the image, labels 1..C, logits, mask (0 on padding), index (p * C + c - 1).

    And the image's size in pixels, as width, height, width, height.
    """
    shape = (num_candidates,)
    return spaces.Dict(
        {
            "boxes": spaces.Box(0.0, 1.0, (*shape, 4), np.float32),
            "labels": spaces.Box(0, num_classes, shape, np.int64),
            "logits": spaces.Box(-LARGEST_LOGIT, LARGEST_LOGIT, shape, np.float32),
            "mask": spaces.MultiBinary(num_candidates),
            "index": spaces.Box(0, np.iinfo(np.int64).max, shape, np.int64),
            "size": spaces.Box(0, LARGEST_SIDE, (4,), np.float32),
        }
    )


def _first(observation: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """The first image's observation in numpy, sharing memory with nothing."""
    arrays = {name: np.array(values[0].numpy(force=True)) for name, values in observation.items()}
    return {**arrays, "mask": arrays["mask"].astype(np.int8)}
