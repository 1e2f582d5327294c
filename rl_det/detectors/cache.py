"""A detector and a data set -> its encodings, computed once: what the frozen part says never changes while a head learns."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from rl_det.data import Dataset
from rl_det.detectors.protocol import Detector
from rl_det.types import Encoded, Target, concatenate


@dataclass(frozen=True)
class EncodedDataset:
    """The encodings of a data set, on the CPU with features in half precision, and the targets that go with them."""

    encoded: Encoded
    targets: list[Target]
    source: Dataset | None = None
    """Where the images are, for whoever wants to look at them."""

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, images: Int[Tensor, " b"], device: torch.device | str) -> Encoded:
        """Some images' encodings on a device, features in single precision."""
        return self.encoded[images].to(device, torch.float32)


def encode_dataset(
    detector: Detector,
    dataset: Dataset,
    *,
    num_images: int | None = None,
    batch_size: int = 16,
    on_batch: Callable[[int], None] = lambda num_images: None,
) -> EncodedDataset:
    """Encode every image, or the first `num_images`, in order; `on_batch` hears how many images each batch has finished."""
    end = len(dataset) if num_images is None else min(num_images, len(dataset))
    targets: list[Target] = []

    def parts() -> Iterator[Encoded]:
        for start in range(0, end, batch_size):
            samples = [dataset[index] for index in range(start, min(start + batch_size, end))]
            yield detector.encode([sample.image for sample in samples]).to("cpu", torch.float16)
            targets.extend(sample.target for sample in samples)
            on_batch(len(samples))

    return EncodedDataset(concatenate(parts(), end), targets, dataset)
