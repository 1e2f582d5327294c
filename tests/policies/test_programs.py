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
from rl_det.policies.export import export
from rl_det.policies.head import HeadWithModule
from rl_det.policies.programs import write_program

Traces = list[nn.Module]


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> Traces:
    """The modules that are traced from now on."""
    every: Traces = []
    export: Callable[..., Any] = torch.export.export

    def noted(module: nn.Module, *arguments: Any, **options: Any) -> Any:
        every.append(module)
        return export(module, *arguments, **options)

    monkeypatch.setattr(torch.export, "export", noted)
    monkeypatch.setattr(programs, "_traced", {})
    return every


class Small(nn.Module):
    """A layer, a buffer, and a number of rounds."""

    scale: Tensor

    def __init__(self, rounds: int, *, width: int = 3, kept: bool = True) -> None:
        super().__init__()
        self.rounds = rounds
        self.layer = nn.Linear(width, width)
        self.register_buffer("scale", torch.rand(width), persistent=kept)

    def forward(self, numbers: Tensor) -> Tensor:
        """As many rounds as the module has."""
        for _ in range(self.rounds):
            numbers = self.scale * self.layer(numbers).relu() + torch.full_like(numbers, 0.5)
        return numbers


class WithObject(Small):
    """A module that holds something whose state nobody knows."""

    def __init__(self, factor: float) -> None:
        super().__init__(1)
        self.factors = {"of all": factor}

    def forward(self, numbers: Tensor) -> Tensor:
        """Times the factor, which a trace holds as a constant."""
        return self.factors["of all"] * super().forward(numbers)


def hooked(module: nn.Module, factor: float) -> nn.Module:
    module.register_forward_hook(lambda module, given, result: factor * result)
    return module


def check(modules: list[nn.Module], folder: Path, *, width: int = 3) -> None:
    """All are written, one after the other; then each file gives what its module gives."""
    example, given = (torch.rand(2, width),), torch.rand(5, width)
    files = [
        write_program(module, example, ({0: Dim("rows")},), folder / f"{place}.pt2")
        for place, module in enumerate(modules)
    ]
    found = [torch.export.load(file).module()(given) for file in files]
    with torch.no_grad():
        for one, module in zip(found, modules, strict=True):
            torch.testing.assert_close(one, module(given), rtol=0, atol=0)
    assert all(not torch.equal(one, other) for one, other in pairwise(found))


def test_modules_of_one_kind_are_traced_once_and_each_file_has_its_own_weights(tmp_path: Path, traces: Traces) -> None:
    modules: list[nn.Module] = [Small(2), Small(2), Small(2)]
    before = [part.clone() for module in modules for part in module.state_dict().values()]
    check(modules, tmp_path)
    assert len(traces) == 1
    after = [part for module in modules for part in module.state_dict().values()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_another_setting_shape_or_example_is_another_kind(tmp_path: Path, traces: Traces) -> None:
    check([Small(1), Small(2)], tmp_path)
    assert len(traces) == 2
    check([Small(2, width=4)], tmp_path, width=4)
    assert len(traces) == 3
    write_program(Small(2), (torch.rand(2, 2, 3),), ({0: Dim("rows")},), tmp_path / "deep.pt2")
    assert len(traces) == 4
    write_program(Small(2), (torch.rand(2, 3),), ({0: None},), tmp_path / "fixed.pt2")
    assert len(traces) == 5


@pytest.mark.parametrize("name", ["voting", "refine"])
def test_each_exported_policy_has_its_own_program(name: PolicyName, tmp_path: Path, traces: Traces) -> None:
    boxes = torch.tensor([[0.1, 0.1, 0.5, 0.5], [0.12, 0.1, 0.5, 0.52], [0.5, 0.5, 0.9, 0.9]]).expand(2, -1, -1)
    index, all_boxes = torch.tensor([[0, 2, 4]]).expand(2, -1), boxes[:, :, None].expand(-1, -1, 2, -1)
    given = boxes, torch.zeros(2, 3), index, all_boxes, torch.linspace(-1, 1, 12).view(2, 3, 2)
    policies = [build_policy(name, build_detector("tiny", num_classes=2, input_size=64)) for _ in range(2)]
    for seed, policy in enumerate(policies):
        assert isinstance(policy, HeadWithModule)
        with torch.no_grad():
            for part in policy.module.parameters():
                part.normal_(generator=torch.Generator().manual_seed(seed))
        export(policy, tmp_path / str(seed), 10)
    found = [torch.export.load(tmp_path / str(seed) / "voting.pt2").module()(*given) for seed in range(2)]
    for policy, (voted, logits) in zip(policies, found, strict=True):
        assert isinstance(policy, HeadWithModule)
        with torch.no_grad():
            ours = policy.module(*given)
        torch.testing.assert_close((voted, logits), ours, rtol=1e-6, atol=1e-6)
    assert len(traces) == 1
    assert not torch.equal(found[0][0], found[1][0])


@pytest.mark.parametrize(
    "make",
    [WithObject, lambda factor: hooked(Small(1), factor), lambda factor: Small(1, kept=False)],
    ids=["an_object", "a_hook", "a_buffer_that_is_not_kept"],
)
def test_what_a_trace_may_hold_beside_weights_is_traced_each_time(
    make: Callable[[float], nn.Module], tmp_path: Path, traces: Traces
) -> None:
    check([make(2.0), make(3.0)], tmp_path)
    assert len(traces) == 2
