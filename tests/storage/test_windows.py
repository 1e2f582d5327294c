"""What other systems do differently: a C library without a name, and files that are synchronised only if opened to write."""

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from rl_det.data.digit_scenes import CLASSES, DigitScenes
from rl_det.detectors import build_detector, save_state
from rl_det.detectors.encodings import encode_dataset
from rl_det.storage.checkpoint import write_checkpoint
from rl_det.storage.files import write_whole
from rl_det.storage.memory import give_back

fcntl = pytest.importorskip("fcntl")  # tells how a file was opened; Windows itself needs no such test


@pytest.mark.parametrize(
    "error",
    [
        TypeError("argument of type 'NoneType' is not iterable"),
        OSError("no such library"),
        AttributeError("malloc_trim"),
    ],
)
def test_encoding_needs_no_c_library_that_gives_memory_back(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def missing(name: object) -> NoReturn:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", missing)
    give_back()
    detector = build_detector("tiny", num_classes=len(CLASSES), input_size=64)
    assert len(encode_dataset(detector, DigitScenes("train", num_scenes=2))) == 2


WRITERS: dict[str, Callable[[Path], Any]] = {
    "text": lambda folder: write_whole(folder / "a.json", "{}"),
    "checkpoint": lambda folder: write_checkpoint(folder / "a.pt", {"number": 1}),
    "pt": lambda folder: save_state(torch.nn.Linear(2, 2), folder / "a.pt"),
    "safetensors": lambda folder: save_state(torch.nn.Linear(2, 2), folder / "a.safetensors"),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_file_is_synchronised_by_a_handle_that_may_write(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, write: Callable[[Path], Any]
) -> None:
    synchronised: list[int] = []

    def of_windows(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        synchronised.append(descriptor)

    monkeypatch.setattr(os, "fsync", of_windows)
    write(tmp_path)
    assert synchronised
