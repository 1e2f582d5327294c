"""What strategies say of their updates, alone or in one of several processes: `python -m parallel.curves FILE NAMES`.

Launched by `torchrun`, each process writes its curves and a fingerprint of its weights to FILE.RANK.
"""

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from strategies.scenes import NUM_SCENES, Told, a_task, shipped
from torch import Tensor

from rl_det import parallel
from rl_det.data.digit_scenes import DigitScenes
from rl_det.detectors.encodings import Encodings, divided, encode_dataset, encode_in_the_loop
from rl_det.policies.policy import Policy
from rl_det.storage.weights import state_fingerprint
from rl_det.strategies import supervised
from rl_det.strategies.labels import Labels
from rl_det.strategies.ppo import PPO
from rl_det.strategies.reinforce import Reinforce
from rl_det.strategies.strategy import Strategy, Task
from rl_det.strategies.supervised import Supervised
from rl_det.strategies.surrogate import Surrogate
from rl_det.types import Encoded, Sample, concatenate

UPDATES, BATCH = 20, 4
SMALL: Any = {"samples_per_image": 4, "num_candidates": 32, "context_candidates": 32}
OF_LABELS: dict[str, Strategy] = {
    "labels": Labels(),
    "labels_in_the_loop": Labels(),
    "labels_of_all": Labels(learning_rate=1e-4),
    "surrogate": Surrogate(num_candidates=48),
    "surrogate_with_context": Surrogate("rank_sort", policy="context", num_candidates=48),
    "supervised": Supervised(ema=0.9, flip=True, patience=None),
}
OF_REWARDS: dict[str, Strategy] = {
    "ppo": PPO(**SMALL, mean_shift_penalty=0.03),  # a course on which nothing crosses a border by rounding
    "ppo_near_its_start": PPO(**SMALL, policy="adjust", kl_weight=0.1, num_epochs=3, learning_rate=1e-4),
    "reinforce": Reinforce(**SMALL, policy="refine", num_steps=2),
    "reinforce_leave_one_out": Reinforce(**SMALL, policy="rescore", advantage="leave_one_out"),
    "reinforce_in_the_loop": Reinforce(**SMALL, policy="select"),
}


class InDouble(DigitScenes):
    """Scenes in double precision, in which nothing that is near a border falls to its other side by rounding."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        return Sample(image=sample.image.double(), target=sample.target)


def curves(name: str) -> dict[str, Any]:
    """A strategy's metrics of all updates, and a fingerprint of its weights after them."""
    strategy = (OF_LABELS | OF_REWARDS)[name]
    torch.manual_seed(0)
    detector, told = shipped(64, "all" if name.endswith("of_all") else "head"), Told()
    encode_together = detector.encode

    def one_by_one(images: Sequence[Tensor], num_proposals: int | None = None) -> Encoded:
        """What is rounded to half precision must not depend on the other images of a batch."""
        return concatenate((encode_together([image], num_proposals) for image in images), len(images))

    detector.encode = one_by_one  # type: ignore[method-assign]
    scenes = DigitScenes("train", num_scenes=NUM_SCENES)
    encode = encode_in_the_loop if name.endswith(("in_the_loop", "of_all")) else partial(encode_dataset, detector)
    data: Encodings = divided(encode, scenes)
    steps = UPDATES * (strategy.num_epochs if isinstance(strategy, PPO) else 1)
    policy = strategy.start(detector)
    task = a_task(data, num_steps=steps, batch_size=BATCH, validate_every=steps // 2, callbacks=[told])
    if strategy.trains == "all":
        _tune_in_double(strategy, policy, task)
    else:
        strategy.tune(policy, task)
    return {"lines": [metrics for _, metrics in told.lines], "weights": state_fingerprint(policy.detector.plain())}


def _tune_in_double(strategy: Strategy, policy: Policy, task: Task) -> None:
    """Tune the whole detector in double precision; what validations say of it does not matter."""
    policy.detector.plain().double()
    task.train_images = InDouble("train", num_scenes=NUM_SCENES)
    with (
        mock.patch.object(supervised, "detect_dataset", return_value=([], [])),
        mock.patch.object(supervised, "quick_evaluate", return_value={"AP": 0.0}),
    ):
        strategy.tune(policy, task)


def main() -> None:
    """Write what the named strategies say."""
    file, *names = sys.argv[1:]
    torch.set_num_threads(1)
    parallel.join()
    found = {name: curves(name) for name in names}
    Path(f"{file}.{parallel.rank()}").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
