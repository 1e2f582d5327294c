"""Text of others: whatever it holds, it is one line of signs that are seen."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_det.text import JOINERS, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\u202eright to left", r"\u202eright to left"), ("\u2066isolated\u2069", r"\u2066isolated\u2069"),
        ("two\nlines\r", r"two\nlines\r"), ("\ta\0", r"\ta\x00"), ("\x1b[2J", r"\x1b[2J"), ("a\u200bb", r"a\u200bb"),
        ("half \ud83d", r"half \ud83d"), ("\u2028", r"\u2028"), ("\x85", r"\x85"), ("", ""),
    ],
)  # fmt: skip
def test_what_would_turn_hide_or_break_text_is_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "a b",
        "кот",
        "\u05d7\u05ea\u05d5\u05dc",
        "猫\u3000犬",
        "1\xa0000",
        "\U0001f408",
        "e\u0301",
        r"a\nb",
        "\u0646\u200c\u062e",
        "\U0001f469\u200d\U0001f33e",
    ],
)
def test_letters_and_spaces_of_all_scripts_stay(text: str) -> None:
    assert printable(text) == text


@given(st.text(st.characters(categories=None)))
def test_it_is_one_line_in_any_encoding_and_stays_as_it_is(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert shown.encode().decode() == shown
    assert all(sign.isprintable() or sign in JOINERS or unicodedata.category(sign) == "Zs" for sign in shown)
    assert printable(shown) == shown
