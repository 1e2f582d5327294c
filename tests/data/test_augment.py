"""Augmented samples: boxes stay on their objects, and labels, areas and crowds stay with their boxes."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rl_det.data import Dataset
from rl_det.data.augment import SMALLEST_SIDE, Augmentations, Augmented, Views, augmented, flipped
from rl_det.data.digit_scenes import DigitScenes
from rl_det.types import Sample, Target

ALL = Augmentations(scale=(0.5, 2.0), crop=True, photometric=True)
KINDS = {
    "scale": Augmentations(scale=(0.4, 2.5)),
    "crop": Augmentations(crop=True),
    "photometric": Augmentations(photometric=True),
    "all": ALL,
}
SEEDS = range(30)


def squares() -> Sample:
    """Flat squares in pure colours on black, not all of one area, the last one a crowd with an area of its own."""
    boxes = torch.tensor([[4.0, 6.0, 24.0, 26.0], [40.0, 10.0, 70.0, 30.0], [60.0, 40.0, 90.0, 60.0]])
    image = torch.zeros(3, 64, 96)
    for channel, (x1, y1, x2, y2) in enumerate(boxes.int().tolist()):
        image[channel, y1:y2, x1:x2] = 1.0
    return Sample(
        image=image,
        target=Target(
            boxes=boxes,
            labels=torch.tensor([1, 2, 3]),
            area=torch.tensor([400.0, 300.0, 600.0]),
            iscrowd=torch.tensor([False, False, True]),
            image_id=7,
        ),
    )


def extent(channel: Tensor) -> list[float]:
    """The box around what is bright."""
    rows, columns = (channel > 0.75).nonzero().unbind(-1)
    return [float(columns.min()), float(rows.min()), float(columns.max()) + 1, float(rows.max()) + 1]


@pytest.mark.parametrize("kind", ["scale", "crop"])
def test_boxes_stay_on_their_objects(kind: str) -> None:
    sizes = set()
    for seed in SEEDS:
        sample = augmented(squares(), KINDS[kind], seed)
        for box, label in zip(sample.target.boxes.tolist(), sample.target.labels.tolist(), strict=True):
            assert box == pytest.approx(extent(sample.image[label - 1]), abs=1.5)
        sizes.add(tuple(sample.target.boxes.flatten().tolist()))
    assert len(sizes) > 20, "every seed is another image"


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_are_valid_and_everything_beside_them_is_kept_in_step(kind: str) -> None:
    dropped = 0
    for seed in SEEDS:
        before, after = squares().target, augmented(squares(), KINDS[kind], seed)
        target = after.target
        height, width = after.image.shape[1:]
        boxes = target.boxes
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([width, height, width, height])).all()
        assert (boxes[:, 2:] - boxes[:, :2] >= SMALLEST_SIDE).all()
        assert len(boxes) == len(target.labels) == len(target.area) == len(target.iscrowd)
        assert target.iscrowd.tolist() == [label == 3 for label in target.labels.tolist()]
        old = before.boxes[target.labels - 1]
        factor = (boxes[:, 2:] - boxes[:, :2]).prod(1) / (old[:, 2:] - old[:, :2]).prod(1)
        torch.testing.assert_close(target.area, before.area[target.labels - 1] * factor)
        assert target.image_id == 7
        assert type(after.image) is type(boxes) is Tensor
        assert 0 <= after.image.min() <= after.image.max() <= 1
        dropped += 3 - len(boxes)
    assert (dropped > 0) == (kind != "photometric")


def test_an_image_that_shrinks_or_grows_keeps_its_size_and_its_area_goes_with_the_square_of_the_scale() -> None:
    half = augmented(squares(), Augmentations(scale=(0.5, 0.5)), 0)
    assert half.image.shape == (3, 64, 96)
    assert half.target.labels.tolist() == [1, 2, 3]
    torch.testing.assert_close(half.target.area, squares().target.area / 4)
    assert augmented(squares(), Augmentations(scale=(2.0, 2.0)), 0).image.shape == (3, 64, 96)


def test_colours_change_and_boxes_do_not() -> None:
    sample = DigitScenes("train", num_scenes=1)[0]
    changed = [augmented(sample, Augmentations(photometric=True), seed) for seed in range(8)]
    assert all(torch.equal(other.target.boxes, sample.target.boxes) for other in changed)
    assert sum(not torch.equal(other.image, sample.image) for other in changed) >= 6


def test_a_visit_depends_on_its_seed_alone_and_leaves_the_global_generator_as_it_was() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (augmented(squares(), ALL, seed) for seed in (3, 3, 4))
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.target.boxes, again.target.boxes)
    assert not torch.equal(first.image, other.image)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_image_without_objects_is_augmented_too() -> None:
    target = squares().target
    none = replace(
        target, boxes=target.boxes[:0], labels=target.labels[:0], area=target.area[:0], iscrowd=target.iscrowd[:0]
    )
    for seed in range(8):
        assert augmented(replace(squares(), target=none), ALL, seed).target.boxes.shape == (0, 4)


def test_a_data_set_is_asked_by_image_and_seed() -> None:
    scenes = DigitScenes("train", num_scenes=2)
    found = Augmented(scenes, ALL)[1, 9]
    assert torch.equal(found.image, augmented(scenes[1], ALL, 9).image)


@pytest.mark.parametrize("scale", [(0.0, 1.0), (2.0, 1.0), (1.0, float("nan")), (1.0, 50.0)])
def test_impossible_scales_are_refused(scale: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="scale must be"):
        Augmentations(scale=scale)


def test_nothing_happens_by_default() -> None:
    assert not Augmentations().any
    assert all(kind.any for kind in KINDS.values())


def test_views_are_a_data_set_that_begins_as_it_is_and_then_sees_every_image_otherwise() -> None:
    scenes = DigitScenes("train", num_scenes=3)
    views = Views(scenes, 3, Augmentations(scale=(0.85, 1.18)))
    assert isinstance(views, Dataset)
    assert len(views) == 9
    assert views.classes == scenes.classes
    for image in range(3):
        assert torch.equal(views[image].image, scenes[image].image)
        mirrored, seen = views[3 + image], views[6 + image]
        expected = flipped(augmented(scenes[image], views.augmentations, 3 + image))
        assert torch.equal(mirrored.image, expected.image)
        assert torch.equal(mirrored.target.boxes, expected.target.boxes)
        assert torch.equal(seen.image, augmented(scenes[image], views.augmentations, 6 + image).image)
        assert not torch.equal(seen.image, scenes[image].image)
    with pytest.raises(IndexError, match=r"0\.\.8; got 9"):
        views[9]
