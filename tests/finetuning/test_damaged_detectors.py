"""Detectors in damaged files: one sentence names the file, or the detector is the one that was written; no code is executed."""

import json
import pickle
import random
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import as_bytes, changed, damaged
from finetuning.small import same_state
from report.page_runs import as_older
from unchecked import unchecked

import rl_det
from rl_det.candidates.postprocessing import PostProcessingSettings
from rl_det.data.splits import Splits
from rl_det.errors import UserError
from rl_det.finetuning.tuned import load_tuned, tuned
from rl_det.policies.build import build_policy

DAMAGES = 60


@pytest.fixture(scope="module")
def data() -> Splits:
    return rl_det.digit_scenes(train=4, val=2, test=2)


@pytest.fixture(scope="module")
def exported(data: Splits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    policy = build_policy("voting", rl_det.load_detector("tiny", data, device="cpu"))
    policy.postprocessing = PostProcessingSettings(nms_iou=0.4, sigma=0.5)
    return tuned(policy, data, 50, "ppo").export(tmp_path_factory.mktemp("exported") / "ppo")


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "ppo"))


def refusal_or_detector(file: Path, load: Any) -> Any:
    """What `load` gives; None if it refuses the file by its name, in one line."""
    try:
        return load()
    except UserError as error:
        told = str(error)
    assert str(file) in told
    assert "\n" not in told
    return None


def test_every_damaged_card_is_named(folder: Path) -> None:
    file, draw = folder / "model.json", random.Random(0)
    sound = file.read_bytes()
    for _ in range(DAMAGES):
        file.write_bytes(damaged(sound, draw))
        assert refusal_or_detector(file, lambda: load_tuned(folder, device="cpu")) is None
    file.write_bytes(sound)
    assert load_tuned(folder, device="cpu").policy.postprocessing == PostProcessingSettings(nms_iou=0.4, sigma=0.5)


def test_other_entries_in_a_card_without_a_checksum_cost_one_line_at_most(folder: Path) -> None:
    file, draw = folder / "model.json", random.Random(1)
    told = as_older(json.loads(file.read_bytes()))
    for _ in range(DAMAGES):
        file.write_bytes(as_bytes(changed(told, draw)))
        try:
            load_tuned(folder, device="cpu")
        except UserError as error:
            refusal = str(error)
            assert "\n" not in refusal


INFORMATION = {"rl_det", "torch", "torchvision", "recalibration", "beside_the_weights"}
"""Entries of a card that are for its reader; all others decide what is detected, or by what name."""


def test_an_entry_that_a_card_without_a_checksum_has_lost_is_named(folder: Path) -> None:
    file = folder / "model.json"
    told = as_older(json.loads(file.read_bytes()))
    postprocessing = told["postprocessing"]
    objects = {
        "": told,
        "postprocessing": postprocessing,
        "votes": postprocessing["votes"],
        "architecture": told["architecture"],
    }
    lost = [(within, name) for within, entries in objects.items() for name in entries if name not in INFORMATION]
    assert {
        ("votes", "large"),
        ("postprocessing", "max_detections"),
        ("architecture", "input_size"),
        ("", "num_steps"),
    } < {*lost}
    for within, name in lost:
        value = objects[within].pop(name)
        file.write_bytes(as_bytes(told))
        objects[within][name] = value
        with pytest.raises(UserError, match=rf"{name} (is missing|must be there; it is missing)$") as refusal:
            load_tuned(folder, device="cpu")
        assert str(refusal.value).startswith(f"{file}: must be ")
    file.write_bytes(as_bytes(told))
    load_tuned(folder, device="cpu")


@pytest.mark.parametrize(
    ("within", "name"), [("postprocessing", "max_detection"), ("votes", "huge"), ("architecture", "input")]
)
def test_an_entry_that_this_version_does_not_know_is_named(folder: Path, within: str, name: str) -> None:
    file = folder / "model.json"
    told = as_older(json.loads(file.read_bytes()))
    (told["postprocessing"]["votes"] if within == "votes" else told[within])[name] = 1
    file.write_bytes(as_bytes(told))
    with pytest.raises(UserError, match=f"{name} must not be there; this version knows no such entry$"):
        load_tuned(folder, device="cpu")


def test_a_card_names_as_many_category_ids_as_classes(folder: Path) -> None:
    file = folder / "model.json"
    told = as_older(json.loads(file.read_bytes()))
    file.write_bytes(as_bytes({**told, "category_ids": told["category_ids"][1:]}))
    with pytest.raises(UserError, match=r"model.json: .*category_ids must be 10 whole numbers, one for each class"):
        load_tuned(folder, device="cpu")


@pytest.mark.parametrize(
    "entry", [{"input_size": 0}, {"num_classes": 0}, {"input_size": 10**400}, {"input_size": "big"}]
)
def test_an_architecture_that_cannot_be_built_is_named(folder: Path, entry: dict[str, Any]) -> None:
    file = folder / "model.json"
    told = as_older(json.loads(file.read_bytes()))
    file.write_text(json.dumps({**told, "architecture": {**told["architecture"], **entry}}))
    ((name, _),) = entry.items()
    refusal = rf"model.json: must be a model.json .*; its architecture's {name} must be"
    with unchecked(), pytest.raises(UserError, match=refusal):
        load_tuned(folder, device="cpu")


@pytest.mark.parametrize("name", ["scale", "shift"])
@pytest.mark.parametrize("count", [0, 9, 11])
def test_a_recalibration_of_other_classes_is_named(folder: Path, name: str, count: int) -> None:
    file = folder / "model.json"
    told = as_older(json.loads(file.read_bytes()))
    file.write_text(json.dumps({**told, "postprocessing": {**told["postprocessing"], name: [1.0] * count}}))
    with pytest.raises(
        UserError, match=rf"model.json: .*{name} must have one number, or one for each class; got {count}$"
    ):
        load_tuned(folder, device="cpu")


@pytest.mark.parametrize("name", ["detector.pt", "module.safetensors"])
def test_every_damaged_file_of_weights_is_named_or_holds_the_same_weights(name: str, folder: Path) -> None:
    file, draw = folder / name, random.Random(name)
    sound, wanted, refused = file.read_bytes(), load_tuned(folder, device="cpu"), 0
    for _ in range(DAMAGES):
        file.write_bytes(damaged(sound, draw))
        there = file.read_bytes()
        found = refusal_or_detector(file, lambda: load_tuned(folder, device="cpu"))
        assert file.read_bytes() == there
        refused += found is None
        if found is not None:
            assert same_state(found.model.state_dict(), wanted.model.state_dict())
            assert same_state(found.policy.trainable.state_dict(), wanted.policy.trainable.state_dict())
    assert refused > 0.9 * DAMAGES


def test_a_flipped_bit_of_any_weight_is_noticed_in_torchs_archive(folder: Path, data: Splits, tmp_path: Path) -> None:
    file = Path(shutil.move(folder / "detector.pt", tmp_path / "mine.pt"))
    sound, draw = file.read_bytes(), random.Random(0)
    assert rl_det.load_detector(file, data).num_classes == len(data.classes)
    weights = next(iter(torch.load(file, weights_only=True).values())).flatten()[:16].numpy().tobytes()
    place = sound.find(weights)
    assert place > 0
    for _ in range(10):
        own = place + draw.randrange(len(weights))
        file.write_bytes(sound[:own] + bytes([sound[own] ^ (1 << draw.randrange(8))]) + sound[own + 1 :])
        with pytest.raises(
            UserError, match=r"mine\.pt: must be a readable \.pt file .*damaged: the bytes of .* changed"
        ):
            rl_det.load_detector(file, data)


class Evil:
    """A pickle that would leave a mark if it were executed."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_files_that_execute_lie_about_their_size_or_are_folders_are_named(data: Splits, tmp_path: Path) -> None:
    mark, file = tmp_path / "executed", tmp_path / "mine.pt"
    tensor = {"dtype": "F32", "shape": [2**38], "data_offsets": [0, 2**40]}
    header = json.dumps({"weight": tensor}).encode()
    hostile = {
        "mine.pt": pickle.dumps(Evil(mark)),
        "mine.pth": pickle.dumps({"weight": Evil(mark)}),
        "long.safetensors": struct.pack("<Q", 2**62) + b"{}",
        "large.safetensors": struct.pack("<Q", len(header)) + header,
    }
    for name, content in hostile.items():
        (tmp_path / name).write_bytes(content)
        assert (
            refusal_or_detector(tmp_path / name, lambda name=name: rl_det.load_detector(tmp_path / name, data)) is None
        )
    file.unlink()
    file.symlink_to(tmp_path, target_is_directory=True)
    assert refusal_or_detector(file, lambda: rl_det.load_detector(file, data)) is None
    assert not mark.exists()
