"""Selecting, rescoring and adjusting: rewards and credits against evaluating everything again, and the baseline."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from contract.environments import ADJUST, NUM_CANDIDATES, RESCORE, SELECT, make_vector, random_actions
from unchecked import unchecked

from rl_det.ap.candidate_pool import CandidatePool
from rl_det.ap.padding import candidate_relations, pad_targets
from rl_det.boxes import moved
from rl_det.candidates import SHIFT_OF_ONE
from rl_det.detectors import Detector
from rl_det.detectors.encodings import EncodedDataset
from rl_det.rewards import PoolAp, PotentialShaping, Sum

pytestmark = pytest.mark.parametrize("env_id", [ADJUST, RESCORE, SELECT])


def scores_after(env_id: str, logits: np.ndarray, actions: np.ndarray) -> np.ndarray:
    if env_id == SELECT:
        return np.where(actions > 0.5, logits, -np.inf)
    return logits + np.float32(SHIFT_OF_ONE) * (actions[..., 0] if env_id == ADJUST else actions)


def boxes_after(env_id: str, boxes: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Digit scenes are 128 pixels wide and high."""
    if env_id != ADJUST:
        return boxes
    moves = SHIFT_OF_ONE * action[..., 1:]
    return torch.where((moves != 0).any(-1, keepdim=True), moved(boxes, moves).clamp(0, 128), boxes)


@pytest.mark.parametrize("nms_iou", [None, 0.3])
def test_reward_and_credit_are_what_a_whole_evaluation_says(
    env_id: str, options: dict[str, Any], detector: Detector, data: EncodedDataset, nms_iou: float | None
) -> None:
    envs = make_vector(env_id, 4, **options, nms_iou=nms_iou)
    nms_iou = nms_iou or detector.nms_iou
    _, info = envs.reset(seed=1)
    indices = info["indices"].tolist()
    candidates = detector.propose(data.batch(torch.tensor(indices), detector), NUM_CANDIDATES)
    targets = [data.targets[index] for index in indices]
    related = candidate_relations(candidates, pad_targets(targets), num_classes=detector.num_classes)
    logits = candidates.logits.numpy()  # float32, as the environment adds its actions in float32
    before = CandidatePool(related, logits.astype(float), nms_iou=nms_iou).mean_ap
    actions = random_actions(env_id, 4, 2)
    _, rewards, _, _, outcome = envs.step(actions)
    nothing = torch.full_like(actions[0], 1.0 if env_id == SELECT else 0.0)
    factors = [slice(0, 1), slice(1, 5)] if env_id == ADJUST else [...]

    def mean_ap(row: int, action: torch.Tensor) -> float:
        scores, boxes = logits.astype(float), candidates.boxes.clone()
        scores[row] = scores_after(env_id, logits[row], action.numpy())
        boxes[row] = boxes_after(env_id, boxes[row], action)
        edited = replace(candidates, boxes=boxes)
        related = candidate_relations(edited, pad_targets(targets), num_classes=detector.num_classes)
        return CandidatePool(related, scores, nms_iou=nms_iou).mean_ap

    for row in range(4):
        assert float(rewards[row]) == pytest.approx(mean_ap(row, actions[row]) - before, abs=1e-7)
        for candidate in range(0, NUM_CANDIDATES, 5):
            for number, factor in enumerate(factors):
                alone = nothing.clone()
                alone[candidate, factor] = actions[row, candidate, factor]
                credit = outcome["credit"][row, candidate]
                credit = credit[number] if env_id == ADJUST else credit
                assert float(credit) == pytest.approx(mean_ap(row, alone) - before, abs=1e-7)
    assert rewards.abs().max() > 0


def test_doing_what_the_baseline_does_is_worth_nothing(env_id: str, options: dict[str, Any]) -> None:
    envs = make_vector(env_id, 4, **options, samples_per_image=2)
    envs.reset(seed=0)
    actions = random_actions(env_id, 2, 0).repeat_interleave(2, 0)
    envs.set_baseline(actions)
    assert not envs.step(actions)[1].any()


def test_without_credit_the_reward_is_the_same(env_id: str, options: dict[str, Any]) -> None:
    for reward in ("pool_ap", "image_ap", "batch_ap", "f1"):
        with_credit, without = (make_vector(env_id, 4, **options, reward=reward, credit=c) for c in (True, False))
        for envs in (with_credit, without):
            envs.reset(seed=0)
        expected = with_credit.step(random_actions(env_id, 4, 0))
        step = without.step(random_actions(env_id, 4, 0))
        torch.testing.assert_close(step[1], expected[1], rtol=0, atol=1e-7)
        assert "credit" in expected[4]
        assert "credit" not in step[4]


def test_a_reward_of_ones_own_can_be_given(env_id: str, options: dict[str, Any]) -> None:
    plain = make_vector(env_id, 4, **options)
    shaped = make_vector(env_id, 4, **options, reward=Sum((PoolAp(), PotentialShaping())))
    for envs in (plain, shaped):
        envs.reset(seed=0)
    actions = random_actions(env_id, 4, 0)
    expected, step = plain.step(actions), shaped.step(actions)
    torch.testing.assert_close(step[4]["credit"], expected[4]["credit"], rtol=0, atol=1e-7)
    start = expected[1] - step[1]  # the potential that no action can change; 0 where there is no object
    assert (start >= 0).all()
    assert start.max() > 0.1


def test_context_candidates_rank_and_suppress_but_neither_act_nor_are_shown(
    env_id: str, options: dict[str, Any]
) -> None:
    few = make_vector(env_id, 4, **options | {"context_candidates": 100})
    observation, _ = few.reset(seed=0)
    assert observation["logits"].shape == (4, NUM_CANDIDATES)
    assert few.scene().scores.shape == (4, NUM_CANDIDATES + 100)
    alone = make_vector(env_id, 4, **options)
    alone.reset(seed=0)
    actions = random_actions(env_id, 4, 0)
    (_, rewards, _, _, outcome), (_, others, *_) = few.step(actions), alone.step(actions)
    assert outcome["credit"].shape[:2] == (4, NUM_CANDIDATES)
    assert not torch.equal(rewards, others)


def test_features_are_what_the_heads_last_layer_says(
    env_id: str, options: dict[str, Any], detector: Detector, data: EncodedDataset
) -> None:
    envs = make_vector(env_id, 4, **options, samples_per_image=2)
    observation, _ = envs.reset(seed=0)
    with torch.no_grad():
        output = detector.head(envs.shown.encoded)
    for row, image in ((0, 0), (1, 0), (2, 1)):
        for candidate in (0, 7):
            proposal = observation["index"][row, candidate] // detector.num_classes
            assert torch.equal(observation["features"][row, candidate], output.embeddings[image, proposal])


def test_without_features_all_else_is_the_same(env_id: str, options: dict[str, Any]) -> None:
    full, lean = (make_vector(env_id, 4, **options, samples_per_image=2, features=given) for given in (True, False))
    (observation, _), (leaner, _) = full.reset(seed=0), lean.reset(seed=0)
    assert lean.observation_space.keys() == leaner.keys() == observation.keys() - {"features"}
    assert all(torch.equal(values, observation[name]) for name, values in leaner.items())
    actions = random_actions(env_id, 4, 0)
    (_, rewards, _, _, told), (_, same, _, _, told_too) = full.step(actions), lean.step(actions)
    assert torch.equal(rewards, same)
    assert torch.equal(told["credit"], told_too["credit"])
    with pytest.raises(ValueError, match="features must be True or False; got 1"), unchecked():
        make_vector(env_id, 4, **options, features=1)


def test_the_heads_output_comes_with_a_graph_where_an_agent_asks_for_one(
    env_id: str, options: dict[str, Any], detector: Detector
) -> None:
    envs = make_vector(env_id, 4, **options, samples_per_image=2)
    for asked in ({}, {"with_graph": True}, {"indices": [1, 0]}):
        shown = envs.show(seed=0, **asked)
        assert len(shown.output.logits) == len(shown.encoded) == len(shown.indices) == 2
        assert torch.equal(shown.output.logits, detector.head(shown.encoded).logits)
        assert shown.output.logits.requires_grad == shown.output.boxes.requires_grad == ("with_graph" in asked)
        assert not any(values.requires_grad for values in shown.observation.values())
    envs.reset()
    assert not envs.shown.output.logits.requires_grad


def test_an_action_of_one_means_the_action_scale(env_id: str, options: dict[str, Any]) -> None:
    if env_id == SELECT:
        with pytest.raises(ValueError, match=r"action_scale has no meaning here.*; got 0\.5"):
            make_vector(env_id, 2, **options, action_scale=0.5)
        return
    usual, half = make_vector(env_id, 2, **options), make_vector(env_id, 2, **options, action_scale=8.0)
    for envs in (usual, half):
        envs.reset(seed=0)
    actions = random_actions(env_id, 2, 0).clamp(-0.5, 0.5)
    (_, rewards, *_, info), (_, same, *_, other) = usual.step(actions), half.step(2 * actions)
    assert torch.equal(rewards, same)
    assert torch.equal(info["credit"], other["credit"])
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"action_scale must be (positive|finite|a number)"):
            make_vector(env_id, 2, **options, action_scale=wrong)
