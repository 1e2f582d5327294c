"""Question: how far does supervised training of the whole detector go, led by its own validation mAP?

Command: python experiments/supervised.py --budget full --seed 0
Hardware, minutes and expected numbers: experiments/README.md.

From the warm start, or from random weights (`--weights none`), on the images that the other experiments tune on. Stopped
and kept by validation, where the warm start is the first candidate; judged by pycocotools on the untouched test split. A run
that was killed goes on with `--resume`.
"""

import copy
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import task as common
import torch
import tyro
from methods import EVALUATED_CANDIDATES, make_policy, recalibrated, test_figures
from task import Bar, PolicyName, Task, clear_errors, open_task

from rl_det.data.augment import Augmentations
from rl_det.detectors import Detector
from rl_det.detectors.encodings import encode_dataset
from rl_det.metrics.evaluation import quick_evaluate
from rl_det.policies.detections import detect_dataset
from rl_det.policies.export import export
from rl_det.policies.policy import Policy
from rl_det.report.precision_recall import curves_of, draw_curves, log_curves
from rl_det.report.tables import print_table
from rl_det.storage.checkpoint import check_same, read_checkpoint
from rl_det.storage.files import check_writable
from rl_det.storage.run import Run
from rl_det.training import supervised

NUM_STEPS = {"smoke": 6, "short": 250, "full": 1000}
MAX_PASSES = 60
"""Over the training images; a small data set is learned by heart in more."""
NUM_VALIDATIONS = {"smoke": 3, "short": 10, "full": 20}
FREE_TO_CHANGE = ("resume", "out", "device")
AUGMENTATIONS = {
    "none": Augmentations(),
    "colour": Augmentations(photometric=True),
    "strong": Augmentations(scale=(0.7, 1.4), photometric=True),
}


@dataclass(frozen=True, kw_only=True)
class Arguments(common.Arguments):
    """The common flags, and those of the training."""

    policy: tyro.conf.Suppress[PolicyName] = "rescore"
    reward: tyro.conf.Suppress[str] = ""
    resume: bool = False
    """Go on where a run with the same --out and the same flags was stopped, if there was one."""
    monitor: str = "AP"
    """The figure of the validation that decides what is best, as results.json names it."""
    patience: int = 8
    """Validations without progress before training stops."""
    min_delta: float = 0.0
    """How much better than the best is progress."""
    warm_up: int = 0
    """So many validations at first do not count."""
    learning_rate: float | None = None
    """AdamW's peak rate; left out: the warm start's, or, where that is what is trained on, a quarter of it."""
    schedule: Literal["cosine", "step"] = "cosine"
    """How the rate falls."""
    ema: float = 0.99
    """The decay of the weights' running mean, which is validated and kept; 0: none."""
    augment: Literal["none", "colour", "strong"] = "none"
    """What happens to training images: colours change; or the scale too."""
    precision: Literal["float32", "mixed"] = "float32"
    """mixed: float16 on CUDA, bfloat16 on a CPU."""


def main(arguments: Arguments) -> None:
    """Train, judge on test, and print what it gave beside the start."""
    folder = arguments.out or default_folder(arguments)
    check_writable(folder)
    training_config(arguments, num_images=1)  # a flag that is no good is refused before any work
    checkpoint = folder / "checkpoints" / "training.pt"
    going_on = stopped_at(folder, arguments) if arguments.resume and checkpoint.exists() else None
    started = time.perf_counter()
    task = open_task(arguments, trained_first=False)
    seconds = {"warm_start": time.perf_counter() - started}
    config = training_config(arguments, len(task.splits["train"]))
    with Run(folder, asdict(arguments), arguments.seed, going_on=going_on) as run:
        if going_on is None:
            checkpoint.unlink(missing_ok=True)
        policies = {} if arguments.weights == "none" else {"warm_start": policy_of(copy.deepcopy(task.detector))}
        started = time.perf_counter()
        best = train(task, config, arguments, run, checkpoint)
        seconds["supervised"] = time.perf_counter() - started
        policies["supervised"] = policy_of(task.detector)
        run.save_checkpoint("supervised", policies["supervised"].state_dict())
        results: dict[str, Any] = {
            "seed": arguments.seed,
            "data": str(arguments.data or "digit_scenes"),
            "detector": arguments.detector,
            "device": str(task.device),
            "budget": arguments.budget,
            "seconds": {name: round(seconds[name], 1) for name in policies},
            "best_validation": {arguments.monitor: best},
            "methods": {},
            "class_AP": {},
        }
        for name, policy in policies.items():
            tuned = recalibrated(policy, encode_dataset(policy.detector, task.splits["val"]))
            results["methods"] |= test_figures({name: (policy, tuned)}, task.splits["test"])
            results["class_AP"][name] = tell_classes(name, tuned.detector, task, config.num_steps, run)
            export(tuned, run.folder / name, EVALUATED_CANDIDATES)
        run.write_results(results)
    print_table(results)
    print(f"The trained detector, the metrics, the curves and results.json are in {folder}")


def train(task: Task, config: supervised.Config, arguments: Arguments, run: Run, checkpoint: Path) -> float:
    """All of the detector, in place; returns its best validation figure."""
    val = task.splits["val"]

    def validate() -> dict[str, float]:
        found, targets = detect_dataset(task.detector, val, EVALUATED_CANDIDATES)
        return quick_evaluate(found, targets, num_classes=task.detector.num_classes)

    torch.manual_seed(arguments.seed)
    generator = torch.Generator().manual_seed(arguments.seed)
    with Bar("supervised", config.num_steps, run.log) as bar:
        return supervised.train(
            task.detector,
            task.splits["train"],
            config,
            generator=generator,
            validate=validate,
            on_step=bar.update,
            checkpoint=checkpoint,
        )


def training_config(arguments: Arguments, num_images: int) -> supervised.Config:
    """As long as the budget and the number of images allow."""
    like = common.DIGITS_WARM_START if arguments.data is None else common.FOLDER_WARM_START
    num_steps = min(NUM_STEPS[arguments.budget], math.ceil(MAX_PASSES * num_images / like.batch_size))
    afresh = arguments.weights == "none"
    usual = like.learning_rate if afresh else like.learning_rate / 4
    return supervised.Config(
        num_steps=num_steps,
        batch_size=like.batch_size,
        learning_rate=usual if arguments.learning_rate is None else arguments.learning_rate,
        schedule=arguments.schedule,
        precision=arguments.precision,
        ema=arguments.ema,
        flip=like.flip,
        augmentations=AUGMENTATIONS[arguments.augment],
        num_workers=like.num_workers,
        validate_every=math.ceil(num_steps / NUM_VALIDATIONS[arguments.budget]),
        validate_start=not afresh,
        monitor=arguments.monitor,
        patience=arguments.patience,
        min_delta=arguments.min_delta,
        warm_up=arguments.warm_up,
    )


def stopped_at(folder: Path, arguments: Arguments) -> dict[str, int]:
    """How far the run in this folder had come; ValueError, naming the flag, if it was another."""
    file = folder / "config.json"
    then, now = json.loads(file.read_text()), {**asdict(arguments), "seed": arguments.seed}
    check_same(file, *({name: run[name] for name in run if name not in FREE_TO_CHANGE} for run in (then, now)))
    return {"supervised": int(read_checkpoint(folder / "checkpoints" / "training.pt")["step"])}


def policy_of(detector: Detector) -> Policy:
    """The detector as the other methods are judged: its own head, unchanged."""
    return make_policy("rescore", detector)


def tell_classes(name: str, detector: Detector, task: Task, step: int, run: Run) -> dict[str, float]:
    """Each class's test AP; it and the curves go to the run, as metrics and as a picture."""
    found, targets = detect_dataset(detector, task.splits["test"], EVALUATED_CANDIDATES)
    curves = curves_of(found, targets, task.splits["test"].classes)
    log_curves(run, step, f"{name}_test", curves)
    draw_curves(curves, run.folder / f"{name}_precision_recall.png", f"{name}, test split")
    return curves.class_ap


def default_folder(arguments: Arguments) -> Path:
    """A name that says what was run."""
    data = "digit_scenes" if arguments.data is None else arguments.data.resolve().name
    start = "from_nothing" if arguments.weights == "none" else "from_warm_start"
    parts = ("supervised", data, arguments.detector, start, arguments.budget, f"seed{arguments.seed}")
    return Path("runs") / "-".join(parts)


if __name__ == "__main__":
    with clear_errors():
        main(tyro.cli(Arguments))
