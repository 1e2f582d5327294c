"""A library's own training losses, where several processes train one detector on their shares of a batch.

A library averages a loss over what its process has seen: proposals that were sampled, anchors on objects, objects, images.
The mean of such means is not the mean over the batch. So each process's loss has a weight, the share of what it has seen,
and the mean over the processes is the loss of the whole batch, with the gradient of the whole batch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.ssd import SSD

from rl_det import parallel
from rl_det.detectors.protocol import Detector

SAMPLED = {
    "rpn": ("loss_objectness", "loss_rpn_box_reg"),
    "roi_heads": ("loss_classifier", "loss_box_reg"),
}
"""The losses of a Faster R-CNN that are means over sampled anchors, or over sampled proposals."""


def training_losses(
    detector: Detector, images: Sequence[Tensor], labels: Sequence[dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The detector's own losses of this process's images; their means over the processes are those of all images.

    What a model of transformers draws for its batch stays each process's own: dropout, the noised queries of RT-DETR and
    D-FINE. Its losses have the weight of their objects, those by queries too. A model of the user's has that of its images.
    """
    if parallel.world_size() == 1:
        return detector.training_losses(images, labels)
    model = detector.plain()
    with _as_one(model, len(images)) as seen:
        losses = detector.training_losses(images, labels)
    usual = len(images)
    if detector.architecture.library == "transformers":
        usual = sum(len(label["labels"]) for label in labels)
    return {name: loss * _weight(seen.get(name, usual)) for name, loss in losses.items()}


def _weight(seen: int) -> float:
    """The number of processes times this one's share of what all have seen; libraries divide by 1 at least."""
    number = parallel.world_size()
    return max(1, seen) * number / max(1.0, parallel.mean_of(float(seen)) * number)


@contextmanager
def _as_one(model: nn.Module, num_images: int) -> Iterator[dict[str, int]]:
    """A context in which the model normalises, resizes, pads and samples as one process would that has all images.

    All but the normalisation are known of torchvision's models alone. It tells, by the losses' names, over how much each of
    them is a mean, if that is known.
    """
    seen: dict[str, int] = {}
    with ExitStack() as replaced:
        for layer in model.modules():
            if isinstance(layer, BatchNorm):
                replaced.enter_context(_instead(layer, "forward", partial(_normed, layer)))
        if isinstance(model, FasterRCNN | RetinaNet | FCOS | SSD):
            for name, as_one in (("torch_choice", _sizes_of_all), ("max_by_axis", _largest_of_all)):
                replaced.enter_context(
                    _instead(model.transform, name, as_one(getattr(model.transform, name), num_images))
                )
        if isinstance(model, FasterRCNN):
            for part, names in SAMPLED.items():
                owner = getattr(model, part)
                replaced.enter_context(_instead(owner, "fg_bg_sampler", _OfAll(owner.fg_bg_sampler, names, seen)))
        if isinstance(model, FCOS | SSD):
            owner = model.head if isinstance(model, FCOS) else model
            own = owner.compute_loss

            def counting(*arguments: Any) -> dict[str, Tensor]:
                losses: dict[str, Tensor] = own(*arguments)
                on_objects = sum(int((matched >= 0).sum()) for matched in arguments[-1])
                seen.update(dict.fromkeys(losses, on_objects))
                return losses

            replaced.enter_context(_instead(owner, "compute_loss", counting))
        yield seen


def _normed(layer: BatchNorm, inputs: Tensor) -> Tensor:
    """The layer's output, with the mean and the variance of all processes' inputs [B, C, ...] in training."""
    kept = layer.running_mean, layer.running_var, layer.num_batches_tracked, layer.momentum
    if not layer.training or any(each is None for each in kept):
        return type(layer).forward(layer, inputs)
    given, inputs = inputs.dtype, inputs if inputs.dtype == torch.float64 else inputs.float()
    axes = [axis for axis in range(inputs.ndim) if axis != 1]
    own = inputs.numel() // inputs.shape[1]
    number = parallel.mean_of(float(own)) * parallel.world_size()
    if number <= 1:
        raise ValueError(f"batch normalisation in training needs more than one value of each channel; got {number:.0f}")
    mean = parallel.sum_of(inputs.sum(axes)) / number
    each = (-1, *[1] * (inputs.ndim - 2))
    away = inputs - mean.view(each)
    variance = parallel.sum_of(away.square().sum(axes)) / number
    with torch.no_grad():
        kept_mean, kept_variance, count, momentum = cast("tuple[Tensor, Tensor, Tensor, float]", kept)
        kept_mean.lerp_(mean, momentum)
        kept_variance.lerp_(variance * number / (number - 1), momentum)
        count += 1
    scale = (variance + layer.eps).rsqrt()
    normed: Tensor = away * (scale if layer.weight is None else scale * layer.weight).view(each) + (
        0.0 if layer.bias is None else layer.bias.view(each)
    )
    return normed.to(given)


def _sizes_of_all(draw: Callable[[list[int]], int], num_images: int) -> Callable[[list[int]], int]:
    """The draw of an image's size, where those of the other processes' images are drawn before and after."""
    counts = parallel.of_all(num_images)
    before = sum(counts[: parallel.rank()])
    drawn: list[int] = []

    def next_of_own(sizes: list[int]) -> int:
        if not drawn:
            drawn.extend([draw(sizes) for _ in range(sum(counts))][before : before + num_images])
        return drawn.pop(0)

    return next_of_own


def _largest_of_all(
    largest: Callable[[list[list[int]]], list[int]], num_images: int
) -> Callable[[list[list[int]]], list[int]]:
    """The size to which images are padded: the largest of all processes' images."""
    return lambda shapes: largest(parallel.of_all(largest(shapes)))


class _OfAll:
    """A sampler of anchors or proposals that draws as one process would that has the images of all."""

    def __init__(self, sampler: Any, losses: Sequence[str], seen: dict[str, int]) -> None:
        self.sampler, self.losses, self.seen = sampler, losses, seen

    def __call__(self, matched: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The drawn positives and negatives of this process's images; `matched` is 0 for background and -1 for neither."""
        device = matched[0].device
        of_all = parallel.of_all([own.clamp(-1, 1).to("cpu", torch.int8) for own in matched])
        before = sum(len(some) for some in of_all[: parallel.rank()])
        drawn = self.sampler([own.to(device) for some in of_all for own in some])
        positive, negative = (each[before : before + len(matched)] for each in drawn)
        number = sum(int(own.sum()) for each in (positive, negative) for own in each)
        self.seen.update(dict.fromkeys(self.losses, number))
        return positive, negative


@contextmanager
def _instead(owner: Any, name: str, value: Any) -> Iterator[None]:
    """A context in which the owner's attribute has another value."""
    there = vars(owner).get(name, _instead)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if there is _instead:
            delattr(owner, name)
        else:
            setattr(owner, name, there)
