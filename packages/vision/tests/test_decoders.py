"""Decoders that attend to another input, or have tokens only where they are asked, beside the light one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polymask import Mask, Tokens
from polymask.nn.decoders import LightDecoder
from polymask.nn.positions import coordinates
from polymask_vision.decoders import LatentPredictor, MemoryDecoder

GRID, N = (4, 5), 20


def decoder(**options: Any) -> LightDecoder:
    torch.manual_seed(0)
    made = LightDecoder(
        **{
            "in_dim": 12,
            "out_dim": 7,
            "prefix": 1,
            "grid": GRID,
            "dim": 16,
            "depth": 2,
            "heads": 4,
            **options,
        }
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def masked(hidden: int = 14, rows: int = 3) -> Mask:
    order = torch.stack([torch.randperm(N) for _ in range(rows)])
    return Mask(order < hidden, N - hidden)


def ragged() -> tuple[Mask, Tensor]:
    """Rows of 20, 15 and 9 real tokens, of which 14, 9 and 3 are hidden."""
    valid = torch.arange(N).expand(3, -1) < torch.tensor([[20], [15], [9]])
    hidden = torch.arange(N).expand(3, -1) < torch.tensor([[14], [9], [3]])
    return Mask(hidden & valid, None, valid), valid


def place(rows: int = 3) -> Tensor:
    return coordinates(GRID).expand(rows, -1, -1)


def predictor(**options: Any) -> LatentPredictor:
    made = decoder(**options)
    other = LatentPredictor(in_dim=12, out_dim=7, prefix=made.prefix, grid=GRID, dim=16, depth=2, heads=4)
    other.load_state_dict(made.state_dict())
    return other


def test_a_latent_predictor_has_no_mask_token_where_it_is_not_asked() -> None:
    """Its answers are those of all blocks on the visible tokens and the sites asked for, in one sequence."""
    made, mask = predictor(), masked()
    encoded = torch.randn(3, 7, 12)
    at = Mask(mask.hidden & (mask.hidden.cumsum(1) <= 4), N - 4)
    answers = made(encoded, mask, place(), at=at)
    for row in range(3):
        places = made.positions(place())[0]
        x = made.embed(encoded[row])
        seen = x[1:] + places[~mask.hidden[row]]
        asked = made.mask_token + places[at.hidden[row]]
        y = torch.cat([x[:1], seen, asked])[None]
        for block in made.blocks:
            y = block(y)
        torch.testing.assert_close(answers[row], made.head(made.norm(y))[0, -4:], rtol=1e-5, atol=1e-5)
    # all hidden sites asked for: the light decoder
    light = decoder()
    torch.testing.assert_close(made(encoded, mask, place()), light(encoded, mask, place()))


def test_a_latent_predictor_ignores_the_padding_of_shorter_rows() -> None:
    made = predictor()
    mask, valid = ragged()
    seen = mask.keep(Tokens(torch.randn(3, N, 12), place()))
    lead = torch.randn(3, 1, 12)
    answers = made(torch.cat([lead, seen.values], dim=1), mask, place())
    for row, (hidden, visible) in enumerate(((14, 6), (9, 6), (3, 6))):
        one = Mask(mask.hidden[row : row + 1], None, valid[row : row + 1])
        own = made(torch.cat([lead[row], seen.values[row, :visible]])[None], one, place(1))
        torch.testing.assert_close(answers[row, :hidden], own[0], rtol=1e-5, atol=1e-5)


def test_a_decoder_without_its_memory_is_the_light_one_and_all_its_blocks_read_it() -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"in_dim": 12, "out_dim": 7, "prefix": 1, "grid": GRID, "dim": 16, "depth": 2}
    ours, light = MemoryDecoder(**options, heads=4), decoder()
    light.load_state_dict(ours.state_dict(), strict=False)
    mask, encoded = masked(), torch.randn(3, 7, 12)
    assert torch.equal(ours(encoded, mask, place()), light(encoded, mask, place()))
    other = Tokens(torch.randn(3, N, 12), place())
    ours.features(encoded, mask, place(), memory=ours.memory(other)).sum().backward()
    assert all(block.cross.v.weight.grad.abs().max() > 0 for block in ours.blocks)
