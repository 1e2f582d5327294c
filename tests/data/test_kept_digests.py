"""Hashes that are kept for later processes: of files that are not written since, and only as long as they can be believed."""

import os
import sqlite3
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pytest

from rl_det.data import files
from rl_det.data.files import digests
from rl_det.storage import kept_digests


class Readings:
    """Files that are hashed as by a process that has just begun; which of them are read."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch, self.cache = monkeypatch, folder / "cache"
        self.files = [folder / name for name in ("one.png", "two \udcff.png", "three.png")]
        for file in self.files:
            file.write_bytes(bytes(file))
        monkeypatch.setenv("RL_DET_CACHE", str(self.cache))
        monkeypatch.setattr(files, "WORTH_KEEPING", 1)
        monkeypatch.setattr(kept_digests, "SETTLED_NS", -1)

    @property
    def names(self) -> Sequence[str]:
        return sorted(file.name for file in self.files)

    @property
    def kept(self) -> Path:
        return self.cache / "digests.sqlite"

    def read(self) -> Sequence[str]:
        """The names of the files that a new process reads, sorted; all hashes must be right."""
        read, hashed = list[str](), files._digest

        def noted(file: Path) -> str:
            read.append(file.name)
            return hashed(file)

        with self.monkeypatch.context() as patched:
            patched.setattr(files, "_digests", {})
            patched.setattr(files, "_digest", noted)
            assert digests(self.files) == [sha256(file.read_bytes()).hexdigest() for file in self.files]
        return sorted(read)


@pytest.fixture
def readings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Readings:
    return Readings(tmp_path, monkeypatch)


def test_a_later_process_reads_nothing_again(readings: Readings) -> None:
    assert readings.read() == readings.names
    assert readings.read() == []


def test_a_file_of_the_same_size_and_modification_time_with_other_bytes_is_read(readings: Readings) -> None:
    readings.read()
    file, before = readings.files[0], readings.files[0].stat()
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert readings.read() == [file.name]
    assert readings.read() == []


def test_a_file_that_took_the_place_of_another_is_read(readings: Readings) -> None:
    readings.read()
    file = readings.files[2]
    other = file.with_name("other.png")
    other.write_bytes(file.read_bytes()[::-1])
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    other.replace(file)
    assert readings.read() == [file.name]


def test_files_written_just_now_and_small_data_sets_are_not_kept(
    readings: Readings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_digests, "SETTLED_NS", 10**12)
    assert readings.read() == readings.read() != []
    monkeypatch.setattr(kept_digests, "SETTLED_NS", -1)
    monkeypatch.setattr(files, "WORTH_KEEPING", 2**27)
    readings.kept.unlink()
    assert readings.read() == readings.read() != []
    assert not readings.kept.exists()


@pytest.mark.parametrize(("after", "kept"), [(1, True), (0, False)])
def test_a_file_is_kept_if_its_reading_began_when_its_last_change_was_long_ago(
    readings: Readings, monkeypatch: pytest.MonkeyPatch, after: int, kept: bool
) -> None:
    monkeypatch.setattr(kept_digests, "SETTLED_NS", 10**12)  # however long the reading itself takes
    stamp = kept_digests.stamp_of(readings.files[0])
    kept_digests.keep({stamp: "a hash"}, since=max(stamp.modified, stamp.changed) + 10**12 + after)
    assert kept_digests.recalled([stamp]) == ({stamp: "a hash"} if kept else {})


def test_a_row_that_was_changed_is_not_believed(readings: Readings) -> None:
    readings.read()
    with sqlite3.connect(readings.kept) as opened:
        opened.execute("UPDATE digests SET digest = ? WHERE path LIKE '%one.png%'", ("0" * 64,))
    opened.close()
    assert readings.read() == ["one.png"]
    assert readings.read() == []


@pytest.mark.parametrize("content", [b"", b"no database" * 500, b"SQLite format 3\0" + bytes(5000)])
def test_a_file_that_is_no_database_is_made_anew(readings: Readings, content: bytes) -> None:
    readings.cache.mkdir()
    readings.kept.write_bytes(content)
    assert len(readings.read()) == 3
    readings.read()
    assert readings.read() == []


def test_damaged_anywhere_it_gives_no_wrong_hash(readings: Readings) -> None:
    readings.read()
    whole = readings.kept.read_bytes()
    for place in range(0, len(whole), 97):
        readings.kept.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        readings.read()
        readings.read()
        assert readings.read() == []


def test_without_a_cache_folder_that_can_be_written_to_files_are_read(
    readings: Readings, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings.cache.write_text("a file in place of the folder")
    assert readings.read() == readings.read() == readings.names
