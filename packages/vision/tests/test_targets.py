"""Targets by their closed forms, without gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from polymask import Tokens, UserError
from polymask_vision.targets import HOG, Entropy, Pixels, Variance
from polymask_vision.tokenizers import Patches


def tokens(values: Tensor) -> Tokens:
    return Tokens(values, torch.zeros(*values.shape[:2], 2))


def test_normalised_patches_have_mean_zero_and_unbiased_variance_one() -> None:
    values = torch.randn(2, 5, 48) * 3 + 10
    target = Pixels(in_dim=48, patch_norm=True)({}, tokens(values))
    torch.testing.assert_close(target.mean(dim=-1), torch.zeros(2, 5), rtol=0, atol=1e-5)
    torch.testing.assert_close(target.var(dim=-1), torch.ones(2, 5), rtol=1e-5, atol=0)
    by_hand = (values[0, 0] - values[0, 0].mean()) / (values[0, 0].var() + 1e-6).sqrt()
    torch.testing.assert_close(target[0, 0], by_hand)


def test_predicting_zero_costs_n_minus_one_of_n() -> None:
    target = Pixels(in_dim=16, patch_norm=True)({}, tokens(torch.randn(4, 9, 16)))
    torch.testing.assert_close(target.square().mean(), torch.tensor(15 / 16), rtol=1e-5, atol=0)


def test_a_flat_patch_is_zero_and_finite() -> None:
    target = Pixels(in_dim=16, patch_norm=True)({}, tokens(torch.full((1, 2, 16), 7.0)))
    assert torch.equal(target, torch.zeros(1, 2, 16))


@pytest.mark.parametrize("patch_norm", [True, False])
def test_pixels_come_back_from_their_own_target(patch_norm: bool) -> None:
    target, seen = Pixels(in_dim=16, patch_norm=patch_norm), tokens(torch.randn(2, 3, 16) * 2 + 1)
    values, note = target.invert(target({}, seen), seen)
    torch.testing.assert_close(values, seen.values, rtol=1e-5, atol=1e-5)
    assert ("its own true mean" in note) == patch_norm


def test_raw_pixels_are_the_values() -> None:
    values = torch.randn(2, 3, 16)
    assert torch.equal(Pixels(in_dim=16)({}, tokens(values)), values)


def test_variance_is_unbiased_and_one_per_token() -> None:
    values = torch.tensor([[[1.0, 2.0, 3.0, 6.0], [5.0, 5.0, 5.0, 5.0]]])
    score = Variance(in_dim=4)({}, tokens(values))
    torch.testing.assert_close(score, torch.tensor([[[14 / 3], [0.0]]]))
    assert Variance(in_dim=4).dim == 1


@pytest.mark.parametrize(
    "target",
    [Pixels(in_dim=8), Pixels(in_dim=8, patch_norm=True), Variance(in_dim=8)],
    ids=["raw", "norm", "variance"],
)
def test_targets_are_float32_without_gradient_or_parameters(target: Pixels | Variance) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        values = torch.randn(1, 3, 8, dtype=dtype, requires_grad=True)
        out = target({}, tokens(values))
        assert out.dtype == torch.float32
        assert not out.requires_grad
        assert out.shape == (1, 3, target.dim)
    assert not list(target.parameters())


# ------------------------------------------------------------------------------------- entropy


def test_entropy_of_known_distributions() -> None:
    even = torch.arange(16.0) / 15
    values = torch.stack([torch.zeros(16), torch.tensor([0.0, 1.0]).repeat(8), even])[None]
    score = Entropy(bins=16)({}, tokens(values))[0, :, 0]
    torch.testing.assert_close(score, torch.tensor([0.0, math.log(2), math.log(16)]))
    # brightness and contrast of the image do not matter, and neither does the image beside it
    both = torch.cat([values, 100 + 7 * values.flip(1)])
    torch.testing.assert_close(Entropy()({}, tokens(both))[1, :, 0], score.flip(0))
    assert torch.equal(Entropy()({}, tokens(torch.ones(1, 3, 16))), torch.zeros(1, 3, 1))
    with pytest.raises(UserError, match="2 bins or more"):
        Entropy(bins=1)


# ------------------------------------------------------------------------------------- gradients


def hog(image: Tensor, patch_size: int = 16, **options: object) -> Tensor:
    """``[B, patch rows, patch columns, cells, cells, bins, C]``."""
    b, c, h, w = image.shape
    cut = Patches(size=(h, w), channels=c, patch_size=patch_size)
    target = HOG(channels=c, patch_size=patch_size, **options)  # type: ignore[arg-type]
    out = target({"image": image}, cut({"image": image}))
    cells = patch_size // target.cell
    return out.view(b, h // patch_size, w // patch_size, cells, cells, target.bins, c)


def test_edges_fall_into_the_bins_of_their_directions() -> None:
    upright = torch.zeros(1, 1, 16, 16)
    upright[..., 9:] = 1
    for image in (upright, 1 - upright):  # from dark to bright and back are one direction
        found = hog(image, norm=False)[0, 0, 0, ..., 0]
        assert (found[..., 1:] == 0).all()
        assert found[:, 1, 0].tolist() == pytest.approx([2 * 8 * 255 / 64] * 2)
        assert (found[:, 0] == 0).all()
    level = hog(upright.transpose(2, 3), norm=False)[0, 0, 0, ..., 0]
    assert (level[1, :, 4] > 0).all() and level.count_nonzero() == 2


def test_every_direction_has_a_bin_and_none_is_lost() -> None:
    x = torch.arange(16.0)
    for degrees in range(-175, 360, 10):
        angle = math.radians(degrees)
        image = (x * math.cos(angle) + x[:, None] * math.sin(angle))[None, None]
        found = hog(image, norm=False)[0, 0, 0, ..., 0].sum((0, 1))
        assert found.argmax() == (degrees % 180) // 20


def test_normalised_cells_forget_contrast_and_flat_ones_are_zero() -> None:
    image = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    found = hog(image)
    torch.testing.assert_close(found.mean(-2), torch.zeros(2, 2, 3, 2, 2, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.var(-2, unbiased=False), torch.ones(2, 2, 3, 2, 2, 3))
    torch.testing.assert_close(hog(0.1 * image + 5), found, rtol=1e-3, atol=1e-3)
    assert (hog(torch.full((1, 3, 16, 16), 0.3)) == 0).all()


def test_std_brings_back_the_pixels_scale() -> None:
    image = torch.rand(1, 2, 16, 16)
    std = torch.tensor([0.2, 0.5])[:, None, None]
    torch.testing.assert_close(hog(image / std, norm=False, std=(0.2, 0.5)), hog(image, norm=False))


def test_gradients_cross_the_borders_of_patches() -> None:
    """A step between two patches is seen by both: the image is differentiated whole."""
    image = torch.zeros(1, 1, 8, 8)
    image[..., 4:] = 1
    found = hog(image, patch_size=4, norm=False)[0, :, :, :, :, 0, 0]
    assert (found[:, 0, :, 1] > 0).all() and (found[:, 1, :, 0] > 0).all()


@pytest.mark.parametrize(
    ("size", "patch_size", "cell"), [((32, 48), 16, 8), ((28, 28), 4, 2), ((30, 20), 10, 2)]
)
def test_histograms_are_scikit_images(size: tuple[int, int], patch_size: int, cell: int) -> None:
    feature = pytest.importorskip("skimage.feature")
    image = torch.randint(256, (1, 3, *size), generator=torch.Generator().manual_seed(0)).float()
    found = hog(image / 255, patch_size, cell=cell, norm=False)
    h, w, r = size[0] // patch_size, size[1] // patch_size, patch_size // cell
    ours = found.permute(6, 1, 3, 2, 4, 5, 0).reshape(3, h * r, w * r, 9)
    for channel in range(3):
        theirs = feature.hog(
            image[0, channel].double().numpy(),
            orientations=9,
            pixels_per_cell=(cell, cell),
            cells_per_block=(1, 1),
            block_norm="L1",
            feature_vector=False,
        )
        theirs = torch.from_numpy(theirs)[:, :, 0, 0]
        scaled = ours[channel] / (ours[channel].sum(-1, keepdim=True) + 1e-5)
        torch.testing.assert_close(scaled.double(), theirs, rtol=1e-4, atol=1e-5)


def test_numbers_of_a_patch_are_by_cell_row_cell_column_bin_channel() -> None:
    image = torch.rand(1, 3, 32, 32)
    whole = hog(image, patch_size=8, cell=8)[0, :, :, 0, 0]  # [4, 4, bins, C]
    grouped = hog(image, patch_size=16, cell=8)[0]
    for row, column in ((0, 0), (1, 2), (3, 1)):
        torch.testing.assert_close(
            grouped[row // 2, column // 2, row % 2, column % 2], whole[row, column], rtol=1e-4, atol=1e-5
        )


def test_hog_is_a_target_of_the_width_it_says() -> None:
    assert HOG().dim == 108
    assert not list(HOG().parameters())
    image = torch.rand(1, 1, 8, 8, requires_grad=True)
    assert not hog(image, patch_size=4).requires_grad


def test_impossible_cells_are_refused() -> None:
    with pytest.raises(UserError, match="cells of 3 pixels do not tile patches of 16"):
        HOG(cell=3)
    with pytest.raises(UserError, match="cells of 3 pixels do not tile patches of 7"):
        HOG(patch_size=7)
    with pytest.raises(UserError, match="one number per channel, 3"):
        HOG(std=(0.2,))
