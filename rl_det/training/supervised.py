"""A torchvision detector and labelled images -> the detector at its best validation: supervised training led by mAP.

The lead may be any other figure of the evaluation. A training that is killed goes on from its checkpoint, and ends with
the weights that it would have had (`rl_det.training.state`).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from rl_det.data import Dataset
from rl_det.data.augment import Augmentations, Augmented, flipped
from rl_det.detectors.protocol import Detector
from rl_det.metrics.evaluation import LOWER_IS_BETTER, check_monitor
from rl_det.training.early_stopping import EarlyStopping
from rl_det.training.schedules import warm_cosine, warm_steps
from rl_det.training.state import TrainingState, averaged, copied
from rl_det.types import Sample

SCHEDULES = {"cosine": warm_cosine, "step": warm_steps}


@dataclass(frozen=True, kw_only=True)
class Config:
    """How a detector is trained from labels."""

    num_steps: int = 850
    """Batches; a data set that is shorter is gone through again, in a new order."""
    batch_size: int = 16
    """Images a step."""
    learning_rate: float = 2e-3
    """AdamW's peak rate, after a short linear warm-up."""
    schedule: Literal["cosine", "step"] = "cosine"
    """From the peak down to 0, or by a tenth of it after two thirds and after eight ninths of the steps."""
    weight_decay: float = 0.02
    """AdamW's."""
    max_grad_norm: float = 5.0
    """The gradient is scaled down to this norm."""
    precision: Literal["float32", "mixed"] = "float32"
    """mixed: float16 with a scaled loss on CUDA, bfloat16 on a CPU, where torch thinks it safe."""
    ema: float = 0.0
    """The decay of the weights' running mean, which is then what is validated and kept; 0: none, 0.99 to 0.9998 is usual."""
    flip: bool = False
    """Whether half of the images are mirrored left to right; wrong for digits, right for most else."""
    augmentations: Augmentations = field(default_factory=Augmentations)
    """What else may happen to an image."""
    num_workers: int = 0
    """Processes that read ahead; 0 reads in this one, where an error keeps its name."""
    validate_every: int = 170
    """Steps, or epochs, between two validations; there is one at the end in any case."""
    validate_unit: Literal["steps", "epochs"] = "steps"
    """What `validate_every` counts."""
    validate_start: bool = False
    """Whether the weights before the first step are validated too, so that training can only be kept if it is better."""
    monitor: str = "AP"
    """The figure of the validation that decides what is best."""
    patience: int = 4
    """Validations without progress before training stops."""
    min_delta: float = 0.0
    """How much better than the best the figure must be to count as progress."""
    warm_up: int = 0
    """So many validations at first do not count."""

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive; got {self.learning_rate}; 2e-3 is usual")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must lie in [0, 1); got {self.ema}; 0.999 is usual, 0 is without")
        check_monitor(self.monitor)
        stopping_by(self)  # which refuses what it cannot use


def train(
    detector: Detector,
    dataset: Dataset,
    config: Config,
    *,
    generator: torch.Generator,
    validate: Callable[[], Mapping[str, float]],
    on_step: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
    checkpoint: Path | None = None,
) -> float:
    """Train all of `detector.plain()` by its own losses and leave it at its best validation, whose figure is returned.

    Crowd regions are left out of the targets. A validation without the monitored figure, or with NaN, is no progress and
    no error; if none ever brings one, the last weights stay and the figure is infinitely bad. `checkpoint` is a file that is
    written at every validation, and from which the training goes on where it exists: with a generator of the same seed, on
    the same data. Raises ValueError for a loss that is not finite, and for a checkpoint of another training.
    """
    model = detector.plain()
    state = beginning(model, dataset, config, generator)
    if checkpoint is not None and checkpoint.exists():
        state.load(checkpoint)
    if config.validate_start and state.step == 0:
        on_step(0, validated(state, validate, config))
    for samples in () if state.stopping.exhausted else batches(dataset, config, generator, first=state.step):
        state.step += 1
        losses = learn(state, samples, config)
        metrics = {name: float(value.detach()) for name, value in losses.items()}
        due = is_due(state.step, config, len(dataset))
        if due:
            metrics |= validated(state, validate, config)
        on_step(state.step, metrics)
        if due and checkpoint is not None:
            state.save(checkpoint)
        if state.stopping.exhausted:
            break
    state.finish()
    return sign(config) * state.stopping.best


def beginning(model: torch.nn.Module, dataset: Dataset, config: Config, generator: torch.Generator) -> TrainingState:
    """Before the first step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    device = next(model.parameters()).device
    scaled = config.precision == "mixed" and device.type == "cuda"
    return TrainingState(
        model=model,
        optimizer=optimizer,
        schedule=SCHEDULES[config.schedule](optimizer, config.num_steps),
        scaler=torch.amp.GradScaler(device.type, enabled=scaled),
        average=averaged(model, config.ema) if config.ema else None,
        stopping=stopping_by(config),
        generator=generator,
        identity={**asdict(replace(config, num_workers=0)), "num_images": len(dataset), "classes": dataset.classes},
    )


def stopping_by(config: Config) -> EarlyStopping:
    """What decides what is best, and when to stop."""
    return EarlyStopping(patience=config.patience, min_delta=config.min_delta, warm_up=config.warm_up)


def learn(state: TrainingState, samples: list[Sample], config: Config) -> dict[str, Tensor]:
    """One step; returns the detector's losses before it. ValueError, naming the images, where these are not finite."""
    model, device = state.model.train(), next(state.model.parameters()).device
    images, targets = [sample.image.to(device) for sample in samples], [labelled(sample, device) for sample in samples]
    half = torch.float16 if device.type == "cuda" else torch.bfloat16
    with torch.autocast(device.type, dtype=half, enabled=config.precision == "mixed"):
        losses: dict[str, Tensor] = model(images, targets)
        loss = torch.stack(list(losses.values())).sum()
    if not torch.isfinite(loss):
        ids = [sample.target.image_id for sample in samples]
        raise ValueError(
            f"the loss must stay finite; got {float(loss.detach())} at step {state.step}, images {ids}; lower the learning rate"
        )
    state.optimizer.zero_grad()
    state.scaler.scale(loss).backward()
    state.scaler.unscale_(state.optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
    scale = state.scaler.get_scale()
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.scaler.get_scale() >= scale:  # else the gradient overflowed, and the optimizer made no step
        state.schedule.step()
    if state.average is not None:
        state.average.update_parameters(model)
    return losses


def validated(state: TrainingState, validate: Callable[[], Mapping[str, float]], config: Config) -> dict[str, float]:
    """Validate the model, keep it if it is the best yet, and return what the validation said, as val_NAME."""
    with state.averaged_weights():
        state.model.eval()
        figures = validate()
        figure = figures.get(config.monitor)
        if state.stopping.improved(None if figure is None else sign(config) * figure):
            state.best = copied(state.model)
    return {f"val_{name}": value for name, value in figures.items()}


def sign(config: Config) -> float:
    """-1.0 where the monitored figure is an error, which should fall."""
    return -1.0 if config.monitor in LOWER_IS_BETTER else 1.0


def is_due(step: int, config: Config, num_images: int) -> bool:
    """Whether the model is validated after this step; an epoch ends with the step in which its last image comes."""
    if step == config.num_steps:
        return True
    by_step = config.validate_unit == "steps"
    interval, shown = (1, 1) if by_step else (num_images, config.batch_size)
    finished, before = (count * shown // (interval * config.validate_every) for count in (step, step - 1))
    return finished > before


def batches(dataset: Dataset, config: Config, generator: torch.Generator, *, first: int = 0) -> Iterator[list[Sample]]:
    """`num_steps` batches, read ahead by processes of their own where asked for; every image once before any comes again.

    The first ones may be left out: the others, and all that the generator draws, stay as they are.
    """
    needed = config.num_steps * config.batch_size
    order: list[int] = []
    while len(order) < needed:
        order += torch.randperm(len(dataset), generator=generator).tolist()
    source: Any = dataset
    visits: list[Any] = order[:needed]
    if config.augmentations.any:
        source = Augmented(dataset, config.augmentations)
        seeds = torch.randint(2**62, (needed,), generator=generator).tolist()
        visits = list(zip(visits, seeds, strict=True))
    size = config.batch_size
    if config.flip:
        for _ in range(first):
            torch.rand(size, generator=generator)
    loader: DataLoader[list[Sample]] = DataLoader(
        source,
        batch_sampler=[visits[start : start + size] for start in range(first * size, needed, size)],
        collate_fn=list,
        num_workers=config.num_workers,
        generator=torch.Generator(),
    )
    for samples in loader:
        if config.flip:
            mirror = torch.rand(len(samples), generator=generator) < 0.5
            samples = [flipped(sample) if turn else sample for sample, turn in zip(samples, mirror, strict=True)]
        yield samples


def labelled(sample: Sample, device: torch.device) -> dict[str, Tensor]:
    """What torchvision's detectors train on: the true boxes that are no crowd."""
    kept = ~sample.target.iscrowd
    return {"boxes": sample.target.boxes[kept].to(device), "labels": sample.target.labels[kept].to(device)}
