"""Checks of tokenizers. ``invertible`` says that ``inverse`` gives back the input exactly."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from polymask.testing.subject import Subject, identical, rows, seeded
from polymask.testing.suite import check, require
from polymask.tokens import Tokens


@check("tokenizers")
def check_tokenizer_example(subject: Subject) -> None:
    """``example`` makes n samples under its key, the same for the same seed, without a trace."""
    tokenizer = subject.make()
    before = torch.get_rng_state()
    batch, again, another = tokenizer.example(3, 1), tokenizer.example(3, 1), tokenizer.example(3, 2)
    require(torch.equal(torch.get_rng_state(), before), "example moves the global generator")
    require(
        tokenizer.key in batch, f"example makes {', '.join(batch)}, not the tokenizer's key {tokenizer.key!r}"
    )
    for key, value in batch.items():
        require(len(value) == 3, f"example(3) makes {len(value)} samples of {key!r}")
        require(identical(value, again[key]), f"example makes another {key!r} for the same seed")
    require(
        not identical(batch[tokenizer.key], another[tokenizer.key]),
        "example makes the same for another seed",
    )


@check("tokenizers")
def check_tokenizer_shapes(subject: Subject) -> None:
    """Values, positions, grid, ids and validity have the shapes that Tokens documents."""
    tokens = subject.tokens(3)
    require(isinstance(tokens, Tokens), f"returned {type(tokens).__name__}, not polymask.Tokens")
    b, n = tokens.shape
    require(
        b == 3 and tokens.values.dim() == 3, f"values have shape {list(tokens.values.shape)}, not [3, N, D]"
    )
    require(
        tokens.position.dim() == 3 and tokens.position.shape[:2] == (3, n),
        f"position has shape {list(tokens.position.shape)}, not [3, {n}, P]",
    )
    require(tokens.position.isfinite().all(), "position is not finite")
    if tokens.grid is not None:
        require(math.prod(tokens.grid) == n, f"a grid of {tokens.grid} has not {n} sites")
        axes = [torch.arange(float(length)) for length in tokens.grid]
        lattice = torch.cartesian_prod(*axes).view(n, -1)
        require(
            torch.equal(tokens.position[0].cpu(), lattice), "positions are not those of the grid, row by row"
        )
    if tokens.ids is not None:
        good = (
            tokens.ids.shape == (3, n) and tokens.ids.dtype == torch.int64 and bool((tokens.ids >= 0).all())
        )
        require(
            good, f"ids are {tokens.ids.dtype} {list(tokens.ids.shape)}, not numbers from 0 in int64 [3, {n}]"
        )
    if tokens.valid is not None:
        good = tokens.valid.shape == (3, n) and tokens.valid.dtype == torch.bool
        require(good, f"valid is {tokens.valid.dtype} {list(tokens.valid.shape)}, not bool [3, {n}]")
        require(tokens.valid.any(1).all(), "some sample has no token at all")


@check("tokenizers")
def check_tokenizer_provides(subject: Subject) -> None:
    """``provides`` tells the width of the tokens it makes, and their grid where it is always the same."""
    facts, tokens = subject.make().provides, subject.tokens(2)
    width = tokens.values.shape[-1]
    require(
        facts.get("in_dim") == width,
        f"provides in_dim={facts.get('in_dim')}, makes tokens of {width} numbers",
    )
    require(
        facts.get("grid") in (None, tokens.grid),
        f"provides grid={facts.get('grid')}, makes a grid of {tokens.grid}",
    )


@check("tokenizers")
def check_tokenizer_is_deterministic(subject: Subject) -> None:
    """Makes the same tokens of the same input, whatever the global generators say."""
    tokenizer, batch = subject.make(), subject.batch(3)
    if isinstance(tokenizer, torch.nn.Module):
        tokenizer.eval()
    with seeded(1):
        first = tokenizer(batch)
    with seeded(2):
        second = tokenizer(batch)
    require(torch.equal(first.values, second.values), "a second call gives other values")


@check("tokenizers")
def check_tokenizer_takes_samples_one_by_one(subject: Subject) -> None:
    """Makes the same tokens of a sample in any batch, up to padding."""
    tokenizer, batch = subject.make(), subject.batch(4)
    whole, few = tokenizer(batch), tokenizer(rows(batch, [2, 1]))
    n = min(whole.shape[1], few.shape[1])
    for name in ("values", "position", "ids", "valid"):
        one, other = getattr(whole, name), getattr(few, name)
        if isinstance(one, Tensor) and isinstance(other, Tensor):
            one, other = one[[2, 1], :n], other[:, :n]
            if name != "valid" and whole.valid is not None:
                real = whole.valid[[2, 1], :n]
                one, other = one[real], other[real]
            require(torch.equal(one, other), f"{name} of a sample depend on the samples beside it")


@check("tokenizers", when="invertible")
def check_tokenizer_inverse(subject: Subject) -> None:
    """``inverse`` gives back the input bit for bit."""
    tokenizer, batch = subject.make(), subject.batch(3)
    back = tokenizer.inverse(tokenizer(batch).values)
    require(back.shape == batch[tokenizer.key].shape, f"inverse gives shape {list(back.shape)}")
    require(torch.equal(back, batch[tokenizer.key]), "inverse does not give back the input")
