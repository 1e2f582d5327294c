"""Two processes that rank together, each with half of the batch, learn what one process with all of it learns."""

import json
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from losses.lists import LOSSES, Listing, listing
from torch import Tensor

from rl_det.losses.gathered import gathered

SPLIT = 25
"""Of 40 entries; the processes have different numbers."""


def gradient_of_weight(name: str, part: Listing, weight: Tensor) -> Tensor:
    """The gradient of a parameter that all scores depend on, where the loss ranks what all processes have."""
    everyone = Listing(gathered(part.scores * weight), *(gathered(field) for field in part[1:]))
    (gradient,) = torch.autograd.grad(LOSSES[name](*everyone), weight)
    return gradient


def half(rank: int) -> Listing:
    whole = Listing(*(part[0] for part in listing(0, 1)))
    return Listing(*(part[:SPLIT] if rank == 0 else part[SPLIT:] for part in whole))


def work(rank: int, folder: str) -> None:
    """One of the two processes; the first writes what they have found."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    found = {}
    for name in LOSSES:
        gradient = gradient_of_weight(name, half(rank), torch.tensor(1.3, requires_grad=True))
        dist.all_reduce(gradient)
        found[name] = float(gradient)
    if rank == 0:
        Path(folder, "found.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    mp.spawn(work, args=(str(tmp_path),), nprocs=2)
    found = json.loads((tmp_path / "found.json").read_text())
    whole = Listing(*(torch.cat([half(0)[i], half(1)[i]]) for i in range(4)))
    for name in LOSSES:
        expected = gradient_of_weight(name, whole, torch.tensor(1.3, requires_grad=True))
        torch.testing.assert_close(torch.tensor(found[name]), expected, rtol=1e-4, atol=1e-6, msg=name)
        apart = sum(gradient_of_weight(name, half(rank), torch.tensor(1.3, requires_grad=True)) for rank in (0, 1))
        assert abs(float(apart - expected)) > 1e-3  # ranked each by itself, they learn something else


def test_alone_a_process_gathers_itself() -> None:
    scores = torch.ones(3, requires_grad=True)
    assert gathered(scores) is scores
