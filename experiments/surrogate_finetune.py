"""Question: does a differentiable surrogate of AP raise a detector's mAP above what more supervised training gives?

Command: python experiments/surrogate_finetune.py --loss smooth_ap --budget full --seed 0
Hardware, minutes and expected numbers with their spread over seeds: experiments/README.md.

Three methods from one warm start: the warm start itself; continued supervised training of the same parameters, on the same
images, for as many image passes; the surrogate, with the detector's own losses mixed in. Parameters, images, passes and
selection are those of ppo_finetune.py, so that the two can be compared. Where the policy votes, the first two are shown
with voting that nobody trained as well: what is not the surrogate's gain.
"""

from dataclasses import dataclass

import torch
import tuning
import tyro
from methods import validation_ap
from task import Arguments as CommonArguments
from task import Bar, clear_errors

from rl_det.detectors.encodings import EncodedDataset
from rl_det.policies.policy import Policy
from rl_det.storage.run import Run
from rl_det.training import surrogate


@dataclass(frozen=True, kw_only=True)
class Arguments(CommonArguments):
    """The flags of every experiment, and which surrogate."""

    loss: surrogate.SurrogateName = "smooth_ap"
    """The surrogate of AP."""


def main(arguments: Arguments) -> None:
    """Warm start, control, surrogate."""

    def method(policy: Policy, train: EncodedDataset, val: EncodedDataset, run: Run) -> None:
        fine_tune_by_surrogate(policy, train, val, arguments, run, loss=arguments.loss)

    experiment = f"surrogate_finetune-{arguments.loss}"
    tuning.compare(arguments, experiment, "surrogate", method, loss=arguments.loss)


def fine_tune_by_surrogate(
    policy: Policy,
    train: EncodedDataset,
    val: EncodedDataset,
    arguments: CommonArguments,
    run: Run,
    *,
    loss: surrogate.SurrogateName,
) -> None:
    """The surrogate for as many batches as the control has."""
    schedule = tuning.control_config(arguments, len(train))
    with Bar("surrogate", schedule.num_steps, run.log) as bar:
        surrogate.train(
            policy,
            train,
            surrogate.Config(loss=loss),
            schedule,
            generator=torch.Generator().manual_seed(arguments.seed),
            validate=lambda: validation_ap(policy, val),
            on_step=bar.update,
        )


if __name__ == "__main__":
    with clear_errors():
        main(tyro.cli(Arguments))
