"""A data set's encodings: kept in memory or on disk, as the frozen part's output does not change, or computed in the loop."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rl_det import parallel
from rl_det.data import Dataset, file_of
from rl_det.data.splits import Chosen
from rl_det.detectors import encodings_on_disk
from rl_det.detectors.contents import alike, difference, identity
from rl_det.detectors.divided import Divided, said_by
from rl_det.detectors.frozen import PLAIN, FrozenPart
from rl_det.detectors.protocol import Detector
from rl_det.detectors.reading import batches, read
from rl_det.errors import NotFiniteError, UserError
from rl_det.progress import tell
from rl_det.storage.memory import give_back, read_of_files
from rl_det.storage.weights import state_fingerprint
from rl_det.types import Candidates, Encoded, HeadOutput, Sample, Target, concatenate


@dataclass
class Said:
    """What one head said of a data set, so that policies on the same head need not ask it again; the last head alone."""

    head: str = ""
    """The fingerprint of its weights."""
    of_batches: dict[tuple[int, int], tuple[Encoded, HeadOutput]] = field(default_factory=dict)
    """By the first and the last image: the encodings without features, and the head's output."""


@dataclass(frozen=True)
class EncodedDataset:
    """A data set's encodings, on the CPU or on disk with features in half precision, and its targets."""

    encoded: Encoded = field(repr=False)
    targets: list[Target] = field(repr=False)
    source: Dataset | None = None
    """The images themselves, if they are known."""
    said: Said = field(default_factory=Said, compare=False, repr=False)
    kept: ClassVar[bool] = True

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def batch_size(self) -> int:
        """The images whose encodings in single precision take a quarter of a gigabyte, at most 50."""
        return images_in(BATCH_BYTES, self.encoded, most=50)

    def in_memory(self) -> "EncodedDataset":
        """The same, not on disk."""
        return replace(self, encoded=self.encoded.map(Tensor.clone))

    def batch(self, images: Int[Tensor, " b"], detector: Detector) -> Encoded:
        """The encodings of some images, on the detector's device, with features in single precision."""
        chosen = self.encoded[images]
        read_of_files(sum(part.element_size() * part.numel() for part in chosen.features))
        return chosen.to(detector.device, torch.float32)


@dataclass(frozen=True)
class EncodedInTheLoop:
    """A data set whose images are read and encoded each time that they are asked for; nothing is kept but the targets.

    Features are rounded as in a cache, so that a run does not depend on where its encodings are; images, if the whole
    detector is trained, are not.
    """

    source: Dataset
    targets: list[Target]
    batch_size: int
    num_proposals: int | None = None
    frozen: FrozenPart = PLAIN
    said: Said = field(default_factory=Said, compare=False, repr=False)
    kept: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, images: Int[Tensor, " b"], detector: Detector) -> Encoded:
        """Encode some images by this detector, which must share its frozen part with every other that asks."""
        samples = read(self.source, images.tolist())
        with self.frozen.of(detector):
            encoded = detector.encode([sample.image for sample in samples], self.num_proposals)
        if detector.part == "all":
            return encoded
        return encoded.to(encoded.mask.device, torch.float16).to(encoded.mask.device, torch.float32)


@dataclass(frozen=True)
class DividedDataset:
    """A data set of which each process encodes every `world_size`-th image, from its rank on."""

    own: EncodedDataset | EncodedInTheLoop
    """This process's images."""
    targets: list[Target]
    """Of all images."""
    source: Dataset
    light: Encoded | None
    """All images without features, if they are kept."""
    said: Said = field(default_factory=Said, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def kept(self) -> bool:
        """Whether this process's encodings are kept."""
        return self.own.kept

    @property
    def batch_size(self) -> int:
        """The images whose encodings each process holds at once."""
        return self.own.batch_size

    def batch(self, images: Int[Tensor, " b"], detector: Detector) -> Divided:
        """The encodings of some images, of which this process has the features of its own."""
        owner = images % parallel.world_size()
        mine = images[owner == parallel.rank()] // parallel.world_size()
        own = self.own.batch(mine if len(mine) else torch.zeros(1, dtype=torch.int64), detector)
        owner = owner.to(own.mask.device)
        light = _light(own[: len(mine)], owner) if self.light is None else self.light[images].to(own.mask.device)
        return Divided(**vars(light), own=own, owner=owner)


def divided(encode: Callable[[Dataset], EncodedDataset | EncodedInTheLoop], dataset: Dataset) -> "Encodings":
    """The data set's encodings, of which each process that trains together makes and keeps its share; alone: all.

    Raises ValueError if there are more processes than images.
    """
    number = parallel.world_size()
    if number == 1:
        return encode(dataset)
    if len(dataset) < number:
        raise UserError(f"each process must have an image of its own; there are {number} and {len(dataset)} images")
    own = encode(Chosen([dataset], [(0, index) for index in range(parallel.rank(), len(dataset), number)]))
    targets: list[Target] = [None] * len(dataset)  # type: ignore[list-item]
    for process, some in enumerate(parallel.of_all(own.targets)):
        targets[process::number] = some
    owner = torch.arange(len(dataset)) % number
    light = _light(own.encoded, owner) if isinstance(own, EncodedDataset) else None
    return DividedDataset(own=own, targets=targets, source=dataset, light=light)


def _light(own: Encoded, owner: Int[Tensor, " B"]) -> Encoded:
    """What every process knows of all images: their encodings without features."""
    tensors = own.without_features().tensors()
    return Encoded.of({name: parallel.rows_of_all(part, owner) for name, part in tensors.items()})


@runtime_checkable
class Encodings(Protocol):
    """A data set's encodings, wherever they are: kept by this process, by several, or computed in the loop."""

    @property
    def targets(self) -> list[Target]:
        """Each image's true boxes."""
        ...

    @property
    def source(self) -> Dataset | None:
        """The images themselves, if they are known."""
        ...

    @property
    def said(self) -> Said:
        """What the head that was asked last said of all images."""
        ...

    @property
    def kept(self) -> bool:
        """Whether encodings are kept, so that an image costs little a second time."""
        ...

    @property
    def batch_size(self) -> int:
        """The images that are asked for at once where no gradient is needed."""
        ...

    def __len__(self) -> int: ...

    def batch(self, images: Int[Tensor, " b"], detector: Detector) -> Encoded:
        """The encodings of some images, on the detector's device, with features in single precision."""
        ...


def names_of(data: Encodings, images: Iterable[int]) -> list[str]:
    """The images' ids, and their files where they are known: what a message calls them."""
    files = {index: file_of(data.source, index) for index in images}
    return [f"{data.targets[index].image_id}{f' ({str(file)!a})' if file else ''}" for index, file in files.items()]


def check_finite(
    said: HeadOutput | Candidates, mask: Bool[Tensor, "B M"], data: Encodings, images: Sequence[int]
) -> None:
    """Raise NotFiniteError, which names the images, if a box or a logit is NaN or infinite where the mask is set.

    A logit of -inf is sound: it is that of a score of 0.
    """
    sound = said.boxes.isfinite().flatten(2).all(-1)
    sound &= (said.logits.isfinite() | said.logits.isneginf()).view(*mask.shape, -1).all(-1)
    if wrong := (mask & ~sound).any(1).nonzero().flatten().tolist():
        raise NotFiniteError("the detector's output is NaN or infinite", names_of(data, [images[row] for row in wrong]))


SAID_BYTES = 2**28
"""The most memory for what a head said of a data set."""
CHECKED = 6
"""How many images of the first batch are compared, to check that the encodings in a folder are this detector's."""
BATCH_BYTES = 2**28
"""The features of one batch, in single precision."""


@torch.no_grad()
def spoken(data: Encodings, detector: Detector, batch_size: int) -> Iterator[tuple[Encoded, HeadOutput]]:
    """What the head says of all images, batch after batch, without gradient; the encodings may lack features.

    It is remembered until another head is asked, if it is small enough.
    """
    head = state_fingerprint(detector.trainable)
    if data.said.head != head:
        data.said.head, data.said.of_batches = head, {}
    for images in torch.arange(len(data)).split(batch_size):
        place = int(images[0]), int(images[-1])
        if place in data.said.of_batches:
            yield data.said.of_batches[place]
            continue
        encoded = data.batch(images, detector)
        output = said_by(detector, encoded)
        each = sum(part.element_size() * part.numel() for part in output.tensors) // len(images)
        if each * len(data) <= SAID_BYTES:
            data.said.of_batches[place] = encoded.without_features(), output
        yield encoded, output


def encode_dataset(
    detector: Detector,
    dataset: Dataset,
    *,
    num_images: int | None = None,
    batch_size: int = 16,
    num_proposals: int | None = None,
    frozen: FrozenPart = PLAIN,
    folder: Path | None = None,
    remake: bool = False,
    on_batch: Callable[[int], None] = lambda num_images: None,
) -> EncodedDataset:
    """Encode every image, or the first `num_images`, in order; `on_batch` is called with each batch's number of images.

    Worker processes read images ahead. `num_proposals` keeps each image's best proposals only
    (`Detector.encode`); `frozen` says how the frozen part runs. With a folder, the encodings are kept there instead of in
    memory, and the next call reuses them, if they are of the same data, weights and code, and no byte of them has changed;
    a batch is encoded again to see what these do not tell. Else it raises ValueError, which names the folder; with
    `remake`, it says so in one line, and makes them anew.
    """
    end = len(dataset) if num_images is None else min(num_images, len(dataset))

    targets: list[Target] = []

    def parts() -> Iterator[Encoded]:
        for samples in batches(dataset, range(end), batch_size):
            yield _encoded(detector, samples, num_proposals, frozen)
            targets.extend(sample.target for sample in samples)
            give_back()
            on_batch(len(samples))

    if folder is None:
        return EncodedDataset(concatenate(parts(), end), targets, dataset)
    about = identity(detector, dataset, num_images=end, num_proposals=num_proposals, frozen=frozen)
    if folder.exists():
        try:
            return _kept(folder, detector, dataset, about, frozen)
        except encodings_on_disk.KeptError as error:
            if not remake:
                raise
            tell(f"{error.what}; they are made anew")
    told = {"of": about, "batch_size": batch_size}
    encodings_on_disk.write(folder, parts(), targets, end, told, replace=remake)
    return EncodedDataset(*_read(folder, about), dataset)


def encode_in_the_loop(
    dataset: Dataset,
    *,
    batch_size: int = 16,
    num_proposals: int | None = None,
    frozen: FrozenPart = PLAIN,
    on_batch: Callable[[int], None] = lambda num_images: None,
) -> EncodedInTheLoop:
    """Read all targets now; read and encode images when they are asked for, at most `batch_size` at a time in validations."""
    targets: list[Target] = []
    for samples in batches(dataset, range(len(dataset)), batch_size):
        targets.extend(sample.target for sample in samples)
        on_batch(len(samples))
    return EncodedInTheLoop(dataset, targets, batch_size, num_proposals, frozen)


def images_in(num_bytes: int, encoded: Encoded, *, most: int) -> int:
    """The number of images whose features take so many bytes in single precision; at least 1, at most `most`."""
    each = sum(4 * level[:1].numel() for level in encoded.features)
    return max(1, min(most, num_bytes // max(each, 1)))


def _encoded(detector: Detector, samples: list[Sample], num_proposals: int | None, frozen: FrozenPart) -> Encoded:
    """Encode one batch, in half precision on the CPU."""
    with frozen.of(detector):
        return detector.encode([sample.image for sample in samples], num_proposals).to("cpu", torch.float16)


def _kept(
    folder: Path, detector: Detector, dataset: Dataset, about: dict[str, Any], frozen: FrozenPart
) -> EncodedDataset:
    """The encodings in this folder; KeptError if they are damaged, of something else, or not what the detector gives now.

    The first batch is encoded again, whole, as padding depends on all its images.
    """
    encoded, targets = _read(folder, about)
    first = range(min(encodings_on_disk.read_contents(folder)["batch_size"], len(targets)))
    fresh = _encoded(detector, read(dataset, first), about["num_proposals"], frozen)
    if not alike(fresh[:CHECKED], encoded[: len(first)][:CHECKED]):
        raise _of_others(folder, about, len(targets), "other settings of the detector, or other code")
    return EncodedDataset(encoded, targets, dataset)


def _read(folder: Path, about: dict[str, Any]) -> tuple[Encoded, list[Target]]:
    """The encodings in this folder; KeptError if they are damaged, or of something else."""
    of = encodings_on_disk.read_contents(folder)["of"]
    if differs := difference(of, about):
        raise _of_others(folder, about, of["num_images"], differs)
    return encodings_on_disk.read(folder)


def _of_others(folder: Path, about: dict[str, Any], num_images: int, differs: str) -> encodings_on_disk.KeptError:
    return encodings_on_disk.KeptError(
        f"{folder}: must hold this detector's encodings of these {about['num_images']} images; it holds others, of "
        f"{num_images}: {differs}",
        "give another folder, or delete it to have it made anew",
    )
