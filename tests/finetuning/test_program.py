"""The program on the first page: from data to a tuned detector, with a folder and a name, and with objects of one's own."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from finetuning.small import BUDGET, TWO, Pairs, own_model, pairs, same_state, write_folder
from unchecked import unchecked

import rl_det
from rl_det.detectors.torchvision.tiny import SHIPPED_WEIGHTS

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RL_DET_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_the_program_of_the_first_page_runs_as_written(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder")
    (program,) = re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    for written, own in (
        ('"path/to/folder"', '"folder"'),
        ('"fasterrcnn_resnet50_fpn_v2"', '"tiny"'),
        ('"mine.pt"', "SHIPPED_WEIGHTS"),
        ('"short"', "BUDGET"),
    ):
        assert program.count(written) == 1
        program = program.replace(written, own)
    names: dict[str, Any] = {"SHIPPED_WEIGHTS": SHIPPED_WEIGHTS, "BUDGET": BUDGET}
    with unchecked():
        exec(program, names)
    data, result, detections = names["data"], names["result"], list(names["detections"])
    images = [data.test[index].image for index in range(len(data.test))]
    voted = ["warm_start_voted", "continued_supervised_voted"]
    assert list(result.rows) == ["warm_start", "continued_supervised", *voted, "ppo"]
    assert all(name in result.table() for name in result.rows), "no name is cut off"
    assert len(detections) == len(images)
    assert all(len(found["boxes"]) == len(found["labels"]) == len(found["scores"]) > 0 for found in detections)
    found = detections[0]
    assert bool((found["scores"].diff() <= 0).all())
    assert set(found["labels"].tolist()) <= set(range(1, 11))
    assert not (tmp_path / "cache" / "warm_starts").exists(), "tiny knows digits; nothing is trained first"
    plain = rl_det.load_detector("tiny", data, weights=tmp_path / "better" / "detector.pt").plain()
    assert same_state(plain.state_dict(), rl_det.load_tuned("better").model.state_dict())


def test_a_model_and_data_sets_of_ones_own_go_the_same_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, before = own_model(), own_model().state_dict()
    data = rl_det.open_data(pairs(), classes=["low", "high"])
    detector = rl_det.load_detector(model, data)
    result = rl_det.finetune(detector, data, rl_det.Surrogate("smooth_ap"), budget=BUDGET, out=tmp_path / "run")
    assert same_state(model.state_dict(), before), "the user's model is copied"
    assert same_state(detector.plain().state_dict(), before), "fine-tuning leaves the detector as it is"
    assert "warm start: " not in capsys.readouterr().err, "the model knows two classes, so it is taken as trained"
    folder = result.rows["surrogate"].export(tmp_path / "better")
    with pytest.raises(ValueError, match=r"FasterRCNN of your own code; give load_tuned such a model"):
        rl_det.load_tuned(folder)
    with pytest.raises(ValueError, match="of your own code"):
        rl_det.load_detector(folder, data)
    tuned = rl_det.load_tuned(folder, own_model(seed=1))
    images = [data.test[index].image for index in range(len(data.test))]
    expected = result.rows["surrogate"].tuned
    assert expected is not None
    for found, wanted in zip(tuned.detect(images), expected.detect(images), strict=True):
        assert torch.equal(found["boxes"], wanted["boxes"])
        assert torch.equal(found["scores"], wanted["scores"])
    with pytest.raises(ValueError, match="must be a state of this FasterRCNN"):
        rl_det.load_tuned(folder, own_model_with_other_layers())


def own_model_with_other_layers() -> torch.nn.Module:
    model = own_model()
    model.roi_heads.box_head.fc7 = torch.nn.Linear(32, 33)
    return model


def test_a_model_of_other_classes_is_warm_started_which_is_announced_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = own_model(num_classes=90)
    data = rl_det.open_data(pairs())
    detector = rl_det.load_detector(model, data)
    assert detector.num_classes == 2
    assert not detector.is_trained
    assert same_state(model.state_dict(), own_model(num_classes=90).state_dict())
    untouched = {name: value.clone() for name, value in detector.plain().state_dict().items()}
    rl_det.finetune(detector, data, rl_det.HandSetVotes(), budget=BUDGET, out=tmp_path / "one", baselines=False)
    first = capsys.readouterr().err
    (kept,) = (tmp_path / "cache" / "warm_starts").iterdir()
    assert same_state(detector.plain().state_dict(), untouched), "the detector that was given is still untrained"
    told = (
        "FasterRCNN does not know the classes of Pairs yet. Supervised training of all of it on 6 images (2 steps of 8)"
    )
    assert told in first
    assert f"about 1 min; kept in {kept}" in first
    rl_det.finetune(detector, data, rl_det.HandSetVotes(), budget=BUDGET, out=tmp_path / "two", baselines=False)
    assert f"warm start: found, as an earlier run has trained it: {kept}" in capsys.readouterr().err
    one, two = (rl_det.load_results(tmp_path / name).methods for name in ("one", "two"))
    assert str(one) == str(two)  # NaN is not equal to itself


def test_a_folder_of_other_classes_runs_by_tiny_with_its_own_category_ids(tmp_path: Path) -> None:
    data = rl_det.open_data(write_folder(tmp_path / "folder", TWO))
    detector = rl_det.load_detector("tiny", data)
    assert not detector.is_trained
    assert detector.architecture.input_size == 192
    result = rl_det.finetune(detector, data, rl_det.Labels(), budget=BUDGET, out=tmp_path / "run")
    assert list(result.rows)[:2] == ["warm_start", "continued_supervised"]
    tuned = result.best.tuned
    assert tuned is not None
    assert (tuned.classes, tuned.category_ids) == (("low", "high"), (3, 7))


def test_the_data_may_be_given_as_it_is_where_a_detector_is_loaded() -> None:
    splits = [Pairs("train", 2), Pairs("val", 2), Pairs("test", 2)]
    assert rl_det.load_detector(own_model(), splits).num_classes == 2
