"""One toy task for each environment, with an actor that can learn it: what the contract of agents and environments shares."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from learning.toy import NUM_FEATURES, NUM_PROPOSALS, ToyDetector, toy_data
from rl_det_envs.adjust_detections import AdjustDetectionsVector
from rl_det_envs.agent import AgentEnvironment
from rl_det_envs.refine_boxes import RefineBoxesVector
from rl_det_envs.rescore_detections import RescoreDetectionsVector
from rl_det_envs.select_detections import SelectDetectionsVector
from rl_det_envs.tune_postprocessing import TunePostprocessingVector
from torch import nn

from rl_det.policies.adjust import AdjustPolicy
from rl_det.policies.distributions import GaussianActions
from rl_det.policies.rescore import RescorePolicy
from rl_det.policies.select import SelectPolicy
from rl_det.strategies.rollouts import Actor
from rl_det.types import Encoded, HeadOutput

NUM_STEPS = 3


class Displaced(ToyDetector):
    """Its ranking is perfect, and its boxes are all too far right by the same number of pixels, of sides of ten."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.tensor(offset))
        with torch.no_grad():
            self.scores.weight.copy_(torch.eye(1, NUM_FEATURES))

    def head(self, encoded: Encoded) -> HeadOutput:
        boxes = encoded.reference + self.offset * torch.tensor([1.0, 0.0, 1.0, 0.0])
        return HeadOutput(self.scores(encoded.features[0]), boxes[:, :, None], encoded.features[0])

    @property
    def trainable(self) -> nn.Module:
        return nn.ModuleDict({"scores": self.scores, "offset": nn.ParameterList([self.offset])})


class Means(nn.Module):
    """Means of actions that are learned directly: a row for each step."""

    def __init__(self, start: torch.Tensor, sigma: float) -> None:
        super().__init__()
        self.means, self.sigma = nn.Parameter(start.clone()), sigma

    @property
    def trainable(self) -> nn.Module:
        return self

    def copy(self) -> "Means":
        return deepcopy(self)


class SameMoves(Means):
    """All candidates move alike: for RefineBoxes."""

    def distribution(self, observation: Any, output: Any) -> GaussianActions:
        mean = self.means[observation["step"][:, 0]][:, None].expand(*observation["labels"].shape, 4)
        return GaussianActions(mean, self.sigma)


class SameSettings(Means):
    """All images have the same settings: for TunePostprocessing."""

    def distribution(self, observation: Any, output: Any) -> GaussianActions:
        return GaussianActions(self.means.expand(len(observation), 1, 4), self.sigma)


@dataclass(frozen=True)
class Task:
    """An environment, an actor in it, how fast it learns, and how far it has come: 0 at the start, 1 at best."""

    make: Callable[..., AgentEnvironment]
    actor: Callable[[ToyDetector], Actor]
    detector: Callable[[], ToyDetector]
    learning_rate: float
    progress: Callable[[Actor, ToyDetector], float]
    num_updates: int = 40
    options: tuple[tuple[str, Any], ...] = ()

    def environment(self, detector: ToyDetector, **changes: Any) -> Any:
        given = {"num_candidates": NUM_PROPOSALS, "samples_per_image": 4, **dict(self.options), **changes}
        envs: Any = self.make(64, detector=detector, dataset=toy_data(0), **given)
        envs.reset(seed=0)
        return envs


def ranked_right(actor: Actor, detector: ToyDetector) -> float:
    """The share of the weight that lies on what matters."""
    weight = detector.scores.weight.detach()[0]
    return float(weight[0] / weight.abs().sum())


def moved_back(start: float) -> Callable[[Actor, ToyDetector], float]:
    """The share of the head's displacement that is gone."""
    return lambda actor, detector: 1 - abs(float(detector.offset.detach())) / start  # type: ignore[operator, arg-type]


def walked_back(actor: Actor, detector: ToyDetector) -> float:
    """The share of the displacement that the steps' clipped means undo."""
    steps = actor.means.detach().clamp(-1, 1)[:, 0].sum()  # type: ignore[operator, union-attr]
    return 1 - abs(float(detector.offset.detach()) + float(steps)) / float(detector.offset.detach())  # type: ignore[operator, arg-type]


def threshold_found(actor: Actor, detector: ToyDetector) -> float:
    """1 where the score threshold lies between the objects' probability, 0.73, and the others', 0.27."""
    threshold = (float(actor.means.detach()[0, 0]) + 1) / 2  # type: ignore[operator, union-attr]
    return float(0.27 < threshold < 0.73)


TASKS: dict[str, Task] = {
    "rl_det/AdjustDetections-v0": Task(
        AdjustDetectionsVector, lambda d: AdjustPolicy(d, sigma=0.5, box_sigma=0.5), lambda: Displaced(4.0), 0.3,
        moved_back(4.0),
    ),
    "rl_det/RefineBoxes-v0": Task(
        RefineBoxesVector, lambda d: SameMoves(torch.zeros(NUM_STEPS, 4), 0.3), lambda: Displaced(2.5), 0.1, walked_back
    ),
    "rl_det/RescoreDetections-v0": Task(
        RescoreDetectionsVector, lambda d: RescorePolicy(d, sigma=0.5), ToyDetector, 0.1, ranked_right
    ),
    "rl_det/SelectDetections-v0": Task(
        SelectDetectionsVector, lambda d: SelectPolicy(d, keep_bias=1.0), ToyDetector, 0.1, ranked_right
    ),
    "rl_det/TunePostprocessing-v0": Task(
        TunePostprocessingVector, lambda d: SameSettings(torch.tensor([[-0.9, 0.0, -0.9, 0.9]]), 0.3), lambda: Displaced(0.0),
        0.03, threshold_found,
    ),
}  # fmt: skip
