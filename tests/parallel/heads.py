"""What heads say of a divided batch, and their losses and gradients: `python -m parallel.heads FILE`, alone or launched."""

import sys
from functools import partial

import torch
from contract.families import FAMILIES, IMAGES, MOBILENET, NUM_CLASSES, build, same_with
from torch import Tensor

from rl_det import parallel
from rl_det.detectors.divided import said_by
from rl_det.detectors.encodings import divided, encode_dataset, encode_in_the_loop
from rl_det.detectors.protocol import Part
from rl_det.types import Sample, Target

PARTS: tuple[Part, ...] = ("predictor", "head", "all")
DEPENDENT = (MOBILENET, "rt_detr", "rt_detr_v2", "d_fine")
"""Families whose whole model is not asked: MobileNet is `tiny`'s family, and slow; gradients of these random RT-DETRs double
by rounding, in one process too, as sampling points lie on borders of pixels."""
BATCHES = (2, 0, 1), (0, 2)
"""The images of a batch; of two processes, the second has image 1 alone, so it has none of the last batch."""


class Images:
    """Three images of three sizes, with an object each."""

    classes = tuple("abcdefgh"[:NUM_CLASSES])

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, index: int) -> Sample:
        if index >= len(IMAGES):
            raise IndexError(index)
        box = torch.tensor([[4.0, 5.0, 34.0, 30.0]]) + index
        target = Target(
            boxes=box,
            labels=torch.tensor([1 + index % NUM_CLASSES]),
            area=torch.tensor([750.0]),
            iscrowd=torch.zeros(1, dtype=torch.bool),
            image_id=index,
        )
        return Sample(image=IMAGES[index], target=target)


def said_and_gradients(family: str) -> dict[str, Tensor]:
    """For each part and batch: the head's output, the detector's own loss of it, and the mean gradients."""
    found: dict[str, Tensor] = {}
    for part in PARTS[:2] if family in DEPENDENT else PARTS:
        detector = same_with(part, build(family).detector)
        encode = partial(encode_dataset, detector, batch_size=1) if part != "all" else encode_in_the_loop
        data = divided(encode, Images())
        for batch in BATCHES:
            encoded = data.batch(torch.tensor(batch), detector)
            output = said_by(detector, encoded)
            losses = detector.loss(encoded, [data.targets[image] for image in batch], output)
            loss = torch.stack(list(losses.values())).sum() + output.logits.sigmoid().sum() + output.boxes.mean()
            detector.trainable.zero_grad()
            loss.backward()
            trained = list(detector.trainable.parameters())
            parallel.average_gradients(trained)
            gradients = [own.grad.flatten() for own in trained if own.grad is not None]
            name = f"{part} {len(batch)}"
            found |= {f"{name} logits": output.logits.detach(), f"{name} boxes": output.boxes.detach()}
            found |= {f"{name} loss": loss.detach(), f"{name} gradient": torch.cat(gradients)}
            found[f"{name} first"] = said_by(detector, encoded[:1]).logits.detach()
    return found


def main() -> None:
    """Write what all families say."""
    torch.set_num_threads(1)
    parallel.join()
    torch.save({family: said_and_gradients(family) for family in FAMILIES}, f"{sys.argv[1]}.{parallel.rank()}")


if __name__ == "__main__":
    main()
