"""The part that all environments share: images, a pool, episodes, autoreset and rendering.

The vector form (`DetectorVectorEnv`) runs the head once for all its images and keeps torch tensors on their device. The
single form (`rl_det_envs.single_form`) wraps it.
"""

import json
import operator
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from rl_det.ap.batch import DetectionBatch
from rl_det.data import Dataset
from rl_det.data.digit_scenes import DigitScenes
from rl_det.detectors.encodings import Encodings, names_of
from rl_det.detectors.protocol import Detector
from rl_det.errors import NotFiniteError, UserError
from rl_det.rewards import Reward, RewardLike, reward_named
from rl_det.types import Encoded, HeadOutput
from rl_det_envs.agent import Earned, Shown
from rl_det_envs.arguments import check_choices, check_counts
from rl_det_envs.detector_and_data import (
    check_classes,
    check_detector_and_data,
    encoded_aloud,
    objects_of,
    placed_detector,
)
from rl_det_envs.drawing import Change, draw

METADATA: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 1}
GymnasiumStep = tuple[Any, Any, Any, Any, dict[str, Any]]
PLURAL = {"index": "indices", "image_id": "image_ids"}
"""The keys that name an image: its position in the data set, or the annotation's own id. The vector form uses the
plural."""
Groups = Bool[np.ndarray, " images"]
"""For each image that acts: whether its sub-environments begin anew."""
Steps = Int64[np.ndarray, " B"]
ROUNDING = 1e-5
"""An action that is this little outside the action space is clipped: it is the space's border, rounded to float32."""


class DetectorVectorEnv(VectorEnv[Any, Any, Any], ABC):
    """B sub-environments over one detector and one data set; each run of `samples_per_image` of them shows one image.

    Defaults: the shipped detector, a few digit scenes as the data set, and the detector's own `nms_iou`. Images come in
    a random order, and each comes once before any comes again; options of `reset` choose images. Candidates come from
    the detector's present weights, so they change while its head is trained. The frozen part runs once for each image
    when the environment is made, which it says on stderr; it does not run if `dataset` is an `EncodedDataset`.

    AP is taken over a pool: the images of the present episodes, filled up to `pool_images` with other images, drawn at
    random, under the detector's own detections. `autoreset_mode` is set for each instance: DISABLED waits for `reset`;
    NEXT_STEP and SAME_STEP are Gymnasium's. Episodes have a fixed length. With `reset`'s option "reset_mask", some
    begin anew while others go on.

    Gymnasium's `reset` and `step` stand on `show` and `act`, by which an agent that trains the head meets the environment
    (`rl_det_envs.agent.AgentEnvironment`). Observations, rewards and what `info` holds are torch tensors on `device`;
    `rl_det_envs.torch_to_numpy.TorchToNumpy(envs)` makes them numpy arrays, as Gymnasium's vector wrappers need them.
    """

    metadata: dict[str, Any] = METADATA | {"autoreset_mode": AutoresetMode.DISABLED}
    num_steps: int = 1
    action_scale: float = 1.0
    takes_baseline: bool = True
    usual_exploration: ClassVar[tuple[float, ...]] = ()
    """A sensible standard deviation of actions in their unit, for each number of a candidate's action, or for all; empty:
    actions have no scale."""
    default_reward: ClassVar[str] = "pool_ap"
    scores_are_logits: ClassVar[bool] = True
    """Whether the detections that it ranks have logits as scores; otherwise they are probabilities."""

    shown: Shown
    """The start of the present episodes."""
    earned: Earned
    """What the last step brought."""

    def __init__(
        self,
        num_envs: int = 1,
        *,
        detector: Detector | None = None,
        dataset: Dataset | Encodings | None = None,
        num_candidates: int = 64,
        samples_per_image: int = 1,
        pool_images: int = 32,
        reward: RewardLike | None = None,
        credit: bool = True,
        nms_iou: float | None = None,
        autoreset_mode: AutoresetMode = AutoresetMode.DISABLED,
        render_mode: str | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        check_counts(num_envs, samples_per_image, num_candidates, pool_images)
        check_choices(nms_iou, credit, autoreset_mode, render_mode)
        check_detector_and_data(detector, dataset)
        self.render_mode, self.gives_credit = render_mode, credit
        self.detector = placed_detector(detector, device)
        self.device = self.detector.device
        named: RewardLike = self.default_reward if reward is None else reward
        self.reward: Reward = reward_named(
            named, np.zeros(self.detector.num_classes, dtype=np.int64)
        )  # an unknown name is refused before anything is encoded
        source = dataset if dataset is not None else DigitScenes("train", num_scenes=pool_images)
        if not len(source):
            raise UserError("dataset must hold one image at least; it is empty")
        check_classes(source, self.detector)
        self.data = source if isinstance(source, Encodings) else encoded_aloud(self.detector, source)
        self.reward = reward_named(named, objects_of(self.data.targets, self.detector.num_classes))
        self.num_envs, self.samples_per_image = num_envs, samples_per_image
        self.num_images = num_envs // samples_per_image
        if self.num_images > len(self.data):
            raise UserError(
                f"num_envs / samples_per_image must be at most the {len(self.data)} images of the data set; "
                f"got {self.num_images}"
            )
        self.pool_images = max(self.num_images, min(pool_images, len(self.data)))
        self.num_candidates = num_candidates
        self.nms_iou = self.detector.nms_iou if nms_iou is None else nms_iou
        self.single_observation_space = self.observation_space_of_one()
        self.single_action_space = self.action_space_of_one()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self._index_of = {target.image_id: index for index, target in reversed([*enumerate(self.data.targets)])}
        self._queue: list[int] = []
        self.indices: list[int] = []
        self.rows = np.repeat(np.arange(self.num_images), samples_per_image)
        self._steps: Steps | None = None
        self._rewards: Tensor | None = None
        self.with_graph = False
        self.next_baseline: Tensor | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Show the next images; `info` has each sub-environment's "indices" and "image_ids", int64 [B].

        An index is a position in the data set. An image_id is the annotation's own (`Target.image_id`). The options
        `{"indices": [...]}` or `{"image_ids": [...]}` choose the images, one for each group of `samples_per_image`. If
        several entries of the data set share an id, it means the first of them. `{"reset_mask": [B] of bool}` begins
        anew where it is True, which is Gymnasium's partial reset; a group is reset as a whole. Episodes that go on keep
        their image, what they have done, and the pool in which their rewards are measured.
        """
        asked = dict(options or {})
        fresh = self._groups(asked.pop("reset_mask", None))
        chosen = self.chosen(asked)
        if chosen and not fresh.all():
            raise UserError("options must name images or a reset_mask of some sub-environments; got both")
        shown = self._show(seed, chosen, fresh)
        indices = np.asarray(self.indices)[self.rows]
        ids = np.array([self.data.targets[index].image_id for index in indices.tolist()], dtype=np.int64)
        info = {"indices": torch.from_numpy(indices), "image_ids": torch.from_numpy(ids)}
        return shown.observation, {name: values.to(self.device) for name, values in info.items()}

    def show(self, *, seed: int | None = None, indices: Sequence[int] | None = None, with_graph: bool = False) -> Shown:
        """Begin an episode in every sub-environment; see `AgentEnvironment`."""
        self.with_graph = with_graph
        chosen = [] if indices is None else self.chosen({"indices": indices})
        return self._show(seed, chosen, np.ones(self.num_images, dtype=np.bool_))

    def _show(self, seed: int | None, chosen: list[int], fresh: Groups) -> Shown:
        """Begin episodes in the fresh groups, on the chosen images or on the next ones."""
        super().reset(seed=seed)
        if seed is not None:
            self._queue = []
        kept = [] if fresh.all() else self.indices[: self.num_images]
        new = chosen or self._next(int(fresh.sum()), besides=[kept[group] for group in np.flatnonzero(~fresh)])
        acting = self._with_new(kept, new, fresh)
        self.indices = acting + self._others(self.pool_images - self.num_images, besides=acting)
        if self._steps is None:
            self._steps = np.zeros(self.num_envs, dtype=np.int64)
        self._steps[fresh[self.rows]] = 0
        self._rewards = None
        encoded, output = self.begin(fresh)
        self.shown = Shown(observation=self.observation(), indices=acting, encoded=encoded, output=output)
        self.with_graph = False
        return self.shown

    def state_dict(self) -> dict[str, Any]:
        """The queue of image indices, and the random generator's state as JSON: all that determines the next images."""
        return {"queue": list(self._queue), "generator": json.dumps(self.np_random.bit_generator.state)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict`: the next reset without a seed shows the images that it would have shown.

        Raises UserError for the state of a larger data set.
        """
        if wrong := [index for index in state["queue"] if not 0 <= index < len(self.data)]:
            raise UserError(f"the state must be of a data set of {len(self.data)} images; it has the index {wrong[0]}")
        self.np_random.bit_generator.state = json.loads(state["generator"])
        self._queue = list(state["queue"])

    def step(self, actions: Any) -> GymnasiumStep:
        """Apply the actions; rewards are float32 [B]; `info` holds the step's credit and what else it is told."""
        over = self._steps is not None and bool((self._steps == self.num_steps).all())
        if over and self.autoreset_mode is AutoresetMode.NEXT_STEP:
            return self._begun()
        earned = self.act(actions, baseline=self.next_baseline)
        self.next_baseline = None
        info = dict(earned.told) if earned.credit is None else {**earned.told, "credit": earned.credit}
        if bool(earned.ended.all()) and self.autoreset_mode is AutoresetMode.SAME_STEP:
            last, ended = earned.observation, earned.ended
            observation, begun = self.reset()
            final = {"final_obs": last, "_final_obs": ended, "final_info": info, "_final_info": ended}
            return observation, earned.reward, earned.terminated, earned.truncated, {**begun, **final}
        return earned.observation, earned.reward, earned.terminated, earned.truncated, info

    def act(self, actions: Any, *, baseline: Any = None) -> Earned:
        """Apply the actions; see `AgentEnvironment`. Raises ResetNeeded in a sub-environment whose episode has ended."""
        if self._steps is None or (self._steps == self.num_steps).any():
            raise gymnasium.error.ResetNeeded(
                "the episode has ended, or none has begun; call reset before the next step"
            )
        actions = self.checked(actions)
        if baseline is not None:
            self.set_baseline(self.checked(baseline))
        ended = self._steps + 1 == self.num_steps
        reward, credit, told = self.outcome(actions, ended)
        with np.errstate(over="ignore"):  # what is too large for single precision is refused as infinite
            reward, credit = reward.astype(np.float32), None if credit is None else credit.astype(np.float32)
        self._check_paid(reward, credit)
        self._steps = self._steps + 1
        self._rewards = torch.as_tensor(reward, device=self.device)
        terminated = torch.from_numpy(ended).to(self.device)
        self.earned = Earned(
            observation=self.observation(),
            reward=self._rewards,
            credit=None if credit is None else torch.as_tensor(credit, device=self.device),
            terminated=terminated,
            truncated=torch.zeros_like(terminated),
            told=told,
        )
        return self.earned

    def _check_paid(self, reward: Float32[np.ndarray, " B"], credit: Float32[np.ndarray, "B N *F"] | None) -> None:
        """Raise NotFiniteError, which names the images, for a reward or a credit that is NaN or infinite."""
        sound = np.isfinite(reward)
        if credit is not None:
            sound &= np.isfinite(credit).reshape(len(credit), -1).all(1)
        if not sound.all():
            wrong = dict.fromkeys(self.indices[image] for image in self.rows[~sound].tolist())
            raise NotFiniteError("a reward is NaN or infinite", names_of(self.data, wrong))

    def image_names(self, indices: Sequence[int]) -> list[str]:
        """What a message calls the images at these positions; see `AgentEnvironment`."""
        return names_of(self.data, indices)

    def render(self) -> Any:
        """One picture a sub-environment, uint8 [H, W, 3]: true boxes; kept, dropped and changed detections; the reward."""
        if self.render_mode is None:
            return None
        if self._steps is None:
            raise gymnasium.error.ResetNeeded("nothing to draw yet; call reset before render")
        if self.data.source is None:
            raise UserError("render needs the images: give the data set itself, or encodings that know theirs")
        before, after = self.drawn()
        pictures = []
        for row, image in enumerate(self.rows.tolist()):
            sample = self.data.source[self.indices[image]]
            reward = None if self._rewards is None else float(self._rewards[row])
            pictures.append(draw(sample, Change.between(before, after, row, logits=self.scores_are_logits), reward))
        return tuple(pictures)

    def _begun(self) -> GymnasiumStep:
        """Reset instead of a step: the actions are ignored, rewards are 0, and no episode ends."""
        observation, info = self.reset()
        ended = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        return observation, torch.zeros(self.num_envs, device=self.device), ended, ended.clone(), info

    def _groups(self, mask: Any) -> Groups:
        """The groups of `samples_per_image` sub-environments that this reset_mask begins anew; without one, all."""
        if mask is None:
            return np.ones(self.num_images, dtype=np.bool_)
        each = mask.numpy(force=True) if isinstance(mask, Tensor) else np.asarray(mask)
        if each.dtype != np.bool_ or each.shape != (self.num_envs,) or not each.any():
            raise UserError(
                f"reset_mask must hold {self.num_envs} truth values, one True at least; got {each.tolist()}"
            )
        groups: Groups = np.asarray(each.reshape(self.num_images, -1).all(axis=1))
        if (groups[self.rows] != each).any():
            raise UserError(
                f"reset_mask must be the same for all {self.samples_per_image} samples of an image; got {each.tolist()}"
            )
        if not groups.all() and self._steps is None:
            raise UserError("the first reset must be of all sub-environments; got a reset_mask of some")
        if not groups.all() and self.autoreset_mode is not AutoresetMode.DISABLED:
            raise UserError(f"a reset_mask of some needs autoreset DISABLED; got {self.autoreset_mode.name}")
        return groups

    def chosen(self, options: dict[str, Any]) -> list[int]:
        """The indices of the images that reset's options name; empty if they name none.

        Raises UserError if the data set has no such image.
        """
        if options.keys() not in (set(), {"indices"}, {"image_ids"}):
            raise UserError(
                f"options must be {{'indices': [...]}} or {{'image_ids': [...]}}, or 'reset_mask'; got {sorted(options)}"
            )
        if not options:
            return []
        (name,) = options
        try:
            given = [operator.index(image) for image in options[name]]
        except TypeError as error:
            raise UserError(f"{name} must be whole numbers; got {options[name]!r}") from error
        if len(given) != self.num_images or len(set(given)) < len(given):
            raise UserError(f"{name} must be {self.num_images} different images; got {given}")
        if name == "indices":
            if wrong := [index for index in given if not 0 <= index < len(self.data)]:
                raise UserError(f"an index must be a position in the data set, 0..{len(self.data) - 1}; got {wrong[0]}")
            return given
        if wrong := [image_id for image_id in given if image_id not in self._index_of]:
            raise UserError(f"an image_id must be in the data set; got {wrong[0]}; to choose by position, give indices")
        return [self._index_of[image_id] for image_id in given]

    def _next(self, count: int, besides: list[int]) -> list[int]:
        """The next `count` different indices of the queue, which new permutations refill."""
        drawn: list[int] = []
        while len(drawn) < count:
            fresh = next((image for image in self._queue if image not in drawn and image not in besides), None)
            if fresh is None:
                self._queue += self.np_random.permutation(len(self.data)).tolist()
                continue
            self._queue.remove(fresh)
            drawn.append(fresh)
        return drawn

    def _others(self, count: int, besides: list[int]) -> list[int]:
        """So many other images for the pool, at random; they are not taken from the queue, and come in their turn."""
        if not count:
            return []
        some = self.np_random.choice(len(self.data), count + len(besides), replace=False, shuffle=False).tolist()
        return [index for index in some if index not in besides][:count]

    def _with_new(self, kept: list[int], new: list[int], fresh: Groups) -> list[int]:
        """The acting images: new ones in the fresh groups."""
        remaining = iter(new)
        return [next(remaining) if begun else kept[group] for group, begun in enumerate(fresh.tolist())]

    def checked(self, given: Any) -> Float[Tensor, " B *one"]:
        """The actions as a tensor; UserError if the shape is wrong, or a number is not finite or outside the action space."""
        actions: Tensor = torch.as_tensor(given, device=self.device).to(torch.float32)
        if actions.shape != self.action_space.shape:
            raise UserError(f"actions must have shape {self.action_space.shape}; got {tuple(actions.shape)}")
        low, high = (-1.0, 1.0) if isinstance(self.single_action_space, spaces.Box) else (0.0, 1.0)
        for fault, must in (
            (~torch.isfinite(actions), "be finite"),
            ((actions < low - ROUNDING) | (actions > high + ROUNDING), f"lie in [{low:g}, {high:g}]"),
        ):
            if fault.any():
                where = torch.nonzero(fault)[0].tolist()
                raise UserError(f"actions must {must}; got {actions[tuple(where)]:g} at {where}")
        return actions.clamp(low, high)

    @abstractmethod
    def observation_space_of_one(self) -> spaces.Space[Any]:
        """The space of one image's observation."""

    @abstractmethod
    def action_space_of_one(self) -> spaces.Space[Any]:
        """The space of one image's action: a Box from -1 to 1, or a MultiBinary."""

    @abstractmethod
    def begin(self, fresh: Groups) -> tuple[Encoded | None, HeadOutput | None]:
        """Prepare episodes on the images at `indices`, new ones in the fresh groups; return the acting images' encodings.

        If candidates act, it also returns the head's output for these images, with a graph if `with_graph` is set.
        """

    @abstractmethod
    def observation(self) -> Any:
        """The present observation of all sub-environments."""

    @abstractmethod
    def set_baseline(self, actions: Float[Tensor, " B *one"]) -> None:
        """Measure the next step's rewards and credits against these actions, instead of against doing nothing."""

    @abstractmethod
    def outcome(
        self, actions: Float[Tensor, " B *one"], ended: Bool[np.ndarray, " B"]
    ) -> tuple[Float64[np.ndarray, " B"], Float64[np.ndarray, "B N *F"] | None, dict[str, Tensor]]:
        """Apply the actions; return the rewards, the credits if they are asked for, and what else is to be told."""

    @abstractmethod
    def drawn(self) -> tuple[DetectionBatch, DetectionBatch]:
        """Each sub-environment's detections at the start of the episode and now, with the same index for the same detection."""
