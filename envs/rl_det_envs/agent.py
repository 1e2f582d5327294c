"""What an agent that trains a detector's head needs of an environment, beyond Gymnasium's `reset` and `step`.

`AgentEnvironment` is that protocol. Every vector environment of rl_det implements it, and its `reset` and `step` stand on
it. `rl_det_envs.wrapped` lets an agent act through Gymnasium's vector wrappers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from gymnasium import spaces
from jaxtyping import Bool, Float
from torch import Tensor

from rl_det.detectors.protocol import Detector
from rl_det.types import Encoded, HeadOutput


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The start of an episode in every sub-environment.

    `observation` has a row for each sub-environment. `indices` are the images' positions in the data set: one for each
    run of `samples_per_image` sub-environments. If candidates act, `encoded` are these images' encodings, and `output`
    is the head's output for them, with a graph if it was asked for.
    """

    observation: Any
    indices: list[int]
    encoded: Encoded | None = None
    output: HeadOutput | None = None


@dataclass(frozen=True, kw_only=True)
class Earned:
    """What a step brought: the next observation, rewards [B], the actors' credits, and which episodes ended.

    `told` is what else the environment says of the step, one row for each sub-environment.
    """

    observation: Any
    reward: Float[Tensor, " B"]
    credit: Float[Tensor, "B N *F"] | None
    terminated: Bool[Tensor, " B"]
    truncated: Bool[Tensor, " B"]
    told: dict[str, Tensor]

    @property
    def ended(self) -> Bool[Tensor, " B"]:
        """The episodes that ended with the step."""
        return self.terminated | self.truncated


@runtime_checkable
class AgentEnvironment(Protocol):
    """B sub-environments over a detector's head, in torch, on the head's device."""

    @property
    def detector(self) -> Detector:
        """The detector whose candidates are shown."""
        ...

    @property
    def samples_per_image(self) -> int:
        """K: each run of K sub-environments shows the same image."""
        ...

    @property
    def num_steps(self) -> int:
        """The number of steps of an episode."""
        ...

    @property
    def action_scale(self) -> float:
        """What an action of 1 means, in the unit of the environment's actions (logits, moves)."""
        ...

    @property
    def gives_credit(self) -> bool:
        """Whether `act` says what each actor's action alone earned."""
        ...

    @property
    def takes_baseline(self) -> bool:
        """Whether `act` takes a baseline; otherwise an action is measured against doing nothing."""
        ...

    @property
    def single_action_space(self) -> spaces.Space[Any]:
        """The space of one sub-environment's actions."""
        ...

    def show(self, *, seed: int | None = None, indices: Sequence[int] | None = None, with_graph: bool = False) -> Shown:
        """Begin an episode in every sub-environment, on the next images or on those at `indices`."""
        ...

    def image_names(self, indices: Sequence[int]) -> list[str]:
        """The ids of the images at these positions in the data set, and their files where they are known."""
        ...

    def act(self, actions: Tensor, *, baseline: Tensor | None = None) -> Earned:
        """Apply the actions. In an episode's first step, rewards and credits may be measured against a baseline.

        Raises NotFiniteError, which names the images, for a reward that is NaN or infinite.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that determines the next images."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict`."""
        ...
