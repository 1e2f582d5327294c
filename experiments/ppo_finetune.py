"""Question: does PPO on a detector's own mAP raise it above what more supervised training gives?

Command: python experiments/ppo_finetune.py --budget full --seed 0
Hardware, minutes and expected numbers with their spread over seeds: experiments/README.md.

Three methods from one warm start: the warm start itself; continued supervised training of the same parameters, on the same
images, for as many image passes; PPO. Each is chosen by validation AP and judged by pycocotools on the untouched test split.
Where the policy votes, the first two are shown with voting that nobody trained as well: what is not PPO's gain.
"""

import copy
import math
import time
from dataclasses import asdict
from pathlib import Path

import gymnasium
import rl_det_envs  # noqa: F401  (registers the environments)
import torch
import tyro
from methods import EVALUATED_CANDIDATES, make_policy, plainly_voted, recalibrated, test_figures, validation_ap
from task import Arguments, Bar, Task, clear_errors, head_config, open_task

from rl_det.agents import ppo
from rl_det.data import Split
from rl_det.detectors.cache import EncodedDataset, encode_dataset
from rl_det.policies.export import export
from rl_det.policies.policy import Policy
from rl_det.policies.voting import VotingPolicy
from rl_det.report.tables import print_table
from rl_det.rewards import check_reward
from rl_det.runs import Run, check_writable
from rl_det.training import continued

NUM_UPDATES = {"smoke": 4, "short": 300, "full": 900}
MAX_PASSES = 30
"""Over the training images, epochs counted: a small data set is learned by heart in more."""
NUM_VALIDATIONS = 12
IMAGES_PER_UPDATE = 48
SAMPLES_PER_IMAGE = 8
NUM_CANDIDATES = 96
NUM_BYSTANDERS = 160
ENVIRONMENTS = {
    "rescore": "rl_det/RescoreDetections-v0",
    "context": "rl_det/RescoreDetections-v0",
    "select": "rl_det/SelectDetections-v0",
    "refine": "rl_det/AdjustDetections-v0",
    "voting": "rl_det/AdjustDetections-v0",
}


def main(arguments: Arguments) -> None:
    """Warm start, control, PPO; the table is written whatever it says."""
    seconds: dict[str, float] = {}
    folder = arguments.out or default_folder(arguments)
    check_writable(folder)
    check_reward(arguments.reward)  # an unknown one is refused before any work
    started = time.perf_counter()
    task = open_task(arguments)
    seconds["warm_start"] = time.perf_counter() - started
    train, val = encoded(task, "train"), encoded(task, "val")
    with Run(folder, asdict(arguments), arguments.seed) as run:
        torch.manual_seed(arguments.seed)
        warm = make_policy(arguments.policy, task.detector)
        methods = {"warm_start": warm}
        for name, method in {"continued_supervised": continue_supervised, "ppo": fine_tune_by_ppo}.items():
            started = time.perf_counter()
            methods[name] = copy.deepcopy(warm)
            method(methods[name], train, val, arguments, run)
            run.save_checkpoint(name, methods[name].state_dict())
            seconds[name] = time.perf_counter() - started
        for name in ("warm_start", "continued_supervised"):
            started = time.perf_counter()
            if isinstance(untrained := methods[name], VotingPolicy):
                methods[f"{name}_voted"] = plainly_voted(untrained, val)
                seconds[f"{name}_voted"] = seconds[name] + time.perf_counter() - started
        methods["ppo"] = methods.pop("ppo")  # the last in the table
        pairs = {name: (policy, recalibrated(policy, val)) for name, policy in methods.items()}
        results = {
            "seed": arguments.seed,
            "data": str(arguments.data or "digit_scenes"),
            "detector": arguments.detector,
            "device": str(task.device),
            "policy": arguments.policy,
            "reward": arguments.reward,
            "budget": arguments.budget,
            "seconds": {name: round(spent, 1) for name, spent in seconds.items()},
            "methods": test_figures(pairs, task.splits["test"]),
        }
        run.write_results(results)
        for name in ("continued_supervised", "ppo"):
            export(pairs[name][1], run.folder / name, EVALUATED_CANDIDATES)
    print_table(results)
    print(f"The tuned detectors, the metrics and results.json are in {run.folder}")


def continue_supervised(
    policy: Policy, train: EncodedDataset, val: EncodedDataset, arguments: Arguments, run: Run
) -> None:
    """The control: as many image passes as PPO makes, epochs counted, at the same learning rate."""
    learning = ppo_config(arguments, len(train))
    config = continued.Config(
        num_steps=learning.num_updates * learning.num_epochs,
        batch_size=min(IMAGES_PER_UPDATE, len(train)),
        learning_rate=learning.learning_rate,
        validate_every=learning.validate_every * learning.num_epochs,
    )
    with Bar("continued_supervised", config.num_steps, run.log) as bar:
        continued.train(
            policy,
            train,
            config,
            generator=torch.Generator().manual_seed(arguments.seed),
            validate=lambda: validation_ap(policy, val),
            on_step=bar.update,
        )


def fine_tune_by_ppo(
    policy: Policy, train: EncodedDataset, val: EncodedDataset, arguments: Arguments, run: Run
) -> None:
    """PPO in the policy's own environment, the detector's supervised loss mixed in."""
    images = min(IMAGES_PER_UPDATE, len(train))
    envs = gymnasium.make_vec(
        ENVIRONMENTS[arguments.policy],
        num_envs=images * SAMPLES_PER_IMAGE,
        vectorization_mode="vector_entry_point",
        detector=policy.detector,
        dataset=train,
        num_candidates=NUM_CANDIDATES,
        num_bystanders=NUM_BYSTANDERS,
        samples_per_image=SAMPLES_PER_IMAGE,
        reward=arguments.reward,
        device=policy.parameters()[0].device,
    )
    envs.reset(seed=arguments.seed)
    config = ppo_config(arguments, len(train))
    with Bar("ppo", config.num_updates, run.log) as bar:
        ppo.train(
            policy,
            envs,
            config,
            generator=torch.Generator().manual_seed(arguments.seed),
            validate=lambda: validation_ap(policy, val),
            supervised=lambda ids, part, output: continued.supervised_loss(
                policy, part, output, [train.targets[image] for image in ids]
            ),
            on_update=bar.update,
        )


def ppo_config(arguments: Arguments, num_images: int) -> ppo.Config:
    """As long as the budget and the number of images allow, at the rate at which the warm start's head ended."""
    passes_per_update = ppo.Config.num_epochs * min(IMAGES_PER_UPDATE, num_images) / num_images
    num_updates = min(NUM_UPDATES[arguments.budget], math.ceil(MAX_PASSES / passes_per_update))
    return ppo.Config(
        num_updates=num_updates,
        learning_rate=head_config(arguments).learning_rate,
        validate_every=math.ceil(num_updates / NUM_VALIDATIONS),
    )


def encoded(task: Task, split: Split) -> EncodedDataset:
    """One split's encodings, with a progress bar."""
    dataset = task.splits[split]
    with Bar(f"encode {split}", len(dataset)) as bar:
        return encode_dataset(task.detector, dataset, on_batch=bar.advance)


def default_folder(arguments: Arguments) -> Path:
    """A name that says what was run."""
    data = "digit_scenes" if arguments.data is None else arguments.data.resolve().name
    parts = ("ppo_finetune", data, arguments.detector, arguments.policy, arguments.budget, f"seed{arguments.seed}")
    return Path("runs") / "-".join(parts)


if __name__ == "__main__":
    with clear_errors():
        main(tyro.cli(Arguments))
