"""Sizes are covered and cropped, normalisation is undone exactly, chance comes from torch's generator."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from timm.data import create_transform
from torch import Tensor
from torchvision.transforms import v2

from polymask import UserError
from polymask_vision.datasets.prepare import Preparation


def make(**options: object) -> Preparation:
    return Preparation(**{"size": (6, 8), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.1), **options})  # type: ignore[arg-type]


def noise(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_normalisation_is_by_channel_and_undone() -> None:
    x, prepare = noise(3, 6, 8), make()
    out = prepare(x)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out[1], (x[1] / 255 - 0.4) / 0.3)
    torch.testing.assert_close(prepare.to_image(out), x / 255)
    torch.testing.assert_close(prepare.to_image(out[None]), (x / 255)[None])
    torch.testing.assert_close(prepare(x / 255), out)


def test_pictures_are_clamped_to_what_can_be_drawn() -> None:
    drawn = make().to_image(torch.full((3, 2, 2), 100.0))
    assert drawn.max() == 1


def test_a_batch_is_prepared_like_its_samples() -> None:
    batch, prepare = noise(5, 3, 10, 14), make()
    torch.testing.assert_close(prepare(batch), torch.stack([prepare(x) for x in batch]))


def test_other_shapes_are_covered_and_cropped_around_the_centre() -> None:
    """A bright square in the middle stays square and in the middle; the far ends are cut."""
    wide = torch.zeros(3, 60, 160, dtype=torch.uint8)
    wide[:, 20:40, 70:90] = 255
    wide[:, :, :10] = 255
    out = make(size=(30, 40), mean=(0.0,) * 3, std=(1.0,) * 3)(wide)
    assert out.shape == (3, 30, 40)
    bright = (out[0] > 0.5).nonzero()
    assert bright.min(dim=0).values.tolist() == [10, 15]
    assert bright.max(dim=0).values.tolist() == [19, 24]


def test_scaling_stays_in_range() -> None:
    """Cubic interpolation overshoots at edges."""
    edge = torch.zeros(3, 12, 16)
    edge[:, :, 8:] = 1
    for image in (edge, (edge * 255).to(torch.uint8)):
        out = make(mean=(0.0,) * 3, std=(1.0,) * 3)(image)
        assert 0 <= out.min() <= out.max() <= 1


def test_flip_turns_half_of_them_and_nothing_else() -> None:
    x, prepare = noise(3, 6, 8), make(augment="flip")
    plain = prepare(x)
    torch.manual_seed(0)
    seen = [prepare(x, augment=True) for _ in range(200)]
    flipped = sum(torch.equal(out, plain.flip(-1)) for out in seen)
    assert flipped + sum(torch.equal(out, plain) for out in seen) == 200
    assert 70 <= flipped <= 130
    assert all(torch.equal(prepare(x), plain) for _ in range(20))


def test_crop_flip_takes_parts_of_the_area_asked_for() -> None:
    """On a horizontal ramp the range of a crop tells its width, on a vertical one its height."""
    h = w = 400
    ramps = torch.stack([torch.linspace(0, 1, h)[:, None].expand(h, w), torch.linspace(0, 1, w).expand(h, w)])
    prepare = Preparation(
        size=32, mean=(0.0,) * 2, std=(1.0,) * 2, augment="crop-flip", crop_scale=(0.3, 0.6)
    )
    torch.manual_seed(0)
    areas, flips = [], 0
    for _ in range(200):
        out = prepare(ramps, augment=True)
        height, width = (out[c].amax() - out[c].amin() for c in range(2))
        flips += bool(out[1, 0, 0] > out[1, 0, -1])
        areas.append(float(height * width) * (32 / 31) ** 2)
    assert 0.27 < min(areas) < 0.35
    assert 0.55 < max(areas) < 0.66
    assert 70 <= flips <= 130


def test_crops_keep_the_shape_of_wide_images() -> None:
    """Ratios are about the shape wanted: an image of that shape can be taken whole."""
    prepare = make(size=(20, 80), augment="crop-flip", crop_scale=(1.0, 1.0), mean=(0.0,), std=(1.0,))
    ramp = torch.linspace(0, 1, 160).expand(1, 40, 160)
    torch.manual_seed(0)
    spans = [float(out.amax() - out.amin()) for out in (prepare(ramp, augment=True) for _ in range(20))]
    assert min(spans) > 0.7


def test_the_global_generator_decides() -> None:
    x, prepare = noise(3, 40, 40), make(augment="crop-flip")
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(prepare(x, augment=True))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    state = torch.get_rng_state()
    prepare(x)
    assert torch.equal(torch.get_rng_state(), state)


def test_shift_flip_crops_anywhere_of_the_reflected_image() -> None:
    """A shift by up to 4 pixels shows in where a column stands; what comes in is what went out, reflected."""
    plain = {"mean": (0.0,), "std": (1.0,), "size": (12, 12)}
    x = torch.linspace(0, 1, 12).expand(1, 12, 12)
    prepare, seen = make(augment="shift-flip", **plain), set[int]()
    padded = torch.nn.functional.pad(x, (4, 4, 4, 4), mode="reflect")
    torch.manual_seed(0)
    for _ in range(200):
        out = prepare(x, augment=True)
        places = [k for k in range(9) if torch.allclose(out[0], padded[0, :12, k : k + 12])]
        places += [9 + k for k in range(9) if torch.allclose(out[0].flip(1), padded[0, :12, k : k + 12])]
        assert len(places) == 1
        seen.update(places)
    assert seen == set(range(18))
    wide = make(augment="shift-flip", **plain)(x.repeat(1, 1, 3), augment=True)
    assert wide.shape == (1, 12, 12)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_three_augment_makes_one_of_three_of_each_image(dtype: torch.dtype) -> None:
    """Of a half dark, half reddish white image: grey has equal channels, solarised no white."""
    prepare = make(augment="three-augment", size=(16, 16), mean=(0.0,) * 3, std=(1.0,) * 3)
    prepare._jitter = torch.nn.Identity()
    x = torch.full((3, 16, 16), 0.3)
    x[:, :, 8:] = torch.tensor([1.0, 0.9, 0.95])[:, None, None]
    x = x if dtype == torch.float32 else (255 * x).to(torch.uint8)
    torch.manual_seed(0)
    counts = {"grey": 0, "solarised": 0, "blurred": 0}
    for _ in range(150):
        out = prepare(x, augment=True)
        if torch.allclose(out[0], out[1]) and out.max() > 0.5:
            counts["grey"] += 1
        elif out.max() < 0.4:
            counts["solarised"] += 1
        else:
            assert (out[0] - out[1]).max() > 0.05 and out.max() > 0.5
            counts["blurred"] += 1
    assert min(counts.values()) > 30, counts
    jittered = make(augment="three-augment", size=(16, 16))
    assert any(isinstance(t, v2.ColorJitter) for t in jittered._jitter.transforms)
    assert jittered._jitter.p == 0.8


def test_rand_augment_is_that_of_the_release_and_draws_from_torch_alone() -> None:
    """MAE's own transform is timm's `create_transform` with these arguments."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    theirs = create_transform(
        input_size=32,
        is_training=True,
        color_jitter=None,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic",
        re_prob=0.25,
        re_mode="pixel",
        re_count=1,
        mean=mean,
        std=std,
    ).transforms
    options = {"augment": "rand-augment", "size": 32, "mean": mean, "std": std, "crop_scale": (0.08, 1.0)}
    prepare = make(**options)
    assert prepare._random is not None
    ours = prepare._random._change
    (reference,) = (t for t in theirs if type(t) is type(ours))
    assert repr(ours) == repr(reference)
    assert [op.hparams for op in ours.ops] == [op.hparams for op in reference.ops]
    assert vars(prepare._random._erase) == vars(theirs[-1])
    assert tuple(prepare._crop.scale) == theirs[0].scale

    state = random.getstate(), np.random.get_state()[1].tolist()
    image, drawn = noise(3, 40, 40), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(prepare(image, augment=True))
        random.random()
        np.random.random()
        random.setstate(state[0])
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    np.random.seed(0)
    before = random.getstate(), np.random.get_state()[1].tolist()
    prepare(image, augment=True)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    with pytest.raises(UserError, match="would move pixels away from their label"):
        prepare.with_maps(image, {"label": torch.zeros(40, 40)}, augment=True)
    assert torch.equal(prepare(image), make(**{**options, "augment": "none"})(image))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_quarter_of_images_has_noise_in_a_box_and_grey_stays_grey(channels: int) -> None:
    prepare = make(augment="rand-augment", size=(24, 24), mean=(0.5,) * channels, std=(0.25,) * channels)
    prepare._random._change = lambda image: image  # type: ignore[union-attr]
    torch.manual_seed(0)
    x, erased, n = torch.full((channels, 24, 24), 128, dtype=torch.uint8), 0, 300
    for _ in range(n):
        out = prepare(x, augment=True)
        assert out.shape == (channels, 24, 24)
        changed = (out - out.mode().values.mode().values[:, None, None]).abs() > 1e-6
        share = changed.float().mean()
        erased += bool(share > 0)
        if share > 0:
            assert 0.01 < share < 0.4 and 0.4 < out[changed].std() < 1.6
    assert abs(erased / n - 0.25) < 4 * (0.25 * 0.75 / n) ** 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": "shift-flip", "size": 4}, "more than 4 pixels"),
        ({"augment": "three-augment", "mean": (0.5,) * 4, "std": (0.1,) * 4}, "1 or 3 channels"),
        ({"augment": "rand-augment", "mean": (0.5,) * 2, "std": (0.1,) * 2}, "1 or 3 channels"),
        ({"augment": "colour"}, "none, flip, crop, crop-flip, shift-flip, three-augment"),
        ({"size": 0}, "size"),
        ({"size": (1, 2, 3)}, "two numbers"),
        ({"crop_scale": (0.9, 0.2)}, "low <= high"),
        ({"crop_scale": (0.0, 1.0)}, "0 < low"),
        ({"std": (0.1, 0.1)}, "one number per channel"),
        ({"std": (0.1, 0.1, 0.0)}, "positive"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**options)


@pytest.mark.parametrize("augment", ["none", "flip", "crop-flip", "shift-flip", "three-augment"])
@pytest.mark.parametrize("shape", [(6, 8), (12, 16), (13, 31)])
def test_maps_are_cropped_and_flipped_as_their_image(augment: str, shape: tuple[int, int]) -> None:
    """The image, drawn from the map, stays drawn from it; and is what it is without a map."""
    prepare = make(mean=(0.0,) * 3, std=(1.0,) * 3, augment=augment, crop_scale=(0.5, 1.0))
    column = torch.arange(shape[1]).expand(shape)
    label = (column > shape[1] // 3).long()
    image = (label.float() / 2).expand(3, -1, -1)
    for seed in range(8):
        torch.manual_seed(seed)
        alone = prepare(image, augment=True)
        after = torch.rand(1)
        torch.manual_seed(seed)
        out, maps = prepare.with_maps(image, {"a": label, "b": label.float() - 2}, augment=True)
        assert torch.equal(out, alone) and torch.equal(torch.rand(1), after)
        assert maps["a"].dtype == torch.int64 and maps["a"].shape == (6, 8)
        assert torch.equal(maps["b"], maps["a"].float() - 2)
        if augment != "three-augment":
            # but for the pixels that the border runs through
            assert ((out[0] > 0.25) == (maps["a"] > 0)).float().mean() >= 1 - 1 / 8


def test_flips_are_drawn_as_torchvisions() -> None:
    image, flip = noise(3, 6, 8), v2.RandomHorizontalFlip()
    prepare = make(augment="flip")
    for seed in range(10):
        torch.manual_seed(seed)
        expected = prepare(flip(image))
        torch.manual_seed(seed)
        assert torch.equal(prepare(image, augment=True), expected)
