"""The proposals that overlap a candidate: compiled code and tensors find the same, and its own proposal always counts."""

import numpy as np
import pytest
import torch
from torch import Tensor

from rl_det.candidates import gather_boxes
from rl_det.candidates import neighbours as module
from rl_det.candidates.neighbours import neighbours, overlapping, overlapping_by_tensors

LENGTHS = (0.0, 0.1, 0.2, 0.3, 0.30000001192092896, 0.4)


def some_boxes(
    seed: int, *, num_images: int = 3, num_proposals: int = 9, num_classes: int = 2
) -> tuple[Tensor, Tensor]:
    """Boxes on a grid, so that many touch, have no area, are equal, or overlap by exactly a half; and ones at random."""
    rng = np.random.default_rng(seed)
    shape = num_images, num_proposals, num_classes, 2
    corner, side = rng.choice(LENGTHS, shape), rng.choice(LENGTHS, shape)
    near = rng.random(shape) < 0.5
    corner, side = corner + near * rng.normal(0, 0.05, shape), side + near * rng.random(shape) * 0.1
    boxes = torch.from_numpy(np.concatenate([corner, corner + side], -1)).float()
    return boxes, torch.from_numpy(rng.integers(0, num_proposals * num_classes, (num_images, 7)))


@pytest.mark.parametrize("seed", range(20))
def test_compiled_code_and_tensors_find_the_same(seed: int) -> None:
    boxes, index = some_boxes(seed)
    own, columns = gather_boxes(boxes, index), index % boxes.shape[2]
    found = overlapping(own, columns, boxes)
    assert torch.equal(found, overlapping_by_tensors(own, columns, boxes))
    assert found.any()
    assert not found.all()


def test_boxes_that_are_not_finite_are_no_neighbours_but_of_themselves() -> None:
    boxes, index = some_boxes(0)
    boxes[0, 0], boxes[1, 1, :, 2], boxes[2, 2, :, 0] = torch.nan, torch.inf, -torch.inf
    own = gather_boxes(boxes, index)
    assert torch.equal(overlapping(own, index % 2, boxes), overlapping_by_tensors(own, index % 2, boxes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_candidates_own_proposal_counts_without_area_too(dtype: torch.dtype) -> None:
    boxes = torch.zeros(1, 3, 2, 4, dtype=dtype)
    index = torch.tensor([[0, 3, 4]])
    assert torch.stack(neighbours(boxes.flatten(1, 2)[:, index[0]], index, boxes), -1).tolist() == [
        [0, 0], [1, 1], [2, 2]
    ]  # fmt: skip


def test_the_boxes_may_lie_apart_in_memory_and_need_a_gradient() -> None:
    boxes, index = some_boxes(3)
    own = gather_boxes(boxes, index)
    apart = boxes.permute(2, 1, 0, 3).contiguous().permute(2, 1, 0, 3).requires_grad_()
    assert not apart.is_contiguous()
    for found, expected in zip(neighbours(own, index, apart), neighbours(own, index, boxes), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("by", ["export", "trace"])
def test_a_program_that_is_traced_has_tensors_alone(monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("compiled code is no part of a program")

    class Pairs(torch.nn.Module):
        def forward(self, own: Tensor, index: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
            return neighbours(own, index, boxes)

    boxes, index = some_boxes(4)
    given = gather_boxes(boxes, index), index, boxes
    expected = Pairs()(*given)
    monkeypatch.setattr(module, "overlapping", refuse)
    if by == "trace":  # as torch.onnx does; torch.jit.trace itself does not bear the tests' run-time types
        monkeypatch.setattr(torch.jit, "is_tracing", lambda: True)
    program = torch.export.export(Pairs(), given).module() if by == "export" else Pairs()
    for found, pairs in zip(program(*given), expected, strict=True):
        assert torch.equal(found, pairs)
