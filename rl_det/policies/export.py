"""A tuned policy -> files that work without rl_det: a torchvision state_dict and, where there is one, the context module."""

from copy import deepcopy
from pathlib import Path

import torch
from torch.export import Dim

from rl_det.detectors import save_state
from rl_det.policies.context import ContextPolicy
from rl_det.policies.head import copied
from rl_det.policies.policy import Policy
from rl_det.policies.voting import VotingPolicy


def export(policy: Policy, folder: Path, num_candidates: int) -> list[Path]:
    """Write `detector.pt`, the plain model's state_dict, and for a context policy `context.pt2`; returns the files.

    `torch.export.load("context.pt2").module()` takes boxes relative to the image [B, N, 4], labels [B, N], logits [B, N],
    mask [B, N] and the box head's outputs [B, N, D] of the plain detector's N best candidates, any B, and returns logits.
    For a voting policy `voting.pt`, the state_dict of `rl_det.policies.voting_module.VotingModule`, a file without rl_det's
    other parts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    detector = folder / "detector.pt"
    save_state(policy.detector.plain(), detector)
    if isinstance(policy, VotingPolicy):
        voting = folder / "voting.pt"
        torch.save(copied(policy.module.state_dict()), voting)
        return [detector, voting]
    if not isinstance(policy, ContextPolicy):
        return [detector]
    context = folder / "context.pt2"
    module = deepcopy(policy.module).cpu().eval()  # the policy may go on training, on its device
    size = 2, num_candidates
    example = (
        torch.rand(*size, 4),
        torch.ones(size, dtype=torch.int64),
        torch.zeros(size),
        torch.ones(size, dtype=torch.bool),
        torch.zeros(*size, module.embedding.in_features),
    )
    batch = {0: Dim("images")}
    torch.export.save(torch.export.export(module, example, dynamic_shapes=(batch,) * 5), context)
    return [detector, context]
