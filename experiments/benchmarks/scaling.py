"""How does the cost grow with images, candidates, classes and image size?

    python experiments/benchmarks/scaling.py --json

One process, one thread, medians of repeats in CPU time. For each quantity: its size, the milliseconds, the slope of a line
through their logarithms, and the least and the largest slope between two neighbouring sizes. 1 is proportional, 2 quadratic.
What it printed last, and where, is in docs/scaling.md.

* `coco_figures`: the AP engine on typical images (100 detections, 80 classes), by images, by detections and by classes.
* `relations`: the candidates' IoUs and what they may match, by candidates of an image.
* `step`: an environment's step with exact credit from a new scene on, by candidates that act and by images of the pool.
* `update`: an update of PPO as `PPO()` makes it, by images; `encode`: the frozen part of `tiny`, by the side of the image.
* `bytes`: of an image's encoding, and of its relations in the pool with PPO's candidates; `trained` parameters.
"""

from one_thread import insist_on_one_thread

insist_on_one_thread()

import json  # noqa: E402
from collections.abc import Callable, Mapping  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from statistics import median  # noqa: E402
from time import process_time  # noqa: E402
from typing import Any  # noqa: E402

import gymnasium  # noqa: E402
import numpy as np  # noqa: E402
import rl_det_envs  # noqa: E402, F401  (registers the environments)
import torch  # noqa: E402
import tyro  # noqa: E402
from rich import print_json  # noqa: E402
from scenes import typical  # noqa: E402

from rl_det.ap import coco_figures  # noqa: E402
from rl_det.ap.relations import Relations, relations  # noqa: E402
from rl_det.data.digit_scenes import CLASSES, DigitScenes  # noqa: E402
from rl_det.detectors import Detector, build_detector  # noqa: E402
from rl_det.detectors.encodings import EncodedDataset, encode_dataset  # noqa: E402
from rl_det.detectors.torchvision.tiny import SHIPPED_WEIGHTS  # noqa: E402
from rl_det.policies.build import POLICIES, build_policy  # noqa: E402
from rl_det.strategies.ppo import PPO, PpoLearner  # noqa: E402
from rl_det.training.loop import FitRun  # noqa: E402
from rl_det.training.loop_config import LoopConfig  # noqa: E402


@dataclass(frozen=True, kw_only=True)
class Config:
    images: tuple[int, ...] = (125, 250, 500, 1000)
    """Of a data set, whose AP is computed."""
    detections: tuple[int, ...] = (25, 50, 100, 200)
    """Of an image, whose AP is computed."""
    classes: tuple[int, ...] = (20, 80, 320)
    candidates: tuple[int, ...] = (64, 128, 256, 512)
    """Of an image, in relations and steps."""
    pool: tuple[int, ...] = (16, 32, 64)
    """Images of the pool."""
    batch: tuple[int, ...] = (6, 12, 24, 48)
    """Images of an update."""
    sides: tuple[int, ...] = (64, 128, 256)
    """Of the image that is encoded, in pixels."""
    repeats: int = 5
    json: bool = False
    """Print plain JSON."""


def timed(ways: Mapping[int, Callable[[], Any]], repeats: int) -> dict[str, Any]:
    """Median CPU milliseconds at each size, in turns of which the first does not count, and the slopes."""
    spent: dict[int, list[float]] = {size: [] for size in ways}
    for _ in range(repeats + 1):
        for size, way in ways.items():
            start = process_time()
            way()
            spent[size].append(1000 * (process_time() - start))
    times = {size: median(own[1:]) for size, own in spent.items()}
    x, y = np.log(list(times)), np.log(list(times.values()))
    between = np.diff(y) / np.diff(x)
    return {
        "milliseconds": {str(size): round(own, 3) for size, own in times.items()},
        "slope": round(float(np.polyfit(x, y, 1)[0]), 2),
        "slopes_between": [round(float(between.min()), 2), round(float(between.max()), 2)],
    }


def evaluation(num_images: int, num_detections: int, num_classes: int) -> Callable[[], Any]:
    """The twelve figures of so many images."""
    found, truths = typical(np.random.default_rng(0), num_images, num_classes, num_detections=num_detections)
    return lambda: coco_figures(found, truths, num_classes=num_classes)


def related(num_candidates: int, num_images: int = 64) -> Callable[[], Relations]:
    """The relations of so many candidates in each of a few images."""
    found, truths = typical(np.random.default_rng(0), num_images, 80, num_detections=num_candidates)
    return lambda: relations(found.boxes, found.labels, found.mask, truths, num_classes=80)


def stepping(detector: Detector, data: EncodedDataset, num_candidates: int, pool_images: int) -> Callable[[], Any]:
    """A reset and a step of 16 images, with credit."""
    envs: Any = gymnasium.make_vec(
        "rl_det/RescoreDetections-v0", num_envs=16, vectorization_mode="vector_entry_point", detector=detector,
        dataset=data, num_candidates=num_candidates, pool_images=pool_images,
    )  # fmt: skip
    actions = 0.03 * torch.randn(envs.action_space.shape, generator=torch.Generator().manual_seed(0))
    envs.reset(seed=0)

    def step() -> None:
        envs.reset()
        envs.step(actions)

    return step


def updating(detector: Detector, data: EncodedDataset, num_images: int) -> Callable[[], Any]:
    """An update of PPO with its own settings, and the surrogate that teaches."""
    config = PPO()
    policy = build_policy(config.policy, detector).copy()
    envs: Any = gymnasium.make_vec(
        POLICIES["voting"].environment, num_envs=num_images * config.samples_per_image,
        vectorization_mode="vector_entry_point", detector=policy.detector, dataset=data,
        samples_per_image=config.samples_per_image, num_candidates=config.num_candidates,
        context_candidates=config.context_candidates, pool_images=num_images, **policy.environment_options,
    )  # fmt: skip
    envs.reset(seed=0)
    generator = torch.Generator().manual_seed(0)
    learner = PpoLearner(
        policy, envs, config, generator=generator, validate=lambda: 0.0, supervised=config.teaching(policy, data)
    )
    run = FitRun(learner, LoopConfig(num_updates=100, learning_rate=1e-5), "ppo")
    return lambda: learner.update(1, run.descent)


def encoding(side: int) -> Callable[[], Any]:
    """Eight digit scenes, resized to this side, through the frozen part."""
    detector = build_detector("tiny", num_classes=len(CLASSES), input_size=side, weights=SHIPPED_WEIGHTS)
    scenes = DigitScenes("val", num_scenes=8)
    images = [scenes[index].image for index in range(8)]
    return lambda: detector.encode(images)


def of_arrays(record: Any) -> int:
    """The bytes of a record's arrays."""
    return sum(value.nbytes for value in vars(record).values() if isinstance(value, np.ndarray))


def main(config: Config) -> None:
    detector = build_detector("tiny", num_classes=len(CLASSES), weights=SHIPPED_WEIGHTS)
    data = encode_dataset(detector, DigitScenes("train", num_scenes=max(*config.pool, *config.batch)))
    ways: dict[str, dict[int, Callable[[], Any]]] = {
        "coco_figures_by_images": {n: evaluation(n, 100, 80) for n in config.images},
        "coco_figures_by_detections": {n: evaluation(100, n, 80) for n in config.detections},
        "coco_figures_by_classes": {n: evaluation(100, 100, n) for n in config.classes},
        "relations_by_candidates": {n: related(n) for n in config.candidates},
        "step_by_candidates": {n: stepping(detector, data, n, 16) for n in config.candidates},
        "step_by_pool_images": {n: stepping(detector, data, 64, n) for n in config.pool},
        "update_by_images": {n: updating(detector, data, n) for n in config.batch},
        "encode_by_side": {n: encoding(n) for n in config.sides},
    }
    encoded = data.batch(torch.arange(4), detector)
    own = PPO()
    results: dict[str, Any] = {name: timed(own_ways, config.repeats) for name, own_ways in ways.items()}
    results["bytes"] = {
        "encoding": sum(2 * level.numel() for level in encoded.features) // 4,  # kept in half precision
        "relations": of_arrays(related(own.num_candidates + own.context_candidates, 4)()) // 4,
        "trained_parameters": sum(parameter.numel() for parameter in detector.trainable.parameters()),
    }
    print(json.dumps(results)) if config.json else print_json(data=results)


if __name__ == "__main__":
    main(tyro.cli(Config))
