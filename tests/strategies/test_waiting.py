"""An update of a two-stage detector waits for the device a few times, however many images and samples it has.

On CUDA, each of these operations makes the processor wait until the device has done all that came before. They are counted
on the CPU, where they cost nothing, so the test holds on every machine; where CUDA is, torch counts the waits itself.
"""

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from strategies.scenes import NUM_SCENES, a_task, shipped, train_data
from torch.utils._python_dispatch import TorchDispatchMode

from rl_det.detectors import Detector
from rl_det.detectors.encodings import EncodedDataset
from rl_det.strategies.labels import Labels
from rl_det.strategies.ppo import PPO
from rl_det.strategies.strategy import Strategy
from rl_det.training.loop import Ending, FitRun, Learner
from rl_det.training.loop_config import LoopConfig
from rl_det.types import Target

aten = torch.ops.aten
WAITS = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten._unique2.default,
    aten.unique_consecutive.default,
    aten.unique_dim.default,
}
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
"""These wait if they must first count what a mask chooses."""


class Waits(TorchDispatchMode):
    """Counts the operations whose result the processor must know before it goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        indexed = (
            func in INDEXED
            and any(each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1])
            and not (func is not aten.index.Tensor and args[2].numel() == 1)  # one number is filled in, uncounted
        )
        if func in WAITS or indexed:
            self.seen[str(func)] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def data() -> EncodedDataset:
    return train_data()


STRATEGIES: dict[str, Callable[[int], Strategy]] = {
    "labels": lambda samples: Labels(),
    "ppo": lambda samples: PPO(samples_per_image=samples, num_candidates=16 * samples, taught_by=None),
    "ppo taught by smooth-AP": lambda samples: PPO(samples_per_image=samples, num_candidates=16 * samples),
}


def learner_of(name: str, data: EncodedDataset, detector: Detector, images: int, samples: int) -> Learner:
    """The learner that a strategy gives to the loop, with a batch of so many images."""
    learners: list[Learner] = []

    def keep(learner: Learner, config: LoopConfig) -> Ending:
        learners.append(learner)
        return Ending(reason="budget")

    task = a_task(data, batch_size=images, validation_ap=lambda: 0.0)
    task.fit = keep
    strategy = STRATEGIES[name](samples)
    strategy.tune(strategy.start(detector), task)
    return learners[0]


def waits_of_an_update(learner: Learner) -> Counter[str]:
    """The waits of the second update; the first one fills what is kept."""
    run = FitRun(learner, LoopConfig(num_updates=4, learning_rate=1e-6), "run")
    learner.update(1, run.descent)
    with Waits() as waits:
        learner.update(2, run.descent)
    return waits.seen


def cuda_waits_of_an_update(learner: Learner) -> Counter[str]:
    """The same, as torch tells them by their places in the code."""
    run = FitRun(learner, LoopConfig(num_updates=4, learning_rate=1e-6), "run")
    learner.update(1, run.descent)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            learner.update(2, run.descent)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return Counter(f"{one.filename}:{one.lineno}" for one in told if "synchronizing" in str(one.message))


@pytest.mark.parametrize("name", STRATEGIES)
def test_an_update_waits_no_more_often_with_more_images_and_samples(
    name: str, data: EncodedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Target, "to")  # image by image, they would wait; on a CPU nobody would see it
    few, many = (waits_of_an_update(learner_of(name, data, shipped(), *size)) for size in ((2, 2), (NUM_SCENES, 4)))
    assert few
    assert few == many


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", STRATEGIES)
def test_cuda_waits_no_more_often_with_more_images_and_samples(name: str) -> None:
    detector = shipped()
    detector.plain().cuda()
    data = train_data(detector)
    few, many = (cuda_waits_of_an_update(learner_of(name, data, detector, *size)) for size in ((2, 2), (NUM_SCENES, 4)))
    assert few
    assert few == many
