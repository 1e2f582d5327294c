"""Files of a run's folder that are damaged: one sentence names each, no code in them is executed, and nothing is written."""

import io
import json
import pickle
import random
import resource
import shutil
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import as_bytes, changed, damaged
from report.page_runs import as_older, make_run, open_hostile
from unchecked import unchecked

from rl_det import cli
from rl_det.data.splits import Splits
from rl_det.errors import UserError
from rl_det.finetuning.budget import Budget
from rl_det.finetuning.job import JobFile
from rl_det.finetuning.request import Request
from rl_det.finetuning.results import check_files, load_results, read_detections, read_truths
from rl_det.finetuning.run_page import page_of_folder
from rl_det.storage.run import Run, read_config, read_metrics

FILES = ("config.json", "metrics.jsonl", "results.json", "test_truths.npz", "test_detections/ppo.npz")
DAMAGES_OF_EACH = 50
CHANGES, PAGES = 100, 40


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    return open_hostile(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data: Splits) -> Path:
    return make_run(tmp_path_factory.mktemp("damaged") / "run", data)


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def read_all(folder: Path) -> Any:
    """All that a report reads, in plain values."""
    results = load_results(folder)
    check_files(results)
    read_config(folder)
    lines = read_metrics(folder, pytest.fail)
    arrays = [read_truths(folder), *(read_detections(folder, name) for name in results.rows)]
    return results.table(), lines, [{name: part.tolist() for name, part in vars(own).items()} for own in arrays]


def one_line(refusal: pytest.ExceptionInfo[UserError], file: Path) -> str:
    told = str(refusal.value)
    assert str(file) in told
    assert "\n" not in told
    return told


@pytest.mark.parametrize("name", FILES)
def test_every_damaged_file_is_named_and_nothing_is_written(name: str, folder: Path) -> None:
    file, draw = folder / name, random.Random(name)
    sound, before = file.read_bytes(), read_all(folder)
    for _ in range(DAMAGES_OF_EACH):
        file.write_bytes(damaged(sound, draw))
        there = contents(folder)
        with pytest.raises(UserError) as refusal:
            read_all(folder)
        one_line(refusal, file)
        assert contents(folder) == there
    file.write_bytes(sound)
    assert read_all(folder) == before


@pytest.mark.parametrize("name", FILES)
def test_a_folder_a_missing_file_and_a_link_to_a_folder_are_named(name: str, folder: Path, tmp_path: Path) -> None:
    file = folder / name
    for put in (lambda: None, file.mkdir, lambda: file.symlink_to(tmp_path, target_is_directory=True)):
        file.unlink()
        put()
        with pytest.raises(UserError) as refusal:
            read_all(folder)
        one_line(refusal, file)
        file.unlink() if file.is_symlink() else file.rmdir() if file.is_dir() else None
        file.touch()


def test_the_command_says_it_in_one_line_and_writes_no_page(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = random.Random(0)
    for name in FILES:
        file = folder / name
        sound = file.read_bytes()
        file.write_bytes(damaged(sound, draw))
        with pytest.raises(SystemExit) as ending:
            cli.main(["report", str(folder), "--html", str(tmp_path / "page.html")])
        assert ending.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {file}: must be ")
        assert not (tmp_path / "page.html").exists()
        file.write_bytes(sound)


@pytest.mark.parametrize("name", ["config.json", "results.json"])
def test_other_entries_in_a_file_without_a_checksum_are_refused_by_name_or_make_a_page(name: str, folder: Path) -> None:
    for file in (folder / "config.json", folder / "results.json"):
        file.write_bytes(as_bytes(as_older(json.loads(file.read_bytes()))))
    (folder / "test_truths.npz").unlink()  # as in an older run, whose page is quickly made
    told, draw = json.loads((folder / name).read_bytes()), random.Random(name)
    for _ in range(PAGES):
        (folder / name).write_bytes(as_bytes(changed(told, draw)))
        refusal = ""
        try:
            page_of_folder(load_results(folder))
        except UserError as error:
            refusal = str(error)
        assert refusal == "" or (str(folder / name) in refusal and "\n" not in refusal)


@pytest.mark.parametrize("entry", ["seconds", "validation_AP", "methods"])
def test_a_number_beyond_all_floats_in_results_is_named(entry: str, folder: Path) -> None:
    file = folder / "results.json"
    told = as_older(json.loads(file.read_bytes()))
    told[entry] |= {"ppo": {"AP": 10**400} if entry == "methods" else 10**400}
    file.write_bytes(as_bytes(told))
    with unchecked(), pytest.raises(UserError, match="OverflowError") as refusal:
        load_results(folder)
    one_line(refusal, file)


def test_the_folder_of_a_comparison_is_no_runs_and_the_line_says_where_its_table_is(tmp_path: Path) -> None:
    (tmp_path / "comparison.json").write_text("{}")
    with pytest.raises(UserError, match=r"it is a comparison's, whose table is comparison\.md"):
        load_results(tmp_path)


def test_a_damaged_configuration_is_not_resumed_and_that_of_another_version_is_refused_by_what_differs(
    folder: Path, tmp_path: Path
) -> None:
    identity, draw, file = read_config(folder)["run"], random.Random(0), folder / "config.json"
    sound = file.read_bytes()
    for _ in range(DAMAGES_OF_EACH):
        file.write_bytes(damaged(sound, draw))
        there = contents(folder)
        with pytest.raises(UserError, match="--overwrite begins anew"):
            Run(folder, identity, resume=True)
        assert contents(folder) == there
    told = as_older(json.loads(sound))
    file.write_bytes(as_bytes({**told, "rl_det": "0.0.9"}))
    with pytest.raises(UserError, match=r"config\.json: .*; rl_det was 0\.0\.9 and is \d"):
        Run(folder, identity, resume=True)
    del told["run"]["seed"]
    file.write_bytes(as_bytes(told))
    with pytest.raises(UserError, match=r"config\.json: .*; seed was None and is 0"):
        Run(folder, identity, resume=True)
    del told["rl_det"]
    file.write_bytes(as_bytes(told))
    with pytest.raises(UserError, match=r"config\.json: .*; rl_det was None and is \d"):
        Run(folder, identity, resume=True)
    file.write_bytes(sound)
    Run(folder, identity, resume=True).__exit__(None, None, None)


def test_damaged_lines_of_a_stopped_run_are_told_and_left_out_and_no_line_is_made_up(tmp_path: Path) -> None:
    with Run(tmp_path / "run", {}) as begun:
        for step in range(30):
            begun.log(step, "ppo", {"loss": 1 / (step + 1), "reward": float(step)})
    file, draw = tmp_path / "run" / "metrics.jsonl", random.Random(0)
    sound = file.read_bytes()
    steps = [line["step"] for line in read_metrics(tmp_path / "run", pytest.fail)]
    for _ in range(CHANGES):
        file.write_bytes(damaged(sound, draw))
        told: list[str] = []
        with Run(tmp_path / "run", {}, resume=True) as again:
            again.drop_metrics_after(["ppo"], 20, told.append)
            again.log(21, "ppo", {"loss": 0.0})
        lines = read_metrics(tmp_path / "run", pytest.fail)
        assert all(isinstance(line["stage"], str) for line in lines)
        assert len(lines) <= len(steps) + 1
        assert all(line.startswith(f"warning: {file}: ") and "\n" not in line for line in told)
    for wrong in ("7", "[]", '{"stage": 3, "step": 1}', '{"stage": "a"}', '{"stage": "a", "step": 1, "loss": "b"}'):
        file.write_text(f'{wrong}\n{{"stage": "ppo", "step": 1}}\n{{"stage": "pp')
        assert read_metrics(tmp_path / "run", told.append) == [{"stage": "ppo", "step": 1}]
        assert told[-1] == f"warning: {file}: 1 of 2 lines are damaged, and left out"


class Evil:
    """A pickle that would leave a mark if it were executed."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def header(shape: tuple[int, ...], dtype: str) -> bytes:
    told = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(told)) + told


def hostile(batch: dict[str, Any], mark: Path) -> Iterator[bytes]:
    """Archives that execute, lie about their size, or hold something else."""

    def archive(**members: bytes) -> bytes:
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as written:
            for name, content in members.items():
                written.writestr(f"{name}.npy", content)
        return made.getvalue()

    def arrays(**others: Any) -> bytes:
        made = io.BytesIO()
        np.savez_compressed(made, **{**batch, **others})
        return made.getvalue()

    evil = pickle.dumps([Evil(mark)])
    yield archive(boxes=header((1,), "|O") + evil)
    yield arrays(scores=np.array([Evil(mark)], dtype=object))
    yield evil
    sizes = {"boxes": (2**40, 1, 4), "labels": (2**40, 1), "scores": (2**40, 1), "mask": (2**40, 1)}
    kinds = {"boxes": "<f4", "labels": "<i8", "scores": "<f4", "mask": "|b1"}
    yield archive(**{name: header(shape, kinds[name]) for name, shape in sizes.items()})
    lying = bytearray(archive(**{name: header(shape, kinds[name]) for name, shape in sizes.items()}))
    place = lying.find(b"PK\x01\x02") + 24
    lying[place : place + 4] = struct.pack("<I", 2**32 - 2)  # the size of the first, where the archive lists it
    yield bytes(lying)
    yield arrays(more=np.zeros(3))
    yield arrays(labels=batch["labels"].astype(np.float32))
    yield arrays(scores=batch["scores"][:, :-1])
    yield arrays(mask=np.array(True))


def test_no_archive_executes_code_takes_memory_that_it_does_not_need_or_passes_for_another(
    folder: Path, tmp_path: Path
) -> None:
    mark, file = tmp_path / "executed", folder / "test_detections" / "ppo.npz"
    batch = vars(read_detections(folder, "ppo"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for content in hostile(batch, mark):
        file.write_bytes(content)
        with pytest.raises(UserError, match="it is damaged") as refusal:
            read_detections(folder, "ppo")
        one_line(refusal, file)
    assert not mark.exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18, "in KiB"


def test_every_damaged_job_is_named(tmp_path: Path) -> None:
    file, draw = tmp_path / "job.json", random.Random(0)
    job = JobFile(request=Request(budget="smoke"), budget=Budget(), strategy="ppo_voting", reward="pool_ap", seed=0,
                  encodings=tmp_path / "encodings", out=tmp_path / "out")  # fmt: skip
    job.write(file)
    sound = file.read_bytes()
    told = as_older(json.loads(sound))
    for _ in range(DAMAGES_OF_EACH):
        for content in (damaged(sound, draw), as_bytes(changed(told, draw))):
            file.write_bytes(content)
            with pytest.raises(UserError) as refusal:
                JobFile.read(file)
            one_line(refusal, file)
    file.write_bytes(sound)
    assert JobFile.read(file) == job
