"""A batch whose features are divided among the processes that train together, and the head that all of them ask.

Each process has the features of its own images, and runs the head on these. What the head says is exchanged, so from there
on every process works with the whole batch, as one process would.
"""

from dataclasses import dataclass, fields

from jaxtyping import Int
from torch import Tensor

from rl_det import parallel
from rl_det.detectors.protocol import Detector
from rl_det.types import Encoded, HeadOutput


@dataclass(frozen=True, kw_only=True)
class Divided(Encoded):
    """The encodings of a batch, of which each process has the features of some images; `features` is empty.

    `own` are this process's images, in their order, followed by others that do not count: one, if it has no image of the
    batch, as a head needs one. `owner` is the rank of each image's process.
    """

    own: Encoded
    owner: Int[Tensor, " B"]

    def __getitem__(self, images: Int[Tensor, " b"] | slice) -> "Divided":
        mine = self.owner == parallel.rank()
        place = (mine.cumsum(0) - 1)[images][mine[images]]
        return Divided(
            **vars(self.without_features()[images]),
            own=self.own[place if len(place) else slice(1)],
            owner=self.owner[images],
        )

    def without_features(self) -> Encoded:
        return Encoded(**{f.name: getattr(self, f.name) for f in fields(Encoded)})


def said_by(detector: Detector, encoded: Encoded) -> HeadOutput:
    """The head's output for these encodings, with gradient; for divided ones, each process runs it on its own images."""
    if not isinstance(encoded, Divided):
        return detector.head(encoded)
    number = int((encoded.owner == parallel.rank()).sum())
    own = detector.head(encoded.own).of_images(slice(number))
    logits, boxes, embeddings = (parallel.rows_of_all(part, encoded.owner) for part in own.tensors)
    for_losses = own.for_losses and {
        name: parallel.rows_of_all(part, encoded.owner, ragged=True) for name, part in own.for_losses.items()
    }
    return HeadOutput(logits, boxes, embeddings, for_losses)
