"""Several processes that train one model, as `torchrun` and `accelerate launch` start them: who they are, what they exchange.

The work is divided by images, never the results: each process computes the expensive part of some images, and all of them
learn what it gave. From there on, every process does the same with the same numbers, so a batch, a pool, a mean or a
number of positives is always that of all processes. The *main* process, of rank 0, is the only one that writes files and
lines.
"""

import atexit
import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch import distributed as dist

from rl_det.errors import UserError

Value = TypeVar("Value")


class LostError(UserError):
    """Another process that trains with this one has ended."""


LOST = ("Connection closed", "Connection reset", "Broken pipe", "Timed out", "Connection refused")
"""What gloo says if it no longer reaches a process."""
LONGEST_WAIT = datetime.timedelta(hours=4)
"""How long a process waits for the others. One that has died is noticed at once, by its launcher."""


def world_size() -> int:
    """The number of processes that train together; 1 if this process was not launched with others."""
    return dist.get_world_size() if dist.is_initialized() else 1


def launched() -> int:
    """The number of processes that the launcher has started."""
    return int(os.environ.get("WORLD_SIZE", "1")) if {"RANK", "MASTER_ADDR"} <= os.environ.keys() else 1


def rank() -> int:
    """This process's number, from 0; the launcher's, before the processes have joined."""
    if dist.is_initialized():
        return dist.get_rank()
    return int(os.environ["RANK"]) if launched() > 1 else 0


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def own_device() -> torch.device:
    """This process's CUDA device, now torch's present one: that of its number on this machine; the present one if it is alone.

    Raises UserError if the machine has fewer devices than processes.
    """
    if launched() == 1:
        return torch.device("cuda", torch.cuda.current_device())
    number, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= count:
        raise UserError(
            f"each process must have a CUDA device of its own; this machine has {count}, and process {number} (LOCAL_RANK, "
            f"from 0) finds none; launch {count} (--nproc-per-node {count}, --num_processes {count}), or choose the device "
            "cpu (--device cpu)"
        )
    own = torch.device("cuda", number)
    torch.cuda.set_device(own)
    return own


def join() -> None:
    """Let the processes of this launch work together from now on; in one process, and a second time, it changes nothing.

    They stay together until they end: a group that was left cannot be joined anew. No device is touched yet: `own_device`
    does that, where CUDA is chosen.
    """
    if launched() == 1 or dist.is_initialized():
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=LONGEST_WAIT)
    atexit.register(dist.destroy_process_group)


def check_alone(what: str) -> None:
    """Raise UserError if this process was launched with others, and `what` it does is the work of one."""
    if launched() > 1:
        raise UserError(f"{what} is the work of one process; start it alone, without torchrun or accelerate")


def of_main(compute: Callable[[], Value]) -> Value:
    """What the main process computes, in all processes; what it raises there is raised in all."""
    if world_size() == 1:
        return compute()
    told: list[Any] = [None]
    if is_main():
        try:
            told = [(True, compute())]
        except Exception as error:
            told = [(False, error)]
    with _together():
        dist.broadcast_object_list(told)
    sound, value = told[0]
    if not sound:
        raise value
    result: Value = value
    return result


def sum_of(values: Tensor) -> Tensor:
    """The sum of all processes' tensors, with the gradient that it has in all of them."""
    total: Tensor = _Sum.apply(values)
    return total


def of_all(value: Value) -> list[Value]:
    """Every process's value, by rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    with _together():
        dist.all_gather_object(values, value)
    return values


def mean_of(value: float) -> float:
    """The mean of every process's number, which is the number itself, to the last digit, where all have the same."""
    if world_size() == 1:
        return value
    values = torch.cat(_parts(torch.tensor([value], dtype=torch.float64))).tolist()
    return value if all(other == value for other in values) else sum(values) / len(values)


def _parts(own: Tensor) -> list[Tensor]:
    """Every process's tensor, all of one shape, by rank."""
    parts = [torch.empty_like(own) for _ in range(world_size())]
    with _together():
        dist.all_gather(parts, own)
    return parts


@contextmanager
def _together() -> Iterator[None]:
    """A context of one exchange; LostError if another process has ended."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or any(words in str(error) for words in LOST)):
            raise
        raise LostError(
            f"another of the {world_size()} processes has ended, so this one ends too; the launcher says which was the "
            f"first ({str(error).splitlines()[0]})"
        ) from error


def share_of(number: int) -> slice:
    """This process's part of so many things in a row; the parts differ by one at most, and stand in the order of the ranks."""
    start, end = (number * position // world_size() for position in (rank(), rank() + 1))
    return slice(start, end)


def number_of_own(number: int) -> int:
    """How many of so many things are this process's, if each takes every `world_size()`-th."""
    return len(range(rank(), number, world_size()))


def owners_of(number: int) -> Int[Tensor, " n"]:
    """The rank of the process to whose `share_of(number)` each thing belongs."""
    ends = torch.tensor([number * position // world_size() for position in range(world_size() + 1)])
    return torch.arange(world_size()).repeat_interleave(ends.diff())


def rows_of_all(own: Tensor, owner: Int[Tensor, " B"], *, ragged: bool = False) -> Tensor:
    """The rows [B, ...] of all processes; each has computed its `own` rows, in their order, and `owner` is each row's rank.

    If they are `ragged`, their second axis is padded with zeros to that of the longest; all other axes must agree.

    Each process's gradient for its own rows is scaled so that a parameter's gradients, averaged over the processes
    (`average_gradients`), are those of one process that computes all rows. This holds for rows of which every process goes
    on to compute the same, and for parameters that every process applies to all rows.
    """
    gathered: Tensor = _Rows.apply(own, owner, ragged)
    return gathered


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, owner: Tensor, ragged: bool) -> Tensor:
        ctx.mine, ctx.shape = (owner == rank()).nonzero().flatten().to(own.device), own.shape
        counts = torch.bincount(owner.cpu(), minlength=world_size()).tolist()
        rest = list(own.shape[1:])
        if ragged:
            rest[0] = max(of_all(rest[0] if len(own) else 0))
        padded = own.new_zeros(max(counts), *rest)
        if len(own):
            padded[tuple(slice(length) for length in own.shape)] = own
        sent = (padded.to(torch.uint8) if padded.dtype == torch.bool else padded).contiguous()
        rows = torch.cat([part[:count] for part, count in zip(_parts(sent), counts, strict=True)])
        back = owner.argsort(stable=True).argsort().to(rows.device)
        return rows[back].to(own.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        own = gradient.new_zeros(ctx.shape)
        if len(own):
            own = gradient[ctx.mine][tuple(slice(length) for length in ctx.shape)]
        return own * world_size(), None, None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _summed(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _summed(*gradients)


def _summed(values: Tensor) -> Tensor:
    total = values.clone(memory_format=torch.contiguous_format)
    with _together():
        dist.all_reduce(total)
    return total


@torch.no_grad()
def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace each gradient by its mean over all processes; one that no process has stays absent."""
    if world_size() == 1:
        return
    there = _summed(torch.tensor([own.grad is not None for own in parameters]).int())
    needed = [own for own, anywhere in zip(parameters, there.tolist(), strict=True) if anywhere]
    gradients = [own.grad if own.grad is not None else torch.zeros_like(own) for own in needed]
    flat = _summed(torch.cat([gradient.flatten() for gradient in gradients])) / world_size()
    for own, mean in zip(needed, flat.split([own.numel() for own in needed]), strict=True):
        own.grad = mean.view_as(own)
