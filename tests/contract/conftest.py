"""One detector of each family, and what it says of the images, for every test of the contract."""

import pytest
from contract.families import FAMILIES, IMAGES, Case, build

from rl_det.detectors import Detector
from rl_det.types import Encoded


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest) -> Case:
    return build(request.param)


@pytest.fixture(scope="module")
def detector(case: Case) -> Detector:
    return case.detector


@pytest.fixture(scope="module")
def encoded(detector: Detector) -> Encoded:
    return detector.encode(IMAGES)
