"""The letters of names that are drawn on images: Latin, Greek, Cyrillic and more, as matplotlib brings them along."""

from importlib.util import find_spec
from pathlib import Path


def _font() -> str:
    """The font's file, found without loading matplotlib, which is slow."""
    spec = find_spec("matplotlib")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf")


FONT = _font()
"""The file of DejaVu Sans; Chinese, Japanese and Korean letters are not in it, and are drawn as boxes."""
