"""Folds: every image is tested once by a detector that never saw it, classes are even, equal images stay together."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from data.opening import OwnSamples, picture
from hypothesis import given, settings
from hypothesis import strategies as st

import rl_det
from rl_det.data.annotated import AnnotatedImages
from rl_det.data.folds import dealt, folds
from rl_det.data.same_images import keys_of
from rl_det.data.splits import Splits, fingerprint, first_of
from rl_det.detectors.contents import content
from rl_det.types import Sample, Target

CLASSES = ("cell", "rare", "crowd")


def sample(grey: float, counts: tuple[int, int], image_id: int) -> Sample:
    """An image of one grey, with so many cells and rare ones, and one crowd, which nobody has to find."""
    labels = torch.tensor([1] * counts[0] + [2] * counts[1] + [3])
    boxes = torch.tensor([2.0, 2.0, 10.0, 9.0]).expand(len(labels), 4)
    iscrowd = labels == 3
    target = Target(
        boxes=boxes, labels=labels, area=torch.full((len(labels),), 56.0), iscrowd=iscrowd, image_id=image_id
    )
    return Sample(image=torch.full((3, 12, 16), grey), target=target)


def data(num_train: int = 20, num_val: int = 10, num_test: int = 10, *, seed: int = 0) -> Splits:
    """Images that all differ; each split counts its image ids from 0, as files of their own do."""
    rng = np.random.default_rng(seed)
    total = num_train + num_val + num_test
    greys = iter(rng.permutation(total) / total)
    train, val, test = (
        OwnSamples(
            CLASSES, [sample(next(greys), (int(rng.integers(1, 9)), int(rng.integers(0, 2))), k) for k in range(count)]
        )
        for count in (num_train, num_val, num_test)
    )
    return rl_det.open_data((train, val, test), name="cells")


def greys(dataset: object) -> list[float]:
    return [float(dataset[index].image[0, 0, 0]) for index in range(len(dataset))]  # type: ignore[index, arg-type]


def objects(dataset: object) -> np.ndarray:
    labels = [dataset[index].target for index in range(len(dataset))]  # type: ignore[index, arg-type]
    return np.sum([np.bincount(t.labels[~t.iscrowd], minlength=3)[1:] for t in labels], axis=0)


@pytest.mark.parametrize("num_folds", [2, 5, 7])
def test_every_image_is_tested_once_and_never_by_a_detector_that_has_seen_it(num_folds: int) -> None:
    whole = data()
    everything = sorted(greys(whole.train) + greys(whole.val) + greys(whole.test))
    divided = folds(whole, num_folds)
    assert sorted(grey for fold in divided for grey in greys(fold.test)) == everything
    for fold in divided:
        parts = [greys(fold.train), greys(fold.val), greys(fold.test)]
        assert sorted(grey for part in parts for grey in part) == everything
        assert len(parts[1]) == round(len(everything[len(parts[2]) :]) / 3), "as large a share as the data's own"
        assert {len(fold.test) for fold in divided} <= {40 // num_folds, -(-40 // num_folds)}


@pytest.mark.parametrize("seed", range(4))
def test_each_part_has_its_share_of_each_class_within_a_tenth_or_one_object(seed: int) -> None:
    divided = folds(data(seed=seed), 5)
    total = objects(divided[0].train) + objects(divided[0].val) + objects(divided[0].test)
    for fold in divided:
        for part in (fold.train, fold.val, fold.test):
            due = total * len(part) / 40
            assert (np.abs(objects(part) - due) <= np.maximum(1, due / 10)).all()


def test_the_same_data_give_the_same_folds_and_the_folds_differ_in_all_that_keys_a_cache() -> None:
    first, again = folds(data(), 4), folds(data(), 4)
    assert [greys(fold.test) for fold in first] == [greys(fold.test) for fold in again]
    assert [fold.fingerprints() for fold in first] == [fold.fingerprints() for fold in again]
    for key in (fingerprint, content):
        assert len({key(part) for fold in first for part in (fold.train, fold.val, fold.test)}) == 12
        assert {key(fold.train) for fold in first}.isdisjoint({key(fold.train) for fold in folds(data(seed=1), 4)})
    assert [fold.name for fold in first] == [f"cells-fold{number}of4" for number in (1, 2, 3, 4)]
    assert first[1].notes == ("fold 2 of 4: the images of all splits are divided by seed 0",)
    assert first[0].classes == CLASSES


def test_the_folds_of_these_images_are_these_on_every_machine() -> None:
    divided = folds(data(6, 2, 2), 3)
    assert [[round(10 * grey) for grey in greys(fold.test)] for fold in divided] == [[6, 0, 7, 3], [9, 8, 1], [4, 2, 5]]
    assert [[round(10 * grey) for grey in greys(fold.val)] for fold in divided] == [[1, 2], [2, 3], [8, 3]]


def test_a_part_lists_its_images_by_rising_id_as_folders_do() -> None:
    for fold in folds(data(), 3):
        for part in (fold.train, fold.val, fold.test):
            ids = [part[index].target.image_id for index in range(len(part))]
            assert ids == sorted(ids)
            with pytest.raises(IndexError):
                part[len(part)]


def test_images_of_equal_pixels_are_in_one_part() -> None:
    whole = data(12, 6, 6)
    twins = OwnSamples(CLASSES, [replace(whole.train[k], target=whole.train[k].target) for k in range(6)])
    for fold in folds(replace(whole, val=twins), 3):
        parts = [set(greys(part)) for part in (fold.train, fold.val, fold.test)]
        assert sum(map(len, parts)) == len(set().union(*parts)) == 18


def test_the_warm_starts_own_images_are_left_out_as_they_may_be_tested() -> None:
    whole = data()
    (fold, _) = folds(replace(whole, warm_start_images=whole.test), 2)
    assert fold.warm_start_images is None


def folder(root: Path, count: int = 9) -> Path:
    """A folder in Pascal VOC's layout, whose image 1 lies there twice."""
    for name in range(count):
        picture(root / "JPEGImages" / f"{name}.png", grey=10 * name)
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><filename>{name}.png</filename><object><name>cell</name><bndbox><xmin>2</xmin><ymin>2</ymin>"
            "<xmax>9</xmax><ymax>8</ymax></bndbox></object></annotation>"
        )
    shutil.copy(root / "JPEGImages" / "1.png", root / "JPEGImages" / "7.png")
    return root


def test_of_a_folder_no_image_is_decoded_and_equal_files_are_in_one_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = rl_det.open_data(folder(tmp_path / "data"))

    def refuse(*_: object) -> Sample:
        raise AssertionError("it must not be decoded")

    with monkeypatch.context() as patched:
        patched.setattr(AnnotatedImages, "__getitem__", refuse)
        for divided in (folds(whole, 3), folds(first_of(whole, train=3, val=1, test=1), 2)):
            assert sum(len(fold.test) for fold in divided) in (5, 9)
    for fold in folds(whole, 3):
        seen = [set(greys(part)) for part in (fold.train, fold.val, fold.test)]
        assert sum(map(len, seen)) == len(set().union(*seen)) == 8
        assert sum(len(part) for part in (fold.train, fold.val, fold.test)) == 9


def test_files_have_equal_keys_only_if_all_their_bytes_are_equal(tmp_path: Path) -> None:
    head = bytes(70_000)
    contents = [b"a", b"b", b"a", b"longer", head + b"x", head + b"y", head + b"x"]
    files = [tmp_path / str(number) for number in range(len(contents))]
    for file, written in zip(files, contents, strict=True):
        file.write_bytes(written)
    keys = keys_of(files)
    for one, key in zip(contents, keys, strict=True):
        assert [other == key for other in keys] == [other == one for other in contents]


@pytest.mark.parametrize(
    ("num_folds", "message"),
    [
        (0, "folds must be at least 2; got 0; 5 is usual"),
        (1, "folds must be at least 2; got 1; 5 is usual"),
        (-3, "folds must be at least 2; got -3; 5 is usual"),
        (
            41,
            "images must leave one with an object to find to each of 41 parts; got 40 such images that differ",
        ),
    ],
)
def test_numbers_of_folds_that_cannot_be_are_refused_in_one_sentence(num_folds: int, message: str) -> None:
    with pytest.raises(rl_det.errors.UserError, match=message) as refused:
        folds(data(), num_folds)
    assert "\n" not in str(refused.value)


def test_digit_scenes_and_data_of_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="digit_scenes are drawn without end"):
        folds(rl_det.digit_scenes(4, 3, 2), 2)
    with pytest.raises(ValueError, match="to each of 2 parts; got 1 such images"):
        folds(data(1, 1, 1), 2)
    assert [len(fold.train) for fold in folds(data(1, 1, 1), 3)] == [1, 1, 1]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_parts_have_the_sizes_that_are_asked_for_but_for_images_that_stay_together(drawn: st.DataObject) -> None:
    count = drawn.draw(st.integers(2, 24))
    num_parts = drawn.draw(st.integers(1, min(5, count)))
    rng = np.random.default_rng(drawn.draw(st.integers(0, 99)))
    same = np.arange(count) if drawn.draw(st.booleans()) else rng.integers(0, count, count)
    counted = rng.integers(0, 4, (count, 3)) * rng.integers(0, 2, (count, 3))
    groups = np.unique(same)
    full = sum(bool(counted[same == group].any()) for group in groups)
    sizes = [len(part) for part in np.array_split(np.arange(count), num_parts)]
    if full < num_parts:
        with pytest.raises(ValueError, match="images must leave one"):
            dealt(counted, same, sizes, rng)
        return
    part_of = dealt(counted, same, sizes, rng)
    assert all(len(set(part_of[same == group])) == 1 for group in groups)
    assert all(counted[part_of == part].any() for part in range(num_parts)), "each part has an object to find"
    largest = max(int((same == group).sum()) for group in groups)
    found = np.bincount(part_of, minlength=num_parts)
    assert (found < np.array(sizes) + largest).all()
    if largest == 1:
        assert found.tolist() == sizes
