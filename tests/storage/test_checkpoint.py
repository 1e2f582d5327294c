"""Checkpoints: whole or not at all, with a checksum; a damaged one gives way to the one before, and no code is executed."""

import hashlib
import pickle
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import damaged

from rl_det.errors import PathError
from rl_det.storage import checkpoint
from rl_det.storage.checkpoint import (
    SEAL,
    DamagedError,
    former,
    latest_checkpoint,
    read_checkpoint,
    remove_checkpoint,
    write_checkpoint,
)

STATE = {"weights": torch.arange(40.0), "update": 7, "name": "toy"}


def same(one: dict[str, Any] | None, other: dict[str, Any]) -> bool:
    return one is not None and one.keys() == other.keys() and all(
        torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        for name, value in one.items()
    )  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / "toy.pt"


def test_what_was_written_is_read_and_the_one_before_stays(file: Path) -> None:
    for update in (1, 2, 3):
        write_checkpoint(file, STATE | {"update": update})
    assert same(read_checkpoint(file), STATE | {"update": 3})
    assert same(read_checkpoint(former(file)), STATE | {"update": 2})
    assert len(list(file.parent.iterdir())) == 2
    remove_checkpoint(file)
    assert not list(file.parent.iterdir())
    assert latest_checkpoint(file, print) is None


def test_five_hundred_mutations_of_a_checkpoint_are_noticed_and_the_one_before_is_used(file: Path) -> None:
    write_checkpoint(file, STATE | {"update": 1})
    write_checkpoint(file, STATE)
    sound, draw = file.read_bytes(), random.Random(0)
    for _ in range(500):
        told: list[str] = []
        file.write_bytes(damaged(sound, draw))
        with pytest.raises(DamagedError, match=r"toy\.pt: must be a .*checkpoint"):
            read_checkpoint(file)
        assert same(latest_checkpoint(file, told.append), STATE | {"update": 1})
        (line,) = told
        assert line.endswith("; the one before is used")


def test_without_a_whole_one_the_newest_that_is_there_is_named_and_nothing_is_written(file: Path) -> None:
    for _ in range(2):
        write_checkpoint(file, STATE)
    for each in (file, former(file)):
        each.write_bytes(each.read_bytes()[:-1])
    before = {each: each.read_bytes() for each in file.parent.iterdir()}
    with pytest.raises(
        DamagedError, match=r"toy\.former\.pt: must be a whole checkpoint.*; remove it to start afresh$"
    ):
        latest_checkpoint(file, print)
    assert {each: each.read_bytes() for each in file.parent.iterdir()} == before


@pytest.mark.parametrize("there", ["toy.pt", "toy.former.pt"])
def test_a_folder_in_its_place_is_named_before_anything_is_trained(file: Path, there: str) -> None:
    write_checkpoint(file, STATE)
    write_checkpoint(file, STATE)
    (file.parent / there).unlink()
    (file.parent / there).mkdir()
    with pytest.raises(DamagedError, match=rf"{re.escape(there)}: must be a checkpoint, a file; it is none"):
        latest_checkpoint(file, print)


class Evil:
    """A pickle that would leave a mark if it were executed."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_no_code_in_a_file_is_executed_even_if_its_checksum_is_right(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    for number, write in enumerate(
        (lambda path, state: path.write_bytes(pickle.dumps(state)), lambda p, s: torch.save(s, p))
    ):
        file = tmp_path / f"{number}.pt"
        write(file, {"state": Evil(mark)})
        body = file.read_bytes()
        file.write_bytes(body + SEAL + hashlib.sha256(body).digest())
        with pytest.raises(DamagedError, match=r"must be a checkpoint of rl_det; torch cannot load it"):
            read_checkpoint(file)
    assert not mark.exists()


def test_a_kill_between_two_steps_of_writing_leaves_a_whole_checkpoint(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(file, STATE | {"update": 1})
    replace, left = Path.replace, iter(range(3))
    for killed_at in range(3):  # while the new file is moved, while the old one is, and before the last step
        left = iter(range(killed_at))

        def killed(self: Path, target: Path, left: Any = left) -> Path:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return replace(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", killed)
            with pytest.raises(KeyboardInterrupt):
                write_checkpoint(file, STATE | {"update": 2})
        assert same(latest_checkpoint(file, print), STATE | {"update": 1})
    write_checkpoint(file, STATE | {"update": 3})
    assert same(latest_checkpoint(file, print), STATE | {"update": 3})


def test_a_full_disk_leaves_the_last_checkpoint(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(file, STATE)

    def full(state: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", full)
    with pytest.raises(PathError, match="No space left"):
        write_checkpoint(file, STATE | {"update": 8})
    assert same(latest_checkpoint(file, print), STATE)
    assert list(file.parent.iterdir()) == [file]
