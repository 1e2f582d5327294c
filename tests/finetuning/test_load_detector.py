"""What a detector may be loaded from, and the one sentence for what it may not."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from contract.families import MOBILENET
from contract.one_stage_families import ONE_STAGE_FAMILIES, one_stage_model
from contract.query_families import query_model
from finetuning.small import own_model, pairs, same_state, write_folder
from torch import nn
from unchecked import unchecked

import rl_det
from rl_det.data.splits import Splits
from rl_det.detectors import build_detector, save_state
from rl_det.detectors.torchvision.tiny import SHIPPED_WEIGHTS


@pytest.fixture(scope="module")
def two() -> Splits:
    return rl_det.open_data(pairs(), classes=["low", "high"])


def test_a_name_on_digits_comes_trained_and_on_other_data_with_a_fresh_predictor(two: Splits) -> None:
    digits = rl_det.load_detector("tiny", rl_det.digit_scenes(2, 2, 2))
    assert (digits.is_trained, digits.architecture.input_size) == (True, None)
    other = rl_det.load_detector("tiny", two)
    assert (other.is_trained, other.architecture.input_size, other.num_classes) == (False, 192, 2)
    backbone = {name: value for name, value in digits.plain().state_dict().items() if name.startswith("backbone")}
    assert same_state(backbone, {name: other.plain().state_dict()[name] for name in backbone})
    again = rl_det.load_detector("tiny", two)
    assert same_state(other.plain().state_dict(), again.plain().state_dict()), "fresh weights are always the same"


def test_loading_leaves_the_users_generator_alone(two: Splits) -> None:
    state = torch.get_rng_state()
    rl_det.load_detector("tiny", two, weights="none")
    assert torch.equal(torch.get_rng_state(), state)


def test_a_file_of_weights_says_itself_which_detector_it_is() -> None:
    digits = rl_det.digit_scenes(2, 2, 2)
    detector = rl_det.load_detector(SHIPPED_WEIGHTS, digits)
    assert detector.architecture.name == "tiny"
    named = rl_det.load_detector("tiny", digits, weights=SHIPPED_WEIGHTS)
    assert same_state(detector.plain().state_dict(), named.plain().state_dict())


def test_weights_of_other_classes_give_all_but_the_predictor(two: Splits) -> None:
    for source, weights in ((SHIPPED_WEIGHTS, None), ("tiny", SHIPPED_WEIGHTS)):
        detector = rl_det.load_detector(source, two, weights=weights)
        assert (detector.num_classes, detector.is_trained) == (2, False)
        state = detector.plain().state_dict()
        known = rl_det.load_detector("tiny", rl_det.digit_scenes(2, 2, 2)).plain().state_dict()
        assert all(torch.equal(state[name], known[name]) for name in state if "box_predictor" not in name)


def test_weights_that_fit_two_architectures_are_refused_naming_both(two: Splits, tmp_path: Path) -> None:
    file = tmp_path / "mine.pt"
    save_state(build_detector(MOBILENET, num_classes=2).plain(), file, torch.float16)
    both = r"it fits fasterrcnn_mobilenet_v3_large_320_fpn and fasterrcnn_mobilenet_v3_large_fpn; name the detector"
    with pytest.raises(ValueError, match=both):
        rl_det.load_detector(file, two)
    named = rl_det.load_detector(MOBILENET, two, weights=file)
    assert (named.is_trained, named.architecture.name) == (True, MOBILENET)


def test_a_model_is_copied_and_stays_as_it_is(two: Splits) -> None:
    model = own_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    detector = rl_det.load_detector(model, two)
    with torch.no_grad():
        for parameter in detector.plain().parameters():
            parameter.add_(1.0)
    assert same_state(model.state_dict(), before)
    assert model.training, "nor is it put into another mode"
    assert detector.is_trained
    assert detector.architecture.library == "own"


def test_a_model_of_ninety_one_classes_gets_a_fresh_predictor(two: Splits) -> None:
    model = own_model(num_classes=90)
    detector: Any = rl_det.load_detector(model, two)
    assert (detector.num_classes, detector.is_trained) == (2, False)
    assert detector.plain().roi_heads.box_predictor.cls_score.out_features == 3
    assert model.roi_heads.box_predictor.cls_score.out_features == 91


@pytest.mark.parametrize("family", ONE_STAGE_FAMILIES)
def test_a_one_stage_model_of_other_classes_is_copied_and_gets_a_fresh_predictor(family: str, two: Splits) -> None:
    model = one_stage_model(family, 3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    detector = rl_det.load_detector(model, two, trainable="predictor", device="cpu")
    assert (detector.num_classes, detector.is_trained, detector.part) == (2, False, "predictor")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    encoded = detector.encode([torch.rand(3, 40, 40)])
    assert detector.head(encoded).logits.shape[2] == 2


def test_everything_else_is_refused_in_one_sentence(two: Splits, tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("not weights")
    torch.save({"other": torch.zeros(3)}, tmp_path / "other.pt")
    torch.save({"model": {"a": torch.zeros(3)}, "epoch": 3}, tmp_path / "nested.pt")
    (tmp_path / "empty").mkdir()
    cases: list[tuple[Any, dict[str, Any], str]] = [
        ("yolo_v99", {}, "yolo_v99: a detector must be one of tiny, .*, or a model; there is no such file"),
        (tmp_path / "gone.pt", {}, "gone.pt: .*there is no such file"),
        (tmp_path / "empty", {}, "empty: a detector must be .*; it is none"),
        (tmp_path / "text.pt", {}, r"text\.pt: must be a readable \.pt file of tensors"),
        (tmp_path / "other.pt", {}, r"other\.pt: must hold the weights of one of tiny, .*; it fits none of them"),
        (
            tmp_path / "nested.pt",
            {},
            r"nested\.pt: must hold the weights of one of tiny, .*; it fits none of them",
        ),
        (nn.Linear(2, 2), {}, r"a model must be one of .*FasterRCNN, .*RetinaNet, .*; got a torch\.nn\..*Linear"),
        (own_model(), {"weights": "mine.pt"}, "weights goes with the name of a detector only"),
        (own_model(), {"image_size": 100}, "image_size goes with the name of a detector only"),
        ("tiny", {"weights": "DEFAULT"}, "the weights of tiny must be 'none' or a file"),
        ("tiny", {"weights": "gone.pt"}, r"gone\.pt: must be a file of weights; there is none"),
        ("tiny", {"image_size": 0}, "image_size must be at least 1; got 0"),
        ("tiny", {"device": "tpu"}, "device must be one of auto, cpu, cuda; got 'tpu'"),
        (MOBILENET, {"weights": "IMAGENET"}, "must be 'none', one of COCO_V1, DEFAULT, or a file"),
    ]
    if not torch.cuda.is_available():
        cases.append(("tiny", {"device": "cuda"}, "device cuda needs a CUDA device"))
    for source, keywords, told in cases:
        with unchecked(), pytest.raises(ValueError, match=told) as raised:
            rl_det.load_detector(source, two, **keywords)
        assert "\n" not in str(raised.value).strip(), str(raised.value)


def test_a_model_card_that_lies_about_does_not_decide_what_a_name_means(
    two: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="there is no such file"):
        rl_det.load_detector("nothing", two)


def test_a_folder_of_data_may_stand_for_the_data(tmp_path: Path) -> None:
    assert rl_det.load_detector("tiny", write_folder(tmp_path / "data")).is_trained


def test_a_new_predictor_is_said(two: Splits, capsys: pytest.CaptureFixture[str]) -> None:
    rl_det.load_detector(own_model(num_classes=5), two)
    assert capsys.readouterr().err.splitlines() == [
        f"the detector knows 5 classes, and {two.name} has 2: its predictor is new, with random weights"
    ]
    rl_det.load_detector(own_model(), two)
    assert not capsys.readouterr().err


def test_a_detector_of_as_many_other_classes_is_refused_unless_its_predictor_may_be_replaced(
    two: Splits, tmp_path: Path
) -> None:
    folder = tmp_path / "better"
    budget = rl_det.Budget(num_updates=1, max_views=1, num_draws=2, warm_start_share=0.004)
    votes = rl_det.finetune(
        rl_det.load_detector("tiny", two, weights="none"), two, rl_det.HandSetVotes(), budget=budget,
        out=tmp_path / "run", baselines=False,
    )  # fmt: skip
    votes.best.export(folder)
    assert rl_det.load_detector(folder, two).is_trained
    assert rl_det.load_detector(folder, rl_det.open_data(pairs(), classes=["LOW", "High"])).is_trained
    assert rl_det.load_detector(folder, rl_det.open_data(pairs())).is_trained, "numbers are no names"
    fruit = rl_det.open_data(pairs(), classes=["low", "pear"], name="fruit")
    with pytest.raises(
        ValueError, match="knows other classes than fruit: 'high' where the data has 'pear'; rename them"
    ):
        rl_det.load_detector(folder, fruit)
    assert not rl_det.load_detector(folder, fruit, other_classes="replace").is_trained


def test_a_transformers_model_object_of_other_names_is_refused_as_its_folder_is(two: Splits) -> None:
    pytest.importorskip("transformers")
    model = query_model("detr", 2)
    assert rl_det.load_detector(model, two).is_trained, "its classes have no names"
    model.config.id2label = {0: "high", 1: "low"}
    with pytest.raises(ValueError, match=r"knows other classes than .*: 'high' where the data has 'low'; rename them"):
        rl_det.load_detector(model, two)
    assert not rl_det.load_detector(model, two, other_classes="replace").is_trained
    model.config.id2label = {0: "low", 1: "high"}
    assert rl_det.load_detector(model, two).is_trained


def test_what_strategies_train_is_chosen_and_anything_else_refused(two: Splits) -> None:
    names = {"predictor": {"box_predictor"}, "head": {"box_head", "box_predictor"}}
    everything = {"backbone", "rpn", "box_head", "box_predictor"}
    for part in ("predictor", "head", "all"):
        detector = rl_det.load_detector(own_model(), two, trainable=part)
        assert set(dict(detector.trainable.named_children())) == names.get(part, everything)
    for keywords, told in (
        ({"trainable": "backbone"}, "trainable must be one of predictor, head, all; got 'backbone'"),
        ({"other_classes": "keep"}, "other_classes must be one of refuse, replace; got 'keep'"),
    ):
        with unchecked(), pytest.raises(ValueError, match=told):
            rl_det.load_detector(own_model(), two, **keywords)


@pytest.mark.parametrize(("prefix", "suffix"), [("", ".pth"), ("module.", ".pth"), ("model.", ".ckpt")])
def test_a_checkpoint_of_torchvisions_references_or_of_lightning_is_a_detector(
    tmp_path: Path, prefix: str, suffix: str
) -> None:
    digits, file = rl_det.digit_scenes(2, 2, 2), tmp_path / f"model_25{suffix}"
    known = rl_det.load_detector("tiny", digits)
    state = {prefix + name: tensor for name, tensor in known.plain().state_dict().items()}
    torch.save({"model": state, "optimizer": {}, "epoch": 25, "args": argparse.Namespace(lr=0.02)}, file)
    for detector in (rl_det.load_detector(file, digits), rl_det.load_detector("tiny", digits, weights=file)):
        assert detector.is_trained
        assert same_state(detector.plain().state_dict(), known.plain().state_dict())


def test_a_training_programs_checkpoint_is_a_detector_and_what_is_left_out_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    digits, file = rl_det.digit_scenes(2, 2, 2), Path("LAST.CKPT")
    known = rl_det.load_detector("tiny", digits)
    state = {f"model.{name}": tensor for name, tensor in known.plain().state_dict().items()}
    ema = {f"module.{name}": tensor for name, tensor in own_model().state_dict().items()}
    torch.save({"state_dict": {"criterion.weight": torch.ones(3), **state}, "ema": ema}, file)
    for source, weights in ((str(file), None), ("tiny", str(file))):
        detector = rl_det.load_detector(source, digits, weights=weights)
        assert same_state(detector.plain().state_dict(), known.plain().state_dict())
        assert capsys.readouterr().err.splitlines() == [
            "LAST.CKPT: the weights under 'state_dict' are taken; averaged ones lie under 'ema': to take those, save that "
            "entry alone in a file",
            f"LAST.CKPT: 1 of {len(state) + 1} entries are not the model's and are left out, such as criterion.weight",
        ]


def test_a_running_mean_of_torch_is_a_detector_too(tmp_path: Path) -> None:
    digits = rl_det.digit_scenes(2, 2, 2)
    known = rl_det.load_detector("tiny", digits)
    torch.save({"model": torch.optim.swa_utils.AveragedModel(known.plain()).state_dict()}, tmp_path / "ema.pt")
    detector = rl_det.load_detector("tiny", digits, weights=tmp_path / "ema.pt")
    assert same_state(detector.plain().state_dict(), known.plain().state_dict())


def test_a_box_predictor_with_other_layers_costs_one_sentence(two: Splits) -> None:
    model = own_model()
    model.roi_heads.box_predictor = torch.nn.Sequential(torch.nn.Linear(4, 3))
    told = r"must have the layers cls_score and bbox_pred; Sequential lacks \['bbox_pred', 'cls_score'\]"
    with pytest.raises(ValueError, match=told):
        rl_det.load_detector(model, two)


@pytest.mark.parametrize("name", ["maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn"])
def test_a_mask_or_keypoint_rcnn_is_taken_by_its_boxes(name: str, two: Splits) -> None:
    detector = rl_det.load_detector(name, two, weights="none", image_size=64, trainable="predictor")
    model: Any = detector.plain()
    before = {entry: tensor.clone() for entry, tensor in model.state_dict().items()}
    image, target = two.train[0].image, two.train[0].target
    labels = [{"boxes": target.boxes, "labels": target.labels}]
    losses, encoded, output = detector.training_pass([image], labels)
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    assert output.logits.shape == (*encoded.mask.shape, 2)
    (found,) = detector.detect([image])
    assert set(found) == {"boxes", "labels", "scores"}
    assert model.roi_heads.has_mask() or model.roi_heads.has_keypoint()
    assert model.state_dict().keys() == before.keys()
    with torch.no_grad():
        (whole,) = model([image])
    assert torch.equal(whole["boxes"], found["boxes"])
    assert {"masks", "keypoints"} & set(whole)
