"""The set transformer over an image's candidates: blind to padding, to the order of its input, and to what lies behind."""

import pytest
import torch
from torch import Tensor, nn

from rl_det.policies.context_module import NUM_ATTENDED, NUM_RELATIONS, ContextModule, pairwise_relations

NUM_CLASSES = 3
EMBEDDING_SIZE = 6
Input = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def fresh() -> ContextModule:
    torch.manual_seed(0)
    return ContextModule(num_classes=NUM_CLASSES, embedding_size=EMBEDDING_SIZE, width=16, num_heads=2, num_layers=2)


@pytest.fixture
def module() -> ContextModule:
    """Its residual is no longer zero."""
    module = fresh()
    nn.init.normal_(module.residual.weight)
    return module


def random_input(num_images: int = 2, num_candidates: int = 7, seed: int = 0) -> Input:
    """Boxes, labels, logits, mask, embeddings; all real, best first."""
    generator = torch.Generator().manual_seed(seed)
    shape = num_images, num_candidates
    corner = 0.6 * torch.rand(*shape, 2, generator=generator)
    return (
        torch.cat([corner, corner + 0.05 + 0.35 * torch.rand(*shape, 2, generator=generator)], -1),
        torch.randint(1, NUM_CLASSES + 1, shape, generator=generator),
        torch.randn(shape, generator=generator).sort(1, descending=True).values,
        torch.ones(shape, dtype=torch.bool),
        torch.randn(*shape, EMBEDDING_SIZE, generator=generator),
    )


def padded(some: Input, count: int) -> Input:
    """With so many candidates more, of nonsense, that the mask denies."""
    nonsense = random_input(len(some[0]), count, seed=1)
    boxes, labels, logits, mask, embeddings = (torch.cat(pair, 1) for pair in zip(some, nonsense, strict=True))
    mask[:, -count:] = False
    return boxes, labels, logits, mask, embeddings


def test_at_the_start_the_logits_come_back_bit_for_bit() -> None:
    some = random_input()
    assert torch.equal(fresh()(*some), some[2])


def test_its_residual_sees_every_part_of_a_candidate(module: ContextModule) -> None:
    some = random_input()
    before = module(*some) - some[2]
    others = random_input(seed=1)
    for part in (0, 1, 2, 4):
        changed = list(some)
        changed[part] = others[part]
        assert ((module(*changed) - changed[2] - before).abs() > 1e-4).any(), part


def test_a_candidate_is_influenced_by_its_neighbours(module: ContextModule) -> None:
    boxes, labels, logits, mask, embeddings = random_input()
    before = module(boxes, labels, logits, mask, embeddings)
    embeddings[:, 3] += 2.0
    after = module(boxes, labels, logits, mask, embeddings)
    assert ((after - before).abs() > 1e-5).all()


def test_padding_does_not_influence_real_candidates(module: ContextModule) -> None:
    some = random_input()
    torch.testing.assert_close(module(*padded(some, 4))[:, :7], module(*some), rtol=0, atol=1e-5)


def test_padding_gets_no_residual(module: ContextModule) -> None:
    some = padded(random_input(), 4)
    assert torch.equal(module(*some)[:, 7:], some[2][:, 7:])


def test_one_images_candidates_do_not_influence_anothers(module: ContextModule) -> None:
    some, others = random_input(), random_input(seed=1)
    mixed = [torch.cat([part[:1], other[1:]]) for part, other in zip(some, others, strict=True)]
    torch.testing.assert_close(module(*mixed)[0], module(*some)[0], rtol=0, atol=1e-5)


def test_candidates_in_another_order_get_the_same_logits_in_that_order(module: ContextModule) -> None:
    some = random_input()
    order = torch.tensor([4, 0, 6, 2, 1, 5, 3])
    shuffled = [part[:, order] for part in some]
    torch.testing.assert_close(module(*shuffled), module(*some)[:, order], rtol=0, atol=1e-5)


def test_tied_duplicates_get_tied_logits(module: ContextModule) -> None:
    some = [part[:, [0, 0, 1]] for part in random_input()]
    better = module(*some)
    torch.testing.assert_close(better[:, 0], better[:, 1], rtol=0, atol=1e-5)


def test_an_image_without_candidates_gives_finite_values_and_gradients(module: ContextModule) -> None:
    boxes, labels, logits, mask, embeddings = random_input()
    mask[1] = False
    boxes[1], embeddings[1] = 0.0, 0.0
    better = module(boxes, labels, logits, mask, embeddings)
    assert better.isfinite().all()
    assert torch.equal(better[1], logits[1])
    better.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in module.parameters())


def test_a_single_candidate_without_area_gives_finite_values_and_gradients(module: ContextModule) -> None:
    boxes, labels, logits, mask, embeddings = random_input(1, 1)
    boxes = torch.zeros_like(boxes).requires_grad_()
    better = module(boxes, labels, logits, mask, embeddings)
    (gradient,) = torch.autograd.grad(better.sum(), boxes)
    assert better.isfinite().all()
    assert gradient.isfinite().all()


def test_scale_and_shift_map_the_better_logits(module: ContextModule) -> None:
    some = random_input()
    before = module(*some)
    module.scale.fill_(0.5)
    module.shift.fill_(-2.0)
    torch.testing.assert_close(module(*some), 0.5 * before - 2.0)
    assert {"scale", "shift"} <= module.state_dict().keys()
    assert not {"scale", "shift"} & dict(module.named_parameters()).keys()


def test_the_logits_get_the_gradient_of_an_identity(module: ContextModule) -> None:
    some = random_input()
    logits = some[2].requires_grad_()
    (gradient,) = torch.autograd.grad(module(*some).sum(), logits)
    assert (gradient == 1).all()


def test_candidates_behind_the_best_keep_their_logits_and_are_not_seen(module: ContextModule) -> None:
    some = random_input(1, NUM_ATTENDED + 5)
    ahead = [part[:, :NUM_ATTENDED] for part in some]
    better = module(*some)
    assert torch.equal(better[:, NUM_ATTENDED:], some[2][:, NUM_ATTENDED:])
    torch.testing.assert_close(better[:, :NUM_ATTENDED], module(*ahead), rtol=0, atol=1e-5)
    assert not torch.allclose(better[:, :NUM_ATTENDED], ahead[2])


def test_relations_are_what_they_are_called() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 0.2, 0.2], [0.0, 0.1, 0.2, 0.3], [0.5, 0.5, 0.9, 0.9]]])
    logits = torch.tensor([[1.0, 3.0, 3.0]])
    relations = pairwise_relations(boxes, torch.tensor([[1, 1, 2]]), logits)
    assert relations.shape == (1, 3, 3, NUM_RELATIONS)
    iou, same, both, above, over, gap, distance, size = relations[0].unbind(-1)
    third = 1 / 3
    torch.testing.assert_close(iou, torch.tensor([[1, third, 0], [third, 1, 0], [0, 0, 1]]), rtol=0, atol=1e-5)
    assert same.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    torch.testing.assert_close(both, iou * same)
    assert above.tolist() == [[0, 1, 1], [0, 0, 0], [0, 0, 0]]  # is the column above the row? a tie is not
    torch.testing.assert_close(over, above * both)
    torch.testing.assert_close(gap[0], torch.tensor([0.0, 0.5, 0.5]).tanh())
    torch.testing.assert_close(distance[0], torch.tensor([0.0, 0.1, 0.6 * 2**0.5]), rtol=0, atol=1e-5)
    torch.testing.assert_close(size[2], torch.tensor([0.25, 0.25, 1.0]).log().tanh(), rtol=0, atol=1e-4)
