"""A reward and a seed -> a spoiled detector, tuned for that reward, its learning curve and its figures on test scenes.

Two small tasks. In the first a detector's class scores are spoiled, and PPO repairs the last layer by rescoring, each candidate
credited by itself. In the second its boxes are, and REINFORCE learns moves of three steps from the returns of whole episodes.
What lies before the last layer is computed once; the boxes too, so that no reward can be blamed for a trunk that drifts.
"""

import copy
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import rl_det_envs  # noqa: F401  (registers the environments)
import torch
from jaxtyping import Float
from roles import roles
from torch import Tensor, nn

from rl_det.ap.padding import pad_targets
from rl_det.boxes import moved
from rl_det.candidates import clipped
from rl_det.data import Split
from rl_det.data.digit_scenes import CLASSES, DigitScenes
from rl_det.detectors import build_detector
from rl_det.detectors.encodings import EncodedDataset, encode_dataset
from rl_det.detectors.torchvision.tiny import SHIPPED_WEIGHTS
from rl_det.detectors.torchvision.two_stage import TwoStage, log_odds
from rl_det.losses.advantages import leave_one_out, scaled
from rl_det.metrics.calibration import detection_calibration_error
from rl_det.metrics.operating_point import best_f1
from rl_det.metrics.outcomes import outcomes
from rl_det.policies.detections import candidates_of
from rl_det.policies.rescore import RescorePolicy
from rl_det.rewards import Edits, Reward, Scene, image_ap_value
from rl_det.strategies.ppo import PPO, PpoLearner
from rl_det.training.descent import Descent
from rl_det.types import Encoded, HeadOutput

NUM_PROPOSALS, NUM_CANDIDATES, TESTED_CANDIDATES = 48, 48, 96
IMAGES_PER_UPDATE = 16
NUM_STEPS = 3
DISPLAYED_FROM = 0.0
"""The logit from which on a detection is displayed: a probability of a half."""


class LastLayer(TwoStage):
    """A two-stage detector of which only the class scores are trained; its encodings hold embeddings [B, P, D] and boxes."""

    def head(self, encoded: Encoded) -> HeadOutput:
        embeddings, boxes = encoded.features
        scores = self.model.roi_heads.box_predictor.cls_score(embeddings)
        logits = log_odds(scores.flatten(0, 1))[:, 1:].reshape(*encoded.mask.shape, -1)
        return HeadOutput(logits, boxes.unflatten(-1, (-1, 4)), embeddings)

    @property
    def trainable(self) -> nn.Module:
        layer: nn.Module = self.model.roi_heads.box_predictor.cls_score
        return layer


@dataclass(frozen=True, kw_only=True)
class Task:
    """Training and test scenes, and the detector that tuning starts from."""

    detector: LastLayer
    train: EncodedDataset
    test: EncodedDataset
    moves: Float[Tensor, "C 4"]
    """By which the boxes of each class were spoiled."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run: the test mAP now and then, as (update, mAP) pairs, and the figures in the end."""

    curve: list[tuple[int, float]]
    figures: dict[str, float]


def shipped_task(num_train: int, num_test: int) -> Task:
    """The shipped detector as it is."""
    detector = LastLayer(build_detector("tiny", num_classes=len(CLASSES), weights=SHIPPED_WEIGHTS).plain())
    train, test = last_layer_data("train", num_train), last_layer_data("test", num_test)
    return Task(detector=detector, train=train, test=test, moves=torch.zeros(len(CLASSES), 4))


@torch.no_grad()
def last_layer_data(split: Split, num_scenes: int) -> EncodedDataset:
    """What the shipped detector's last layer is given, of its best proposals."""
    detector = build_detector("tiny", num_classes=len(CLASSES), weights=SHIPPED_WEIGHTS)
    data = encode_dataset(detector, DigitScenes(split, num_scenes=num_scenes, seed=2 if split == "train" else 0))
    outputs = [detector.head(data.batch(images, detector)) for images in torch.arange(len(data)).split(50)]
    features = [
        torch.cat(list(part))[:, :NUM_PROPOSALS] for part in zip(*(output.tensors for output in outputs), strict=True)
    ]
    encoded = replace(
        data.encoded,
        features=(features[2], features[1].flatten(2)),
        reference=data.encoded.reference[:, :NUM_PROPOSALS],
        mask=data.encoded.mask[:, :NUM_PROPOSALS],
    )
    return EncodedDataset(encoded, data.targets, data.source)


def spoil_scores(task: Task, amount: float) -> Task:
    """Noise on the class scores' weights, in their own standard deviations."""
    detector = copy.deepcopy(task.detector)
    weight = detector.model.roi_heads.box_predictor.cls_score.weight
    with torch.no_grad():
        noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
        weight += amount * weight.std() * noise
    return replace(task, detector=detector)


def spoil_boxes(task: Task, amount: float) -> Task:
    """All boxes of a class are moved alike, up to so many tenths of a side each way."""
    uniform = torch.rand(len(CLASSES), 4, generator=torch.Generator().manual_seed(0))
    moves = amount * (2 * uniform - 1)
    train, test = (
        EncodedDataset(_with_moved_boxes(data.encoded, moves), data.targets, data.source)
        for data in (task.train, task.test)
    )
    return replace(task, train=train, test=test, moves=moves)


def _with_moved_boxes(encoded: Encoded, moves: Float[Tensor, "C 4"]) -> Encoded:
    embeddings, boxes = encoded.features
    after = clipped(moved(boxes.unflatten(-1, (-1, 4)), moves).flatten(1, 2), encoded.image_size)
    return replace(encoded, features=(embeddings, after.view_as(boxes)))


def rescore(task: Task, reward: str | Reward, *, seed: int, num_updates: int, test_every: int = 6) -> Trial:
    """PPO with credit, in `rl_det/RescoreDetections-v0`; no supervised loss, and no choice of the best checkpoint."""
    policy = RescorePolicy(copy.deepcopy(task.detector), sigma=0.5)
    num_samples = 4
    envs: Any = gymnasium.make_vec(
        "rl_det/RescoreDetections-v0",
        num_envs=IMAGES_PER_UPDATE * num_samples,
        vectorization_mode="vector_entry_point",
        detector=policy.detector,
        dataset=task.train,
        num_candidates=NUM_CANDIDATES,
        context_candidates=TESTED_CANDIDATES - NUM_CANDIDATES,
        samples_per_image=num_samples,
        pool_images=IMAGES_PER_UPDATE,
        reward=reward,
    )
    envs.reset(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    learner = PpoLearner(policy, envs, PPO(policy="rescore"), generator=generator, validate=lambda: 0.0)
    descent = steady(policy.trainable, learning_rate=3e-3)
    start, started = policy_scene(policy, task.test), time.perf_counter()
    curve = [(0, mean_ap(start))]
    for update in range(1, num_updates + 1):
        learner.update(update, descent)
        if update % test_every == 0 or update == num_updates:
            curve.append((update, mean_ap(policy_scene(policy, task.test))))
    seconds = time.perf_counter() - started
    return Trial(curve=curve, figures=figures(start, policy_scene(policy, task.test), envs.unwrapped.reward, seconds))


def steady(model: nn.Module, learning_rate: float) -> Descent:
    """Steps at a rate that stays, as nothing ends their update."""
    descent = Descent(
        model,
        num_updates=1,
        learning_rate=learning_rate,
        weight_decay=0.0,
        schedule="cosine",
        max_grad_norm=1.0,
        mixed=False,
        average=None,
    )
    for group in descent.optimizer.param_groups:
        group["lr"] = learning_rate
    return descent


def refine(task: Task, reward: str | Reward, *, seed: int, num_updates: int, test_every: int = 6) -> Trial:
    """REINFORCE with leave-one-out returns, in `rl_det/RefineBoxes-v0`: a mean move for each class and step is learned."""
    num_samples, sigma = 8, 0.3
    envs: Any = gymnasium.make_vec(
        "rl_det/RefineBoxes-v0",
        num_envs=IMAGES_PER_UPDATE * num_samples,
        vectorization_mode="vector_entry_point",
        detector=task.detector,
        dataset=task.train,
        num_candidates=24,
        samples_per_image=num_samples,
        pool_images=IMAGES_PER_UPDATE,
        num_steps=NUM_STEPS,
        credit=False,
        reward=reward,
    )
    envs.reset(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    moves = torch.zeros(NUM_STEPS, len(CLASSES) + 1, 4, requires_grad=True)
    optimizer = torch.optim.Adam([moves], lr=5e-2)
    scene = partial(walked_scene, task)
    start, started = scene(moves), time.perf_counter()
    curve = [(0, mean_ap(start))]
    for update in range(1, num_updates + 1):
        observation, _ = envs.reset()
        log_probs, earned = [], []
        for step in moves:
            mean = step[observation["labels"]]
            action = (mean.detach() + sigma * torch.randn(mean.shape, generator=generator)).clamp(-1, 1)
            density = -0.5 * ((action - mean) / sigma).square().sum(-1)
            log_probs.append((density * observation["mask"]).sum(-1))
            observation, reward_now, _, _, _ = envs.step(action.flatten(1))
            earned.append(reward_now)
        returns = torch.stack(earned).flip(0).cumsum(0).flip(0)  # [S, R]: what is earned from each step on
        advantage = leave_one_out(returns.view(-1, num_samples)).view_as(returns)
        loss = -(torch.stack(log_probs) * scaled(advantage, torch.ones_like(advantage).bool())).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if update % test_every == 0 or update == num_updates:
            curve.append((update, mean_ap(scene(moves))))
    seconds = time.perf_counter() - started
    return Trial(curve=curve, figures=figures(start, scene(moves), envs.unwrapped.reward, seconds))


def policy_scene(policy: RescorePolicy, data: EncodedDataset) -> Scene:
    """The test candidates under a policy's logits."""
    candidates = candidates_of(policy, data, TESTED_CANDIDATES)
    return Scene(
        boxes=candidates.boxes.numpy(),
        labels=candidates.labels.numpy(),
        mask=candidates.mask.numpy(),
        scores=candidates.logits.double().numpy(),
        truths=pad_targets(data.targets),
        num_classes=policy.detector.num_classes,
        nms_iou=policy.detector.nms_iou,
        displayed_from=DISPLAYED_FROM,
    )


@torch.no_grad()
def walked_scene(task: Task, moves: Float[Tensor, "S C1 4"]) -> Scene:
    """The test candidates after a walk of mean moves, one for each class and step."""
    scene = policy_scene(RescorePolicy(task.detector, sigma=1.0), task.test)
    boxes, labels = torch.from_numpy(scene.boxes), torch.from_numpy(scene.labels)
    for step in moves:
        boxes = clipped(moved(boxes, step[labels].clamp(-1, 1)), task.test.encoded.image_size)
    return replace(scene, boxes=boxes.numpy())


def mean_ap(scene: Scene) -> float:
    """COCO's AP of what NMS leaves."""
    return scene.pool.ranking.mean_ap


def figures(start: Scene, scene: Scene, reward: Reward, seconds: float) -> dict[str, float]:
    """What a report would say of the test scenes, and how much more of its own reward an image earns than at the start.

    "shown" and "duplicates" count an image's detections with a probability of a half.
    """
    everywhere, detections = np.arange(len(scene.mask)), scene.pool.detections
    begun, ended = Edits(start.pool, everywhere, start.pool.detections), Edits(start.pool, everywhere, detections)
    own = reward(begun, ended, ended=True) - reward(begun, begun, ended=True)
    probable = replace(detections, scores=1 / (1 + np.exp(-detections.scores)))
    found = outcomes(probable, scene.truths, num_classes=scene.num_classes)
    again = roles(ended.displayed, scene.truths, num_classes=scene.num_classes)["duplicate"]
    return {
        "own reward": float(own.mean()),
        "mAP": 100 * mean_ap(scene),
        "per-image AP": 100 * float(image_ap_value(ended).mean()),
        "F1": 100 * best_f1(found).f1,
        "D-ECE": 100 * detection_calibration_error(found),
        "shown": float(ended.displayed.mask.sum(1).mean()),
        "duplicates": float(again.sum(1).mean()),
        "seconds": seconds,
    }
