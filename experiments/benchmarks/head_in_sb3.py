"""A detector's head as the network of SB3's PPO: an observation that names its image -> shifts of its candidates' logits.

As quick as SB3 allows: an observation holds no features, but the image's index in the data set, by which the cached
encodings are found.
"""

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from rl_det.candidates import SHIFT_OF_ONE, gather_logits
from rl_det.detectors import Detector
from rl_det.detectors.encodings import EncodedDataset


class OnlyWhatTheHeadNeeds(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Of an observation of RescoreDetections: logits, mask and index of the candidates, and the image's own index."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        seen = env.observation_space
        assert isinstance(seen, spaces.Dict)
        image = spaces.Box(0, np.iinfo(np.int64).max, (1,), np.int64)
        self.observation_space = spaces.Dict(
            {name: seen[name] for name in ("logits", "mask", "index")} | {"image": image}
        )

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        seen, info = self.env.reset(**options)
        self.image = np.array([info["index"]])
        return self._needed(seen), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        seen, *rest = self.env.step(action)
        return self._needed(seen), *rest  # type: ignore[return-value]

    def _needed(self, seen: dict[str, Any]) -> dict[str, Any]:
        return {"logits": seen["logits"], "mask": seen["mask"], "index": seen["index"], "image": self.image}


class HeadShifts(BaseFeaturesExtractor):
    """The mean action: what the head says now, less the logits that were shown."""

    def __init__(self, observation_space: spaces.Dict, detector: Detector, data: EncodedDataset) -> None:
        super().__init__(observation_space, observation_space["logits"].shape[0])  # type: ignore[index]
        self.detector, self.data = detector, data
        self.head = nn.ParameterList(detector.trainable.parameters())

    def forward(self, seen: dict[str, Tensor]) -> Tensor:
        output = self.detector.head(self.data.batch(seen["image"][:, 0].long(), self.detector))
        logits = gather_logits(output.logits, seen["index"].long())
        shifts: Tensor = (logits - seen["logits"]) * seen["mask"] / SHIFT_OF_ONE
        return shifts


class HeadPolicy(ActorCriticPolicy):
    """SB3's policy whose mean is what the features extractor says, with a standard deviation that stays as it began."""

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        self.action_net = nn.Identity()
        self.log_std.requires_grad_(False)
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(trained, lr=lr_schedule(1), **self.optimizer_kwargs)
