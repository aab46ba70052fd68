"""DACS in parts: classes pasted from one domain on another, augmentation by the step, the teacher."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision.transforms.v2.functional as V
from torch import nn

from polymask import Step
from polymask_vision.domain_mix import BatchTeacher, augment, blur, half_of_classes, jitter

STEP = Step(3, 10, seed=1)


def test_half_of_the_classes_of_the_batch_are_drawn_for_each_image() -> None:
    """Also of classes that an image lacks; unknown pixels are a class."""
    label = torch.full((600, 2, 4), 2)
    label[0] = torch.tensor([[-1, 0, 2, 3], [0, 0, 3, 3]])
    label[1:300, 0, 0] = 0
    label[1:300, 0, 1] = 3
    label[1:300, 0, 2] = -1
    pasted = half_of_classes(label, torch.arange(600), 6, STEP, 1)
    there = [-1, 0, 2, 3]
    drawn = torch.stack([(pasted[1:300] & (label[1:300] == c)).flatten(1).any(1) for c in there], dim=1)
    assert (drawn.sum(1) == 2).all()
    assert (drawn.float().mean(0) - 0.5).abs().max() < 0.12
    for c in there:  # all pixels of a class, or none
        of = label[0] == c
        assert pasted[0][of].all() or not pasted[0][of].any()
    # images of one class alone: pasted whole, or not at all
    assert 0.38 < pasted[300:].float().mean() < 0.62
    five = label.clone()
    five[-1] = 5
    drawn = torch.stack(
        [
            (half_of_classes(five, torch.arange(600), 6, STEP, 1)[:300] & (five[:300] == c)).flatten(1).any(1)
            for c in there
        ],
        1,
    )
    assert drawn.sum(1).max() == 3  # five classes: three, rounded up
    later = half_of_classes(label, torch.arange(600), 6, Step(4, 10, seed=1), 1)
    assert 0.3 < (later != pasted).float().mean() < 0.7


def test_jitter_and_blur_are_those_of_torchvision() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(4, 3, 24, 40, generator=generator).round(decimals=1)  # some of it black, some white
    change = 0.2 * (2 * torch.rand(4, 4, generator=generator) - 1)
    change[0] = 0.2
    ours = jitter(image, change)
    sigma = torch.tensor([0.15, 0.5, 1.0, 1.15])
    soft = blur(image, sigma)
    for x, made, blurred, (light, contrast, colour, hue), width in zip(
        image, ours, soft, change.tolist(), sigma.tolist(), strict=True
    ):
        x_ = V.adjust_contrast(V.adjust_brightness(x, 1 + light), 1 + contrast)
        torch.testing.assert_close(
            made, V.adjust_hue(V.adjust_saturation(x_, 1 + colour), hue), atol=1e-5, rtol=0
        )
        torch.testing.assert_close(blurred, V.gaussian_blur(x, [3, 3], [width, width]), atol=1e-5, rtol=0)


def test_images_without_colours_change_in_brightness_and_contrast_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    grey, change = torch.rand(3, 1, 8, 8, generator=generator), torch.tensor([0.1, -0.2, 0.2, 0.2])
    expected = V.adjust_contrast(V.adjust_brightness(grey, 1.1), 0.8)
    torch.testing.assert_close(jitter(grey, change.expand(3, 4)), expected)
    pair = 0.4 + 0.1 * torch.rand(3, 2, 8, 8, generator=generator)
    middle = 1.1 * pair.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(jitter(pair, change.expand(3, 4)), middle + 0.8 * (1.1 * pair - middle))


def test_eight_of_ten_batches_are_jittered_and_five_of_ten_blurred() -> None:
    """Whether is drawn for all images of a batch at once, and alike on all processes; how for each image."""
    mean, std = torch.tensor([0.4, 0.5, 0.6])[:, None, None], torch.tensor([0.2, 0.25, 0.3])[:, None, None]
    edge = torch.full((3, 3, 1, 21), 0.3)
    edge[..., 11:] = 0.7
    found, light = [], []
    for index in range(200):
        each = []
        for ids in (torch.arange(3), torch.arange(7, 10)):
            out = augment((edge - mean) / std, ids, Step(index, 200, 0), 5, mean, std) * std + mean
            off, soft = (
                (out[..., 0] - 0.3).abs().amax((1, 2)),
                (out[..., 9] - out[..., 10]).abs().amax((1, 2)),
            )
            assert (off > 1e-5).all() == (off > 1e-5).any()
            each += [torch.stack([off.max() > 1e-5, soft.max() > 1e-6])]
            light += [out.mean((1, 2, 3)) - 0.5] if off.max() > 1e-5 else []
        assert torch.equal(*each)
        found.append(each[0])
    jittered, blurred = torch.stack(found).float().T
    assert jittered.mean() == pytest.approx(0.8, abs=0.08) and blurred.mean() == pytest.approx(0.5, abs=0.1)
    assert (jittered * blurred).mean() == pytest.approx(0.4, abs=0.06)  # each by itself
    changes = torch.stack(light)
    assert changes.mean().abs() < 0.02 and changes.std(1).min() > 1e-4  # up and down, and of each image


def test_the_teacher_follows_its_curve_and_norms_by_the_batch() -> None:
    student = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))
    teacher: Any = BatchTeacher(student, momentum=0.7, curve="warm", buffers="keep")
    assert [teacher.momentum(Step(t, 10)) for t in range(4)] == pytest.approx([1 / 2, 2 / 3, 0.7, 0.7])
    own = teacher.module[0].weight.clone()
    with torch.no_grad():
        student[0].weight.add_(1.0)
        student[1].running_mean.add_(1.0)
    before = teacher.module[1].running_mean.clone()
    teacher.follow(student, Step(0, 10))
    torch.testing.assert_close(teacher.module[0].weight, own + 0.5)
    assert torch.equal(teacher.module[1].running_mean, before)
    teacher.train()
    assert teacher.module[1].training and not teacher.module[2].training and not teacher.module[0].training
    x = torch.randn(8, 3, 4, 4)
    seen = teacher(x)
    torch.testing.assert_close(seen.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    assert not seen.requires_grad
    teacher.eval()
    assert not teacher.module[1].training
