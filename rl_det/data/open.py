"""Open a folder, or a user's own data sets, as the three splits of a run."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rl_det.data import Dataset, Split
from rl_det.data.check import Findings, brief, is_background
from rl_det.data.digit_scenes import DigitScenes
from rl_det.data.folder import SPLITS, read_folder
from rl_det.data.hugging_face import hugging_face_images, is_hugging_face, splits_of
from rl_det.data.images import ImageLimits
from rl_det.data.splits import Splits
from rl_det.data.torch_dataset import PairDataset, TorchDataset, classes_of
from rl_det.errors import UserError
from rl_det.progress import tell
from rl_det.types import Sample

DIGIT_SCENES = "digit_scenes"
TUNING_SEED = 2
"""The seed of the digit scenes for tuning; the shipped warm start was trained on scenes of another seed."""


Source = str | Path | Splits | Sequence[Dataset | PairDataset] | Mapping[str, Any]


def open_data(
    source: Source,
    *,
    classes: Sequence[str] | None = None,
    name: str | None = None,
    test: str | Path | None = None,
    limits: ImageLimits | None = None,
    keep_difficult: bool = False,
    strict: bool = False,
) -> Splits:
    """The splits train, val and test of `source`.

    `source` is a folder in COCO's, YOLO's or Pascal VOC's layout, or an annotation file; what lies there decides, and is
    said in one line. Or it is three data sets (train, val, test). Each data set is a `torch.utils.data.Dataset` of
    torchvision's pairs (image, {"boxes", "labels"}), or a sequence of `Sample`s. For data sets, `classes` names labels 1, 2,
    ...; without it, their attribute `classes` does. Without both, labels are named by numbers, and all targets are read
    once to count them. Or it is a `datasets.DatasetDict` of Hugging Face with train, validation and test, or three
    `datasets.Dataset`s, with the columns "image" and "objects"; see `rl_det.data.hugging_face`. For a folder, `classes`
    gives the order of its own names.

    Of a folder, a split that is missing is taken from another by a fixed seed, which is said; `test` names another folder
    or file with the test images. Pascal VOC's difficult objects are ignored in training and evaluation unless
    `keep_difficult`. `strict` refuses boxes that would be repaired. Raises ValueError, which names the file and the entry,
    if the source is none of these or has a fault; `rl-det check` lists all faults.
    """
    if isinstance(source, Splits):
        return source
    if isinstance(source, str | Path):
        path, findings = Path(source), Findings(strict=strict)
        opened = read_folder(
            path,
            findings,
            limits=limits,
            keep_difficult=keep_difficult,
            test=None if test is None else Path(test),
            classes=classes,
        )
        findings.settle()
        for line in (opened.told(path), *opened.notes):
            tell(line)
        return opened.as_splits(name or path.resolve().name)
    if is_hugging_face(source) and not isinstance(source, Mapping):
        raise UserError(
            "data must be three data sets, train, val and test, or a DatasetDict; got one; divide it by its "
            "train_test_split(test_size=0.2, seed=0)"
        )
    if not isinstance(source, Iterable):
        raise UserError(f"data must be a folder, or three data sets (train, val, test); got {type(source).__name__}")
    datasets = splits_of(source) if isinstance(source, Mapping) else tuple(source)
    if len(datasets) != 3:
        raise UserError(f"data must be a folder, or three data sets (train, val, test); got {len(datasets)} of them")
    return _of_objects(datasets, classes, name)


def digit_scenes(train: int, val: int, test: int) -> Splits:
    """Digit scenes, so many in each split; the shipped detector was not trained on these training scenes."""
    return Splits(
        train=DigitScenes("train", num_scenes=train, seed=TUNING_SEED),
        val=DigitScenes("val", num_scenes=val),
        test=DigitScenes("test", num_scenes=test),
        name=DIGIT_SCENES,
        category_ids=tuple(range(1, 11)),
        warm_start_images=DigitScenes("train", num_scenes=24_000, seed=1),
    )


def _of_objects(datasets: tuple[Any, ...], classes: Sequence[str] | None, name: str | None) -> Splits:
    splits: dict[Split, Any] = dict(zip(SPLITS, datasets, strict=True))
    for split, dataset in splits.items():
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise UserError(f"{split}: must be a data set with a length and an index; got {type(dataset).__name__}")
        if not len(dataset):
            raise UserError(f"{split}: must hold one image at least; it is empty")
    if any(map(is_hugging_face, datasets)):
        return _of_hugging_face(splits, classes, name)
    if not all(isinstance(dataset[0], Sample) for dataset in datasets):
        names = tuple(classes) if classes is not None else classes_of(splits)
        if is_background(names[0]):
            raise UserError(f"classes must name the labels 1, 2, ..., without the background; got {brief(list(names))}")
        splits = {split: TorchDataset(dataset, names, split) for split, dataset in splits.items()}
    train, val, test = splits.values()
    _check_classes(train, val, test)
    ids = tuple(range(1, len(train.classes) + 1))
    return Splits(train=train, val=val, test=test, name=name or type(datasets[0]).__name__, category_ids=ids)


def _of_hugging_face(given: Mapping[Split, Any], classes: Sequence[str] | None, name: str | None) -> Splits:
    splits, warnings = hugging_face_images(given, classes)
    for line in warnings:
        tell(f"warning: {line}")
    train, val, test = splits.values()
    told = getattr(getattr(given["train"], "info", None), "dataset_name", None)
    return Splits(
        train=train, val=val, test=test, name=name or str(told or "hugging_face"), category_ids=train.category_ids
    )


def _check_classes(train: Dataset, val: Dataset, test: Dataset) -> None:
    if not train.classes == val.classes == test.classes:
        raise UserError(f"the splits must agree in their classes; got {train.classes}, {val.classes}, {test.classes}")
