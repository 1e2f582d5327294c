"""A comparison in folds: each has its own warm start and its own rows, every image is tested once, and AP is averaged."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import SMALL, results, started

import rl_det
from rl_det.ap.matching import match
from rl_det.ap.padding import pad_targets
from rl_det.data.folds import folds
from rl_det.errors import UserError
from rl_det.finetuning import comparison
from rl_det.finetuning.comparison import compare
from rl_det.finetuning.job import Cell
from rl_det.finetuning.request import Request
from rl_det.finetuning.results import read_detections
from rl_det.report.bootstrap import ap_of_drawn
from rl_det.strategies.hand_set import VOTED
from rl_det.strategies.labels import CONTROL

ROWS = (CONTROL, CONTROL + VOTED)
BUDGET = replace(SMALL, warm_start_share=0.02)

pytestmark = pytest.mark.usefixtures("without_pages", "jobs_in_this_process")


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "NUM_DRAWS", 20)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, a cache and a comparison that has ended; tests work on copies of the last."""
    return tmp_path_factory.mktemp("folds")


@pytest.fixture
def data(shared: Path, folder: Path) -> Path:
    return Path(shutil.copytree(folder, shared / "data")) if not (shared / "data").exists() else shared / "data"


@pytest.fixture
def out(shared: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a comparison of two folds that has ended."""
    monkeypatch.setenv("RL_DET_CACHE", str(shared / "cache"))
    if not (shared / "out").exists():
        compared(data, shared / "out")
    return Path(shutil.copytree(shared / "out", tmp_path / "out"))


def compared(data: Path, out: Path, **options: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"strategies": ROWS, "seeds": (0,), "folds": 2, "workers": 2, "budget": BUDGET} | options
    return compare(Request(data=data, budget="smoke", device="cpu", image_size=128), out=out, **given)


def test_each_folds_ap_is_of_its_own_test_images_and_the_rows_ap_is_their_mean(out: Path, data: Path) -> None:
    told, divided = json.loads((out / "comparison.json").read_text()), folds(rl_det.open_data(data), 2)
    for name in ROWS:
        aps = []
        for number, fold in enumerate(divided, start=1):
            own = out / Cell(name, 0, number).folder
            truths = pad_targets([fold.test[index].target for index in range(len(fold.test))])
            found = match(read_detections(own, name), truths, num_classes=2)
            aps.append(ap_of_drawn(found, np.arange(len(fold.test))))
            assert aps[-1] == pytest.approx(results(own)["methods"][name]["AP"], abs=1e-9)
        assert told["methods"][name]["AP"]["value"] == pytest.approx(np.mean(aps), abs=1e-12)
        assert [run["AP"] for run in told["methods"][name]["figures"]] == pytest.approx(aps, abs=1e-9)
        assert aps[0] != aps[1]


def test_all_figures_are_means_over_the_folds_and_those_of_each_fold_are_kept(out: Path) -> None:
    told = json.loads((out / "comparison.json").read_text())
    assert (told["folds"], told["images"]["test"]) == (2, 14)
    assert told["runs"] == [{"seed": 0, "fold": 1}, {"seed": 0, "fold": 2}]
    for name, method in told["methods"].items():
        assert len(method["seconds"]) == len(method["figures"]) == len(method["endings"]) == 2
        for figure in ("AP50", "AP75", "APs", "F1", "calibration_error"):
            known = [run[figure] for run in method["figures"] if run[figure] is not None]
            assert method["means"][figure] == (pytest.approx(np.mean(known)) if known else None)
        for key, control in (("over_control", CONTROL), ("over_voted_control", CONTROL + VOTED)):
            value = method["AP"]["value"] - told["methods"][control]["AP"]["value"]
            assert method[key]["value"] == pytest.approx(value, abs=1e-12)
            assert method[key]["low"] <= method[key]["high"]
            if name == control:
                assert method[key] == {"value": 0, "low": 0, "high": 0}


def test_the_table_and_the_picture_say_how_many_folds_and_images_there_are(out: Path) -> None:
    table = (out / "comparison.md").read_text()
    assert "| AP over control | AP over voted control | seconds |" in table
    assert "Means over 2 folds and seeds 0. Each of the 14 images is tested once" in table
    assert (out / "comparison.png").stat().st_size > 1000
    page = (out / "report.html").read_text()
    assert "Means over 2 folds and seeds 0. Each of the 14 images is tested once" in page


def test_no_detector_is_trained_on_an_image_that_it_is_tested_on(out: Path, data: Path, shared: Path) -> None:
    fingerprints = [fold.fingerprints() for fold in folds(rl_det.open_data(data), 2)]
    for name in ROWS:
        for number, expected in enumerate(fingerprints, start=1):
            config = json.loads((out / Cell(name, 0, number).folder / "config.json").read_text())["run"]["data"]
            assert {split: config[split] for split in expected} == expected
            assert config["name"] == f"data-fold{number}of2"
    assert len(list((shared / "cache" / "warm_starts").glob("*.safetensors"))) == 2
    assert sorted(each.name for each in (out / "encodings").iterdir()) == ["fold1", "fold2"]


def test_a_comparison_that_was_stopped_runs_only_what_is_missing_and_ends_the_same(
    out: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = json.loads((out / "comparison.json").read_text())
    shutil.rmtree(out / Cell(CONTROL, 0, 2).folder)
    (out / "comparison.json").unlink()
    names = started(monkeypatch)
    compared(data, out)
    assert names == [f"{CONTROL}-seed0-fold2"]
    again = json.loads((out / "comparison.json").read_text())
    for told in (whole, again):
        for method in told["methods"].values():
            del method["seconds"]
    assert again == whole


@pytest.mark.parametrize(("number", "words"), [(3, "3 folds"), (None, "no folds")])
def test_a_folder_of_another_number_of_folds_is_refused(
    out: Path, data: Path, number: int | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = started(monkeypatch)
    for overwrite in (False, True):
        with pytest.raises(UserError, match=f"out: holds a comparison of 2 folds; got {words}; take another folder"):
            compared(data, out, folds=number, overwrite=overwrite)
    assert names == []


def test_digit_scenes_and_impossible_numbers_are_refused_before_anything_is_written(data: Path, tmp_path: Path) -> None:
    own = tmp_path / "new"
    with pytest.raises(UserError, match="digit_scenes are drawn without end"):
        compare(Request(budget="smoke", device="cpu"), folds=2, out=own)
    for number, message in ((1, "at least 2; got 1"), (0, "at least 2; got 0"), (15, "each of 15 parts; got 14 such")):
        with pytest.raises(UserError, match=message):
            compared(data, own, folds=number)
    assert not own.exists()


def test_a_broken_training_image_is_named_before_anything_is_trained(data: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(data, tmp_path / "broken"))
    whole = (own / "images" / "train3.png").read_bytes()
    (own / "images" / "train3.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"train3.png: image 3 of train.json: the image cannot be decoded"):
        compared(own, tmp_path / "new")
    assert not (tmp_path / "cache" / "warm_starts").exists()


def test_a_detector_that_comes_trained_is_warned_of_in_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class StoppedError(Exception):
        pass

    def stop(*_: object, **__: object) -> None:
        raise StoppedError

    monkeypatch.setattr(comparison, "plan_run", stop)
    weights = tmp_path / "weights.pt"
    untrained = rl_det.load_detector("tiny", rl_det.open_data(data), device="cpu")
    rl_det.detectors.save_state(untrained.plain(), weights)
    for given, warned in ((str(weights), 1), (None, 0)):
        capsys.readouterr()
        with pytest.raises(StoppedError):
            compare(
                Request(data=data, budget="smoke", device="cpu", weights=given),
                strategies=ROWS,
                folds=2,
                out=tmp_path / "o",
            )
        lines = [
            line for line in capsys.readouterr().err.splitlines() if "comes trained on the classes of data" in line
        ]
        assert len(lines) == warned
