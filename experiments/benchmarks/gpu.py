"""What do detectors of real size cost: encoding, a supervised step and an RL step on cached encodings, and without a cache?

    python experiments/benchmarks/gpu.py --json                                             # full size, on a GPU if any
    python experiments/benchmarks/gpu.py --json --image-size 128 --images 4 --batch-size 2  # tries it out on a CPU

`--precision float32|mixed` and `--compile` say how the frozen part runs (by default mixed on CUDA, not compiled).

A ResNet-50 and a MobileNetV2 Faster R-CNN, a RetinaNet and an RT-DETR with random weights, on images of noise with ten boxes
each. For each detector:

* `encode_images_a_second`, and `encoding_mb`: of one image, features in half precision;
* `supervised_ms`, `rl_ms`: one update on one batch of cached encodings: labels; and a rollout of K samples with exact credit
  and one epoch of PPO on it, labels mixed in. Medians. `rl_over_supervised` is their ratio;
* `rl_images_a_second`; `reward_share`: the part of an RL update between actions and rewards with credit;
* `in_the_loop_over_supervised`: both without a cache, where the frozen part runs in each update;
* `peak_gib`: of the device's memory, or of the process on a CPU.

`benchmarks/ap_on_device.py` compares the engine's GPU and CPU paths.
"""

import json
import platform
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import gymnasium
import rl_det_envs  # noqa: F401  (registers the environments)
import torch
import tyro
from mobilenet import mobilenet_faster_rcnn
from rl_det_envs.agent import Earned

from rl_det.detectors import Detector, build_detector
from rl_det.detectors.encodings import Encodings, encode_dataset, encode_in_the_loop
from rl_det.detectors.frozen import FrozenPart
from rl_det.detectors.loading import Device, device_named, of_model
from rl_det.detectors.protocol import Part
from rl_det.policies.build import POLICIES, build_policy, name_of
from rl_det.precision import WantedPrecision
from rl_det.strategies.labels import LabelsLearner, supervised_loss
from rl_det.strategies.ppo import PPO, PpoLearner
from rl_det.strategies.teaching import taught
from rl_det.training.loop import FitRun
from rl_det.training.loop_config import LoopConfig
from rl_det.types import Sample, Target

NUM_CLASSES, NUM_BOXES = 20, 10
MOBILENET = "fasterrcnn_mobilenet_v2"
DETECTORS = ("fasterrcnn_resnet50_fpn", MOBILENET, "retinanet_resnet50_fpn", "RTDetrForObjectDetection")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sizes of the benchmark."""

    detectors: tuple[str, ...] = DETECTORS
    device: Device = "auto"
    image_size: int | None = None
    """The shorter side; left out: 800, and 640 for the RT-DETR and 320 for the MobileNet."""
    part: Part = "head"
    images: int = 48
    batch_size: int = 16
    samples: int = 2
    """K, of each image."""
    updates: int = 5
    """That are timed, after one that is not."""
    num_proposals: int = 300
    """The proposals that an encoding keeps."""
    precision: WantedPrecision = "auto"
    """Of the frozen part: auto is mixed on CUDA, and else float32."""
    compile: bool = False
    """Compile the frozen part."""
    json: bool = False


class Noise:
    """Images of noise, as large as the detector sees them, with boxes anywhere."""

    classes = tuple(map(str, range(1, NUM_CLASSES + 1)))

    def __init__(self, num_images: int, size: int) -> None:
        self.num_images, self.size = num_images, size

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, index: int) -> Sample:
        if index >= self.num_images:
            raise IndexError(index)
        generator = torch.Generator().manual_seed(index)
        corner, sides = torch.rand(2, NUM_BOXES, 2, generator=generator)
        corner, sides = 0.7 * self.size * corner, self.size * (0.05 + 0.25 * sides)
        boxes = torch.cat([corner, corner + sides], 1)
        target = Target(
            boxes=boxes,
            labels=torch.randint(1, NUM_CLASSES + 1, (NUM_BOXES,), generator=generator),
            area=sides.prod(1),
            iscrowd=torch.zeros(NUM_BOXES, dtype=torch.bool),
            image_id=index,
        )
        return Sample(image=torch.rand(3, self.size, self.size, generator=generator), target=target)


def built(name: str, config: Config) -> tuple[Detector, int]:
    """The detector with random weights, and the size of its images."""
    usual = {MOBILENET: 320, "RTDetrForObjectDetection": 640}.get(name, 800)
    size = config.image_size or usual
    torch.manual_seed(0)
    if name == MOBILENET:
        detector = of_model(mobilenet_faster_rcnn(NUM_CLASSES, size), part=config.part)
    else:
        detector = build_detector(name, num_classes=NUM_CLASSES, input_size=size, part=config.part)
    detector.plain().to(device_named(config.device))
    return detector, size


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(act: Callable[[int], Any], updates: int, device: torch.device) -> float:
    """Median seconds of an update, after one that is not counted."""
    seconds = []
    for update in range(1, updates + 2):
        synchronize(device)
        start = time.perf_counter()
        act(update)
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return median(seconds[1:])


def supervised_seconds(detector: Detector, data: Encodings, config: Config) -> float:
    """An update by labels."""
    policy = build_policy("rescore", detector).copy()
    learner = LabelsLearner(
        policy,
        data,
        lambda *batch: {"supervised": supervised_loss(*batch)},
        batch_size=config.batch_size,
        generator=torch.Generator().manual_seed(0),
        validate=lambda: 0.0,
    )
    run = FitRun(learner, LoopConfig(num_updates=config.updates + 1, learning_rate=1e-6), "labels")
    return timed(lambda update: learner.update(update, run.descent), config.updates, detector.device)


def rl_seconds(detector: Detector, data: Encodings, config: Config) -> tuple[float, float]:
    """An update by PPO, and the seconds of it between actions and rewards."""
    policy = build_policy(None, detector).copy()
    ppo = PPO(samples_per_image=config.samples, num_epochs=1)
    envs: Any = gymnasium.make_vec(
        POLICIES[name_of(policy)].environment,
        num_envs=config.batch_size * config.samples,
        vectorization_mode="vector_entry_point",
        detector=policy.detector,
        dataset=data,
        samples_per_image=config.samples,
        pool_images=config.batch_size,
        num_candidates=ppo.num_candidates,
        context_candidates=ppo.context_candidates,
        device=detector.device,
        **policy.environment_options,
    )
    envs.reset(seed=0)
    spent: list[float] = []
    with watched(envs, spent, detector.device):
        learner = PpoLearner(
            policy,
            envs,
            ppo,
            generator=torch.Generator().manual_seed(0),
            validate=lambda: 0.0,
            supervised=taught(None, policy, data),
        )
        run = FitRun(learner, LoopConfig(num_updates=config.updates + 1, learning_rate=1e-6), "ppo")
        seconds = timed(lambda update: learner.update(update, run.descent), config.updates, detector.device)
    return seconds, median(spent[1:])


@contextmanager
def watched(envs: Any, spent: list[float], device: torch.device) -> Iterator[None]:
    """Time what the environment does between actions and rewards."""
    act = envs.act

    def timed_act(*arguments: Any, **keywords: Any) -> Earned:
        synchronize(device)
        start = time.perf_counter()
        earned: Earned = act(*arguments, **keywords)
        synchronize(device)
        spent.append(time.perf_counter() - start)
        return earned

    envs.act = timed_act
    try:
        yield
    finally:
        del envs.act


def peak_gib(device: torch.device) -> float:
    """The peak of the device's memory, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measured(name: str, config: Config) -> dict[str, float]:
    """All figures of one detector."""
    detector, size = built(name, config)
    images, device = Noise(config.images, size), detector.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    frozen = FrozenPart(precision=config.precision, compile=config.compile)
    with frozen.of(detector):
        detector.encode([images[place].image for place in range(min(len(images), config.batch_size, 8))])
    start = time.perf_counter()
    cached = encode_dataset(
        detector, images, batch_size=min(config.batch_size, 8), num_proposals=config.num_proposals, frozen=frozen
    )
    synchronize(device)
    encode = time.perf_counter() - start
    in_the_loop = encode_in_the_loop(
        images, batch_size=config.batch_size, num_proposals=config.num_proposals, frozen=frozen
    )
    supervised, (rl, reward) = supervised_seconds(detector, cached, config), rl_seconds(detector, cached, config)
    looped, (rl_looped, _) = (
        supervised_seconds(detector, in_the_loop, config),
        rl_seconds(detector, in_the_loop, config),
    )
    tensors = cached.encoded[:1].tensors().values()
    figures = {
        "image_size": size,
        "encode_images_a_second": config.images / encode,
        "encoding_mb": sum(tensor.element_size() * tensor.numel() for tensor in tensors) / 1e6,
        "supervised_ms": 1000 * supervised,
        "rl_ms": 1000 * rl,
        "rl_over_supervised": rl / supervised,
        "rl_images_a_second": config.batch_size / rl,
        "reward_share": reward / rl,
        "in_the_loop_over_supervised": rl_looped / looped,
        "peak_gib": peak_gib(device),
    }
    return {name: round(value, 3) for name, value in figures.items()}


def main(config: Config) -> None:
    """Measure one detector after the other."""
    device = device_named(config.device)
    shown = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    found = {name: measured(name, config) for name in config.detectors}
    told = {
        "device": shown,
        "cores": torch.get_num_threads(),
        "part": config.part,
        "precision": config.precision,
        "compile": config.compile,
        "batch_size": config.batch_size,
        **found,
    }
    if config.json:
        print(json.dumps(told, indent=2))
        return
    for name, figures in found.items():
        print(name, *(f"{key} {value}" for key, value in figures.items()), sep="\n  ")


if __name__ == "__main__":
    main(tyro.cli(Config))
