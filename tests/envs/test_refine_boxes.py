"""Several moves of every box: what the steps earn adds up, and so does what each candidate earns alone."""

from typing import Any

import numpy as np
import pytest
import torch
from contract.environments import NUM_CANDIDATES, REFINE, make_vector, random_actions

from rl_det.ap.candidate_pool import CandidatePool
from rl_det.ap.padding import pad_targets
from rl_det.ap.relations import relations
from rl_det.boxes import moved
from rl_det.rewards import REWARDS

NUM_STEPS = 3


@pytest.fixture
def options(options: dict[str, Any]) -> dict[str, Any]:
    return {**options, "num_steps": NUM_STEPS}


def pool_ap(envs: Any, row: int, boxes: torch.Tensor) -> float:
    """Of the pool, image `row` with other boxes, evaluated again from the start."""
    scene = envs.scene()
    edited = scene.boxes.copy()
    edited[row] = boxes.numpy()
    targets = pad_targets([envs.data.targets[index] for index in envs.indices])
    related = relations(edited, scene.labels, scene.mask, targets, num_classes=scene.num_classes)
    return CandidatePool(related, scene.scores, nms_iou=scene.nms_iou).mean_ap


def test_each_step_earns_the_change_of_the_pools_ap_and_the_changes_add_up(options: dict[str, Any]) -> None:
    envs = make_vector(REFINE, 4, **options)
    envs.reset(seed=1)
    boxes = torch.from_numpy(envs.scene().boxes).clone()
    unmoved = boxes.clone()
    start, earned = pool_ap(envs, 0, boxes[0]), torch.zeros(4)
    for step in range(NUM_STEPS):
        actions = random_actions(REFINE, 4, step)
        before = boxes.clone()
        boxes = moved(boxes, actions.unflatten(1, (-1, 4))).clamp(0, 128)
        _, rewards, ended, _, outcome = envs.step(actions)
        earned += rewards
        for row in range(4):
            assert float(rewards[row]) == pytest.approx(
                pool_ap(envs, row, boxes[row]) - pool_ap(envs, row, before[row]), abs=1e-6
            )
        for candidate in range(0, NUM_CANDIDATES, 7):
            alone, was_alone = unmoved[3].clone(), unmoved[3].clone()
            alone[candidate], was_alone[candidate] = boxes[3, candidate], before[3, candidate]
            expected = pool_ap(envs, 3, alone) - pool_ap(envs, 3, was_alone)
            assert float(outcome["credit"][3, candidate]) == pytest.approx(expected, abs=1e-6)
        assert bool(ended.all()) == (step + 1 == NUM_STEPS)
    for row in range(4):
        assert float(earned[row]) == pytest.approx(pool_ap(envs, row, boxes[row]) - start, abs=1e-6)
    assert earned.abs().max() > 0


def test_the_observation_has_the_boxes_of_now_and_the_step(options: dict[str, Any]) -> None:
    envs = make_vector(REFINE, 2, **options)
    observation, _ = envs.reset(seed=0)
    for step in range(NUM_STEPS):
        assert observation["step"].tolist() == [[step]] * 2
        actions = random_actions(REFINE, 2, step)
        expected = moved(128 * observation["boxes"], actions.unflatten(1, (-1, 4))).clamp(0, 128) / 128
        observation, *_ = envs.step(actions)
        torch.testing.assert_close(observation["boxes"], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("reward", sorted(REWARDS))
def test_waiting_earns_nothing_on_the_way(options: dict[str, Any], reward: str) -> None:
    """Those that are paid at the end pay there what the boxes are worth, once."""
    envs, at_once = (
        make_vector(REFINE, 2, **options, reward=reward),
        make_vector(REFINE, 2, **options | {"num_steps": 1}, reward=reward),
    )
    for each in (envs, at_once):
        each.reset(seed=0)
    wait = torch.zeros(envs.action_space.shape)
    *earlier, last = (envs.step(wait)[1] for _ in range(NUM_STEPS))
    assert not torch.stack(earlier).any()
    assert torch.equal(last, at_once.step(wait)[1])


def test_a_walk_out_and_back_earns_what_standing_still_does(options: dict[str, Any]) -> None:
    envs = make_vector(REFINE, 2, **options | {"num_steps": 2})
    envs.reset(seed=0)
    out = torch.zeros(2, NUM_CANDIDATES, 4)
    out[..., 2:] = -0.5  # smaller about the same centre: no edge is near
    there, back = envs.step(out.flatten(1))[1], envs.step(-out.flatten(1))[1]
    assert there.abs().max() > 0.01
    torch.testing.assert_close(there, -back, rtol=0, atol=1e-5)


def test_there_is_no_baseline(options: dict[str, Any]) -> None:
    envs = make_vector(REFINE, 2, **options)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match="no baseline"):
        envs.set_baseline(torch.zeros(envs.action_space.shape))


def test_the_picture_shows_the_first_boxes_and_the_present_ones(options: dict[str, Any]) -> None:
    envs = make_vector(REFINE, 1, **options)
    envs.reset(seed=0)
    for step in range(2):
        envs.step(random_actions(REFINE, 1, step))
    before, after = envs.drawn()
    np.testing.assert_array_equal(before.boxes[0], envs.scene().boxes[0])
    assert not np.array_equal(before.boxes[0], after.boxes[0])
