"""Pictures of every kind come out upright, of the asked channels, with the values they were written with."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from polymask.data import BadSample
from polymask_vision.datasets.decode import decode, fault, header


def colour(h: int = 12, w: int = 20) -> np.ndarray[Any, Any]:
    """No two pixels alike, so that any swap of axes or channels shows."""
    y, x = np.mgrid[:h, :w]
    return np.stack([y * 10, x * 10, 255 - y * 5 - x * 5], axis=-1).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True})]
)
def test_lossless_formats_keep_every_pixel(kind: str, options: dict[str, Any]) -> None:
    image = decode(encoded(Image.fromarray(colour()), kind, **options), 3)
    assert image.dtype == torch.uint8
    assert torch.equal(image, torch.from_numpy(colour()).permute(2, 0, 1))


def test_jpeg_is_what_pil_decodes() -> None:
    raw = encoded(Image.fromarray(colour()), "JPEG", quality=95)
    theirs = torch.from_numpy(np.array(Image.open(io.BytesIO(raw)))).permute(2, 0, 1)
    assert (decode(raw, 3).int() - theirs.int()).abs().max() <= 3


def test_jpeg_in_cmyk_is_read() -> None:
    raw = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95)
    red = decode(raw, 3).float().mean(dim=(1, 2))
    assert red[0] > 230
    assert max(red[1:]) < 40


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_keep_their_low_byte(kind: str, channels: int) -> None:
    values = np.arange(1000, 1000 + 12 * 20, dtype=np.uint16).reshape(12, 20) * 200
    image = decode(encoded(Image.fromarray(values), kind), channels)
    assert image.dtype == torch.float32
    expected = torch.from_numpy(values.astype(np.float32)) / 65535
    assert torch.equal(image, expected.expand(channels, -1, -1))


def test_float_tiff_is_taken_as_it_is() -> None:
    values = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
    assert torch.equal(decode(encoded(Image.fromarray(values), "TIFF"), 1), torch.from_numpy(values)[None])


def with_colour_key() -> Image.Image:
    image = Image.new("RGB", (4, 4), (200, 0, 0))
    image.info["transparency"] = (200, 0, 0)
    return image


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGBA", (4, 4), (200, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (4, 4), (200, 0, 0, 51)), (244, 204, 204)),
        (Image.new("LA", (4, 4), (0, 51)), (204, 204, 204)),
        (Image.new("RGBA", (4, 4), (0, 0, 0, 0)).convert("P"), (255, 255, 255)),
        (with_colour_key(), (255, 255, 255)),
    ],
    ids=["clear", "a fifth", "grey", "palette", "colour key"],
)
def test_transparent_pictures_lie_on_white(image: Image.Image, expected: tuple[int, ...]) -> None:
    if image.mode == "P":
        image.info["transparency"] = image.getpixel((0, 0))
    found = decode(
        encoded(image, "PNG", **({"transparency": image.info["transparency"]} if image.info else {})), 3
    )
    assert torch.equal(found, torch.tensor(expected, dtype=torch.uint8)[:, None, None].expand(3, 4, 4))


def test_palettes_are_looked_up() -> None:
    image = Image.fromarray(colour() // 64 * 64).quantize(64)
    assert image.mode == "P"
    found = decode(encoded(image, "PNG"), 3)
    assert torch.equal(found, torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1))


def test_grey_fills_three_channels_and_colour_becomes_luma() -> None:
    grey = colour()[..., 0]
    found = decode(encoded(Image.fromarray(grey), "PNG"), 3)
    assert torch.equal(found, torch.from_numpy(grey).expand(3, -1, -1))
    luma = colour().astype(float) @ [0.299, 0.587, 0.114]
    assert np.abs(decode(colour(), 1)[0].numpy() - luma).max() < 1.01
    for kind in ("PNG", "JPEG"):
        found = decode(encoded(Image.fromarray(colour()), kind, quality=98), 1)
        assert found.shape == (1, 12, 20)
        assert np.abs(found[0].numpy() - luma).max() < (1.01 if kind == "PNG" else 6)


def test_black_and_white_is_zero_and_full() -> None:
    bits = colour()[..., 0] > 50
    assert torch.equal(decode(encoded(Image.fromarray(bits), "PNG"), 1)[0], torch.from_numpy(bits) * 255)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_pictures_stand_upright(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    flat = np.repeat(np.repeat(colour(2, 3), 8, axis=0), 8, axis=1)
    found = decode(encoded(Image.fromarray(flat), kind, exif=exif), 3)
    turns = {3: 2, 6: 3, 8: 1}[orientation]
    expected = torch.from_numpy(np.rot90(flat, turns).copy()).permute(2, 0, 1)
    assert found.shape == expected.shape
    assert (found.int() - expected.int()).abs().max() <= (12 if kind == "JPEG" else 0)


def test_the_first_of_several_frames_is_taken() -> None:
    frames = [Image.new("RGB", (4, 4), shade) for shade in ("red", "blue")]
    raw = encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    assert decode(raw, 3)[:, 0, 0].tolist() == [255, 0, 0]


def test_arrays_and_tensors_of_any_type_are_pictures() -> None:
    array = colour()
    first = torch.from_numpy(array).permute(2, 0, 1)
    assert torch.equal(decode(array, 3), first)
    assert torch.equal(decode(first, 3), first)
    assert torch.equal(decode(array[..., 0], 3), first[:1].expand(3, -1, -1))
    assert torch.allclose(decode(array.astype(np.uint16) * 257, 3), first / 255)
    assert torch.equal(decode(first / 255, 3), first / 255)
    clear = np.concatenate([array, np.zeros_like(array[..., :1])], axis=-1)
    assert torch.equal(decode(clear, 3), torch.full((3, 12, 20), 255, dtype=torch.uint8))


def damaged() -> dict[str, bytes]:
    whole = {
        kind: encoded(Image.fromarray(colour(64, 64)), kind)
        for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
    }
    cut = {f"cut {kind}": raw[: len(raw) * 2 // 3] for kind, raw in whole.items()}
    return {**cut, "empty": b"", "text": b"no picture, by any name", "start": whole["PNG"][:20]}


@pytest.mark.parametrize("name", list(damaged()))
def test_damaged_files_are_named_as_such(name: str, tmp_path: Path) -> None:
    raw = damaged()[name]
    with pytest.raises(BadSample, match=r"."):
        decode(raw, 3)
    path = tmp_path / "picture.jpg"
    path.write_bytes(raw)
    assert fault(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_whole_files_have_no_fault_even_with_something_behind(kind: str, tmp_path: Path) -> None:
    raw = encoded(Image.fromarray(colour()), kind)
    for extra in (b"", bytes(1000)):
        path = tmp_path / "picture"
        path.write_bytes(raw + extra)
        assert fault(path) is None


def test_a_file_that_cannot_be_opened_is_a_fault(tmp_path: Path) -> None:
    assert fault(tmp_path / "nowhere.png") == "No such file or directory"


def test_whole_files_are_not_decoded_to_be_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        (tmp_path / kind).write_bytes(encoded(Image.fromarray(colour()), kind))
    monkeypatch.setattr(Image, "open", lambda path: pytest.fail(f"{path} was opened"))
    assert not any(fault(path) for path in tmp_path.iterdir())


def refuse(*_: Any, **__: Any) -> None:
    raise RuntimeError("of no kind that torchvision knows")


@pytest.mark.parametrize("decoder", [None, refuse], ids=["missing", "refuses"])
def test_pil_reads_the_jpeg_that_torchvision_does_not(decoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = encoded(Image.fromarray(colour()), "JPEG", quality=95)
    before = decode(raw, 3)
    monkeypatch.setattr("polymask_vision.datasets.decode.decode_jpeg", decoder)
    assert (decode(raw, 3).int() - before.int()).abs().max() <= 3


def test_header_tells_size_and_colour_without_decoding() -> None:
    grey, array = Image.fromarray(colour()[..., 0]), colour()
    assert header(encoded(grey, "JPEG")) == ((12, 20), 1, (0, 255), None)
    assert header(encoded(Image.fromarray(array), "PNG"))[:2] == ((12, 20), 3)
    wide = header(encoded(Image.fromarray(array[..., 0].astype(np.uint16)), "PNG"))
    assert wide == ((12, 20), 1, (0, 65535), (0, 110))
    assert header(array)[:2] == ((12, 20), 3)
    assert header(torch.zeros(1, 5, 7, dtype=torch.uint8)) == ((5, 7), 1, (0, 255), None)
    with pytest.raises(BadSample):
        header(b"no picture")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_the_size_is_that_of_the_image_upright(kind: str) -> None:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        raw = encoded(Image.fromarray(colour()), kind, exif=exif)
        assert header(raw).size == tuple(decode(raw, 3).shape[1:])


# ------------------------------------------------------------------------------ ranges and bands


def tiff(array: np.ndarray[Any, Any], **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def npy(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


RAMP = np.linspace(-200, 1000, 48).reshape(6, 8)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "int32"])
@pytest.mark.parametrize("write", [tiff, npy])
def test_other_values_are_refused_until_a_range_is_given(dtype: str, write: Any) -> None:
    values = RAMP.astype(dtype)
    raw = write(values)
    assert header(raw) == ((6, 8), 1, None, (-200, 1000))
    with pytest.raises(BadSample, match=r"-200 to 1000, are outside .*--data\.range \[LOW,HIGH\]"):
        decode(raw, 1)
    found = decode(raw, 1, (0, 500))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[0], torch.from_numpy(values).double().div(500).float())


def test_a_range_holds_for_eight_bits_too() -> None:
    raw = encoded(Image.fromarray(colour()), "PNG")
    torch.testing.assert_close(decode(raw, 3, (10, 20)), (decode(raw, 3).float() - 10) / 10)
    assert torch.equal(decode(raw, 3, (0, 255)), decode(raw, 3))


def test_values_that_are_not_finite_are_said() -> None:
    values = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
    values[0, :6] = np.nan
    for look in (header, lambda raw: decode(raw, 1, (0, 1))):
        with pytest.raises(BadSample, match=r"12\.5% of its values are NaN"):
            look(tiff(values))


def test_colour_of_sixteen_bits_keeps_them() -> None:
    values = (colour().astype(np.uint16) * 16)[:, :, [2, 0, 1]]
    expected = torch.from_numpy(values.transpose(2, 0, 1) / 65535).float()
    torch.testing.assert_close(decode(tiff(values, photometric="rgb"), 3), expected)
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    png = b"\x89PNG\r\n\x1a\n"
    for name, content in (
        (b"IHDR", struct.pack(">IIBBBBB", 20, 12, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    ):
        png += struct.pack(">I", len(content)) + name + content
        png += struct.pack(">I", zlib.crc32(name + content))
    torch.testing.assert_close(decode(png, 3), expected)


@pytest.mark.parametrize("first", [True, False])
def test_many_bands_are_many_channels(first: bool) -> None:
    bands = np.random.default_rng(0).integers(0, 4096, (13, 24, 16), dtype=np.uint16)
    layout = bands if first else np.ascontiguousarray(bands.transpose(1, 2, 0))
    plane = "separate" if first else "contig"
    expected = torch.from_numpy(bands / 65535).float()
    for raw in (tiff(layout, photometric="minisblack", planarconfig=plane), npy(layout)):
        assert header(raw)[:2] == ((24, 16), 13)
        torch.testing.assert_close(decode(raw, 13), expected)
        with pytest.raises(BadSample, match="13 channels where 3 are asked for: --data.channels 13"):
            decode(raw, 3)


def test_opacity_and_a_fourth_band_are_kept_where_asked_for() -> None:
    array = np.concatenate([colour(), colour()[..., :1]], axis=-1)
    expected = torch.from_numpy(array).permute(2, 0, 1)
    assert torch.equal(decode(encoded(Image.fromarray(array, "RGBA"), "PNG"), 4), expected)
    infrared = tiff(array, photometric="rgb", extrasamples=[0])
    assert torch.equal(decode(infrared, 4), expected)
    assert torch.equal(decode(infrared, 3), expected[:3])
    opaque = decode(encoded(Image.fromarray(colour()), "JPEG"), 4)
    assert opaque.shape == (4, 12, 20) and (opaque[3] == 255).all()


def test_an_array_file_shorter_than_it_says_is_a_fault(tmp_path: Path) -> None:
    raw = npy(np.zeros((13, 60, 60), dtype=np.uint8))
    for name, content in (("whole", raw), ("cut", raw[:1000]), ("flat", npy(np.zeros(9)))):
        (tmp_path / name).write_bytes(content)
    assert fault(tmp_path / "whole") is None
    assert fault(tmp_path / "cut")
    assert "is no image" in str(fault(tmp_path / "flat"))


@pytest.mark.parametrize("error", [MemoryError(), OSError(24, "Too many open files")])
def test_an_exhausted_machine_is_no_broken_image(
    error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "cut.png"
    path.write_bytes(encoded(Image.fromarray(colour()), "PNG")[:-20])

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Image, "open", fail)
    for look in (
        lambda: decode(path.read_bytes(), 3),
        lambda: header(path.read_bytes()),
        lambda: fault(path),
    ):
        with pytest.raises(type(error)):
            look()
