"""Patches are cut in row-major order, row, column, channel within, and put back exactly."""

from __future__ import annotations

import pytest
import torch

from polymask import UserError
from polymask_vision.tokenizers import Patches


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("size", "patch"), [((8, 12), 4), ((15, 5), 5), ((6, 6), 1), ((4, 20), 2)])
def test_every_pixel_goes_where_it_should_and_comes_back(
    channels: int, size: tuple[int, int], patch: int
) -> None:
    tokenizer = Patches(size=size, channels=channels, patch_size=patch)
    image = torch.arange(2 * channels * size[0] * size[1]).view(2, channels, *size).float()
    tokens = tokenizer({"image": image})
    rows, columns = tokenizer.grid
    assert tokens.grid == (rows, columns) == (size[0] // patch, size[1] // patch)
    for site in range(rows * columns):
        y, x = divmod(site, columns)
        cut = image[:, :, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch]
        assert torch.equal(tokens.values[:, site], cut.permute(0, 2, 3, 1).flatten(1))
        assert tokens.position[:, site].tolist() == [[y, x]] * 2
    assert torch.equal(tokenizer.inverse(tokens.values), image)


def test_facts_fit_the_tokens() -> None:
    tokenizer = Patches(size=(8, 12), channels=2, patch_size=4)
    assert tokenizer.provides == {
        "in_dim": 32,
        "grid": (2, 3),
        "patch_size": 4,
        "channels": 2,
        "size": (8, 12),
    }
    assert tokenizer(tokenizer.example(3)).values.shape == (3, 6, 32)
    assert Patches(size=8, patch_size=4).size == (8, 8)


def test_images_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="do not tile images of 8 x 10"):
        Patches(size=(8, 10), patch_size=4)
    tokenizer = Patches(size=(8, 12), channels=1, patch_size=4)
    with pytest.raises(ValueError, match=r"expected images \[B, 1, 8, 12\], got \[2, 1, 12, 8\]"):
        tokenizer({"image": torch.zeros(2, 1, 12, 8)})


def test_examples_are_the_same_for_the_same_seed_and_leave_the_generator_alone() -> None:
    tokenizer = Patches(size=8, channels=1, patch_size=4)
    state = torch.get_rng_state()
    a, b, c = (tokenizer.example(2, seed)["image"] for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), state)
