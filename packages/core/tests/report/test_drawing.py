"""Pictures: what is hidden is seen, what is visible is untouched."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from polymask.report.drawing import blank, overlay, png, scale, sheet, to_pixels


def test_channels_become_colours():
    colours = torch.rand(5, 4, 6)
    assert np.allclose(to_pixels(colours), colours[:3].permute(1, 2, 0), atol=1e-6)
    grey = to_pixels(torch.full((4, 6), 0.25))
    assert grey.shape == (4, 6, 3) and np.all(grey == 0.25)
    assert np.all(to_pixels(torch.tensor([[[2.0, -1.0, torch.nan]]]))[0] == [[1] * 3, [0] * 3, [0.5] * 3])
    with pytest.raises(ValueError, match=r"\[2, 3, 4, 5\]"):
        to_pixels(torch.zeros(2, 3, 4, 5))


def test_small_pictures_stay_crisp_and_large_ones_are_averaged():
    small = to_pixels(torch.rand(1, 8, 8))
    large = scale(small, 168)
    assert large.shape == (168, 168, 3) and np.array_equal(large[::21, ::21], small)
    shrunk = scale(to_pixels(torch.rand(3, 300, 600)), 200)
    assert shrunk.shape == (100, 200, 3)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_hidden_sites_change_and_visible_ones_do_not(value):
    picture = np.full((40, 60, 3), value)
    hidden = torch.tensor([[True, False, False], [False, False, True]])
    drawn = overlay(picture, hidden)
    assert np.all(drawn[:20, 20:] == value) and np.all(drawn[20:, :40] == value)
    changed = np.abs(drawn - picture).max(axis=2) > 0.1
    assert changed[:20, :20].all() and changed[20:, 40:].all()


def test_soft_masks_colour_in_proportion():
    picture = np.zeros((8, 16, 3))
    drawn = overlay(picture, torch.tensor([0.25, 0.5]))
    # but for the line between the two sites
    assert np.allclose(2 * drawn[:, 1:8], drawn[:, 9:])


def test_sites_of_more_than_two_axes_are_rows():
    assert overlay(blank(12, 12), torch.zeros(2, 3, 6)).shape == (12, 12, 3)


def test_sheets_are_clear_between_pictures():
    made = sheet([[np.ones((4, 4, 3))] * 3, [np.ones((4, 4, 3))] * 2], gap=2)
    assert made.shape == (10, 16, 4)
    assert made[..., 3].sum() == 5 * 16


def test_png_holds_the_pixels():
    pixels = np.round(np.random.default_rng(0).random((5, 7, 3)) * 255) / 255
    data = png(pixels)
    assert np.allclose(imread(io.BytesIO(data))[..., :3], pixels, atol=1e-6)
    assert png(pixels) == data
