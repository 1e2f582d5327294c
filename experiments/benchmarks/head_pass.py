"""How long does an image's pass through the head take, which all strategies repeat, and how much room has its encoding?

    python experiments/benchmarks/head_pass.py --json

Detectors of real size with random weights and three classes; one image of 480 x 640 pixels, at the detector's own size, with
at most 100 proposals. A pass is the head's output, its supervised loss, and the gradient; its time is the median of CPU time,
on one thread. A minute. What it printed last, and where, is in experiments/benchmarks/README.md.
"""

from one_thread import insist_on_one_thread

insist_on_one_thread()

from dataclasses import dataclass  # noqa: E402
from statistics import median  # noqa: E402
from time import process_time  # noqa: E402

import torch  # noqa: E402
import tyro  # noqa: E402
from rich import print_json  # noqa: E402

from rl_det.detectors.loading import build_detector  # noqa: E402
from rl_det.detectors.protocol import Detector, Part  # noqa: E402
from rl_det.types import Target  # noqa: E402

NUM_CLASSES, NUM_PROPOSALS, HEIGHT, WIDTH = 3, 100, 480, 640


@dataclass(frozen=True, kw_only=True)
class Config:
    json: bool = False
    """Print plain JSON."""
    repeats: int = 5
    """How often a pass is timed."""
    detectors: tuple[str, ...] = (
        "fasterrcnn_mobilenet_v3_large_320_fpn", "fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2",
        "retinanet_resnet50_fpn",
    )  # fmt: skip
    """Names of torchvision's detectors."""
    part: Part = "head"
    """The part that is trained."""


def measured(name: str, config: Config) -> dict[str, float]:
    """Seconds of encoding an image, MB of its encoding, seconds of a pass of the head."""
    torch.manual_seed(0)
    detector: Detector = build_detector(name, num_classes=NUM_CLASSES, part=config.part)
    corners = torch.tensor([[50.0, 60.0, 200.0, 220.0], [300.0, 100.0, 400.0, 260.0], [420.0, 300.0, 600.0, 440.0]])
    truth = Target(
        boxes=corners, labels=torch.tensor([1, 2, 3]), area=(corners[:, 2:] - corners[:, :2]).prod(1),
        iscrowd=torch.zeros(3, dtype=torch.bool), image_id=0,
    )  # fmt: skip
    image = torch.rand(3, HEIGHT, WIDTH)
    began = process_time()
    encoded = detector.encode([image], NUM_PROPOSALS) if detector.overlapping_proposals else detector.encode([image])
    seconds, spent = process_time() - began, list[float]()
    for _ in range(1 + config.repeats):  # the first warms up
        began = process_time()
        losses = detector.loss(encoded, [truth], detector.head(encoded))
        torch.stack(list(losses.values())).sum().backward()
        spent.append(process_time() - began)
    megabytes = sum(level.numel() for level in encoded.features) * 2 / 1e6  # kept in half precision
    return {
        "encode_s": round(seconds, 2),
        "encoding_MB": round(megabytes, 2),
        "head_pass_s": round(median(spent[1:]), 3),
    }


def main(config: Config) -> None:
    """Print the numbers of each detector."""
    torch.set_num_threads(1)
    found = {name: measured(name, config) for name in config.detectors}
    print_json(data=found, indent=None if config.json else 2)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
