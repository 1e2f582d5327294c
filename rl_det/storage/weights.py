"""Save and load a model's state_dict (.pt, .pth, .ckpt or .safetensors), checked entry by entry and written whole."""

import copy
import hashlib
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import safetensors.torch
import torch
from torch import Tensor, nn

from rl_det.errors import UserError
from rl_det.storage.checksums import checksum
from rl_det.storage.files import write_with

SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors")
"""How files of weights usually end, and always those that are written; .ckpt is Lightning's."""
WRAPPERS = ("model", "state_dict", "model_state_dict", "module", "net")
"""The names under which checkpoints keep a state_dict beside other things; the first one counts."""
AVERAGED = ("model_ema", "state_dict_ema", "ema_state_dict", "ema")
"""The names under which they keep a running mean of the weights; it is taken where there is nothing else."""
PREFIXES = ("module.", "_orig_mod.", "model.", "detector.", "net.")
"""What wrappers put before the names of all entries."""
AVERAGES = "n_averaged"
"""The entry of `torch.optim.swa_utils.AveragedModel` that is no weight: how many states it has averaged."""
SEAL, BLANK = "rl_det_checksum", "00000000"
"""The name of the checksum in a safetensors file's header, and what it is while it is computed."""
LONGEST_HEADER = 100_000_000
"""The bytes of the longest header that safetensors reads."""


class Kept(NamedTuple):
    """A state_dict as a file keeps it."""

    state: dict[str, Tensor]
    entry: str | None = None
    """The name under which a checkpoint keeps it; None: the file holds it alone."""
    averaged: str | None = None
    """The name under which a running mean of the weights lies beside it."""


def state_file(weights: str | Path | None) -> Path | None:
    """The file that `weights` means, or None for a name, which is a string without a suffix and without a folder."""
    if weights is None or (isinstance(weights, str) and not Path(weights).suffix and Path(weights).name == weights):
        return None
    return Path(weights)


def load_state(
    model: nn.Module, path: Path, *, sealed: bool = False, tell: Callable[[str], Any] = lambda line: None
) -> None:
    """Load a file's state into the model, in the model's own dtypes; if it does not fit, the model does not change.

    Names may have a prefix that a wrapper gave them (`module.`, `model.`, ...); of a training program's state, only the
    entries under the model's prefix are taken. `tell` is told what the file holds beside what is taken. A checksum in the
    file is checked; `sealed` demands one. Raises ValueError, which names the file, if it is missing, cannot be read, is
    damaged, or holds the state of another architecture (then also with the first entry that is missing, has another shape,
    is unexpected, or holds NaN or infinity).
    """
    kept = _kept(path, sealed=sealed)
    state, left_out = _state_of(model, kept.state, path)
    check_state(model, state, path)
    model.load_state_dict({name: state.get(name, tensor) for name, tensor in model.state_dict().items()})
    if kept.averaged is not None:
        tell(
            f"{path}: the weights under {kept.entry!r} are taken; averaged ones lie under {kept.averaged!r}: to take those, "
            "save that entry alone in a file"
        )
    if left_out:
        count = f"{len(left_out)} of {len(kept.state)} entries"
        tell(f"{path}: {count} are not the model's and are left out, such as {left_out[0]}")


def check_state(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Raise ValueError, which names the file and the first wrong entry, if the state does not fit the model."""
    if wrong := _misfit(model, state):
        raise UserError(f"{path}: must be a state of {_described(model)}; the entry {wrong}")
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
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
    return _kept(path, sealed=sealed).state


def _kept(path: Path, *, sealed: bool) -> Kept:
    """The state_dict in a file of any suffix, and where it lies; `read_state` documents the errors."""
    is_safetensors = path.suffix.lower() == ".safetensors"
    if not path.is_file():
        raise UserError(f"{path}: must be a file of weights; there is none; check the path")
    if is_safetensors:
        _check_seal(path, sealed=sealed)
    elif zipfile.is_zipfile(path):
        _check_archive(path)
    try:
        found = safetensors.torch.load_file(path) if is_safetensors else _loaded(path)
    except Exception as error:  # whatever the bytes of a broken file provoke
        message = f"it cannot be loaded as such ({type(error).__name__}); save model.state_dict() alone"
        raise UserError(f"{path}: must be a readable {path.suffix} file of tensors; {message}") from error
    if _is_state(found):
        return Kept(dict(found))
    entries = {name: _state_in(found.get(name)) for name in (*WRAPPERS, *AVERAGED)} if isinstance(found, dict) else {}
    there = {name: state for name, state in entries.items() if state is not None}
    for name, state in there.items():
        averaged = next((other for other in AVERAGED if other in there and name not in AVERAGED), None)
        return Kept(state, name, averaged)
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


def readings(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The ways to read a state, by prefix: "" (all of it), and each first name (its entries alone), without wrappers' own."""
    whole = without_prefix(state)
    firsts = dict.fromkeys(f"{first}." for first, dot, _ in (name.partition(".") for name in whole) if dot)
    return {"": whole, **{first: without_prefix(_under(first, whole)) for first in firsts}}


def without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state without the prefixes that wrappers (DistributedDataParallel, Lightning, torch.compile) give all names.

    The count of averages that `torch.optim.swa_utils.AveragedModel` keeps beside them is left out.
    """
    if AVERAGES in state and all(name.startswith("module.") for name in state if name != AVERAGES):
        state = {name: tensor for name, tensor in state.items() if name != AVERAGES}
    for prefix in PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            return without_prefix(_under(prefix, state))
    return dict(state)


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _state_of(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The part of a state that fits the model, under the model's names, and the other entries; if none does, all of it.

    Raises UserError if several parts fit, unless one alone has a usual prefix.
    """
    own, parts = model.state_dict(), readings(state)
    whole = as_named_now(model, state if state.keys() & own.keys() else parts[""])
    if _misfit(model, whole) is None:
        return whole, []
    needed = sum(not _optional(name) for name in own)
    named = {prefix: as_named_now(model, part) for prefix, part in parts.items() if len(part) >= needed}
    fitting = [prefix for prefix, part in named.items() if _misfit(model, part) is None]
    fitting = [prefix for prefix in fitting if prefix in PREFIXES] or fitting
    if len(fitting) > 1:
        raise UserError(
            f"{path}: must hold one state of {_described(model)}; it holds several, under {' and '.join(fitting)}; save one "
            "of them alone"
        )
    for prefix in fitting:
        return named[prefix], [name for name in parts[""] if not name.startswith(prefix)]
    return whole, []


def _misfit(model: nn.Module, state: Mapping[str, Tensor]) -> str | None:
    """The first entry that is missing, has another shape or is unexpected, and what is wrong with it; None: the state fits."""
    own = model.state_dict()
    for name, tensor in own.items():
        if name not in state and not _optional(name):
            return f"{name} is missing"
        if name in state and state[name].shape != tensor.shape:
            return f"{name} must have shape {tuple(tensor.shape)}, got {tuple(state[name].shape)}"
    return next((f"{name} is unexpected" for name in state if name not in own and not _optional(name)), None)


def _is_state(held: Any) -> TypeGuard[dict[str, Tensor]]:
    """Whether this is names to tensors."""
    return isinstance(held, dict) and bool(held) and all(isinstance(entry, Tensor) for entry in held.values())


def _state_in(held: Any) -> dict[str, Tensor] | None:
    """The state_dict that an entry of a checkpoint is, or that it holds as `module`; None: neither."""
    inner = held.get("module") if isinstance(held, dict) and not _is_state(held) else held
    return dict(inner) if _is_state(inner) else None


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
