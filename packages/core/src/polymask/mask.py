"""A mask is data over sites: True (or 1) is hidden, everywhere.

Three verbs are kept apart. A masking *draws* a mask. ``keep``, ``restore``, ``fill`` and
``invert`` *apply* it. ``mean`` *accounts* for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from polymask.errors import UserError
from polymask.loss_reduction import divided, mean
from polymask.tokens import Tokens

T = TypeVar("T", Tensor, Tokens)


@dataclass(frozen=True, eq=False)
class Mask:
    """Which sites are hidden.

    Args:
        hidden: ``[B, *sites]`` bool, or float in [0, 1] for a soft mask. Sites are tokens,
            frequencies, features, weights, loss terms or modalities. Weights of loss terms may be
            above 1.
        visible: visible sites per row when every row has the same number, else None. With it
            nothing here waits for the device.
        valid: ``[B, *sites]`` bool, False on padding, which is neither hidden nor visible.

    Raises:
        ValueError: hidden is no tensor of bool or float; or a row of a hard mask has another number of
            visible sites than ``visible``, on the CPU alone, where counting waits for nothing.
    """

    hidden: Tensor
    visible: int | None = None
    valid: Tensor | None = None

    def __post_init__(self) -> None:
        given: object = self.hidden
        if not isinstance(given, Tensor) or not (given.dtype == torch.bool or given.is_floating_point()):
            kind = given.dtype if isinstance(given, Tensor) else type(given).__name__
            raise ValueError(f"Mask.hidden is a tensor of bool, or of float of a soft mask; got {kind}")
        if self.visible is None or self.hidden.dtype != torch.bool or torch.compiler.is_compiling():
            return
        if self.hidden.device.type == "cpu":
            counts = self._seen().sum(1)
            if not bool((counts == self.visible).all()):
                found = sorted(set(counts.tolist()))
                raise ValueError(
                    f"Mask: visible={self.visible}, but rows have {found} visible sites; "
                    "leave visible out where rows differ"
                )

    @classmethod
    def join(cls, masks: Sequence[Mask]) -> Mask:
        """Several masks of the same samples as one, its rows those of the first mask, then of the second.

        Joined masks keep sites of tokens that have a row per sample: no copy of a sample is needed per mask.
        """
        counts = {mask.visible for mask in masks}
        valid = [mask.valid for mask in masks if mask.valid is not None]
        return cls(
            torch.cat([mask.hidden for mask in masks]),
            masks[0].visible if len(counts) == 1 else None,
            torch.cat(valid) if valid else None,
        )

    @property
    def sites(self) -> int:
        """Number of sites per row, padding included."""
        return self.hidden[0].numel()

    @property
    def count(self) -> int | None:
        """Hidden sites per row when every row has the same number and none is padded, else None."""
        return None if self.visible is None or self.valid is not None else self.sites - self.visible

    def invert(self) -> Mask:
        """Hidden and visible exchanged; padding stays neither."""
        if self.hidden.is_floating_point():
            hidden = 1 - self.hidden
        else:
            hidden = ~self.hidden
        if self.valid is not None:
            hidden = hidden & self.valid if hidden.dtype == torch.bool else hidden * self.valid
        return Mask(hidden, self.count, self.valid)

    def keep(self, x: T) -> T:
        """The visible sites in their order: ``[B, N, ...] -> [B, K, ...]``.

        Of joined masks (:meth:`join`), ``V * B`` rows over the same B samples: ``[V * B, K, ...]``.

        Where rows differ in how many sites are visible, K is the largest number and shorter rows
        are padded; give :class:`Tokens` then, whose ``valid`` tells which are real.

        Raises:
            ValueError: a tensor with rows of different counts, or a soft mask.
        """
        self._hard("keep")
        if isinstance(x, Tensor):
            if self.visible is None:
                raise ValueError("Mask.keep: rows differ in visible sites; keep Tokens, not a tensor")
            return self._take(x, self._index(), self.visible)
        real: Tensor | None
        if self.visible is None:
            order, real = self._order()
            index, k = (order + self._rows()).flatten(), order.shape[1]
        else:
            index, k = self._index(), self.visible
            real = None if x.valid is None else self._take(x.valid, index, k)
        return dataclasses.replace(
            x,
            values=self._take(x.values, index, k),
            position=self._take(x.position, index, k),
            ids=None if x.ids is None else self._take(x.ids, index, k),
            valid=real,
            grid=None,
        )

    def restore(self, kept: Tensor, fill: Tensor) -> Tensor:
        """Undo :meth:`keep`: visible sites back in place, ``fill`` at all others.

        Args:
            kept: ``[B, K, D]`` as :meth:`keep` returned (or computed from it).
            fill: anything that broadcasts to ``[B, N, D]``, e.g. one learned mask token.

        Returns:
            ``[B, N, D]`` of the dtype of ``kept``; gradient reaches both arguments.
        """
        self._hard("restore")
        rows, dim = self.hidden.shape[0], kept.shape[-1]
        base = fill.to(kept.dtype).expand(rows, self.sites, dim).reshape(rows * self.sites, dim)
        if self.visible is None:
            order, real = self._order(kept.shape[1])
            index, source = (order + self._rows())[real], kept[real]
        else:
            index, source = self._index(), kept.reshape(-1, dim)
        return base.index_copy(0, index, source).view(rows, self.sites, dim)

    def fill(self, x: Tensor, value: Tensor) -> Tensor:
        """``value`` at hidden sites, ``x`` elsewhere: ``[B, *sites, ...]`` of the dtype of ``x``.

        A selection, not a blend, so that NaN under a hard mask stays hidden. A soft mask blends.
        """
        hidden = self.hidden.reshape(self.hidden.shape + (1,) * (x.dim() - self.hidden.dim()))
        value = value.to(x.dtype)
        if hidden.dtype == torch.bool:
            return torch.where(hidden, value, x)
        return torch.lerp(x, value.expand_as(x), hidden.to(x.dtype).expand_as(x))

    def mean(self, loss: Tensor) -> Tensor:
        """Mean of a loss over the hidden sites of the whole batch, in float32 (float64 stays).

        A soft mask weighs each site, and gradient reaches the weights, also those that are 0. Where
        training computes a step in parts, the count of all parts divides: see :mod:`polymask.loss_reduction`.

        Args:
            loss: ``[B, *sites]``, one number per site.

        Returns:
            Scalar; 0 when nothing is hidden. Visible sites get a gradient of exactly 0, and
            under a hard mask NaN there does not spread.

        Raises:
            ValueError: the loss has another shape than the mask.
        """
        if loss.shape != self.hidden.shape:
            raise ValueError(f"Mask.mean: the loss is {list(loss.shape)}, the mask {list(self.hidden.shape)}")
        dtype = torch.promote_types(loss.dtype, torch.float32)
        weight, loss = self.hidden.to(dtype), loss.to(dtype)
        hard = self.hidden.dtype == torch.bool
        total = (torch.where(self.hidden, loss, 0.0) if hard else weight * loss).sum()
        count = weight.sum()
        return mean(total, count) if self.count is None else divided(total, count)

    # ------------------------------------------------------------------ inside

    def _hard(self, verb: str) -> None:
        if self.hidden.dtype != torch.bool:
            raise ValueError(f"Mask.{verb} needs a mask of bool; this one is soft ({self.hidden.dtype})")

    def _seen(self) -> Tensor:
        seen = ~self.hidden.flatten(1)
        return seen if self.valid is None else seen & self.valid.flatten(1)

    def _rows(self) -> Tensor:
        return torch.arange(self.hidden.shape[0], device=self.hidden.device)[:, None] * self.sites

    def _index(self) -> Tensor:
        """Flat indices of visible sites. The size is known, so the device is not waited for."""
        assert self.visible is not None
        size = self.hidden.shape[0] * self.visible
        return torch.nonzero_static(self._seen().flatten(), size=size)[:, 0]

    def _take(self, x: Tensor, index: Tensor, k: int) -> Tensor:
        if x.shape[1] != self.sites:
            raise ValueError(f"Mask.keep: {x.shape[1]} sites in {list(x.shape)}, the mask has {self.sites}")
        rows, own = len(self.hidden), x.shape[0]
        if rows != own:
            if rows % own:
                raise ValueError(f"Mask.keep: {own} samples in {list(x.shape)}, the mask has {rows} rows")
            index = index % (own * self.sites)
        # index_select of rows: several times faster than gather with an expanded index, same bits
        flat = x.reshape(own * self.sites, -1).index_select(0, index)
        return flat.view(rows, k, *x.shape[2:])

    def _order(self, k: int | None = None) -> tuple[Tensor, Tensor]:
        seen = self._seen()
        count = seen.sum(dim=1)
        k = int(count.max()) if k is None else k
        order = (~seen).to(torch.uint8).argsort(dim=1, stable=True)[:, :k]
        return order, torch.arange(k, device=order.device) < count[:, None]


def require_over(tokens: Tokens, mask: Mask | None) -> None:
    """Refuse a mask that a caller gives to complete samples by, unless it hides tokens of these.

    Raises:
        UserError: it is soft, or of other sites.
    """
    if mask is None:
        return
    if mask.hidden.dtype != torch.bool:
        raise UserError(f"what to generate is told by a mask of bool, and this one is {mask.hidden.dtype}")
    if mask.hidden.flatten(1).shape != tokens.shape:
        raise UserError(
            f"the mask is {list(mask.hidden.shape)}, and the tokens to generate or keep are "
            f"{list(tokens.shape)}: give one site for each token"
        )
