"""The agents on a toy detector whose best ranking is known: they find it, unless credit goes to the wrong candidates."""

from collections.abc import Sequence
from statistics import mean
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float
from rl_det_envs.adjust_detections import AdjustDetectionsVector
from rl_det_envs.rescore_detections import RescoreDetectionsVector
from rl_det_envs.select_detections import SelectDetectionsVector
from torch import Tensor, nn

from rl_det.agents import ppo, reinforce
from rl_det.candidates import select_candidates
from rl_det.detectors import Detector
from rl_det.detectors.cache import EncodedDataset
from rl_det.policies.refine import RefinePolicy
from rl_det.policies.rescore import RescorePolicy
from rl_det.policies.select import SelectPolicy
from rl_det.types import Candidates, Detections, Encoded, HeadOutput, Target
from rl_det.validation import mean_ap

NUM_PROPOSALS, NUM_FEATURES, NUM_IMAGES = 10, 6, 64
LEARNT, NOT_LEARNT = 0.95, 0.85
"""Validation AP; the best is 1, and the start is about 0.5."""


class ToyDetector:
    """One class; the head is linear. Feature 0 says whether a proposal is an object, the others say nothing."""

    num_classes, nms_iou, embedding_size = 1, 0.5, NUM_FEATURES

    def __init__(self) -> None:
        self.scores = nn.Linear(NUM_FEATURES, 1)
        nn.init.zeros_(self.scores.bias)
        with torch.no_grad():  # a start that looks at what does not matter
            self.scores.weight.copy_(torch.tensor([[0.0, 0.5, -0.5, 0.5, 0.0, 0.0]]))

    def encode(self, images: Sequence[Float[Tensor, "3 _ _"]]) -> Encoded:
        raise NotImplementedError("the toy's data set is encoded from the start")

    def head(self, encoded: Encoded) -> HeadOutput:
        return HeadOutput(self.scores(encoded.features[0]), encoded.reference[:, :, None], encoded.features[0])

    def propose(self, encoded: Encoded, num_candidates: int) -> Candidates:
        return select_candidates(self.head(encoded), encoded.mask, num_candidates)

    def detect(self, images: Sequence[Float[Tensor, "3 _ _"]]) -> list[Detections]:
        raise NotImplementedError

    def loss(self, encoded: Encoded, targets: Sequence[Target], output: HeadOutput) -> dict[str, Tensor]:
        raise NotImplementedError

    def head_parameters(self) -> list[nn.Parameter]:
        return list(self.scores.parameters())

    def recalibrate(self, scale: float, shift: float) -> None:
        raise NotImplementedError

    def plain(self) -> nn.Module:
        return self.scores


def toy_data(seed: int) -> EncodedDataset:
    """Boxes that do not overlap; three to six of the ten are objects."""
    rng = np.random.default_rng(seed)
    corners = np.stack([20.0 * np.arange(NUM_PROPOSALS), np.zeros(NUM_PROPOSALS)], 1)
    boxes = torch.tensor(np.concatenate([corners, corners + 10], 1), dtype=torch.float32)
    features = torch.tensor(rng.normal(size=(NUM_IMAGES, NUM_PROPOSALS, NUM_FEATURES)), dtype=torch.float16)
    targets = []
    for image in range(NUM_IMAGES):
        objects = torch.tensor(rng.permutation(NUM_PROPOSALS)[: rng.integers(3, 7)])
        features[image, :, 0] = -1.0
        features[image, objects, 0] = 1.0
        count = len(objects)
        targets.append(
            Target(
                boxes=boxes[objects],
                labels=torch.ones(count, dtype=torch.int64),
                area=torch.full((count,), 100.0),
                iscrowd=torch.zeros(count, dtype=torch.bool),
                image_id=image,
            )
        )
    encoded = Encoded(
        features=(features,),
        reference=boxes.expand(NUM_IMAGES, -1, -1).contiguous(),
        mask=torch.ones(NUM_IMAGES, NUM_PROPOSALS, dtype=torch.bool),
        resized=torch.tensor([[10.0, 200.0]]).expand(NUM_IMAGES, -1).contiguous(),
        original=torch.tensor([[10.0, 200.0]]).expand(NUM_IMAGES, -1).contiguous(),
    )
    return EncodedDataset(encoded, targets)


class ShuffledCredit(RescoreDetectionsVector):
    """Every candidate gets the credit of another one of its image."""

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        *outcome, info = super().step(actions)
        away = torch.from_numpy(self.np_random.integers(1, NUM_PROPOSALS, (self.num_envs, 1)))
        order = (torch.arange(NUM_PROPOSALS) + away) % NUM_PROPOSALS
        return *outcome, {"credit": info["credit"].gather(1, order)}  # type: ignore[return-value]


class NoCredit(RescoreDetectionsVector):
    """The reward alone, as from any other environment."""

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        *outcome, _ = super().step(actions)
        return *outcome, {}  # type: ignore[return-value]


def made(env: type, seed: int, **options: Any) -> tuple[ToyDetector, Any]:
    detector = ToyDetector()
    envs = env(
        64, detector=detector, dataset=toy_data(seed), num_candidates=NUM_PROPOSALS, samples_per_image=4, **options
    )
    envs.reset(seed=seed)
    return detector, envs


def learnt_by_ppo(env: type, seed: int, *, num_updates: int = 60, reward: str = "pool_ap") -> float:
    detector, envs = made(env, seed, reward=reward)
    policy = (
        SelectPolicy(detector, keep_bias=1.0) if env is SelectDetectionsVector else RescorePolicy(detector, sigma=0.5)
    )
    ppo.train(
        policy,
        envs,
        ppo.Config(num_updates=num_updates, learning_rate=0.05, drift_weight=0.0, validate_every=num_updates),
        generator=torch.Generator().manual_seed(seed),
        validate=lambda: validation_ap(detector),
    )
    return validation_ap(detector)


def learnt_by_reinforce(env: type, seed: int, config: reinforce.Config) -> float:
    detector, envs = made(env, seed)
    reinforce.train(
        RescorePolicy(detector, sigma=0.5),
        envs,
        config,
        generator=torch.Generator().manual_seed(seed),
        validate=lambda: validation_ap(detector),
    )
    return validation_ap(detector)


def validation_ap(detector: ToyDetector) -> float:
    return mean_ap(RescorePolicy(detector, sigma=0.5), toy_data(99), NUM_PROPOSALS, nms_iou=0.5)


def test_the_toy_is_a_detector_that_starts_badly_and_can_be_perfect() -> None:
    detector = ToyDetector()
    assert isinstance(detector, Detector)
    assert 0.3 < validation_ap(detector) < 0.6
    with torch.no_grad():
        detector.scores.weight.copy_(torch.eye(1, NUM_FEATURES))
    assert validation_ap(detector) == pytest.approx(1.0)


@pytest.mark.parametrize("env", [RescoreDetectionsVector, SelectDetectionsVector])
@pytest.mark.parametrize("reward", ["pool_ap", "image_ap"])
def test_ppo_finds_the_best_ranking(env: type, reward: str) -> None:
    assert learnt_by_ppo(env, seed=0, reward=reward) > LEARNT


def test_ppo_learns_from_the_reward_alone_where_there_is_no_credit() -> None:
    assert learnt_by_ppo(NoCredit, seed=0, num_updates=150) > LEARNT


def test_ppo_does_not_find_it_when_credit_goes_to_the_wrong_candidates() -> None:
    assert mean(learnt_by_ppo(ShuffledCredit, seed=seed) for seed in range(3)) < NOT_LEARNT


def test_reinforce_finds_the_best_ranking_by_credit() -> None:
    config = reinforce.Config(num_updates=100, learning_rate=0.05, drift_weight=0.0, validate_every=100)
    assert learnt_by_reinforce(RescoreDetectionsVector, 0, config) > LEARNT


def test_reinforce_finds_it_by_the_reward_of_the_whole_image_too() -> None:
    config = reinforce.Config(
        num_updates=200, learning_rate=0.05, drift_weight=0.0, validate_every=200, advantage="leave_one_out"
    )
    assert learnt_by_reinforce(NoCredit, 0, config) > LEARNT


def test_reinforce_does_not_find_it_when_credit_goes_to_the_wrong_candidates() -> None:
    config = reinforce.Config(num_updates=100, learning_rate=0.05, drift_weight=0.0, validate_every=100)
    assert mean(learnt_by_reinforce(ShuffledCredit, seed, config) for seed in range(3)) < NOT_LEARNT


class ToyRefiner(ToyDetector):
    """Its head moves boxes too, all by the same; the right move is four pixels to the left of where it starts."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.tensor(4.0))
        with torch.no_grad():
            self.scores.weight.copy_(torch.eye(1, NUM_FEATURES))

    def head(self, encoded: Encoded) -> HeadOutput:
        boxes = encoded.reference + self.offset * torch.tensor([1.0, 0.0, 1.0, 0.0])
        return HeadOutput(self.scores(encoded.features[0]), boxes[:, :, None], encoded.features[0])

    def head_parameters(self) -> list[nn.Parameter]:
        return [*super().head_parameters(), self.offset]


class ShuffledMoves(AdjustDetectionsVector):
    """Every move gets the credit of another one of its image."""

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        *outcome, info = super().step(actions)
        return *outcome, {"credit": info["credit"].roll(int(self.np_random.integers(1, NUM_PROPOSALS)), 1)}  # type: ignore[return-value]


def learnt_offset(env: type, agent: Any, config: Any) -> float:
    detector = ToyRefiner()
    options = {"num_candidates": NUM_PROPOSALS, "samples_per_image": 4}
    envs = env(64, detector=detector, dataset=toy_data(0), **options)
    envs.reset(seed=0)
    policy = RefinePolicy(detector, sigma=0.5, box_sigma=0.5)
    agent.train(
        policy, envs, config, generator=torch.Generator().manual_seed(0),
        validate=lambda: mean_ap(policy, toy_data(99), NUM_PROPOSALS, nms_iou=0.5),
    )  # fmt: skip
    return float(detector.offset.detach())


LITTLE: dict[str, Any] = {"num_updates": 80, "learning_rate": 0.2, "validate_every": 80}


@pytest.mark.parametrize(("agent", "config"), [(ppo, ppo.Config(**LITTLE)), (reinforce, reinforce.Config(**LITTLE))])
def test_boxes_are_moved_to_where_the_objects_are(agent: Any, config: Any) -> None:
    assert abs(learnt_offset(AdjustDetectionsVector, agent, config)) < 0.5


@pytest.mark.parametrize(("agent", "config"), [(ppo, ppo.Config(**LITTLE)), (reinforce, reinforce.Config(**LITTLE))])
def test_boxes_are_not_moved_there_when_credit_goes_to_the_wrong_candidates(agent: Any, config: Any) -> None:
    assert abs(learnt_offset(ShuffledMoves, agent, config)) > 1.0


def test_the_same_seed_gives_the_same_run() -> None:
    assert learnt_by_ppo(RescoreDetectionsVector, seed=3, num_updates=5) == learnt_by_ppo(
        RescoreDetectionsVector, seed=3, num_updates=5
    )


def test_training_that_brings_nothing_keeps_the_warm_start() -> None:
    detector, envs = made(RescoreDetectionsVector, 0)
    before = detector.scores.weight.detach().clone()
    aps = iter([0.5, 0.4, 0.3])
    best = ppo.train(
        RescorePolicy(detector, sigma=0.5),
        envs,
        ppo.Config(num_updates=50, validate_every=1, collapse_margin=0.15),
        generator=torch.Generator().manual_seed(0),
        validate=lambda: next(aps),  # a fourth call would raise: the collapse ends the run at the third
    )
    assert best == 0.5
    assert torch.equal(detector.scores.weight, before)
