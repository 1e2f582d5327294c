"""Save and load a model's state_dict (.pt, .pth, .ckpt or .safetensors), checked entry by entry and written whole."""

import copy
import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from rl_det.errors import UserError
from rl_det.storage.checksums import checksum
from rl_det.storage.files import write_with

SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors")
"""How files of weights end; .ckpt is Lightning's."""
WRAPPERS = ("model", "state_dict", "model_state_dict", "module", "net", "model_ema")
"""The names under which checkpoints keep a state_dict beside other things; the first one counts."""
PREFIXES = ("module.", "_orig_mod.", "model.", "detector.", "net.")
"""What wrappers put before the names of all entries."""
AVERAGES = "n_averaged"
"""The entry of `torch.optim.swa_utils.AveragedModel` that is no weight: how many states it has averaged."""
SEAL, BLANK = "rl_det_checksum", "00000000"
"""The name of the checksum in a safetensors file's header, and what it is while it is computed."""
LONGEST_HEADER = 100_000_000
"""The bytes of the longest header that safetensors reads."""


def state_file(weights: str | Path | None) -> Path | None:
    """The file that `weights` means, or None for a name, which is a string without a file's suffix."""
    if isinstance(weights, str) and Path(weights).suffix not in SUFFIXES:
        return None
    return None if weights is None else Path(weights)


def load_state(model: nn.Module, path: Path, *, sealed: bool = False) -> None:
    """Load a file's state into the model, in the model's own dtypes; if it does not fit, the model does not change.

    Names may have a prefix that a wrapper gave them (`module.`, `model.`, ...). A checksum in the file is checked;
    `sealed` demands one. Raises ValueError, which names the file, if it is missing, cannot be read, is damaged, or holds
    the state of another architecture (then also with the first entry that is missing, has another shape, is unexpected,
    or holds NaN or infinity).
    """
    state = read_state(path, sealed=sealed)
    if not state.keys() & model.state_dict().keys():
        state = without_prefix(state)
    state = as_named_now(model, state)
    check_state(model, state, path)
    model.load_state_dict({name: state.get(name, tensor) for name, tensor in model.state_dict().items()})


def check_state(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Raise ValueError, which names the file and the first wrong entry, if the state does not fit the model."""
    own = model.state_dict()
    for name, tensor in own.items():
        if name not in state and not _optional(name):
            raise UserError(f"{path}: must be a state of {_described(model)}; the entry {name} is missing")
        if name in state and state[name].shape != tensor.shape:
            shapes = f"must have shape {tuple(tensor.shape)}, got {tuple(state[name].shape)}"
            raise UserError(f"{path}: must be a state of {_described(model)}; the entry {name} {shapes}")
    for name in state:
        if name not in own and not _optional(name):
            raise UserError(f"{path}: must be a state of {_described(model)}; the entry {name} is unexpected")
        if state[name].is_floating_point() and not torch.isfinite(state[name]).all():
            raise UserError(
                f"{path}: weights must be finite; the entry {name} holds NaN or infinity; use an earlier state"
            )


def save_state(model: nn.Module, path: Path, dtype: torch.dtype | None = None) -> None:
    """Write the model's state, with floats in `dtype` (or their own); the file is written whole or not at all.

    A safetensors file holds its own checksum.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: the name of a state must end in one of {', '.join(SUFFIXES)}; got {path.suffix!r}")
    state = {
        name: tensor.detach().cpu().to(dtype if tensor.is_floating_point() else None).contiguous().clone()
        for name, tensor in model.state_dict().items()
    }  # copies, as safetensors takes no entry that shares its memory with another
    if path.suffix == ".safetensors":
        write_with(path, lambda file: _save_sealed(state, file))
    else:
        write_with(path, lambda file: torch.save(state, file))


def state_fingerprint(model: nn.Module) -> str:
    """16 hex digits, which two models of one architecture share only if all their weights are equal."""
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def read_state(path: Path, *, sealed: bool = False) -> dict[str, Tensor]:
    """The state_dict in a file, alone or as people keep it in a checkpoint: under "model", "state_dict" and the like.

    No code of the file is executed: what is not a tensor or a plain container becomes an empty object. Raises ValueError,
    which names the file, if it is missing, holds anything else, or does not agree with the checksum in it, which `sealed`
    demands.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: the name of a state must end in one of {', '.join(SUFFIXES)}; got {path.suffix!r}")
    if not path.is_file():
        raise UserError(f"{path}: must be a file of weights; there is none; check the path")
    if path.suffix == ".safetensors":
        _check_seal(path, sealed=sealed)
    elif zipfile.is_zipfile(path):
        _check_archive(path)
    try:
        found = safetensors.torch.load_file(path) if path.suffix == ".safetensors" else _loaded(path)
    except Exception as error:  # whatever the bytes of a broken file provoke
        message = f"it cannot be loaded as such ({type(error).__name__}); save model.state_dict() alone"
        raise UserError(f"{path}: must be a readable {path.suffix} file of tensors; {message}") from error
    for state in (found, *(found.get(name) for name in WRAPPERS)) if isinstance(found, dict) else ():
        if isinstance(state, dict) and state and all(isinstance(entry, Tensor) for entry in state.values()):
            return dict(state)
    held = f"it holds {', '.join(map(str, list(found)[:5]))}" if isinstance(found, dict) and found else "it does not"
    raise UserError(f"{path}: must hold a state_dict, names to tensors; {held}; save model.state_dict() alone")


def as_named_now(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state under the names that the model's own loading gives it: torchvision has renamed the towers of RetinaNet.

    A state that its own loading does not take either is returned as it is.
    """
    if not model.state_dict().keys() - state.keys():
        return dict(state)
    probe = copy.deepcopy(model)
    try:
        left = probe.load_state_dict(dict(state), strict=False, assign=True)
    except RuntimeError:  # another shape
        return dict(state)
    if any(not _optional(name) for name in (*left.missing_keys, *left.unexpected_keys)):
        return dict(state)
    return dict(probe.state_dict())


def without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state without the prefixes that wrappers (DistributedDataParallel, Lightning, torch.compile) give all names.

    The count of averages that `torch.optim.swa_utils.AveragedModel` keeps beside them is left out.
    """
    if AVERAGES in state and all(name.startswith("module.") for name in state if name != AVERAGES):
        state = {name: tensor for name, tensor in state.items() if name != AVERAGES}
    for prefix in PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            return without_prefix({name.removeprefix(prefix): tensor for name, tensor in state.items()})
    return dict(state)


def _save_sealed(state: Mapping[str, Tensor], file: Path) -> None:
    """Write safetensors whose header holds the checksum of all bytes, taken with a blank in its place."""
    safetensors.torch.save_file(dict(state), file, metadata={SEAL: BLANK})
    place = _seal_place(file)
    assert place is not None, "the header holds what was given as metadata"
    found = checksum(file)
    with file.open("r+b") as written:
        written.seek(place)
        written.write(found.encode())


def _check_seal(path: Path, *, sealed: bool) -> None:
    """Raise ValueError, which names the file, if its bytes do not agree with its checksum; `sealed` demands one."""
    place = _seal_place(path)
    if place is not None and _kept_seal(path, place) != checksum(path, blank=(place, BLANK.encode())):
        raise UserError(
            f"{path}: must be a readable .safetensors file; it is damaged: its bytes have changed since it was written"
        )
    if place is None and sealed:
        raise UserError(f"{path}: must hold its own checksum; there is none: it is damaged, or of an older version")


def _check_archive(path: Path) -> None:
    """Raise ValueError, which names the file, if bytes of torch's archive do not agree with its checksums.

    torch itself writes them, and does not check them. What is no archive, as old versions of torch wrote, has none.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # whatever the bytes of a broken file provoke
        what = f"it cannot be read as an archive ({type(error).__name__})"
        raise UserError(f"{path}: must be a readable {path.suffix} file of tensors; {what}") from error
    if damaged is not None:
        what = f"it is damaged: the bytes of {damaged} have changed since it was written"
        raise UserError(f"{path}: must be a readable {path.suffix} file of tensors; {what}")


def _kept_seal(path: Path, place: int) -> str:
    with path.open("rb") as file:
        file.seek(place)
        return file.read(len(BLANK)).decode(errors="replace")


def _seal_place(path: Path) -> int | None:
    """Where in a safetensors file the checksum's digits are; None: there is none."""
    with path.open("rb") as file:
        length = min(int.from_bytes(file.read(8), "little"), LONGEST_HEADER)
        before, mark, _ = file.read(length).partition(f'"{SEAL}":"'.encode())
    return 8 + len(before) + len(mark) if mark else None


class _Inert:
    """What stands in for an object of a checkpoint that is no tensor; it takes anything, and does nothing."""

    def __new__(cls, *_: object, **__: object) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def _loaded(path: Path) -> object:
    """What the file holds, with every object that torch does not know replaced by an inert one."""
    strange = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
    stand_ins: Any = [(type(name.rpartition(".")[2], (_Inert,), {}), name) for name in strange]
    with torch.serialization.safe_globals(stand_ins):
        return torch.load(path, map_location="cpu", weights_only=True)


def _optional(name: str) -> bool:
    """Whether this is batch normalisation's counter, which its frozen form lacks, and which eval mode does not use."""
    return name.endswith(".num_batches_tracked")


def _described(model: nn.Module) -> str:
    return f"this {type(model).__name__} (the same detector, the same number of classes)"
