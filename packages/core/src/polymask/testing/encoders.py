"""Checks of encoders.

Tags: ``needs-grid`` (encodes whole grids only), ``ordered`` (tokens are taken in their order, as a
recurrent network does, not by position alone). Trainable parameters without gradient are named,
with a reason, in the attribute ``unused``.
"""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from polymask import functional
from polymask.errors import UserError
from polymask.mask import Mask
from polymask.testing.subject import Subject, seeded
from polymask.testing.suite import Skip, check, require
from polymask.tokens import Tokens


def some(tokens: Tokens, share: float = 0.5) -> Mask:
    """A mask that hides a share of the real tokens at random, all of them alike per row."""
    b, n = tokens.shape
    key = torch.rand(b, n, generator=torch.Generator().manual_seed(0))
    if tokens.valid is None:
        visible = max(round(n * (1 - share)), 1)
        return Mask(key.argsort(1).argsort(1) >= visible, visible)
    hidden = tokens.valid & (key < share)
    hidden[:, 0] = False
    return Mask(hidden, None, tokens.valid)


def run(encoder: Any, tokens: Tokens) -> Tensor:
    """Output for tokens of raw content."""
    out: Tensor = encoder(encoder.embed(tokens.values), tokens.position, tokens.valid)
    return out


def tell(out: Tensor) -> Tensor:
    """A number that depends on every output: what a gradient starts from."""
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(0))
    return (out.float() * weight).sum()


@check("encoders")
def check_encoder_tells_the_truth(subject: Subject) -> None:
    """``dim``, ``out_dim``, ``prefix``, ``downsample`` and ``needs_grid`` are what it does."""
    encoder, tokens = subject.make(), subject.tokens()
    b, n = tokens.shape
    embedded = encoder.embed(tokens.values)
    require(embedded.shape == (b, n, encoder.dim), f"dim={encoder.dim}, embeds to {list(embedded.shape)}")
    out = encoder(embedded, tokens.position, tokens.valid)
    axes = len(tokens.grid or ())
    expected = (b, encoder.prefix + n // encoder.downsample**axes, encoder.out_dim)
    require(
        out.shape == expected,
        f"prefix={encoder.prefix}, downsample={encoder.downsample}, out_dim={encoder.out_dim} promise "
        f"{list(expected)}; the output is {list(out.shape)}",
    )
    require(out.isfinite().all(), "the output is not finite")
    tagged = "needs-grid" in subject.part.tags
    require(tagged == encoder.needs_grid, f"needs_grid={encoder.needs_grid}, but the tag says {tagged}")


@check("encoders")
def check_encoder_leaks_nothing_hidden(subject: Subject) -> None:
    """Features stay the same when hidden input changes, whether it is left out or filled in."""
    encoder, tokens = subject.make(), subject.tokens()
    mask = some(tokens)
    changed = dataclasses.replace(tokens, values=mask.fill(tokens.values, other(tokens.values)))

    def substituted(x: Tokens) -> Tensor:
        embedded = encoder.embed(x.values)
        filled = mask.fill(embedded, torch.zeros_like(embedded))
        out: Tensor = encoder(filled, x.position, x.valid)
        return out

    def left_out(x: Tokens) -> Tensor:
        seen = mask.keep(x)
        return _real(run(encoder, seen), seen, encoder.prefix)

    def embedded_then_left_out(x: Tokens) -> Tensor:
        seen = mask.keep(dataclasses.replace(x, values=encoder.embed(x.values)))
        return _real(encoder(seen.values, seen.position, seen.valid), seen, encoder.prefix)

    ways = {"filled in after embedding": substituted}
    if not encoder.needs_grid:
        ways |= {"left out": left_out, "left out after embedding": embedded_then_left_out}
    for way, encode in ways.items():
        with seeded(1):
            before = encode(tokens)
        with seeded(1):
            after = encode(changed)
        # to rounding: some matrix products go by where in memory their operands lie
        scale = float(before.detach().abs().amax())
        require(
            torch.allclose(before, after, rtol=0, atol=1e-5 * scale),
            f"hidden tokens {way}: changing them changes the features of visible ones",
        )


def _real(out: Tensor, seen: Tokens, prefix: int) -> Tensor:
    # Rows that keep fewer tokens are padded, with whatever: features there mean nothing.
    return (
        out if seen.valid is None else torch.cat([out[:, :prefix].flatten(0, 1), out[:, prefix:][seen.valid]])
    )


@check("encoders", unless=("needs-grid",))
def check_encoder_takes_any_subset(subject: Subject) -> None:
    """Encodes one token, any number of them, and all."""
    encoder, tokens = subject.make(), subject.tokens()
    b, n = tokens.shape
    for share in (0.0, 0.3, 0.75, 1.0):
        seen = some(tokens, share).keep(tokens)
        out = run(encoder, seen)
        k = seen.values.shape[1]
        expected = (b, encoder.prefix + k, encoder.out_dim)
        require(
            out.shape == expected, f"{k} of {n} tokens: the output is {list(out.shape)}, not {list(expected)}"
        )
        require(out.isfinite().all(), f"{k} of {n} tokens: the output is not finite")


@check("encoders", unless=("needs-grid", "ordered"))
def check_encoder_goes_by_position(subject: Subject) -> None:
    """Gives each token the same features in whatever order the tokens come: place is in ``position``."""
    encoder, tokens = subject.make().eval(), subject.tokens()
    if tokens.valid is not None:
        tokens = dataclasses.replace(tokens, valid=None)
    seen = some(tokens).keep(tokens)
    order = torch.randperm(seen.values.shape[1], generator=torch.Generator().manual_seed(2))
    shuffled = dataclasses.replace(seen, values=seen.values[:, order], position=seen.position[:, order])
    r = encoder.prefix
    one, other = run(encoder, seen)[:, r:][:, order], run(encoder, shuffled)[:, r:]
    require(
        torch.allclose(one, other, rtol=1e-3, atol=1e-4),
        "features depend on the order of the kept tokens: take the place from position, or tag it 'ordered'",
    )


@check("encoders", when="needs-grid")
def check_encoder_refuses_part_of_a_grid(subject: Subject) -> None:
    """Raises where it is given part of the grid, rather than treat it as a whole."""
    encoder, tokens = subject.make(), subject.tokens()
    if tokens.valid is not None:
        raise Skip("the tokens have no grid of their own")
    seen = some(tokens).keep(tokens)
    try:
        run(encoder, seen)
    except (ValueError, NotImplementedError):
        return
    require(False, f"encodes {seen.values.shape[1]} of {tokens.shape[1]} tokens without complaint")


@check("encoders", unless=("needs-grid",))
def check_encoder_ignores_padding(subject: Subject) -> None:
    """Features of real tokens do not depend on what or how much padding follows, or it refuses padding."""
    encoder, tokens = subject.make().eval(), subject.tokens()
    seen = some(dataclasses.replace(tokens, valid=None), 0.25)
    whole = seen.keep(dataclasses.replace(tokens, valid=None, ids=None))
    b, k = whole.shape
    real = k - 3
    if real < 1:
        raise Skip("the example has too few tokens to try padding")
    valid = torch.arange(k).expand(b, k) < real
    padded = dataclasses.replace(whole, valid=valid)
    noise = torch.where(valid[..., None], whole.values, other(whole.values))
    r = encoder.prefix
    try:
        first = run(encoder, padded)[:, : r + real]
    except (ValueError, NotImplementedError) as error:
        raise Skip(f"refuses padding: {error}") from error
    second = run(encoder, dataclasses.replace(padded, values=noise))[:, : r + real]
    require(torch.equal(first, second), "changing padding changes the features of real tokens")
    short = dataclasses.replace(whole, values=whole.values[:, :real], position=whole.position[:, :real])
    require(
        torch.allclose(first, run(encoder, short), rtol=1e-3, atol=1e-4),
        "padding changes the features of real tokens: mind valid in attention, norms and sums",
    )


@check("encoders")
def check_encoder_trains_every_parameter(subject: Subject) -> None:
    """Gradient reaches every trainable parameter."""
    encoder, tokens = subject.make().train(), subject.tokens()
    torch.autograd.backward(tell(run(encoder, tokens)))
    confirm_gradients(encoder)


def confirm_gradients(module: nn.Module) -> None:
    """Every trainable parameter has a finite gradient, except exactly those named in ``unused``."""
    trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    unused = set(getattr(module, "unused", {}))
    idle = {name for name, p in trainable.items() if p.grad is None}
    stale = unused - idle
    require(not stale, f"named in `unused`, but trained or absent: {', '.join(sorted(stale))}")
    lost = sorted(idle - unused)
    require(
        not lost, f"no gradient reaches {', '.join(lost)}: use them, freeze them or name them in `unused`"
    )
    wild = [name for name, p in trainable.items() if p.grad is not None and not p.grad.isfinite().all()]
    require(not wild, f"the gradient of {', '.join(wild)} is not finite")


@check("encoders")
def check_encoder_is_deterministic_in_eval(subject: Subject) -> None:
    """In eval mode it gives a sample the same features at every call and in any batch."""
    encoder, tokens = subject.make().eval(), subject.tokens(4)
    with seeded(1):
        first = run(encoder, tokens)
    with seeded(2):
        second = run(encoder, tokens)
    require(torch.equal(first, second), "a second call in eval mode gives other features")
    few = Tokens(
        tokens.values[1:3],
        tokens.position[1:3],
        tokens.grid,
        valid=None if tokens.valid is None else tokens.valid[1:3],
    )
    require(
        torch.allclose(first[1:3], run(encoder, few), rtol=1e-3, atol=1e-4),
        "features of a sample depend on the samples beside it",
    )


@check("encoders")
def check_encoder_blocks_are_what_it_runs(subject: Subject) -> None:
    """Where its blocks can be read, the last output is the encoder's, and no two are the same."""
    encoder, tokens = subject.make().eval(), subject.tokens(4)
    with seeded(0), torch.no_grad():  # blocks may begin as the identity
        for parameter in encoder.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    try:
        depth = functional.depth(encoder)
    except UserError as error:
        raise Skip(str(error)) from error
    with torch.no_grad():
        states = functional.layers(encoder, tokens)
    require(len(states) == depth, f"has {depth} blocks, and gives {len(states)} outputs")
    require(torch.allclose(states[-1], run(encoder, tokens), atol=1e-5), "the last is not its output")
    shape = (len(tokens.values), encoder.prefix + tokens.shape[1], encoder.dim)
    require(all(x.shape == shape for x in states), f"an output of a block is not {list(shape)}")
    require(not any(torch.equal(x, y) for x, y in pairwise(states)), "two blocks give the same")


def other(values: Tensor) -> Tensor:
    """Other content of the same kind: large numbers, or ids of the same vocabulary in other places."""
    if values.is_floating_point():
        return 100 * torch.randn(values.shape, generator=torch.Generator().manual_seed(1))
    return values.flatten().roll(1).view_as(values)
