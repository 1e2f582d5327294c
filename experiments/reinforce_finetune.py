"""Question: does REINFORCE on a detector's own mAP raise it above what more supervised training gives?

Command: python experiments/reinforce_finetune.py --budget full --seed 0
Hardware, minutes and expected numbers with their spread over seeds: experiments/README.md.

Three methods from one warm start, as in ppo_finetune.py: the warm start itself; continued supervised training; REINFORCE, by
each candidate's own credit or by its image's reward, for as many image passes. A pass costs more than PPO's, as every
gradient step wants a rollout of its own.
"""

from dataclasses import dataclass

import torch
import tuning
import tyro
from methods import validation_ap
from task import Arguments as CommonArguments
from task import Bar, clear_errors
from worlds import make_envs

from rl_det.agents import reinforce
from rl_det.detectors.encodings import EncodedDataset
from rl_det.losses.advantages import Advantage
from rl_det.policies.policy import Policy
from rl_det.rewards import check_reward
from rl_det.storage.run import Run
from rl_det.training import continued


@dataclass(frozen=True, kw_only=True)
class Arguments(CommonArguments):
    """The flags of every experiment, and the kind of advantage."""

    advantage: Advantage = "counterfactual"
    """A candidate's own credit (counterfactual), its image's reward against the other samples (leave_one_out), or that over
    their spread (group)."""


def main(arguments: Arguments) -> None:
    """Warm start, control, REINFORCE."""
    check_reward(arguments.reward)  # an unknown one is refused before any work

    def method(policy: Policy, train: EncodedDataset, val: EncodedDataset, run: Run) -> None:
        fine_tune_by_reinforce(policy, train, val, arguments, run, advantage=arguments.advantage)

    facts = {"reward": arguments.reward, "advantage": arguments.advantage}
    tuning.compare(arguments, f"reinforce_finetune-{arguments.advantage}", "reinforce", method, **facts)


def fine_tune_by_reinforce(
    policy: Policy,
    train: EncodedDataset,
    val: EncodedDataset,
    arguments: CommonArguments,
    run: Run,
    *,
    advantage: Advantage = "counterfactual",
) -> None:
    """As many gradient steps as the control makes, at its learning rate, the detector's supervised loss mixed in."""
    control = tuning.control_config(arguments, len(train))
    config = reinforce.Config(
        num_updates=control.num_steps,
        advantage=advantage,
        learning_rate=control.learning_rate,
        validate_every=control.validate_every,
    )
    with Bar("reinforce", config.num_updates, run.log) as bar:
        reinforce.train(
            policy,
            make_envs(policy, train, arguments, credit=advantage == "counterfactual"),
            config,
            generator=torch.Generator().manual_seed(arguments.seed),
            validate=lambda: validation_ap(policy, val),
            supervised=lambda indices, part, output: continued.supervised_loss(
                policy, part, output, [train.targets[index] for index in indices]
            ),
            on_update=bar.update,
        )


if __name__ == "__main__":
    with clear_errors():
        main(tyro.cli(Arguments))
