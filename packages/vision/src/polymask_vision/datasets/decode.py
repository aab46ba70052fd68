"""Images of any kind to tensors, and a quick look at whether a file holds one."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import tifffile
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from polymask.data import BadSample, reading

try:
    from torchvision.io import ImageReadMode, decode_jpeg, decode_png
except ImportError:  # torchvision means to drop it; PIL reads the same at two thirds of the speed
    decode_jpeg = decode_png = None

Array: TypeAlias = npt.NDArray[Any]

Raw: TypeAlias = "bytes | Image.Image | Array | Tensor"
"""An image as a source has it: a file's content, or decoded by somebody else."""

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""Files taken for images."""

_GREY = frozenset({"1", "L", "LA", "La", "I", "F"})
_JPEG, _PNG, _NPY, _PFM = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"\x93NUMPY", b"Pf\n"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class Header(NamedTuple):
    """What is known about an image before it is prepared.

    Args:
        size: height and width, upright.
        channels: opacity left out.
        span: values that become 0 and 1 by the image's type; None where values lie outside.
        values: lowest and highest value of an image of more than 8 bits.
    """

    size: tuple[int, int]
    channels: int
    span: tuple[float, float] | None = (0, 255)
    values: tuple[float, float] | None = None


def decode(raw: Raw, channels: int, span: tuple[float, float] | None = None) -> Tensor:
    """An image, upright, as ``[channels, H, W]``: uint8, or float32 if it has more than 8 bits or a span.

    Grey and colour are converted into one another as needed and palettes looked up. Opacity lays an image
    on white, or is kept where it is the last of 2 or 4 channels. Of several frames the first is taken.

    Args:
        raw: an encoded file, a PIL image, a tensor ``[H, W]`` or ``[C, H, W]``, or an array, the shorter of
            whose first and last axes is that of channels.
        channels: as many as asked for.
        span: values that become 0 and 1, those beyond are beyond; by default those of the image's type, 255,
            65,535 or, of floats, 1.

    Raises:
        BadSample: it is broken, truncated, not an image or of other channels, or its values are not finite
            or outside the range of its type.
    """
    # a broken file can raise nearly anything, from SyntaxError to struct.error
    with reading(reason):
        stored = _stored(raw, channels)
        if isinstance(stored, np.ndarray):
            _require_finite(stored)
            if span is None and (span := _span_of(stored)) is None:
                low, high = stored.min(), stored.max()
                raise BadSample(
                    f"its values, {low:g} to {high:g}, are outside the range of an image in {stored.dtype}; "
                    "say which become 0 and 1: --data.range [LOW,HIGH]"
                )
            stored = torch.from_numpy(np.ascontiguousarray(stored, dtype=np.float64))
        if span is not None and (stored.dtype != torch.uint8 or span != (0, 255)):
            stored = ((stored.double() - span[0]) / (span[1] - span[0])).float()
        return _converted(stored, channels)


def header(raw: Raw) -> Header:
    """Size, channels and values of an image; of 8 bits, without decoding a file.

    Raises:
        BadSample: not an image.
    """
    with reading(reason):
        image = _opened(raw, 3)
        if isinstance(image, Image.Image) and not _is_wide(image):
            # getexif of PngImageFile decodes the image
            turned = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1) > 4
            # the size of a TIFF is that upright in some versions
            tags = getattr(image, "tag_v2", {})
            width, height = tags.get(256, image.width), tags.get(257, image.height)
            return Header((width, height) if turned else (height, width), 1 if image.mode in _GREY else 3)
        stored = _stored(image, 3)
        size, channels = (stored.shape[1], stored.shape[2]), len(stored) - (len(stored) in (2, 4))
        if isinstance(stored, Tensor):
            return Header(size, channels)
        _require_finite(stored)
        return Header(size, channels, _span_of(stored), (float(stored.min()), float(stored.max())))


def planes(raw: Raw) -> Array:
    """All values of an image as stored, ``[C, H, W]``; those of ``.npy`` may be NaN."""
    with reading(reason):
        if isinstance(raw, bytes) and raw.startswith(_NPY):
            return _planes(np.load(io.BytesIO(raw), allow_pickle=False), first=False)
        return np.asarray(_stored(raw, header(raw).channels))


def fault(path: str | Path) -> str | None:
    """Why a file is not a whole image, or None.

    Reads both ends of the file and decodes it only where they leave a doubt, so that large folders
    are checked quickly; damage in the middle shows when the image is used.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(64)
            file.seek(max(size - 64, 0))
            tail = file.read()
    except OSError as error:
        return reason(error)
    whole = False
    if not head:
        return "empty file"
    if head.startswith(_JPEG):
        whole = b"\xff\xd9" in tail
    elif head.startswith(_PNG):
        whole = b"IEND" in tail
    elif head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        whole = int.from_bytes(head[4:8], "little") + 8 <= size
    elif head[:2] == b"BM":
        whole = int.from_bytes(head[2:6], "little") <= size
    elif head[:4] in _TIFF:
        return _try(lambda: _strips_inside(path, size))
    elif head.startswith(_NPY):
        # mapped, not read: a header may claim any size
        return _try(lambda: _planes(np.load(path, mmap_mode="r", allow_pickle=False), first=False))
    elif not head.startswith(_PFM):
        return "not an image: its content is of no known format"
    return None if whole else _try(lambda: _load(path))


def _opened(raw: Raw, channels: int) -> Image.Image | Array | Tensor:
    """A file as PIL opens it, or decoded where PIL would lose bits or bands."""
    if not isinstance(raw, bytes):
        return raw
    if raw.startswith(_NPY):
        found: Array = np.load(io.BytesIO(raw), allow_pickle=False)
        return found
    # depth 16 in the types with colour
    if raw.startswith(_PNG) and raw[24:26] in (b"\x10\x02", b"\x10\x06") and decode_png is not None:
        image: Tensor = decode_png(
            torch.frombuffer(bytearray(raw), dtype=torch.uint8), ImageReadMode.UNCHANGED
        )
        return image
    if raw[:4] in _TIFF:
        with tifffile.TiffFile(io.BytesIO(raw)) as file:
            page: Any = file.pages.first
            bands, bits = page.samplesperpixel, page.bitspersample
            no_opacity = bands == 4 and page.extrasamples[:1] == (0,)
            if bands > 4 or bits > 32 or (bands > 1 and bits > 8) or (no_opacity and channels == 4):
                found = page.asarray()
                found = found if found.ndim == 2 or page.axes[0] == "S" else np.moveaxis(found, -1, 0)
                return torch.tensor(found.astype(found.dtype.newbyteorder("=")))
    return Image.open(io.BytesIO(raw))


def _stored(raw: Raw, channels: int) -> Tensor | Array:
    """``[C, H, W]`` as stored: a tensor of 8 bits, else an array of the image's own type."""
    if decode_jpeg is not None and isinstance(raw, bytes) and raw.startswith(_JPEG) and channels in (1, 3):
        mode = ImageReadMode.GRAY if channels == 1 else ImageReadMode.RGB
        data = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
        # what it refuses, PIL may still read, or says better why not
        with contextlib.suppress(RuntimeError):
            image: Tensor = decode_jpeg(data, mode=mode, apply_exif_orientation=True)
            return image
    opened = _opened(raw, channels)
    if isinstance(opened, Image.Image):
        planes = _pil(ImageOps.exif_transpose(opened), channels)
    elif isinstance(opened, Tensor):
        planes = _planes(opened.numpy(force=True), first=True)
    else:
        planes = _planes(opened, first=False)
    if planes.dtype == bool:
        planes = planes.astype(np.uint8) * 255
    return torch.tensor(planes) if planes.dtype == np.uint8 else planes


def _pil(image: Image.Image, channels: int) -> Array:
    """``[C, H, W]``."""
    if _is_wide(image):
        # PIL opens 16 bit files in various modes of integers; its own conversion to 8 bits clips
        values = np.array(image)
        if image.mode == "I" and values.min() >= 0 and values.max() <= 65535:
            values = values.astype(np.uint16)
        return values[None]
    if channels in (2, 4):
        return np.array(image.convert({2: "LA", 4: "RGBA"}[channels])).transpose(2, 0, 1)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    array = np.array(image.convert("L" if channels == 1 else "RGB"))
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def _planes(array: Array, *, first: bool) -> Array:
    """``[C, H, W]``; where it is not known that channels come first, they are the shorter end."""
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or 0 in array.shape or array.dtype.kind not in "buif":
        raise ValueError(f"{array.dtype} of shape {list(array.shape)} is no image: give [H, W] or [C, H, W]")
    return array if first or array.shape[0] < array.shape[2] else array.transpose(2, 0, 1)


def _is_wide(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _require_finite(values: Array) -> None:
    bad = 0.0 if values.dtype.kind != "f" else 1 - np.isfinite(values).mean()
    if bad:
        raise BadSample(f"{bad:.1%} of its values are NaN or infinite: replace them")


def _span_of(values: Array) -> tuple[float, float] | None:
    """Values that become 0 and 1 by the type of an image of more than 8 bits, if none lies outside."""
    if values.dtype == np.uint16:
        return 0, 65535
    # a hundredth beyond is what smoothing leaves
    if values.dtype.kind == "f" and values.min() >= -0.01 and values.max() <= 1.01:
        return 0, 1
    return None


def _converted(image: Tensor, channels: int) -> Tensor:
    """Grey to colour and back, opacity on white: ``[C, H, W]`` in uint8 or, of 0 to 1, float32."""
    count = len(image)
    if count == channels:
        return image
    if channels not in (1, 3) or count > 4:
        raise BadSample(f"it has {count} channels where {channels} are asked for: --data.channels {count}")
    values = image.float() / 255 if image.dtype == torch.uint8 else image
    if count in (2, 4):
        values, alpha = values[:-1], values[-1:]
        values = values * alpha + (1 - alpha)
    if channels == 1 and len(values) == 3:
        values = (values * values.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=0, keepdim=True)
    values = values.expand(channels, -1, -1)
    return values if image.dtype != torch.uint8 else (values * 255).round().to(torch.uint8)


def _try(look: Callable[[], Any]) -> str | None:
    try:
        with reading(reason):
            look()
    except BadSample as error:
        return str(error)
    return None


def _load(path: str | Path) -> None:
    with Image.open(path) as image:
        image.load()


def _strips_inside(path: str | Path, size: int) -> None:
    """All pixel data that a TIFF speaks of lies within the file."""
    with tifffile.TiffFile(path) as file:
        page: Any = file.pages.first
        ends = (start + n for start, n in zip(page.dataoffsets, page.databytecounts, strict=True))
        if max(ends, default=0) > size:
            raise OSError("image file is truncated")


def reason(error: Exception) -> str:
    """An error in few words."""
    if told := getattr(error, "strerror", None):  # of an OSError, or of FFmpeg
        return str(told)
    if "cannot identify image file" in str(error):
        return "not an image that PIL can read"
    return str(error) or type(error).__name__


def outside(image: Tensor) -> float:
    """Share of values beyond 0 and 1 of an image; of one in uint8, none."""
    if not image.is_floating_point() or (image.min() >= 0 and image.max() <= 1):
        return 0.0
    return ((image < 0) | (image > 1)).float().mean().item()
