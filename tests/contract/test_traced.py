"""What a detector does by operations of tensors alone is what it does elsewhere, for each family and each part."""

import pytest
import torch
from contract.families import IMAGES, Case, same_with

from rl_det.candidates import select_candidates
from rl_det.detectors import Detector
from rl_det.detectors.protocol import Part, Traceable


@pytest.mark.parametrize("place", range(len(IMAGES)))
@torch.no_grad()
def test_the_traced_pass_finds_the_candidates_that_the_encoding_leads_to(detector: Detector, place: int) -> None:
    assert isinstance(detector, Traceable)
    encoded, output = detector.traced(IMAGES[place])
    wanted = detector.encode([IMAGES[place]])
    said = detector.head(wanted)
    assert torch.equal(encoded.image_size, wanted.image_size)
    assert torch.equal(encoded.input_size, wanted.input_size)
    assert encoded.mask.shape == wanted.mask.shape
    assert encoded.mask.sum() == wanted.mask.sum()
    ours, theirs = select_candidates(output, encoded.mask, 30), select_candidates(said, wanted.mask, 30)
    torch.testing.assert_close(ours.boxes, theirs.boxes, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-3, atol=1e-3)
    assert torch.equal(ours.labels, theirs.labels)
    torch.testing.assert_close(embeddings(output, ours), embeddings(said, theirs), rtol=1e-3, atol=1e-3)


def embeddings(output, candidates):  # type: ignore[no-untyped-def]
    """The embeddings of the candidates' proposals."""
    return output.embeddings[0][candidates.index[0] // output.logits.shape[-1]]


@pytest.mark.parametrize("part", ["predictor", "all"])
@torch.no_grad()
def test_the_traced_pass_does_not_depend_on_the_part_that_is_trained(case: Case, part: Part) -> None:
    other = same_with(part, case.detector)
    assert isinstance(case.detector, Traceable)
    assert isinstance(other, Traceable)
    (_, ours), (_, theirs) = case.detector.traced(IMAGES[1]), other.traced(IMAGES[1])
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=0, atol=0)
    torch.testing.assert_close(ours.boxes, theirs.boxes, rtol=0, atol=0)
