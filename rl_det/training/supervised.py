"""A torchvision detector and labelled images -> the detector at its best validation AP: the supervised warm start."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from rl_det.data import Dataset
from rl_det.detectors.protocol import Detector
from rl_det.early_stopping import EarlyStopping
from rl_det.schedules import warm_cosine
from rl_det.types import Sample


@dataclass(frozen=True, kw_only=True)
class Config:
    """How a detector is trained from labels."""

    num_steps: int = 850
    """Batches; a data set that is shorter is gone through again, in a new order."""
    batch_size: int = 16
    """Images a step."""
    learning_rate: float = 2e-3
    """AdamW's peak rate: a short linear warm-up, then a cosine to 0."""
    weight_decay: float = 0.02
    """AdamW's."""
    max_grad_norm: float = 5.0
    """The gradient is scaled down to this norm."""
    flip: bool = False
    """Whether half of the images are mirrored left to right; wrong for digits, right for most else."""
    num_workers: int = 0
    """Processes that read ahead; 0 reads in this one, where an error keeps its name."""
    validate_every: int = 170
    """Steps between two validations."""
    patience: int = 4
    """Validations without progress before training stops."""
    min_delta: float = 0.0
    """How much better than the best an AP must be to count as progress."""


def train(
    detector: Detector,
    dataset: Dataset,
    config: Config,
    *,
    generator: torch.Generator,
    validate: Callable[[], float | None],
    on_step: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
) -> float:
    """Train all of `detector.plain()` by its own losses and leave it at its best validation AP, which is returned.

    Crowd regions are left out of the targets. An evaluation without a metric, or with NaN, is no progress and no error;
    if none ever brings one, the last weights stay and -inf is returned. Raises ValueError for a loss that is not finite.
    """
    model = detector.plain()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = warm_cosine(optimizer, config.num_steps)
    stopping = EarlyStopping(patience=config.patience, min_delta=config.min_delta)
    best: dict[str, Tensor] | None = None
    device = next(model.parameters()).device
    for step, samples in enumerate(batches(dataset, config, generator), 1):
        model.train()
        losses = model(
            [sample.image.to(device) for sample in samples], [labelled(sample, device) for sample in samples]
        )
        loss = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(loss):
            ids = [sample.target.image_id for sample in samples]
            raise ValueError(
                f"the loss must stay finite; got {float(loss.detach())} at step {step}, images {ids}; lower the learning rate"
            )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        schedule.step()
        metrics = {name: float(value.detach()) for name, value in losses.items()}
        if step % config.validate_every == 0 or step == config.num_steps:
            model.eval()
            ap = validate()
            if ap is not None:
                metrics["val_AP"] = ap
            if stopping.improved(ap):
                best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        on_step(step, metrics)
        if stopping.exhausted:
            break
    if best is not None:
        model.load_state_dict(best)
    model.eval()
    return stopping.best


def batches(dataset: Dataset, config: Config, generator: torch.Generator) -> Iterator[list[Sample]]:
    """`num_steps` batches, read ahead by a process of its own where asked for; every image once before any comes again."""
    needed = config.num_steps * config.batch_size
    order: list[int] = []
    while len(order) < needed:
        order += torch.randperm(len(dataset), generator=generator).tolist()
    chosen = [order[start : start + config.batch_size] for start in range(0, needed, config.batch_size)]
    loader: DataLoader[list[Sample]] = DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=chosen,
        collate_fn=list,
        num_workers=config.num_workers,
        generator=torch.Generator(),
    )
    for samples in loader:
        if config.flip:
            mirror = torch.rand(len(samples), generator=generator) < 0.5
            samples = [flipped(sample) if turn else sample for sample, turn in zip(samples, mirror, strict=True)]
        yield samples


def flipped(sample: Sample) -> Sample:
    """The sample, mirrored left to right."""
    width = sample.image.shape[-1]
    left, top, right, bottom = sample.target.boxes.unbind(-1)
    boxes = torch.stack([width - right, top, width - left, bottom], -1)
    return replace(sample, image=sample.image.flip(-1), target=replace(sample.target, boxes=boxes))


def labelled(sample: Sample, device: torch.device) -> dict[str, Tensor]:
    """What torchvision's detectors train on: the true boxes that are no crowd."""
    kept = ~sample.target.iscrowd
    return {"boxes": sample.target.boxes[kept].to(device), "labels": sample.target.labels[kept].to(device)}
