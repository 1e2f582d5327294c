"""`rl-det finetune` and `rl-det supervised`: the flags of what trains."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import tyro

from rl_det.errors import UserError
from rl_det.finetuning.budget import Budget, Recipe
from rl_det.finetuning.finetune import finetune
from rl_det.finetuning.request import Request
from rl_det.finetuning.results import Results
from rl_det.policies.build import PolicyName
from rl_det.program import ProgramFlags
from rl_det.settings import SEEDS, check_settings
from rl_det.strategies.labels import Labels
from rl_det.strategies.ppo import PPO
from rl_det.strategies.reinforce import Reinforce
from rl_det.strategies.strategy import Strategy
from rl_det.strategies.supervised import Supervised
from rl_det.strategies.surrogate import Surrogate

StrategyName = Literal["ppo", "reinforce", "surrogate", "labels", "supervised"]


@dataclass(frozen=True, kw_only=True)
class RunFlags(Request, ProgramFlags):
    """The flags of every command that trains."""

    seed: int = 0
    """The seed of everything that fine-tuning draws."""
    out: Path | None = None
    """The run's folder; left out: one in runs/, named after the run."""
    resume: bool = False
    """Continue a stopped run with the same flags, if there is one."""
    overwrite: bool = False
    """Replace the run in the folder, if there is one."""
    limits: tyro.conf.AvoidSubcommands[Budget | None] = None
    """The budget's numbers; each can be set by itself."""
    recipe: tyro.conf.AvoidSubcommands[Recipe | None] = None
    """How to train a detector of the data from labels, in a warm start and as the control; each number can be set by
    itself."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(self, seed=SEEDS)

    def run(self, *strategies: Strategy, baselines: bool = True) -> Results:
        """Open the data and the detector, tune, and print the table."""
        data, detector = self.open()
        results = finetune(
            detector,
            data,
            *strategies,
            budget=self.limits or self.budget,
            recipe=self.recipe,
            seed=self.seed,
            out=self.out,
            resume=self.resume,
            overwrite=self.overwrite,
            baselines=baselines,
            **self.keywords(),
        )
        print(results.table(), end="")
        return results


@dataclass(frozen=True, kw_only=True)
class PolicyFlags(RunFlags):
    """The flags of every command that tunes the head."""

    policy: PolicyName | None = None
    """The policy of all strategies; left out: each strategy's own (voting where proposals overlap, else adjust)."""
    reward: str | None = None
    """The reward of all strategies that have one; left out: each strategy's own (pool_ap)."""

    def shared(self, *strategies: Strategy) -> list[Strategy]:
        """The strategies with the given flags that they have fields for; ValueError for a flag that none has a field for."""
        given = {name: getattr(self, name) for name in ("policy", "reward") if getattr(self, name) is not None}
        for name, value in given.items():
            if not any(hasattr(strategy, name) for strategy in strategies):
                names = ", ".join(strategy.name for strategy in strategies)
                raise UserError(f"{name} must go with a strategy that has one; got {value} with {names}")
        return [
            _with(strategy, {name: value for name, value in given.items() if hasattr(strategy, name)})
            for strategy in strategies
        ]


def _with(strategy: Strategy, settings: dict[str, Any]) -> Strategy:
    """The strategy with these settings; what its class refuses of them is a mistake of the user's."""
    try:
        return dataclasses.replace(strategy, **settings)  # type: ignore[type-var]
    except ValueError as error:
        raise UserError(str(error)) from error


@dataclass(frozen=True, kw_only=True)
class FinetuneFlags(PolicyFlags):
    """Tune the detector by the named strategies, and compare them with the warm start and the control."""

    strategies: tuple[StrategyName, ...] = ("ppo",)
    """The strategies, in the order of the table."""
    ppo: PPO = field(default_factory=PPO)
    """Proximal policy optimisation."""
    reinforce: Reinforce = field(default_factory=Reinforce)
    """The score-function estimator."""
    surrogate: Surrogate = field(default_factory=Surrogate)
    """A differentiable surrogate of AP."""
    labels: Labels = field(default_factory=lambda: Labels(name="labels", policy=None))
    """Continued supervised training of the head, with settings of its own."""
    supervised: Supervised = field(default_factory=Supervised)
    """Supervised training of the whole detector."""

    def chosen(self) -> list[Strategy]:
        """The strategies, with the flags that they share. Raises ValueError for settings of a strategy that does not run."""
        usual = type(self)()
        for name in get_args(StrategyName):
            if name not in self.strategies and getattr(self, name) != getattr(usual, name):
                raise UserError(
                    f"settings of {name} must go with --strategies {name}; got --strategies {' '.join(self.strategies)}"
                )
        return self.shared(*(getattr(self, name) for name in self.strategies))


@dataclass(frozen=True, kw_only=True)
class SupervisedFlags(RunFlags):
    """Train the whole detector from labels; a validation figure stops training and selects the weights."""

    supervised: Supervised = field(default_factory=Supervised)
    """The training."""


def run_finetune(flags: FinetuneFlags) -> None:
    """`rl-det finetune`."""
    flags.run(*flags.chosen())


def run_supervised(flags: SupervisedFlags) -> None:
    """`rl-det supervised`."""
    flags.run(flags.supervised)
