"""States in files: what is saved loads again, what does not fit is refused by name, and no file is ever half written."""

import argparse
import datetime
import errno
from pathlib import Path
from typing import NoReturn

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from rl_det.errors import PathError, UserError
from rl_det.storage.files import write_with
from rl_det.storage.weights import load_state, save_state, state_file

SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors")


def model(width: int = 4, *, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width))


def copy_of(some: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in some.state_dict().items()}


def same(some: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return some.keys() == others.keys() and all(torch.equal(some[name], others[name]) for name in some)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_saved_state_loads_again_bit_for_bit(tmp_path: Path, suffix: str) -> None:
    path, fresh = tmp_path / f"state{suffix}", model(seed=1)
    saved = model().to(memory_format=torch.channels_last)
    save_state(saved, path)
    assert not same(copy_of(saved), copy_of(fresh))
    load_state(fresh, path)
    assert same(copy_of(saved), copy_of(fresh))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_half_precision_halves_the_floats_and_loads_into_the_models_own_dtype(tmp_path: Path, suffix: str) -> None:
    path, fresh = tmp_path / f"half{suffix}", model(seed=1)
    saved = model()
    save_state(saved, path, torch.float16)
    written = safetensors.torch.load_file(path) if suffix == ".safetensors" else torch.load(path, weights_only=True)
    assert written["0.weight"].dtype == torch.float16
    assert written["1.num_batches_tracked"].dtype == torch.int64
    load_state(fresh, path)
    assert fresh[0].weight.dtype == torch.float32
    assert torch.equal(fresh[0].weight, saved[0].weight.half().float())
    assert saved[0].weight.dtype == torch.float32


def test_a_file_that_torch_alone_wrote_loads(tmp_path: Path) -> None:
    saved, fresh = model(), model(seed=1)
    torch.save(saved.state_dict(), tmp_path / "own.pth")
    load_state(fresh, tmp_path / "own.pth")
    assert same(copy_of(saved), copy_of(fresh))


def test_batch_normalisations_counter_may_be_missing_or_one_too_many(tmp_path: Path) -> None:
    path, state = tmp_path / "counter.pt", model().state_dict()
    del state["1.num_batches_tracked"]
    state["2.num_batches_tracked"] = torch.tensor(3)
    torch.save(state, path)
    fresh = model(seed=1)
    load_state(fresh, path)
    assert torch.equal(fresh[0].weight, state["0.weight"])


def test_any_other_entry_too_many_is_refused_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "more.pt"
    torch.save({**model().state_dict(), "2.bias": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"more\.pt: .* the entry 2\.bias is unexpected"):
        load_state(model(), path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_weights_of_another_width_are_refused_with_both_shapes_and_the_model_is_untouched(
    tmp_path: Path, suffix: str
) -> None:
    path, own = tmp_path / f"wide{suffix}", model(seed=1)
    before = copy_of(own)
    save_state(model(8), path)
    with pytest.raises(ValueError, match=rf"wide\{suffix}: .* shape \(4, 3, 3, 3\), got \(8, 3, 3, 3\)"):
        load_state(own, path)
    assert same(copy_of(own), before)


def test_weights_of_another_architecture_are_refused_by_the_first_missing_entry(tmp_path: Path) -> None:
    own = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(2, 2))
    before = copy_of(own)
    save_state(model(), tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt: .*Sequential.* the entry 2\.weight is missing"):
        load_state(own, tmp_path / "other.pt")
    assert same(copy_of(own), before)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04 half a zip"])
def test_a_broken_file_is_refused_by_name(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"broken\{suffix}: must be a readable"):
        load_state(model(), path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_cut_short_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"short{suffix}"
    save_state(model(), path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=rf"short\{suffix}: must be a readable"):
        load_state(model(), path)


@pytest.mark.parametrize("content", [{"model": {}, "epoch": 3}, [1, 2], torch.zeros(3)])
def test_a_file_of_something_else_is_refused_by_name(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"checkpoint\.pt: must hold a state_dict"):
        load_state(model(), tmp_path / "checkpoint.pt")


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "folder.pt").mkdir()
    for name in ("nowhere.pt", "folder.pt"):
        with pytest.raises(ValueError, match=rf"{name}: must be a file of weights"):
            load_state(model(), tmp_path / name)


def test_a_wrong_suffix_is_refused_by_name_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    with pytest.raises(ValueError, match=r"state\.npz: .*\.safetensors; got '\.npz'"):
        save_state(model(), path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"state\.npz: .*\.safetensors; got '\.npz'"):
        load_state(model(), path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_when_saving_fails_the_former_file_stays_whole_and_nothing_else_is_left(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"state{suffix}"
    save_state(model(), path)
    former = path.read_bytes()

    def full_disk(_: object, file: Path, **__: object) -> NoReturn:
        Path(file).write_bytes(former[:10])
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    monkeypatch.setattr(safetensors.torch, "save_file", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save_state(model(seed=1), path)
    assert path.read_bytes() == former
    assert list(tmp_path.iterdir()) == [path]


def test_a_string_means_a_file_by_its_suffix_and_a_path_always(tmp_path: Path) -> None:
    assert state_file(None) is None
    assert state_file("DEFAULT") is None
    assert state_file("best.pt") == Path("best.pt")
    assert state_file(tmp_path / "odd.bin") == tmp_path / "odd.bin"


class Own:
    """A class that the reader does not know."""

    def __init__(self) -> None:
        self.value = 3


class Harmful:
    """Its pickle runs code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('the file ran code')",)


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module._orig_mod."])
def test_a_checkpoint_as_people_keep_it_loads(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    path, saved, fresh = tmp_path / "checkpoint.pth", model(), model(seed=1)
    state = {prefix + name: tensor for name, tensor in saved.state_dict().items()}
    beside = {
        "optimizer": torch.optim.SGD(saved.parameters(), momentum=0.9).state_dict(),
        "args": argparse.Namespace(lr=0.02, output=Path("runs")),
        "own": Own(),
        "harmful": Harmful(),
        "when": datetime.datetime(2026, 1, 1),
        "epoch": 25,
    }
    torch.save(state if wrapper is None else {**beside, wrapper: state}, path)
    load_state(fresh, path)
    assert same(copy_of(saved), copy_of(fresh))


def test_no_code_of_a_file_runs(tmp_path: Path) -> None:
    for content in (Harmful(), {"model": Harmful()}, [Harmful()], model()):
        torch.save(content, tmp_path / "harmful.pt")
        with pytest.raises(ValueError, match=r"harmful\.pt: must hold a state_dict, names to tensors; it .*save model"):
            load_state(model(), tmp_path / "harmful.pt")


def test_a_checkpoint_without_a_known_wrapper_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    torch.save({"weights": model().state_dict(), "epoch": 3}, tmp_path / "own.pt")
    with pytest.raises(ValueError, match=r"own\.pt: must hold a state_dict, .*it holds weights, epoch; save model"):
        load_state(model(), tmp_path / "own.pt")


def test_a_models_own_names_are_not_taken_for_a_prefix(tmp_path: Path) -> None:
    saved, fresh = nn.ModuleDict({"model": model()}), nn.ModuleDict({"model": model(seed=1)})
    torch.save(saved.state_dict(), tmp_path / "own.pt")
    load_state(fresh, tmp_path / "own.pt")
    assert same(copy_of(saved), copy_of(fresh))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_weights_that_are_not_finite_are_refused_by_file_and_entry_and_the_model_is_untouched(
    tmp_path: Path, suffix: str, value: float
) -> None:
    path, broken, own = tmp_path / f"diverged{suffix}", model(), model(seed=1)
    before = copy_of(own)
    with torch.no_grad():
        broken[1].bias[2] = value
    save_state(broken, path)
    with pytest.raises(
        ValueError, match=rf"diverged\{suffix}: weights must be finite; the entry 1\.bias holds NaN or inf"
    ):
        load_state(own, path)
    assert same(copy_of(own), before)


def test_a_safetensors_file_with_any_changed_byte_is_refused_by_name(tmp_path: Path) -> None:
    path, own = tmp_path / "state.safetensors", model()
    save_state(own, path)
    whole, before = path.read_bytes(), copy_of(own)
    for place in range(0, len(whole), 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        with pytest.raises(UserError, match=r"state\.safetensors: must"):
            load_state(own, path, sealed=True)
    assert same(copy_of(own), before)
    path.write_bytes(whole)
    load_state(own, path, sealed=True)


def test_a_safetensors_file_of_another_program_loads_unless_a_checksum_is_demanded(tmp_path: Path) -> None:
    path, fresh = tmp_path / "other.safetensors", model(seed=1)
    safetensors.torch.save_file(copy_of(model()), path)
    with pytest.raises(UserError, match=r"other\.safetensors: must hold its own checksum"):
        load_state(fresh, path, sealed=True)
    load_state(fresh, path)
    assert same(copy_of(fresh), copy_of(model()))


@pytest.mark.parametrize("error", [RuntimeError("unexpected pos 768 vs 662"), safetensors.SafetensorError("I/O error")])
def test_a_full_disk_is_one_sentence_whatever_error_the_writer_makes_of_it(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: Path) -> NoReturn:
        monkeypatch.setattr(Path, "open", no_room)
        raise error

    def no_room(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a").write_text("former", encoding="utf-8")
    with pytest.raises(PathError, match=r"a: could not be written .*No space left on device"):
        write_with(tmp_path / "a", full)
    monkeypatch.undo()
    assert (tmp_path / "a").read_text(encoding="utf-8") == "former"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_an_error_of_a_writer_on_a_disk_with_room_stays_what_it_was(tmp_path: Path) -> None:
    def wrong(_: Path) -> NoReturn:
        raise RuntimeError("a mistake of the code")

    with pytest.raises(RuntimeError, match="a mistake of the code"):
        write_with(tmp_path / "a", wrong)
    assert not list(tmp_path.iterdir())
