"""Encodings in a folder know their data, weights, code and bytes: what is not theirs is refused, or made anew and told."""

import copy
import errno
import json
import multiprocessing
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from damage import damaged
from data.opening import OwnSamples
from finetuning.small import write_folder
from torch import Tensor

from rl_det.data.augment import Augmentations, Views
from rl_det.data.digit_scenes import CLASSES, DigitScenes
from rl_det.data.open import open_data
from rl_det.data.splits import First
from rl_det.detectors import Detector, build_detector, contents, encodings_on_disk
from rl_det.detectors.contents import alike, content
from rl_det.detectors.encodings import EncodedDataset, encode_dataset
from rl_det.detectors.torchvision.tiny import SHIPPED_WEIGHTS
from rl_det.errors import PathError, UserError
from rl_det.types import Sample

NUM_FLIPS, NUM_DAMAGES = 140, 40
SCENES = DigitScenes("val", num_scenes=5)


def shipped() -> Detector:
    return build_detector("tiny", num_classes=len(CLASSES), input_size=64, weights=SHIPPED_WEIGHTS)


@pytest.fixture
def detector() -> Detector:
    return shipped()


def corrected(root: Path, split: str) -> None:
    """Exchange all labels of a folder, and give all boxes another area, in place."""
    told = json.loads((root / f"{split}.json").read_text(encoding="utf-8"))
    for annotation in told["annotations"]:
        annotation.update(category_id=11 - annotation["category_id"], area=5)
    (root / f"{split}.json").write_text(json.dumps(told), encoding="utf-8")


def has_targets_of(kept: EncodedDataset, dataset: Any) -> bool:
    return len(kept) == len(dataset) and all(
        torch.equal(getattr(kept.targets[index], name), getattr(dataset[index].target, name))
        for index in range(len(dataset))
        for name in ("boxes", "labels", "area", "iscrowd")
    )


def relabelled(sample: Sample) -> Sample:
    return replace(sample, target=replace(sample.target, labels=11 - sample.target.labels))


def test_labels_corrected_in_place_are_refused_or_made_anew_and_never_old(
    detector: Detector, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, folder = write_folder(tmp_path / "data", train=4), tmp_path / "encodings"
    first = encode_dataset(detector, open_data(root).train, folder=folder)
    corrected(root, "train")
    data = open_data(root).train
    assert not has_targets_of(first, data)
    capsys.readouterr()
    with pytest.raises(
        UserError, match=rf"{folder}: must hold this .* others, of 4: other images or labels; give another"
    ):
        encode_dataset(detector, data, folder=folder)
    assert not capsys.readouterr().err
    again = encode_dataset(detector, data, folder=folder, remake=True)
    assert capsys.readouterr().err.endswith("of 4: other images or labels; they are made anew\n")
    assert has_targets_of(again, data)
    assert has_targets_of(encode_dataset(detector, data, folder=folder), data)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["data", "encodings"]


@pytest.mark.parametrize(
    "wrap", [lambda data: data, lambda data: Views(data, 2, Augmentations()), lambda d: First(d, 50)]
)
def test_one_corrected_label_anywhere_in_a_users_own_data_set_is_noticed(tmp_path: Path, wrap: Any) -> None:
    samples = [DigitScenes("val", num_scenes=1)[0]] * 60
    before = content(wrap(OwnSamples(CLASSES, samples)))
    assert before == content(wrap(OwnSamples(CLASSES, list(samples))))
    for place in range(0, 50, 7):
        assert (
            content(wrap(OwnSamples(CLASSES, [*samples[:place], relabelled(samples[place]), *samples[place + 1 :]])))
            != before
        )


def test_views_are_known_by_their_data_their_number_and_their_augmentations(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data", train=4)

    def found(num_views: int = 2, **augmentations: Any) -> str:
        return content(Views(open_data(root).train, num_views, Augmentations(**augmentations)))

    assert found() == found()
    different = [found(), found(3), found(photometric=True), content(First(open_data(root).train, 2))]
    corrected(root, "train")
    assert len({*different, found(), found(3)}) == 6


def test_encodings_of_other_weights_versions_formats_and_proposals_are_refused_by_what_differs(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "encodings"
    encode_dataset(detector, SCENES, folder=folder, num_proposals=50)

    def refused(what: str, other: Detector = detector, num_proposals: int | None = 50) -> None:
        with pytest.raises(UserError, match=rf"{folder}: .* it holds others, of 5: {what}; give another folder"):
            encode_dataset(other, SCENES, folder=folder, num_proposals=num_proposals)

    tuned = copy.deepcopy(detector)
    with torch.no_grad():
        next(tuned.trainable.parameters()).view(-1)[0].add_(1e-3)
    refused("other weights", tuned)
    refused("another number of proposals", num_proposals=20)
    refused("another number of proposals", num_proposals=None)
    monkeypatch.setattr(contents, "FORMAT", contents.FORMAT + 1)
    refused("another format of encodings")
    monkeypatch.undo()
    monkeypatch.setattr(contents, "__version__", "0.0.9")
    refused("another version of rl_det")
    monkeypatch.undo()
    encode_dataset(detector, SCENES, folder=folder, num_proposals=50)


def test_settings_that_are_no_weights_are_noticed_by_encoding_a_batch_again(detector: Detector, tmp_path: Path) -> None:
    encode_dataset(detector, SCENES, folder=tmp_path / "encodings")
    other = shipped()
    other.plain().transform.image_mean = [0.9, 0.1, 0.4]
    with pytest.raises(UserError, match="other settings of the detector, or other code"):
        encode_dataset(other, SCENES, folder=tmp_path / "encodings")


@pytest.mark.parametrize("part", ["head", "predictor"])
def test_a_folder_of_images_of_mixed_sizes_is_valid_the_second_time(part: Any, tmp_path: Path) -> None:
    def narrow(index: int) -> Sample:
        sample = DigitScenes("val", num_scenes=20)[index]
        return replace(sample, image=sample.image[:, :, : 128 - index * 37 % 60].contiguous())

    detector = build_detector("tiny", num_classes=len(CLASSES), weights=SHIPPED_WEIGHTS, part=part)
    data = OwnSamples(CLASSES, [narrow(index) for index in range(20)])
    first = encode_dataset(detector, data, num_proposals=50, folder=tmp_path / "encodings")
    written = {file: file.stat().st_mtime_ns for file in (tmp_path / "encodings").rglob("*")}
    again = encode_dataset(detector, data, num_proposals=50, folder=tmp_path / "encodings")
    assert written == {file: file.stat().st_mtime_ns for file in (tmp_path / "encodings").rglob("*")}, (
        "nothing was made anew"
    )
    for ours, theirs in zip(again.encoded.tensors().values(), first.encoded.tensors().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_proposals_that_change_places_or_are_kept_at_a_near_tie_are_alike_and_others_are_not(
    detector: Detector,
) -> None:
    ours = encode_dataset(detector, SCENES, num_proposals=50).encoded

    def places(change: Any) -> Any:
        order = torch.arange(50)
        change(order)
        return replace(
            ours, features=tuple(level[:, order] for level in ours.features), reference=ours.reference[:, order]
        )

    def shift(order: Tensor) -> None:
        order[1:] = order[:-1].clone()

    assert alike(ours, places(lambda order: None))
    assert alike(ours, places(shift))
    random_features = tuple(torch.randn_like(level.float()).half() for level in ours.features)
    assert not alike(ours, replace(ours, features=random_features))
    assert not alike(ours, replace(ours, mask=torch.zeros_like(ours.mask)))


def flipped(whole: bytes, place: int, rng: random.Random) -> bytes:
    return whole[:place] + bytes([whole[place] ^ rng.randrange(1, 256)]) + whole[place + 1 :]


def test_every_one_of_many_flipped_bytes_is_noticed_by_the_files_name(detector: Detector, tmp_path: Path) -> None:
    folder, rng = tmp_path / "encodings", random.Random(0)
    encode_dataset(detector, SCENES, folder=folder)
    files = sorted(folder.iterdir())
    assert {file.name for file in files} >= {"contents.json", "targets.safetensors", "features.0.npy", "mask.npy"}
    for count in range(NUM_FLIPS):
        file = files[count % len(files)]
        whole = file.read_bytes()
        file.write_bytes(flipped(whole, rng.randrange(len(whole)), rng))
        with pytest.raises(UserError, match=rf"^{folder}: .*{file.name} is (missing or )?damaged"):
            encode_dataset(detector, SCENES, folder=folder)
        file.write_bytes(whole)
    encode_dataset(detector, SCENES, folder=folder)


def test_any_damage_is_told_in_one_line_and_the_encodings_made_anew_are_the_same(
    detector: Detector, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, draw = tmp_path / "encodings", random.Random(0)
    wanted = encode_dataset(detector, SCENES, folder=folder).encoded.tensors()
    wanted = {name: tensor.clone() for name, tensor in wanted.items()}
    names = sorted(file.name for file in folder.iterdir())
    for count in range(NUM_DAMAGES):
        file = folder / names[count % len(names)]
        file.write_bytes(damaged(file.read_bytes(), draw))
        with pytest.raises(UserError, match=rf"^{folder}: .*{file.name} .*delete it to have it made anew$"):
            encode_dataset(detector, SCENES, folder=folder)
        capsys.readouterr()
        again = encode_dataset(detector, SCENES, folder=folder, remake=True)
        (told,) = capsys.readouterr().err.splitlines()
        assert told.startswith(f"{folder}: must be a folder of encodings; {file.name} ")
        assert told.endswith("; they are made anew")
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in again.encoded.tensors().items())


def test_a_file_or_a_link_in_the_folders_place_gives_way_and_what_the_link_names_stays(
    detector: Detector, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, users = tmp_path / "kept" / "encodings", tmp_path / "users"
    users.mkdir()
    (users / "photo.png").write_bytes(b"a photograph")
    folder.parent.mkdir()
    for put in (lambda: folder.touch(), lambda: folder.symlink_to(users, target_is_directory=True)):
        put()
        with pytest.raises(UserError, match=f"^{folder}: must be a folder of encodings; contents.json is missing"):
            encode_dataset(detector, SCENES, folder=folder)
        assert len(encode_dataset(detector, SCENES, folder=folder, remake=True)) == len(SCENES)
        assert "they are made anew" in capsys.readouterr().err
        assert list(folder.parent.iterdir()) == [folder]
        assert (users / "photo.png").read_bytes() == b"a photograph"
        shutil.rmtree(folder)


def test_files_that_are_flipped_cut_short_or_missing_are_named_or_made_anew_in_one_line(
    detector: Detector, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "encodings"
    wanted = encode_dataset(detector, SCENES, folder=folder).encoded.tensors()
    wanted = {name: tensor.clone() for name, tensor in wanted.items()}
    for name in sorted(file.name for file in folder.iterdir()):
        for damage in (
            lambda file: file.write_bytes(file.read_bytes()[:-7]),
            lambda file: file.write_bytes(b""),
            lambda file: file.unlink(),
        ):
            damage(folder / name)
            with pytest.raises(UserError, match=rf"{folder}: must be a folder of encodings; {name} "):
                encode_dataset(detector, SCENES, folder=folder)
            again = encode_dataset(detector, SCENES, folder=folder, remake=True)
            told = capsys.readouterr().err
            assert told.count("\n") == 1
            assert told.startswith(f"{folder}: must be a folder of encodings; {name} ")
            assert all(torch.equal(tensor, wanted[name]) for name, tensor in again.encoded.tensors().items())
            assert has_targets_of(again, SCENES)
    assert list(tmp_path.iterdir()) == [folder]


def test_a_full_disk_costs_one_sentence_leaves_nothing_and_the_former_folder_whole(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "encodings"
    encode_dataset(detector, SCENES, folder=folder, num_proposals=20)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(encodings_on_disk, "reserve", full)
    with pytest.raises(
        PathError, match=r"encodings: the encodings could not be written; got .*No space left on device"
    ):
        encode_dataset(detector, SCENES, folder=folder, num_proposals=30, remake=True)
    assert list(tmp_path.iterdir()) == [folder]
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve a file's room")
def test_the_room_of_a_file_is_taken_before_it_is_mapped(detector: Detector, tmp_path: Path) -> None:
    encode_dataset(detector, SCENES, folder=tmp_path / "encodings")
    seen: list[tuple[int, int]] = []

    def parts() -> Any:
        part = encode_dataset(detector, SCENES).encoded
        yield part[:1]
        (beside,) = tmp_path.glob(".more.*")
        seen.extend((file.stat().st_blocks * 512, file.stat().st_size) for file in beside.glob("*.npy"))
        yield part[1:]

    targets = [sample.target for sample in SCENES]
    encodings_on_disk.write(tmp_path / "more", parts(), targets, len(SCENES), {})
    assert seen
    assert all(taken >= size for taken, size in seen)


def encode_when_told(folder: Path, remake: bool, barrier: Any, found: Any) -> None:
    """One of two processes that encode into one folder at once."""
    torch.set_num_threads(1)
    detector = shipped()
    waited = False

    def wait(num_images: int) -> None:
        nonlocal waited
        if not waited:
            waited = True
            barrier.wait(60)

    kept = encode_dataset(detector, SCENES, batch_size=2, folder=folder, remake=remake, on_batch=wait)
    found.put((os.getpid(), has_targets_of(kept, SCENES), float(kept.encoded.features[0].float().sum())))


@pytest.mark.parametrize("damaged", [False, True])
def test_of_two_processes_that_encode_into_one_folder_at_once_none_dies(
    detector: Detector, tmp_path: Path, damaged: bool
) -> None:
    folder = tmp_path / "encodings"
    if damaged:
        encode_dataset(detector, SCENES, folder=folder)
        (folder / "mask.npy").unlink()
    context = multiprocessing.get_context("fork" if not torch.cuda.is_initialized() else "spawn")
    barrier, found = context.Barrier(2), context.Queue()
    both = [context.Process(target=encode_when_told, args=(folder, damaged, barrier, found)) for _ in range(2)]
    for process in both:
        process.start()
    said = [found.get(timeout=60) for _ in both]
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert {right for _, right, _ in said} == {True}
    assert len({total for *_, total in said}) == 1
    assert list(tmp_path.iterdir()) == [folder]
