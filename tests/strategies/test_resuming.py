"""Training from labels that is killed and goes on from its checkpoint ends exactly as if it had never been stopped."""

import math
from pathlib import Path

import pytest
from strategies.resuming import (
    INPUT_SIZE,
    Outcome,
    assert_it_repeats_itself_and_changes_something,
    assert_it_resumes,
    outcome,
)
from strategies.scenes import shipped, train_data

from rl_det.data.augment import Augmentations
from rl_det.detectors.encodings import EncodedDataset
from rl_det.strategies.labels import Labels
from rl_det.strategies.strategy import Strategy
from rl_det.strategies.supervised import Supervised
from rl_det.strategies.surrogate import Surrogate

STRATEGIES: dict[str, Strategy] = {
    "labels": Labels(),
    "labels, averaged": Labels(ema=0.9),
    "surrogate": Surrogate(num_candidates=32, begin="warm_start"),
    "supervised": Supervised(ema=0.0),
    "supervised with everything": Supervised(
        ema=0.9,
        precision="mixed",
        schedule="step",
        flip=True,
        augmentations=Augmentations(scale=(0.7, 1.5), crop=True, photometric=True),
        warm_up=1,
    ),
}


@pytest.fixture(scope="module")
def data() -> EncodedDataset:
    return train_data(shipped(INPUT_SIZE))


@pytest.fixture(scope="module", params=STRATEGIES)
def strategy(request: pytest.FixtureRequest) -> Strategy:
    return STRATEGIES[request.param]


@pytest.fixture(scope="module")
def whole(strategy: Strategy, data: EncodedDataset) -> Outcome:
    return outcome(strategy, data)


def test_a_run_is_the_same_again_and_says_something(strategy: Strategy, data: EncodedDataset, whole: Outcome) -> None:
    assert_it_repeats_itself_and_changes_something(strategy, data, whole)


@pytest.mark.parametrize(("killed_at", "share"), [(1, 0.0), (4, 0.0), (4, math.inf)])
def test_killed_and_resumed_it_ends_as_if_it_had_never_been_stopped(
    tmp_path: Path, strategy: Strategy, data: EncodedDataset, whole: Outcome, killed_at: int, share: float
) -> None:
    assert_it_resumes(tmp_path, strategy, data, whole, killed_at, share=share)
