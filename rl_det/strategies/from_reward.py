"""What strategies that learn from a reward share: what their settings must be, their environment, and their loop.

Each strategy has all of its settings in view in its own file.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import gymnasium
import rl_det_envs  # noqa: F401  (registers the environments)
from gymnasium.vector import VectorEnv
from rl_det_envs.agent import AgentEnvironment
from rl_det_envs.torch_to_numpy import TorchToNumpy
from rl_det_envs.wrapped import agent_environment

from rl_det.errors import UserError
from rl_det.losses.advantages import Advantage
from rl_det.policies.build import POLICIES, PolicyName, check_num_steps, name_of
from rl_det.policies.head import HeadWithModule
from rl_det.policies.policy import Policy
from rl_det.rewards import check_reward
from rl_det.settings import Rule, at_least, check_settings, positive, within
from rl_det.strategies.selection import Selecting, check_monitored, margin_of_collapse, monitored
from rl_det.strategies.strategy import Task, given
from rl_det.training.loop_config import LoopConfig

Wrap = Callable[[VectorEnv[Any, Any, Any]], VectorEnv[Any, Any, Any]]
"""A function that wraps an environment in numpy, such as a vector wrapper of Gymnasium."""


@runtime_checkable
class FromReward(Selecting, Protocol):
    """The settings of a strategy that learns from a reward in its policy's environment."""

    @property
    def name(self) -> str: ...

    @property
    def policy(self) -> PolicyName | None: ...

    @property
    def advantage(self) -> Advantage: ...

    @property
    def gamma(self) -> float: ...

    @property
    def num_steps(self) -> int | None: ...

    @property
    def wrap(self) -> Wrap | None: ...

    @property
    def samples_per_image(self) -> int: ...

    @property
    def num_candidates(self) -> int: ...

    @property
    def context_candidates(self) -> int: ...

    @property
    def num_updates(self) -> int | None: ...

    @property
    def learning_rate(self) -> float | None: ...

    @property
    def max_grad_norm(self) -> float: ...

    @property
    def patience(self) -> int | None: ...


def check_from_reward(config: FromReward, **rules: Rule) -> None:
    """Raise UserError for a setting that cannot be, by the rules of those that all have and by these of the strategy's own.

    Also for an unknown reward, and for a setting that does nothing with this policy or advantage.
    """
    counts = ("num_updates", "samples_per_image", "num_candidates", "patience", "num_steps")
    check_settings(
        config,
        **dict.fromkeys(counts, at_least(1)),
        **dict.fromkeys(("supervised_weight", "mean_shift_penalty", "context_candidates"), at_least(0)),
        **dict.fromkeys(("max_grad_norm", "collapse_margin"), positive(infinite=True)),
        learning_rate=positive(),
        gamma=within("[0, 1]"),
        **rules,
    )
    check_reward(config.reward)
    if not (config.wrap is None or callable(config.wrap)):
        raise UserError(f"wrap must be a function that wraps an environment; got {config.wrap!r}; None is usual")
    check_num_steps(config.policy, config.num_steps)
    if config.gamma != 1 and config.policy != "refine":
        raise UserError(
            f"gamma does nothing in an episode of one step, as of policy {config.policy!r}; got {config.gamma}; 1 is usual"
        )
    if config.advantage != "counterfactual" and config.samples_per_image < 2:
        raise UserError(
            f"advantage {config.advantage!r} compares the samples of an image; samples_per_image must be at least 2; "
            f"got {config.samples_per_image}; 8 is usual"
        )
    check_monitored(config)


def loop_of(config: FromReward, num_updates: int, learning_rate: float, validate_every: int) -> LoopConfig:
    """The loop's settings, without bounds; these arguments replace settings that are left out."""
    return LoopConfig(
        num_updates=given(config.num_updates, num_updates),
        learning_rate=given(config.learning_rate, learning_rate),
        max_grad_norm=config.max_grad_norm,
        validate_every=validate_every,
        monitor=monitored(config),
        patience=config.patience,
        collapse_margin=margin_of_collapse(config),
    )


def make_environment(
    config: FromReward, policy: Policy, task: Task, *, wrapped: bool = True
) -> VectorEnv[Any, Any, Any]:
    """The policy's environment on the training images, seeded, with `samples_per_image` samples of each image of a batch.

    It gives credit if the advantage is each candidate's own. `wrap` wraps it, if it is to be `wrapped`. There are no
    bystanders if images are encoded in the loop, as each would have to be encoded anew, nor beside a policy with a module:
    the detector ranks them without the module, and a score's worth among them is not its worth under the policy. A policy sees
    the head's output, so observations need no embeddings, unless `wrap` is to see them.
    """
    options: dict[str, Any] = dict(policy.environment_options)
    if not task.train.kept or isinstance(policy, HeadWithModule):
        options["pool_images"] = task.batch_size
    envs = gymnasium.make_vec(
        POLICIES[name_of(policy)].environment,
        num_envs=task.batch_size * config.samples_per_image,
        vectorization_mode="vector_entry_point",
        detector=policy.detector,
        dataset=task.train,
        num_candidates=config.num_candidates,
        context_candidates=config.context_candidates,
        samples_per_image=config.samples_per_image,
        reward=config.reward,
        credit=config.advantage == "counterfactual",
        features=config.wrap is not None,
        device=policy.detector.device,
        **options,
    )
    envs.reset(seed=task.seed)
    return envs if config.wrap is None or not wrapped else config.wrap(TorchToNumpy(envs))


def usable(envs: Any, advantage: Advantage, gamma: float) -> AgentEnvironment:
    """The environment as an agent meets it; UserError, in one sentence, if this agent cannot learn in it."""
    own = agent_environment(envs)
    if advantage == "counterfactual" and not own.gives_credit:
        raise UserError(
            "a counterfactual advantage needs credit, and the environment was made with credit=False, or a wrapper changes "
            "its rewards; take advantage='leave_one_out'"
        )
    if advantage != "counterfactual" and own.samples_per_image < 2:
        raise UserError(
            f"advantage {advantage!r} compares the samples of an image; the environment has 1 of each; make it with "
            "samples_per_image=8"
        )
    if own.num_steps == 1 and gamma != 1:
        raise UserError(f"gamma does nothing in an episode of one step; got {gamma}; leave it at 1")
    return own
