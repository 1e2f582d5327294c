"""A user's own model: what is frozen, wrapped, pruned or cannot be copied costs one sentence."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from contract.one_stage_families import ONE_STAGE_FAMILIES, one_stage_model
from contract.query_families import query_model
from finetuning.small import BUDGET, own_model, pairs
from torch import nn
from torch.nn.utils import prune
from training.toy import ToyLearner, config
from unchecked import unchecked

import rl_det
from rl_det.data.splits import Splits
from rl_det.detectors.protocol import Detector, Part
from rl_det.errors import UserError
from rl_det.finetuning.budget import recipe_for
from rl_det.finetuning.plan import Plan, plan_run
from rl_det.strategies.strategy import Strategy
from rl_det.training.loop import fit


@pytest.fixture(scope="module")
def two() -> Splits:
    return rl_det.open_data(pairs(), classes=["low", "high"])


@pytest.mark.parametrize("family", ["own", *ONE_STAGE_FAMILIES, "detr"])
@pytest.mark.parametrize("part", ["predictor", "head", "all"])
def test_a_model_that_is_frozen_as_a_whole_is_refused_before_any_work(family: str, part: Part, two: Splits) -> None:
    if family == "detr":
        pytest.importorskip("transformers")
        model = query_model("detr", 2)
    else:
        model = own_model() if family == "own" else one_stage_model(family, 2)
    told = rf"the part {part} of the detector must have parameters that require a gradient; none does: .*trainable"
    detector = rl_det.load_detector(model.requires_grad_(False), two, trainable=part)
    with pytest.raises(UserError, match=told):
        plan(detector, two, rl_det.PPO(policy="rescore"))
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_frozen_part_is_refused_only_if_it_is_the_one_that_is_trained(two: Splits) -> None:
    model: Any = own_model()
    model.backbone.requires_grad_(False)
    model.roi_heads.box_predictor.requires_grad_(False)
    with pytest.raises(UserError, match="the part predictor of the detector"):
        plan(rl_det.load_detector(model, two, trainable="predictor"), two, rl_det.Labels())
    plan(rl_det.load_detector(model, two, trainable="head"), two, rl_det.Labels())  # the box head may learn
    new = rl_det.load_detector(own_model(num_classes=5).requires_grad_(False), two)
    assert not new.is_trained
    plan(new, two, rl_det.Labels())  # its new predictor may learn


def test_what_trains_nothing_takes_a_frozen_model_and_gives_the_same_rows(two: Splits, tmp_path: Path) -> None:
    frozen = rl_det.load_detector(own_model().requires_grad_(False), two)
    for strategy in (
        rl_det.HandSetVotes(after=rl_det.Labels()),
        rl_det.PostProcessing(after=rl_det.Labels()),
        rl_det.Labels(),
    ):
        with pytest.raises(UserError, match="must have parameters that require a gradient"):
            plan(frozen, two, strategy, baselines=False)
    strategies = (rl_det.HandSetVotes(), rl_det.PostProcessingGrid(), rl_det.PostProcessing())
    with pytest.raises(UserError, match="must have parameters that require a gradient"):
        plan(frozen, two, *strategies)  # the control would be trained
    found = rl_det.finetune(frozen, two, *strategies, budget=BUDGET, baselines=False, out=tmp_path / "run")
    assert set(found.rows) >= {strategy.name for strategy in strategies}
    learnt = rl_det.load_detector(own_model(), two)
    same = rl_det.finetune(learnt, two, *strategies, budget=BUDGET, baselines=False, out=tmp_path / "other")
    assert [row.validation_ap for row in found.rows.values()] == [row.validation_ap for row in same.rows.values()]


def plan(detector: Detector, data: Splits, *strategies: Strategy, baselines: bool = True) -> Plan:
    """The plan of a run; nothing is written."""
    return plan_run(detector, data, strategies, BUDGET, recipe_for(data), 0, baselines=baselines, out=None)


def test_what_was_frozen_later_is_one_sentence_before_the_first_step() -> None:
    learner = ToyLearner([0.1])
    learner.trainable.requires_grad_(False)
    with pytest.raises(UserError, match="must have parameters that require a gradient; all are frozen; unfreeze"):
        fit(learner, config(), name="toy")


class Wrapper(nn.Module):
    """As people keep a detector in a module of their training program."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.criterion, self.detector = nn.Linear(2, 2), model
        self.lock = threading.Lock()  # cannot be copied


WRAPPED: dict[str, Callable[[nn.Module], Any]] = {
    "module": nn.DataParallel,
    "_orig_mod": torch.compile,
    "detector": Wrapper,
    "module._orig_mod": lambda model: nn.DataParallel(torch.compile(model)),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("place", WRAPPED)
def test_a_wrapped_model_is_refused_with_the_name_of_what_it_holds(place: str, two: Splits) -> None:
    with pytest.raises(UserError, match=rf"a model must be one of .*, which holds one; give model\.{place}$"):
        rl_det.load_detector(WRAPPED[place](own_model()), two)


def test_a_pruned_model_is_refused_with_what_to_do_and_taken_once_that_is_done(two: Splits) -> None:
    model: Any = own_model()
    layer = model.roi_heads.box_head.fc6
    prune.l1_unstructured(layer, "weight", amount=0.5)
    told = r"roi_heads\.box_head\.fc6\.weight is pruned: .*torch\.nn\.utils\.prune\.remove\(layer, 'weight'\)"
    for frozen in (False, True):  # frozen, it could be copied
        model.requires_grad_(not frozen)
        with pytest.raises(UserError, match=told):
            rl_det.load_detector(model, two)
    prune.remove(layer.requires_grad_(True), "weight")
    assert rl_det.load_detector(model.requires_grad_(True), two).is_trained


def test_a_model_that_cannot_be_copied_is_one_sentence(two: Splits) -> None:
    model: Any = own_model()
    model.backbone.kept = model.backbone.layers[0].weight * 2
    with pytest.raises(
        UserError, match=r"copied; backbone\.kept is a result with a gradient .*remove it, or detach it"
    ):
        rl_det.load_detector(model, two)
    model.backbone.kept = [model.backbone.kept]
    with pytest.raises(UserError, match=r"must be one that copy\.deepcopy copies; the FasterRCNN is not: Only"):
        rl_det.load_detector(model, two)
    model.backbone.kept = threading.Lock()
    with pytest.raises(UserError, match="the FasterRCNN is not: cannot pickle"):
        rl_det.load_detector(model, two)


OWN_LAYERS: dict[str, tuple[str, str, str]] = {
    "retinanet": ("head.classification_head", "cls_logits", r"the last layer of cls_logits must be a Conv2d layer"),
    "fcos": ("head.regression_head", "bbox_ctrness", r"the last layer of bbox_ctrness must be a Conv2d layer"),
    "ssdlite": ("head.regression_head.module_list.0", "1", "the last layer of bbox_regression must be a Conv2d layer"),
    "own": ("roi_heads.box_predictor", "cls_score", r"roi_heads\.box_predictor\.cls_score must be a Linear layer"),
    "detr": ("", "class_labels_classifier", "the class predictor of the last layer must be a Linear layer"),
}


@pytest.mark.parametrize("family", OWN_LAYERS)
def test_a_last_layer_with_others_in_front_of_it_is_refused_with_what_it_lacks(family: str, two: Splits) -> None:
    if family == "detr":
        pytest.importorskip("transformers")
        model: Any = query_model("detr", 2)
    else:
        model = own_model() if family == "own" else one_stage_model(family, 2)
    owner, name, told = OWN_LAYERS[family]
    part = model.get_submodule(owner)
    part.add_module(name, nn.Sequential(nn.Dropout(0.1), part.get_submodule(name)))
    with (
        unchecked(),
        pytest.raises(UserError, match=rf"{told} with in_.*weight.*; Sequential lacks in_.*weight.*; put other layers"),
    ):
        rl_det.load_detector(model, two)


def test_scores_without_a_bias_are_refused_and_boxes_without_one_taken(two: Splits) -> None:
    model: Any = one_stage_model("retinanet", 2)
    model.head.regression_head.bbox_reg.bias = None
    assert rl_det.load_detector(model, two).is_trained
    model.head.classification_head.cls_logits.bias = None
    with pytest.raises(UserError, match=r"the last layer of cls_logits must .* bias; Conv2d lacks bias"):
        rl_det.load_detector(model, two)


OWN_PARTS: dict[str, tuple[str, str, str]] = {
    "retinanet": ("head.classification_head", "num_classes", "cls_logits, num_classes, num_anchors"),
    "fcos": ("head.regression_head", "bbox_ctrness", "bbox_reg, bbox_ctrness"),
    "ssd": ("head.classification_head", "num_columns", "module_list, num_columns"),
    "ssdlite": ("head", "regression_head", "classification_head, regression_head"),
}


@pytest.mark.parametrize("family", OWN_PARTS)
def test_an_own_head_without_what_is_read_of_it_is_refused_with_all_that_must_be_there(
    family: str, two: Splits
) -> None:
    model: Any = one_stage_model(family, 2)
    place, name, wanted = OWN_PARTS[family]
    delattr(model.get_submodule(place), name)
    with pytest.raises(UserError, match=rf"^{place} must have {wanted}, .* lacks {name}; give your class"):
        rl_det.load_detector(model, two)
