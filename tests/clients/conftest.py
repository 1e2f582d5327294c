"""The detector, its scenes and an environment's arguments, for the tests of other people's programs."""

from typing import Any

import pytest
from contract.environments import NUM_CANDIDATES, scenes, shipped

from rl_det.detectors import Detector
from rl_det.detectors.encodings import EncodedDataset


@pytest.fixture(scope="module")
def detector() -> Detector:
    return shipped()


@pytest.fixture(scope="module")
def data(detector: Detector) -> EncodedDataset:
    return scenes(detector)


@pytest.fixture
def options(detector: Detector, data: EncodedDataset) -> dict[str, Any]:
    return {"detector": detector, "dataset": data, "num_candidates": NUM_CANDIDATES, "pool_images": 4}
