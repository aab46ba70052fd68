"""Operations on point clouds: polymask's beside torch-points-kernels', scipy's and scikit-learn's.

Random points in the unit cube, forward only. What is timed is what the process gets of the CPU, so that
others on the machine count less; ratios are medians over rounds of (contestant / polymask in that round).
polymask searches neighbours with torch-points-kernels' trees where these are installed and with scipy's
elsewhere; both are timed here, and so is comparing all points, which is what it does on a GPU. A contestant
that has no such operation on a CPU has no row.

    uv sync --group kernels
    uv run --group kernels benchmarks/race_operations.py --out benchmarks/results/operations.json
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from command import command
from installed import installed, versions
from scipy.spatial import cKDTree
from sklearn.neighbors import KDTree
from torch import Tensor

from polymask.files import write_json
from polymask_pointcloud.operations import (
    Cells,
    ball,
    chamfer,
    farthest_points,
    group_by_cell,
    nearest,
    point_shape,
    trees,
)
from polymask_pointcloud.operations.neighbours import nearest_of_all

OURS = "polymask"
KERNELS = "torch-points-kernels"
CELL = 0.125
Contestants = dict[str, Callable[[], object]]


def with_search(search: trees.Search, work: Callable[[], object]) -> Callable[[], object]:
    """The same, with neighbours searched by one backend."""

    def run() -> object:
        usual, trees.fastest = trees.fastest, lambda: search  # type: ignore[assignment]
        try:
            return work()
        finally:
            trees.fastest = usual

    return run


def contestants(points: Tensor, other: Tensor, centres: int, k: int, radius: float) -> dict[str, Contestants]:
    """By operation, then by name."""
    query = points[:, :centres].contiguous()
    arrays, places, others = points.numpy(), query.numpy(), other.numpy()
    cells = Cells.over((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (CELL,) * 3)

    def loop(one: Callable[[int], object]) -> Callable[[], object]:
        return lambda: [one(row) for row in range(len(arrays))]

    def unique(row: int) -> object:
        key = (arrays[row] / CELL).astype(np.int64) @ np.array([1, 8, 64])
        order = np.argsort(key, kind="stable")
        return order, np.unique(key[order], return_index=True, return_counts=True)

    def both_ways(row: int) -> object:
        there, _ = cKDTree(others[row]).query(arrays[row])
        back, _ = cKDTree(arrays[row]).query(others[row])
        return np.square(there).mean() + np.square(back).mean()

    def axes(row: int) -> object:
        _, index = cKDTree(arrays[row]).query(arrays[row], k=k)
        near = arrays[row][index]
        near = near - near.mean(1, keepdims=True)
        return np.linalg.eigh(near.transpose(0, 2, 1) @ near)

    ours = (lambda: nearest(query, points, k), lambda: point_shape(points, k))
    found: dict[str, Contestants] = {
        "farthest points": {OURS: lambda: farthest_points(points, centres)},
        "k nearest": {
            f"{OURS}, scipy's trees": with_search(trees.with_scipy, ours[0]),
            f"{OURS}, all distances": lambda: nearest_of_all(query, points, k, None),
            "scipy cKDTree": loop(lambda row: cKDTree(arrays[row]).query(places[row], k=k)),
            "scikit-learn KDTree": loop(lambda row: KDTree(arrays[row]).query(places[row], k=k)),
        },
        "ball": {
            f"{OURS}, scipy's trees": with_search(trees.with_scipy, lambda: ball(query, points, radius, k)),
            "scipy cKDTree": loop(
                lambda row: cKDTree(arrays[row]).query(places[row], k=k, distance_upper_bound=radius)
            ),
            "scikit-learn KDTree": loop(
                lambda row: KDTree(arrays[row]).query_radius(
                    places[row], radius, return_distance=True, sort_results=True
                )
            ),
        },
        "cells": {OURS: lambda: group_by_cell(cells, points, k), "numpy unique": loop(unique)},
        "chamfer": {OURS: lambda: chamfer(points, other), "scipy cKDTree": loop(both_ways)},
        "normals": {
            f"{OURS}, scipy's trees": with_search(trees.with_scipy, ours[1]),
            "scipy cKDTree, numpy eigh": loop(axes),
        },
    }
    if installed(KERNELS):
        import torch_points_kernels as kernels

        mine = f"{OURS}, {KERNELS}' trees"
        found["farthest points"][KERNELS] = lambda: kernels.furthest_point_sample(points, centres)
        found["k nearest"] |= {
            mine: with_search(trees.with_kernels, ours[0]),
            KERNELS: lambda: kernels.knn(points, query, k),
        }
        found["ball"] |= {
            mine: with_search(trees.with_kernels, lambda: ball(query, points, radius, k)),
            KERNELS: lambda: kernels.ball_query(radius, k, points, query, sort=True),
        }
        found["normals"][mine] = with_search(trees.with_kernels, ours[1])
    return found


def race(
    clouds: int = 32,
    points: int = 1024,
    centres: int = 64,
    k: int = 32,
    radius: float = 0.2,
    rounds: int = 7,
    threads: int = 1,
    out: Path | None = None,
) -> None:
    """Time each operation of every installed contestant, in interleaved rounds.

    Args:
        clouds: in a batch.
        points: per cloud.
        centres: of groups, per cloud.
        k: points of a group, of a cell and of the neighbourhood of a normal.
        radius: of balls.
        rounds: counted rounds, after one of warm-up.
        threads: CPU threads.
        out: where to write the figures as JSON.
    """
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.rand(clouds, points, 3, generator=generator) for _ in range(2))
    rows = {}
    for operation, named in contestants(one, other, centres, k, radius).items():
        times: dict[str, list[float]] = {name: [] for name in named}
        for i in range(rounds + 1):
            for name, work in named.items():
                start = time.process_time()
                work()
                if i:
                    times[name].append((time.process_time() - start) * 1e3)
        first = next(iter(times.values()))
        for name, t in times.items():
            ratio = statistics.median(b / a for a, b in zip(first, t, strict=True))
            row = {"cpu_ms": statistics.median(t), "min": min(t), "max": max(t), "ratio": ratio}
            rows[f"{operation}: {name}"] = row
            print(f"{operation + ': ' + name:52}{row['cpu_ms']:10.2f} ms{row['ratio']:8.2f}", flush=True)
    if out is not None:
        setup = {
            "clouds": clouds,
            "points": points,
            "centres": centres,
            "k": k,
            "radius": radius,
            "rounds": rounds,
            "threads": threads,
            "versions": versions("torch", "scipy", "scikit-learn", KERNELS),
        }
        write_json(out, {"setup": setup, "results": rows})


if __name__ == "__main__":
    command(race)
