"""What many systems do alike: draw a mask over tokens, encode a whole input, show a reconstruction."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from polymask.errors import UserError
from polymask.mask import Mask
from polymask.protocols import Batch, Encoder, Masking, Request, Target, Tokenizer
from polymask.step import Step
from polymask.tokens import Tokens


def draw(
    masking: Masking,
    tokens: Tokens,
    batch: Batch,
    step: Step,
    score: Target | None = None,
    stream: int = 0,
) -> Mask:
    """One mask per sample over its tokens.

    Args:
        masking: what decides.
        tokens: the tokens to hide some of.
        batch: where the tokens came from; sample ids and scores are computed from it.
        step: the source of time and chance.
        score: target of width 1 that the masking is to go by.
        stream: tells apart several draws of one step.

    Raises:
        UserError: the score has more than one number per token, or the masking draws masks over
            something other than these tokens.
    """
    evidence = None
    if score is not None:
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
) -> dict[str, Tensor]:
    """Pictures of what was there, what was left of it and what was predicted in its place.

    Args:
        tokenizer: turns tokens back into pictures where it has ``inverse``; else there are none.
        target: turns predictions into tokens where it has ``invert``; else there are two columns.
        tokens: the whole input.
        mask: what was hidden of it.
        prediction: ``[B, N, T]``, read at hidden tokens only.

    Returns:
        Columns by caption; the caption of the last names the statistics that went into it.
    """
    inverse: Any = getattr(tokenizer, "inverse", None)
    if inverse is None:
        return {}
    columns: dict[str, Tensor] = {
        "original": inverse(tokens.values),
        "visible": inverse(mask.fill(tokens.values, tokens.values.new_zeros(1))),
    }
    invert: Any = getattr(target, "invert", None)
    if invert is not None:
        values, note = invert(prediction, tokens)
        columns[f"hidden predicted ({note})"] = inverse(mask.fill(tokens.values, values))
    return columns
