"""Pictures: what is hidden is seen, what is visible is untouched."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from polymask import UserError
from polymask.data import evenly
from polymask.report.drawing import CLIPS, blank, frames, in_rows, overlay, png, scale, sheet, to_pixels


def test_channels_become_colours():
    colours = torch.rand(5, 4, 6)
    assert np.allclose(to_pixels(colours), colours[:3].permute(1, 2, 0), atol=1e-6)
    grey = to_pixels(torch.full((4, 6), 0.25))
    assert grey.shape == (4, 6, 3) and np.all(grey == 0.25)
    assert np.all(to_pixels(torch.tensor([[[2.0, -1.0, torch.nan]]]))[0] == [[1] * 3, [0] * 3, [0.5] * 3])


@pytest.mark.parametrize("shape", [(3,), (3, 8, 4, 5), (8, 2, 4, 5), (1, 8, 3, 4, 5)])
def test_what_is_neither_a_picture_nor_a_clip_is_refused(shape):
    with pytest.raises(
        UserError, match=re.escape(f"{list(shape)}: give a picture [H, W] or [C, H, W], or a clip")
    ):
        to_pixels(torch.zeros(shape))


@pytest.mark.parametrize(("length", "shown"), [(1, [0]), (3, [0, 1, 2]), (16, [0, 2, 4, 6, 8, 10, 12, 14])])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_clip_becomes_at_most_eight_frames(length, shown, channels):
    clip = torch.rand(length, channels, 4, 6)
    pixels = to_pixels(clip)
    assert pixels.shape == (len(shown), 4, 6, 3) and frames(pixels) == len(shown)
    for frame, t in zip(pixels, shown, strict=True):
        assert np.array_equal(frame, to_pixels(clip[t]))
    assert np.array_equal(scale(pixels, 12)[0], scale(pixels[0], 12)) and frames(pixels[0]) == 1


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


@pytest.mark.parametrize(("length", "slots"), [(8, 4), (2, 4), (72, 36), (16, 8), (3, 3), (1, 1)])
def test_each_frame_is_under_the_mask_of_its_time(length, slots):
    hidden = torch.rand(slots, 3, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    clip = to_pixels(torch.rand(length, 3, 12, 12))
    shown = evenly(length, 8)
    for k, frame in enumerate(overlay(clip, hidden)):
        assert np.array_equal(frame, overlay(clip[k], hidden[shown[k] * slots // length]))


def test_one_mask_of_rows_and_columns_lies_over_every_frame():
    clip, hidden = to_pixels(torch.rand(4, 1, 12, 12)), torch.rand(3, 6) < 0.5
    drawn = overlay(clip, hidden)
    assert all(np.array_equal(drawn[k], overlay(clip[k], hidden)) for k in range(4))


def test_a_mask_of_three_axes_makes_a_picture_a_clip():
    hidden = torch.rand(16, 3, 6) < 0.5
    drawn = overlay(blank(12, 12), hidden)
    assert drawn.shape == (8, 12, 12, 3)
    assert np.array_equal(drawn[3], overlay(blank(12, 12), hidden[6]))
    assert np.array_equal(overlay(blank(12, 12), hidden.view(2, 8, 3, 6)), drawn)


def test_a_clip_in_a_sheet_is_a_film_strip():
    made = sheet([[np.ones((4, 5, 3))], [np.full((3, 4, 5, 3), 0.5)]], gap=8)
    assert made.shape == (4 + 8 + 4, 3 * 5 + 2 * 2, 4)
    assert made[:4, :5, 3].all() and not made[:4, 5:, 3].any()  # a picture takes one frame's place
    assert made[12:, :, 3].sum() == 4 * 15 and np.all(made[12:, 7:12] == [0.5, 0.5, 0.5, 1])


def test_sheets_are_clear_between_pictures():
    made = sheet([[np.ones((4, 4, 3))] * 3, [np.ones((4, 4, 3))] * 2], gap=2)
    assert made.shape == (10, 16, 4)
    assert made[..., 3].sum() == 5 * 16


def test_png_holds_the_pixels():
    pixels = np.round(np.random.default_rng(0).random((5, 7, 3)) * 255) / 255
    data = png(pixels)
    assert np.allclose(imread(io.BytesIO(data))[..., :3], pixels, atol=1e-6)
    assert png(pixels) == data


def test_large_pictures_are_few_in_a_row_and_clips_are_alone():
    def widths(*shape, count=8, **options):
        return [len(row) for row in in_rows([np.zeros(shape)] * count, **options)]

    assert widths(168, 168, 3) == [8] and widths(84, 84, 3, count=7) == [7]
    assert widths(100, 480, 3) == [2] * 4 and widths(100, 480, 3, large=1500) == [3, 3, 2]
    assert widths(300, 1600, 3, count=2) == [1, 1]
    assert widths(5, 16, 16, 3) == [1] * CLIPS
