"""k nearest points by k-d trees, on a CPU: scipy's, or torch-points-kernels' where that can be imported.

Comparing everything with everything takes half as long again for 64 places among a thousand points, and
seventeen times as long for 2,000 among 20,000 (``benchmarks/race_operations.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial import cKDTree
from torch import Tensor

Array: TypeAlias = npt.NDArray[Any]
Search: TypeAlias = Callable[[Array, Array, int, int], tuple[Array, Array]]
"""Places ``[m, 3]``, points ``[n, 3]``, k <= n and threads to distances, rising, and indices ``[m, k]``."""


def with_scipy(query: Array, points: Array, k: int, threads: int) -> tuple[Array, Array]:
    """By scipy."""
    # a tree that is asked once is not worth balancing
    tree = cKDTree(points, balanced_tree=False, compact_nodes=False)
    distance, index = tree.query(query, k=np.arange(1, k + 1), workers=threads)
    return distance, index


def with_kernels(query: Array, points: Array, k: int, threads: int) -> tuple[Array, Array]:
    """By torch-points-kernels, in one thread."""
    from torch_points_kernels.points_cpu import dense_knn

    index, squared = dense_knn(*(torch.from_numpy(np.ascontiguousarray(x))[None] for x in (points, query)), k)
    return squared[0].sqrt().numpy(), index[0].numpy()


@cache
def fastest() -> Search:
    """The quickest of those that can be imported here."""
    try:
        import torch_points_kernels.points_cpu  # noqa: F401
    # not installed, or built for another torch or without this machine's GPU
    except Exception:
        return with_scipy
    return with_kernels


@torch.library.custom_op("polymask_pointcloud::nearest", mutates_args=())
def nearest_by_tree(query: Tensor, points: Tensor, k: int, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """The k nearest points of each place; an operation of torch's, so that models that use it compile.

    Args:
        query: finite float32 ``[B, M, 3]`` on the CPU.
        points: finite float32 ``[B, N, 3]``.
        k: how many, N at most.
        valid: bool ``[B, N]``.

    Returns:
        Distances float32 ``[B, M, k]``, rising, infinite where a row has no more points, and int64 indices.
    """
    (b, m, _), threads = query.shape, torch.get_num_threads()
    distance, index = query.new_full((b, m, k), torch.inf), torch.zeros(b, m, k, dtype=torch.int64)
    found, at, places, clouds = distance.numpy(), index.numpy(), query.numpy(), points.numpy()
    search = fastest()

    def fill(row: int) -> None:
        real = np.arange(clouds.shape[1]) if valid is None else np.flatnonzero(valid[row].numpy())
        count = min(k, len(real))
        if count:
            far, which = search(places[row], clouds[row, real], count, max(threads // b, 1))
            with np.errstate(over="ignore"):  # scipy's are float64; what is too far for float32 is infinite
                found[row, :, :count] = far
            at[row, :, :count] = real[which]

    with ThreadPoolExecutor(max(min(threads, b), 1)) as pool:
        list(pool.map(fill, range(b)))
    return distance, index


@nearest_by_tree.register_fake
def _(query: Tensor, points: Tensor, k: int, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    shape = (*query.shape[:2], k)
    return query.new_empty(shape), query.new_empty(shape, dtype=torch.int64)
