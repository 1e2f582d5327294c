"""Export a tuned policy to files that work without rl_det: a torchvision state_dict, and the policy's module if it has one."""

from pathlib import Path

import torch
from torch.export import Dim

from rl_det.detectors.loading import DETECTOR
from rl_det.detectors.transformers.pretrained import WEIGHTS, save_pretrained
from rl_det.detectors.transformers.query import QueryDetector
from rl_det.policies.context import ContextPolicy
from rl_det.policies.head import HeadWithModule
from rl_det.policies.policy import Policy
from rl_det.policies.programs import write_program
from rl_det.policies.refine import RefinePolicy
from rl_det.policies.voting import VotingPolicy
from rl_det.storage.weights import save_state

MODULE = "module.safetensors"
CONTEXT_PROGRAM, VOTING_PROGRAM = "context.pt2", "voting.pt2"


def export(policy: Policy, folder: Path, num_candidates: int, classes: tuple[str, ...] = ()) -> list[Path]:
    """Write the plain detector, and the policy's module if it has one; return the files.

    torchvision's detector is a state_dict, `detector.pt`; transformers' is what `save_pretrained` writes, with the names of
    the classes.

    `module.safetensors` holds the module's weights. A `.pt2` file holds the module as a program that needs only torch
    and takes any number of images.

    A context policy's `context.pt2` is for the plain detector's N best candidates. `torch.export.load(...).module()`
    takes their boxes relative to the image [B, N, 4], labels [B, N], logits [B, N], mask [B, N] and box head outputs
    [B, N, D], and returns logits. A voting or refining policy's `voting.pt2` takes boxes, logits and indices p * C + c of any
    number of candidates, and all boxes [B, P, C, 4] and logits [B, P, C] of the plain detector's head. It returns boxes
    and logits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for former in (DETECTOR, MODULE, CONTEXT_PROGRAM, VOTING_PROGRAM):  # of a policy that was exported here before
        (folder / former).unlink(missing_ok=True)
    if isinstance(policy.detector, QueryDetector):
        save_pretrained(policy.detector, folder, classes)
        files = [folder / WEIGHTS]
    else:
        files = [folder / DETECTOR]
        save_state(policy.detector.plain(), files[0])
    if isinstance(policy, HeadWithModule):
        files.append(folder / MODULE)
        save_state(policy.module, files[1])
    if isinstance(policy, ContextPolicy):
        files.append(_export_context(policy, num_candidates, folder / CONTEXT_PROGRAM))
    if isinstance(policy, VotingPolicy | RefinePolicy):
        files.append(_export_voting(policy, folder / VOTING_PROGRAM))
    return files


def _export_context(policy: ContextPolicy, num_candidates: int, file: Path) -> Path:
    size = 2, num_candidates
    example = (
        torch.rand(*size, 4),
        torch.ones(size, dtype=torch.int64),
        torch.zeros(size),
        torch.ones(size, dtype=torch.bool),
        torch.zeros(*size, policy.module.embedding.in_features),
    )
    return write_program(policy.module, example, ({0: Dim("images")},) * 5, file)


def _export_voting(policy: VotingPolicy | RefinePolicy, file: Path) -> Path:
    num_classes = policy.detector.num_classes
    corner = torch.rand(2, 5, num_classes, 2) / 2
    boxes, logits = torch.cat([corner, corner + 0.5], -1), torch.zeros(2, 5, num_classes)
    index = torch.arange(4).expand(2, -1) % (5 * num_classes)
    example = (boxes.flatten(1, 2)[:, index[0]], torch.zeros(2, 4), index, boxes, logits)
    images, candidates, proposals = Dim("images"), Dim("candidates"), Dim("proposals")
    ours, all_of_them = {0: images, 1: candidates}, {0: images, 1: proposals}
    return write_program(policy.module, example, (ours, ours, ours, all_of_them, all_of_them), file)
