"""Batches of images: every image once before any comes again, and the same ones from a kept state."""

import pytest
import torch

from rl_det.training.batches import ShuffledBatches


def batches(seed: int = 0, *, num_images: int = 6, batch_size: int = 4) -> ShuffledBatches:
    return ShuffledBatches(num_images, batch_size, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("batch_size", [1, 4, 6, 15])
def test_every_image_comes_once_before_any_comes_again(batch_size: int) -> None:
    drawn = batches(batch_size=batch_size)
    images = torch.cat([drawn.draw() for _ in range(6)]).tolist()
    assert all(len(drawn.draw()) == batch_size for _ in range(3))
    rounds = [images[start : start + 6] for start in range(0, len(images) - 5, 6)]
    assert all(sorted(one) == [0, 1, 2, 3, 4, 5] for one in rounds)
    assert len({tuple(one) for one in rounds}) == len(rounds) or len(rounds) == 1


def test_the_same_seed_draws_the_same_and_another_one_others() -> None:
    def drawn(seed: int) -> list[list[int]]:
        some = batches(seed)
        return [some.draw().tolist() for _ in range(5)]

    assert drawn(0) == drawn(0) != drawn(1)


@pytest.mark.parametrize("stop", range(6))
def test_they_go_on_from_a_kept_state(stop: int) -> None:
    whole, other = batches(), batches(seed=1)
    for _ in range(stop):
        whole.draw()
    kept = whole.state_dict()
    expected = [whole.draw().tolist() for _ in range(5)]
    other.load_state_dict(kept)
    assert [other.draw().tolist() for _ in range(5)] == expected
