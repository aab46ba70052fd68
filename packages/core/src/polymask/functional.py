"""What many systems do alike: draw a mask, encode visible tokens or all, score and show predictions."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from polymask.errors import UserError
from polymask.mask import Mask
from polymask.maskings.choose import hide_last_valid, unique_keys
from polymask.maskings.choose import share as share_of
from polymask.protocols import Batch, Encoder, Masking, Objective, Request, Target, Tokenizer, sample_ids
from polymask.step import Step
from polymask.tokens import Tokens


def draw_mask(
    masking: Masking,
    tokens: Tokens,
    batch: Batch,
    step: Step,
    score: Target | Tensor | None = None,
    stream: int = 0,
) -> Mask:
    """One mask per sample over its tokens.

    Args:
        masking: decides what to hide.
        tokens: the tokens to hide some of.
        batch: the batch of these tokens, for sample ids and scores.
        step: the source of time and chance.
        score: evidence for the masking: a target of width 1, or the scores, ``[B, N]``.
        stream: separates several draws of one step.

    Raises:
        UserError: the score has more than one number per token, or the mask is not over these tokens.
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
    if not isinstance(mask, Mask):  # by whoever wrote the masking, in whatever package
        raise UserError(
            f"{type(masking).__name__} returned {type(mask).__name__}, not a polymask.Mask: have it return "
            "Mask(hidden)"
        )
    if mask.hidden.shape != tokens.shape:
        raise UserError(
            f"{type(masking).__name__} drew a mask of shape {list(mask.hidden.shape)} over tokens of shape "
            f"{list(tokens.shape)}: this system hides tokens, choose a masking that does"
        )
    return mask


def some_hidden(mask: Mask, share: float, batch: Batch, step: Step, stream: int) -> Mask:
    """A mask that hides only a share of what another one hides, at random, at least one site of each row.

    Args:
        mask: a hard mask.
        share: of the hidden sites of each row, in (0, 1]; their number is rounded.
        batch: for the sample ids.
        step: the source of chance.
        stream: separates this draw from others of the step.
    """
    if share == 1:
        return mask
    keys = unique_keys(step.bits(sample_ids(batch), mask.sites, stream))
    counts = share_of(share, mask.hidden.sum(dim=1)).clamp(min=1)
    asked = hide_last_valid(keys, counts, mask.hidden).hidden
    visible = None if mask.count is None else mask.sites - max(share_of(share, mask.count), 1)
    return Mask(asked, visible, mask.valid)


def require_subset_encoder(system: str, encoder: Encoder) -> None:
    """Refuse an encoder of whole grids in a system that encodes visible tokens alone.

    Raises:
        UserError: the encoder needs the grid.
    """
    if encoder.needs_grid:
        raise UserError(
            f"{system} leaves hidden tokens out, and {type(encoder).__name__} encodes whole grids only: "
            "use an encoder of any subset of tokens here, such as a ViT, or simmim with this one"
        )


def require_hard_mask(system: str, masking: Masking, mask: Mask) -> Mask:
    """The mask, if each token is hidden or not.

    Raises:
        UserError: it hides tokens in part.
    """
    if mask.hidden.dtype != torch.bool:
        raise UserError(
            f"{system} needs tokens that are hidden or not, and {type(masking).__name__} hides them in part: "
            "use a masking that hides or keeps, or simmim with this one"
        )
    return mask


def encode_visible(encoder: Encoder, tokens: Tokens, mask: Mask) -> Tensor:
    """The visible tokens alone, encoded: ``[B, prefix + K, out_dim]``."""
    return encode_tokens(encoder, mask.keep(tokens))


def encode_tokens(encoder: Encoder, tokens: Tokens) -> Tensor:
    """All of some tokens, encoded: ``[B, prefix + K, out_dim]``."""
    return encoder(encoder.embed(tokens.values), tokens.position, tokens.valid)


def encode_states(encoder: Encoder, tokens: Tokens) -> list[Tensor]:
    """The input of the first block and the output of every block, each ``[B, prefix + K, dim]``, not normed.

    Args:
        encoder: one that lets its blocks be run, see :class:`polymask.protocols.Encoder`.
        tokens: what to encode.
    """
    own: Any = encoder
    x, bias = own.begin(own.embed(tokens.values), tokens.position, tokens.valid)
    states = [x]
    for block in own.blocks:
        states.append(block(states[-1], attn_mask=bias))
    return states


def layers(encoder: Encoder, tokens: Tokens) -> list[Tensor]:
    """The output of every block, ``[B, prefix + K, dim]`` each; the last as the encoder gives it.

    Args:
        encoder: one that says so itself (``layers``), or lets its blocks be run.
        tokens: what to encode.

    Raises:
        UserError: its blocks cannot be read.
    """
    own: Any = encoder
    depth(encoder)
    if hasattr(own, "layers"):
        found: list[Tensor] = own.layers(own.embed(tokens.values), tokens.position, tokens.valid)
        return found
    *first, last = encode_states(encoder, tokens)[1:]
    return [*first, own.norm(last)]


def as_tokens(encoder: Encoder, x: Tensor, tokens: Tokens) -> Tokens:
    """What a block of an encoder gave, ``[B, prefix + N, D]``, at the places of the tokens it was given."""
    r = encoder.prefix
    return replace(tokens, values=x[:, r:], prefix=x[:, :r] if r else None)


def unused_parameters(system: nn.Module, part: nn.Module, why: str) -> dict[str, str]:
    """The parameters of a part that no gradient reaches, by name in the system, for its ``unused``."""
    own = {id(parameter) for parameter in part.parameters()}
    return {name: why for name, parameter in system.named_parameters() if id(parameter) in own}


def depth(encoder: Encoder) -> int:
    """How many blocks an encoder has.

    Raises:
        UserError: its blocks cannot be read.
    """
    own: Any = encoder
    if hasattr(own, "layers"):
        return int(own.depth)
    if not hasattr(own, "begin"):
        raise UserError(f"the blocks of {type(encoder).__name__} cannot be read, only its output")
    return len(own.blocks)


def masked_loss(objective: Objective, prediction: Tensor, target: Tokens) -> Tensor:
    """The loss at tokens that a mask kept, ``[B, K, T]`` each; the padding of shorter rows does not count.

    An objective with ``told_places`` is told first where the tokens lie, ``[B, K, P]``.
    """
    if hasattr(objective, "told_places"):
        objective.told_places(target.position)
    return objective(prediction, target.values, None if target.valid is None else Mask(target.valid))


def at_hidden(prediction_BMT: Tensor, mask: Mask) -> Tensor:
    """Predictions at the hidden tokens put in their places: ``[B, N, T]``, 0 at visible tokens."""
    return mask.invert().restore(prediction_BMT, prediction_BMT.new_zeros(1))


def encode(tokenizer: Tokenizer, encoder: Encoder, batch: Batch) -> Tokens:
    """Features of a whole input, nothing hidden, see :func:`encode_grid`."""
    return encode_grid(encoder, tokenizer(batch))


def encode_grid(encoder: Encoder, tokens: Tokens) -> Tokens:
    """Features of all tokens of an input.

    Returns:
        Tokens of ``encoder.out_dim``; behind a hierarchical encoder on its coarser grid, each at
        the mean position of the tokens it covers.
    """
    own: Any = encoder
    if hasattr(own, "see"):
        x, valid = own.see(own.embed(tokens.values), tokens.position, tokens.valid)
    else:
        x, valid = encode_tokens(encoder, tokens), tokens.valid
    r, down = encoder.prefix, encoder.downsample
    position, grid = tokens.position, tokens.grid
    if down > 1:
        assert grid is not None, "an encoder that downsamples needs a grid"
        grid = tuple(n // down for n in grid)
        cells = [size for n in grid for size in (n, down)]
        within = tuple(2 * axis + 2 for axis in range(len(grid)))
        position = position.reshape(x.shape[0], *cells, -1).mean(dim=within).flatten(1, -2)
    prefix = x[:, :r] if r else None
    return Tokens(x[:, r:], position, grid, valid=valid, prefix=prefix)


def reconstruction(
    tokenizer: Tokenizer, target: Target, tokens: Tokens, mask: Mask, prediction: Tensor
) -> dict[str, Any]:
    """The original, what is visible of it, and the prediction in its place, as media of a preview.

    Args:
        tokenizer: turns tokens back into images where it has ``inverse``, or into displays where it has
            ``show``; else there is nothing to show.
        target: turns predictions into tokens where it has ``invert``; else predictions are not shown.
        tokens: the whole input.
        mask: the mask over these tokens.
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


def bright(error_BN: Tensor, tokens: Tokens, mask: Mask) -> Tensor:
    """Values ``[B, N, D]`` like those of the tokens, bright where an error is large, 0 at visible tokens.

    The brightest stands for four times the mean error at hidden tokens, or more.
    """
    low, high = tokens.values.aminmax()
    share_BN = error_BN / (4 * error_BN[mask.hidden].mean())
    heat = torch.lerp(low, high, share_BN.clamp(max=1).to(low.dtype))[..., None]
    return mask.invert().fill(heat.expand_as(tokens.values), tokens.values.new_zeros(1))


def unfold(z_BLF: Tensor, grid: tuple[int, ...] | None, down: int) -> Tensor:
    """Predictions of coarse outputs, one for each fine token that they cover, at the fine tokens.

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
