"""The strategies of `compare` by name: what is compared by default, and what is refused."""

import pytest
import torch
from contract.families import build
from contract.query_families import QUERY_FAMILIES
from strategies.scenes import shipped

from rl_det.cli import CompareFlags
from rl_det.detectors import Detector
from rl_det.errors import UserError
from rl_det.strategies.catalogue import CATALOGUE, USUAL_WITH_VOTES, USUAL_WITHOUT_VOTES, named


@pytest.fixture(scope="module")
def voting() -> Detector:
    return shipped()


@pytest.fixture(scope="module")
def of_queries() -> Detector:
    torch.manual_seed(0)
    if not QUERY_FAMILIES:
        pytest.skip("needs the extra transformers")
    detector: Detector = build(QUERY_FAMILIES[0]).detector
    return detector


def test_by_default_a_comparison_is_of_a_few_that_the_detector_bears(voting: Detector, of_queries: Detector) -> None:
    assert CompareFlags().strategies is None
    assert named(None, voting) == USUAL_WITH_VOTES
    assert named(None, of_queries) == USUAL_WITHOUT_VOTES
    assert {*USUAL_WITH_VOTES, *USUAL_WITHOUT_VOTES} <= set(CATALOGUE)
    assert named(USUAL_WITHOUT_VOTES, of_queries) == USUAL_WITHOUT_VOTES


def test_all_are_those_that_the_detector_bears(voting: Detector, of_queries: Detector) -> None:
    assert named(["all"], voting) == tuple(CATALOGUE)
    borne = named(["all"], of_queries)
    assert {*USUAL_WITHOUT_VOTES, "ppo_context", "post_processing_by_grid"} <= set(borne)
    assert not [name for name in borne if "vot" in name]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("continued_supervised", "ppo", "pposs"),
            "a strategy must be one of warm_start, .*, or all alone; got 'pposs'",
        ),
        (("all", "ppo"), "or all alone; got 'all'"),
        (("ppo",), "the strategies must hold continued_supervised, with which all are compared; got ppo"),
        ((), "the strategies must hold continued_supervised"),
    ],
)
def test_unknown_names_and_a_comparison_without_the_control_are_refused(
    names: tuple[str, ...], message: str, voting: Detector
) -> None:
    with pytest.raises(UserError, match=message):
        named(names, voting)


def test_a_strategy_that_the_detector_does_not_bear_is_named(of_queries: Detector) -> None:
    names = ("continued_supervised", "continued_supervised_voted", "voting_smooth_ap", "ppo")
    told = "continued_supervised_voted, voting_smooth_ap are not; continued_supervised, smooth_ap, ppo are usual"
    with pytest.raises(UserError, match=told):
        named(names, of_queries)
