"""How the frozen part runs while training images are encoded: in mixed precision or compiled, for every family."""

import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from contract.families import FAMILIES, IMAGES, build, same_with
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch.utils._pytree import tree_leaves

from rl_det.data.digit_scenes import DigitScenes
from rl_det.detectors import Detector, build_detector
from rl_det.detectors.encodings import encode_dataset, encode_in_the_loop
from rl_det.detectors.frozen import PLAIN, USUAL, FrozenPart
from rl_det.errors import UserError

COMPILED_FAMILIES = ("tiny", "retinanet", FAMILIES[-1])
"""One of each kind, as tracing takes seconds."""
MIXED, COMPILED = FrozenPart(precision="mixed"), FrozenPart(compile=True)


@pytest.fixture(scope="module", params=FAMILIES)
def detector(request: pytest.FixtureRequest) -> Detector:
    return build(request.param).detector


class Watch:
    """The backbone's results, and the precisions of the convolutions in and behind it."""

    def __init__(self, detector: Detector) -> None:
        self.results: list[Any] = []
        self.inside: set[torch.dtype] = set()
        self.outside: set[torch.dtype] = set()
        inside = {*detector.backbone.modules()}
        self.handles = [detector.backbone.register_forward_hook(lambda _, __, output: self.results.append(output))]
        for module in detector.plain().modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                seen = self.inside if module in inside else self.outside
                self.handles.append(
                    module.register_forward_hook(lambda _, __, output, seen=seen: seen.add(output.dtype))
                )

    def encoded(self, detector: Detector, frozen: FrozenPart) -> list[Tensor]:
        """The backbone's results for the images, with floating point."""
        self.results.clear(), self.inside.clear(), self.outside.clear()
        with frozen.of(detector):
            detector.encode(IMAGES)
        return [leaf for leaf in tree_leaves(self.results) if isinstance(leaf, Tensor) and leaf.is_floating_point()]

    def end(self) -> None:
        for handle in self.handles:
            handle.remove()


def test_the_backbone_alone_runs_in_half_precision_and_gives_single_precision(detector: Detector) -> None:
    detector.encode(IMAGES)  # the first time, a one-stage detector also counts its anchors
    watch = Watch(detector)
    try:
        plain = watch.encoded(detector, PLAIN)
        assert watch.inside == watch.outside == {torch.float32}
        mixed = watch.encoded(detector, MIXED)
        assert torch.bfloat16 in watch.inside
        assert watch.outside == {torch.float32}
    finally:
        watch.end()
    assert len(mixed) == len(plain)
    assert {leaf.dtype for leaf in mixed} == {torch.float32}
    off = max(float((one - other).norm() / one.norm().clamp(min=1e-6)) for one, other in zip(plain, mixed, strict=True))
    assert 1e-5 < off < 0.1


def test_the_model_stays_as_it_is(detector: Detector) -> None:
    state = {name: tensor.clone() for name, tensor in detector.plain().state_dict().items()}
    before = detector.encode(IMAGES)
    with MIXED.of(detector):
        detector.encode(IMAGES)
    with pytest.raises(KeyError), MIXED.of(detector):
        raise KeyError
    assert "forward" not in vars(detector.backbone)
    assert all(torch.equal(tensor, state[name]) for name, tensor in detector.plain().state_dict().items())
    after = detector.encode(IMAGES)
    assert all(torch.equal(tensor, after.tensors()[name]) for name, tensor in before.tensors().items())


@pytest.mark.parametrize("family", COMPILED_FAMILIES)
def test_compiled_it_says_the_same(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = build(family).detector
    compiled: list[Any] = []

    def compile_eagerly(forward: Any) -> Any:
        compiled.append(forward)
        return torch._dynamo.optimize("eager")(forward)

    monkeypatch.setattr(torch, "compile", compile_eagerly)
    before = detector.encode(IMAGES)
    for _ in range(2):
        with COMPILED.of(detector):
            after = detector.encode(IMAGES)
    assert compiled == [type(detector.backbone).forward]
    for name, tensor in before.tensors().items():
        torch.testing.assert_close(tensor, after.tensors()[name])


@pytest.fixture(scope="module")
def tiny() -> Detector:
    return build("tiny").detector


@pytest.mark.skipif(
    not (os.environ.get("RL_DET_TEST_ALL") and shutil.which("g++")),
    reason="compiling takes a minute: RL_DET_TEST_ALL=1, make test-all; and needs g++",
)
@pytest.mark.filterwarnings("ignore")  # torch's own, of what it compiles
def test_torch_compiles_it_by_its_own_backend(tiny: Detector) -> None:
    before = tiny.encode(IMAGES)
    with COMPILED.of(tiny):
        after = tiny.encode(IMAGES)
    for name, tensor in before.tensors().items():
        torch.testing.assert_close(tensor, after.tensors()[name], rtol=1e-4, atol=1e-4)


def test_what_cannot_be_compiled_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(forward: Any) -> Any:
        def run(*inputs: Any) -> Any:
            raise TorchDynamoException("no compiler found\nmore lines")

        return run

    monkeypatch.setattr(torch, "compile", cannot)
    told = "torch.compile cannot compile the backbone here: no compiler found; leave compile out"
    detector = build("tiny").detector
    with pytest.raises(UserError, match=f"^{told}$"), COMPILED.of(detector):
        detector.encode(IMAGES)


def test_the_users_own_forward_is_kept(tiny: Detector) -> None:
    calls: list[int] = []

    def own(images: Tensor) -> Any:
        calls.append(len(images))
        return type(tiny.backbone).forward(tiny.backbone, images)

    tiny.backbone.forward = own
    try:
        with MIXED.of(tiny):
            tiny.encode(IMAGES)
        assert sum(calls) == len(IMAGES)
        assert tiny.backbone.forward is own
    finally:
        del tiny.backbone.forward


def test_a_data_set_is_encoded_in_this_precision_wherever_it_is_kept(tmp_path: Path) -> None:
    detector, scenes = build_detector("tiny", num_classes=10), DigitScenes("train", num_scenes=6)
    single = encode_dataset(detector, scenes).encoded
    kept = partial(encode_dataset, detector, scenes, folder=tmp_path / "encodings")
    mixed = {
        "memory": encode_dataset(detector, scenes, frozen=MIXED).encoded,
        "disk": kept(frozen=MIXED).encoded,
        "disk again": kept(frozen=MIXED).encoded,
        "in the loop": encode_in_the_loop(scenes, frozen=MIXED).batch(torch.arange(6), detector),
    }
    for encoded in mixed.values():
        torch.testing.assert_close(encoded.features[0].float(), mixed["memory"].features[0].float())
        assert encoded.reference.dtype == torch.float32
    assert not torch.equal(single.features[0], mixed["memory"].features[0])
    with pytest.raises(UserError, match="another precision"):
        kept()


def test_auto_is_float32_on_a_cpu_and_what_is_trained_runs_as_it_is(
    tiny: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert USUAL.told(tiny) == PLAIN.told(tiny) == {}
    assert MIXED.told(tiny) == {"precision": "torch.bfloat16"}
    everything = same_with("all", tiny)
    assert FrozenPart(precision="mixed", compile=True).told(everything) == {}
    monkeypatch.setattr(type(tiny), "device", torch.device("cuda"))
    assert FrozenPart(compile=True).told(tiny) == {"precision": "torch.float16", "compiled": True}
    assert PLAIN.told(tiny) == {}


class Large(nn.Module):
    """A backbone whose last number is too large for half precision, if it runs there."""

    def __init__(self, own: nn.Module) -> None:
        super().__init__()
        self.own, self.out_channels = own, own.out_channels

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.own(images)
        return maps * (torch.inf if torch.is_autocast_enabled("cpu") else 1.0)


def test_what_half_precision_cannot_hold_runs_again_in_single() -> None:
    detector = build("tiny").detector
    wanted = detector.encode(IMAGES)
    detector.plain().backbone = Large(detector.backbone)
    with MIXED.of(detector):
        found = detector.encode(IMAGES)
    assert wanted.mask.any()
    assert all(torch.equal(tensor, found.tensors()[name]) for name, tensor in wanted.tensors().items())


@pytest.mark.filterwarnings("ignore")  # torch's own, of a tracer
def test_a_backbone_of_torchscript_runs_as_it_is() -> None:
    detector = build("tiny").detector
    channels = detector.backbone.out_channels
    detector.plain().backbone = torch.jit.trace(detector.backbone, torch.rand(1, 3, 64, 128))
    detector.plain().backbone.out_channels = channels
    wanted = detector.encode(IMAGES)
    with MIXED.of(detector):
        found = detector.encode(IMAGES)
    assert all(torch.equal(tensor, found.tensors()[name]) for name, tensor in wanted.tensors().items())


def test_the_heads_gradient_stays_in_single_precision(tiny: Detector) -> None:
    head = same_with("head", tiny)
    with MIXED.of(head):
        encoded = head.encode(IMAGES)
    head.head(encoded).logits.sum().backward()
    assert {part.grad.dtype for part in head.trainable.parameters() if part.grad is not None} == {torch.float32}
