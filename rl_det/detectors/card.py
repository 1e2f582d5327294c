"""`model.json`, the card of a folder that rl_det exported: which detector lies there, and its classes.

What else a tuned detector needs of it, `rl_det.finetuning.tuned` knows.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rl_det.detectors.protocol import Architecture
from rl_det.detectors.transformers.pretrained import SHARDS, WEIGHTS
from rl_det.errors import UserError
from rl_det.settings import check_entries
from rl_det.storage.checksums import read_sealed

MODEL_CARD = "model.json"
A_CARD = "a model.json that rl_det has exported"


def read_card(card: Path) -> tuple[dict[str, Any], Architecture]:
    """The contents of a `model.json`, and its architecture; ValueError, which names the file, if it is not one."""
    refuse_run(card.parent)
    told = read_sealed(card, A_CARD)
    check_there(card, told, ("architecture", "classes"))
    try:
        check_entries(Architecture, told["architecture"])
        architecture = Architecture(**told["architecture"])
        if not isinstance(told["classes"], list) or not all(isinstance(name, str) for name in told["classes"]):
            raise TypeError(f"classes are {told['classes']!r}")
        if len(told["classes"]) != architecture.num_classes:
            raise TypeError(f"{len(told['classes'])} classes of a detector of {architecture.num_classes}")
    except TypeError as error:
        raise UserError(f"{card}: must be {A_CARD}; got {error!r}") from error
    except UserError as error:
        raise UserError(f"{card}: must be {A_CARD}; its architecture's {error}") from error
    return told, architecture


def check_there(card: Path, told: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raise UserError, which names the file and the entry, unless the card has these entries."""
    for name in names:
        if name not in told:
            raise UserError(f"{card}: must be {A_CARD}; its entry {name} is missing")


def refuse_run(folder: Path) -> None:
    """Raise UserError, which names them, if not this folder but some in it are exported detectors, as in a run's folder."""
    if not folder.is_dir() or any((folder / name).is_file() for name in (MODEL_CARD, WEIGHTS, SHARDS)):
        return
    if inner := sorted(each.parent.name for each in folder.glob(f"*/{MODEL_CARD}")):
        raise UserError(
            f"{folder}: must be a folder that was exported; those in it are: {', '.join(inner)}; name one, such as "
            f"{folder / inner[-1]}"
        )
