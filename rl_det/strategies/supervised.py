"""Supervised training of the whole detector, which keeps the weights with the best validation mAP.

All of the detector is trained by its own losses, as its library trains it. Another validation figure may select the
weights.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rl_det import parallel
from rl_det.data import Dataset
from rl_det.data.augment import Augmentations, Augmented, flipped
from rl_det.detectors import Detector
from rl_det.detectors.reading import sample_loader
from rl_det.detectors.shares import training_losses
from rl_det.errors import UserError, naming
from rl_det.metrics.evaluation import check_monitor, quick_evaluate
from rl_det.policies.build import build_policy
from rl_det.policies.detections import detect_dataset
from rl_det.policies.policy import Policy
from rl_det.precision import Precision
from rl_det.settings import at_least, check_settings, positive
from rl_det.strategies.strategy import Task, given
from rl_det.training.descent import Descent
from rl_det.training.loop import Ending
from rl_det.training.loop_config import LoopConfig
from rl_det.training.schedules import ScheduleName
from rl_det.types import Sample

MANY = 10**9
"""More steps than any training has: what is not known when settings are made refuses nothing."""


@dataclass(frozen=True, kw_only=True)
class Supervised:
    """Supervised training of the whole detector, stopped and selected by a validation figure."""

    name: str = "supervised"
    """The name of its row in the table."""
    num_steps: int | None = None
    """The number of batches; a shorter data set is repeated in a new order. Left out: by budget and number of images."""
    batch_size: int | None = None
    """Images a step; left out: as in the data's recipe."""
    learning_rate: float | None = None
    """AdamW's peak rate, after a short linear warm-up; left out: the recipe's, or a quarter of it for a trained
    detector."""
    schedule: ScheduleName = "cosine"
    """cosine: from the peak down to 0; step: times a tenth after two thirds and after eight ninths of the steps."""
    weight_decay: float = 0.02
    """AdamW's weight decay."""
    max_grad_norm: float = 5.0
    """The maximum norm of the gradient; a larger gradient is scaled down."""
    precision: Precision = "float32"
    """mixed: float16 with a scaled loss on CUDA, bfloat16 on a CPU, for the operations that torch considers safe."""
    ema: float = 0.99
    """The decay of the weights' running mean, which is then validated and kept; 0: none, 0.99 to 0.9998 is usual."""
    flip: bool | None = None
    """Whether half of the images are mirrored left to right; left out: yes, except for digits."""
    augmentations: Augmentations = field(default_factory=Augmentations)
    """Further augmentations of an image."""
    num_workers: int | None = None
    """Worker processes that read ahead; 0 reads in this process, where an error keeps its type; left out: the recipe's."""
    validate_every: int | None = None
    """Steps, or epochs, between two validations; there is always one at the end. Left out: by the budget."""
    validate_unit: Literal["steps", "epochs"] = "steps"
    """The unit of `validate_every`."""
    validate_start: bool = True
    """Whether the weights before the first step are validated too, so that training is kept only if it is better."""
    monitor: str = "AP"
    """The validation figure that selects the best weights."""
    patience: int | None = 8
    """Training ends after this many validations without progress; None: never."""
    min_delta: float = 0.0
    """The figure must beat the best by more than this to count as progress."""
    warm_up: int = 0
    """The number of first validations that do not count."""

    def __post_init__(self) -> None:
        check_settings(
            self,
            num_steps=at_least(1),
            batch_size=at_least(1),
            learning_rate=positive(usual="2e-3"),
            max_grad_norm=positive(infinite=True),
            num_workers=at_least(0),
            validate_every=at_least(1),
        )
        check_monitor(self.monitor)
        if self.validate_unit == "epochs" and self.validate_every is None:
            raise UserError("validate_every must be given if its unit is epochs; got None; 1 is usual")
        plan = BatchPlan(num_steps=given(self.num_steps, MANY), batch_size=given(self.batch_size, 1))
        self.loop(plan, 1.0, 1, 1)  # refuses what is wrong in any run

    @property
    def trains(self) -> Literal["all"]:
        """The whole detector."""
        return "all"

    def start(self, detector: Detector) -> Policy:
        """The rescoring policy on the unchanged head, as for the evaluation of other strategies."""
        return build_policy("rescore", detector)

    def tune(self, policy: Policy, task: Task) -> Ending:
        """Train the policy's whole detector. Sets torch's global seed, with which torchvision's detectors sample proposals."""
        torch.manual_seed(task.seed)

        def validate() -> dict[str, float]:
            found, targets = detect_dataset(policy, task.val_images, task.evaluated_candidates)
            return quick_evaluate(found, targets, num_classes=policy.detector.num_classes)

        usual = task.from_labels
        plan = BatchPlan(
            num_steps=given(self.num_steps, usual.num_steps),
            batch_size=given(self.batch_size, usual.batch_size),
            flip=given(self.flip, usual.flip),
            augmentations=self.augmentations,
            num_workers=given(self.num_workers, usual.num_workers),
        )
        generator = torch.Generator().manual_seed(task.seed)
        learner = SupervisedLearner(policy.detector, task.train_images, plan, generator=generator, validate=validate)
        return task.fit(learner, self.loop(plan, usual.learning_rate, usual.validate_every, len(task.train_images)))

    def loop(self, plan: "BatchPlan", learning_rate: float, validate_every: int, num_images: int) -> LoopConfig:
        """The loop's settings; these arguments replace a rate and an interval that are left out."""
        every = given(self.validate_every, validate_every)
        in_epochs = self.validate_unit == "epochs"
        return LoopConfig(
            num_updates=plan.num_steps,
            learning_rate=given(self.learning_rate, learning_rate),
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            max_grad_norm=self.max_grad_norm,
            mixed=self.precision == "mixed",
            ema=self.ema,
            validate_every=Fraction(every * num_images, plan.batch_size) if in_epochs else every,
            validate_start=self.validate_start,
            monitor=self.monitor,
            patience=self.patience,
            min_delta=self.min_delta,
            warm_up=self.warm_up,
        )


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """The order of the images over the steps, and their augmentations."""

    num_steps: int
    batch_size: int
    flip: bool = False
    augmentations: Augmentations = field(default_factory=Augmentations)
    num_workers: int = 0

    def __post_init__(self) -> None:
        check_settings(self, num_steps=at_least(1), batch_size=at_least(1), num_workers=at_least(0))


class SupervisedLearner:
    """A learner whose update is one step on one batch of images, by the model's own losses, without crowd regions.

    Processes that train together divide each batch.
    """

    def __init__(
        self,
        detector: Detector,
        dataset: Dataset,
        plan: BatchPlan,
        *,
        generator: torch.Generator,
        validate: Callable[[], Mapping[str, float]],
    ) -> None:
        self.detector, self.dataset, self.plan, self.validate = detector, dataset, plan, validate
        self.generator, self.begun = generator, generator.get_state()
        self.step = 0
        self.batches: Iterator[list[Sample]] | None = None

    @property
    def trainable(self) -> nn.Module:
        """The library's model."""
        return self.detector.plain()

    def update(self, number: int, descent: Descent) -> dict[str, float]:
        """Make one step on one batch; return the detector's losses before the step."""
        if self.batches is None:
            self.generator.set_state(self.begun)
            self.batches = batches(self.dataset, self.plan, self.generator, first=self.step)
        samples = next(self.batches)
        self.step += 1
        images = [sample.image.to(descent.device) for sample in samples]
        targets = [labelled(sample, descent.device) for sample in samples]
        with descent.autocast():
            losses = training_losses(self.detector, images, targets)
            loss = torch.stack(list(losses.values())).sum()
        with naming(lambda: [str(sample.target.image_id) for sample in samples]):
            norm = descent.step(loss)
        return {**{name: parallel.mean_of(float(value.detach())) for name, value in losses.items()}, "grad_norm": norm}

    def state_dict(self) -> dict[str, Any]:
        """The state of the order: the generator before its first draw and now, and the number of batches drawn since."""
        return {"begun": self.begun, "now": self.generator.get_state(), "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state."""
        self.begun, self.step = state["begun"], state["step"]
        self.generator.set_state(state["now"])
        self.batches = None


def batches(dataset: Dataset, plan: BatchPlan, generator: torch.Generator, *, first: int = 0) -> Iterator[list[Sample]]:
    """`num_steps` batches, read ahead by worker processes if asked; every image comes once before any comes again.

    `first` batches may be skipped; the others, and all that the generator draws, do not change. Of processes that train
    together, each gets its share of every batch. Raises ValueError for a batch of fewer images than processes.
    """
    size, own, processes = plan.batch_size, parallel.share_of(plan.batch_size), parallel.world_size()
    if size < processes:
        raise UserError(f"a batch must have an image for each of {processes} processes; got a batch_size of {size}")
    needed = plan.num_steps * plan.batch_size
    order: list[int] = []
    while len(order) < needed:
        order += torch.randperm(len(dataset), generator=generator).tolist()
    source: Any = dataset
    visits: list[Any] = order[:needed]
    if plan.augmentations.any:
        source = Augmented(dataset, plan.augmentations)
        seeds = torch.randint(2**62, (needed,), generator=generator).tolist()
        visits = list(zip(visits, seeds, strict=True))
    if plan.flip:
        for _ in range(first):
            torch.rand(size, generator=generator)
    steps = [visits[start : start + size][own] for start in range(first * size, needed, size)]
    for samples in sample_loader(source, plan.num_workers, batch_sampler=steps):
        if plan.flip:
            mirror = (torch.rand(size, generator=generator) < 0.5)[own]
            samples = [flipped(sample) if turn else sample for sample, turn in zip(samples, mirror, strict=True)]
        yield samples


def labelled(sample: Sample, device: torch.device) -> dict[str, Tensor]:
    """The target for torchvision's detectors: the true boxes that are not crowds."""
    kept = ~sample.target.iscrowd
    return {"boxes": sample.target.boxes[kept].to(device), "labels": sample.target.labels[kept].to(device)}
