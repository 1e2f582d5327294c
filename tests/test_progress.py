"""The display of progress: a bar on a terminal and in a notebook, a line a minute in a file, nothing where it is turned off."""

import io
import os
import pty
import re
import subprocess
import sys
import termios
import time

import pytest

import rl_det.progress
from rl_det.progress import LINE_EVERY, Bar, bar, heard_by, tell

WORK = """
import time
from rl_det.progress import bar, tell
with bar("work", 4) as shown:
    for step in range(4):
        time.sleep(0.01)
        shown.note(f"val AP {step}")
        shown.advance()
    tell("a line")
"""


@pytest.fixture
def minute(monkeypatch: pytest.MonkeyPatch) -> float:
    """A minute of a twentieth of a second."""
    monkeypatch.setattr(rl_det.progress, "LINE_EVERY", 0.05)
    return 0.05


def on_a_terminal(columns: int = 80, **environment: str) -> str:
    """What the work prints on a terminal of this width."""
    own, its = pty.openpty()
    termios.tcsetwinsize(own, (24, columns))
    kept = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
    process = subprocess.Popen([sys.executable, "-c", WORK], stderr=its, env=kept | environment)
    os.close(its)
    told = b""
    with open(own, "rb", buffering=0) as stream:
        while True:
            try:
                part = stream.read(1024)
            except OSError:  # the other side is closed
                break
            told += part
            if not part:
                break
    assert process.wait() == 0
    return told.decode()


def test_a_terminal_shows_frames_of_one_bar_and_lines_above_it() -> None:
    told = on_a_terminal()
    frames = [frame for frame in told.split("\r") if frame.startswith("work:")]
    assert "0/4" in frames[0]
    assert "4/4" in frames[-1]
    assert "█" in frames[-1]
    assert "val AP 3" in frames[-1]
    assert "a line\r\n" in told


def test_a_file_gets_a_line_a_minute_with_what_is_done_the_time_left_and_the_note_and_one_at_the_end(
    minute: float, capsys: pytest.CaptureFixture[str]
) -> None:
    with bar("work", 6) as shown:
        for step in range(6):
            time.sleep(minute)
            shown.note(f"val AP {step}")
            shown.advance()
    told = capsys.readouterr().err
    assert "\r" not in told
    *during, last = told.splitlines()
    assert 3 <= len(during) <= 6
    for line in during:
        assert re.fullmatch(r"work: \d/6, \d\d:\d\d gone, (\?|\d\d:\d\d) left(, val AP \d)?", line)
    assert last == "work: 6/6, 00:00 gone, 00:00 left, val AP 5"


def test_a_line_says_how_long_the_work_takes_yet(minute: float, capsys: pytest.CaptureFixture[str]) -> None:
    shown = Bar("work", 1000)
    for _ in range(4):
        time.sleep(0.11)
        shown.advance()
    shown.close()
    last = capsys.readouterr().err.splitlines()[-1]
    minutes, seconds = map(int, re.findall(r", (\d\d):(\d\d) left", last)[0])
    assert 60 < 60 * minutes + seconds < 300  # 996 steps of 0.11 s


def test_work_of_less_than_a_minute_is_silent_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert LINE_EVERY == 60
    with bar("work", 3) as shown:
        shown.advance(3)
    tell("a line")
    assert capsys.readouterr().err == "a line\n"


def test_work_that_hangs_still_tells_that_it_lives(minute: float, capsys: pytest.CaptureFixture[str]) -> None:
    with bar("work", 3):
        time.sleep(3.5 * minute)
    lines = capsys.readouterr().err.splitlines()
    assert 3 <= len(lines) <= 4
    assert set(lines) == {"work: 0/3, 00:00 gone, ? left"}


def test_what_is_told_is_heard_and_lines_in_place_of_a_bar_are_not(
    minute: float, capsys: pytest.CaptureFixture[str]
) -> None:
    heard: list[str] = []
    with heard_by(heard.append), bar("work", 3):
        tell("a line")
        time.sleep(1.5 * minute)
    tell("another")
    assert heard == ["a line"]
    first, *during, last = capsys.readouterr().err.splitlines()
    assert (first, last) == ("a line", "another")
    assert during


def test_more_than_the_total_and_no_total_are_told(minute: float, capsys: pytest.CaptureFixture[str]) -> None:
    for total in (3, None):
        with bar("work", total) as shown:
            shown.advance(5)
            time.sleep(1.5 * minute)
        assert "work: 5/?" in capsys.readouterr().err


def test_turned_off_it_is_silent_on_a_terminal_and_in_a_file() -> None:
    assert on_a_terminal(TQDM_DISABLE="1") == "a line\r\n"
    short = WORK.replace("with bar", "import rl_det.progress\nrl_det.progress.LINE_EVERY = 0.01\nwith bar")
    for off, told in (("1", "a line\n"), ("", "a line\nwork: 4/4, 00:00 gone, 00:00 left, val AP 3\n")):
        environment = {**os.environ, "TQDM_DISABLE": off}
        ended = subprocess.run(
            [sys.executable, "-c", short], env=environment, capture_output=True, text=True, check=True
        )
        assert ended.stderr.endswith(told)
        assert ended.stderr.startswith("work: ") == (not off)


def test_a_notebook_shows_the_bar_itself(minute: float, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})()
    monkeypatch.setattr(sys, "stderr", stream)
    with bar("work", 3) as shown:
        shown.advance(3)
    assert "\rwork:   0%" in stream.getvalue()
    assert "3/3" in stream.getvalue()
