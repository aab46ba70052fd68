"""What many systems do alike: draw a mask over tokens, encode a whole input, show a reconstruction."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from polymask.errors import UserError
from polymask.mask import Mask
from polymask.protocols import Batch, Encoder, Masking, Objective, Request, Target, Tokenizer
from polymask.step import Step
from polymask.tokens import Tokens


def draw(
    masking: Masking,
    tokens: Tokens,
    batch: Batch,
    step: Step,
    score: Target | Tensor | None = None,
    stream: int = 0,
) -> Mask:
    """One mask per sample over its tokens.

    Args:
        masking: what decides.
        tokens: the tokens to hide some of.
        batch: where the tokens came from; sample ids and scores are computed from it.
        step: the source of time and chance.
        score: what the masking is to go by: a target of width 1, or the scores, ``[B, N]``.
        stream: tells apart several draws of one step.

    Raises:
        UserError: the score has more than one number per token, or the masking draws masks over
            something other than these tokens.
    """
    evidence = None
    if isinstance(score, Tensor):
        evidence = score
    elif score is not None:
        evidence = score(batch, tokens)
        if evidence.shape[2:] != (1,):
            raise UserError(
                f"a score is one number per token, and {type(score).__name__} gives {score.dim}: choose "
                "--score NAME with a target of width 1"
            )
        evidence = evidence[..., 0]
    mask = masking(Request.of(tokens, batch, step, score=evidence, stream=stream))
    if mask.hidden.shape != tokens.shape:
        raise UserError(
            f"{type(masking).__name__} drew a mask of shape {list(mask.hidden.shape)} over tokens of shape "
            f"{list(tokens.shape)}: this system hides tokens, choose a masking that does"
        )
    return mask


def confirm_leaves_out(system: str, encoder: Encoder) -> None:
    """Refuse an encoder of whole grids in a system that encodes visible tokens alone.

    Raises:
        UserError: the encoder needs the grid.
    """
    if encoder.needs_grid:
        raise UserError(
            f"{system} leaves hidden tokens out, and {type(encoder).__name__} encodes whole grids only: "
            "use an encoder of any subset of tokens here, or simmim with this one"
        )


def confirm_hard(system: str, masking: Masking, mask: Mask) -> Mask:
    """The mask, if it hides tokens or keeps them.

    Raises:
        UserError: it hides them in part.
    """
    if mask.hidden.dtype != torch.bool:
        raise UserError(
            f"{system} leaves hidden tokens out, and {type(masking).__name__} hides them in part: "
            "use a masking that hides or keeps, or simmim with this one"
        )
    return mask


def see(encoder: Encoder, tokens: Tokens, mask: Mask) -> Tensor:
    """The visible tokens alone, encoded: ``[B, prefix + K, out_dim]``."""
    seen = mask.keep(tokens)
    return encoder(encoder.embed(seen.values), seen.position, seen.valid)


def account(objective: Objective, prediction: Tensor, target: Tokens) -> Tensor:
    """The loss at tokens that were kept, ``[B, K, T]`` each; what pads shorter rows does not count."""
    return objective(prediction, target.values, None if target.valid is None else Mask(target.valid))


def encode(tokenizer: Tokenizer, encoder: Encoder, batch: Batch) -> Tokens:
    """Features of a whole input, nothing hidden.

    Returns:
        Tokens of ``encoder.out_dim``; behind a hierarchical encoder on its coarser grid, each at
        the mean position of the tokens it covers.
    """
    tokens = tokenizer(batch)
    x = encoder(encoder.embed(tokens.values), tokens.position, tokens.valid)
    r, down = encoder.prefix, encoder.downsample
    position, grid = tokens.position, tokens.grid
    if down > 1:
        assert grid is not None, "an encoder that downsamples needs a grid"
        grid = tuple(n // down for n in grid)
        cells = [size for n in grid for size in (n, down)]
        within = tuple(2 * axis + 2 for axis in range(len(grid)))
        position = position.reshape(len(x), *cells, -1).mean(dim=within).flatten(1, -2)
    prefix = x[:, :r] if r else None
    return Tokens(x[:, r:], position, grid, valid=tokens.valid, prefix=prefix)


def reconstruction(
    tokenizer: Tokenizer, target: Target, tokens: Tokens, mask: Mask, prediction: Tensor
) -> dict[str, Any]:
    """Pictures of what was there, what was left of it and what was predicted in its place.

    Args:
        tokenizer: turns tokens back into pictures where it has ``inverse``, or into displays where it has
            ``show``; else there are none.
        target: turns predictions into tokens where it has ``invert``; else they are not shown.
        tokens: the whole input.
        mask: what was hidden of it.
        prediction: ``[B, N, T]``, read at hidden tokens only.

    Returns:
        Columns by caption, each of pictures ``[B, ...]`` or of B displays; the caption of the last names the
        statistics that went into it. A target of what is no picture shows it itself, by
        ``show(prediction, tokens, mask)``.
    """
    if hasattr(target, "show"):
        shown: dict[str, Any] = target.show(prediction, tokens, mask)
        return shown
    inverse: Any = getattr(tokenizer, "inverse", None)
    show: Any = getattr(tokenizer, "show", None)
    invert: Any = getattr(target, "invert", None)
    if inverse is None and show is None:
        return {}
    values, note = (None, "") if invert is None else invert(prediction, tokens)
    if inverse is None:
        caption = "visible and hidden" if values is None else f"visible, hidden and predicted ({note})"
        return {caption: show(tokens, mask, values)}
    columns = {
        "original": inverse(tokens.values),
        "visible": inverse(mask.fill(tokens.values, tokens.values.new_zeros(1))),
    }
    if values is not None:
        columns[f"hidden predicted ({note})"] = inverse(mask.fill(tokens.values, values))
    return columns


def unfold(z_BLF: Tensor, grid: tuple[int, ...] | None, down: int) -> Tensor:
    """Coarse outputs, each holding the predictions of the fine tokens it covers, at those tokens.

    Args:
        z_BLF: ``[B, L, down**P * T]`` over the coarse grid.
        grid: lengths of the P axes of the fine grid.
        down: fine tokens per coarse one along each axis.

    Returns:
        ``[B, N, T]``.
    """
    if down == 1:
        return z_BLF
    assert grid is not None, "an encoder that downsamples needs a grid"
    axes = len(grid)
    z = z_BLF.reshape(-1, *(n // down for n in grid), *(down,) * axes, z_BLF.shape[-1] // down**axes)
    # (B, coarse axes, fine axes, T) to (B, coarse, fine, coarse, fine, ..., T)
    order = [axis for i in range(1, axes + 1) for axis in (i, axes + i)]
    return z.permute(0, *order, 2 * axes + 1).reshape(len(z), math.prod(grid), -1)
