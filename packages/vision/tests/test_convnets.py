"""vision/unet: the published sizes, what it sees, and features at the place of each pixel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polymask import UserError, functional
from polymask_vision.convnets import UNet
from polymask_vision.tokenizers import Patches, patches_of, picture_of


def make(
    size: tuple[int, int] = (16, 16), p: int = 1, channels: int = 3, **options: Any
) -> tuple[UNet, Patches]:
    torch.manual_seed(0)
    tokenizer = Patches(size=size, channels=channels, patch_size=p)
    facts = {k: v for k, v in tokenizer.provides.items() if k != "size"}
    return UNet(**facts, **{"width": 4, **options}).eval(), tokenizer


@pytest.mark.parametrize(("width", "millions"), [(8, 0.28), (10, 0.44), (16, 1.12), (32, 4.46)])
def test_with_a_head_it_has_the_parameters_of_the_released_networks(width: int, millions: float) -> None:
    net, _ = make(channels=15, width=width)
    count = sum(p.numel() for p in (*net.parameters(), *nn.Linear(width, 15).parameters()))
    assert round(count / 1e6, 2) == millions


def test_pixels_of_patches_have_the_features_of_single_pixels() -> None:
    fine, pixels = make(p=1)
    coarse, patches = make(p=4)
    coarse.load_state_dict(fine.state_dict())
    images = torch.randn(2, 3, 16, 16)
    one = picture_of(functional.encode(pixels, fine, {"image": images}).values, pixels.grid, 1)
    other = picture_of(functional.encode(patches, coarse, {"image": images}).values, patches.grid, 4)
    assert torch.equal(one, other) and one.shape == (2, 4, 16, 16)
    assert torch.equal(picture_of(patches_of(images, 4), (4, 4), 4), images)


def seen(net: UNet, size: int, at: tuple[int, int]) -> Tensor:
    """How much each pixel reaches the features of one, ``[size, size]``."""
    image = torch.randn(1, 3, size, size, requires_grad=True)
    told = net.features(image)[0, :, at[0], at[1]].sum()
    return torch.autograd.grad(told, image)[0][0].abs().sum(0)


def test_features_lie_at_their_pixels_and_dilation_widens_what_they_see() -> None:
    for net in (
        make((64, 64), levels=2, dilations=(1,))[0],
        make((64, 64), levels=2, dilations=(1, 2, 4))[0],
    ):
        net.double()
    for at in ((30, 33), (9, 50)):
        narrow, wide = (
            seen(make((64, 64), levels=2, dilations=each)[0], 64, at) for each in ((1,), (1, 2, 4))
        )
        assert divmod(int(narrow.argmax()), 64) == pytest.approx(at, abs=2)
        assert (wide > 0).sum() > 1.5 * (narrow > 0).sum()
        assert ((wide > 0) | ~(narrow > 0)).all()


def test_outputs_at_the_bottom_are_summed() -> None:
    net, _ = make(dilations=(1, 2, 4))
    x = torch.randn(2, 16, 2, 2)
    first, second, third = net.bottom.layers
    expected = first(x) + second(first(x)) + third(second(first(x)))
    torch.testing.assert_close(net.bottom(x), expected)
    assert [layer[0].dilation for layer in net.bottom.layers] == [(1, 1), (2, 2), (4, 4)]  # type: ignore[index]


def test_odd_sizes_are_padded_back() -> None:
    net, tokenizer = make((13, 22), channels=1)
    assert functional.encode(tokenizer, net, tokenizer.example(2)).values.shape == (2, 13 * 22, 4)


def test_what_is_no_whole_picture_is_refused() -> None:
    with pytest.raises(UserError, match="square patches"):
        UNet(in_dim=5, grid=(4, 4))
    with pytest.raises(UserError, match="ordinary U-Net"):
        make(dilations=())
    net, tokenizer = make()
    tokens = tokenizer(tokenizer.example(1))
    with pytest.raises(ValueError, match="whole grids"):
        net(tokens.values[:, :5], tokens.position[:, :5])
