"""The command `rl-det`: its flags, what a run leaves, what a mistake costs, and how a run that was stopped goes on."""

import importlib.metadata
import json
import os
import re
import stat
from pathlib import Path

import numpy as np
import pytest
from cli.asking import error_of, finetune
from PIL import Image
from report.page_runs import as_older, as_seed

from rl_det import cli
from rl_det.cli import comparing
from rl_det.storage.run import CONFIG, RESULTS, TRUTHS

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
    monkeypatch.setattr(comparing, "compare", lambda *_, out, **__: begun.append(out))
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
    second = as_seed(run, tmp_path / "second", 1)
    cli.main(["report", str(run), str(second), "--picture", str(tmp_path / "gains.png")])
    head, _, *rows = capsys.readouterr().out.splitlines()
    cells = {row.split("|")[1].strip(): row.split("|")[2:-1] for row in rows if row.startswith("|")}
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
    other = as_seed(run, tmp_path / "other", 1)
    with np.load(other / TRUTHS) as truths:
        np.savez(other / TRUTHS, **{name: part[1:] for name, part in truths.items()})
    assert f"{other / TRUTHS}: must be what the run has written; it is damaged" in error_of(
        capsys, "report", run, other
    )
    (other / RESULTS).write_text(json.dumps(as_older(json.loads((other / RESULTS).read_text()))))
    assert f"{other}: the runs must have the same test images" in error_of(capsys, "report", run, other)
    (other / TRUTHS).write_bytes((run / TRUTHS).read_bytes()[:99])
    assert f"{other / TRUTHS}: must be what a run has written; it is damaged" in error_of(capsys, "report", run, other)
    (other / TRUTHS).unlink()
    cli.main(["report", str(run), str(other)])
    printed = capsys.readouterr()
    assert "AP over control | seconds |" in printed.out
    assert f"warning: {other}: a run of an older version has not kept" in printed.err
    told = error_of(capsys, "report", run, other, "--picture", tmp_path / "gains.png")
    assert "a run of an older version has not kept the true boxes" in told
    told = error_of(capsys, "report", run, other, "--html", tmp_path / "page.html")
    assert "leave out --html" in told
    (other / CONFIG).unlink()
    assert f"{other / CONFIG}: must be a run's configuration" in error_of(
        capsys, "report", other, "--html", tmp_path / "page.html"
    )
    assert not (tmp_path / "page.html").exists()
