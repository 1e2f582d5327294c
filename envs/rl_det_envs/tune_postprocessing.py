"""`rl_det/TunePostprocessing-v0`: an action sets the post-processing of one image; the default reward is F1."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Float32, Float64
from torch import Tensor

from rl_det.ap.batch import DetectionBatch
from rl_det.ap.padding import pad_targets
from rl_det.candidates import select_candidates
from rl_det.candidates.soft_nms import Settings, nearest_above, soft_nms
from rl_det.detectors.divided import said_by
from rl_det.rewards import Edits, Pool, check_shape
from rl_det.types import Candidates
from rl_det_envs.detector_environment import DetectorVectorEnv, Groups
from rl_det_envs.single_form import DetectorEnv

BINS = 10
COUNTED_FROM = 0.05
"""The overlap histogram counts candidates of at least this probability."""
STRONGEST_DECAY = 4.0
"""1 / sigma of soft-NMS at an action of 1. At -1 it is 0 (hard NMS); at 0, sigma is Bodla et al.'s 0.5."""


class TunePostprocessingVector(DetectorVectorEnv):
    """The vector form: an action is four numbers in [-1, 1] for each image, and an episode has one step.

    The numbers mean the score threshold (0 to 1), the NMS IoU (0 to 1), 1 / sigma of soft-NMS (0, which is hard NMS, to
    4) and the maximum number of detections (1 to N). `info["settings"]` [B, 4] holds the resulting threshold, IoU,
    sigma and number. The reward is computed on the detections that the settings leave. Its default is F1: under AP, no
    threshold that all images share beats the lowest one. The other images of the pool keep the detections of the
    detector's own NMS.

    Doing nothing is the detector's own NMS without a threshold; `set_baseline` sets other settings. One actor acts in
    an image, so its credit [B, 1] is the reward minus that of the baseline.

    This environment does not train the detector, so the head runs once for the whole data set, when the environment is
    made.
    """

    default_reward = "f1"
    scores_are_logits = False

    def __init__(self, num_envs: int = 1, **arguments: Any) -> None:
        super().__init__(num_envs, **{"num_candidates": 128, **arguments})
        parts = []
        with torch.no_grad():
            for images in torch.arange(len(self.data)).split(32):
                encoded = self.data.batch(images, self.detector)
                parts.append(select_candidates(said_by(self.detector, encoded), encoded.mask, self.num_candidates))
        self._all = Candidates(
            **{name: torch.cat([vars(part)[name] for part in parts]).cpu() for name in vars(parts[0])}
        )
        self._probabilities = self._all.logits.double().sigmoid().numpy()
        self._truths = pad_targets(self.data.targets)
        everything = np.arange(len(self.data))
        self._default = self._processed(
            everything, Settings.fixed(len(self.data), 0.0, self.nms_iou, np.inf, self.num_candidates)
        )
        self._first = np.arange(self.num_images)
        self._described = torch.from_numpy(self.describe()).to(self.device)

    def observation_space_of_one(self) -> spaces.Space[Any]:
        """The space of `describe`: 32 numbers in [0, 1]."""
        return spaces.Box(0.0, 1.0, (3 * BINS + 2,), np.float32)

    def action_space_of_one(self) -> spaces.Space[Any]:
        return spaces.Box(-1.0, 1.0, (4,), np.float32)

    def describe(self) -> Float32[np.ndarray, "D 32"]:
        """A description of each image: three histograms of ten bins, the number of candidates, the expected number of objects.

        The histograms count the probabilities of all candidates, the probabilities of those that NMS leaves, and each
        candidate's IoU with the nearest candidate of its class that ranks above it. The expected number of objects is
        the sum of the probabilities after NMS. All numbers are divided by N.
        """
        mask, p, left = self._all.mask.numpy(), self._probabilities, self._default.mask
        nearest = nearest_above(self._all.boxes.numpy(), self._all.labels.numpy(), p, mask)
        histograms = [_histogram(p, mask), _histogram(p, left), _histogram(nearest, mask & (p >= COUNTED_FROM))]
        counts = [mask.sum(1), (p * left).sum(1)]
        described: Float32[np.ndarray, "D 32"] = np.concatenate([*histograms, np.stack(counts, 1)], 1).astype(
            np.float32
        )
        return np.minimum(described / self.num_candidates, 1)

    def begin(self, fresh: Groups) -> tuple[None, None]:
        self._images = np.asarray(self.indices)
        self._acting = self._images[self.rows]
        self._pool = Pool(
            detections=self._default[self._images],
            truths=self._truths[self._images],
            num_classes=self.detector.num_classes,
            scores_are_logits=self.scores_are_logits,
        )
        self._edits = Edits(self._pool, self.rows, self._default[self._acting])
        self._baseline = self._edits[self._first * self.samples_per_image]
        return None, None

    def observation(self) -> Float[Tensor, "B 32"]:
        return self._described[torch.from_numpy(self._acting).to(self.device)]

    def settings(self, actions: Float[Tensor, "B 4"]) -> Settings:
        """The settings that the actions mean."""
        share: Float64[np.ndarray, "B 4"] = ((actions.double() + 1) / 2).numpy(force=True)
        with np.errstate(divide="ignore"):
            sigma = 1 / (STRONGEST_DECAY * share[:, 2])
        return Settings(
            score_threshold=share[:, 0],
            nms_iou=share[:, 1],
            sigma=sigma,
            max_detections=1 + np.rint(share[:, 3] * (self.num_candidates - 1)).astype(np.int64),
        )

    def set_baseline(self, actions: Float[Tensor, "B 4"]) -> None:
        """Measure this episode's rewards and credits against these settings, instead of the detector's own NMS.

        An image's samples share a baseline, that of the first.
        """
        own = self._processed(self._images[: self.num_images], self.settings(actions[:: self.samples_per_image]))
        self._baseline = Edits(self._pool, self._first, own)

    def outcome(
        self, actions: Tensor, ended: Bool[np.ndarray, " B"]
    ) -> tuple[Float64[np.ndarray, " B"], Float64[np.ndarray, "B 1"] | None, dict[str, Tensor]]:
        settings = self.settings(actions)
        self._edits = Edits(self._pool, self.rows, self._processed(self._acting, settings))
        told = np.stack([values.astype(np.float64) for values in vars(settings).values()], 1)
        reward = self.reward(self._baseline[self.rows], self._edits, ended=True)
        check_shape(reward, self.reward, self.num_envs)
        credit = None
        if self.gives_credit:
            nothing = self.reward(self._baseline, self._baseline, ended=True)
            credit = (reward - nothing[self.rows])[:, None]
        return reward, credit, {"settings": torch.from_numpy(told).to(self.device)}

    def _processed(self, images: np.ndarray, settings: Settings) -> DetectionBatch:
        c = self._all
        return soft_nms(
            c.boxes.numpy()[images],
            c.labels.numpy()[images],
            self._probabilities[images],
            c.mask.numpy()[images],
            settings,
        )

    def drawn(self) -> tuple[DetectionBatch, DetectionBatch]:
        return self._default[self._acting], self._edits.detections


class TunePostprocessing(DetectorEnv):
    """The single form: `rl_det/TunePostprocessing-v0` for one image, in numpy."""

    vector_class = TunePostprocessingVector


def _histogram(values: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """The number of each row's values in each tenth of [0, 1]."""
    places = np.minimum((values * BINS).astype(np.int64), BINS - 1)
    return np.stack([((places == place) & counted).sum(1) for place in range(BINS)], 1)
