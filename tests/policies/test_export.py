"""Exported files: plain torchvision and torch load them, without this library, and they say what the policy says."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rl_det.candidates import observe
from rl_det.detectors import build_detector
from rl_det.policies.build import build_policy
from rl_det.policies.context import ContextPolicy
from rl_det.policies.context_module import ContextModule
from rl_det.policies.export import export
from rl_det.policies.rescore import RescorePolicy
from rl_det.policies.voting import VotingPolicy
from rl_det.policies.voting_module import VotingModule
from rl_det.storage.weights import load_state

NUM_CLASSES = 3
NUM_CANDIDATES = 20
MOBILENET = "fasterrcnn_mobilenet_v3_large_320_fpn"

ELSEWHERE = """
import sys, torch
from torchvision.models import get_model
folder = sys.argv[1]
images, inputs = torch.load(folder + "/input.pt")
sizes = {"min_size": 64, "max_size": 128, "box_score_thresh": 0.0}
model = get_model(sys.argv[2], weights=None, weights_backbone=None, num_classes=4, **sizes)
model.load_state_dict(torch.load(folder + "/detector.pt"))
with torch.no_grad():
    found = [model.eval()([image])[0] for image in images]
    logits = [torch.export.load(folder + "/context.pt2").module()(*some) for some in inputs]
assert not [name for name in sys.modules if name.startswith("rl_det")]
torch.save((found, logits), folder + "/output.pt")
"""


def context_policy(name: str) -> ContextPolicy:
    """Not at step zero: its residual says something."""
    torch.manual_seed(0)
    detector = build_detector(name, num_classes=NUM_CLASSES, input_size=64)
    policy = ContextPolicy(detector, sigma=0.5)
    policy.module = module = ContextModule(
        num_classes=NUM_CLASSES, embedding_size=detector.embedding_size, width=16, num_layers=2
    )
    nn.init.normal_(module.residual.weight)
    policy.recalibrate(0.5, -1.0)
    return policy


def images(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(count)
    return [torch.rand(3, 48, 48 + 8 * n, generator=generator) for n in range(count)]


Input = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@torch.no_grad()
def asked(policy: ContextPolicy, num_images: int) -> tuple[Input, Tensor]:
    """What the module is given for some images, and the policy's logits."""
    detector = policy.detector
    encoded = detector.encode(images(num_images))
    candidates, output = detector.propose(encoded, NUM_CANDIDATES), detector.head(encoded)
    seen = observe(candidates, encoded)
    proposal = candidates.index // NUM_CLASSES
    embeddings = output.embeddings[torch.arange(num_images)[:, None], proposal]
    given = (seen["boxes"], seen["labels"], seen["logits"], seen["mask"], embeddings)
    return given, policy.logits(seen, output)


def test_detector_and_program_work_in_a_process_that_does_not_know_this_library(tmp_path: Path) -> None:
    policy = context_policy(MOBILENET)
    assert export(policy, tmp_path, NUM_CANDIDATES) == [
        tmp_path / name for name in ("detector.pt", "module.safetensors", "context.pt2")
    ]
    few, many = asked(policy, 1), asked(policy, 5)
    torch.save((images(2), [few[0], many[0]]), tmp_path / "input.pt")
    subprocess.run([sys.executable, "-c", ELSEWHERE, str(tmp_path), MOBILENET], check=True, cwd=tmp_path, timeout=120)
    found, logits = torch.load(tmp_path / "output.pt")
    for ours, theirs in zip(policy.detector.detect(images(2)), found, strict=True):
        assert len(ours["boxes"]) > 0
        for name in ("boxes", "labels", "scores"):
            torch.testing.assert_close(theirs[name], ours[name], rtol=1e-5, atol=1e-5)
    for theirs, wanted in zip(logits, (few[1], many[1]), strict=True):
        torch.testing.assert_close(theirs, wanted, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def policy() -> ContextPolicy:
    return context_policy("tiny")


@pytest.fixture(scope="module")
def folder(policy: ContextPolicy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "not" / "there" / "yet"
    export(policy, folder, NUM_CANDIDATES)
    return folder


def test_the_folder_holds_these_three_files_and_nothing_half_written(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["context.pt2", "detector.pt", "module.safetensors"]


@pytest.mark.parametrize("num_images", [1, 2, 5])
def test_the_exported_module_gives_the_policys_logits_for_any_number_of_images(
    policy: ContextPolicy, folder: Path, num_images: int
) -> None:
    given, wanted = asked(policy, num_images)
    logits = torch.export.load(folder / "context.pt2").module()(*given)
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits, given[2])


def test_the_exported_module_heeds_the_mask(policy: ContextPolicy, folder: Path) -> None:
    boxes, labels, logits, mask, embeddings = asked(policy, 2)[0]
    mask[1, 8:] = False
    given = boxes, labels, logits, mask, embeddings
    exported = torch.export.load(folder / "context.pt2").module()(*given)
    with torch.no_grad():
        torch.testing.assert_close(exported, policy.module(*given), rtol=1e-4, atol=1e-4)


def test_a_policy_without_a_module_exports_the_detector_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    detector = build_detector("tiny", num_classes=NUM_CLASSES, input_size=64)
    assert export(RescorePolicy(detector, sigma=0.5), tmp_path, NUM_CANDIDATES) == [tmp_path / "detector.pt"]
    assert [path.name for path in tmp_path.iterdir()] == ["detector.pt"]


def test_the_modules_weights_load_into_a_module_of_its_kind(policy: ContextPolicy, folder: Path) -> None:
    fresh = ContextModule(
        num_classes=NUM_CLASSES, embedding_size=policy.detector.embedding_size, width=16, num_layers=2
    )
    load_state(fresh, folder / "module.safetensors")
    assert all(torch.equal(value, policy.module.state_dict()[name]) for name, value in fresh.state_dict().items())


def test_training_goes_on_as_if_nothing_had_been_exported(tmp_path: Path) -> None:
    exported, other = context_policy("tiny"), context_policy("tiny")
    exported.module.train()
    other.module.train()
    export(exported, tmp_path, NUM_CANDIDATES)
    assert exported.module.training
    for some in (exported, other):
        train_a_little(some)
    for own, wanted in zip(exported.trainable.parameters(), other.trainable.parameters(), strict=True):
        assert torch.equal(own, wanted)


def voting_policy() -> VotingPolicy:
    """Not at step zero: it moves boxes and logits."""
    torch.manual_seed(0)
    module = VotingModule(NUM_CLASSES)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.1)
    detector = build_detector("tiny", num_classes=NUM_CLASSES, input_size=64)
    policy = VotingPolicy(detector, module, sigma=0.5, box_sigma=0.2)
    policy.recalibrate(0.5, -1.0)
    return policy


VOTING_ELSEWHERE = """
import sys, torch
vote = torch.export.load("voting.pt2").module()
with torch.no_grad():
    output = [vote(*given) for given in torch.load("input.pt")]
assert not [name for name in sys.modules if name.startswith("rl_det")]
torch.save(output, "output.pt")
"""


def test_the_exported_vote_needs_torch_alone_and_any_number_of_candidates_proposals_and_images(tmp_path: Path) -> None:
    policy = voting_policy()
    assert export(policy, tmp_path, NUM_CANDIDATES) == [
        tmp_path / name for name in ("detector.pt", "module.safetensors", "voting.pt2")
    ]
    given, wanted = [], []
    for num_images, num_candidates in ((1, 7), (3, NUM_CANDIDATES)):
        encoded = policy.detector.encode(images(num_images))
        with torch.no_grad():
            output = policy.detector.head(encoded)
            seen = observe(policy.detector.propose(encoded, num_candidates), encoded)
            all_boxes = output.boxes / seen["size"][:, None, None]
            given.append((seen["boxes"], seen["logits"], seen["index"], all_boxes, output.logits))
            wanted.append(policy.adjusted(seen, output))
    torch.save(given, tmp_path / "input.pt")
    subprocess.run([sys.executable, "-c", VOTING_ELSEWHERE], check=True, cwd=tmp_path, timeout=120)
    for theirs, ours, shown in zip(torch.load(tmp_path / "output.pt"), wanted, given, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(theirs[0], shown[0])


def train_a_little(policy: ContextPolicy) -> None:
    encoded = policy.detector.encode(images(2))
    seen = observe(policy.detector.propose(encoded, NUM_CANDIDATES), encoded)
    optimizer = torch.optim.SGD(policy.trainable.parameters(), lr=1e-4)
    for _ in range(2):
        optimizer.zero_grad()
        policy.logits(seen, policy.detector.head(encoded)).square().sum().backward()
        optimizer.step()


def test_a_policy_that_is_exported_where_another_was_leaves_nothing_of_it(tmp_path: Path) -> None:
    detector = build_detector("tiny", num_classes=3)
    export(build_policy("voting", detector), tmp_path, 10)
    assert (tmp_path / "voting.pt2").exists()
    export(build_policy("rescore", detector), tmp_path, 10)
    assert [file.name for file in tmp_path.iterdir()] == ["detector.pt"]
