"""What a notebook or a report shows of something that moves: a page that plays it, and a player of clips."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from torch import Tensor

from polymask.report.drawing import Pixels, png, to_pixels

MOST = 64
"""Frames of a clip at most; of more, as many evenly spaced ones, at their own pace."""


def page_of(template: str, data: Mapping[str, Any]) -> str:
    """A page that plays, whole and in itself.

    Args:
        template: HTML with ``DATA`` in its first script element, where these go as JSON, and ``TRANSPORT``
            in its second, where what plays goes (``transport.js``): ``transport(frames, rate, draw)``.
        data: what the page shows.
    """
    transport = files(__package__).joinpath("transport.js").read_text("utf-8")
    text = json.dumps(data).replace("<", "\\u003c")  # no text may end the script element
    return template.replace("TRANSPORT", transport).replace("DATA", text)


def framed(page: str, title: str) -> str:
    """A page in a frame of its own, which loads nothing, so that it works anywhere."""
    return (
        f'<iframe sandbox="allow-scripts" title="{html.escape(title)}" style="border:0;width:100%;'
        f'max-width:24rem;aspect-ratio:1" srcdoc="{html.escape(page)}"></iframe>'
    )


class Player:
    """A clip, to play, stop and go through frame by frame.

    Args:
        clip: ``[T, C, H, W]`` in [0, 1], with one channel or three.
        rate: frames per second.
        note: what is shown, for those who cannot see it.
    """

    def __init__(self, clip: Tensor, *, rate: float = 8.0, note: str = "A clip.") -> None:
        self.clip, self.rate, self.note = clip.detach().cpu(), rate, note

    def page(self) -> str:
        """A whole page of HTML."""
        pixels = to_pixels(self.clip, MOST)
        data = {
            "note": self.note,
            "frames": len(pixels),
            "rate": self.rate * len(pixels) / len(self.clip),
            "height": pixels.shape[1],
            "width": pixels.shape[2],
            "strip": "data:image/png;base64," + base64.b64encode(png(_strip(pixels))).decode(),
        }
        return page_of(files(__package__).joinpath("player.html").read_text("utf-8"), data)

    def file(self) -> tuple[str, bytes]:
        """The page, to be saved."""
        return ".html", self.page().encode()

    def _repr_html_(self) -> str:
        return framed(self.page(), "clip")


def _strip(pixels: Pixels) -> Pixels:
    """Frames ``[F, H, W, 3]`` side by side."""
    strip: Pixels = pixels.transpose(1, 0, 2, 3).reshape(pixels.shape[1], -1, 3)
    return strip
