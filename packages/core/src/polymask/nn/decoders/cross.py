"""Hidden tokens that attend to the encoding of visible ones, and not to one another."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask.errors import UserError
from polymask.mask import Mask
from polymask.nn.blocks import CrossBlock, initialise
from polymask.nn.decoders.light import Decoder, LightDecoder, check_size, placed
from polymask.nn.positions import SinCos
from polymask.protocols import Encoder, Tokenizer
from polymask.tokens import Tokens


class CrossDecoder(Decoder):
    """The decoder of CrossMAE (Fu et al. 2024, arXiv 2401.14391): asked sites attend to the encoding alone.

    They do not attend to one another, so that an answer does not depend on which others are asked for, and
    any share of the hidden sites may be decoded. Arguments are those of :class:`LightDecoder`, and one more:
    ``states`` of the encoder that are given, 1 for its output. Of several, each block attends to a learned
    sum of its own, normalised.
    """

    def __init__(
        self,
        *,
        in_dim: int,
        out_dim: int,
        prefix: int,
        grid: tuple[int, ...] | None,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        states: int = 1,
    ) -> None:
        super().__init__()
        check_size(dim, depth, heads)
        self.prefix = prefix
        self.mask_token = nn.Parameter(torch.empty(dim))
        self.positions = SinCos(dim, grid)
        self.blocks = nn.ModuleList(CrossBlock(dim, heads, in_dim, mlp_ratio) for _ in range(depth))
        self.weights = nn.Parameter(torch.empty(depth, states)) if states > 1 else None
        count = depth if states > 1 else 0
        self.state_norms = nn.ModuleList(nn.LayerNorm(in_dim, eps=1e-6) for _ in range(count))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, out_dim)
        nn.init.normal_(self.mask_token, std=0.02)
        if self.weights is not None:
            nn.init.normal_(self.weights, std=states**-0.5)
        initialise(self)

    def forward(
        self, encoded: Tensor | list[Tensor], mask: Mask, position: Tensor, at: Mask | None = None
    ) -> Tensor:
        """Predict at hidden sites, or at others; as :meth:`LightDecoder.forward`, or from several states."""
        memory = [encoded] * len(self.blocks) if isinstance(encoded, Tensor) else self._sums(encoded)
        wanted = (mask if at is None else at).invert()
        x = self.mask_token.to(memory[0].dtype)
        x = x + wanted.keep(placed(self.positions, mask, position, x.dtype)).values
        real = None
        if mask.visible is None:
            seen = mask.keep(Tokens(position, position))
            real = F.pad(seen.real, (self.prefix, 0), value=True)[:, None, None, :]
        for block, context in zip(self.blocks, memory, strict=True):
            x = block(x, context, real)
        prediction: Tensor = self.head(self.norm(x))
        return prediction

    def _sums(self, states: list[Tensor]) -> list[Tensor]:
        """What each block attends to."""
        stacked, weights = torch.stack(states, dim=-1), self.weights
        assert weights is not None
        return [
            norm(stacked @ row) for norm, row in zip(self.state_norms, weights.to(stacked.dtype), strict=True)
        ]


def decoder_of(
    kind: str, encoder: Encoder, tokenizer: Tokenizer, out_dim: int, *, share: float, weigh: bool, **size: int
) -> LightDecoder | CrossDecoder:
    """The decoder of MAE, ``"self"``, or that of CrossMAE, ``"cross"``.

    Args:
        kind: which.
        encoder: whose output is decoded.
        tokenizer: of the encoder.
        out_dim: width of the prediction.
        share: of the hidden tokens that are asked for at a time; all with ``"self"``.
        weigh: with ``"cross"``, read the outputs of all blocks of the encoder.
        size: ``dim``, ``depth`` and ``heads``.

    Raises:
        UserError: options that do not go together.
    """
    if kind == "self":
        if share < 1 or weigh:
            asked = " and ".join(["decode_share"] * (share < 1) + ["weigh_layers"] * weigh)
            raise UserError(
                f"{asked} needs --decoder cross: decoder self predicts all hidden tokens, from the encoder's "
                "output"
            )
        return LightDecoder.behind(encoder, tokenizer, out_dim, **size)
    if not share:
        raise UserError("decode_share 0 predicts nothing: give a share above 0, 1 for all hidden tokens")
    blocks: Any = getattr(encoder, "blocks", None) if hasattr(encoder, "begin") else None
    if weigh and blocks is None:
        raise UserError(
            f"weigh_layers sums the outputs of the encoder's blocks, and {type(encoder).__name__} does not "
            "show them: use a plain Transformer, or leave weigh_layers out"
        )
    return CrossDecoder.behind(encoder, tokenizer, out_dim, states=1 + len(blocks) if weigh else 1, **size)
