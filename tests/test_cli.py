"""The command `rl-det`: its flags, what a run leaves, what a mistake costs, and how a run that was stopped goes on."""

import contextlib
import importlib.metadata
import io
import json
import os
import re
import shutil
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finetuning.small import write_folder
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from report.page_runs import as_older
from unchecked import unchecked

from rl_det import cli
from rl_det.storage.run import CONFIG, RESULTS, TRUTHS

TINY = [
    "--budget",
    "smoke",
    "--limits.num-updates",
    "2",
    "--limits.images-per-update",
    "4",
    "--limits.num-draws",
    "5",
    "--limits.evaluated-candidates",
    "80",
    "--limits.validated-candidates",
    "64",
    "--device",
    "cpu",
]


@pytest.fixture(scope="module", autouse=True)
def quiet_folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A cache of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RL_DET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits, which tiny knows."""
    return write_folder(tmp_path_factory.mktemp("cli") / "data")


@pytest.fixture(scope="module")
def run(data: Path) -> Path:
    """A run that has ended."""
    out = data.parent / "run"
    cli.main([*finetune(data, out), "--ppo.samples-per-image", "2", "--strategies", "ppo"])
    return out


def finetune(data: Path, out: Path) -> list[str]:
    return ["finetune", "--data", str(data), "--out", str(out), "--policy", "rescore", *TINY]


def error_of(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """The one line that the command ends with; but for the data's layout nothing is printed, so no image was decoded."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ending:
        cli.main([str(argument) for argument in arguments])
    assert ending.value.code == 2
    printed = capsys.readouterr()
    assert not printed.out
    (line,) = [line for line in printed.err.splitlines() if ": COCO, " not in line]
    assert line.startswith("error: ")
    return line


FLAGS = [
    "--data",
    "--detector",
    "--weights",
    "--budget",
    "--device",
    "--seed",
    "--track",
    "--out",
    "--resume",
    "--overwrite",
    "--policy",
    "--reward",
    "--strategies",
    "--ppo.learning-rate",
    "--ppo.exploration.sigma",
    "--ppo.clip",
    "--ppo.reward",
    "--reinforce.advantage",
    "--surrogate.loss",
    "--surrogate.surrogate-weight",
    "--labels.learning-rate",
    "--supervised.ema",
    "--supervised.augmentations.scale",
    "--limits.num-updates",
    "--recipe.head-learning-rate",
]


def without_help(told: str) -> list[str]:
    """The flags of a help text that have a type and a default, and no word."""
    pieces = re.split(r"\s(?=--[a-z])", re.sub(r"[│╭╮╰╯─]", " ", told))
    silent = r"(--[\w.-]+)(?:,\s*)?(?:\s+[^\sa-z(]\S*)*\s+\((?:default|optional|required)"
    return [found[1] for piece in pieces if (found := re.match(silent, piece))]


def test_every_setting_is_a_flag_with_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        cli.main(["finetune", "--help"])
    assert ending.value.code == 0
    told = capsys.readouterr().out
    for flag in FLAGS:
        assert re.search(rf"{flag}\b", told), flag
    assert "['pool_ap']" not in told
    assert not without_help(told), "flags without a word"
    silent = "│ --a INT  (default: 3) │\n│ --recipe.b {None}|INT │\n│    (default: 4) │\n│ --c INT  The images. (default: 3) │"
    assert without_help(silent) == ["--a", "--recipe.b"]


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        cli.main(["--help"])
    assert ending.value.code == 0
    told = capsys.readouterr().out
    assert all(name in told for name in ("finetune", "supervised", "compare", "check", "report", "detect", "onnx"))


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--nonsense 3", "Unrecognized options: --nonsense, 3; see rl-det finetune --help"),
        ("--ppo.clip 3", r"ppo: clip must lie in \(0, 1\); got 3\.0; 0\.2 is usual"),
        ("--ppo.reward gold", "reward must be one of .*; got 'gold'"),
        ("--budget huge", "invalid choice 'huge' for argument '--budget'"),
        ("--limits.num-updates 0", "num_updates must be at least 1; got 0"),
        ("--seed one", "--seed: invalid literal"),
        ("--detector yolo", "yolo: a detector must be one of tiny, "),
        ("--weights gone.pt", "gone.pt: must be a file of weights; there is none"),
        ("--policy context --ppo.begin hand_set_votes", "only the voting policy can begin at hand-set votes"),
        ("--strategies ppo ppo", "'ppo' is there twice"),
        ("--supervised.monitor mAP", "a training is led by one of AP, "),
        ("--track comet", "invalid choice 'comet' for argument '--track'"),
        ("--seed -1", "seed must not be negative, and less than 2.*32; got -1; 0 is usual"),
        ("--image-size 0", "image_size must be at least 1; got 0"),
        (
            "--strategies labels --ppo.clip 0.3",
            "settings of ppo must go with --strategies ppo; got --strategies labels",
        ),
        (
            "--strategies supervised --policy context",
            "policy must go with a strategy that has one; got context with supe",
        ),
        ("--strategies surrogate --reward f1", "reward must go with a strategy that has one; got f1 with surrogate"),
        ("--supervised.validate-unit epochs", "validate_every must be given if its unit is epochs"),
        ("--recipe.patience 0", "patience must be at least 1; got 0"),
    ],
)
def test_a_wrong_flag_costs_one_line_and_nothing_is_decoded_or_written(
    capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path, flags: str, told: str
) -> None:
    line = error_of(capsys, "finetune", "--data", data, "--out", tmp_path / "run", "--device", "cpu", *flags.split())
    assert re.search(told, line), line
    assert not list(tmp_path.iterdir())


def test_mistakes_of_the_other_commands_cost_one_line_too(
    capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path
) -> None:
    assert "Expected one of {finetune" in error_of(capsys)
    assert "nowhere: the folder: there is none of this name" in error_of(capsys, "check", "nowhere")
    line = error_of(capsys, "check", "nowhere", "--picture", "a.xyz")
    assert "a.xyz: a picture must be one of" in line
    assert "must be the results of a run of rl_det" in error_of(capsys, "report", tmp_path)
    assert "report needs a folder at least" in error_of(capsys, "report")
    assert "must be a model.json that rl_det has exported" in error_of(capsys, "detect", tmp_path, "a.png")
    assert "there is no such image file" in error_of(capsys, "detect", run / "ppo", tmp_path / "a.png")
    assert "detect needs an image at least" in error_of(capsys, "detect", run / "ppo")
    assert "the strategies must hold continued_supervised" in error_of(capsys, "compare", "--strategies", "ppo_voting")
    assert "workers must be at least 1; got 0" in error_of(capsys, "compare", "--workers", "0")
    assert "folds must be at least 2; got 1; 5 is usual" in error_of(capsys, "compare", "--folds", "1")
    assert "digit_scenes are drawn without end" in error_of(
        capsys, "compare", "--folds", "5", "--budget", "smoke", "--out", tmp_path / "comparison"
    )
    assert "seeds must be different numbers, one at least; got (1, 1)" in error_of(
        capsys, "compare", "--seeds", "1", "1", "--out", tmp_path / "comparison"
    )
    assert "threshold must lie in [0, 1]; got 2.0; 0.5 is usual" in error_of(
        capsys, "detect", run / "ppo", tmp_path / "a.png", "--threshold", "2"
    )


def test_a_traceback_is_kept_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RL_DET_DEBUG", "1")
    with pytest.raises(ValueError, match="the folder: must be of a layout that is known"):
        cli.main(["check", str(tmp_path)])


def test_a_run_leaves_its_configuration_results_pictures_and_detectors_readable_by_all(run: Path) -> None:
    config = json.loads((run / CONFIG).read_text())
    assert config["run"]["seed"] == 0
    (strategy,) = config["run"]["strategies"]
    assert strategy["exploration"] == {"type": "Exploration", "sigma": 0.5, "box_sigma": 0.2, "keep_bias": 2.0}
    assert (strategy["samples_per_image"], strategy["clip"], strategy["policy"]) == (2, 0.2, "rescore")
    assert config["run"]["budget"]["num_updates"] == 2
    assert config["run"]["recipe"]["head_learning_rate"] > 0
    told = config["circumstances"]
    assert told["versions"]["torch"] == importlib.metadata.version("torch")
    assert told["machine"]["cores"] == os.cpu_count()
    assert told["commit"]
    assert told["command"]
    results = json.loads((run / RESULTS).read_text())
    assert list(results["methods"]) == ["warm_start", "continued_supervised", "ppo"]
    umask = os.umask(0)
    os.umask(umask)
    files = [file for file in run.rglob("*") if file.is_file()]
    assert {"model.json", "detector.pt", "metrics.jsonl", "ppo.npz", "ppo.png", "ppo.pt"} <= {f.name for f in files}
    assert not [file for file in files if file.name.startswith(".")], "nothing half written is left"
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask, file


def test_a_folder_that_holds_a_run_is_refused_and_named(
    capsys: pytest.CaptureFixture[str], run: Path, data: Path
) -> None:
    before = (run / CONFIG).read_text()
    line = error_of(capsys, *finetune(data, run))
    assert f"{run}: holds a run already; resume (--resume) goes on with it, overwrite (--overwrite) replaces it" in line
    line = error_of(capsys, *finetune(data, run), "--resume", "--seed", "1")
    assert "what goes on must be what was stopped" in line
    assert (run / CONFIG).read_text() == before


def test_a_folder_that_holds_a_comparison_is_refused_unless_it_goes_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "warm_start-seed0").mkdir()
    (tmp_path / "warm_start-seed0" / CONFIG).write_text("{}")
    begun: list[Path] = []
    monkeypatch.setattr(cli, "compare", lambda *_, out, **__: begun.append(out))
    assert f"{tmp_path}: holds a comparison already" in error_of(capsys, "compare", "--out", tmp_path)
    assert begun == []
    (tmp_path / "comparison.md").write_text("the table\n")
    for flag in ("--resume", "--overwrite"):
        cli.main(["compare", "--out", str(tmp_path), flag])
        assert "the table" in capsys.readouterr().out
    assert begun == [tmp_path, tmp_path]


def test_to_resume_a_run_that_has_ended_gives_the_same(run: Path, data: Path) -> None:
    before = json.loads((run / RESULTS).read_text())
    cli.main([*finetune(data, run), "--ppo.samples-per-image", "2", "--strategies", "ppo", "--resume"])
    after = json.loads((run / RESULTS).read_text())
    assert after["methods"] == before["methods"]
    assert after["endings"] == before["endings"]


def test_check_says_what_the_data_holds_and_draws_it(
    capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path
) -> None:
    cli.main(["check", str(data), "--picture", str(tmp_path / "seen.png")])
    told = capsys.readouterr().out
    assert told.startswith(f"{data}: COCO, 6 train, ")
    assert "\ntrain: 6 images (128 x 128 to 128 x 128 pixels), " in told
    assert "test: 5 images" in told
    assert f"\nno fault\nthe picture is {tmp_path / 'seen.png'}\n" in told
    with Image.open(tmp_path / "seen.png") as picture:
        assert min(picture.size) > 500


def test_report_prints_the_table_again_and_joins_seeds(
    capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path
) -> None:
    cli.main(["report", str(run)])
    told = capsys.readouterr().out
    assert "continued_supervised" in told
    assert "AP over control" in told
    cli.main(["report", str(run), str(run), "--picture", str(tmp_path / "gains.png")])
    head, _, *rows = capsys.readouterr().out.splitlines()
    cells = {row.split("|")[1].strip(): row.split("|")[2:-1] for row in rows if row}
    assert "| AP over control |" in head
    assert list(cells) == list(json.loads((run / RESULTS).read_text())["methods"])
    value, low, high = (float(part.strip("(")) for part in cells["ppo"][0].replace(")", "").replace("to", "").split())
    assert low <= value <= high
    assert low < high
    with Image.open(tmp_path / "gains.png") as picture:
        assert min(picture.size) > 200
    other = tmp_path / "other"
    other.mkdir()
    results = as_older(json.loads((run / RESULTS).read_text()))
    del results["methods"]["ppo"]
    (other / RESULTS).write_text(json.dumps(results))
    assert "the runs must have the same rows; got" in error_of(capsys, "report", run, other)


def test_report_of_seeds_needs_the_same_test_images_and_joins_older_runs_without_intervals(
    capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    with np.load(other / TRUTHS) as truths:
        np.savez(other / TRUTHS, **{name: part[1:] for name, part in truths.items()})
    assert f"{other / TRUTHS}: must be what the run has written; it is damaged" in error_of(
        capsys, "report", run, other
    )
    (other / RESULTS).write_text(json.dumps(as_older(json.loads((run / RESULTS).read_text()))))
    assert f"{other}: the runs must have the same test images" in error_of(capsys, "report", run, other)
    (other / TRUTHS).write_bytes((run / TRUTHS).read_bytes()[:99])
    assert f"{other / TRUTHS}: must be what a run has written; it is damaged" in error_of(capsys, "report", run, other)
    (other / TRUTHS).unlink()
    cli.main(["report", str(run), str(other)])
    assert "AP over control | seconds |" in capsys.readouterr().out
    told = error_of(capsys, "report", run, other, "--picture", tmp_path / "gains.png")
    assert "a run of an older version has not kept the true boxes" in told
    told = error_of(capsys, "report", run, other, "--html", tmp_path / "page.html")
    assert "leave out --html" in told
    (other / CONFIG).unlink()
    assert f"{other / CONFIG}: must be a run's configuration" in error_of(
        capsys, "report", other, "--html", tmp_path / "page.html"
    )
    assert not (tmp_path / "page.html").exists()


def test_detect_draws_and_writes_coco_results(
    capsys: pytest.CaptureFixture[str], run: Path, data: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    Image.open(data / "images" / "test0.png").save(images / "one.png")
    Image.open(data / "images" / "test1.png").convert("L").resize((200, 90)).save(images / "two.jpg")
    out = tmp_path / "found"
    cli.main(["detect", str(run / "ppo"), str(images), "--out", str(out), "--device", "cpu"])
    assert capsys.readouterr().out == f"the pictures and detections.json are in {out}\n"
    assert sorted(file.name for file in out.iterdir()) == ["detections.json", "one.png", "two.png"]
    with Image.open(out / "two.png") as picture:
        assert picture.size == (600, 270), "three times as large, so that the names can be read"
    rows = json.loads((out / "detections.json").read_text())
    assert {row["image_id"] for row in rows} == {"one.png", "two.jpg"}
    assert {row["category_id"] for row in rows} <= set(range(1, 11))
    for row in rows:
        left, top, width, height = row["bbox"]
        wide, high = (128, 128) if row["image_id"] == "one.png" else (200, 90)
        assert left >= 0
        assert top >= 0
        assert width >= 0
        assert height >= 0
        assert left + width <= wide + 1e-3
        assert top + height <= high + 1e-3
        assert 0 <= row["score"] <= 1


def test_detect_on_a_data_set_writes_results_that_pycocotools_reads(run: Path, data: Path, tmp_path: Path) -> None:
    cli.main(["detect", str(run / "ppo"), "--data", str(data), "--out", str(tmp_path / "found"), "--device", "cpu"])
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(data / "test.json"))
        judge = COCOeval(truth, truth.loadRes(str(tmp_path / "found" / "detections.json")), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    told = json.loads((run / RESULTS).read_text())["methods"]["ppo"]["AP"]
    assert judge.stats[0] == pytest.approx(told, abs=1e-6)


def test_detect_takes_images_or_a_data_set_of_its_classes(
    capsys: pytest.CaptureFixture[str], run: Path, data: Path, tmp_path: Path
) -> None:
    assert "or --data; not both" in error_of(capsys, "detect", run / "ppo", tmp_path, "--data", data)
    other = shutil.copytree(data, tmp_path / "other")
    for split in ("train", "val", "test"):
        told = json.loads((other / f"{split}.json").read_text())
        told["categories"][0]["name"] = "zero"
        (other / f"{split}.json").write_text(json.dumps(told))
    line = error_of(capsys, "detect", run / "ppo", "--data", other)
    assert "must have the detector's classes; 0 is not among its own" in line


def test_detect_overwrites_no_image_and_confuses_no_two(
    capsys: pytest.CaptureFixture[str], run: Path, data: Path, tmp_path: Path
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.open(data / "images" / "test0.png").save(tmp_path / folder / "one.png")
    before = (tmp_path / "a" / "one.png").read_bytes()
    line = error_of(capsys, "detect", run / "ppo", tmp_path / "a" / "one.png", "--out", tmp_path / "a")
    assert "its picture would overwrite the image" in line
    assert (tmp_path / "a" / "one.png").read_bytes() == before
    Image.open(data / "images" / "test1.png").save(tmp_path / "a" / "one.jpg")
    line = error_of(capsys, "detect", run / "ppo", tmp_path / "a", "--out", tmp_path / "c")
    assert "its picture would be that of" in line
    assert not (tmp_path / "c").exists()
    (tmp_path / "a" / "one.jpg").unlink()
    (tmp_path / "a" / "._one.png").write_bytes(b"what a Macintosh leaves beside a file")
    cli.main(["detect", str(run / "ppo"), str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c")])
    assert sorted(file.relative_to(tmp_path / "c").as_posix() for file in (tmp_path / "c").rglob("*.png")) == [
        "a/one.png",
        "b/one.png",
    ]
    rows = json.loads((tmp_path / "c" / "detections.json").read_text())
    assert {row["image_id"] for row in rows} == {"a/one.png", "b/one.png"}
    (tmp_path / "a" / "two.png").symlink_to(tmp_path / "b" / "one.png")
    given = [tmp_path / "a", tmp_path / "a" / "one.png", tmp_path / "a" / ".." / "a" / "one.png"]
    cli.main(["detect", str(run / "ppo"), *map(str, given), "--out", str(tmp_path / "d")])
    rows = json.loads((tmp_path / "d" / "detections.json").read_text())
    assert {row["image_id"] for row in rows} == {"one.png", "two.png"}
    assert len(rows) == len({str(row) for row in rows})


def test_detect_tells_the_detections_of_each_image_id_that_a_file_has(run: Path, data: Path, tmp_path: Path) -> None:
    other = shutil.copytree(data, tmp_path / "other")
    told = json.loads((other / "test.json").read_text())
    told["images"].append(told["images"][0] | {"id": 999})
    (other / "test.json").write_text(json.dumps(told))
    cli.main(["detect", str(run / "ppo"), "--data", str(other), "--out", str(tmp_path / "found"), "--device", "cpu"])
    rows = json.loads((tmp_path / "found" / "detections.json").read_text())
    first, again = (
        [{**row, "image_id": 0} for row in rows if row["image_id"] == own] for own in (told["images"][0]["id"], 999)
    )
    assert first == again != []


def test_detect_takes_images_beyond_the_usual_limits_if_they_are_raised(
    capsys: pytest.CaptureFixture[str], run: Path, data: Path, tmp_path: Path
) -> None:
    Image.open(data / "images" / "test0.png").resize((1100, 20)).save(tmp_path / "long.png")
    given = ("detect", run / "ppo", tmp_path / "long.png", "--out", tmp_path / "found", "--device", "cpu")
    assert "long.png" in error_of(capsys, *given)
    cli.main([*map(str, given), "--max-aspect", "60"])
    assert (tmp_path / "found" / "long.png").exists()


@pytest.mark.parametrize("flags", [("--test-data", "other"), ("--keep-difficult",)])
def test_detect_refuses_flags_that_do_nothing(
    capsys: pytest.CaptureFixture[str], run: Path, data: Path, flags: tuple[str, ...]
) -> None:
    assert "detect has no use for" in error_of(capsys, "detect", run / "ppo", "--data", data, *flags)


def test_a_runs_folder_is_no_detector_and_those_in_it_are_named(
    capsys: pytest.CaptureFixture[str], run: Path, data: Path, tmp_path: Path
) -> None:
    expected = f"{run}: must be a folder that was exported; those in it are: "
    assert expected in error_of(capsys, "detect", run, data / "images")
    line = error_of(capsys, "finetune", "--data", data, "--detector", run, "--out", tmp_path / "new")
    assert expected in line
    assert "ppo" in line


def test_onnx_writes_one_file_with_the_classes(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    file = tmp_path / "new" / "tuned.onnx"
    with unchecked():
        cli.main(["onnx", str(run / "ppo"), str(file), "--image-size", "96", "128"])
    assert capsys.readouterr().out == f"the ONNX file is {file}\n"
    model, card = onnx.load(file), json.loads((run / "ppo" / "model.json").read_text())
    about = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert {name: about[name] for name in ("classes", "category_ids", "policy", "strategy")} == {
        name: card[name] for name in ("classes", "category_ids", "policy", "strategy")
    }
    assert [side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim] == [3, 96, 128]


def test_onnx_refuses_what_is_no_exported_folder_and_a_size_that_cannot_be(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "must be a model.json that rl_det has exported" in error_of(capsys, "onnx", tmp_path, tmp_path / "a.onnx")
    size = ("--image-size", "0", "64")
    assert "image_size must be at least 1" in error_of(capsys, "onnx", run / "ppo", tmp_path / "a.onnx", *size)
    assert not list(tmp_path.iterdir())
