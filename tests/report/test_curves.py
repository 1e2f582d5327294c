"""Learning curves with bands, and boxes on pictures."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from rl_det.report.curves import draw_band
from rl_det.report.pictures import draw_boxes, draw_image


def test_the_line_is_the_mean_and_the_band_goes_from_the_lowest_to_the_highest() -> None:
    axes = Figure().add_subplot()
    draw_band(axes, [0, 5, 10], np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 7.0]]), label="two seeds", colour="blue")
    (line,) = axes.lines
    assert line.get_ydata().tolist() == [2.0, 2.0, 5.0]
    corners = axes.collections[0].get_paths()[0].vertices
    assert corners[corners[:, 0] == 10, 1].min() == 3.0
    assert corners[corners[:, 0] == 10, 1].max() == 7.0


def test_curves_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="each of the 2 steps; got 3"):
        draw_band(Figure().add_subplot(), [0, 1], np.zeros((2, 3)), label="", colour="blue")


def test_every_box_is_drawn_in_its_colour() -> None:
    axes = Figure().add_subplot()
    draw_image(axes, torch.zeros(3, 8, 8), "black")
    draw_boxes(axes, torch.tensor([[1.0, 1.0, 3.0, 4.0], [2.0, 2.0, 7.0, 7.0]]), ["red", "lime"], texts=["a", "b"])
    draw_boxes(axes, torch.zeros(0, 4), "white")
    assert [patch.get_edgecolor()[:3] for patch in axes.patches] == [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0)]
    assert [text.get_text() for text in axes.texts] == ["a", "b"]
