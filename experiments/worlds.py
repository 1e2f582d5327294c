"""A policy and encoded images -> the environment in which it is tuned, many samples of many images at once."""

from typing import Any

import gymnasium
import rl_det_envs  # noqa: F401  (registers the environments)
import tuning
from task import Arguments

from rl_det.detectors.encodings import EncodedDataset
from rl_det.policies.policy import Policy

SAMPLES_PER_IMAGE = 8
NUM_CANDIDATES = 96
CONTEXT_CANDIDATES = 160
ENVIRONMENTS = {
    "rescore": "rl_det/RescoreDetections-v0",
    "context": "rl_det/RescoreDetections-v0",
    "select": "rl_det/SelectDetections-v0",
    "adjust": "rl_det/AdjustDetections-v0",
    "voting": "rl_det/AdjustDetections-v0",
}


def make_envs(policy: Policy, train: EncodedDataset, arguments: Arguments, *, credit: bool = True) -> Any:
    """The environment of the policy's name, seeded."""
    envs = gymnasium.make_vec(
        ENVIRONMENTS[arguments.policy],
        num_envs=min(tuning.IMAGES_PER_UPDATE, len(train)) * SAMPLES_PER_IMAGE,
        vectorization_mode="vector_entry_point",
        detector=policy.detector,
        dataset=train,
        num_candidates=NUM_CANDIDATES,
        context_candidates=CONTEXT_CANDIDATES,
        samples_per_image=SAMPLES_PER_IMAGE,
        reward=arguments.reward,
        credit=credit,
        device=policy.parameters()[0].device,
    )
    envs.reset(seed=arguments.seed)
    return envs
