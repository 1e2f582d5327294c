"""Divide all images of a data set into folds: each image is tested once, by a detector that has never seen it."""

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Int64

from rl_det.data import Dataset
from rl_det.data.annotated import AnnotatedImages
from rl_det.data.digit_scenes import DigitScenes
from rl_det.data.same_images import keys_of
from rl_det.data.splits import Chosen, First, Splits
from rl_det.errors import UserError
from rl_det.progress import bar
from rl_det.types import Sample, Target

DIVIDED_BY_SEED = 0
EVEN = 9
"""Shares that agree in so many decimals are equal, so that rounding on another machine changes no fold."""


def folds(splits: Splits, num_folds: int) -> tuple[Splits, ...]:
    """As many divisions of the images of all three splits; every image is in the test split of exactly one.

    The validation split is taken from a fold's other images, as large a share as the data's own is of train and val; the
    rest is the training split, also of the warm start. All parts hold their share of each class's objects, as far as whole
    images allow (`dealt`). Images of equal bytes, or equal pixels of data that is not a folder, stay together in one part.
    The seed is fixed. Of a folder, no image is decoded; of other data, every sample is read once.

    Raises ValueError for fewer than two folds, for digit scenes, which are drawn without end, and for too few images.
    """
    if num_folds < 2:
        raise UserError(f"folds must be at least 2; got {num_folds}; 5 is usual")
    datasets = splits.train, splits.val, splits.test
    if any(isinstance(dataset, DigitScenes) for dataset in datasets):
        raise UserError(
            f"folds must be of images that can be counted, and {splits.name} are drawn without end; see --data"
        )
    targets, same = _read(datasets)
    places = [(number, index) for number, dataset in enumerate(datasets) for index in range(len(dataset))]
    by_id = np.array(sorted(range(len(places)), key=lambda place: targets[place].image_id))
    objects = np.stack([_objects(target, len(splits.classes)) for target in targets])
    rng = np.random.default_rng(DIVIDED_BY_SEED)
    fold_of = dealt(objects, same, [len(part) for part in np.array_split(by_id, num_folds)], rng)
    val_share = len(splits.val) / (len(splits.train) + len(splits.val))

    def chosen(images: Int64[np.ndarray, " I"]) -> Chosen:
        return Chosen(datasets, [places[image] for image in images.tolist()])

    found = []
    for fold in range(num_folds):
        others = by_id[fold_of[by_id] != fold]
        num_val = min(max(1, round(val_share * len(others))), len(others) - 1)
        is_val = dealt(objects[others], same[others], [len(others) - num_val, num_val], rng) == 1
        told = f"fold {fold + 1} of {num_folds}"
        found.append(
            replace(
                splits,
                train=chosen(others[~is_val]),
                val=chosen(others[is_val]),
                test=chosen(by_id[fold_of[by_id] == fold]),
                name=f"{splits.name}-{told.replace(' ', '')}",
                warm_start_images=None,
                notes=(*splits.notes, f"{told}: the images of all splits are divided by seed {DIVIDED_BY_SEED}"),
            )
        )
    return tuple(found)


def dealt(
    objects: Int64[np.ndarray, "I C"],
    same: Int64[np.ndarray, " I"],
    sizes: Sequence[int],
    rng: np.random.Generator,
) -> Int64[np.ndarray, " I"]:
    """The part 0, 1, ... of each image, so that part p holds `sizes[p]` images and its share of each class's objects.

    `objects` counts each image's objects of each class; images with an equal number in `same` stay together. An image
    weighs, for each class, the share of the data's objects that it holds. The images of the most weight are dealt first,
    equal ones in an order of chance. Each goes to the part that still lacks most of what the image holds, in shares of what
    is due to the part; of equals to the one that lacks most images, then to the first. A part with all its images gets no
    more. So classes are even where one image does not hold much of a class (scikit-learn's StratifiedGroupKFold divides into
    equal parts only). Images that stay together may make a part larger.

    Raises ValueError if there are fewer different images than parts, or fewer with an object.
    """
    _, group = np.unique(same, return_inverse=True)
    num_groups, num_parts = int(group.max(initial=-1)) + 1, len(sizes)
    images = np.bincount(group, minlength=num_groups)
    counts = np.zeros((num_groups, objects.shape[1]))
    np.add.at(counts, group, objects)
    if (num_full := int(counts.any(1).sum())) < num_parts:
        raise UserError(
            f"images must leave one with an object to find to each of {num_parts} parts; got {num_full} such images that "
            "differ (what is not a fold's test is divided too, into training and validation); take more images, or fewer folds"
        )
    weight = counts / np.maximum(1, counts.sum(0))
    order = rng.permutation(num_groups)
    order = order[np.argsort(-weight.sum(1)[order].round(EVEN), kind="stable")]
    due = np.array(sizes) / len(objects)
    held, room, part_of = np.zeros((num_parts, objects.shape[1])), np.array(sizes), np.zeros(num_groups, np.int64)
    for one in order.tolist():
        lacked = ((1 - held / due[:, None]) * weight[one]).sum(1).round(EVEN)
        part = max(np.flatnonzero(room > 0).tolist(), key=lambda p: (lacked[p], room[p] / sizes[p], -p))
        part_of[one] = part
        held[part] += weight[one]
        room[part] -= images[one]
    return part_of[group]


def _objects(target: Target, num_classes: int) -> Int64[np.ndarray, " C"]:
    """The number of objects of each class that are to be found, crowds left out."""
    return np.bincount(target.labels[~target.iscrowd].numpy(force=True) - 1, minlength=num_classes)


def _read(datasets: Sequence[Dataset]) -> tuple[list[Target], Int64[np.ndarray, " I"]]:
    """The targets of all images, and a number for each image that only equal images share."""
    files = [dataset.dataset if isinstance(dataset, First) else dataset for dataset in datasets]
    targets: list[Target] = []
    keys: list[Hashable] = []
    if all(isinstance(own, AnnotatedImages) for own in files):
        opened = [
            (own, index)
            for own, dataset in zip(files, datasets, strict=True)
            for index in range(len(dataset))
            if isinstance(own, AnnotatedImages)
        ]
        targets = [own.target(index) for own, index in opened]
        keys = [*keys_of([own.images[index].file for own, index in opened])]
    else:
        with bar("divide into folds", sum(map(len, datasets))) as shown:
            for sample in (dataset[index] for dataset in datasets for index in range(len(dataset))):
                targets.append(sample.target)
                keys.append(_pixels(sample))
                shown.advance()
    numbers: dict[Hashable, int] = {}
    return targets, np.array([numbers.setdefault(key, len(numbers)) for key in keys])


def _pixels(sample: Sample) -> tuple[tuple[int, ...], bytes]:
    image = sample.image.contiguous()
    return tuple(image.shape), hashlib.blake2b(image.numpy(force=True).tobytes(), digest_size=16).digest()
