"""Query detectors of transformers as files: what transformers and rl_det write, the other one loads."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from contract.families import IMAGES, NUM_CLASSES
from contract.query_families import IS_INSTALLED, OPTIONS, lively_query_detector, query_model
from torch import nn

from rl_det.detectors.protocol import Architecture
from rl_det.detectors.transformers import library
from rl_det.detectors.transformers.pretrained import (
    QUERY_DETECTORS,
    classes_known,
    load_pretrained,
    names_known,
    rebuild,
    save_pretrained,
)
from rl_det.detectors.transformers.processing import resized, resized_by_tensors, sized
from rl_det.detectors.transformers.query import QueryDetector
from rl_det.errors import UserError

pytestmark = pytest.mark.skipif(not IS_INSTALLED, reason="transformers is not installed")

CLASSES = ("cat", "dog", "bird")


@pytest.fixture(scope="module")
def detectors() -> dict[str, QueryDetector]:
    torch.manual_seed(0)
    return {family: lively_query_detector(family, NUM_CLASSES, IMAGES) for family in OPTIONS}


def test_pixels_have_the_range_that_the_processor_gives_them(detectors: dict[str, QueryDetector]) -> None:
    image = torch.rand(3, 48, 64)
    for family, detector in detectors.items():
        processor = copy.deepcopy(detector.processor)
        processor.rescale_factor = 1 / 127.5
        whole = (image * 255).round().to(torch.uint8)
        wanted = processor(images=[whole], do_resize=False, do_pad=False, return_tensors="pt")["pixel_values"][0]
        processor.do_resize = False
        torch.testing.assert_close(resized(processor, whole / 255), wanted, rtol=0, atol=1e-5, msg=family)
        torch.testing.assert_close(resized_by_tensors(processor, whole / 255), wanted, rtol=0, atol=1e-5, msg=family)


def test_a_processor_that_cannot_be_followed_is_refused(detectors: dict[str, QueryDetector]) -> None:
    for detector in detectors.values():
        padding, raw = copy.deepcopy(detector.processor), copy.deepcopy(detector.processor)
        padding.do_pad, padding.pad_size = True, {"height": 128, "width": 128}
        with pytest.raises(UserError, match="must not pad every image to one size"):
            sized(padding, None)
        raw.do_rescale, raw.do_normalize, raw.image_mean = False, True, [123.7, 116.3, 103.5]
        with pytest.raises(
            UserError, match=r"must rescale pixels \(do_rescale\), or take them in \[0, 1\]; its mean is \(123"
        ):
            sized(raw, None)


SCRIPT = """
import sys
import torch, transformers
sys.modules["rl_det"] = None  # it cannot be imported
images = torch.load(sys.argv[1] + "/images.pt")
for folder in sys.argv[2:]:
    model = transformers.AutoModelForObjectDetection.from_pretrained(folder)
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()  # aligned as usual, unlike a mapped file, or last digits differ
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    found = []
    for image in images:
        pixels = processor(images=[image], do_rescale=False, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            output = model(pixel_values=pixels)
        size = [tuple(image.shape[1:])]
        found += processor.post_process_object_detection(output, threshold=-1.0, target_sizes=size)
    torch.save([dict(each) for each in found], folder + "/found.pt")
"""


def test_transformers_alone_loads_what_was_saved_and_detects_the_same_to_the_bit(
    detectors: dict[str, QueryDetector], tmp_path: Path
) -> None:
    torch.save(IMAGES, tmp_path / "images.pt")
    for family, detector in detectors.items():
        save_pretrained(detector, tmp_path / family, CLASSES)
        assert {file.name for file in (tmp_path / family).iterdir()} >= {"config.json", "model.safetensors"}
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path)]
    command += [str(tmp_path / family) for family in detectors]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    for family, detector in detectors.items():
        again = rebuild(tmp_path / family, detector.architecture)
        assert again.is_trained
        assert names_known(again.plain()) == CLASSES
        found = torch.load(tmp_path / family / "found.pt")
        for image, own in zip(IMAGES, found, strict=True):
            (ours,), (same,) = detector.detect([image]), again.detect([image])  # batches round otherwise
            best = own["scores"].argsort(descending=True, stable=True)
            for name, wanted in (("boxes", own["boxes"]), ("scores", own["scores"]), ("labels", own["labels"] + 1)):
                assert torch.equal(ours[name], wanted[best]), family
                assert torch.equal(ours[name], same[name]), family


@pytest.mark.parametrize("family", OPTIONS)
def test_another_number_of_classes_gets_random_predictors_and_all_else_stays(
    detectors: dict[str, QueryDetector], family: str, tmp_path: Path
) -> None:
    detector, num_classes = detectors[family], 5
    save_pretrained(detector, tmp_path)
    other = load_pretrained(tmp_path, num_classes)
    assert not other.is_trained
    assert other.num_classes == other.architecture.num_classes == num_classes == len(other.plain().config.id2label)
    assert names_known(other.plain()) is None
    assert other.processor.size == detector.processor.size
    assert classes_known(other.plain().state_dict()) == num_classes
    assert classes_known(detector.plain().state_dict()) == NUM_CLASSES
    old, new = detector.plain().state_dict(), other.plain().state_dict()
    assert {name: tensor.shape for name, tensor in new.items()} == {
        name: tensor.shape for name, tensor in query_model(family, num_classes).state_dict().items()
    }
    assert all(torch.equal(old[name], new[name]) for name in old if old[name].shape == new[name].shape)
    labels = [{"boxes": torch.tensor([[4.0, 4.0, 30.0, 30.0]]), "labels": torch.tensor([num_classes])}] * 3
    assert other.training_pass(IMAGES, labels).losses["loss"].isfinite()


def test_a_folder_without_weights_is_random(detectors: dict[str, QueryDetector], tmp_path: Path) -> None:
    save_pretrained(detectors["detr"], tmp_path)
    (tmp_path / "model.safetensors").unlink()
    detector = load_pretrained(tmp_path, NUM_CLASSES, part="predictor")
    assert not detector.is_trained
    assert detector.part == "predictor"
    assert detector.head(detector.encode(IMAGES)).logits.shape[-1] == NUM_CLASSES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    query_model("detr", NUM_CLASSES).save_pretrained(tmp_path)
    return tmp_path


def test_a_folder_that_is_no_detector_is_refused_in_one_sentence(folder: Path) -> None:
    card = folder / "config.json"
    told = json.loads(card.read_text(encoding="utf-8"))
    for change, message in (
        ({"model_type": "bert"}, "must be a query detector.*it is a bert"),
        ({"model_type": "no_such"}, "configuration cannot be loaded"),
        ({"architectures": ["DetrForSegmentation"]}, "it is a DetrForSegmentation, of another task"),
    ):
        card.write_text(json.dumps(told | change), encoding="utf-8")
        with pytest.raises(UserError, match=message) as raised:
            load_pretrained(folder, NUM_CLASSES)
        assert "\n" not in str(raised.value)
    card.unlink()
    with pytest.raises(UserError, match=r"has no config\.json"):
        load_pretrained(folder, NUM_CLASSES)


def test_weights_that_are_a_pickle_or_incomplete_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    state = safetensors.torch.load_file(file)
    del state["class_labels_classifier.bias"]
    safetensors.torch.save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"entry class_labels_classifier\.bias is missing"):
        load_pretrained(folder, NUM_CLASSES)
    file.rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin, which is a pickle"):
        load_pretrained(folder, NUM_CLASSES)


def test_an_image_processor_is_the_folders_own_or_the_default_but_never_a_broken_one(folder: Path) -> None:
    assert load_pretrained(folder, NUM_CLASSES).processor.size.shortest_edge == 800
    settings = folder / "preprocessor_config.json"
    settings.write_text(json.dumps({"size": {"shortest_edge": 96, "longest_edge": 160}}), encoding="utf-8")
    detector = load_pretrained(folder, NUM_CLASSES)
    assert detector.encode(IMAGES).input_size.tolist() == [[96, 96], [67, 160], [137, 96]]
    again = QUERY_DETECTORS.around(copy.deepcopy(detector.plain()))  # the model tells where it comes from
    assert again.processor.size == detector.processor.size
    smaller = load_pretrained(folder, NUM_CLASSES, input_size=48)
    assert smaller.encode(IMAGES).input_size.max() <= 80
    settings.write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="readable settings of a DetrImageProcessor"):
        load_pretrained(folder, NUM_CLASSES)


def test_a_name_without_a_hub_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="name on a hub in reach") as raised:
        load_pretrained("nobody/no-such-detector", NUM_CLASSES)
    assert "\n" not in str(raised.value)


def test_without_transformers_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'rl_det\[transformers\]'"):
        library.library()


def test_the_family_takes_its_own_models_alone() -> None:
    model = query_model("d_fine", NUM_CLASSES)
    assert QUERY_DETECTORS.takes(model)
    assert not QUERY_DETECTORS.takes(nn.Linear(1, 1))
    assert QUERY_DETECTORS.around(model).num_classes == NUM_CLASSES
    architecture = Architecture(library="transformers", name="DFineForObjectDetection", num_classes=3, input_size=96)
    other = QUERY_DETECTORS.around(query_model("d_fine", NUM_CLASSES), architecture=architecture)
    assert other.processor.size.height == 96
    QUERY_DETECTORS.replace_predictor(model, 2)
    assert QUERY_DETECTORS.around(model, part="all").num_classes == 2
    assert classes_known({}) is None
    with pytest.raises(UserError, match="must be one of"):
        QueryDetector(nn.Linear(1, 1))
    with pytest.raises(UserError, match="multiple of 32"):
        QueryDetector(model, input_size=100)
