"""One way of raising mAP, one seed, one process -> its test figures, its detections: what compare.py starts many of.

Command: python experiments/run_strategy.py --method ppo_voting --seed 0 --encodings FOLDER --out FOLDER

Encodings lie in a folder that all share, in half precision, the test split's too; where they are not there yet they are made.
"""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from approaches import STRATEGIES, check_strategies
from methods import make_policy
from task import Arguments as CommonArguments
from task import Bar, Task, clear_errors, open_task
from tuning import tuned_on

from rl_det.ap.batch import DetectionBatch
from rl_det.ap.padding import pad_targets
from rl_det.data import Split
from rl_det.detectors.encodings import EncodedDataset, encode_dataset
from rl_det.metrics.evaluation import evaluate
from rl_det.metrics.operating_point import best_f1, operating_point
from rl_det.metrics.outcomes import outcomes
from rl_det.storage.files import write_with
from rl_det.storage.run import Run
from rl_det.types import Detections

DETECTIONS = "detections.npz"


@dataclass(frozen=True, kw_only=True)
class Arguments(CommonArguments):
    """The flags of every experiment, which way, and where encodings are kept."""

    method: str
    """A name of `approaches.STRATEGIES`."""
    encodings: Path
    """The folder in which each split's encodings lie, or will."""


def main(arguments: Arguments) -> None:
    """Tune, detect, judge; results.json and the test split's detections are written last."""
    check_strategies([arguments.method])
    strategy = STRATEGIES[arguments.method]
    arguments = replace(arguments, policy=strategy.policy)
    task = tuned_on(open_task(arguments), arguments)
    train, val, test = (kept(task, split, arguments.encodings) for split in ("train", "val", "test"))
    assert arguments.out is not None
    with Run(arguments.out, asdict(arguments), arguments.seed) as run:
        torch.manual_seed(arguments.seed)
        policy = make_policy(strategy.policy, task.detector)
        started = time.perf_counter()
        strategy.tune(policy, train, val, arguments, run)
        detect = strategy.finish(policy, val)
        seconds = time.perf_counter() - started
        found = detect(test)
        write_with(arguments.out / DETECTIONS, lambda file: save(found, file))
        figures = evaluate(as_detections(found), test.targets, num_classes=task.detector.num_classes)
        figures["F1"] = f1_at_validations_best(detect(val), val, found, test, task.detector.num_classes)
        run.write_results({"method": arguments.method, "seed": arguments.seed, "seconds": seconds, "figures": figures})


def save(found: DetectionBatch, path: Path) -> None:
    """In numpy's own form; numpy would add a suffix to the name of a file that is not open."""
    with path.open("wb") as file:
        np.savez_compressed(file, **vars(found))


def kept(task: Task, split: Split, folder: Path) -> EncodedDataset:
    """One split's encodings, from the folder or into it."""
    dataset = task.splits[split]
    folder.mkdir(parents=True, exist_ok=True)
    with Bar(f"encode {split}", len(dataset)) as bar:
        return encode_dataset(task.detector, dataset, folder=folder / split, on_batch=bar.advance)


def f1_at_validations_best(
    val_found: DetectionBatch, val: EncodedDataset, found: DetectionBatch, test: EncodedDataset, num_classes: int
) -> float:
    """The test split's F1 at the threshold that was best on validation: what a user who sets it there gets."""
    threshold = best_f1(outcomes(val_found, pad_targets(val.targets), num_classes=num_classes)).threshold
    return operating_point(outcomes(found, pad_targets(test.targets), num_classes=num_classes), threshold).f1


def as_detections(found: DetectionBatch) -> list[Detections]:
    """In torchvision's form, image by image."""
    return [
        Detections(
            boxes=torch.from_numpy(boxes[mask]),
            labels=torch.from_numpy(labels[mask]),
            scores=torch.from_numpy(scores[mask].astype(np.float32)),
        )
        for boxes, labels, scores, mask in zip(found.boxes, found.labels, found.scores, found.mask, strict=True)
    ]


if __name__ == "__main__":
    with clear_errors():
        main(tyro.cli(Arguments))
