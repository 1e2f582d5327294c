"""Drawings and photographs of a page: colours that are seen, words that stay words, boxes that are where they should be."""

import base64
import io
import re
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.report.canvas import FONT
from rl_det.report.detections import drawn
from rl_det.report.drawings import (
    AFTER,
    BEFORE,
    COLOURS,
    DASHES,
    bars_drawing,
    intervals_drawing,
    keys_of,
    lines_drawing,
    recall_drawing,
)
from rl_det.report.html import Key, Page, Svg, html
from rl_det.report.photographs import photograph
from rl_det.report.pictures import shown
from rl_det.report.sections import MOST_CLASSES, Contrast, changed_images, gain_section, most_changed, recall_section
from rl_det.types import Detections, Target

PAPERS = ("#ffffff", "#14171b")
"""The page's own colours, light and dark, as in its template."""


def luminance(colour: str) -> float:
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("paper", PAPERS)
@pytest.mark.parametrize("colour", [BEFORE, *COLOURS])
def test_lines_are_seen_on_both_papers(colour: str, paper: str) -> None:
    dark, light = sorted(map(luminance, (colour, paper)))
    assert (light + 0.05) / (dark + 0.05) >= 3


def test_keys_differ_as_long_as_there_are_pairs_of_colour_and_dashes() -> None:
    pairs = len(COLOURS) * len(DASHES)
    keys = keys_of([str(k) for k in range(pairs)])
    assert len({(key.colour, key.dashes) for key in keys}) == pairs
    assert keys[0].dashes == "none"


def drawings() -> Iterator[Svg]:
    nan = float("nan")
    yield lines_drawing([(Key(name="a", colour=AFTER), [0.0, 1.0], [nan, 2.0])], x_label="x", y_label="y")
    yield lines_drawing([(Key(name="a", colour=AFTER), [], [])], x_label="x", y_label="y", square=True)
    yield recall_drawing([1.0, 0.5], [nan, nan], [0.0, 1.0])
    yield bars_drawing([], [], [], x_label="x")
    yield bars_drawing(["a"], [nan], [1.0], x_label="x")
    yield intervals_drawing({"a": (1.0, 0.0, 2.0), "b": (1.0, nan, nan)}, x_label="x")


@pytest.mark.parametrize("number", range(6))
def test_a_drawing_is_the_inside_of_an_svg_whose_words_have_the_pages_colour(number: int) -> None:
    svg = list(drawings())[number]
    assert svg.width > 100
    assert svg.height > 50
    assert "currentColor" in svg.body
    assert "nan" not in svg.body.lower()
    for never in ("http", "<style", "<metadata", "<?xml", "<!DOCTYPE", "xmlns", "#010203", "font-family"):
        assert never not in svg.body
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', svg.body))
    assert used == set(re.findall(r' id="([^"]+)"', svg.body))


def test_two_drawings_share_no_names_and_the_same_drawing_is_the_same_text() -> None:
    one, other, again = (bars_drawing(["a"], [1.0], [height], x_label="x") for height in (2.0, 3.0, 2.0))
    assert one == again
    names = [set(re.findall(r' id="([^"]+)"', svg.body)) for svg in (one, other)]
    assert names[0]
    assert not names[0] & names[1]


TARGET = Target(
    boxes=torch.tensor([[2.0, 2.0, 12.0, 12.0], [20.0, 20.0, 30.0, 30.0]]), labels=torch.tensor([1, 1]),
    area=torch.full((2,), 100.0), iscrowd=torch.zeros(2, dtype=torch.bool), image_id=0,
)  # fmt: skip


def pixels(uri: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_a_photograph_has_a_green_frame_around_what_is_right_a_red_one_around_what_is_wrong() -> None:
    found = Detections(
        boxes=torch.tensor([[2.0, 2.0, 12.0, 12.0], [20.0, 2.0, 30.0, 12.0]]), labels=torch.tensor([1, 2]),
        scores=torch.tensor([0.9, 0.8]),
    )  # fmt: skip
    outcome = shown(TARGET, found, 2, 0.5)
    assert outcome.counts == "1 right, 1 wrong, 1 missed"
    own = photograph(torch.full((3, 32, 32), 0.5), TARGET, outcome, ("a", "b" * 40), "Before")
    assert (own.width, own.height) == (512, 512)
    assert own.alt == "Before: 1 right, 1 wrong, 1 missed"
    image = pixels(own.uri)
    right, wrong, missed = image[120, 30:34], image[60:180, 318:323], image[340:460, 318:323]
    assert (right[:, 1] - right[:, 0]).max() > 80  # green
    assert (wrong[..., 0] - wrong[..., 1]).max() > 80  # red, in dashes
    assert missed.min(-1).max() > 200  # white, in dots
    assert missed.max(-1).min() < 60


def target_of(boxes: list[list[float]], *, crowds: tuple[int, ...] = ()) -> Target:
    count = len(boxes)
    iscrowd = torch.tensor([place in crowds for place in range(count)], dtype=torch.bool)
    return Target(boxes=torch.tensor(boxes), labels=torch.ones(count, dtype=torch.long), area=torch.full((count,), 100.0),
                  iscrowd=iscrowd, image_id=0)  # fmt: skip


def found_at(boxes: list[list[float]]) -> Detections:
    count = len(boxes)
    scores = torch.linspace(0.9, 0.6, count)
    return Detections(boxes=torch.tensor(boxes), labels=torch.ones(count, dtype=torch.long), scores=scores)


def test_one_detection_finds_one_of_two_objects_that_overlap() -> None:
    target = target_of([[2.0, 2.0, 12.0, 12.0], [3.0, 2.0, 13.0, 12.0]])
    outcome = shown(target, found_at([[2.0, 2.0, 12.0, 12.0]]), 1, 0.5)
    assert outcome.counts == "1 right, 0 wrong, 1 missed"
    assert outcome.missed.tolist() == [False, True]


def test_what_lies_in_a_crowd_is_neither_right_nor_wrong_nor_drawn() -> None:
    target = target_of([[0.0, 0.0, 20.0, 20.0], [20.0, 20.0, 30.0, 30.0]], crowds=(0,))
    outcome = shown(target, found_at([[2.0, 2.0, 8.0, 8.0], [20.0, 20.0, 30.0, 30.0]]), 1, 0.5)
    assert outcome.counts == "1 right, 0 wrong, 0 missed"
    assert outcome.kept["boxes"].tolist() == [[20.0, 20.0, 30.0, 30.0]]


def test_more_than_a_hundred_of_a_class_are_all_matched() -> None:
    boxes = [[10.0 * place, 0.0, 10.0 * place + 8.0, 8.0] for place in range(120)]
    assert shown(target_of(boxes), found_at(boxes), 1, 0.5).counts == "120 right, 0 wrong, 0 missed"


@pytest.mark.parametrize("name", ["\u043a\u043b\u044e\u0447", "\u03b1\u03b2\u03b3", "\u017e\u016f\u010d"])
def test_names_in_letters_beyond_latin_are_drawn_and_no_boxes(name: str) -> None:
    font = ImageFont.truetype(FONT, 13)
    missing = bytes(font.getmask("\uffff"))
    assert all(bytes(font.getmask(letter)) != missing for letter in name)
    found, image = found_at([[2.0, 20.0, 60.0, 60.0]]), torch.zeros(3, 64, 64)
    pictures = [np.asarray(drawn(image, found, (text,), 0.5)) for text in (name, "\uffff" * len(name))]
    assert not np.array_equal(*pictures)


def test_colours_beyond_black_and_white_do_not_turn_round() -> None:
    image = torch.stack([torch.full((8, 8), value) for value in (1.01, -0.01, 0.5)])
    nothing = Detections(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long), scores=torch.zeros(0))
    assert np.asarray(drawn(image, nothing, ("a",), 0.5))[0, 0].tolist() == [255, 0, 128]


@pytest.mark.parametrize("size", [(700, 1400), (3, 40), (512, 512), (1, 2000)])
def test_a_photograph_of_any_size_fits_and_may_be_empty(size: tuple[int, int]) -> None:
    empty = Detections(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long), scores=torch.zeros(0))
    nothing = Target(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long), area=torch.zeros(0),
                     iscrowd=torch.zeros(0, dtype=torch.bool), image_id=0)  # fmt: skip
    own = photograph(torch.zeros(3, *size), nothing, shown(nothing, empty, 1, 0.5), ("a",), "x")
    assert max(own.width, own.height) <= 512
    assert pixels(own.uri).shape == (own.height, own.width, 3)


def contrast(num_classes: int) -> Contrast:
    """One image for each class but the last, with one object, found by one row only in every second image."""
    count = num_classes - 1
    boxes, ones = np.tile([0.0, 0.0, 10.0, 10.0], (count, 1, 1)), np.ones((count, 1))
    labels, there = np.arange(1, num_classes)[:, None], ones.astype(bool)
    truths = TruthBatch(boxes=boxes, labels=labels, area=100 * ones, iscrowd=~there, mask=there)
    before = DetectionBatch(boxes=boxes, labels=labels, scores=0.5 * ones, mask=(np.arange(count) % 2 == 0)[:, None])
    after = DetectionBatch(boxes=boxes, labels=labels, scores=0.5 * ones, mask=there)
    classes = tuple(f"class number {k}" for k in range(num_classes))
    return Contrast(before_name="one", after_name="two", before=before, after=after, truths=truths, classes=classes)


def test_with_many_classes_the_drawings_have_those_that_changed_most_and_the_tables_all() -> None:
    own = contrast(41)
    section = recall_section(own)
    assert len(section.blocks[0].drawings) == MOST_CLASSES  # type: ignore[union-attr]
    assert all(drawing.caption.endswith("AP 0.00 to 100.00") for drawing in section.blocks[0].drawings)  # type: ignore[union-attr]
    assert f"the {MOST_CLASSES} of 41 classes" in section.blocks[1].text  # type: ignore[union-attr]
    tables = [block for block in gain_section(own).blocks if block.kind == "table"]
    of_classes = next(table for table in tables if "class" in table.caption)  # type: ignore[union-attr]
    assert len(of_classes.rows) == 41  # type: ignore[union-attr]
    assert of_classes.rows[-1][1:] == ["-", "-", "-"]  # type: ignore[union-attr]
    assert most_changed(np.array([np.nan, 0.2]), np.array([np.nan, 0.1])) == [1]


@pytest.mark.parametrize("name", ["\u732b", "half \ud83d", "two\nlines\x00", "$x^{$", "_hidden", "", "b" * 300])
def test_classes_of_any_name_are_drawn(name: str) -> None:
    own = Contrast(**{**vars(contrast(3)), "classes": (name, "other", "third")})
    page = Page(title="t", lead="l", sections=[gain_section(own), recall_section(own)])
    assert html(page).encode().count(b"<svg") >= 3  # a drawing of each class
    found = Detections(boxes=TARGET.boxes, labels=TARGET.labels, scores=torch.tensor([0.9, 0.8]))
    picture = photograph(torch.zeros(3, 32, 32), TARGET, shown(TARGET, found, 3, 0.5), own.classes, "x")
    nothing = photograph(torch.zeros(3, 32, 32), TARGET, shown(TARGET, found, 3, 0.99), own.classes, "x")
    assert picture.uri != nothing.uri


def test_the_images_that_changed_most_are_those_of_exact_ap() -> None:
    own = contrast(6)
    gained, lost = changed_images(own, 1)
    assert gained == [(1, 0.0, pytest.approx(1))]
    assert lost == []
    back = Contrast(**{**vars(own), "before": own.after, "after": own.before})
    assert changed_images(back, 5) == ([], [(3, pytest.approx(1), 0.0), (1, pytest.approx(1), 0.0)])
