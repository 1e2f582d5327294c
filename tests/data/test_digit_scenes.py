"""Digit scenes: the same for ever for a (split, seed, index), with exact boxes and no digit shared between splits."""

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits, load_sample_images

from rl_det.data import Dataset, Split
from rl_det.data.digit_scenes import (
    CLASSES,
    IMAGE_SIZE,
    DigitScenes,
    draw_digit,
    paint,
    photographs,
    place,
    source_digits,
)
from rl_det.types import Sample

SPLITS = get_args(Split)

drawn_scenes = st.builds(
    lambda split, seed, index: DigitScenes(split, num_scenes=index + 1, seed=seed)[index],
    st.sampled_from(SPLITS),
    st.integers(0, 2**32),
    st.integers(0, 10**6),
)
few_examples = settings(max_examples=30, deadline=None)


def assert_same(sample: Sample, other: Sample) -> None:
    assert torch.equal(sample.image, other.image)
    assert torch.equal(sample.target.boxes, other.target.boxes)
    assert torch.equal(sample.target.labels, other.target.labels)
    assert sample.target.image_id == other.target.image_id


def test_digit_scenes_are_a_data_set_of_ten_classes() -> None:
    scenes = DigitScenes("train", num_scenes=3)
    assert isinstance(scenes, Dataset)
    assert scenes.classes == CLASSES == tuple("0123456789")
    assert [scenes[index].target.image_id for index in range(3)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("split", "num_boxes", "sum_of_corners", "sum_of_labels", "mean_pixel"),
    [("train", 193, 47508, 1073, 0.48672), ("val", 175, 44571, 949, 0.48407), ("test", 160, 39685, 901, 0.37641)],
)
def test_scenes_are_still_those_that_the_shipped_weights_were_trained_on(
    split: Split, num_boxes: int, sum_of_corners: int, sum_of_labels: int, mean_pixel: float
) -> None:
    drawn = DigitScenes(split, num_scenes=20, seed=3)
    scenes = [drawn[index] for index in range(20)]
    assert sum(len(scene.target.boxes) for scene in scenes) == num_boxes
    assert sum(scene.target.boxes.sum().item() for scene in scenes) == sum_of_corners
    assert sum(scene.target.labels.sum().item() for scene in scenes) == sum_of_labels
    assert np.mean([scene.image.mean().item() for scene in scenes]) == pytest.approx(mean_pixel, abs=1e-4)


def test_what_is_drawn_is_what_scikit_learn_loads() -> None:
    table = load_digits()
    scans, digits = (np.concatenate(parts) for parts in zip(*map(source_digits, SPLITS), strict=True))
    assert sorted(zip(scans.reshape(-1, 64).tolist(), digits.tolist(), strict=True)) == sorted(
        zip((table.images / 16).reshape(-1, 64).tolist(), table.target.tolist(), strict=True)
    )
    for own, theirs in zip(photographs(), load_sample_images().images, strict=True):
        np.testing.assert_array_equal(np.asarray(own), theirs)


@few_examples
@given(scene=drawn_scenes)
def test_a_scene_has_4_to_14_objects_whose_boxes_lie_inside_its_image(scene: Sample) -> None:
    target = scene.target
    assert scene.image.shape == (3, IMAGE_SIZE, IMAGE_SIZE)
    assert scene.image.dtype == torch.float32
    assert 0 <= scene.image.min() <= scene.image.max() <= 1
    assert 4 <= len(target.boxes) <= 14
    assert target.boxes.min() >= 0
    assert target.boxes.max() <= IMAGE_SIZE
    assert 1 <= target.labels.min() <= target.labels.max() <= 10
    sides = target.boxes[:, 2:] - target.boxes[:, :2]
    assert (sides > 0).all()
    assert torch.equal(target.area, sides.prod(1))
    assert not target.iscrowd.any()


@few_examples
@given(split=st.sampled_from(SPLITS), seed=st.integers(0, 2**32), index=st.integers(0, 50))
def test_a_scene_depends_on_split_seed_and_index_alone(split: Split, seed: int, index: int) -> None:
    scenes = DigitScenes(split, num_scenes=100, seed=seed)
    assert_same(scenes[index], DigitScenes(split, num_scenes=51, seed=seed)[index])
    others = [scenes[index + 1], DigitScenes(split, num_scenes=100, seed=seed + 1)[index]]
    others += [DigitScenes(other, num_scenes=100, seed=seed)[index] for other in SPLITS if other != split]
    assert not any(torch.equal(scenes[index].image, other.image) for other in others)


@few_examples
@given(seed=st.integers(0, 2**32))
def test_a_box_is_exactly_where_the_ink_is(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scans, _ = source_digits("train")
    alpha = draw_digit(rng, scans[rng.integers(len(scans))])
    box = place(rng, np.array(alpha.shape[::-1], dtype=np.float64), np.zeros((0, 4)))
    assert box is not None
    canvas = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3))
    paint(canvas, alpha, box, colour=np.ones(3))
    rows, columns = np.nonzero(canvas[..., 0] > 0.3 * alpha.max())
    assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == box.tolist()


def test_no_source_digit_is_in_two_splits_and_none_is_left_out() -> None:
    scans = [{scan.tobytes() for scan in source_digits(split)[0]} for split in SPLITS]
    assert sum(len(part) for part in scans) == len(set.union(*scans)) == 1797
    for split in SPLITS:
        assert set(source_digits(split)[1]) == set(range(10))


def test_the_scenes_end_where_their_number_says() -> None:
    scenes = DigitScenes("val", num_scenes=2)
    assert len(scenes) == 2
    with pytest.raises(IndexError, match="scene 2 of 2"):
        scenes[2]


def test_a_data_set_without_scenes_is_refused() -> None:
    with pytest.raises(ValueError, match="num_scenes must be at least 1; got 0"):
        DigitScenes("train", num_scenes=0)
