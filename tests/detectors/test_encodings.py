"""A data set's encodings, kept: half precision, in order, and a head that says of them what it says of the images."""

from pathlib import Path

import pytest
import torch

from rl_det.data.digit_scenes import CLASSES, DigitScenes
from rl_det.detectors import Detector, build_detector
from rl_det.detectors.encodings import EncodedDataset, encode_dataset
from rl_det.detectors.torchvision.tiny import SHIPPED_WEIGHTS

NUM_SCENES = 7


@pytest.fixture(scope="module")
def scenes() -> DigitScenes:
    return DigitScenes("val", num_scenes=NUM_SCENES)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return build_detector("tiny", num_classes=len(CLASSES), input_size=64, weights=SHIPPED_WEIGHTS)


@pytest.fixture(scope="module")
def cache(detector: Detector, scenes: DigitScenes) -> EncodedDataset:
    return encode_dataset(detector, scenes, batch_size=3)


def test_features_are_kept_in_half_precision_and_boxes_in_full(cache: EncodedDataset) -> None:
    assert {level.dtype for level in cache.encoded.features} == {torch.float16}
    assert cache.encoded.reference.dtype == torch.float32
    assert not any(level.requires_grad for level in cache.encoded.features)


def test_every_image_is_there_once_and_in_order(cache: EncodedDataset, scenes: DigitScenes) -> None:
    assert len(cache) == len(cache.encoded) == len(cache.targets) == NUM_SCENES
    for index, target in enumerate(cache.targets):
        assert target.image_id == scenes[index].target.image_id
        assert torch.equal(target.boxes, scenes[index].target.boxes)


def test_each_row_is_that_images_own_encoding(cache: EncodedDataset, detector: Detector, scenes: DigitScenes) -> None:
    for index in (0, 4, NUM_SCENES - 1):
        alone = detector.encode([scenes[index].image])
        row = cache.encoded[index : index + 1]
        assert torch.equal(row.mask, alone.mask)
        torch.testing.assert_close(row.reference, alone.reference, rtol=0, atol=1e-2)
        gap = (row.features[0].float() - alone.features[0]).abs().max()
        assert gap < 0.01 * alone.features[0].abs().max()


def test_a_batch_holds_the_images_asked_for_in_their_order_and_in_single_precision(
    cache: EncodedDataset, detector: Detector
) -> None:
    batch = cache.batch(torch.tensor([5, 0, 5]), detector)
    assert len(batch) == 3
    assert batch.features[0].dtype == torch.float32
    assert torch.equal(batch.features[0], cache.encoded.features[0][[5, 0, 5]].float())
    assert torch.equal(batch.reference, cache.encoded.reference[[5, 0, 5]])
    assert not torch.equal(batch.reference[0], batch.reference[1])


def test_each_batch_is_heard_of_with_its_number_of_images(detector: Detector, scenes: DigitScenes) -> None:
    heard: list[int] = []
    encode_dataset(detector, scenes, batch_size=3, on_batch=heard.append)
    assert heard == [3, 3, 1]


def test_the_head_says_of_the_cache_nearly_what_it_says_of_the_images(
    cache: EncodedDataset, detector: Detector, scenes: DigitScenes
) -> None:
    with torch.no_grad():
        exact = detector.head(detector.encode([scene.image for scene in scenes]))
        cached = detector.head(cache.batch(torch.arange(NUM_SCENES), detector))
    mask = cache.encoded.mask
    gap = (exact.logits - cached.logits)[mask].abs().max()
    assert 0 < gap < 0.02 * exact.logits[mask].std()
    torch.testing.assert_close(cached.boxes[mask], exact.boxes[mask], rtol=0, atol=0.1)


def test_on_disk_it_holds_what_it_holds_in_memory(
    cache: EncodedDataset, detector: Detector, scenes: DigitScenes, tmp_path: Path
) -> None:
    kept = encode_dataset(detector, scenes, batch_size=3, folder=tmp_path / "encodings")
    for ours, theirs in zip(kept.encoded.features, cache.encoded.features, strict=True):
        assert torch.equal(ours, theirs)
    for name in ("reference", "mask", "input_size", "image_size"):
        assert torch.equal(getattr(kept.encoded, name), getattr(cache.encoded, name))
    for target, other in zip(kept.targets, cache.targets, strict=True):
        assert vars(target).keys() == vars(other).keys()
        assert target.image_id == other.image_id
        for name in ("boxes", "labels", "area", "iscrowd"):
            assert torch.equal(getattr(target, name), getattr(other, name))
    assert torch.equal(kept.batch(torch.tensor([5, 0]), detector).reference, cache.encoded.reference[[5, 0]])
    assert [file.name for file in tmp_path.iterdir()] == ["encodings"]


def test_a_second_call_opens_the_folder_and_looks_at_a_few_images_only(
    detector: Detector, scenes: DigitScenes, tmp_path: Path
) -> None:
    heard: list[int] = []
    first = encode_dataset(detector, scenes, folder=tmp_path / "encodings")
    second = encode_dataset(detector, scenes, folder=tmp_path / "encodings", on_batch=heard.append)
    assert not heard
    assert torch.equal(first.encoded.features[0], second.encoded.features[0])


def test_a_folder_of_another_detectors_or_of_other_images_encodings_is_refused_by_name(
    detector: Detector, scenes: DigitScenes, tmp_path: Path
) -> None:
    folder = tmp_path / "encodings"
    encode_dataset(detector, scenes, folder=folder)
    random = build_detector("tiny", num_classes=len(CLASSES), input_size=64)
    for other, images, count in (
        (random, scenes, None),
        (detector, DigitScenes("val", num_scenes=NUM_SCENES, seed=5), None),
        (detector, scenes, 3),
    ):
        with pytest.raises(ValueError, match=rf"{folder}: must hold this detector's encodings of these . images"):
            encode_dataset(other, images, num_images=count, folder=folder)


def test_a_folder_that_is_broken_or_cannot_be_written_is_named(
    detector: Detector, scenes: DigitScenes, tmp_path: Path
) -> None:
    folder = tmp_path / "encodings"
    encode_dataset(detector, scenes, folder=folder)
    (folder / "targets.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match=rf"{folder}: must be a folder of encodings"):
        encode_dataset(detector, scenes, folder=folder)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="the encodings could not be written"):
        encode_dataset(detector, scenes, folder=tmp_path / "file" / "encodings")


def test_an_encoding_that_breaks_off_leaves_nothing_behind(
    detector: Detector, scenes: DigitScenes, tmp_path: Path
) -> None:
    def power_cut(num_images: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_dataset(detector, scenes, batch_size=3, folder=tmp_path / "encodings", on_batch=power_cut)
    assert not list(tmp_path.iterdir())
