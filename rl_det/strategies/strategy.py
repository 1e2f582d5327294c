"""The Strategy protocol, and the task that every strategy receives."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, TypeVar, runtime_checkable

from rl_det.data import Dataset
from rl_det.detectors import Detector
from rl_det.detectors.encodings import Encodings
from rl_det.policies.detections import policy_ap
from rl_det.policies.policy import Policy
from rl_det.settings import at_least, check_settings, positive
from rl_det.training.loop import Ending, Learner
from rl_det.training.loop_config import LoopConfig

Value = TypeVar("Value")
Fit = Callable[[Learner, LoopConfig], Ending]
"""`rl_det.training.loop.fit`, with the run's name and callbacks already given."""


@dataclass(frozen=True, kw_only=True)
class FromLabels:
    """The usual settings on the task's data for training the whole detector from labels."""

    num_steps: int
    batch_size: int
    learning_rate: float
    flip: bool
    num_workers: int
    validate_every: int

    def __post_init__(self) -> None:
        check_settings(
            self,
            num_steps=at_least(1),
            batch_size=at_least(1),
            learning_rate=positive(usual="2e-3"),
            num_workers=at_least(0),
            validate_every=at_least(1),
        )


@dataclass(kw_only=True)
class Task:
    """The data and the amount of work of a strategy: the same for all strategies of a run, so they can be compared.

    A *step* is a gradient step on `batch_size` images. Strategies that make several steps on one batch count each step,
    so all strategies see the same number of images.
    """

    train_images: Dataset
    val_images: Dataset
    encode: Callable[[Literal["train", "val"]], Encodings]
    """The function that gives a split's encodings; called once for each, and only by strategies that train the head
    alone."""
    num_steps: int
    batch_size: int
    learning_rate: float
    """AdamW's peak rate of the head in the warm start."""
    validate_every: int
    """Steps between two validations."""
    validated_candidates: int
    """The candidates of an image that are ranked in validations between updates."""
    evaluated_candidates: int
    """The candidates of an image from which NMS chooses in the final evaluation."""
    fit_evaluations: int
    """How many settings a fit of post-processing tries."""
    from_labels: FromLabels
    seed: int
    fit: Fit
    goes_on: bool = False
    """Whether `fit` resumes a stopped run. It then restores all that is trained, so a strategy need not search again for
    where to begin. Who gives a task another `fit` says so here too."""

    @cached_property
    def train(self) -> Encodings:
        """The encodings of the training images."""
        return self.encode("train")

    @cached_property
    def val(self) -> Encodings:
        """The encodings of the validation images."""
        return self.encode("val")

    def validation_ap(self, policy: Policy) -> float:
        """The validation mAP in [0, 1], by which the best weights are selected."""
        return policy_ap(policy, self.val, self.validated_candidates)


@runtime_checkable
class Strategy(Protocol):
    """A way of raising the metric, with its settings: a frozen dataclass whose fields are keywords and flags."""

    @property
    def name(self) -> str:
        """The name of its row in the table."""
        ...

    @property
    def trains(self) -> Literal["head", "all"]:
        """The part of the detector that changes: its head alone, or all of it."""
        ...

    def start(self, detector: Detector) -> Policy:
        """The policy at the warm start; may draw from torch's global generator."""
        ...

    def tune(self, policy: Policy, task: Task) -> Ending:
        """Tune the policy in place, leave it at its best validation weights, and return why training ended."""
        ...


def given(value: Value | None, usual: Value) -> Value:
    """The value, or the usual one if it is None."""
    return usual if value is None else value
