"""The losses and gradients of whole detectors, alone or in one of several processes: `python -m parallel.gradients FILE`."""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import fcos_resnet50_fpn, retinanet_resnet50_fpn
from torchvision.models.detection.ssdlite import ssdlite320_mobilenet_v3_large

from rl_det import parallel
from rl_det.detectors import Detector, build_detector
from rl_det.detectors.loading import of_model
from rl_det.detectors.shares import training_losses

SMALL: dict[str, Any] = {"num_classes": 3, "weights": None, "weights_backbone": None}
MODELS: dict[str, Callable[[], Detector]] = {
    "tiny": lambda: build_detector("tiny", num_classes=2),
    "retinanet": lambda: of_model(retinanet_resnet50_fpn(**SMALL, min_size=64, max_size=128)),
    "fcos": lambda: of_model(fcos_resnet50_fpn(**SMALL, min_size=64, max_size=128)),
    "ssdlite": lambda: of_model(ssdlite320_mobilenet_v3_large(**SMALL)),
}


SIZES = (70, 96), (64, 64), (90, 64), (64, 100), (80, 80)
"""Of the images; `tiny` has images of one size: on padding, proposals are worth exactly the same, and any may be kept."""


def batch(name: str) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Five images with 3, 0, 1, 2 and 1 objects: two processes have 2 and 3 of them."""
    generator = torch.Generator().manual_seed(0)
    images, labels = [], []
    for number, (height, width) in zip((3, 0, 1, 2, 1), SIZES[-1:] * 5 if name == "tiny" else SIZES, strict=True):
        images.append(torch.rand(3, height, width, generator=generator, dtype=torch.float64))
        corners = torch.rand(number, 2, generator=generator, dtype=torch.float64) * 30
        sides = 20 + torch.rand(number, 2, generator=generator, dtype=torch.float64) * 12
        labels.append(
            {
                "boxes": torch.cat([corners, corners + sides], 1),
                "labels": torch.randint(1, 3, (number,), generator=generator),
            }
        )
    return images, labels


def losses_and_gradients(name: str) -> dict[str, Tensor]:
    """The mean over the processes of each loss, of each parameter's gradient, and the buffers; in double precision."""
    torch.manual_seed(0)
    detector = MODELS[name]()
    model = detector.plain().double()
    images, labels = batch(name)
    own = parallel.share_of(len(images))
    losses = training_losses(detector, images[own], labels[own])
    torch.stack(list(losses.values())).sum().backward()
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    parallel.average_gradients([parameter for _, parameter in trained])
    means = {
        name: torch.tensor(parallel.mean_of(float(loss.detach())), dtype=torch.float64) for name, loss in losses.items()
    }
    gradients = {name: parameter.grad for name, parameter in trained if parameter.grad is not None}
    return {**means, **gradients, **{name: buffer.clone() for name, buffer in model.named_buffers()}}


def main() -> None:
    """Write the losses and gradients of all detectors."""
    torch.set_num_threads(1)
    parallel.join()
    found = {name: losses_and_gradients(name) for name in MODELS}
    torch.save(found, f"{sys.argv[1]}.{parallel.rank()}")


if __name__ == "__main__":
    main()
