"""A warm start and a way to tune it -> a run's folder: the warm start, the control and that way, by their test figures.

Whatever the way, the control is the same: continued supervised training of the same parameters, on the same images, for as
many image passes, under the same schedule. Each is chosen by validation AP and judged on the untouched test split.
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from methods import EVALUATED_CANDIDATES, make_policy, plainly_voted, recalibrated, test_figures, validation_ap
from task import Arguments, Bar, Task, head_config, open_task

from rl_det.data import Split
from rl_det.data.augment import Augmentations, Views
from rl_det.detectors.encodings import EncodedDataset, encode_dataset
from rl_det.policies.export import export
from rl_det.policies.policy import Policy
from rl_det.policies.voting import VotingPolicy
from rl_det.report.tables import print_table
from rl_det.storage.files import check_writable
from rl_det.storage.run import Run
from rl_det.training import continued

NUM_UPDATES = {"smoke": 4, "short": 300, "full": 900}
EPOCHS_PER_UPDATE = 2
MAX_PASSES = 30
"""Over the training images, epochs counted, each view an image of its own: a small data set is learned by heart in more."""
ENOUGH_IMAGES, MAX_VIEWS = 1200, 6
"""With fewer training images, each is seen in several views, at most so many: a head that was trained on an image says more of
it than of a new one, and what it gets wrong there is not what it gets wrong elsewhere."""
VIEWS = Augmentations(scale=(0.85, 1.18))
"""How views differ: in BCCD, the warm start's AP is 63 on its training images, and 55 on these as on validation."""
NUM_VALIDATIONS = 12
IMAGES_PER_UPDATE = 48

Method = Callable[[Policy, EncodedDataset, EncodedDataset, Run], None]
"""(a policy at the warm start, images to train on, images to validate on, the run) -> nothing; the policy is tuned."""


def compare(arguments: Arguments, experiment: str, name: str, method: Method, **facts: str) -> None:
    """Warm start, control, method; the table is written whatever it says. The facts go into the results."""
    seconds: dict[str, float] = {}
    folder = arguments.out or default_folder(experiment, arguments)
    check_writable(folder)
    started = time.perf_counter()
    task = open_task(arguments)
    seconds["warm_start"] = time.perf_counter() - started
    train, val = encoded(tuned_on(task, arguments), "train"), encoded(task, "val")

    def control(policy: Policy, train: EncodedDataset, val: EncodedDataset, run: Run) -> None:
        continue_supervised(policy, train, val, arguments, run)

    with Run(folder, asdict(arguments), arguments.seed) as run:
        torch.manual_seed(arguments.seed)
        warm = make_policy(arguments.policy, task.detector)
        methods = {"warm_start": warm}
        for tuned, tune in {"continued_supervised": control, name: method}.items():
            started = time.perf_counter()
            methods[tuned] = copy.deepcopy(warm)
            tune(methods[tuned], train, val, run)
            run.save_checkpoint(tuned, methods[tuned].state_dict())
            seconds[tuned] = time.perf_counter() - started
        for untuned in ("warm_start", "continued_supervised"):
            started = time.perf_counter()
            if isinstance(policy := methods[untuned], VotingPolicy):
                methods[f"{untuned}_voted"] = plainly_voted(policy, val)
                seconds[f"{untuned}_voted"] = seconds[untuned] + time.perf_counter() - started
        methods[name] = methods.pop(name)  # the last in the table
        pairs = {name: (policy, recalibrated(policy, val)) for name, policy in methods.items()}
        results = {
            "seed": arguments.seed,
            "data": str(arguments.data or "digit_scenes"),
            "detector": arguments.detector,
            "device": str(task.device),
            "policy": arguments.policy,
            **facts,
            "budget": arguments.budget,
            "seconds": {name: round(spent, 1) for name, spent in seconds.items()},
            "methods": test_figures(pairs, task.splits["test"]),
        }
        run.write_results(results)
        for tuned in ("continued_supervised", name):
            export(pairs[tuned][1], run.folder / tuned, EVALUATED_CANDIDATES)
    print_table(results)
    print(f"The tuned detectors, the metrics and results.json are in {run.folder}")


def continue_supervised(
    policy: Policy, train: EncodedDataset, val: EncodedDataset, arguments: Arguments, run: Run
) -> None:
    """The control."""
    config = control_config(arguments, len(train))
    with Bar("continued_supervised", config.num_steps, run.log) as bar:
        continued.train(
            policy,
            train,
            config,
            generator=torch.Generator().manual_seed(arguments.seed),
            validate=lambda: validation_ap(policy, val),
            on_step=bar.update,
        )


def control_config(arguments: Arguments, num_images: int) -> continued.Config:
    """As many image passes as a method of this many updates makes, epochs counted, at the same learning rate."""
    updates = num_updates(arguments, num_images)
    return continued.Config(
        num_steps=updates * EPOCHS_PER_UPDATE,
        batch_size=min(IMAGES_PER_UPDATE, num_images),
        learning_rate=head_config(arguments).learning_rate,
        validate_every=validate_every(updates) * EPOCHS_PER_UPDATE,
    )


def num_updates(arguments: Arguments, num_images: int) -> int:
    """As many as the budget and the number of images allow."""
    passes_per_update = EPOCHS_PER_UPDATE * min(IMAGES_PER_UPDATE, num_images) / num_images
    return min(NUM_UPDATES[arguments.budget], math.ceil(MAX_PASSES / passes_per_update))


def validate_every(updates: int) -> int:
    """Updates between two validations."""
    return math.ceil(updates / NUM_VALIDATIONS)


def tuned_on(task: Task, arguments: Arguments) -> Task:
    """The task with the training images as every method is tuned on them: in several views where they are few."""
    train = task.splits["train"]
    num_views = 1 if arguments.budget == "smoke" else min(MAX_VIEWS, math.ceil(ENOUGH_IMAGES / len(train)))
    return replace(task, splits={**task.splits, "train": Views(train, num_views, VIEWS) if num_views > 1 else train})


def encoded(task: Task, split: Split) -> EncodedDataset:
    """One split's encodings, with a progress bar."""
    dataset = task.splits[split]
    with Bar(f"encode {split}", len(dataset)) as bar:
        return encode_dataset(task.detector, dataset, on_batch=bar.advance)


def default_folder(experiment: str, arguments: Arguments) -> Path:
    """A name that says what was run."""
    data = "digit_scenes" if arguments.data is None else arguments.data.resolve().name
    parts = (experiment, data, arguments.detector, arguments.policy, arguments.budget, f"seed{arguments.seed}")
    return Path("runs") / "-".join(parts)
