"""One sequence for a language model, of pieces that lie behind one another: images, learned tokens, texts.

Where its pieces lie follows from what was put together, and is counted nowhere else. Samples may lack tokens
of any piece, and a piece may be padded at either end: what is not valid has no place, and is not seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Interleaved:
    """Pieces in one sequence.

    Args:
        values: ``[B, K, D]``, embedded.
        valid: bool ``[B, K]``, False on padding and on what a sample lacks.
        spans: where each piece lies, by name, in order.
    """

    values: Tensor
    valid: Tensor
    spans: Mapping[str, slice]

    @classmethod
    def of(cls, pieces: Mapping[str, tuple[Tensor, Tensor]]) -> Interleaved:
        """Pieces one behind the other.

        Args:
            pieces: by name, values ``[B, n, D]`` and which of them are real, bool ``[B, n]``.
        """
        spans, start = dict[str, slice](), 0
        for name, (values, _) in pieces.items():
            spans[name] = slice(start, start := start + values.shape[1])
        values, valid = (torch.cat(parts, dim=1) for parts in zip(*pieces.values(), strict=True))
        return cls(values, valid, spans)

    @cached_property
    def position(self) -> Tensor:
        """Places ``[B, K, 1]``, counted over what is valid."""
        return (self.valid.cumsum(1) - 1).clamp(min=0)[..., None].float()

    def within(self, *names: str) -> Tensor:
        """What is valid of some pieces, bool ``[B, K]``."""
        chosen = torch.zeros_like(self.valid)
        for name in names:
            if name in self.spans:
                chosen[:, self.spans[name]] = True
        return chosen & self.valid

    def before(self, name: str) -> Tensor:
        """The last valid token in front of each of a piece, int64 ``[B, n]``; -1 where there is none."""
        index = torch.arange(self.valid.shape[1], device=self.valid.device)
        last = torch.where(self.valid, index, -1).cummax(1).values
        return F.pad(last, (1, -1), value=-1)[:, self.spans[name]]
