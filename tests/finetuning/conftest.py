"""A user's own data set of two classes, and a detector of their own."""

import pytest
from finetuning.small import own_model, pairs

import rl_det
from rl_det.data.splits import Splits
from rl_det.detectors import Detector


@pytest.fixture(scope="module")
def data() -> Splits:
    return rl_det.open_data(pairs(), classes=["low", "high"])


@pytest.fixture
def detector(data: Splits) -> Detector:
    return rl_det.load_detector(own_model(), data)
