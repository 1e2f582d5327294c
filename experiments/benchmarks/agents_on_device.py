"""How long does an update of PPO take on an accelerator, and on the CPU in the same run, in each environment of candidates?

    python experiments/benchmarks/agents_on_device.py --device cuda

Prints one JSON object: median seconds of an update after the first, and the first update's mean reward, which must agree
but for rounding. A minute on a GPU; `--device cpu --images 8 --samples 2` tries it out without one.
"""

import json
import platform
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import gymnasium
import rl_det_envs  # noqa: F401  (registers the environments)
import torch
import tyro

from rl_det.data.digit_scenes import CLASSES, DigitScenes
from rl_det.detectors import build_detector
from rl_det.detectors.encodings import encode_dataset
from rl_det.detectors.torchvision.tiny import SHIPPED_WEIGHTS
from rl_det.policies.build import POLICIES, PolicyName, build_policy
from rl_det.strategies.ppo import PPO, PpoLearner
from rl_det.training.loop import FitRun
from rl_det.training.loop_config import LoopConfig


@dataclass(frozen=True, kw_only=True)
class Config:
    device: str = "cuda"
    """The device beside the CPU."""
    images: int = 48
    """Of an update."""
    samples: int = 8
    """Of each image."""
    updates: int = 5
    """That are timed, after the first."""


def measured(policy_name: PolicyName, device: str, config: Config) -> dict[str, float]:
    """Seconds of an update, and the mean reward of the first."""
    detector = build_detector("tiny", num_classes=len(CLASSES), weights=SHIPPED_WEIGHTS)
    detector.plain().to(device)
    policy = build_policy(policy_name, detector)
    envs: Any = gymnasium.make_vec(
        POLICIES[policy_name].environment,
        num_envs=config.images * config.samples,
        vectorization_mode="vector_entry_point",
        detector=detector,
        dataset=encode_dataset(detector, DigitScenes("train", num_scenes=config.images)),
        samples_per_image=config.samples,
        num_candidates=PPO.num_candidates,
        context_candidates=PPO.context_candidates,
        device=device,
        **policy.environment_options,
    )
    envs.reset(seed=0)
    generator = torch.Generator().manual_seed(0)
    learner = PpoLearner(policy, envs, PPO(policy=policy_name), generator=generator, validate=lambda: 0.0)
    run = FitRun(learner, LoopConfig(num_updates=config.updates + 1, learning_rate=1e-4), "ppo")
    reward, seconds = learner.update(1, run.descent)["reward"], []
    for update in range(2, config.updates + 2):
        start = time.perf_counter()
        learner.update(update, run.descent)
        if device != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return {"seconds": median(seconds), "first_reward": reward}


def main(config: Config) -> None:
    devices = ["cpu"] if config.device == "cpu" else ["cpu", config.device]
    shown = platform.processor() if config.device == "cpu" else torch.cuda.get_device_name()
    results = {name: {device: measured(name, device, config) for device in devices} for name in POLICIES}
    print(json.dumps({"device": shown, "cores": torch.get_num_threads(), **results}, indent=2))


if __name__ == "__main__":
    main(tyro.cli(Config))
