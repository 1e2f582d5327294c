"""The strategies of `compare` by name; each object holds all the settings that distinguish it.

All strategies that train do so on the same images, for as many image passes, at the same rate, and validation AP
selects their weights. They train the head, and the module beside it if the policy has one.
"""

from collections.abc import Sequence
from typing import get_args

from rl_det.detectors.protocol import Detector
from rl_det.errors import UserError
from rl_det.policies.build import PolicyName, check_bears
from rl_det.strategies.hand_set import VOTED, WARM_START, HandSetVotes, PostProcessingGrid, WarmStart
from rl_det.strategies.labels import CONTROL, Labels
from rl_det.strategies.postprocessing import PostProcessing
from rl_det.strategies.ppo import PPO
from rl_det.strategies.reinforce import Reinforce
from rl_det.strategies.strategy import Strategy
from rl_det.strategies.surrogate import Surrogate, SurrogateName

BESIDE_A_MODULE: dict[PolicyName, tuple[SurrogateName, ...]] = {
    "voting": ("cross_entropy", "smooth_ap", "rank_sort"),
    "context": ("cross_entropy", "smooth_ap"),
}
"""The losses that train the policies with a module without RL: labels alone, and the surrogates that did well."""

_OBJECTS: tuple[Strategy, ...] = (
    WarmStart(),
    PostProcessingGrid(),
    PostProcessing(),
    HandSetVotes(name=WARM_START + VOTED),
    Labels(),
    HandSetVotes(name=CONTROL + VOTED, after=Labels()),
    *(Surrogate(loss, name=loss, policy="rescore") for loss in get_args(SurrogateName)),
    *(
        Surrogate(loss, name=f"{policy}_{loss}", policy=policy, begin="warm_start")
        for policy, losses in BESIDE_A_MODULE.items()
        for loss in losses
    ),
    Surrogate(name="voting_smooth_ap_from_plain_votes", policy="voting"),
    Reinforce(name="reinforce_without_credit", policy="rescore", advantage="leave_one_out"),
    Reinforce(policy="rescore"),
    PPO(name="ppo_rescore_group", policy="rescore", advantage="group", taught_by=None),
    PPO(name="ppo_rescore", policy="rescore", taught_by=None),
    PPO(name="ppo_select", policy="select", taught_by=None),
    PPO(name="ppo_context", policy="context", taught_by=None),
    PPO(name="ppo_adjust", policy="adjust", taught_by=None),
    PPO(name="ppo_voting", policy="voting", begin="warm_start", taught_by=None),
    PPO(name="ppo_voting_and_smooth_ap", policy="voting", begin="warm_start"),
    PPO(name="ppo_voting_from_plain_votes", policy="voting", taught_by=None),
    PPO(),
)
CATALOGUE: dict[str, Strategy] = {strategy.name: strategy for strategy in _OBJECTS}


USUAL_WITH_VOTES = (CONTROL, CONTROL + VOTED, "voting_smooth_ap_from_plain_votes", "ppo")
"""Compared by default: the control, its head with hand-set votes, the voting policy taught by labels alone, and PPO."""
USUAL_WITHOUT_VOTES = (CONTROL, "smooth_ap", "ppo")
"""The same for a detector whose proposals do not vote, as a set detector's."""
ALL = "all"
"""In place of names, all of the catalogue that the detector bears."""


def named(names: Sequence[str] | None, detector: Detector) -> tuple[str, ...]:
    """The names; for None the usual ones, and for `ALL` all of the catalogue, of those that the detector bears.

    Raises ValueError for an unknown name, with a list of the known, for one that the detector does not bear, and without the
    control.
    """
    if names is None:
        return USUAL_WITH_VOTES if detector.overlapping_proposals else USUAL_WITHOUT_VOTES
    if tuple(names) == (ALL,):
        return tuple(name for name, strategy in CATALOGUE.items() if _fits(strategy, detector))
    if unknown := sorted(set(names) - set(CATALOGUE)):
        raise UserError(f"a strategy must be one of {', '.join(CATALOGUE)}, or {ALL} alone; got {unknown[0]!r}")
    if CONTROL not in names:
        raise UserError(f"the strategies must hold {CONTROL}, with which all are compared; got {', '.join(names)}")
    if others := [name for name in names if not _fits(CATALOGUE[name], detector)]:
        raise UserError(
            f"the strategies must be of policies that the {detector.architecture.name} bears; {', '.join(others)} are not; "
            f"{', '.join(named(None, detector))} are usual"
        )
    return tuple(names)


def _fits(strategy: Strategy, detector: Detector) -> bool:
    """Whether the detector bears the strategy's policy."""
    try:
        check_bears(getattr(strategy, "policy", None), detector)
    except UserError:
        return False
    return True
