"""The masked convolutions are those of a dense network with hidden cells at zero, and leak nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import Mask, UserError
from polymask_vision.convvit import ConvViT
from polymask_vision.tokenizers import Patches

GRID, N, P, C = (3, 4), 12, 8, 3
CUT = Patches(size=(24, 32), channels=C, patch_size=P)


def make(**options: Any) -> ConvViT:
    torch.manual_seed(0)
    sizes = {"dim": 16, "depth": 1, "heads": 2, "conv_dims": (4, 6), "conv_depths": (2, 1)}
    made = ConvViT(in_dim=P * P * C, grid=GRID, patch_size=P, **(sizes | options))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def images(n: int = 2) -> Tensor:
    return torch.randn(n, C, 24, 32, generator=torch.Generator().manual_seed(0))


def masked(n: int = 2, hidden: int = 7) -> Mask:
    generator = torch.Generator().manual_seed(1)
    order = torch.stack([torch.randperm(N, generator=generator) for _ in range(n)])
    return Mask(order < hidden, N - hidden)


def run(made: ConvViT, image: Tensor, mask: Mask) -> Tensor:
    seen = mask.keep(CUT({"image": image}))
    return made(made.embed(seen.values), seen.position)


# ------------------------------------------------------------------------------------- reference


def strided(x: Tensor, linear: nn.Linear, side: int) -> Tensor:
    """A linear map of ``side * side`` neighbours, row, column, channel, as the convolution it is."""
    kernel = linear.weight.view(-1, side, side, x.shape[1]).permute(0, 3, 1, 2)
    return F.conv2d(x, kernel, linear.bias, stride=side)


def last(module: Any, x: Tensor) -> Tensor:
    """A module of channels-last input on ``[B, C, H, W]``."""
    return module(x.movedim(1, -1)).movedim(-1, 1)


def dense(made: Any, image: Tensor, mask: Mask) -> Tensor:
    """The network as published: whole maps, a mask before each depthwise convolution, then a choice."""
    visible = (~mask.hidden).float().view(-1, 1, *GRID)

    def blocks(x: Tensor, stage: Any, side: int) -> Tensor:
        shown = visible.repeat_interleave(side, 2).repeat_interleave(side, 3)
        for block in stage:
            x = x + last(
                block.after, block.convolution(shown * last(nn.Sequential(block.norm1, block.before), x))
            )
            x = x + last(block.mlp, last(block.norm2, x))
        return x

    def reduced(x: Tensor, reduce: Any, side: int) -> Tensor:
        return last(reduce[1:], strided(x, reduce[0], side))

    x = blocks(reduced(image, made.cells, P // 4), made.stages[0], 4)
    first = strided(x, made.skips[0], 4)
    x = blocks(reduced(x, made.merge, 2), made.stages[1], 2)
    second = strided(x, made.skips[1], 2)
    x = last(made.token[1], reduced(x, made.token[0], 2))
    tokens = x.flatten(2).transpose(1, 2) + made.positions.table
    kept = mask.keep(tokens)
    for block in made.blocks:
        kept = block(kept)
    return made.norm(kept + mask.keep((first + second).flatten(2).transpose(1, 2)))


def test_it_is_the_dense_network_on_visible_tokens() -> None:
    made = make()
    for hidden in (0, 7, 11):
        mask = masked(hidden=hidden)
        torch.testing.assert_close(
            run(made, images(), mask), dense(made, images(), mask), rtol=1e-4, atol=1e-5
        )


def test_hidden_pixels_change_nothing_and_visible_neighbours_do() -> None:
    made, mask, image = make(), masked(), images()
    pixels = CUT.inverse(mask.hidden[..., None].expand(-1, -1, P * P * C))
    first = run(made, image, mask)
    assert torch.equal(run(made, torch.where(pixels, 50.0, image), mask), first)
    assert not torch.allclose(run(made, torch.where(pixels, image, image + 1), mask), first, atol=1e-3)


def test_convolutions_see_across_tokens() -> None:
    """Without attention a token still depends on its neighbours, and on none far away."""
    made, image = make(depth=0, conv_depths=(1, 0)), images(1)
    image.requires_grad_()
    run(made, image, masked(1, 0))[0, 0].sum().backward()
    assert image.grad is not None
    reached = image.grad[0].abs().sum(0) > 0
    assert reached[:8, :8].all()
    assert reached[8:12, :8].all() and not reached[12:].any()  # two cells of two pixels
    assert reached[:8, 8:12].all() and not reached[:, 12:].any()


@pytest.mark.compile
def test_it_compiles_in_one_graph() -> None:
    made, mask = make(), masked()
    compiled = torch.compile(lambda x: run(made, x, mask), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images()), run(made, images(), mask), rtol=1e-4, atol=1e-5)


def test_what_it_cannot_encode_is_refused() -> None:
    with pytest.raises(UserError, match="rows and columns, and these have None"):
        ConvViT(grid=None)
    with pytest.raises(UserError, match="patches of 14 pixels cannot be"):
        ConvViT(patch_size=14)
    with pytest.raises(UserError, match="not divisible by 5 heads"):
        ConvViT(heads=5)
