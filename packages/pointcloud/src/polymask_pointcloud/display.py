"""What a notebook or a report shows of a cloud: something to turn."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor

from polymask.mask import Mask

MOST = 4096
"""Points of a layer at most; of more, as many evenly among them."""

_UNIT = 16383
"""Coordinates are kept in 16 bits, in this fraction of the radius of the cloud: up to two radii."""


def compare(
    points: Tensor, mask: Mask, predicted: Tensor | None = None, valid: Tensor | None = None
) -> list[Cloud]:
    """A display of each sample: points of visible tokens, of hidden ones, and those predicted.

    Args:
        points: ``[B, N, k, 3]``, those of each token.
        mask: over the tokens; one hidden by half or less counts as visible.
        predicted: ``[B, N, k', 3]``, read at hidden tokens; None where points are not what is predicted.
        valid: bool ``[B, N]``, False on padding.
    """
    hidden = mask.hidden > 0.5
    real = torch.ones_like(hidden) if valid is None else valid
    shown = []
    for row in range(len(points)):
        layers = {"visible": points[row][real[row] & ~hidden[row]], "hidden": points[row][hidden[row]]}
        if predicted is not None:
            layers["predicted"] = predicted[row][hidden[row]]
        shown.append(Cloud({name: x.flatten(0, 1) for name, x in layers.items()}))
    return shown


class Cloud:
    """A cloud to turn with the mouse or the arrow keys, in layers that can be switched off.

    The page it gives loads nothing and stands in a frame of its own, so that it works anywhere.

    Args:
        layers: points ``[n, 3]`` by name, z up; the same point twice is kept once, one that is not finite is
            left out. ``visible``, ``hidden`` and ``predicted`` have their colours. A layer ``predicted`` may
            reach beyond the picture, which shows the others whole.
        colours: red, green and blue ``[n, 3]`` in [0, 1] of the points of a layer, by its name.
        note: what is shown, for those who cannot see it.
    """

    def __init__(
        self,
        layers: Mapping[str, Tensor],
        colours: Mapping[str, Tensor] | None = None,
        note: str = "A cloud of points.",
    ) -> None:
        self.layers = {name: x.detach().cpu().double().numpy() for name, x in layers.items()}
        self.colours = {name: x.detach().cpu().double().numpy() for name, x in (colours or {}).items()}
        self.note = note

    def page(self) -> str:
        """A whole page of HTML."""
        data = json.dumps({"unit": _UNIT, "note": self.note, "layers": self._packed()})
        data = data.replace("<", "\\u003c")  # no text may end the script element
        return files(__package__).joinpath("display.html").read_text("utf-8").replace("CLOUD", data)

    def _packed(self) -> list[dict[str, str]]:
        finite = {name: np.isfinite(x).all(1) for name, x in self.layers.items()}
        known = [x[finite[name]] for name, x in self.layers.items() if name != "predicted"]
        all_of_them = np.concatenate([*known, np.empty((0, 3))])
        if not len(all_of_them):
            all_of_them = np.zeros((1, 3))
        centre = (all_of_them.max(0) + all_of_them.min(0)) / 2
        radius = max(float(np.linalg.norm(all_of_them - centre, axis=1).max()), 1e-12)
        packed = []
        for name, x in self.layers.items():
            place = (x[finite[name]] - centre) / radius * _UNIT
            place = place.round().clip(-2 * _UNIT, 2 * _UNIT).astype("<i2")
            _, which = np.unique(place, axis=0, return_index=True)
            which = np.sort(which)
            if len(which) > MOST:
                which = which[np.arange(MOST) * len(which) // MOST]
            layer = {"name": name, "points": _text(place[which])}
            if name in self.colours:
                colour = self.colours[name][finite[name]][which]
                layer["colours"] = _text((255 * colour.clip(0, 1)).round().astype("u1"))
            packed.append(layer)
        return packed

    def _repr_html_(self) -> str:
        return (
            '<iframe sandbox="allow-scripts" title="point cloud" style="border:0;width:100%;max-width:24rem;'
            f'aspect-ratio:1" srcdoc="{html.escape(self.page())}"></iframe>'
        )


def _text(x: np.ndarray) -> str:
    return base64.b64encode(x.tobytes()).decode()
