"""The letters of names that are drawn on images: Latin, Greek, Cyrillic and more, as matplotlib brings them along."""

from pathlib import Path

import matplotlib as mpl

FONT = str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
"""The file of DejaVu Sans; Chinese, Japanese and Korean letters are not in it, and are drawn as boxes."""
