"""A path, or a user's own data sets -> the three splits of a run."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rl_det.data import Dataset
from rl_det.data.coco import open_coco
from rl_det.data.digit_scenes import DigitScenes
from rl_det.data.splits import Splits
from rl_det.data.torch_dataset import PairDataset, TorchDataset, classes_of
from rl_det.types import Sample

DIGIT_SCENES = "digit_scenes"
TUNING_SEED = 2
"""The digit scenes' seed for tuning; the shipped warm start was trained on those of another."""


class Format(NamedTuple):
    """A layout of files: whether a folder has it, and what opens it."""

    recognises: Callable[[Path], bool]
    open: Callable[[Path, str | None], Splits]


FORMATS: dict[str, Format] = {"coco": Format(lambda path: (path / "train.json").exists(), open_coco)}
"""The layouts that `open_data` knows; the first that recognises a folder opens it. A new one is one file and one line here."""

Source = str | Path | Splits | Sequence[Dataset | PairDataset]


def open_data(source: Source, *, classes: Sequence[str] | None = None, name: str | None = None) -> Splits:
    """The splits train, val and test of what `source` is.

    A folder in COCO's format (`images/`, `train.json`, `val.json`, `test.json`), or three data sets (train, val, test), each a
    `torch.utils.data.Dataset` of torchvision's (image, {"boxes", "labels"}) or a sequence of `Sample`s. Of data sets, `classes`
    names labels 1, 2, ...; left out, their attribute `classes` does, or numbers do, for which all targets are read once.
    Raises ValueError, naming the file or the entry, where the source is none of these.
    """
    if isinstance(source, Splits):
        return source
    if isinstance(source, str | Path):
        path = Path(source)
        known = next((form for form in FORMATS.values() if form.recognises(path)), FORMATS["coco"])
        return known.open(path, name)  # COCO's reader says best what is missing
    datasets = tuple(source)
    if len(datasets) != 3:
        raise ValueError(f"data must be a folder, or three data sets (train, val, test); got {len(datasets)} of them")
    return _of_objects(datasets, classes, name)


def digit_scenes(train: int, val: int, test: int) -> Splits:
    """So many digit scenes of each split, on whose training scenes the shipped detector has not been trained."""
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
            raise ValueError(f"{split}: must be a data set with a length and an index; got {type(dataset).__name__}")
        if not len(dataset):
            raise ValueError(f"{split}: must hold one image at least; it is empty")
    if not all(isinstance(dataset[0], Sample) for dataset in datasets):
        names = tuple(classes) if classes is not None else classes_of(splits)
        splits = {split: TorchDataset(dataset, names, split) for split, dataset in splits.items()}
    train, val, test = splits.values()
    if not train.classes == val.classes == test.classes:
        raise ValueError(f"the splits must agree in their classes; got {train.classes}, {val.classes}, {test.classes}")
    ids = tuple(range(1, len(train.classes) + 1))
    return Splits(train=train, val=val, test=test, name=name or type(datasets[0]).__name__, category_ids=ids)
