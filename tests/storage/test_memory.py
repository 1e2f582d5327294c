"""Pages of mapped files: they leave the process's memory when they are returned, and their contents stay."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rl_det.storage import memory
from rl_det.storage.memory import MOST_PRIMITIVES, PRIMITIVES, give_back, read_of_files, returns_pages

STATUS = Path("/proc/self/status")
BYTES = 2**26


def pages_of_files() -> int:
    """The bytes of mapped files in this process's memory, by Linux."""
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("RssFile"))
    return int(line.split()[1]) * 1024


@pytest.fixture
def file(tmp_path: Path) -> Path:
    np.save(tmp_path / "numbers.npy", np.arange(BYTES // 8))
    return tmp_path / "numbers.npy"


@pytest.mark.skipif(not STATUS.exists(), reason="only Linux says what is mapped")
@pytest.mark.parametrize("mode", ["c", "r"])
def test_pages_that_were_read_leave_the_process_and_can_be_read_again(file: Path, mode: str) -> None:
    array = returns_pages(np.load(file, mmap_mode=mode))
    total = int(array.sum())
    held = pages_of_files()
    give_back()
    assert held - pages_of_files() > 0.9 * BYTES
    assert int(array.sum()) == total


@pytest.mark.skipif(not STATUS.exists(), reason="only Linux says what is mapped")
def test_they_leave_by_themselves_once_much_was_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MOST_READ", BYTES - 1)
    numbers = torch.from_numpy(returns_pages(np.load(file, mmap_mode="c")))
    give_back()
    numbers.sum()
    held = pages_of_files()
    read_of_files(BYTES // 2)
    assert pages_of_files() > held - BYTES / 2
    read_of_files(BYTES // 2)
    assert pages_of_files() < held - 0.9 * BYTES


def test_what_is_written_to_a_file_stays_when_its_pages_are_returned(tmp_path: Path) -> None:
    array = np.lib.format.open_memmap(tmp_path / "new.npy", "w+", dtype=np.int64, shape=(1000,))
    returns_pages(array)
    array[:] = np.arange(1000)
    give_back()
    assert np.array_equal(array, np.arange(1000))
    array.flush()
    assert np.array_equal(np.load(tmp_path / "new.npy"), np.arange(1000))


def test_a_file_that_is_closed_is_no_longer_known(file: Path) -> None:
    array = returns_pages(np.load(file, mmap_mode="r"))
    assert len(memory._maps) >= 1
    before = len(memory._maps)
    del array
    assert len(memory._maps) == before - 1
    give_back()


SHAPES = """
import sys
import torch
from rl_det.storage.memory import keep_few_kernels

def held():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))

if "few" in sys.argv:
    keep_few_kernels()
values = torch.randn(4, 2000)
torch.nn.functional.gelu(values)
before = held()
for size in range(1, 700):
    torch.nn.functional.gelu(values[:, : 2 * size].contiguous())
print(held() - before)
"""


@pytest.mark.skipif(not STATUS.exists(), reason="only Linux says what is held")
def test_kernels_of_many_shapes_do_not_pile_up() -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    environment = {name: value for name, value in os.environ.items() if name != PRIMITIVES}
    few, all_of_them = (
        int(
            subprocess.run(
                [sys.executable, "-c", SHAPES, word], check=True, capture_output=True, env=environment
            ).stdout
        )
        for word in ("few", "all")
    )
    assert all_of_them > 2 * few, f"{MOST_PRIMITIVES} kernels take {few} KiB, 700 take {all_of_them}"
