"""Modules as programs: modules of one kind share a trace, each file has its own weights, and what differs is traced anew."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from rl_det.detectors import build_detector
from rl_det.policies import programs
from rl_det.policies.build import PolicyName, build_policy
from rl_det.policies.context_module import ContextModule
from rl_det.policies.export import export
from rl_det.policies.head import HeadWithModule
from rl_det.policies.programs import write_program

Traces = list[nn.Module]
Given = tuple[Tensor, ...]


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> Traces:
    """The modules that are traced from now on."""
    every: Traces = []
    trace: Callable[..., Any] = torch.export.export

    def noted(module: nn.Module, *arguments: Any, **options: Any) -> Any:
        every.append(module)
        return trace(module, *arguments, **options)

    monkeypatch.setattr(torch.export, "export", noted)
    monkeypatch.setattr(programs, "_traced", {})
    return every


@torch.no_grad()
def drawn(module: nn.Module, seed: int) -> nn.Module:
    """The module with weights that do something."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.parameters():
        part.normal_(generator=generator)
    return module


def proposals() -> Given:
    """Two images' candidates of two classes, and all their boxes and logits."""
    boxes = torch.tensor([[0.1, 0.1, 0.5, 0.5], [0.12, 0.1, 0.5, 0.52], [0.5, 0.5, 0.9, 0.9]]).expand(2, -1, -1)
    index, all_boxes = torch.tensor([[0, 2, 4]]).expand(2, -1), boxes[:, :, None].expand(-1, -1, 2, -1)
    return boxes, torch.zeros(2, 3), index, all_boxes, torch.linspace(-1, 1, 12).view(2, 3, 2)


def check(modules: list[nn.Module], given: Given, folder: Path) -> None:
    """All are written, one after the other; then each file gives what its module gives."""
    shapes = tuple({0: Dim("rows")} for _ in given)
    files = [write_program(module, given, shapes, folder / f"{place}.pt2") for place, module in enumerate(modules)]
    check_files(files, modules, given)


def check_files(files: list[Path], modules: list[nn.Module], given: Given) -> None:
    """Each file gives what its module gives, and no two give the same."""
    found = [torch.export.load(file).module()(*given) for file in files]
    with torch.no_grad():
        for one, module in zip(found, modules, strict=True):
            torch.testing.assert_close(one, module(*given), rtol=1e-6, atol=1e-6)
    first = [one if isinstance(one, Tensor) else one[0] for one in found]
    assert all(not torch.allclose(one, other, rtol=1e-4, atol=1e-4) for one, other in pairwise(first))


@pytest.mark.parametrize("name", ["voting", "refine"])
def test_policies_share_a_trace_and_each_has_its_own_weights(name: PolicyName, tmp_path: Path, traces: Traces) -> None:
    modules, files = [], []
    for seed in range(3):
        policy = build_policy(name, build_detector("tiny", num_classes=2, input_size=64))
        assert isinstance(policy, HeadWithModule)
        modules.append(drawn(policy.module, seed))
        export(policy, tmp_path / str(seed), 10)
        files.append(tmp_path / str(seed) / "voting.pt2")
    check_files(files, modules, proposals())
    assert len(traces) == 1


def test_context_modules_share_a_trace_and_the_modules_stay_as_they_are(tmp_path: Path, traces: Traces) -> None:
    boxes, logits, *_ = proposals()
    given = boxes, torch.ones_like(logits, dtype=torch.int64), logits, torch.ones_like(logits, dtype=torch.bool)
    modules = [drawn(ContextModule(num_classes=2, embedding_size=8, width=16, num_layers=1), seed) for seed in range(2)]
    before = [part.clone() for module in modules for part in module.state_dict().values()]
    check(modules, (*given, torch.rand(2, 3, 8)), tmp_path)
    assert len(traces) == 1
    after = [part for module in modules for part in module.state_dict().values()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def layers(*, width: int = 4, how: str = "none", seed: int = 0) -> nn.Module:
    """Torch's own layers."""
    return drawn(nn.Sequential(nn.Linear(3, width), nn.GELU(approximate=how), nn.Linear(width, 2)), seed)


def test_other_settings_shapes_and_examples_are_other_kinds(tmp_path: Path, traces: Traces) -> None:
    given = (torch.linspace(-1, 1, 6).view(2, 3),)
    check([layers(), layers(how="tanh", seed=1)], given, tmp_path)
    assert len(traces) == 2
    check([layers(width=5)], given, tmp_path)
    assert len(traces) == 3
    check([layers()], (given[0].view(2, 1, 3),), tmp_path)
    assert len(traces) == 4
    write_program(layers(), given, ({0: None},), tmp_path / "fixed.pt2")
    assert len(traces) == 5
    check([layers(seed=2), layers(seed=3)], given, tmp_path)
    assert len(traces) == 5


def test_tied_weights_are_another_kind_than_weights_of_their_own(tmp_path: Path, traces: Traces) -> None:
    def tied(*places: int) -> nn.Module:
        every = [drawn(nn.Linear(3, 3), seed) for seed in range(3)]
        for place in places:
            every[-1].weight = every[place].weight  # type: ignore[assignment]
        return nn.Sequential(*every)

    check([tied(0), tied(1), tied()], (torch.ones(2, 3),), tmp_path)
    assert len(traces) == 3


class Times(nn.Module):
    """A user's layer, with a factor of its own."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self._by = by

    def forward(self, numbers: Tensor) -> Tensor:
        """The numbers times the factor."""
        return self._by * numbers


def made_in_a_function(by: float) -> nn.Module:
    class Local(nn.Module):
        def forward(self, numbers: Tensor) -> Tensor:
            """The numbers times the factor."""
            return by * numbers

    return Local()


def behind_torchs_own(by: float) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 3), Times(by))


def hooked(by: float) -> nn.Module:
    module = nn.Linear(3, 3)
    module.register_forward_hook(lambda module, given, result: by * result)
    return module


def with_a_forward_of_its_own(by: float) -> nn.Module:
    module = nn.Linear(3, 3)
    module.forward = lambda numbers: by * numbers  # type: ignore[assignment, method-assign]
    return module


@pytest.mark.parametrize("make", [Times, made_in_a_function, behind_torchs_own, hooked, with_a_forward_of_its_own])
def test_what_is_not_this_librarys_is_traced_each_time(
    make: Callable[[float], nn.Module], tmp_path: Path, traces: Traces
) -> None:
    check([drawn(make(by), 0) for by in (1.0, 2.0, 3.0)], (torch.ones(2, 3),), tmp_path)
    assert len(traces) == 3
