"""Both agents learn a toy task in every environment, and do not where credit, discount or the end of an episode is wrong."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from contract.agents import NUM_STEPS, TASKS, Task, walked_back
from contract.environments import ENVIRONMENTS
from rl_det_envs.agent import AgentEnvironment, Earned
from rl_det_envs.refine_boxes import RefineBoxesVector

from rl_det.rewards import Step
from rl_det.strategies.ppo import PPO, PpoLearner
from rl_det.strategies.reinforce import Reinforce, ReinforceLearner
from rl_det.training.loop import fit
from rl_det.training.loop_config import LoopConfig

AGENTS = {"ppo": (PpoLearner, PPO), "reinforce": (ReinforceLearner, Reinforce)}
LEARNT, NOT_LEARNT = 0.7, 0.5
REFINE = "rl_det/RefineBoxes-v0"


def learnt(task: Task, agent: str, *, gamma: float = 1.0, **options: Any) -> tuple[float, Any]:
    """How far the agent has come, and its actor."""
    torch.manual_seed(0)
    detector = task.detector()
    actor, envs = task.actor(detector), task.environment(detector, **options)
    learner_class, settings = AGENTS[agent]
    config = settings(policy="refine", gamma=gamma, mean_shift_penalty=0.0)
    learner = learner_class(
        actor, envs, config, generator=torch.Generator().manual_seed(0), validate=lambda: task.progress(actor, detector)
    )
    loop = LoopConfig(
        num_updates=task.num_updates,
        learning_rate=task.learning_rate,
        validate_every=task.num_updates,
        collapse_margin=1.0,
    )
    fit(learner, loop, name="toy")
    return task.progress(actor, detector), actor


def test_every_environment_has_a_task() -> None:
    assert sorted(TASKS) == ENVIRONMENTS


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("env_id", TASKS)
def test_the_agent_learns_in_it(env_id: str, agent: str) -> None:
    task = TASKS[env_id]
    detector = task.detector()
    assert isinstance(task.environment(detector), AgentEnvironment)
    assert task.progress(task.actor(detector), detector) < NOT_LEARNT
    assert learnt(task, agent)[0] > LEARNT


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("env_id", TASKS)
def test_it_does_not_when_the_credit_is_anothers(env_id: str, agent: str) -> None:
    task = TASKS[env_id]

    class Shuffled(task.make):  # type: ignore[name-defined, misc]
        def act(self, actions: Any, *, baseline: Any = None) -> Earned:
            """The credit is that of the next candidate; where one actor acts in an image, of the next image's sample."""
            earned = super().act(actions, baseline=baseline)
            alone = earned.credit.shape[1] == 1
            order = (self.samples_per_image, 0) if alone else (1, 1)
            return replace(earned, credit=earned.credit.roll(*order))  # type: ignore[no-any-return]

    assert learnt(replace(task, make=Shuffled), agent)[0] < LEARNT


@pytest.mark.parametrize("agent", AGENTS)
def test_several_steps_learn_by_the_reward_of_the_whole_image(agent: str) -> None:
    learner_class, settings = AGENTS[agent]
    task, detector = TASKS[REFINE], TASKS[REFINE].detector()
    actor, envs = task.actor(detector), task.environment(detector, samples_per_image=8, credit=False)
    config = settings(policy="refine", advantage="leave_one_out")
    generator = torch.Generator().manual_seed(0)
    learner = learner_class(actor, envs, config, generator=generator, validate=lambda: walked_back(actor, detector))
    fit(learner, LoopConfig(num_updates=80, learning_rate=0.1, validate_every=80), name="toy")
    assert walked_back(actor, detector) > LEARNT


@pytest.mark.parametrize("agent", AGENTS)
def test_a_reward_at_the_end_teaches_all_steps_but_not_when_it_is_discounted_away(agent: str) -> None:
    task = TASKS[REFINE]
    assert learnt(task, agent, reward="image_ap")[0] > LEARNT
    assert learnt(task, agent, reward="image_ap", gamma=0.0)[0] < NOT_LEARNT


class CutShort(RefineBoxesVector):
    """After two steps the boxes jump back to their start; the third step's reward counts from where they had been."""

    told = True

    def _taken(self, scene: Any, actions: Any) -> Step:
        walked = self._boxes.numpy(force=True)
        if self._steps is not None and self._steps.max() == 2:
            self._boxes = self.candidates.boxes[torch.from_numpy(self.rows)]
        return replace(super()._taken(scene, actions), boxes_before=walked)

    def act(self, actions: Any, *, baseline: Any = None) -> Earned:
        earned = super().act(actions, baseline=baseline)
        assert self._steps is not None
        return replace(earned, truncated=torch.from_numpy(self.told & (self._steps == 2)))


class CutShortInSilence(CutShort):
    """The same, and nobody is told."""

    told = False


@pytest.mark.parametrize("agent", AGENTS)
def test_an_episode_that_is_cut_short_teaches_its_steps_but_not_when_nobody_is_told(agent: str) -> None:
    for make, direction in ((CutShort, True), (CutShortInSilence, False)):
        _, actor = learnt(replace(TASKS[REFINE], make=make), agent)
        first_steps = float(actor.means.detach()[:2, 0].clamp(-1, 1).mean())
        assert (first_steps < -0.7) is direction, (make.__name__, first_steps)
    assert NUM_STEPS == 3
