"""Three splits of one data set, from wherever they come, and what they hold as hex digits."""

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rl_det.data import Dataset
from rl_det.data.digit_scenes import DigitScenes
from rl_det.data.open import digit_scenes, open_data
from rl_det.data.splits import HASHED_SAMPLES, Splits, fingerprint
from rl_det.types import Sample, Target


def sample(value: float = 0.5, *, label: int = 1, left: float = 2.0) -> Sample:
    target = Target(
        boxes=torch.tensor([[left, 2.0, 10.0, 9.0]]),
        labels=torch.tensor([label]),
        area=torch.tensor([(10 - left) * 7]),
        iscrowd=torch.tensor([False]),
        image_id=1,
    )
    return Sample(image=torch.full((3, 12, 16), value), target=target)


class Samples:
    """A user's own sequence of samples."""

    def __init__(self, samples: list[Sample], classes: tuple[str, ...] = ("cat", "dog")) -> None:
        self.samples, self.classes = samples, classes

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


def many(count: int = 3, **changes: Any) -> Samples:
    return Samples([sample(index / count) for index in range(count)], **changes)


def test_samples_of_ones_own_are_splits_as_they_are() -> None:
    train, val, test = many(3), many(2), many(1)
    splits = open_data([train, val, test], name="pets")
    assert (splits.train, splits.val, splits.test) == (train, val, test)
    assert splits["train"] is train
    assert splits["val"] is val
    assert splits["test"] is test
    assert (splits.classes, splits.category_ids, splits.name) == (("cat", "dog"), (1, 2), "pets")
    assert isinstance(splits.train, Dataset)
    assert open_data([train, val, test]).name == "Samples"


def test_splits_that_are_open_stay_as_they_are() -> None:
    splits = digit_scenes(4, 3, 2)
    assert open_data(splits) is splits
    assert [len(splits[name]) for name in ("train", "val", "test")] == [4, 3, 2]  # type: ignore[index]
    assert splits.name == "digit_scenes"
    assert splits.warm_start_images is not None
    assert len(splits.category_ids) == len(splits.classes) == 10


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([many(), many()], r"a folder, or three data sets \(train, val, test\); got 2 of them"),
        ([many(), many(0), many()], "val: must hold one image at least; it is empty"),
        ([many(), many(), iter([])], "test: must be a data set with a length and an index; got list_iterator"),
        (
            [many(), many(classes=("dog", "cat")), many()],
            r"the splits must agree in their classes; got \('cat', 'dog'\)",
        ),
        (Path("nowhere"), r"nowhere: the folder: there is none of this name"),
        ("nowhere", r"nowhere: the folder: there is none of this name"),
    ],
)
def test_what_is_no_data_is_refused_by_what_is_wrong_with_it(source: Any, message: str) -> None:
    without_type_checker = inspect.unwrap(open_data)  # the tests' checker looks at one item of a list, by chance
    with pytest.raises(ValueError, match=message):
        without_type_checker(source)


def test_a_fingerprint_is_16_hex_digits_that_are_the_same_for_the_same_content() -> None:
    assert fingerprint(many()) == fingerprint(many())
    assert len(fingerprint(many())) == 16
    assert int(fingerprint(many()), 16) >= 0


@pytest.mark.parametrize(
    "other",
    [
        many(4),
        many(classes=("cat", "fox")),
        Samples([sample(0.0), sample(1 / 3), sample(0.7)]),
        Samples([sample(0.0), sample(1 / 3), sample(2 / 3, label=2)]),
        Samples([sample(0.0), sample(1 / 3), sample(2 / 3, left=3.0)]),
        Samples([sample(0.0), sample(2 / 3), sample(1 / 3)]),
        Samples(
            [*many().samples[:2], replace(sample(2 / 3), target=replace(sample().target, iscrowd=torch.tensor([True])))]
        ),
    ],
)
def test_a_fingerprint_follows_the_images_the_labels_and_the_classes(other: Samples) -> None:
    assert fingerprint(other) != fingerprint(many())


def test_a_fingerprint_reads_a_few_samples_of_a_large_data_set_its_ends_among_them() -> None:
    read: list[int] = []

    class Counted(Samples):
        def __getitem__(self, index: int) -> Sample:
            read.append(index)
            return super().__getitem__(index)

    fingerprint(Counted([sample()] * 1000))
    assert len(read) == HASHED_SAMPLES
    assert (read[0], read[-1]) == (0, 999)


def test_a_data_set_that_says_what_it_holds_is_not_read() -> None:
    class Saying(Samples):
        def fingerprint(self) -> str:
            return self.classes[0]

        def __getitem__(self, index: int) -> Sample:
            raise AssertionError("it must not be read")

    assert fingerprint(Saying([sample()])) == fingerprint(Saying([sample()] * 2))
    assert fingerprint(Saying([sample()])) != fingerprint(Saying([sample()], ("dog", "cat")))


def test_digit_scenes_are_told_apart_by_split_number_and_seed() -> None:
    scenes = [
        DigitScenes("train", num_scenes=3),
        DigitScenes("train", num_scenes=4),
        DigitScenes("val", num_scenes=3),
        DigitScenes("train", num_scenes=3, seed=5),
    ]
    assert len({fingerprint(one) for one in scenes}) == 4
    splits = digit_scenes(4, 3, 2)
    assert set(splits.fingerprints()) == {"train", "val", "test"}
    assert splits.fingerprints() == digit_scenes(4, 3, 2).fingerprints()
    assert splits.fingerprints() != digit_scenes(5, 3, 2).fingerprints()
    assert isinstance(splits, Splits)
