"""The part that all environments share: images, a pool, episodes, autoreset and rendering.

The vector form (`DetectorVectorEnv`) runs the head once for all its images and keeps torch tensors on their device. The
single form (`DetectorEnv`) wraps the vector form for one image, in numpy. Each part of its observation is a flat
vector, as SB3 needs it.
"""

import json
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

from rl_det.ap.batch import DetectionBatch
from rl_det.data import Dataset
from rl_det.data.digit_scenes import CLASSES, DigitScenes
from rl_det.detectors import build_detector
from rl_det.detectors.encodings import EncodedDataset, encode_dataset
from rl_det.detectors.protocol import Detector
from rl_det.detectors.torchvision.tiny import SHIPPED_WEIGHTS
from rl_det.errors import UserError
from rl_det.rewards import Reward, reward_named
from rl_det.types import Target
from rl_det_envs.drawing import Change, draw

METADATA: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 1}
Step = tuple[Any, Any, Any, Any, dict[str, Any]]
PLURAL = {"index": "indices", "image_id": "image_ids"}
"""The keys that name an image: its position in the data set, or the annotation's own id. The vector form uses the
plural."""


class DetectorVectorEnv(VectorEnv[Any, Any, Any], ABC):
    """B sub-environments over one detector and one data set; each run of `samples_per_image` of them shows one image.

    Defaults: the shipped detector, a few digit scenes as the data set, and the detector's own `nms_iou`. Images come in
    a random order, and each comes once before any comes again; options of `reset` choose images. Candidates come from
    the detector's present weights, so they change while its head is trained. The frozen part runs once for each image
    when the environment is made; it does not run if `dataset` is an `EncodedDataset`.

    AP is taken over a pool: the images of the present episodes, filled up to `pool_images` with other images under the
    detector's own detections. `autoreset_mode` is set for each instance: DISABLED waits for `reset`; NEXT_STEP and
    SAME_STEP are Gymnasium's. The episodes of all sub-environments have the same length, so they end together.
    """

    metadata: dict[str, Any] = METADATA | {"autoreset_mode": AutoresetMode.DISABLED}
    num_steps: int = 1
    default_reward: ClassVar[str] = "pool_ap"

    def __init__(
        self,
        num_envs: int = 1,
        *,
        detector: Detector | None = None,
        dataset: Dataset | EncodedDataset | None = None,
        num_candidates: int = 64,
        context_candidates: int = 0,
        samples_per_image: int = 1,
        pool_images: int = 32,
        reward: str | Reward | None = None,
        credit: bool = True,
        nms_iou: float | None = None,
        autoreset_mode: AutoresetMode = AutoresetMode.DISABLED,
        render_mode: str | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        check_counts(num_envs, samples_per_image, num_candidates)
        if render_mode not in (None, "rgb_array"):
            raise UserError(f"render_mode must be 'rgb_array' or None; got {render_mode!r}")
        self.device, self.render_mode, self.credit = torch.device(device), render_mode, credit
        self.detector = detector or shipped_detector(self.device)
        self.reward: Reward = reward_named(
            self.default_reward if reward is None else reward, np.zeros(self.detector.num_classes, dtype=np.int64)
        )  # an unknown name is refused before anything is encoded
        source = dataset if dataset is not None else DigitScenes("train", num_scenes=pool_images)
        if not len(source):
            raise UserError("dataset must hold one image at least; it is empty")
        self.data = source if isinstance(source, EncodedDataset) else encode_dataset(self.detector, source)
        if isinstance(reward, str):
            self.reward = reward_named(reward, objects_of(self.data.targets, self.detector.num_classes))
        self.num_envs, self.samples_per_image = num_envs, samples_per_image
        self.num_images = num_envs // samples_per_image
        if self.num_images > len(self.data):
            raise UserError(
                f"num_envs / samples_per_image must be at most the {len(self.data)} images of the data set; "
                f"got {self.num_images}"
            )
        self.pool_images = max(self.num_images, min(pool_images, len(self.data)))
        self.num_candidates, self.context_candidates = num_candidates, context_candidates
        self.nms_iou = self.detector.nms_iou if nms_iou is None else nms_iou
        self.single_observation_space = self.observation_space_of_one()
        self.single_action_space = self.action_space_of_one()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self._index_of = {target.image_id: index for index, target in reversed([*enumerate(self.data.targets)])}
        self._queue: list[int] = []
        self._step: int | None = None
        self.rows = np.repeat(np.arange(self.num_images), samples_per_image)
        self._rewards: Tensor | None = None
        self.with_graph = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Show the next images; `info` has their "indices" and "image_ids", one each, and "samples_per_image".

        An index is a position in the data set. An image_id is the annotation's own (`Target.image_id`). The options
        `{"indices": [...]}` or `{"image_ids": [...]}` choose the images, one for each group of `samples_per_image`. If
        several entries of the data set share an id, it means the first of them. `{"with_graph": True}` is for agents
        that train the head: the head's output in `info` then has a graph.
        """
        options = options or {}
        chosen = self.chosen(options)
        self.with_graph = bool(options.get("with_graph", False))
        super().reset(seed=seed)
        if seed is not None:
            self._queue = []
        self.indices = self._draw(self.pool_images, chosen)
        self._step, self._rewards = 0, None
        info = self.begin()
        indices = self.indices[: self.num_images]
        info |= {"indices": indices, "image_ids": [self.data.targets[index].image_id for index in indices]}
        return self.observation(), {**info, "samples_per_image": self.samples_per_image}

    def state_dict(self) -> dict[str, Any]:
        """The queue of image indices, and the random generator's state as JSON: all that determines the next images."""
        return {"queue": list(self._queue), "generator": json.dumps(self.np_random.bit_generator.state)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict`: the next reset without a seed shows the images that it would have shown.

        Raises ValueError for the state of a larger data set.
        """
        if wrong := [index for index in state["queue"] if not 0 <= index < len(self.data)]:
            raise ValueError(f"the state must be of a data set of {len(self.data)} images; it has the index {wrong[0]}")
        self.np_random.bit_generator.state = json.loads(state["generator"])
        self._queue = list(state["queue"])

    def step(self, actions: Any) -> Step:
        """Apply the actions; rewards are float32 [B], and `info` is what `outcome` returns."""
        if self._step is None or self._step == self.num_steps:
            if self._step is None or self.autoreset_mode is not AutoresetMode.NEXT_STEP:
                raise gymnasium.error.ResetNeeded(
                    "the episode has ended, or none has begun; call reset before the next step"
                )
            return self._begun()
        actions = self.checked(actions)
        over = self._step + 1 == self.num_steps
        reward, info = self.outcome(actions, ended=over)
        self._step += 1
        self._rewards = torch.as_tensor(reward, dtype=torch.float32, device=self.device)
        ended = torch.full((self.num_envs,), over, device=self.device)
        cut = torch.zeros_like(ended)
        if over and self.autoreset_mode is AutoresetMode.SAME_STEP:
            rewards, last = self._rewards, self.observation()
            observation, begun = self.reset()
            final = {"final_obs": last, "_final_obs": ended, "final_info": info, "_final_info": ended}
            return observation, rewards, ended, cut, {**begun, **final}
        return self.observation(), self._rewards, ended, cut, info

    def render(self) -> Any:
        """One picture a sub-environment, uint8 [H, W, 3]: true boxes; kept, dropped and changed detections; the reward."""
        if self.render_mode is None:
            return None
        if self._step is None:
            raise gymnasium.error.ResetNeeded("nothing to draw yet; call reset before render")
        if self.data.source is None:
            raise ValueError("render needs the images: give the data set itself, or encodings that know theirs")
        before, after = self.drawn()
        pictures = []
        for row, image in enumerate(self.rows.tolist()):
            sample = self.data.source[self.indices[image]]
            reward = None if self._rewards is None else float(self._rewards[row])
            pictures.append(draw(sample, Change.between(before, after, row), reward))
        return tuple(pictures)

    def _begun(self) -> Step:
        """Reset instead of a step: the actions are ignored, rewards are 0, and no episode ends."""
        observation, info = self.reset()
        ended = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        return observation, torch.zeros(self.num_envs, device=self.device), ended, ended.clone(), info

    def chosen(self, options: dict[str, Any]) -> list[int]:
        """The indices of the images that reset's options name; empty if they name none.

        Raises ValueError if the data set has no such image.
        """
        named = options.keys() - {"with_graph"}
        if named not in (set(), {"indices"}, {"image_ids"}):
            raise ValueError(
                f"options must be {{'indices': [...]}} or {{'image_ids': [...]}}, and 'with_graph'; got {sorted(options)}"
            )
        if not named:
            return []
        (name,) = named
        given = [int(image) for image in options[name]]
        if len(given) != self.num_images or len(set(given)) < len(given):
            raise ValueError(f"{name} must be {self.num_images} different images; got {given}")
        if name == "indices":
            if wrong := [index for index in given if not 0 <= index < len(self.data)]:
                raise ValueError(
                    f"an index must be a position in the data set, 0..{len(self.data) - 1}; got {wrong[0]}"
                )
            return given
        if wrong := [image_id for image_id in given if image_id not in self._index_of]:
            raise ValueError(
                f"an image_id must be in the data set; got {wrong[0]}; to choose by position, give indices"
            )
        return [self._index_of[image_id] for image_id in given]

    def _draw(self, count: int, chosen: list[int]) -> list[int]:
        """`count` different indices: the chosen ones, then the next of the queue, which new permutations refill."""
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

    def checked(self, given: Any) -> Float[Tensor, " B *one"]:
        """The actions as a tensor; ValueError if the shape is wrong, or a number is not finite or outside the action space."""
        actions: Tensor = torch.as_tensor(given, device=self.device).to(torch.float32)
        if actions.shape != self.action_space.shape:
            raise ValueError(f"actions must have shape {self.action_space.shape}; got {tuple(actions.shape)}")
        low, high = (-1.0, 1.0) if isinstance(self.single_action_space, spaces.Box) else (0.0, 1.0)
        for fault, must in (
            (~torch.isfinite(actions), "be finite"),
            ((actions < low) | (actions > high), f"lie in [{low:g}, {high:g}]"),
        ):
            if fault.any():
                where = torch.nonzero(fault)[0].tolist()
                raise ValueError(f"actions must {must}; got {actions[tuple(where)]:g} at {where}")
        return actions

    @abstractmethod
    def observation_space_of_one(self) -> spaces.Space[Any]:
        """The space of one image's observation."""

    @abstractmethod
    def action_space_of_one(self) -> spaces.Space[Any]:
        """The space of one image's action: a Box from -1 to 1, or a MultiBinary."""

    @abstractmethod
    def begin(self) -> dict[str, Any]:
        """Prepare an episode on the images at `indices`; return what `reset` adds to `info`."""

    @abstractmethod
    def observation(self) -> Any:
        """The present observation of all sub-environments."""

    @abstractmethod
    def outcome(
        self, actions: Float[Tensor, " B *one"], *, ended: bool
    ) -> tuple[Float64[np.ndarray, " B"], dict[str, Any]]:
        """Apply the actions; return the rewards and `info`."""

    @abstractmethod
    def drawn(self) -> tuple[DetectionBatch, DetectionBatch]:
        """Each sub-environment's detections at the start of the episode and now, with the same index for the same detection."""


class DetectorEnv(gymnasium.Env[Any, Any]):
    """The single form: one image, numpy in and out. It takes the vector form's arguments."""

    metadata: dict[str, Any] = METADATA
    vector_class: ClassVar[type[DetectorVectorEnv]]

    def __init__(self, **arguments: Any) -> None:
        self.batched = self.vector_class(1, **arguments)
        self.render_mode = self.batched.render_mode
        self.observation_space = flat_space(self.batched.single_observation_space)
        self.action_space = self.batched.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Show the next image, or the one of `options={"index": ...}` or `{"image_id": ...}`; `info` has both numbers."""
        asked = options or {}
        if asked.keys() not in (set(), {"index"}, {"image_id"}):
            raise ValueError(f"options must be {{'index': ...}} or {{'image_id': ...}}; got {sorted(asked)}")
        chosen = {PLURAL[name]: [value] for name, value in asked.items()}
        self.batched.chosen(chosen)  # refused before anything changes
        super().reset(seed=seed)
        if seed is not None or self.batched._np_random is None:
            self.batched.np_random = self.np_random
            self.batched._queue = []
        observation, info = self.batched.reset(options=chosen)
        return flat(observation), {name: info[plural][0] for name, plural in PLURAL.items()}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Apply the action; `info` is the vector form's, for the one image."""
        observation, reward, terminated, truncated, info = self.batched.step(np.asarray(action)[None])
        told = {name: values[0].numpy(force=True) for name, values in info.items()}
        return flat(observation), float(reward[0]), bool(terminated[0]), bool(truncated[0]), told

    def render(self) -> Any:
        """The picture, uint8 [H, W, 3]: true boxes; kept, dropped and changed detections; the reward."""
        pictures = self.batched.render()
        return None if pictures is None else pictures[0]


def flat_space(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The same space with each Box flattened to a vector."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict({name: flat_space(part) for name, part in space.spaces.items()})
    return spaces.flatten_space(space) if isinstance(space, spaces.Box) else space


def flat(observation: Any) -> Any:
    """The first image's observation as numpy copies, with each part flattened to a vector."""
    if isinstance(observation, dict):
        return {name: flat(values) for name, values in observation.items()}
    values: np.ndarray = np.array(observation[0].numpy(force=True)).reshape(-1)
    return values.astype(np.int8) if values.dtype == np.bool_ else values


def shipped_detector(device: torch.device) -> Detector:
    """`tiny` with the shipped warm start on digit scenes."""
    detector = build_detector("tiny", num_classes=len(CLASSES), weights=SHIPPED_WEIGHTS)
    detector.plain().to(device)
    return detector


def check_counts(num_envs: int, samples_per_image: int, num_candidates: int) -> None:
    """Raise ValueError if a count leaves no environment or no candidate."""
    if num_envs < 1 or samples_per_image < 1 or num_envs % samples_per_image:
        raise UserError(
            f"num_envs must be a positive multiple of samples_per_image; got {num_envs} and {samples_per_image}"
        )
    if num_candidates < 1:
        raise UserError(f"num_candidates must be at least 1; got {num_candidates}; 64 is usual")


def objects_of(targets: list[Target], num_classes: int) -> np.ndarray:
    """The number of true boxes of each label 1..C, without crowds."""
    labels = torch.cat([target.labels[~target.iscrowd] for target in targets])
    return np.bincount(labels.numpy(force=True).astype(np.int64), minlength=num_classes + 1)[1:]
