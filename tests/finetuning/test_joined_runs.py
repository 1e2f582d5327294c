"""Runs that a report joins: only those that differ in nothing but their seeds; what is missing beside them is told."""

from pathlib import Path
from typing import Any

import pytest
from report.page_runs import as_seed, make_run, open_hostile

from rl_det.errors import UserError
from rl_det.finetuning.reporting import report
from rl_det.storage.checksums import checksum, read_sealed, write_sealed
from rl_det.storage.run import CHECKSUMS, CONFIG, RESULTS, TRUTHS
from rl_det.version import __version__

pytestmark = pytest.mark.usefixtures("without_pages")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("joined")
    return make_run(folder / "run", open_hostile(folder))


def test_a_seed_that_is_there_twice_is_refused(run: Path, tmp_path: Path) -> None:
    again = as_seed(run, tmp_path / "again", 0)
    for folders in ([run, run], [run, again]):
        with pytest.raises(
            UserError, match=rf"{folders[1]}: each run must have a seed of its own; got 0, which {run} "
        ):
            report(folders)


@pytest.mark.parametrize(
    ("part", "entry", "value"),
    [
        ("budget", "num_updates", 7),
        ("recipe", "batch_size", 3),
        ("detector", "weights", "0123"),
        ("data", "train", "0123"),
    ],
)
def test_runs_of_other_settings_are_refused_by_the_first_difference(
    run: Path, tmp_path: Path, part: str, entry: str, value: Any
) -> None:
    own = read_sealed(run / CONFIG, "a configuration")["run"][part]
    other = as_seed(run, tmp_path / "other", 1, **{part: {**own, entry: value}})
    told = rf"{part}\.{entry} is {value}, and {own[entry]} in {run}; report them apart$"
    with pytest.raises(UserError, match=rf"^{other}: the runs must differ in nothing but their seeds; {told}"):
        report([run, other])


def test_runs_of_other_strategies_or_of_another_precision_are_refused(run: Path, tmp_path: Path) -> None:
    (own,) = read_sealed(run / CONFIG, "a configuration")["run"]["strategies"]
    for name, value, told in (
        (
            "strategies",
            [{**own, "exploration": {**own["exploration"], "sigma": 0.7}}],
            r"strategies.0.exploration.sigma is 0.7",
        ),
        ("frozen", {"precision": "mixed"}, "frozen is {'precision': 'mixed'}"),
    ):
        other = as_seed(run, tmp_path / name, 1, **{name: value})
        with pytest.raises(UserError, match=f"{other}: .*; {told}, and .* in {run}; "):
            report([run, other])


def test_runs_of_two_versions_of_rl_det_are_refused(run: Path, tmp_path: Path) -> None:
    other = as_seed(run, tmp_path / "older", 1)
    write_sealed(other / CONFIG, {**read_sealed(other / CONFIG, "a configuration"), "rl_det": "0.0.9"})
    results = read_sealed(other / RESULTS, "a run's results")
    beside = {**results[CHECKSUMS], CONFIG: checksum(other / CONFIG)}
    write_sealed(other / RESULTS, {**results, CHECKSUMS: beside})
    with pytest.raises(
        UserError, match=rf"{other}: .*; rl_det is 0\.0\.9, and {__version__} in {run}; report them apart$"
    ):
        report([run, other])


def test_lost_true_boxes_are_named_and_what_the_brackets_are_then(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = as_seed(run, tmp_path / "other", 1)
    whole = report([run, other])
    assert not capsys.readouterr().err
    (other / TRUTHS).unlink()
    told = report([run, other])
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"warning: {other / TRUTHS}: is missing, though the run has written it; so brackets go from the lowest to the highest "
        "seed, and are no 95 % intervals"
    )
    assert told != whole
    for wanted in ({"html": tmp_path / "page.html"}, {"picture": tmp_path / "gains.png"}):
        (name,) = wanted
        with pytest.raises(UserError, match=rf"^{other / TRUTHS}: is missing, .* or leave out --{name}$"):
            report([run, other], **wanted)
        assert not wanted[name].exists()
