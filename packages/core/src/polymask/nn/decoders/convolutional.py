"""Convolutions over all sites, which predict hidden tokens from visible ones in their places."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

from polymask.mask import Mask
from polymask.nn.blocks import Convolutions
from polymask.tokens import Tokens


class ConvDecoder(nn.Module):
    """The decoder of data2vec 2.0 (Baevski et al. 2022): convolutions over all sites, hidden ones filled in.

    It has no mask token and no positions: place is in the layout alone, so that convolutions have to reach
    across the largest hole.

    Args:
        in_dim: width of the encoder's output.
        out_dim: width of the prediction.
        prefix: tokens of no place that lead the encoder's output; they are left out.
        grid: lengths of the token axes, one to three; None for sequences of any length.
        dim: channels.
        depth: convolutions.
        kernel: sites that a convolution reaches across along each axis, an odd number.
        groups: of each convolution.
        residual: add the input of each convolution that has as many channels.
        head_depth: linear layers behind the convolutions; of several, all but the last are twice as wide as
            the convolutions and followed by GELU.
        dropout: of the encoder's output.
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
        kernel: int,
        groups: int,
        residual: bool = True,
        head_depth: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.prefix, self.dropout = prefix, nn.Dropout(dropout)
        self.convolutions = Convolutions(
            [in_dim] + [dim] * depth, kernel=kernel, groups=groups, grid=grid, residual=residual
        )
        widths = [dim] + [2 * dim] * (head_depth - 1)
        hidden = [part for pair in itertools.pairwise(widths) for part in (nn.Linear(*pair), nn.GELU())]
        self.head = nn.Sequential(*hidden, nn.Linear(widths[-1], out_dim))

    def forward(self, encoded: Tensor, mask: Mask, position: Tensor, fill: Tensor) -> Tensor:
        """Predict at hidden sites.

        Args:
            encoded: ``[B, prefix + K, in_dim]``, the encoding of the visible tokens.
            mask: which of the N sites are hidden.
            position: ``[B, N, P]`` of all sites; of a joined mask, of its samples.
            fill: ``[B, N, in_dim]``, read at hidden sites.

        Returns:
            ``[B, M, out_dim]``, hidden sites in their order; shorter rows end in padding.
        """
        x = mask.restore(self.dropout(encoded[:, self.prefix :]), fill)
        x = self.convolutions(x, mask.valid)
        hidden = mask.invert().keep(Tokens(x, position)).values
        prediction: Tensor = self.head(hidden)
        return prediction
