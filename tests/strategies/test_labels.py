"""Continued supervised training on cached encodings, and the warm start that ends with it and is remembered."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rl_det.data.digit_scenes import CLASSES, DigitScenes
from rl_det.detectors import Detector, build_detector
from rl_det.detectors.encodings import EncodedDataset, encode_dataset
from rl_det.detectors.torchvision.tiny import SHIPPED_WEIGHTS
from rl_det.policies.context import ContextPolicy
from rl_det.policies.context_module import ContextModule
from rl_det.policies.rescore import RescorePolicy
from rl_det.training import continued, supervised
from rl_det.training.warm_start import warm_start

CONFIG = continued.Config(num_steps=6, batch_size=4, validate_every=2)


@pytest.fixture
def detector() -> Detector:
    torch.manual_seed(0)
    return build_detector("tiny", num_classes=len(CLASSES), weights=SHIPPED_WEIGHTS)


@pytest.fixture(scope="module")
def data() -> EncodedDataset:
    shipped = build_detector("tiny", num_classes=len(CLASSES), weights=SHIPPED_WEIGHTS)
    return encode_dataset(shipped, DigitScenes("train", num_scenes=8))


def weight(detector: Detector) -> Tensor:
    tensor: Tensor = detector.plain().roi_heads.box_predictor.cls_score.weight.detach().clone()
    return tensor


def test_only_the_head_is_trained_and_its_loss_falls(detector: Detector, data: EncodedDataset) -> None:
    before = {name: tensor.clone() for name, tensor in detector.plain().state_dict().items()}
    losses: list[float] = []
    continued.train(
        RescorePolicy(detector, sigma=0.5),
        data,
        continued.Config(num_steps=30, batch_size=8, validate_every=30, learning_rate=1e-3),
        generator=torch.Generator().manual_seed(0),
        validate=iter([0.1, 0.2]).__next__,
        on_step=lambda step, metrics: losses.append(metrics["loss"]),
    )
    changed = {name for name, tensor in detector.plain().state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(name.startswith("roi_heads.box_") for name in changed)
    assert losses[-1] < 0.9 * losses[0]


def test_the_best_validation_stays_and_the_warm_start_is_the_first_candidate(
    detector: Detector, data: EncodedDataset
) -> None:
    policy, before = RescorePolicy(detector, sigma=0.5), weight(detector)
    generator = torch.Generator().manual_seed(0)
    best = continued.train(policy, data, CONFIG, generator=generator, validate=iter([0.5, 0.4, 0.3, 0.5]).__next__)
    assert best == 0.5
    assert torch.equal(weight(detector), before)
    best = continued.train(policy, data, CONFIG, generator=generator, validate=iter([0.5, 0.4, 0.6, 0.5]).__next__)
    assert best == 0.6
    assert not torch.equal(weight(detector), before)


def test_a_context_modules_residual_stays_zero(detector: Detector, data: EncodedDataset) -> None:
    module = ContextModule(num_classes=len(CLASSES), embedding_size=detector.embedding_size)
    policy = ContextPolicy(detector, module, sigma=0.5)
    continued.train(
        policy, data, CONFIG, generator=torch.Generator().manual_seed(0), validate=iter([0.1, 0.2, 0.3, 0.4]).__next__
    )
    assert not module.residual.weight.any()
    assert not module.residual.bias.any()


def test_a_warm_start_is_trained_once_and_then_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RL_DET_CACHE", str(tmp_path))
    scenes = DigitScenes("train", num_scenes=6)
    steps: list[int] = []

    def start(seed: int) -> tuple[Path, Tensor]:
        torch.manual_seed(seed)
        detector = build_detector("tiny", num_classes=len(CLASSES), input_size=64)
        file = warm_start(
            detector,
            scenes,
            scenes,
            supervised.Config(num_steps=2, batch_size=2, validate_every=1),
            continued.Config(num_steps=2, batch_size=2, validate_every=1),
            identity={"seed": seed},
            generator=torch.Generator().manual_seed(seed),
            on_step=lambda step, metrics: steps.append(step),
        )
        return file, weight(detector)

    file, trained = start(0)
    assert steps == [1, 2, 3, 4]
    assert start(0)[0] == file
    assert torch.equal(start(0)[1], trained)
    assert steps == [1, 2, 3, 4]
    assert start(1)[0] != file
    assert len(steps) == 8
