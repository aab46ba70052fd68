"""What a notebook or a report shows of a motion: skeletons that move, to be turned."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor

from polymask.report.player import framed, page_of
from polymask_pointcloud.skeleton import Skeleton

_UNIT = 8191
"""Places are kept in 16 bits, in this fraction of the reach of the first layer: up to four of that."""


class Animation:
    """Motions one over the other, to play, stop and turn; each can be switched off.

    The page it gives loads nothing and stands in a frame of its own, so that it works anywhere.

    Args:
        layers: ``[L, J, 3]`` by name, z up; the first is what is real, others are what was made of it.
        skeleton: of their joints.
        seen: ``[L, J]``, which places of the first are known; None where that is not the question.
        rate: frames per second.
        note: what is shown, for those who cannot see it.
    """

    def __init__(
        self,
        layers: Mapping[str, Tensor],
        skeleton: Skeleton,
        seen: Tensor | None = None,
        *,
        rate: float = 25.0,
        note: str = "A skeleton that moves.",
    ) -> None:
        self.layers = {name: x.detach().cpu().double() for name, x in layers.items()}
        self.skeleton, self.rate, self.note = skeleton, rate, note
        self.seen = None if seen is None else seen.detach().cpu()

    def page(self) -> str:
        """A whole page of HTML."""
        placed = {name: self.skeleton.placed(x).numpy() for name, x in self.layers.items()}
        first = next(iter(placed.values()))
        centre = (first.max((0, 1)) + first.min((0, 1))) / 2
        reach = max(float(np.linalg.norm(first - centre, axis=-1).max()), 1e-12)
        data = {
            "unit": _UNIT,
            "note": self.note,
            "rate": self.rate,
            "frames": first.shape[0],
            "joints": first.shape[1],
            "bones": self.skeleton.drawn,
            "layers": [
                {
                    "name": name,
                    "places": _text(
                        (np.nan_to_num(x - centre) / reach * _UNIT).round().clip(-32767, 32767), "<i2"
                    ),
                }
                for name, x in placed.items()
            ],
            "seen": None if self.seen is None else _text(self._known(first.shape[1]).numpy(), "u1"),
        }
        return page_of(files(__package__).joinpath("animation.html").read_text("utf-8"), data)

    def file(self) -> tuple[str, bytes]:
        """The page, to be saved."""
        return ".html", self.page().encode()

    def _known(self, joints: int) -> Tensor:
        """``[L, joints]``: the root, where it is the origin, is known where all others are."""
        assert self.seen is not None
        ahead = self.seen.all(dim=1, keepdim=True).expand(-1, joints - self.seen.shape[1])
        return torch.cat([ahead, self.seen], dim=1)

    def _repr_html_(self) -> str:
        return framed(self.page(), "motion")


def _text(x: np.ndarray, kind: str) -> str:
    return base64.b64encode(x.astype(kind).tobytes()).decode()
