"""Before any training: is there something that a policy could learn? The best of K samples, candidate by candidate.

Each candidate keeps the one of its K actions with the highest credit, or none if no action earns anything. If the reward
does not rise even so, exploration finds nothing to teach, and training can only lose. If it rises, that bounds nothing from
above: a policy cannot know which action was the best, but it may learn more than a single step of exploration finds.
"""

from dataclasses import replace
from time import perf_counter
from typing import NamedTuple

import torch
from jaxtyping import Float
from rl_det_envs.candidate_environment import CandidateVectorEnv
from torch import Tensor

from rl_det.errors import NotFiniteError
from rl_det.policies.distributions import Distribution
from rl_det.policies.policy import Policy
from rl_det.progress import SHORT_WORK, bar, tell
from rl_det.rewards import DetectionsFunction, Reward, Tallied
from rl_det.strategies.from_reward import FromReward, make_environment
from rl_det.strategies.rollouts import Actor, collect, in_range
from rl_det.strategies.strategy import Task
from rl_det.types import Detections, Target

MOST_BATCHES = 4


class BestOfSamples(NamedTuple):
    """Means over pools of images: of mAP, in [0, 1], and of an image's reward; without exploration, and with the best of K."""

    ap: float
    best_ap: float
    reward: float
    best_reward: float
    num_images: int
    num_samples: int

    def told(self) -> str:
        """One line for the user."""
        rise = (
            f"mAP {100 * self.ap:.1f} -> {100 * self.best_ap:.1f}, reward {self.reward:.3g} -> {self.best_reward:.3g}"
        )
        verdict = (
            "there is something to teach" if self.best_reward > self.reward else "exploration finds nothing to teach"
        )
        return f"best of {self.num_samples} samples on {self.num_images} training images: {rise}; {verdict}"


def best_of_samples(
    policy: Actor, envs: CandidateVectorEnv, generator: torch.Generator, *, num_batches: int = MOST_BATCHES
) -> BestOfSamples:
    """Sample `num_batches` batches, let each candidate keep its best action by credit, and measure all of them together.

    A candidate's logit and box each keep their own best. The environment must give credit, and its episodes must have one
    step. Its images go on; nothing is trained.
    """
    figures = []
    with bar("best of the samples", num_batches, delay=SHORT_WORK) as shown:
        for _ in range(num_batches):
            figures.append(_of_one_batch(policy, envs, generator))
            shown.advance()
    ap, best_ap, reward, best_reward = torch.tensor(figures).nanmean(0).tolist()
    return BestOfSamples(ap, best_ap, reward, best_reward, num_batches * envs.num_images, envs.samples_per_image)


def tell_pretest(config: FromReward, policy: Policy, task: Task) -> None:
    """Tell the best of the strategy's samples on some training images, where candidates have credit and act once.

    A run that goes on has told it before. It has an environment and a generator of its own, so training does not depend on it.
    """
    if config.advantage != "counterfactual" or task.goes_on:
        return
    counted = None if isinstance(config.reward, str | Reward | Tallied) else Counted(config.reward)
    paying = config if counted is None else replace(config, reward=counted)  # type: ignore[type-var]
    envs = make_environment(paying, policy, task, wrapped=False)
    if not isinstance(envs, CandidateVectorEnv) or envs.num_steps > 1:
        return
    num_batches = min(MOST_BATCHES, len(task.train) // task.batch_size) if task.train.kept else 1
    try:
        found = best_of_samples(policy, envs, torch.Generator().manual_seed(task.seed), num_batches=num_batches)
    except NotFiniteError as error:  # training skips such updates
        tell(f"{config.name}: what its samples would earn is not known: {error}")
        return
    tell(f"{config.name}: {found.told()}")
    if counted is not None:
        tell(f"{config.name}: {counted.told(num_batches)}")


class Counted:
    """A user's reward function, whose calls and seconds are counted."""

    def __init__(self, function: DetectionsFunction) -> None:
        self.function, self.calls, self.seconds = function, 0, 0.0

    def __call__(self, detections: Detections, target: Target) -> float:
        start = perf_counter()
        value = self.function(detections, target)
        self.calls, self.seconds = self.calls + 1, self.seconds + perf_counter() - start
        return value

    def told(self, num_updates: int) -> str:
        """What the function costs in one of so many updates, in one line."""
        name = getattr(self.function, "__name__", type(self.function).__name__)
        return (
            f"the reward's function {name} is called about {self.calls / num_updates:.0f} times an update, "
            f"{self.seconds / num_updates:.2f} s"
        )


def _of_one_batch(policy: Actor, envs: CandidateVectorEnv, generator: torch.Generator) -> list[float]:
    with torch.no_grad():
        rollout = collect(policy, envs, generator)
    (move,) = rollout.moves
    assert move.earned.credit is not None
    credit = move.earned.credit.view(move.log_prob.shape)
    best = best_actions(move.distribution, move.action, credit)
    (ap, reward), (best_ap, best_reward) = (
        envs.together(in_range(own, envs)) for own in (move.distribution.greedy(), best)
    )
    return [ap, best_ap, reward, best_reward]


def best_actions(
    distribution: Distribution, action: Float[Tensor, "B K N *numbers"], credit: Float[Tensor, "B K N *F"]
) -> Float[Tensor, "B N *numbers"]:
    """Each candidate's action of the highest credit; the action without exploration where none is above 0.

    With two factors, the first number is chosen by the first, the others by the second.
    """
    greedy = distribution.greedy()
    if credit.ndim == 3:
        return _best(action, credit, greedy)
    first, others = credit.unbind(-1)
    parts = _best(action[..., :1], first, greedy[..., :1]), _best(action[..., 1:], others, greedy[..., 1:])
    return torch.cat(parts, -1)


def _best(
    action: Float[Tensor, "B K N *numbers"], credit: Float[Tensor, "B K N"], greedy: Float[Tensor, "B N *numbers"]
) -> Float[Tensor, "B N *numbers"]:
    gain, sample = credit.max(1, keepdim=True)
    gain, sample = (own.view(*own.shape, *[1] * (action.ndim - 3)) for own in (gain, sample))
    chosen = action.gather(1, sample.expand(-1, 1, *action.shape[2:]))[:, 0]
    return torch.where(gain[:, 0] > 0, chosen, greedy)
