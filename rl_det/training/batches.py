"""Endless shuffled batches of image indices: every image comes once before any comes again."""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor


class ShuffledBatches:
    """Batches of a fixed size, in an order that the generator draws; the state can be saved and restored."""

    def __init__(self, num_images: int, batch_size: int, generator: torch.Generator) -> None:
        self.num_images, self.batch_size, self.generator = num_images, batch_size, generator
        self.order = torch.zeros(0, dtype=torch.int64)

    def draw(self) -> Int[Tensor, " b"]:
        """The next batch."""
        while len(self.order) < self.batch_size:
            self.order = torch.cat([self.order, torch.randperm(self.num_images, generator=self.generator)])
        batch, self.order = self.order[: self.batch_size], self.order[self.batch_size :]
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The state that determines the next batches."""
        return {"order": self.order.clone(), "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state."""
        self.order = state["order"]
        self.generator.set_state(state["generator"])
