"""Images of any kind to tensors, and a quick look at whether a file holds one."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from polymask.data import BadSample

try:
    from torchvision.io import ImageReadMode, decode_jpeg
except ImportError:  # torchvision means to drop it; PIL reads the same at two thirds of the speed
    decode_jpeg = None

Raw: TypeAlias = "bytes | Image.Image | np.ndarray[Any, Any] | Tensor"
"""An image as a source has it: a file's content, or decoded by somebody else."""

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""Files taken for images."""

_GREY = frozenset({"1", "L", "LA", "La", "I", "F"})
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def decode(raw: Raw, channels: int) -> Tensor:
    """An image, upright, as ``[channels, H, W]``: uint8, or float32 in [0, 1] if it has more than 8 bits.

    Grey and colour are converted into one another as needed, palettes looked up, transparent images
    laid on white; of several frames the first is taken.

    Args:
        raw: an encoded file, a PIL image, or ``[H, W]``, ``[H, W, C]`` (array) or ``[C, H, W]`` (tensor).
        channels: 1 or 3.

    Raises:
        BadSample: it is broken, truncated or not an image.
    """
    try:
        if isinstance(raw, bytes):
            return _file(raw, channels)
        if isinstance(raw, Image.Image):
            return _pil(raw, channels)
        if isinstance(raw, np.ndarray):
            array = torch.tensor(raw)
            raw = array if array.dim() == 2 else array.permute(2, 0, 1)
        return _tensor(raw, channels)
    # a broken file can raise nearly anything, from SyntaxError to struct.error
    except Exception as error:
        raise BadSample(reason(error)) from error


def header(raw: Raw) -> tuple[tuple[int, int], bool]:
    """Height and width as stored, and whether the image is grey, without decoding a file.

    Raises:
        BadSample: not an image.
    """
    try:
        if isinstance(raw, bytes):
            raw = Image.open(io.BytesIO(raw))
        if isinstance(raw, Image.Image):
            return (raw.height, raw.width), raw.mode in _GREY or raw.mode.startswith("I;16")
        if isinstance(raw, np.ndarray):
            return (raw.shape[0], raw.shape[1]), raw.ndim == 2 or raw.shape[2] <= 2
        return (raw.shape[-2], raw.shape[-1]), raw.dim() == 2 or raw.shape[0] <= 2
    except Exception as error:
        raise BadSample(reason(error)) from error


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
        return _try(path, _strips_inside)
    else:
        return "not an image: its content is of no known format"
    return None if whole else _try(path, lambda image: image.load())


def _file(raw: bytes, channels: int) -> Tensor:
    if decode_jpeg is not None and raw.startswith(_JPEG):
        mode = ImageReadMode.GRAY if channels == 1 else ImageReadMode.RGB
        data = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
        # what it refuses, PIL may still read, or says better why not
        with contextlib.suppress(RuntimeError):
            image: Tensor = decode_jpeg(data, mode=mode, apply_exif_orientation=True)
            return image
    return _pil(Image.open(io.BytesIO(raw)), channels)


def _pil(image: Image.Image, channels: int) -> Tensor:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        # PIL opens 16 bit files in various modes of integers; its own conversion to 8 bits clips
        values = torch.from_numpy(np.array(image, dtype=np.float32))
        return _tensor(values if image.mode == "F" else values / 65535, channels)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    array = torch.from_numpy(np.array(image.convert("L" if channels == 1 else "RGB")))
    return array[None] if channels == 1 else array.permute(2, 0, 1)


def _tensor(image: Tensor, channels: int) -> Tensor:
    """``[H, W]`` or ``[1 to 4, H, W]`` of any dtype, integers over the range of theirs."""
    if image.dim() == 2:
        image = image[None]
    if image.dim() != 3 or not 1 <= image.shape[0] <= 4:
        raise ValueError(f"an image of shape {list(image.shape)}; expected 1 to 4 channels first")
    if image.shape[0] == channels and image.dtype == torch.uint8:
        return image
    values = image.float() if image.is_floating_point() else image.float() / torch.iinfo(image.dtype).max
    if len(values) in (2, 4):
        values, alpha = values[:-1], values[-1:]
        values = values * alpha + (1 - alpha)
    if channels == 1 and len(values) == 3:
        values = (values * values.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=0, keepdim=True)
    values = values.expand(channels, -1, -1)
    return values if image.dtype != torch.uint8 else (values * 255).round().to(torch.uint8)


def _try(path: str | Path, look: Callable[[Image.Image], Any]) -> str | None:
    try:
        with Image.open(path) as image:
            look(image)
    except Exception as error:
        return reason(error)
    return None


def _strips_inside(image: Image.Image) -> None:
    """All pixel data that a TIFF speaks of lies within the file."""
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    starts, counts = (tags.get(old, tags.get(new, ())) for old, new in ((273, 324), (279, 325)))
    file: Any = image.fp  # type: ignore[attr-defined]
    if max((s + c for s, c in zip(starts, counts, strict=True)), default=0) > os.fstat(file.fileno()).st_size:
        raise OSError("image file is truncated")


def reason(error: Exception) -> str:
    """An error in few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if "cannot identify image file" in str(error):
        return "not an image that PIL can read"
    return str(error) or type(error).__name__
