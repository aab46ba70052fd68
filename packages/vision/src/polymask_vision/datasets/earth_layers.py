"""The Earth with all its layers: satellite colours, relief, heights in colours, land, climate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from polymask import UserError
from polymask.data import Split, Splits
from polymask.data.few_labels import stratified
from polymask.types import Count, Share
from polymask_vision.datasets import earth
from polymask_vision.datasets.earth import Array

KEY, CLIMATE = "image", "climate"
COLOURS = ("relief", "elevation")
LAND = ("water", "land")


def earth_layers(
    *,
    source: str | None = None,
    label: Literal["climate", "climate-group"] = "climate-group",
    tasks: tuple[str, ...] = (CLIMATE,),
    labelled: Share = 1.0,
    tile: Count = 64,
    stride: Count = 32,
    land: Share = 0.25,
    bands: Count = 6,
    test: Share = 0.25,
) -> Splits[LayerTiles]:
    """Tiles of the Earth as samples ``image``, ``relief``, ``elevation``, ``land`` and ``climate``.

    ``image`` is NASA's Blue Marble, ``relief`` is shaded, ``elevation`` coloured by height, all in three
    channels with the mean and deviation of the training tiles; ``land`` is 0 on water and 1 on land, and
    ``climate`` a class, -1 on water. Maps, packages (extra ``earth``) and the division by longitude are those
    of ``earth``. With ``labelled`` below 1 most training tiles have no label of a task: which have one is
    drawn by class, at least one of each. Test tiles have all.

    Args:
        source: folder that holds ``bmng.jpg`` and the like, as of ``earth``.
        label: what ``climate`` is, 31 classes or 5 groups.
        tasks: layers to be predicted, any but ``image``; they are never seen.
        labelled: share of the training tiles whose tasks are known, above 0.
        tile: side of a tile in pixels.
        stride: from one training tile to the next.
        land: least share of land in a tile.
        bands: of longitude, whose eastern ends are held out.
        test: share of each band to hold out.

    Raises:
        UserError: the packages are not there, tiles do not fit into bands, or there is no such layer.
    """
    known = (*COLOURS, "land", CLIMATE)
    if unknown := [name for name in tasks if name not in known]:
        raise UserError(f"tasks: no layer is called {', '.join(unknown)}; choose of {', '.join(known)}")
    if not labelled:
        raise UserError("labelled=0 leaves no label: give a share above 0")
    colours = {KEY: earth.colours(source, "satellite")} | {
        name: earth.colours(source, name) for name in COLOURS
    }
    shape = colours[KEY].shape[:2]
    colours = {name: earth.to_grid(x, shape) for name, x in colours.items()}
    cover = earth.cover(source, shape)
    climate, names = earth.climate(source, label, shape)
    corners, is_test = earth.corners_of(cover, tile, stride, land, bands, test)
    classes = {"land": (cover == earth.LAND).astype(np.int8), CLIMATE: climate}
    count = {"land": len(LAND), CLIMATE: len(names)}
    found = LayerTiles(colours, classes, corners, tile, count, tasks)
    found.map_classes = names if tasks[:1] == (CLIMATE,) else LAND if tasks[:1] == ("land",) else None
    which = torch.arange(len(found))
    usual = torch.tensor([earth.usual(found.cut(CLIMATE, i)) for i in range(len(found))])
    train = which[~is_test]
    found.standardise(train)
    if labelled < 1:
        found.silent = set(train.tolist()) - set(train[stratified(usual[train], labelled, 0)].tolist())
    mean, std = (found.statistics[KEY][k].flatten().div(255).tolist() for k in (0, 1))
    return Splits(
        train=Split(found, train, usual[train]),
        test=Split(found, which[is_test], usual[is_test]),
        classes=names,
        suggested={"mean": mean, "std": std},
    )


example_source = earth.example_source


class LayerTiles:
    """Squares of maps in layers, in memory.

    Args:
        colours: uint8 ``[H, W, 3]`` by name, ``image`` first.
        classes: int8 ``[H, W]`` by name, -1 unknown.
        corners: top and left of each square.
        side: of a square.
        counts: of classes, by name.
        tasks: layers to be predicted.
    """

    def __init__(
        self,
        colours: dict[str, Array],
        classes: dict[str, Array],
        corners: list[tuple[int, int]],
        side: int,
        counts: dict[str, int],
        tasks: tuple[str, ...],
    ) -> None:
        self.whole = {name: torch.from_numpy(x).permute(2, 0, 1).contiguous() for name, x in colours.items()}
        self.whole |= {name: torch.from_numpy(x) for name, x in classes.items()}
        self.corners, self.side = corners, side
        self.layers = dict.fromkeys(colours, 3) | counts
        self.class_layers, self.tasks = tuple(counts), tasks
        self.map_classes: Sequence[str] | None = None
        self.silent: set[int] = set()
        """Squares whose tasks are not known."""
        self.statistics: dict[str, tuple[Tensor, Tensor]] = {}

    def standardise(self, index: Tensor) -> None:
        """Take mean and standard deviation of each colour from some squares."""
        seen = torch.zeros(self.whole[KEY].shape[1:], dtype=torch.bool)
        for top, left in (self.corners[i] for i in index.tolist()):
            seen[top : top + self.side, left : left + self.side] = True
        for name in self.layers.keys() - set(self.class_layers):
            # by the number of pixels of each of 256 values, which is a tenth of the work
            counts = torch.stack([x[seen].bincount(minlength=256) for x in self.whole[name]]).double()
            value, share = torch.arange(256.0), counts / counts.sum(1, keepdim=True)
            mean = (share * value).sum(1, keepdim=True)
            variance = (share * (value - mean).square()).sum(1, keepdim=True)
            self.statistics[name] = mean[..., None], variance.sqrt().clamp(min=1)[..., None]

    def __len__(self) -> int:
        return len(self.corners)

    def read(self, index: int) -> Tensor:
        return self.cut(KEY, index)

    def maps(self, index: int) -> dict[str, Tensor]:
        found: dict[str, Any] = {}
        for name in self.layers:
            x = self.cut(name, index)
            unknown = name in self.tasks and index in self.silent
            if name in self.class_layers:
                found[name] = torch.full_like(x.long(), -1) if unknown else x.long()
            elif name != KEY:
                mean, std = self.statistics[name]
                value = ((x - mean) / std).float()
                found[name] = torch.full_like(value, torch.nan) if unknown else value
        return found

    def name(self, index: int) -> str:
        top, left = self.corners[index]
        return f"row {top}, column {left}"

    def cut(self, name: str, index: int) -> Tensor:
        """A layer of a square, as it is."""
        top, left = self.corners[index]
        return self.whole[name][..., top : top + self.side, left : left + self.side]
