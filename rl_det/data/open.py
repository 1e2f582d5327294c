"""Open a folder, or a user's own data sets, as the three splits of a run."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rl_det.data import Dataset
from rl_det.data.coco import open_coco
from rl_det.data.digit_scenes import DigitScenes
from rl_det.data.splits import Splits
from rl_det.data.torch_dataset import PairDataset, TorchDataset, classes_of
from rl_det.errors import UserError
from rl_det.types import Sample

DIGIT_SCENES = "digit_scenes"
TUNING_SEED = 2
"""The seed of the digit scenes for tuning; the shipped warm start was trained on scenes of another seed."""


class Format(NamedTuple):
    """A layout of files: a test whether a folder has it, and the function that opens it."""

    recognises: Callable[[Path], bool]
    open: Callable[[Path, str | None], Splits]


FORMATS: dict[str, Format] = {"coco": Format(lambda path: (path / "train.json").exists(), open_coco)}
"""The layouts that `open_data` knows; the first that recognises a folder opens it. A new one is one file and one line
here."""

Source = str | Path | Splits | Sequence[Dataset | PairDataset]


def open_data(source: Source, *, classes: Sequence[str] | None = None, name: str | None = None) -> Splits:
    """The splits train, val and test of `source`.

    `source` is a folder in COCO's format (`images/`, `train.json`, `val.json`, `test.json`), or three data sets (train,
    val, test). Each data set is a `torch.utils.data.Dataset` of torchvision's pairs (image, {"boxes", "labels"}), or a
    sequence of `Sample`s. For data sets, `classes` names labels 1, 2, ...; without it, their attribute `classes` does.
    Without both, labels are named by numbers, and all targets are read once to count them. Raises ValueError, which
    names the file or the entry, if the source is none of these.
    """
    if isinstance(source, Splits):
        return source
    if isinstance(source, str | Path):
        path = Path(source)
        known = next((form for form in FORMATS.values() if form.recognises(path)), FORMATS["coco"])
        return known.open(path, name)  # COCO's reader says best what is missing
    datasets = tuple(source)
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
    splits: dict[str, Any] = dict(zip(("train", "val", "test"), datasets, strict=True))
    for split, dataset in splits.items():
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise UserError(f"{split}: must be a data set with a length and an index; got {type(dataset).__name__}")
        if not len(dataset):
            raise UserError(f"{split}: must hold one image at least; it is empty")
    if not all(isinstance(dataset[0], Sample) for dataset in datasets):
        names = tuple(classes) if classes is not None else classes_of(splits)
        splits = {split: TorchDataset(dataset, names, split) for split, dataset in splits.items()}
    train, val, test = splits.values()
    if not train.classes == val.classes == test.classes:
        raise UserError(f"the splits must agree in their classes; got {train.classes}, {val.classes}, {test.classes}")
    ids = tuple(range(1, len(train.classes) + 1))
    return Splits(train=train, val=val, test=test, name=name or type(datasets[0]).__name__, category_ids=ids)
