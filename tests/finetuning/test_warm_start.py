"""The warm start's file knows its data, code and bytes: what is not theirs is not used, and a damaged one is made anew."""

import copy
import json
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
import torch
from damage import damaged
from finetuning.small import same_state, write_folder

import rl_det
from rl_det.data.open import open_data
from rl_det.detectors import Detector, build_detector, contents
from rl_det.errors import UserError
from rl_det.finetuning import warm_start as module
from rl_det.finetuning.budget import Recipe, recipe_for
from rl_det.finetuning.caching import CacheLimits
from rl_det.finetuning.warm_start import begin_run, restore, warm_start
from rl_det.storage.run import START

NUM_FLIPS = 140


@pytest.fixture(scope="module")
def untrained() -> Detector:
    torch.manual_seed(0)
    return build_detector("tiny", num_classes=10, input_size=64)


@pytest.fixture
def trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files for which a warm start was trained; the training itself only sets one weight."""
    heard: list[Path] = []

    def train(detector: Detector, _: object, __: object, ___: Recipe, file: Path, ____: object) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        heard.append(file)
        with torch.no_grad():
            next(detector.trainable.parameters()).flatten()[0] = 0.5

    monkeypatch.setenv("RL_DET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "_train", train)
    monkeypatch.setattr(module, "seconds_of", lambda *_: 60.0)
    return heard


def damaged_each(whole: bytes) -> list[bytes]:
    """The file's bytes with one of many changed, with other damage, cut short, and none."""
    rng = random.Random(0)
    places = [rng.randrange(len(whole)) for _ in range(NUM_FLIPS // 2)] + list(range(0, 8 * NUM_FLIPS // 2, 8))
    flips = [whole[:place] + bytes([whole[place] ^ rng.randrange(1, 256)]) + whole[place + 1 :] for place in places]
    return [*flips, *(damaged(whole, rng) for _ in range(NUM_FLIPS // 2)), whole[:-1], whole[:100], b""]


def test_every_damaged_warm_start_is_made_anew_and_told_in_one_line(
    untrained: Detector, trainings: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data = rl_det.digit_scenes(4, 2, 2)
    first = copy.deepcopy(untrained)
    file = warm_start(first, data, recipe_for(data))
    whole, wanted = file.read_bytes(), first.plain().state_dict()
    capsys.readouterr()
    for number, content in enumerate(damaged_each(whole), start=2):
        file.write_bytes(content)
        detector = copy.deepcopy(untrained)
        assert warm_start(detector, data, recipe_for(data)) == file
        told = capsys.readouterr().err.splitlines()
        assert told[0].startswith(
            f"warm start: made anew, as the one that an earlier run has kept cannot be used: {file}: must"
        )
        assert len(told) == 2, "the second line says what is trained"
        assert len(trainings) == number
        assert file.read_bytes() == whole
        assert same_state(detector.plain().state_dict(), wanted)
    detector = copy.deepcopy(untrained)
    warm_start(detector, data, recipe_for(data))
    assert len(trainings) == number, "a whole one is used"
    assert same_state(detector.plain().state_dict(), wanted)


def exchanged(root: Path) -> None:
    file = root / "train.json"
    told = json.loads(file.read_text(encoding="utf-8"))
    for annotation in told["annotations"]:
        annotation["category_id"] = 11 - annotation["category_id"]
    file.write_text(json.dumps(told), encoding="utf-8")


@pytest.mark.parametrize("change", [exchanged, "__version__", "FORMAT"])
def test_corrected_labels_or_other_code_train_another_warm_start(
    untrained: Detector,
    trainings: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str | Callable[[Path], None],
) -> None:
    root = write_folder(tmp_path / "data")

    def trained() -> int:
        data = open_data(root)
        warm_start(copy.deepcopy(untrained), data, recipe_for(data))
        return len(set(trainings))

    assert (trained(), trained()) == (1, 1)
    if isinstance(change, str):
        monkeypatch.setattr(contents, change, "another")
    else:
        change(root)
    assert (trained(), trained()) == (2, 2)


def test_two_runs_that_need_one_warm_start_at_once_train_it_once(
    untrained: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second begins while the first trains: it says that it waits, and finds what the first has kept."""
    data, begun, may_end, trained = rl_det.digit_scenes(4, 2, 2), Event(), Event(), list[Detector]()

    def train(detector: Detector, _: object, __: object, ___: Recipe, file: Path, ____: object) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        trained.append(detector)
        with torch.no_grad():
            next(detector.trainable.parameters()).flatten()[0] = 0.5
        begun.set()
        assert may_end.wait(60)

    monkeypatch.setenv("RL_DET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "_train", train)
    monkeypatch.setattr(module, "seconds_of", lambda *_: 60.0)
    some, other = copy.deepcopy(untrained), copy.deepcopy(untrained)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(warm_start, some, data, recipe_for(data))
        assert begun.wait(60)
        second = pool.submit(warm_start, other, data, recipe_for(data))
        told = ""
        for _ in range(600):
            told += capsys.readouterr().err
            if "it waits for" in told:
                break
            time.sleep(0.1)
        assert not second.done()
        may_end.set()
        file = first.result(60)
        assert second.result(60) == file
    assert trained == [some]
    assert same_state(other.plain().state_dict(), some.plain().state_dict())
    assert "warm start: found" in capsys.readouterr().err
    assert f"another run makes the one that this run needs; it waits for {file}" in told


def test_a_run_goes_on_from_its_own_warm_start_when_the_cache_holds_another_or_none(
    untrained: Detector, trainings: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = rl_det.digit_scenes(4, 2, 2)

    def begun(folder: str) -> Detector:
        detector = copy.deepcopy(untrained)
        (tmp_path / folder).mkdir(exist_ok=True)
        begin_run(detector, data, recipe_for(data), CacheLimits(), tmp_path / folder)
        assert detector.is_trained
        return detector

    wanted = begun("one").plain().state_dict()
    (file,) = trainings
    assert (tmp_path / "one" / START).read_bytes() == file.read_bytes()
    monkeypatch.setenv("RL_DET_CACHE", str(tmp_path / "elsewhere"))
    assert same_state(begun("one").plain().state_dict(), wanted)
    assert len(trainings) == 1, "nothing was trained, and nothing was looked for"
    begun("two")
    assert len(trainings) == 2


def test_a_runs_damaged_warm_start_is_named_and_no_other_takes_its_place(
    untrained: Detector, trainings: list[Path], tmp_path: Path
) -> None:
    data = rl_det.digit_scenes(4, 2, 2)
    begin_run(copy.deepcopy(untrained), data, recipe_for(data), CacheLimits(), tmp_path)
    own = tmp_path / START
    whole = own.read_bytes()
    own.unlink()  # not the cache's file, which has the same bytes
    own.write_bytes(whole[:-9] + b"x" + whole[-8:])
    with pytest.raises(UserError, match=f"^{own}: must"):
        begin_run(copy.deepcopy(untrained), data, recipe_for(data), CacheLimits(), tmp_path)
    assert len(trainings) == 1


def test_the_runs_of_a_comparison_give_the_cache_back_what_it_has_lost_and_refuse_another(
    untrained: Detector, trainings: list[Path], tmp_path: Path
) -> None:
    data, runs = rl_det.digit_scenes(4, 2, 2), [tmp_path / "empty", tmp_path]
    begin_run(copy.deepcopy(untrained), data, recipe_for(data), CacheLimits(), tmp_path)
    (file,) = trainings
    whole = file.read_bytes()
    file.unlink()
    restore(untrained, data, recipe_for(data), runs)
    assert file.read_bytes() == whole
    restore(untrained, data, recipe_for(data), runs)
    file.unlink()
    file.write_bytes(whole + b"x")
    with pytest.raises(
        UserError, match=f"{START}: is the warm start from which this comparison began, and {file} is another"
    ):
        restore(untrained, data, recipe_for(data), runs)
    assert len(trainings) == 1
