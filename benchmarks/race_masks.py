"""Drawing masks for a batch: polymask's maskings beside the peers' generators.

Everybody hides 75 % (blocks: 40 %) of 14 x 14 sites in 256 samples. polymask's draws depend on
seed, step and sample alone; the peers draw from a global generator.

    race/bin/python benchmarks/race_masks.py --threads 1 --out benchmarks/results/masks.json
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from command import command

import polymask
from polymask import Request, Step
from polymask.files import write_json

SIDE = 14
SITES = SIDE * SIDE


def contestants(batch: int, device: str) -> dict[str, Callable[[], object]]:
    """Generators by name, each drawing one batch of masks."""
    registry = polymask.default_registry()
    ids = torch.arange(batch, device=device)
    steps = iter(range(10**9))

    def ours(name: str, **options: object) -> Callable[[], object]:
        masking = registry.get("maskings", name)(**options)
        return lambda: masking(Request(ids, SITES, Step(next(steps), 10**9, 0), grid=(SIDE, SIDE)))

    def argsort_twice() -> object:
        noise = torch.rand(batch, SITES, device=device)
        order = noise.argsort(dim=1)
        restore = order.argsort(dim=1)
        mask = torch.ones(batch, SITES, device=device)
        mask[:, : SITES // 4] = 0
        return mask.gather(1, restore)

    races = {
        "polymask core/random": ours("core/random", ratio=0.75),
        "polymask core/block": ours("core/block", ratio=0.4),
        "two argsorts (MAE reference)": argsort_twice,
    }
    if importlib.util.find_spec("lightly"):
        from lightly.models import utils

        races["lightly random_token_mask"] = lambda: utils.random_token_mask(
            (batch, SITES + 1), mask_ratio=0.75, device=device
        )
        races["lightly random_block_mask"] = lambda: utils.random_block_mask(
            (batch, SIDE, SIDE), device=device
        )
    if importlib.util.find_spec("transformers"):
        from transformers.models.vit_mae.modeling_vit_mae import ViTMAEEmbeddings

        sequence = torch.zeros(batch, SITES, 1, device=device)
        fake = SimpleNamespace(config=SimpleNamespace(mask_ratio=0.75))
        races["transformers ViTMAE"] = lambda: ViTMAEEmbeddings.random_masking(fake, sequence)
    if importlib.util.find_spec("stable_pretraining"):
        from stable_pretraining.backbone import PatchMasking

        patches = torch.zeros(batch, SITES, 1, device=device)
        for name, size in (("random", 1), ("block", 4)):
            masking = PatchMasking(mask_ratio=0.75 if size == 1 else 0.4, block_size=size).train()
            races[f"stable-pretraining {name}"] = lambda m=masking: m(patches, SIDE, SIDE)
    return races


def race(
    batch: int = 256, rounds: int = 30, threads: int = 1, device: str = "cpu", out: Path | None = None
) -> None:
    """Time one draw of every installed generator, in interleaved rounds.

    Args:
        batch: samples per draw.
        rounds: counted rounds, after three of warm-up.
        threads: CPU threads.
        device: ``cpu`` or ``cuda``.
        out: where to write the figures as JSON.
    """
    torch.set_num_threads(threads)
    races = contestants(batch, device)
    times: dict[str, list[float]] = {name: [] for name in races}
    for i in range(rounds + 3):
        for name, draw in races.items():
            start = time.perf_counter()
            draw()
            if device == "cuda":
                torch.cuda.synchronize()
            if i >= 3:
                times[name].append((time.perf_counter() - start) * 1e3)
    rows = {n: {"ms": statistics.median(t), "min": min(t), "max": max(t)} for n, t in times.items()}
    for name, row in rows.items():
        print(f"{name:32}{row['ms']:9.3f} ms{row['min']:9.3f}{row['max']:9.3f}")
    if out is not None:
        setup = {"batch": batch, "sites": SITES, "rounds": rounds, "threads": threads, "device": device}
        write_json(out, {"setup": setup, "results": rows})


if __name__ == "__main__":
    command(race)
