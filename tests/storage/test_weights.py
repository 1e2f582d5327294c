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


def test_a_string_means_a_file_by_its_suffix_or_folder_and_a_path_always(tmp_path: Path) -> None:
    assert state_file(None) is None
    assert state_file("DEFAULT") is None
    for name in ("best.pt", "BEST.PT", "best.bin", "runs/best"):
        assert state_file(name) == Path(name)
    assert state_file(tmp_path / "odd.bin") == tmp_path / "odd.bin"


@pytest.mark.parametrize("name", ["UP.PT", "pytorch_model.bin", "model_best.pth.tar", "best", "M.SAFETENSORS"])
def test_a_file_of_any_suffix_loads_by_what_it_holds(tmp_path: Path, name: str) -> None:
    path, saved, fresh = tmp_path / name, model(), model(seed=1)
    if path.suffix == ".SAFETENSORS":
        safetensors.torch.save_file(copy_of(saved), path)
    else:
        torch.save(saved.state_dict(), path)
    load_state(fresh, path)
    assert same(copy_of(saved), copy_of(fresh))
    path.write_text("no weights", encoding="utf-8")
    with pytest.raises(UserError, match=rf"{name}: must be a readable .*file of tensors; it cannot be loaded as such"):
        load_state(fresh, path)


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


@pytest.mark.parametrize(
    ("raw", "averaged"), [("model", "model_ema"), ("state_dict", "state_dict_ema"), ("net", "ema"), ("module", "ema")]
)
@pytest.mark.parametrize("is_wrapped", [True, False])
def test_of_raw_and_averaged_weights_the_raw_ones_are_taken_and_the_others_told(
    tmp_path: Path, raw: str, averaged: str, is_wrapped: bool
) -> None:
    path, told, fresh = tmp_path / "both.pth", list[str](), model(seed=2)
    mean = torch.optim.swa_utils.AveragedModel(model(seed=1)).state_dict() if is_wrapped else model(seed=1).state_dict()
    torch.save({averaged: mean, raw: model().state_dict(), "epoch": 3}, path)
    load_state(fresh, path, tell=told.append)
    assert same(copy_of(model()), copy_of(fresh))
    assert told == [
        f"{path}: the weights under {raw!r} are taken; averaged ones lie under {averaged!r}: to take those, save that entry "
        "alone in a file"
    ]
    torch.save(torch.load(path)[averaged], path)  # as the line says
    load_state(fresh, path, tell=told.append)
    assert same(copy_of(model(seed=1)), copy_of(fresh))
    assert len(told) == 1


@pytest.mark.parametrize("name", ["model_ema", "state_dict_ema", "ema_state_dict", "ema"])
@pytest.mark.parametrize("is_nested", [True, False])
def test_averaged_weights_alone_are_taken(tmp_path: Path, name: str, is_nested: bool) -> None:
    path, told, fresh = tmp_path / "mean.pth", list[str](), model(seed=1)
    state = model().state_dict()
    torch.save({name: {"module": state, "updates": 7} if is_nested else state, "model": None, "epoch": 3}, path)
    load_state(fresh, path, tell=told.append)
    assert same(copy_of(model()), copy_of(fresh))
    assert not told


@pytest.mark.parametrize("prefix", ["model.", "faster_rcnn.", "model.module."])
def test_of_a_training_programs_state_the_models_entries_are_taken_and_the_others_told(
    tmp_path: Path, prefix: str
) -> None:
    path, told, fresh = tmp_path / "last.ckpt", list[str](), model(seed=1)
    state = {prefix + name: tensor for name, tensor in model().state_dict().items()}
    beside = {"criterion.weight": torch.ones(3), "metric": torch.zeros(1)}
    torch.save({"state_dict": {**beside, **state}, "epoch": 3}, path)
    load_state(fresh, path, tell=told.append)
    assert same(copy_of(model()), copy_of(fresh))
    assert told == [f"{path}: 2 of 9 entries are not the model's and are left out, such as criterion.weight"]
    torch.save({"state_dict": state}, path)
    load_state(fresh, path, tell=told.append)
    assert len(told) == 1


def test_of_two_states_in_one_that_with_a_usual_prefix_is_taken_and_else_both_are_named(tmp_path: Path) -> None:
    path, fresh = tmp_path / "last.ckpt", model(seed=2)
    one, other = model().state_dict(), model(seed=1).state_dict()
    for first, second in (("model.", "ema.module."), ("student.", "teacher.")):
        state = {second + name: tensor for name, tensor in other.items()}
        torch.save({**state, **{first + name: tensor for name, tensor in one.items()}}, path)
        if first == "model.":
            load_state(fresh, path)
            assert same(copy_of(model()), copy_of(fresh))
        else:
            with pytest.raises(
                UserError, match=r"must hold one state .*it holds several, under teacher\. and student\.;"
            ):
                load_state(fresh, path)


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
