"""Checks: an error names file and entry and survives a worker; clipping keeps what is inside and counts."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_det.data.check import HAIR, DataError, Repairs, is_number

coordinates = st.floats(-1e3, 1e3)


def test_an_error_names_file_and_entry_and_is_a_value_error() -> None:
    fault = DataError(Path("data/train.json"), "annotation 17", "bbox is missing")
    assert isinstance(fault, ValueError)
    assert str(fault) == "data/train.json: annotation 17: bbox is missing"


def test_an_error_keeps_its_words_on_the_way_back_from_a_worker() -> None:
    fault = DataError(Path("x.jpg"), "image 3", "truncated")
    assert str(pickle.loads(pickle.dumps(fault))) == str(fault)
    assert str(DataError(str(fault))) == str(fault)  # how torch's DataLoader raises it again


@given(left=coordinates, top=coordinates, width=st.floats(1, 1e3), height=st.floats(1, 1e3))
def test_a_clipped_box_is_the_part_inside_the_image(left: float, top: float, width: float, height: float) -> None:
    box, repairs = (left, top, left + width, top + height), Repairs()
    inside = repairs.clip(box, 64, 32)
    columns, rows = min(box[2], 64) - max(left, 0), min(box[3], 32) - max(top, 0)
    if inside is None:
        assert min(columns, rows) < HAIR
        assert repairs == Repairs(num_dropped=1)
    else:
        assert (inside[2] - inside[0], inside[3] - inside[1]) == pytest.approx((columns, rows))
        assert 0 <= inside[0] < inside[2] <= 64
        assert 0 <= inside[1] < inside[3] <= 32
        assert repairs.num_clipped == (max(-left, -top, box[2] - 64, box[3] - 32) > HAIR)


def test_a_box_that_leaves_its_image_by_a_rounding_error_is_clipped_without_a_word() -> None:
    repairs = Repairs()
    assert repairs.clip((0.0, 0.0, 64.0 + 1e-12, 32.0), 64, 32) == (0.0, 0.0, 64.0, 32.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        repairs.warn(Path("train.json"))


@pytest.mark.parametrize(
    "value",
    [None, True, "3", [3], float("nan"), float("inf"), -float("inf"), 10**400],
    ids=lambda value: str(value)[:9],
)
def test_what_is_no_finite_json_number_is_told_apart(value: Any) -> None:
    assert not is_number(value)


@pytest.mark.parametrize("value", [0, -3, 2.5])
def test_a_finite_json_number_is_one(value: float) -> None:
    assert is_number(value)
