"""What strategies say of their updates, alone or in one of several processes: `python -m distributed.curves FILE NAMES`.

Launched by `torchrun`, each process writes its curves and its weights to FILE.RANK.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from strategies.scenes import NUM_SCENES, Told, a_task, shipped

from rl_det import parallel
from rl_det.data.digit_scenes import DigitScenes
from rl_det.detectors.encodings import Encodings, divided, encode_dataset, encode_in_the_loop
from rl_det.losses.advantages import Advantage
from rl_det.storage.weights import state_fingerprint
from rl_det.strategies.labels import Labels
from rl_det.strategies.ppo import PPO
from rl_det.strategies.reinforce import Reinforce
from rl_det.strategies.strategy import Strategy
from rl_det.strategies.supervised import Supervised
from rl_det.strategies.surrogate import Surrogate

UPDATES, BATCH = 20, 4
LEAVE_ONE_OUT: Advantage = "leave_one_out"
STRATEGIES: dict[str, Strategy] = {
    "labels": Labels(),
    "surrogate": Surrogate(),
    "surrogate_rank_sort": Surrogate("rank_sort", policy="context"),
    "ppo": PPO(samples_per_image=4),
    "ppo_adjust": PPO(samples_per_image=4, policy="adjust", kl_weight=0.1, advantage=LEAVE_ONE_OUT),
    "reinforce": Reinforce(samples_per_image=4, policy="rescore"),
    "reinforce_in_the_loop": Reinforce(samples_per_image=4, policy="select"),
    "supervised": Supervised(ema=0.0, flip=True, patience=None),
}


def curves(name: str) -> dict[str, Any]:
    """A strategy's metrics of all updates, and a fingerprint of its weights after them."""
    strategy = STRATEGIES[name]
    torch.manual_seed(0)
    detector, told = shipped(), Told()
    scenes = DigitScenes("train", num_scenes=NUM_SCENES)
    encode = encode_in_the_loop if name.endswith("in_the_loop") else partial(encode_dataset, detector)
    data: Encodings = divided(encode, scenes)
    steps = UPDATES * (2 if isinstance(strategy, PPO) else 1)
    policy = strategy.start(detector)
    task = a_task(data, num_steps=steps, batch_size=BATCH, validate_every=steps // 2, callbacks=[told])
    strategy.tune(policy, task)
    trained = policy.trainable if strategy.trains == "head" else policy.detector.plain()
    return {"lines": [metrics for _, metrics in told.lines], "weights": state_fingerprint(trained)}


def main() -> None:
    file, *names = sys.argv[1:]
    torch.set_num_threads(1)
    with parallel.joined():
        found = {name: curves(name) for name in names}
        Path(f"{file}.{parallel.rank()}").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
