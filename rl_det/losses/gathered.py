"""Gather values from all processes, so that they can be ranked together."""

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor


def gathered(values: Shaped[Tensor, " M *rest"]) -> Shaped[Tensor, " N *rest"]:
    """The values of all processes, in order of rank; each process may have a different number. With one process, its own.

    Gradient flows only to this process's own values. So if every process computes the same loss of the gathered values,
    the *sum* of the parameters' gradients over the processes equals that of one process with the whole batch.
    DistributedDataParallel takes their mean, so multiply the loss by the number of processes.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return values
    own = torch.tensor([len(values)], device=values.device)
    counts = [torch.zeros_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, own)
    longest = max(int(count) for count in counts)
    padded = values.detach().new_zeros(longest, *values.shape[1:])
    padded[: len(values)] = values.detach()
    everyone = [torch.zeros_like(padded) for _ in counts]
    dist.all_gather(everyone, padded)
    parts = [part[: int(count)] for part, count in zip(everyone, counts, strict=True)]
    parts[dist.get_rank()] = values
    return torch.cat(parts)
