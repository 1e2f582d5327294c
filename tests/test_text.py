"""Text of others: whatever it holds, it is one line of signs that are seen."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_det.text import END, ISOLATE, JOINERS, isolated, printable


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
    seen = shown.replace(ISOLATE, "").replace(END, "")
    assert all(sign.isprintable() or sign in JOINERS or unicodedata.category(sign) == "Zs" for sign in seen)
    assert printable(shown) == shown


CAT = "\u0642\u0637\u0629"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (CAT, f"\u2068{CAT}\u2069"), (f"a {CAT} 2", f"\u2068a {CAT} 2\u2069"), ("\u0663", "\u2068\u0663\u2069"), ("cat", "cat"),
        ("", ""), (f"{CAT}\u2069", f"\u2068{CAT}\\u2069\u2069"), (f"\u202e{CAT}\n", f"\u2068\\u202e{CAT}\\n\u2069"),
        ("\u200f", "\\u200f"),
    ],
)  # fmt: skip
def test_a_name_with_right_to_left_letters_is_isolated_and_nothing_in_it_ends_that(name: str, shown: str) -> None:
    assert isolated(name) == shown
    assert printable(f"{isolated(name)}: 1\n") == f"{shown}: 1\\n"


@pytest.mark.parametrize(
    "text", ["\u2068cat\u2069", f"\u2068{CAT}", f"{CAT}\u2069", f"\u2068{CAT}\n\u2069", "\u2068\u2069"]
)
def test_isolating_signs_that_hide_turn_or_are_not_closed_are_escapes(text: str) -> None:
    assert not {ISOLATE, END} & {*printable(text)}


@given(st.text(st.sampled_from([ISOLATE, END, CAT[0], "a", "\u202e", "\u200f", "\n"])))
def test_what_is_left_of_isolating_signs_comes_in_pairs(text: str) -> None:
    shown = printable(text)
    assert re.sub(f"{ISOLATE}[^{ISOLATE}{END}]+{END}", "", shown).count(ISOLATE) == 0
    assert shown.count(ISOLATE) == shown.count(END)
    assert printable(shown) == shown
    assert printable(isolated(text)) == isolated(text)
