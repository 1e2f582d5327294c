"""Compute a data set's encodings once: the frozen part's output does not change while a head learns."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from rl_det.data import Dataset
from rl_det.detectors import encodings_on_disk
from rl_det.detectors.protocol import Detector
from rl_det.errors import UserError
from rl_det.storage.memory import give_back
from rl_det.types import Encoded, Target, concatenate


@dataclass(frozen=True)
class EncodedDataset:
    """A data set's encodings, on the CPU or on disk with features in half precision, and its targets."""

    encoded: Encoded
    targets: list[Target]
    source: Dataset | None = None
    """The images themselves, if they are known."""

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, images: Int[Tensor, " b"], device: torch.device | str) -> Encoded:
        """The encodings of some images, on a device, with features in single precision."""
        return self.encoded[images].to(device, torch.float32)


CHECKED = 6
"""How many images are encoded again to check that the encodings in a folder are this detector's."""


def encode_dataset(
    detector: Detector,
    dataset: Dataset,
    *,
    num_images: int | None = None,
    batch_size: int = 16,
    folder: Path | None = None,
    on_batch: Callable[[int], None] = lambda num_images: None,
) -> EncodedDataset:
    """Encode every image, or the first `num_images`, in order; `on_batch` is called with each batch's number of images.

    With a folder, the encodings are kept there instead of in memory, and the next call reuses them. It first encodes a
    few images again, and raises ValueError, which names the folder, if the kept encodings are of another detector or of
    other images.
    """
    end = len(dataset) if num_images is None else min(num_images, len(dataset))
    targets: list[Target] = []

    def parts() -> Iterator[Encoded]:
        for start in range(0, end, batch_size):
            yield from _encoded(detector, dataset, range(start, min(start + batch_size, end)), targets)
            give_back()
            on_batch(min(batch_size, end - start))

    if folder is None:
        return EncodedDataset(concatenate(parts(), end), targets, dataset)
    if not folder.exists():
        encodings_on_disk.write(folder, parts(), targets, end)
    kept = EncodedDataset(*encodings_on_disk.read(folder), dataset)
    _check_kept(kept, folder, detector, dataset, end)
    return kept


def _encoded(detector: Detector, dataset: Dataset, images: Sequence[int], targets: list[Target]) -> Iterator[Encoded]:
    """Encode one batch, in half precision on the CPU; appends its targets to `targets`."""
    samples = [dataset[index] for index in images]
    yield detector.encode([sample.image for sample in samples]).to("cpu", torch.float16)
    targets.extend(sample.target for sample in samples)


def _check_kept(kept: EncodedDataset, folder: Path, detector: Detector, dataset: Dataset, end: int) -> None:
    """Raise ValueError unless the kept encodings and labels of some images, spread over the data set, are right."""
    images = torch.linspace(0, end - 1, min(CHECKED, end)).long()
    targets: list[Target] = []
    if same := len(kept) == end:
        (fresh,) = _encoded(detector, dataset, images.tolist(), targets)
        there = kept.encoded[images]
        same = all(torch.equal(kept.targets[i].boxes, t.boxes) for i, t in zip(images.tolist(), targets, strict=True))
        for ours, theirs in zip((*fresh.features, fresh.mask), (*there.features, there.mask), strict=True):
            far = (
                ours.shape != theirs.shape
                or (ours.float() - theirs.float()).abs().max() > 0.02 * ours.float().abs().max()
            )
            same = same and not far
    if not same:
        raise UserError(
            f"{folder}: must hold this detector's encodings of these {end} images; it holds others, of {len(kept)}; "
            "give another folder, or delete it to have it made anew"
        )
