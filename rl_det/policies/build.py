"""Build a policy by its name, and name its environment. A new policy is one file and one line here."""

from typing import Literal, NamedTuple, Protocol, get_args, runtime_checkable

from rl_det.detectors.protocol import Detector
from rl_det.errors import UserError
from rl_det.policies.adjust import AdjustPolicy
from rl_det.policies.context import ContextPolicy
from rl_det.policies.exploration import Exploration
from rl_det.policies.policy import Policy
from rl_det.policies.refine import RefinePolicy
from rl_det.policies.rescore import RescorePolicy
from rl_det.policies.select import SelectPolicy
from rl_det.policies.voting import VotingPolicy

PolicyName = Literal["rescore", "select", "context", "adjust", "voting", "refine"]


@runtime_checkable
class PolicyClass(Protocol):
    """A class of policies."""

    def at_start(self, detector: Detector, exploration: Exploration) -> Policy:
        """The policy at the warm start."""
        ...


class Kind(NamedTuple):
    """A policy's class, and the id of its environment."""

    policy: PolicyClass
    environment: str


POLICIES: dict[PolicyName, Kind] = {
    "rescore": Kind(RescorePolicy, "rl_det/RescoreDetections-v0"),
    "select": Kind(SelectPolicy, "rl_det/SelectDetections-v0"),
    "context": Kind(ContextPolicy, "rl_det/RescoreDetections-v0"),
    "adjust": Kind(AdjustPolicy, "rl_det/AdjustDetections-v0"),
    "voting": Kind(VotingPolicy, "rl_det/AdjustDetections-v0"),
    "refine": Kind(RefinePolicy, "rl_det/RefineBoxes-v0"),
}


VOTE = ("voting", "refine")
"""The policies in which proposals vote."""
MOVE_BOXES = ("adjust", "voting", "refine")
"""The policies that move boxes."""


def usual_policy(detector: Detector) -> PolicyName:
    """The policy that is taken if none is named: voting where proposals overlap, else adjust; rescore where boxes are fixed."""
    if not detector.moves_boxes:
        return "rescore"
    return "voting" if detector.overlapping_proposals else "adjust"


def check_bears(name: PolicyName | None, detector: Detector) -> None:
    """Raise ValueError, which names policies that it bears, if the detector cannot bear this one."""
    lacks_votes = name in VOTE and not detector.overlapping_proposals
    if lacks_votes or (name in MOVE_BOXES and not detector.moves_boxes):
        why = "proposals that overlap and vote" if lacks_votes else "boxes that may be moved"
        raise UserError(
            f"policy {name!r} needs {why}, and the {detector.architecture.name} has none; "
            f"take {usual_policy(detector)} or context"
        )


def build_policy(
    name: PolicyName | None, detector: Detector, exploration: Exploration | None = None, *, num_steps: int | None = None
) -> Policy:
    """The policy of this name at the warm start; a module beside the head is initialised from torch's global generator.

    None is the detector's usual policy. `num_steps` is the refining policy's number of steps; left out: 3. Raises
    ValueError for an unknown name, for a policy that the detector cannot bear, or if another policy is to make several
    steps.
    """
    check_bears(name, detector)
    name = usual_policy(detector) if name is None else name
    check_policy(name)
    check_num_steps(name, num_steps)
    explored = exploration or Exploration()
    if num_steps is not None:
        return RefinePolicy.at_start(detector, explored, num_steps)
    return POLICIES[name].policy.at_start(detector, explored)


def check_num_steps(name: PolicyName | None, num_steps: int | None) -> None:
    """Raise ValueError if a policy that makes one step is to make several, or one none."""
    if num_steps is not None and name != "refine":
        raise UserError(f"num_steps is for the refining policy; policy {name!r} makes one step; got {num_steps}")
    if num_steps is not None and num_steps < 1:
        raise UserError(f"num_steps must be at least 1; got {num_steps}; 3 is usual")


def check_policy(name: str) -> None:
    """Raise ValueError, which lists the known names, for an unknown name."""
    if name not in POLICIES:
        raise UserError(f"policy must be one of {', '.join(get_args(PolicyName))}; got {name!r}")


def name_of(policy: Policy) -> PolicyName:
    """The name by which `build_policy` builds a policy of this class."""
    names: dict[object, PolicyName] = {kind.policy: name for name, kind in POLICIES.items()}
    return names[type(policy)]
