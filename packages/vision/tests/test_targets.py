"""Targets by their closed forms, without gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from polymask import Tokens, UserError
from polymask_vision.targets import DCT, HOG, Pixels
from polymask_vision.tokenizers import Patches, Tubelets


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


def test_each_channel_of_a_tubelet_is_normalised_by_itself() -> None:
    """By hand from a clip: mean and unbiased deviation over frames, rows and columns of one channel."""
    torch.manual_seed(0)
    scales = torch.tensor([1.0, 30.0, 900.0])[:, None, None]
    video = torch.randn(2, 4, 3, 8, 8) * scales + scales
    tokenizer = Tubelets(frames=4, size=8, channels=3, patch_size=4, tubelet=2)
    seen = tokenizer({"video": video})
    target = Pixels(in_dim=96, patch_norm=True, by_channel=True, channels=3)
    found = tokenizer.inverse(target({}, seen))
    block = video[:, 2:, 1, 4:, :4]
    mean, std = block.mean((1, 2, 3), keepdim=True), block.flatten(1).std(1).view(2, 1, 1, 1)
    torch.testing.assert_close(found[:, 2:, 1, 4:, :4], (block - mean) / std, rtol=1e-4, atol=1e-4)
    # whoever predicts zero pays (n - 1) / n, n the numbers of a channel
    torch.testing.assert_close(target({}, seen).square().mean(), torch.tensor(31 / 32), rtol=1e-4, atol=0)
    back, _ = target.invert(target({}, seen), seen)
    torch.testing.assert_close(back, seen.values, rtol=1e-4, atol=1e-3)
    whole = Pixels(in_dim=96, patch_norm=True)({}, seen)
    assert (whole - target({}, seen)).abs().mean() > 0.1
    with pytest.raises(UserError, match="patch_norm true"):
        Pixels(by_channel=True)
    with pytest.raises(UserError, match="not made of 3 channels"):
        Pixels(in_dim=16, patch_norm=True, by_channel=True)


@pytest.mark.parametrize("patch_norm", [True, False])
def test_pixels_come_back_from_their_own_target(patch_norm: bool) -> None:
    target, seen = Pixels(in_dim=16, patch_norm=patch_norm), tokens(torch.randn(2, 3, 16) * 2 + 1)
    values, note = target.invert(target({}, seen), seen)
    torch.testing.assert_close(values, seen.values, rtol=1e-5, atol=1e-5)
    assert ("its own true mean" in note) == patch_norm


def test_raw_pixels_are_the_values() -> None:
    values = torch.randn(2, 3, 16)
    assert torch.equal(Pixels(in_dim=16)({}, tokens(values)), values)


@pytest.mark.parametrize(
    "target",
    [Pixels(in_dim=8), Pixels(in_dim=8, patch_norm=True), DCT(channels=2, patch_size=2)],
    ids=["raw", "norm", "dct"],
)
def test_targets_are_float32_without_gradient_or_parameters(target: Pixels | DCT) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        values = torch.randn(1, 3, 8, dtype=dtype, requires_grad=True)
        out = target({}, tokens(values))
        assert out.dtype == torch.float32
        assert not out.requires_grad
        assert out.shape == (1, 3, target.dim)
    assert not list(target.parameters())


# -------------------------------------------------------------------------------------- cosines


@pytest.mark.parametrize(("patch_size", "channels"), [(1, 1), (4, 3), (7, 2), (16, 3)])
def test_coefficients_are_scipys(patch_size: int, channels: int) -> None:
    fft = pytest.importorskip("scipy.fft")
    values = torch.randn(2, 5, patch_size**2 * channels)
    target = DCT(channels=channels, patch_size=patch_size)
    found = target({}, tokens(values)).view(2, 5, patch_size, patch_size, channels)
    square = values.double().view_as(found).numpy()
    expected = torch.from_numpy(fft.dctn(square, type=2, norm="ortho", axes=(2, 3)))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    for low in {1, max(patch_size // 2, 1)}:
        few = DCT(channels=channels, patch_size=patch_size, low=low)
        assert few.dim == low * low * channels
        torch.testing.assert_close(few({}, tokens(values)), found[:, :, :low, :low].flatten(2))
        back, note = few.invert(few({}, tokens(values)), tokens(values))
        kept = expected.numpy().copy()
        kept[:, :, low:], kept[:, :, :, low:] = 0, 0
        smooth = torch.from_numpy(fft.idctn(kept, type=2, norm="ortho", axes=(2, 3))).float()
        torch.testing.assert_close(back, smooth.flatten(2), rtol=1e-4, atol=1e-5)
        assert ("all" if low == patch_size else f"lowest {low} x {low}") in note


def test_the_error_of_all_coefficients_is_that_of_the_pixels() -> None:
    target, x, y = DCT(channels=3, patch_size=4), torch.randn(2, 3, 48), torch.randn(2, 3, 48)
    apart = target({}, tokens(x)) - target({}, tokens(y))
    torch.testing.assert_close(apart.square().mean(), (x - y).square().mean())
    with pytest.raises(UserError, match="have 1 to 4 frequencies along an axis, got low 5"):
        DCT(patch_size=4, low=5)


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
