"""Text that others wrote, as it is shown: names of classes, rows and files may hold any character."""

import unicodedata

SPACES = "Zs"
"""Unicode's category of spaces, which Python counts among what cannot be printed."""
JOINERS = "\u200c\u200d"
"""They have no width either, but Persian, Indic scripts and emoji are written with them."""


def printable(text: str) -> str:
    """The text in one line: what would break, turn or hide text is written as an escape, such as `\\n` or `\\u202e`.

    Those are line breaks, tabs, controls (of terminals, of the direction of text, of no width), halves of characters, and
    what Unicode does not define. Letters and spaces of all scripts stay. What is printable comes back as it is.
    """
    return "".join(
        sign
        if sign.isprintable() or sign in JOINERS or unicodedata.category(sign) == SPACES
        else sign.encode("unicode_escape", "backslashreplace").decode()
        for sign in text
    )
