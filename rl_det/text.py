"""Text that others wrote, as it is shown: names of classes, rows and files may hold any character."""

import re
import unicodedata

SPACES = "Zs"
"""Unicode's category of spaces, which Python counts among what cannot be printed."""
JOINERS = "\u200c\u200d"
"""They have no width either, but Persian, Indic scripts and emoji are written with them."""
ISOLATE, END = "\u2068", "\u2069"
"""Between them a text runs in its own direction, and its neighbours in theirs (FSI and PDI of Unicode's annex 9)."""
ISOLATED = re.compile(f"({ISOLATE}[^{ISOLATE}{END}]*{END})")
RIGHT_TO_LEFT = ("R", "AL", "AN")
"""The classes of signs that turn their neighbours: Hebrew and such, Arabic, and Arabic digits."""


def printable(text: str) -> str:
    """The text in one line: what would break, turn or hide text is written as an escape, such as `\\n` or `\\u202e`.

    Those are line breaks, tabs, controls (of terminals, of the direction of text, of no width), halves of characters, and
    what Unicode does not define. Letters and spaces of all scripts stay, and so does what `isolated` gives. What is
    printable comes back as it is.
    """
    return "".join(part if part == isolated(part[1:-1]) else _escaped(part) for part in ISOLATED.split(text))


def isolated(name: str) -> str:
    """A name within a sentence, printable: signs around one with right-to-left letters keep the words beside it in place."""
    text = _escaped(name)
    turns = any(unicodedata.bidirectional(sign) in RIGHT_TO_LEFT for sign in text)
    return f"{ISOLATE}{text}{END}" if turns else text


def _escaped(text: str) -> str:
    return "".join(
        sign
        if sign.isprintable() or sign in JOINERS or unicodedata.category(sign) == SPACES
        else sign.encode("unicode_escape", "backslashreplace").decode()
        for sign in text
    )
