"""Rooms with boxes in them, rendered for two cameras, with depth: made up, with nothing to fetch.

Shapes: P pixels of an image, K boxes, the first of them the room.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images
from torch import Tensor

from polymask import UserError
from polymask.data import Split, Splits
from polymask.types import Count, Positive
from polymask_vision.datasets.maps import VALUES

TEXTURES = 0.7
"""Share of the columns of the photographs that cover what is in training rooms."""

FOCUS = 1 / math.tan(math.pi / 6)
"""Of cameras that see 60 degrees, in halves of the image."""

KEPT = 2**28
"""Bytes of rendered rooms that are kept in memory at most, in each process."""

ACROSS = ((1, 2), (0, 2), (0, 1))
"""Axes along a face, by the one that it is upright to."""


def rendered_rooms(
    *,
    count: Count = 2000,
    pixels: Count = 64,
    boxes: tuple[Count, Count] = (3, 7),
    baseline: tuple[Positive, Positive] = (0.3, 1.0),
) -> Splits[RenderedRooms]:
    """Two views of a room with boxes, as ``image`` and ``other``, and the depth of each pixel of the first.

    ``value_map`` is the distance from the plane of the camera in metres. The room, about 6 metres wide, and
    boxes of any size and heading that stand in it are covered with crops of scikit-learn's two photographs,
    of other columns in the test split; faces differ in brightness, as under one light. Both cameras look at
    the middle, some way apart: about three quarters of what the first sees is seen by the second. All of this
    is a fixed function of the number of the room; it is synthetic, and what is learned of it is about
    mechanisms.

    Args:
        count: training rooms; a fifth as many are held out.
        pixels: side of an image.
        boxes: how many stand in a room, at least and at most.
        baseline: metres between the two cameras, at least and at most.
    """
    for name, (low, high) in (("boxes", boxes), ("baseline", baseline)):
        if low > high:
            raise UserError(f"{name}={low:g},{high:g}: give the smaller number first")
    if baseline[1] > 3:
        raise UserError(f"baseline={baseline[0]:g},{baseline[1]:g}: cameras are 3 metres apart at most")
    held = max(count // 5, 1)
    source = RenderedRooms(count, held, pixels, boxes, baseline)
    every = torch.arange(count + held)
    return Splits(train=Split(source, every[:count]), test=Split(source, every[count:]))


@dataclass
class Camera:
    """Where a camera stands, and its axes: right, down and ahead, ``[3, 3]``."""

    place: Tensor
    axes: Tensor

    @classmethod
    def at(cls, place: Tensor, target: Tensor) -> Camera:
        """One that looks at a place, upright."""
        ahead = F.normalize(target - place, dim=0)
        right = F.normalize(torch.linalg.cross(ahead, torch.tensor([0.0, 0.0, 1.0])), dim=0)
        return cls(place, torch.stack([right, torch.linalg.cross(ahead, right), ahead]))

    def rays(self, pixels: int) -> Tensor:
        """The way through the middle of each pixel, as long as its part ahead is 1: ``[P, 3]``, by rows."""
        line = ((torch.arange(pixels) + 0.5) * (2 / pixels) - 1) / FOCUS
        down, right = torch.meshgrid(line, line, indexing="ij")
        return torch.stack([right.flatten(), down.flatten(), torch.ones(pixels**2)], dim=1) @ self.axes


@dataclass
class Boxes:
    """Boxes that are turned about z.

    Args:
        centre: ``[K, 3]``.
        half: half of their sides, ``[K, 3]``.
        heading: angles, ``[K]``.
        corner: where on its photograph the middle of each face lies, in shares of it, ``[K, 6, 2]``.
        photograph: which covers a face, int64 ``[K, 6]``.
        light: brightness of a face, ``[K, 6]``.
    """

    centre: Tensor
    half: Tensor
    heading: Tensor
    corner: Tensor
    photograph: Tensor
    light: Tensor

    def cast(self, place: Tensor, rays: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What rays from a place inside of the first box, and of no other, meet first.

        Returns:
            How far, in lengths of a ray; which box; which face; and where on it, in metres from its middle.
        """
        cos, sin, none = self.heading.cos(), self.heading.sin(), torch.zeros(len(self.heading))
        turn = torch.stack([cos, -sin, none, sin, cos, none, none, none, none + 1], dim=1).view(-1, 3, 3)
        start = ((place - self.centre)[:, None] @ turn)[:, 0]
        way = rays @ turn  # [K, P, 3]
        side = torch.where(way < 0, -self.half[:, None], self.half[:, None])
        enter, enter_axis = ((-side - start[:, None]) / way).max(-1)
        leave, leave_axis = ((side - start[:, None]) / way).min(-1)
        far = torch.where((enter > 0) & (enter < leave), enter, torch.inf)
        far[0], enter_axis[0] = leave[0], leave_axis[0]
        far, which = far.min(0)
        ray = torch.arange(len(rays))
        axis = enter_axis[which, ray]
        there = start[which] + far[:, None] * way[which, ray]
        face = 2 * axis + (there.gather(1, axis[:, None])[:, 0] > 0)
        return far, which, face, there.gather(1, torch.tensor(ACROSS)[axis])


class RenderedRooms:
    """Rooms by number, each rendered when it is asked for.

    Args:
        count: rooms to train on.
        held: rooms to hold out.
        pixels: side of an image.
        boxes: how many stand in a room, at least and at most.
        baseline: metres between the cameras, at least and at most.
    """

    map_classes = None

    def __init__(
        self, count: int, held: int, pixels: int, boxes: tuple[int, int], baseline: tuple[float, float]
    ) -> None:
        self.count, self.held, self.pixels = count, held, pixels
        self.boxes, self.baseline = boxes, baseline
        photographs = torch.from_numpy(np.stack(load_sample_images().images)).permute(0, 3, 1, 2)
        middle = round(TEXTURES * photographs.shape[3])
        self.textures = photographs[..., :middle], photographs[..., middle:]
        # about one pixel of a texture for one of an image, 3 metres away
        self.density = pixels * FOCUS / 2 / 3
        self._kept = dict[int, list[Tensor]]()

    def __len__(self) -> int:
        return self.count + self.held

    def name(self, index: int) -> str:
        return f"room {index}"

    def read(self, index: int) -> Tensor:
        """uint8 ``[3, pixels, pixels]``."""
        return self._rendered(index)[0]

    def other(self, index: int) -> Tensor:
        return self._rendered(index)[1]

    def maps(self, index: int) -> dict[str, Tensor]:
        return {VALUES: self._rendered(index)[2]}

    def room(self, index: int) -> tuple[Boxes, tuple[Camera, Camera]]:
        """What is in a room, and who looks at it."""
        chance = torch.Generator().manual_seed(index)
        number = int(torch.randint(self.boxes[0], self.boxes[1] + 1, (), generator=chance)) + 1
        u = torch.rand(number, 7, generator=chance)
        # boxes stand where no camera can be
        half = 0.15 + u[:, :3] * torch.tensor([0.45, 0.45, 0.55])
        away, angle = 1.1 * u[:, 3].sqrt(), 2 * math.pi * u[:, 4]
        centre = torch.stack([away * angle.cos(), away * angle.sin(), half[:, 2]], dim=1)
        half[0] = torch.tensor([2.7, 2.7, 1.3]) + u[0, :3] * torch.tensor([0.8, 0.8, 0.4])
        centre[0] = torch.stack([0 * half[0, 0], 0 * half[0, 0], half[0, 2]])
        face = torch.rand(number, 6, 4, generator=chance)
        boxes = Boxes(
            centre,
            half,
            2 * math.pi * u[:, 5],
            face[..., :2],
            (len(self.textures[0]) * face[..., 2]).long(),
            0.45 + 0.55 * face[..., 3],
        )
        c = torch.rand(6, generator=chance)
        apart = self.baseline[0] + (self.baseline[1] - self.baseline[0]) * float(c[1])
        angle = 2 * math.pi * c[0] + torch.tensor([0.0, 2 * math.asin(apart / 2 / 2.2)])
        height = 0.9 + 1.0 * c[2]
        places = torch.stack([2.2 * angle.cos(), 2.2 * angle.sin(), height.expand(2)], dim=1)
        target = torch.stack([c[3] - 0.5, c[4] - 0.5, 0.3 + 0.4 * c[5]])
        return boxes, (Camera.at(places[0], target), Camera.at(places[1], target))

    def _rendered(self, index: int) -> list[Tensor]:
        """Both views, and the depth of the first."""
        found = self._kept.get(index)
        if found is None:
            boxes, (one, two) = self.room(index)
            (first, depth), (second, _) = (self._view(boxes, camera, index) for camera in (one, two))
            found = [first, second, depth]
            if len(self._kept) * 10 * self.pixels**2 > KEPT:
                self._kept.clear()
            self._kept[index] = found
        return found

    def _view(self, boxes: Boxes, camera: Camera, index: int) -> tuple[Tensor, Tensor]:
        """An image uint8 ``[3, pixels, pixels]``, and its depth."""
        depth, which, face, there = boxes.cast(camera.place, camera.rays(self.pixels))
        texture = self.textures[index >= self.count]
        size = torch.tensor(texture.shape[2:])
        where = (boxes.corner[which, face] * size + there.flip(1) * self.density).long()
        # there and back again at the ends of a photograph
        where = where.remainder(2 * size)
        row, column = torch.minimum(where, 2 * size - 1 - where).unbind(1)
        colour = texture[boxes.photograph[which, face], :, row, column] * boxes.light[which, face, None]
        p = self.pixels
        return colour.round().to(torch.uint8).T.reshape(3, p, p), depth.view(p, p)
