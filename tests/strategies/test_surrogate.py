"""Fine-tuning by surrogates of AP: what is ranked, what counts as right, which way gradient goes, and that it is learned."""

from dataclasses import replace
from functools import partial
from typing import get_args

import pytest
import torch
from contract.families import NUM_CLASSES, retinanet
from strategies.scenes import Told, shipped, train_data
from torch import Tensor
from unchecked import unchecked

from rl_det.ap import match
from rl_det.ap.padding import pad_detections, pad_targets
from rl_det.candidates import nms, select_candidates
from rl_det.data.digit_scenes import CLASSES, DigitScenes
from rl_det.detectors import Detector, RetinaNetDetector
from rl_det.detectors.encodings import EncodedDataset
from rl_det.losses.ap import ap_loss
from rl_det.policies.context import ContextPolicy
from rl_det.policies.exploration import Exploration
from rl_det.policies.policy import Policy
from rl_det.policies.rescore import RescorePolicy
from rl_det.policies.voting import VotingPolicy
from rl_det.policies.voting_module import VotingModule
from rl_det.strategies.class_lists import MatchedCandidates, class_lists, match_candidates
from rl_det.strategies.labels import LabelsLearner, supervised_loss
from rl_det.strategies.surrogate import SURROGATES, Surrogate, SurrogateName, model_losses, policy_losses
from rl_det.training.loop import fit
from rl_det.training.loop_config import LoopConfig
from rl_det.types import Candidates, Target

NAMES = get_args(SurrogateName)
NUM_CANDIDATES = 80
NMS_IOU = 0.6


@pytest.fixture
def detector() -> Detector:
    return shipped()


@pytest.fixture(scope="module")
def data() -> EncodedDataset:
    return train_data()


def voting(detector: Detector) -> VotingPolicy:
    torch.manual_seed(0)
    return VotingPolicy(detector, VotingModule(detector.num_classes), sigma=0.5, box_sigma=0.2)


def config(**changes: object) -> Surrogate:
    return replace(Surrogate(num_candidates=NUM_CANDIDATES), **changes)  # type: ignore[arg-type]


def candidates_of(detector: Detector, data: EncodedDataset) -> Candidates:
    encoded = data.batch(torch.arange(len(data)), detector)
    return select_candidates(detector.head(encoded), encoded.mask, NUM_CANDIDATES)


def matched(candidates: Candidates, targets: list[Target]) -> MatchedCandidates:
    return match_candidates(candidates.boxes, candidates.logits, candidates, targets, len(CLASSES), NMS_IOU)


def losses_of(policy: Policy, data: EncodedDataset, own: Surrogate) -> dict[str, Tensor]:
    encoded = data.batch(torch.arange(len(data)), policy.detector)
    return policy_losses(policy, encoded, policy.detector.head(encoded), data.targets, own)


def test_what_is_ranked_is_what_a_user_sees_and_right_is_what_coco_calls_right(
    detector: Detector, data: EncodedDataset
) -> None:
    candidates = candidates_of(detector, data)
    found = matched(candidates, data.targets)
    seen = nms(candidates, nms_iou=NMS_IOU, max_detections=NUM_CANDIDATES)
    assert found.kept.sum(1).tolist() == [len(one["labels"]) for one in seen]
    matches = match(pad_detections(seen), pad_targets(data.targets), num_classes=len(CLASSES))
    bits = torch.from_numpy(matches.hits[0].astype("int64"))
    expected = [int((bits >> threshold & 1).sum()) for threshold in range(10)]
    assert found.right.flatten(1).sum(1).tolist() == expected
    assert not (found.right & ~found.kept).any()
    assert int(found.positives.sum()) == sum(len(target.labels) for target in data.targets)


def test_a_second_detection_of_an_object_is_wrong() -> None:
    target = Target(
        boxes=torch.tensor([[0.0, 0.0, 20.0, 20.0]]), labels=torch.tensor([3]), area=torch.tensor([400.0]),
        iscrowd=torch.tensor([False]), image_id=1,
    )  # fmt: skip
    boxes = torch.tensor([[[0.0, 0.0, 20.0, 18.0], [0.0, 8.0, 20.0, 20.0], [0.0, 0.0, 20.0, 20.0]]])
    pair = Candidates(
        boxes=boxes, labels=torch.tensor([[3, 3, 4]]), logits=torch.tensor([[2.0, 1.0, 0.0]]),
        mask=torch.ones(1, 3, dtype=torch.bool), index=torch.zeros(1, 3, dtype=torch.int64),
    )  # fmt: skip
    found = matched(pair, [target])
    assert found.kept.tolist() == [[True, True, True]]
    assert found.right[:, 0, 0].tolist() == [True] * 9 + [False]
    assert not found.right[:, 0, 1:].any()
    torch.testing.assert_close(found.iou, torch.tensor([[0.9, 0.6, 0.0]]))
    assert found.object_box[0].tolist() == [[0, 0, 20, 20], [0, 0, 20, 20], boxes[0, 2].tolist()]
    lists = class_lists(found, pair.logits, torch.zeros(1, 3))
    assert lists.scores.tolist() == [[2.0, 1.0]]  # of class 4, nothing is there to be found
    assert lists.num_positives.tolist() == [1.0]
    assert float(SURROGATES["ap"](lists)) == pytest.approx(0.0)


def test_class_lists_hold_every_shown_candidate_of_a_class_that_is_there(
    detector: Detector, data: EncodedDataset
) -> None:
    candidates = candidates_of(detector, data)
    found = matched(candidates, data.targets)
    lists = class_lists(found, candidates.logits, 1 - found.iou)
    mask = lists.counted[0]
    for row, label in enumerate((found.positives > 0).nonzero().flatten() + 1):
        own = found.kept & (found.labels == label)
        assert lists.scores[row][mask[row]].tolist() == candidates.logits[own].tolist()
        assert lists.right[:, row][:, mask[row]].tolist() == found.right[:, own].tolist()
        torch.testing.assert_close(lists.error[row][mask[row]], 1 - lists.iou[row][mask[row]])
    assert int(mask.sum()) == int((found.kept & (found.positives[found.labels - 1] > 0)).sum())


def test_the_ap_surrogate_is_a_mean_over_classes_and_thresholds_and_over_the_true_boxes_of_each(
    detector: Detector, data: EncodedDataset
) -> None:
    candidates = candidates_of(detector, data)
    found = matched(candidates, data.targets)
    parts = [
        ap_loss(
            candidates.logits[own],
            found.right[threshold][own],
            num_positives=float(sum((target.labels == label).sum() for target in data.targets)),
        )
        for label in range(1, len(CLASSES) + 1)
        if found.positives[label - 1] > 0
        for own in [found.kept & (found.labels == label)]
        for threshold in range(10)
    ]
    losses = losses_of(RescorePolicy(detector, sigma=0.5), data, config(loss="ap", surrogate_weight=3.0))
    torch.testing.assert_close(losses["ap"].detach(), 3 * torch.stack(parts).mean())


@pytest.mark.parametrize("name", NAMES)
def test_a_surrogate_alone_moves_scores_and_no_boxes(name: str, detector: Detector, data: EncodedDataset) -> None:
    losses = losses_of(RescorePolicy(detector, sigma=0.5), data, config(loss=name, supervised_weight=0.0))
    assert set(losses) == {name, "boxes", "residual"}
    sum(losses.values()).backward()  # type: ignore[union-attr]
    predictor = detector.plain().roi_heads.box_predictor
    assert predictor.cls_score.weight.grad.abs().max() > 0
    assert predictor.bbox_pred.weight.grad is None or not predictor.bbox_pred.weight.grad.any()


@pytest.mark.parametrize("name", NAMES)
def test_every_surrogate_is_learned_by_head_and_module(name: str, detector: Detector, data: EncodedDataset) -> None:
    policy, told = voting(detector), Told()
    before = {key: value.clone() for key, value in policy.trainable.state_dict().items()}
    learner = LabelsLearner(
        policy,
        data,
        partial(policy_losses, config=config(loss=name)),
        batch_size=8,
        generator=torch.Generator().manual_seed(0),
        validate=iter([0.1, 0.2]).__next__,
    )
    loop = LoopConfig(num_updates=12, learning_rate=1e-3, validate_every=12)
    fit(learner, loop, name=name, callbacks=[told])
    seen = [metrics for update, metrics in told.lines if update]
    assert seen[-1][name] < seen[0][name]
    assert seen[-1]["boxes"] < seen[0]["boxes"]
    assert seen[-1]["val_AP"] == 0.2
    changed = {key for key, value in policy.trainable.state_dict().items() if not torch.equal(value, before[key])}
    assert {key.split(".")[0] for key in changed} == {"head", "module"}


def test_the_control_is_continued_training_by_the_losses_that_come_by_default(
    detector: Detector, data: EncodedDataset
) -> None:
    losses = losses_of(RescorePolicy(detector, sigma=0.5), data, config())
    encoded = data.batch(torch.arange(len(data)), detector)
    supervised = supervised_loss(RescorePolicy(detector, sigma=0.5), encoded, detector.head(encoded), data.targets)
    torch.testing.assert_close(losses["supervised"], supervised)
    halved = losses_of(RescorePolicy(detector, sigma=0.5), data, config(supervised_weight=0.5))
    torch.testing.assert_close(halved["supervised"], supervised / 2)


def test_what_a_module_adds_to_the_heads_logits_has_a_price(detector: Detector, data: EncodedDataset) -> None:
    policy = voting(detector)
    assert float(losses_of(policy, data, config())["residual"].detach()) == 0.0
    policy.module.vote_plainly(1.0, 0.5)
    assert float(losses_of(policy, data, config())["residual"].detach()) > 0.0
    context = ContextPolicy.at_start(detector, Exploration(sigma=0.5, box_sigma=0.2))
    assert float(losses_of(context, data, config())["residual"].detach()) == 0.0
    torch.nn.init.normal_(context.module.residual.weight)
    assert float(losses_of(context, data, config())["residual"].detach()) > 0.0


@pytest.mark.parametrize("name", NAMES)
def test_images_without_a_true_box_teach_nothing_and_break_nothing(
    name: str, detector: Detector, data: EncodedDataset
) -> None:
    bare = [
        replace(
            target, boxes=target.boxes[:0], labels=target.labels[:0], area=target.area[:0], iscrowd=target.iscrowd[:0]
        )
        for target in data.targets
    ]
    losses = losses_of(voting(detector), replace(data, targets=bare), config(loss=name))
    assert float(losses[name].detach()) == 0.0
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is None or p.grad.isfinite().all() for p in detector.trainable.parameters())


def test_an_unknown_surrogate_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"loss must be one of ap, smooth_ap, .*; got 'map'"), unchecked():
        config(loss="map")


def test_a_one_stage_detector_is_tuned_as_well() -> None:
    torch.manual_seed(0)
    detector = RetinaNetDetector(retinanet())
    scenes = [DigitScenes("train", num_scenes=2)[index] for index in range(2)]
    targets = [replace(scene.target, labels=scene.target.labels % NUM_CLASSES + 1) for scene in scenes]
    encoded = detector.encode([scene.image for scene in scenes])
    losses = policy_losses(
        RescorePolicy(detector, sigma=0.5), encoded, detector.head(encoded), targets, config(num_candidates=20_000)
    )
    assert float(losses["smooth_ap"].detach()) > 0
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.trainable.parameters())


def test_training_from_the_start_adds_the_surrogate_to_the_models_own_losses_and_reaches_the_backbone(
    detector: Detector,
) -> None:
    samples = [DigitScenes("train", num_scenes=2)[index] for index in range(2)]
    losses = model_losses(detector, samples, config(supervised_weight=0.5))
    assert {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg", "smooth_ap"} < set(losses)
    losses["smooth_ap"].backward(retain_graph=True)
    weight = detector.plain().backbone.stem[0][0].weight
    assert weight.grad.abs().max() > 0
    assert detector.plain().rpn.head.bbox_pred.weight.grad is None
    weight.grad = None
    losses["boxes"].backward()
    assert weight.grad.abs().max() > 0
    assert not detector.plain().training
