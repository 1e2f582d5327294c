"""Boxes and names on pixels: the right colours in the right places, and nothing for a box without a size."""

import numpy as np
import pytest
import torch

from rl_det.report.canvas import outline, picture_of, write_above

RED, LIME = (255, 0, 0), (0, 255, 0)


def test_a_pixel_of_the_image_is_a_square_of_the_picture_and_values_are_clipped() -> None:
    image = torch.tensor([[[1.5, -0.5]], [[0.5, 0.0]], [[0.0, 1.0]]])
    drawn = np.asarray(picture_of(image, 3))
    assert drawn.shape == (3, 6, 3)
    assert (drawn[:, :3] == (255, 128, 0)).all()
    assert (drawn[:, 3:] == (0, 0, 255)).all()


def test_each_box_has_its_colour_and_width_and_one_without_a_size_is_left_out() -> None:
    picture = picture_of(torch.zeros(3, 40, 40))
    boxes = torch.tensor([[2.9, 3.0, 12.0, 13.0], [20.0, 20.0, 20.0, 30.0], [30.0, 9.0, 25.0, 12.0],
                          [float("nan"), 0.0, 9.0, 9.0], [15.0, 3.0, 35.0, 18.0]])  # fmt: skip
    outline(picture, boxes, ["red", "blue", "blue", "blue", "lime"], width=2)
    expected = np.zeros((40, 40, 3), dtype=np.uint8)
    for colour, (left, top, right, bottom) in ((RED, (2, 3, 12, 13)), (LIME, (15, 3, 35, 18))):
        inside = expected[top + 2 : bottom - 1, left + 2 : right - 1].copy()
        expected[top : bottom + 1, left : right + 1] = colour
        expected[top + 2 : bottom - 1, left + 2 : right - 1] = inside
    np.testing.assert_array_equal(np.asarray(picture), expected)


def test_a_name_stands_black_on_its_boxs_colour_in_the_upper_left_corner() -> None:
    picture = picture_of(torch.zeros(3, 64, 64))
    outline(picture, torch.tensor([[4.0, 4.0, 60.0, 60.0]]), ["red"], width=2, texts=["cat"])
    corner = np.asarray(picture)[6:20, 6:30]
    assert (corner[..., 1:] == 0).all()
    assert (corner == RED).all(-1).sum() > 60
    assert (corner == 0).all(-1).sum() > 10
    assert not np.asarray(picture)[30:58, 7:58].any()


@pytest.mark.parametrize("sign", ["\u202e", "\u2066", "\n", "\t", "\0", "\ud800"])
def test_what_would_turn_or_break_a_name_is_written_as_an_escape(sign: str) -> None:
    pictures = []
    for name in (f"cat{sign}dog", "cat" + sign.encode("unicode_escape", "backslashreplace").decode() + "dog", "catdog"):
        picture = picture_of(torch.zeros(3, 64, 200))
        outline(picture, torch.tensor([[4.0, 20.0, 190.0, 60.0]]), ["red"], width=2, texts=[name])
        write_above(picture, (4.0, 20.0, 190.0, 60.0), name, "lime")
        pictures.append(np.asarray(picture))
    shown, escaped, without = pictures
    np.testing.assert_array_equal(shown, escaped)
    assert not np.array_equal(shown, without)
