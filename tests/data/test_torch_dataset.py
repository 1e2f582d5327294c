"""A user's own data set of (image, target) pairs: every usual form of it is taken, and what is none is named by its place."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from rl_det.data import Dataset
from rl_det.data.open import open_data
from rl_det.data.torch_dataset import TorchDataset

BOXES = [[1.0, 2.0, 5.0, 8.0], [0.0, 0.0, 4.0, 3.0]]


def target(**changes: Any) -> dict[str, Any]:
    return {"boxes": torch.tensor(BOXES), "labels": torch.tensor([1, 2])} | changes


def pixels() -> torch.Tensor:
    return torch.arange(3 * 10 * 12, dtype=torch.uint8).reshape(3, 10, 12)


def dataset(*entries: Any, classes: tuple[str, ...] = ("cat", "dog")) -> TorchDataset:
    return TorchDataset(list(entries), classes, "val")  # type: ignore[arg-type]


IMAGES: dict[str, Callable[[], Any]] = {
    "uint8": pixels,
    "float": lambda: pixels() / 255,
    "double": lambda: pixels().double() / 255,
    "PIL": lambda: Image.fromarray(pixels().movedim(0, -1).numpy()),
    "array": lambda: pixels().movedim(0, -1).numpy(),
    "tv_tensor": lambda: tv_tensors.Image(pixels()),
}


@pytest.mark.parametrize("form", IMAGES)
def test_every_usual_form_of_an_image_is_rgb_in_0_to_1(form: str) -> None:
    image = dataset((IMAGES[form](), target()))[0].image
    assert type(image) is torch.Tensor
    assert image.dtype == torch.float32
    torch.testing.assert_close(image, pixels() / 255)


def test_grey_images_have_three_equal_channels() -> None:
    grey = pixels()[:1]
    for image in (grey, Image.fromarray(grey[0].numpy())):
        found = dataset((image, target()))[0].image
        assert found.shape == (3, 10, 12)
        assert torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    "given",
    [
        target(),
        {"boxes": BOXES, "labels": [1, 2]},
        {"boxes": np.array(BOXES), "labels": np.array([1, 2])},
        {"boxes": tv_tensors.BoundingBoxes(BOXES, format="XYXY", canvas_size=(10, 12)), "labels": torch.tensor([1, 2])},  # type: ignore[call-overload]
        target(masks=torch.zeros(2, 10, 12)),
    ],
)
def test_a_target_of_boxes_and_labels_is_filled_up(given: dict[str, Any]) -> None:
    found = dataset((pixels(), target()), (pixels(), given))[1].target
    assert type(found.boxes) is torch.Tensor
    assert found.boxes.tolist() == BOXES
    assert found.boxes.dtype == torch.float32
    assert found.labels.tolist() == [1, 2]
    assert found.labels.dtype == torch.int64
    assert found.area.tolist() == [24.0, 12.0]
    assert found.iscrowd.tolist() == [False, False]
    assert found.image_id == 1


def test_what_a_target_says_itself_is_kept() -> None:
    given = target(area=[20, 10], iscrowd=torch.tensor([0, 1]), image_id=torch.tensor([7]))
    found = dataset((pixels(), given))[0].target
    assert found.area.tolist() == [20.0, 10.0]
    assert found.iscrowd.tolist() == [False, True]
    assert found.image_id == 7


@pytest.mark.parametrize("boxes", [[], torch.zeros(0, 4), torch.zeros(0)])
def test_an_image_may_be_empty(boxes: Any) -> None:
    found = dataset((pixels(), {"boxes": boxes, "labels": []}))[0].target
    assert found.boxes.shape == (0, 4)
    assert len(found.labels) == len(found.area) == len(found.iscrowd) == 0


def test_boxes_are_clipped_to_their_image() -> None:
    some = dataset((pixels(), target(boxes=[[-3.0, 2.0, 5.0, 8.0], [6.0, -1.0, 40.0, 12.0]])))
    assert some[0].target.boxes.tolist() == [[0.0, 2.0, 5.0, 8.0], [6.0, 0.0, 12.0, 10.0]]
    assert some[0].target.area.tolist() == [30.0, 60.0]


def test_it_is_a_data_set_that_ends() -> None:
    some = dataset(*[(pixels(), target())] * 3)
    assert isinstance(some, Dataset)
    assert len([*some]) == len(some) == 3
    for outside in (3, -1):
        with pytest.raises(IndexError, match=r"index must lie in 0\.\.2"):
            some[outside]


WRONG: dict[str, tuple[Any, str]] = {
    "no pair": (pixels(), r"must be \(image, \{'boxes', 'labels'\}\).*got a Tensor"),
    "a triple": ((pixels(), target(), 1), "got a tuple"),
    "no dictionary": ((pixels(), BOXES), "got a tuple"),
    "no labels": ((pixels(), {"boxes": BOXES}), r"it lacks \['labels'\]"),
    "labels too few": ((pixels(), target(labels=[1])), "a label for each box; got 2 boxes and 1 labels"),
    "boxes of three": (
        (pixels(), {"boxes": [[1.0, 2.0, 3.0]], "labels": [1]}),
        r"corners \[G, 4\]; got the shape \(1, 3\)",
    ),
    "boxes of five": ((pixels(), {"boxes": torch.ones(4, 5), "labels": [1] * 5}), r"got the shape \(4, 5\)"),
    "boxes of another form": (
        (pixels(), target(boxes=tv_tensors.BoundingBoxes(BOXES, format="XYWH", canvas_size=(10, 12)))),
        "say that they are XYWH",
    ),
    "ragged boxes": ((pixels(), {"boxes": [[1.0, 2.0, 3.0, 4.0], [1.0]], "labels": [1, 1]}), r"boxes"),
    "labels in words": ((pixels(), target(labels=["cat", "dog"])), r"labels"),
    "labels in halves": ((pixels(), target(labels=[1.5, 2.0])), r"labels"),
    "the background": (
        (pixels(), target(labels=[0, 1])),
        r"labels must lie in 1\.\.2, 0 being torchvision's background",
    ),
    "a class too many": ((pixels(), target(labels=[1, 3])), r"labels must lie in 1\.\.2"),
    "xywh": (
        (pixels(), target(boxes=[[5.0, 5.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0]])),
        "xyxy corners with a positive size",
    ),
    "flat": ((pixels(), target(boxes=[[1.0, 2.0, 1.0, 8.0], [0.0, 0.0, 1.0, 1.0]])), "positive size"),
    "not finite": ((pixels(), target(boxes=[[0.0, 0.0, np.inf, 8.0], [0.0, 0.0, 1.0, 1.0]])), "finite xyxy corners"),
    "outside": (
        (pixels(), target(boxes=[[20.0, 2.0, 25.0, 8.0], [0.0, 0.0, 1.0, 1.0]])),
        r"must lie in the image, of \(12, 10\) pixels \(width, height\); got \[\[20\.0, 2\.0, 25\.0, 8\.0\]\]",
    ),
    "areas too few": ((pixels(), target(area=[1.0])), "one entry for each of the 2 boxes"),
    "an area of nothing": (
        (pixels(), target(area=[1.0, np.nan])),
        r"area must be finite, not negative; got \[1\.0, nan\]",
    ),
    "crowds too few": ((pixels(), target(iscrowd=[0])), "one entry for each of the 2 boxes"),
    "an id in words": ((pixels(), target(image_id="a.png")), "image_id"),
    "a path": (("a.png", target()), "the image must be a tensor .* or a PIL image; got str"),
    "two channels": ((pixels()[:2], target()), r"got \(2, 10, 12\)"),
    "channels last": ((pixels().movedim(0, -1), target()), r"got \(10, 12, 3\)"),
    "0 to 255": ((pixels().float(), target()), r"must lie in \[0, 1\]; got up to 255"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_sample_that_cannot_be_taken_is_named_by_split_and_index(fault: str) -> None:
    entry, message = WRONG[fault]
    some = dataset((pixels(), target()), entry)
    some[0]
    with pytest.raises(ValueError, match=message) as refused:
        some[1]
    assert str(refused.value).startswith("val[1]: ")


def pairs(*labels: list[int]) -> list[Any]:
    return [(pixels(), {"boxes": BOXES[: len(own)], "labels": own}) for own in labels]


def test_three_of_them_open_together_with_classes_that_are_given_named_or_counted() -> None:
    splits = open_data([pairs([1, 2], [3]), pairs([1]), pairs([], [2])], name="own")  # type: ignore[list-item]
    assert splits.classes == splits.test.classes == ("1", "2", "3")
    assert (splits.category_ids, splits.name) == ((1, 2, 3), "own")
    assert splits.val[0].target.labels.tolist() == [1]
    given = open_data([pairs([1]), pairs([1]), pairs([1])], classes=["cat", "dog"])  # type: ignore[list-item]
    assert given.classes == ("cat", "dog")

    class Named(list[Any]):
        classes = ("ant", "bee")

    assert open_data([Named(pairs([1])), pairs([2]), pairs([1])]).classes == ("ant", "bee")  # type: ignore[list-item]


def test_a_background_at_the_head_of_the_classes_is_refused() -> None:
    splits = [pairs([1], [2])] * 3
    with pytest.raises(ValueError, match=r"classes must name the labels 1, 2, \.\.\., without the background; got"):
        open_data(splits, classes=["__background__", "cat", "dog"])


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ([pairs([1]), pairs([1], [1]), [*pairs([1]), "a.png"]], r"test\[1\]: must be \(image"),
        (
            [pairs([1]), [(pixels(), {"boxes": BOXES, "labels": [1]})], pairs([1])],
            r"val\[0\]: must have a label for each",
        ),
        ([pairs([]), pairs([]), pairs([])], "must hold a labelled box at least"),
    ],
)
def test_while_classes_are_counted_a_fault_is_named_by_split_and_index(splits: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_data(splits)
