"""The names, weights and predictors of torchvision's one-stage detectors."""

import math
import re
from pathlib import Path
from typing import Any, NoReturn
from urllib.error import URLError

import pytest
import torch
from contract.families import IMAGES
from torch import nn
from torchvision.models import _api

from rl_det.detectors import build_detector
from rl_det.detectors.family import Family
from rl_det.detectors.torchvision.fcos import FCOS_FAMILY
from rl_det.detectors.torchvision.retinanet import RETINANET
from rl_det.detectors.torchvision.ssd import SSD_FAMILY
from rl_det.storage.weights import save_state

FAMILIES = (RETINANET, FCOS_FAMILY, SSD_FAMILY)
NAMES = [(family, name) for family in FAMILIES for name in family.names]
NUM_CLASSES = 3
LITE = "ssdlite320_mobilenet_v3_large"


def built(family: Family, name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return family.build(name, num_classes=NUM_CLASSES, **options)


def test_the_families_name_every_one_stage_builder_of_torchvision() -> None:
    assert [name for _, name in NAMES] == [
        "retinanet_resnet50_fpn",
        "retinanet_resnet50_fpn_v2",
        "fcos_resnet50_fpn",
        "ssd300_vgg16",
        LITE,
    ]


@pytest.mark.parametrize(("family", "name"), NAMES)
def test_a_name_builds_a_model_of_its_family_alone_that_keeps_every_score(family: Family, name: str) -> None:
    model = built(family, name)
    assert [other for other in FAMILIES if other.takes(model)] == [family]
    assert [other.classes_known(model.state_dict()) for other in FAMILIES if other is not family] == [None, None]
    assert family.classes_known(model.state_dict()) == NUM_CLASSES
    assert model.score_thresh == 0.0
    assert not model.training
    detector = family.around(model, part="predictor")
    assert detector.num_classes == NUM_CLASSES
    assert detector.part == "predictor"


@pytest.mark.parametrize(("family", "name"), NAMES)
def test_a_new_predictor_leaves_all_but_the_last_layer_of_the_classes(family: Family, name: str) -> None:
    model = built(family, name)
    others = {key: tensor.clone() for key, tensor in model.state_dict().items() if "classification_head" not in key}
    towers = {key: t.clone() for key, t in model.state_dict().items() if "classification_head.conv" in key}
    family.replace_predictor(model, 5)
    assert family.classes_known(model.state_dict()) == 5
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in {**others, **towers}.items())
    again = family.around(model, part="predictor", is_trained=False)
    assert (again.num_classes, again.is_trained) == (5, False)
    scores = again.last_layers()["cls_logits"]  # type: ignore[attr-defined]
    if family is not SSD_FAMILY:  # rare objects, as torchvision starts
        assert scores[0].bias.detach().unique().tolist() == pytest.approx([-math.log(99)])


@pytest.mark.parametrize(("family", "name"), [(RETINANET, "retinanet_resnet50_fpn"), (SSD_FAMILY, LITE)])
def test_a_new_predictor_works(family: Family, name: str) -> None:
    model = built(family, name, input_size=64)
    family.replace_predictor(model, 5)
    detector = family.around(model)
    encoded = detector.encode(IMAGES[:1])
    assert detector.head(encoded).logits.shape[2] == 5
    assert model([IMAGES[0]])[0]["labels"].max() <= 5


def test_the_input_size_is_the_shorter_side_or_that_of_a_square() -> None:
    retinanet, lite = built(RETINANET, "retinanet_resnet50_fpn", input_size=64), built(SSD_FAMILY, LITE, input_size=96)
    assert retinanet.transform([IMAGES[1]])[0].image_sizes == [(53, 128)]
    assert retinanet.transform([IMAGES[2]])[0].image_sizes == [(91, 64)]
    for image in IMAGES:
        assert lite.transform([image])[0].tensors.shape == (1, 3, 96, 96)


def test_a_square_that_is_too_small_for_the_coarsest_map_is_refused() -> None:
    with pytest.raises(ValueError, match=r"coarsest map of ssd300_vgg16; got 200"):
        built(SSD_FAMILY, "ssd300_vgg16", input_size=200)


def test_local_weights_load_by_path_and_those_of_other_classes_are_refused(tmp_path: Path) -> None:
    saved = built(SSD_FAMILY, LITE)
    nn.init.normal_(saved.head.classification_head.module_list[0][-1].weight)
    save_state(saved, tmp_path / "own.pt")
    again = built(SSD_FAMILY, LITE, weights=str(tmp_path / "own.pt"))
    assert all(torch.equal(tensor, saved.state_dict()[key]) for key, tensor in again.state_dict().items())
    with pytest.raises(ValueError, match=r"own\.pt: .*same number of classes"):
        SSD_FAMILY.build(LITE, num_classes=7, weights=tmp_path / "own.pt")


def test_downloaded_weights_keep_their_predictor_only_for_their_own_number_of_classes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    state = SSD_FAMILY.build(LITE, num_classes=90).state_dict()
    monkeypatch.setattr(_api, "load_state_dict_from_url", lambda *_, **__: state)
    known = SSD_FAMILY.build(LITE, num_classes=90, weights="COCO_V1")
    assert all(torch.equal(tensor, state[key]) for key, tensor in known.state_dict().items())
    fresh = built(SSD_FAMILY, LITE, weights="DEFAULT")
    assert SSD_FAMILY.classes_known(fresh.state_dict()) == NUM_CLASSES
    boxes = {key for key in state if key.startswith(("backbone", "head.regression_head"))}
    assert all(torch.equal(fresh.state_dict()[key], state[key]) for key in boxes)
    assert fresh.score_thresh == 0.0


@pytest.mark.parametrize(("family", "name"), NAMES)
def test_unknown_names_and_failed_downloads_are_told_in_a_sentence(
    family: Family, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> NoReturn:
        raise URLError("no network")

    monkeypatch.setattr(_api, "load_state_dict_from_url", offline)
    monkeypatch.setattr(nn.init, "kaiming_normal_", lambda tensor, **_: tensor)  # nothing of it is used
    with pytest.raises(ValueError, match=rf"must be one of {family.names[0]}.*got 'yolo'"):
        built(family, "yolo")
    with pytest.raises(ValueError, match=rf"weights of {name} must be 'none'.*\.safetensors.*got 'COCO_V9'"):
        built(family, name, weights="COCO_V9")
    with pytest.raises(ValueError, match=rf"DEFAULT of {name}.*https://.*no network"):
        built(family, name, weights="DEFAULT")


def test_a_file_with_the_names_that_torchvision_gave_the_towers_before_loads(tmp_path: Path) -> None:
    saved = build_detector("retinanet_resnet50_fpn", num_classes=2).plain()
    state = {
        re.sub(r"(head\.\w+_head\.conv\.\d)\.0\.(weight|bias)", r"\1.\2", name): tensor
        for name, tensor in saved.state_dict().items()
    }
    old = {f"head.{head}_head.conv.{2 * layer}.{leaf}": state.pop(f"head.{head}_head.conv.{layer}.{leaf}")
           for head in ("classification", "regression") for layer in range(4) for leaf in ("weight", "bias")}  # fmt: skip
    torch.save(state | old, tmp_path / "old.pth")
    again = build_detector("retinanet_resnet50_fpn", num_classes=2, weights=tmp_path / "old.pth").plain()
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in saved.state_dict().items())
