"""What does a step of each strategy cost beside a supervised step of the same detector on the same images?

    python experiments/benchmarks/strategies.py --json

Batches of 48 digit scenes, `tiny`, one thread, medians of interleaved repeats in CPU time. Every step fetches its batch,
computes a loss, goes back through it, clips the gradient and moves the weights by AdamW. Two bases, as "a supervised step of
the same detector" may mean either:

* `head`: on cached encodings, by the head's own losses; what continued supervised training does.
* `detector`: from images that are in memory, through the backbone, by all of the model's losses; what a warm start does.

On cached encodings too, and of the head's parameters alone:

* a surrogate's step: the same, with the surrogate and all that `rl_det.strategies.surrogate` mixes in;
* an RL update: a rollout of K = 2 samples an image with exact credit, in the rescoring environment, and one epoch of PPO on
  it with the supervised loss mixed in.

And from images, `from_start`: all of the model's losses and the surrogate (smooth-AP), with gradient to the backbone.

`surrogate_over_supervised` and `rl_over_supervised` are over `head`, the stricter of the two: the same parameters are trained;
`..._of_detector` are over `detector`.
"""

from one_thread import insist_on_one_thread

insist_on_one_thread()

import json  # noqa: E402
from collections.abc import Callable  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from functools import partial  # noqa: E402
from statistics import median  # noqa: E402
from time import process_time  # noqa: E402
from typing import Any, get_args  # noqa: E402

import gymnasium  # noqa: E402
import rl_det_envs  # noqa: E402, F401  (registers the environments)
import torch  # noqa: E402
import tyro  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from rl_det.data.digit_scenes import CLASSES, DigitScenes  # noqa: E402
from rl_det.detectors import Detector, build_detector  # noqa: E402
from rl_det.detectors.encodings import EncodedDataset, encode_dataset  # noqa: E402
from rl_det.detectors.torchvision.tiny import SHIPPED_WEIGHTS  # noqa: E402
from rl_det.policies.rescore import RescorePolicy  # noqa: E402
from rl_det.strategies import surrogate  # noqa: E402
from rl_det.strategies.labels import Losses, supervised_loss  # noqa: E402
from rl_det.strategies.ppo import PPO, PpoLearner  # noqa: E402
from rl_det.strategies.supervised import labelled  # noqa: E402
from rl_det.strategies.teaching import taught  # noqa: E402
from rl_det.training.descent import Descent  # noqa: E402
from rl_det.types import Sample  # noqa: E402


@dataclass(frozen=True, kw_only=True)
class Config:
    json: bool = False
    """Print one JSON object; else a table."""
    images: int = 48
    """Of a batch."""
    batches: int = 4
    """Different batches that the steps go through."""
    repeats: int = 9
    """Steps of each kind."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A detector, and the same images twice: as they are, and encoded."""

    detector: Detector
    samples: list[Sample]
    data: EncodedDataset
    images: int

    def batch(self, number: int) -> Tensor:
        """Positions of a batch."""
        return torch.arange(self.images) + number * self.images % len(self.samples)


def main(config: Config) -> None:
    """Time all kinds of steps, one of each in turn."""
    torch.set_num_threads(1)
    scenes = DigitScenes("train", num_scenes=config.images * config.batches)
    detector = build_detector("tiny", num_classes=len(CLASSES), weights=SHIPPED_WEIGHTS)
    samples = [scenes[index] for index in range(len(scenes))]
    bench = Bench(detector=detector, samples=samples, data=encode_dataset(detector, scenes), images=config.images)
    steps = kinds(bench)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(config.repeats + 1):  # the first warms up and compiles
        for name, step in steps.items():
            start = process_time()
            step(repeat)
            times[name].append(process_time() - start)
    milliseconds = {name: round(1000 * median(spent[1:]), 2) for name, spent in times.items()}
    result = summary(milliseconds) | {"images": config.images, "repeats": config.repeats}
    print(json.dumps(result, indent=2) if config.json else table(result))


def summary(milliseconds: dict[str, float]) -> dict[str, Any]:
    """The steps' times, and their ratios to the two bases."""
    names = get_args(surrogate.SurrogateName)
    result: dict[str, Any] = {"milliseconds": milliseconds}
    for suffix, base in (("", milliseconds["head"]), ("_of_detector", milliseconds["detector"])):
        result[f"surrogate_over_supervised{suffix}"] = {name: round(milliseconds[name] / base, 3) for name in names}
        result[f"rl_over_supervised{suffix}"] = round(milliseconds["rl"] / base, 3)
    result["from_start_over_supervised"] = round(milliseconds["from_start"] / milliseconds["detector"], 3)
    return result


def table(result: dict[str, Any]) -> str:
    """Every step with its time and its two ratios."""
    times = result["milliseconds"]
    lines = [f"{'step':20} {'ms':>8} {'/ detector':>11} {'/ head':>8}"]
    lines += [
        f"{name:20} {spent:8.1f} {spent / times['detector']:11.2f} {spent / times['head']:8.2f}"
        for name, spent in times.items()
    ]
    return "\n".join(lines)


def kinds(bench: Bench) -> dict[str, Callable[[int], None]]:
    """A step of each kind, by name; each is given the number of its batch, and all train the same weights."""
    steps: dict[str, Callable[[int], None]] = {
        "detector": of_detector(bench, own_losses),
        "from_start": of_detector(
            bench, lambda detector, samples: surrogate.model_losses(detector, samples, surrogate.Surrogate())
        ),
        "head": of_head(bench, lambda *batch: {"supervised": supervised_loss(*batch)}),
    }
    for name in get_args(surrogate.SurrogateName):
        steps[name] = of_head(bench, partial(surrogate.policy_losses, config=surrogate.Surrogate(name)))
    return steps | {"rl": of_agent(bench)}


def own_losses(detector: Detector, samples: list[Sample]) -> dict[str, Tensor]:
    """All of the model's losses, in training mode."""
    labels = [labelled(sample, torch.device("cpu")) for sample in samples]
    return detector.training_losses([sample.image for sample in samples], labels)


def of_detector(bench: Bench, losses: Callable[[Detector, list[Sample]], dict[str, Tensor]]) -> Callable[[int], None]:
    """A step of the whole detector, from images in memory."""
    move = mover(bench.detector.plain())

    def step(number: int) -> None:
        move(losses(bench.detector, [bench.samples[index] for index in bench.batch(number).tolist()]))

    return step


def of_head(bench: Bench, losses: Losses) -> Callable[[int], None]:
    """A step of the head, on cached encodings."""
    policy = RescorePolicy(bench.detector, sigma=0.5)
    move = mover(policy.trainable)

    def step(number: int) -> None:
        images = bench.batch(number)
        encoded = bench.data.batch(images, bench.detector)
        targets = [bench.data.targets[index] for index in images.tolist()]
        move(losses(policy, encoded, bench.detector.head(encoded), targets))

    return step


def mover(model: nn.Module) -> Callable[[dict[str, Tensor]], None]:
    """What follows the losses: back, clip, AdamW."""
    descent = slow_descent(model)

    def move(losses: dict[str, Tensor]) -> None:
        descent.step(torch.stack(list(losses.values())).sum())

    return move


def slow_descent(model: nn.Module) -> Descent:
    """The loop's steps, at a rate that leaves the weights as good as they are."""
    return Descent(
        model,
        num_updates=1,
        learning_rate=1e-6,
        weight_decay=0.01,
        schedule="cosine",
        max_grad_norm=1.0,
        mixed=False,
        average=None,
    )


def of_agent(bench: Bench) -> Callable[[int], None]:
    """A rollout of two samples an image, with credit, and one epoch on it."""
    policy = RescorePolicy(bench.detector, sigma=0.5)
    envs = gymnasium.make_vec(
        "rl_det/RescoreDetections-v0",
        num_envs=2 * bench.images,
        vectorization_mode="vector_entry_point",
        detector=bench.detector,
        dataset=bench.data,
        num_candidates=96,
        context_candidates=160,
        samples_per_image=2,
    )
    envs.reset(seed=0)
    learner = PpoLearner(
        policy,
        envs,
        PPO(num_epochs=1),
        generator=torch.Generator().manual_seed(0),
        validate=lambda: 0.0,
        supervised=taught(None, policy, bench.data),
    )
    descent = slow_descent(policy.trainable)

    def step(number: int) -> None:
        learner.update(number, descent)

    return step


if __name__ == "__main__":
    main(tyro.cli(Config))
