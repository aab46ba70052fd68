"""The steps of a plan as tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import Batch, Tokens
from polymask.types import Count, Fact


class Steps:
    """Steps of plans as one-hot rows.

    Args:
        horizon: steps of a plan, from the data.
        actions: steps that there are, from the data.
        observation: numbers that are seen before and after, from the data; for examples.
    """

    key = "plan"

    def __init__(
        self, *, horizon: Fact[Count] = 4, actions: Fact[Count] = 12, observation: Fact[Count] = 6
    ) -> None:
        self.horizon, self.actions, self.observation = horizon, actions, observation

    @property
    def provides(self) -> dict[str, Any]:
        return {"in_dim": self.actions, "grid": (self.horizon,), "vocabulary": self.actions}

    def __call__(self, batch: Mapping[str, Tensor]) -> Tokens:
        ids = batch[self.key]
        place = torch.arange(self.horizon, dtype=torch.float32, device=ids.device)[:, None]
        values = F.one_hot(ids, self.actions).float()
        return Tokens(values, place.expand(len(ids), -1, -1), (self.horizon,), ids)

    def inverse(self, values: Tensor) -> Tensor:
        """Rows ``[B, T, A]`` back to numbers of steps ``[B, T]``."""
        return values.argmax(-1)

    def example(self, n: int, seed: int = 0) -> Batch:
        """Random steps ``[n, T]`` and observations ``[n, 2, O]``."""
        generator = torch.Generator().manual_seed(seed)
        return {
            "plan": torch.randint(self.actions, (n, self.horizon), generator=generator),
            "observation": torch.randn(n, 2, self.observation, generator=generator),
        }
