"""What encodings depend on, by which kept ones are known: data, detector and code; and whether two differ by rounding only."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl_det.data import Dataset
from rl_det.data.annotated import AnnotatedImages
from rl_det.data.augment import Views
from rl_det.data.splits import Chosen, Fingerprinted, First, digest, fingerprint
from rl_det.detectors.frozen import PLAIN, FrozenPart
from rl_det.detectors.protocol import Detector
from rl_det.detectors.reading import batches
from rl_det.storage.weights import state_fingerprint
from rl_det.types import Encoded, Sample
from rl_det.version import __version__

FORMAT = 2
"""Raise this number with every change of the code after which encodings or warm starts come out differently."""
READ_TOGETHER = 16
TOLERANCE = 0.02
"""The difference that rounding may make, relative to the features' size."""
ALIKE_SHARE = 0.9
"""The share of an image's proposals that must be found again: where two are worth nearly the same, either may be kept."""
REASONS = {
    "data": "other images or labels",
    "weights": "other weights",
    "detector": "another detector",
    "part": "another trainable part",
    "num_images": "another number of images",
    "num_proposals": "another number of proposals",
    "frozen": "another precision",
    "rl_det": "another version of rl_det",
    "format": "another format of encodings",
}


def code_version() -> dict[str, object]:
    """The version of the code that computes encodings and warm starts."""
    return {"rl_det": __version__, "format": FORMAT}


def identity(
    detector: Detector,
    dataset: Dataset,
    *,
    num_images: int | None = None,
    num_proposals: int | None = None,
    frozen: FrozenPart = PLAIN,
) -> dict[str, Any]:
    """All that a data set's encodings depend on, in JSON's types, by the names of `REASONS`."""
    return {
        "data": content(dataset),
        "weights": state_fingerprint(detector.plain()),
        "detector": dict(vars(detector.architecture)),
        "part": detector.part,
        "num_images": len(dataset) if num_images is None else num_images,
        "num_proposals": num_proposals,
        **({"frozen": told} if (told := frozen.told(detector)) else {}),
        **code_version(),
    }


def difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """In words, in what two identities differ; None: in nothing."""
    differing = [words for name, words in REASONS.items() if then.get(name) != now.get(name)]
    return " and ".join(differing) or None


def content(dataset: Dataset) -> str:
    """16 hex digits that change if any image or any label changes.

    Views, first images and chosen images are known by the data sets behind them. A data set without a fingerprint of its
    own is read from end to end.
    """
    if isinstance(dataset, Views):
        return digest([content(dataset.dataset), dataset.num_views, dataset.augmentations])
    if isinstance(dataset, First):
        behind, count = dataset.dataset, len(dataset)
        if isinstance(behind, AnnotatedImages):
            return digest([behind.fingerprint(count), count])
        return digest([content(behind), count])
    if isinstance(dataset, Chosen):
        return digest([*map(content, dataset.datasets), dataset.places])
    if isinstance(dataset, Fingerprinted):
        return fingerprint(dataset)
    found = hashlib.sha256(repr((len(dataset), dataset.classes)).encode())
    for samples in batches(dataset, range(len(dataset)), READ_TOGETHER):
        for sample in samples:
            _update(found, sample)
    return found.hexdigest()[:16]


def _update(found: "hashlib._Hash", sample: Sample) -> None:
    target = sample.target
    for part in (sample.image, target.boxes, target.labels, target.area, target.iscrowd):
        found.update(repr((part.dtype, tuple(part.shape))).encode())
        found.update(part.contiguous().numpy(force=True).tobytes())
    found.update(str(target.image_id).encode())


def alike(ours: Encoded, theirs: Encoded) -> bool:
    """Whether two encodings of the same images are equal but for rounding, and for proposals worth nearly the same."""
    here, there = (
        {name: (tensor.shape, tensor.dtype) for name, tensor in one.tensors().items()} for one in (ours, theirs)
    )
    if here != there or not torch.equal(ours.input_size, theirs.input_size):
        return False
    return all(
        _proposals_alike(one.float(), ours.mask, other.float(), theirs.mask)
        if one.shape[:2] == ours.mask.shape
        else bool((one.float() - other.float()).abs().max() <= TOLERANCE * one.float().abs().max())
        for one, other in zip(ours.features, theirs.features, strict=True)
    )


def _proposals_alike(
    ours: Float[Tensor, "B P ..."],
    mask: Bool[Tensor, "B P"],
    theirs: Float[Tensor, "B P ..."],
    others: Bool[Tensor, "B P"],
) -> bool:
    """Whether nearly every proposal's features are among the other encoding's of this image, in any place."""
    for own, real, other, also_real in zip(ours.flatten(2), mask, theirs.flatten(2), others, strict=True):
        mine, yours = own[real], other[also_real]
        if min(len(mine), len(yours)) < ALIKE_SHARE * max(len(mine), len(yours)):
            return False
        if len(mine):
            near = torch.cdist(mine, yours).amin(1) <= TOLERANCE * mine.norm(dim=1).clamp(min=1e-3)
            if near.float().mean() < ALIKE_SHARE:
                return False
    return True
