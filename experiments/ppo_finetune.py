"""Question: does PPO on a detector's own mAP raise it above what more supervised training gives?

Command: python experiments/ppo_finetune.py --budget full --seed 0
Hardware, minutes and expected numbers with their spread over seeds: experiments/README.md.

Three methods from one warm start: the warm start itself; continued supervised training of the same parameters, on the same
images, for as many image passes; PPO. Each is chosen by validation AP and judged by pycocotools on the untouched test split.
Where the policy votes, the first two are shown with voting that nobody trained as well: what is not PPO's gain.
"""

import dataclasses
from typing import Any

import torch
import tuning
import tyro
from methods import validation_ap
from task import Arguments, Bar, clear_errors, head_config
from torch import Tensor
from worlds import make_envs

from rl_det.agents import ppo
from rl_det.detectors.encodings import EncodedDataset
from rl_det.losses.advantages import Advantage
from rl_det.policies.policy import Policy
from rl_det.rewards import check_reward
from rl_det.storage.run import Run
from rl_det.training import continued, surrogate
from rl_det.types import Encoded, HeadOutput


def main(arguments: Arguments) -> None:
    """Warm start, control, PPO."""
    check_reward(arguments.reward)  # an unknown one is refused before any work

    def method(policy: Policy, train: EncodedDataset, val: EncodedDataset, run: Run) -> None:
        fine_tune_by_ppo(policy, train, val, arguments, run)

    tuning.compare(arguments, "ppo_finetune", "ppo", method, reward=arguments.reward)


def fine_tune_by_ppo(
    policy: Policy,
    train: EncodedDataset,
    val: EncodedDataset,
    arguments: Arguments,
    run: Run,
    *,
    advantage: Advantage = "counterfactual",
    taught_by: surrogate.SurrogateName | None = None,
) -> None:
    """PPO in the policy's own environment, the detector's supervised loss mixed in, or all that a surrogate's training has.

    The former teaches the head alone, the latter also what a policy does beside it.
    """
    envs = make_envs(policy, train, arguments, credit=advantage == "counterfactual")
    config = dataclasses.replace(ppo_config(arguments, len(train)), advantage=advantage)

    def taught(indices: Any, part: Encoded, output: HeadOutput) -> Tensor:
        targets = [train.targets[index] for index in indices]
        if taught_by is None:
            return continued.supervised_loss(policy, part, output, targets)
        losses = surrogate.policy_losses(policy, part, output, targets, surrogate.Config(loss=taught_by))
        return torch.stack(list(losses.values())).sum()

    with Bar("ppo", config.num_updates, run.log) as bar:
        ppo.train(
            policy,
            envs,
            config,
            generator=torch.Generator().manual_seed(arguments.seed),
            validate=lambda: validation_ap(policy, val),
            supervised=taught,
            on_update=bar.update,
        )


def ppo_config(arguments: Arguments, num_images: int) -> ppo.Config:
    """As long as the budget and the number of images allow, at the rate at which the warm start's head ended."""
    updates = tuning.num_updates(arguments, num_images)
    return ppo.Config(
        num_updates=updates,
        num_epochs=tuning.EPOCHS_PER_UPDATE,
        learning_rate=head_config(arguments).learning_rate,
        validate_every=tuning.validate_every(updates),
    )


if __name__ == "__main__":
    with clear_errors():
        main(tyro.cli(Arguments))
