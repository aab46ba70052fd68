"""What is computed of point clouds, in plain torch: batched, on any device, without compiled extensions.

Clouds are float ``[B, N, 3]``. Where they are padded, ``valid`` is bool ``[B, N]``, False on padding, which
is never found, counted or averaged. The same input gives the same output, and a cloud's does not depend on
the clouds beside it.
"""

from polymask_pointcloud.operations.cells import Cells, Grouped, group_by_cell, token_of
from polymask_pointcloud.operations.distance import chamfer
from polymask_pointcloud.operations.neighbours import ball, nearest, take
from polymask_pointcloud.operations.sampling import farthest_points
from polymask_pointcloud.operations.surface import Shape, local_shape, point_shape

__all__ = [
    "Cells",
    "Grouped",
    "Shape",
    "ball",
    "chamfer",
    "farthest_points",
    "group_by_cell",
    "local_shape",
    "nearest",
    "point_shape",
    "take",
    "token_of",
]
