"""vision/dit: blocks modulated by a condition, and what it shows of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from polymask import Mask, UserError, build, functional
from polymask.nn.positions import sincos
from polymask_vision.dit import DiT, ModulatedBlock, ModulatedDecoder
from polymask_vision.tokenizers import Patches


def shaken(module: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    return module.eval()


@torch.no_grad()
def test_a_block_is_that_of_the_paper_by_hand() -> None:
    torch.manual_seed(0)
    block, x, c = shaken(ModulatedBlock(16, 2, qkv_bias=True)), torch.randn(3, 5, 16), torch.randn(3, 16)
    shift, scale, gate, shift_2, scale_2, gate_2 = (
        F.linear(c, w, b)[:, None]
        for w, b in zip(block.modulation.weight.chunk(6), block.modulation.bias.chunk(6), strict=True)
    )
    y = x + gate * block.attn(block.norm1(x) * (1 + scale) + shift)
    y = y + gate_2 * block.mlp(block.norm2(y) * (1 + scale_2) + shift_2)
    torch.testing.assert_close(block(x, condition=c), y)


def encoder(**options: object) -> DiT:
    torch.manual_seed(0)
    return shaken(DiT(in_dim=48, grid=(4, 4), dim=16, depth=2, heads=2, **options))  # type: ignore[return-value]


@torch.no_grad()
def test_the_condition_is_a_function_of_time_and_of_what_else_is_told() -> None:
    own, time = encoder(), torch.tensor([0, 1, 500])
    told = own.time(sincos(time[:, None].float(), 16))
    torch.testing.assert_close(own.condition(time), F.silu(told))
    torch.testing.assert_close(own.condition(time, told), F.silu(2 * told))


@torch.no_grad()
def test_outputs_of_blocks_are_shown_at_a_time() -> None:
    own, tokens = encoder(), Patches(size=16, channels=3, patch_size=4)({"image": torch.randn(2, 3, 16, 16)})
    one, two = functional.layers(own, tokens)
    assert functional.depth(own) == 2 and not torch.equal(one, two)
    x, late = own.embed(tokens.values), own.condition(torch.full((2,), 700))
    assert torch.equal(own(x, tokens.position), two)
    assert not torch.allclose(own(x, tokens.position, None, late), two)
    assert torch.equal(own.layers(x, tokens.position, None, late)[-1], own(x, tokens.position, None, late))


@pytest.mark.parametrize("off", ["blocks", "norm"])
@torch.no_grad()
def test_blocks_and_last_norm_of_the_decoder_are_told_the_condition(off: str) -> None:
    own = encoder()
    decoder = shaken(ModulatedDecoder(own, grid=(4, 4), out_dim=7, depth=2, heads=2))
    for module in decoder.blocks if off == "blocks" else [decoder]:
        module.modulation.weight.zero_()
    encoded, mask = torch.randn(2, 1 + 16, 16), Mask(torch.zeros(2, 16, dtype=torch.bool), 16)
    position = Patches(size=16, channels=3, patch_size=4)({"image": torch.zeros(2, 3, 16, 16)}).position
    first, second = (decoder(encoded, mask, position, torch.full((2, 16), c)) for c in (0.0, 1.0))
    assert first.shape == (2, 16, 7) and (first - second).abs().max() > 1e-3


def test_systems_that_run_blocks_themselves_refuse_it() -> None:
    assert not hasattr(encoder(), "begin")
    with pytest.raises(UserError, match="does not let"):
        build("vision/mixedae", facts={"size": (16, 16), "channels": 3}, preset="tiny", encoder="vision/dit")
