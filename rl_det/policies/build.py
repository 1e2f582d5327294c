"""Build a policy by its name, and name its environment. A new policy is one file and one line here."""

from typing import Literal, NamedTuple, Protocol, get_args, runtime_checkable

from rl_det.detectors.protocol import Detector
from rl_det.errors import UserError
from rl_det.policies.adjust import AdjustPolicy
from rl_det.policies.context import ContextPolicy
from rl_det.policies.exploration import Exploration
from rl_det.policies.policy import Policy
from rl_det.policies.rescore import RescorePolicy
from rl_det.policies.select import SelectPolicy
from rl_det.policies.voting import VotingPolicy

PolicyName = Literal["rescore", "select", "context", "adjust", "voting"]


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
}


def build_policy(name: PolicyName, detector: Detector, exploration: Exploration | None = None) -> Policy:
    """The policy of this name at the warm start; a module beside the head is initialised from torch's global generator.

    Raises ValueError for an unknown name.
    """
    check_policy(name)
    return POLICIES[name].policy.at_start(detector, exploration or Exploration())


def check_policy(name: str) -> None:
    """Raise ValueError, which lists the known names, for an unknown name."""
    if name not in POLICIES:
        raise UserError(f"policy must be one of {', '.join(get_args(PolicyName))}; got {name!r}")


def name_of(policy: Policy) -> PolicyName:
    """The name by which `build_policy` builds a policy of this class."""
    names: dict[object, PolicyName] = {kind.policy: name for name, kind in POLICIES.items()}
    return names[type(policy)]
