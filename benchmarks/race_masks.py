"""Drawing masks for a batch: polymask's maskings beside the peers' generators.

Of 14 x 14 sites in every sample, everybody hides 75 % at random, 40 % in blocks as BEiT and DINOv2 do, or
draws I-JEPA's four targets and context; a ratio is to polymask's masking of the same kind in the same round.
polymask's draws depend on seed, step and sample alone; the peers draw from a global generator. DINOv2's and
I-JEPA's own generators are read from checkouts of facebookresearch/dinov2 and facebookresearch/ijepa::

    race/bin/python benchmarks/race_masks.py --dinov2 dinov2 --ijepa ijepa --out benchmarks/results/masks.json
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from command import command
from installed import installed, versions
from turns import in_turns, ratio, timed

import polymask
from polymask import Request, Step
from polymask.files import write_json

SIDE = 14
SITES = SIDE * SIDE
BLOCKS = 0.4
"""Share of sites that blocks hide."""
TARGETS = 4
IJEPA = {"enc_mask_scale": (0.85, 1.0), "pred_mask_scale": (0.15, 0.2), "aspect_ratio": (0.75, 1.5)}
"""As published; polymask's defaults."""

Draw = Callable[[], object]


def contestants(batch: int, device: str, dinov2: Path | None, ijepa: Path | None) -> list[dict[str, Draw]]:
    """Generators by name, each drawing one batch of masks; those of one kind together, ours first."""
    registry = polymask.default_registry()
    ids = torch.arange(batch, device=device)
    steps = iter(range(10**9))

    def ours(name: str, streams: int = 1, **options: object) -> Draw:
        masking = registry.get("maskings", name)(**options)

        def draw() -> object:
            step = Step(next(steps), 10**9, 0)
            return [masking(Request(ids, SITES, step, grid=(SIDE, SIDE), stream=k)) for k in range(streams)]

        return draw

    def argsort_twice() -> object:
        noise = torch.rand(batch, SITES, device=device)
        order = noise.argsort(dim=1)
        restore = order.argsort(dim=1)
        mask = torch.ones(batch, SITES, device=device)
        mask[:, : SITES // 4] = 0
        return mask.gather(1, restore)

    random: dict[str, Draw] = {
        "polymask core/random": ours("core/random", ratio=0.75),
        "two argsorts (MAE reference)": argsort_twice,
    }
    blocks: dict[str, Draw] = {"polymask core/block": ours("core/block", ratio=BLOCKS)}
    multi: dict[str, Draw] = {"polymask core/multi-block": ours("core/multi-block", 1 + TARGETS)}
    if installed("lightly"):
        from lightly.data import IJEPAMaskCollator
        from lightly.models import utils

        size = batch, SIDE, SIDE
        random["lightly random_token_mask"] = lambda: utils.random_token_mask(
            (batch, SITES + 1), mask_ratio=0.75, device=device
        )
        blocks["lightly random_block_mask (DINOv2)"] = lambda: utils.random_block_mask(
            size, 1.0, BLOCKS, BLOCKS, device=device
        )
        multi["lightly IJEPAMaskCollator"] = collated(IJEPAMaskCollator, batch)
    if installed("transformers"):
        from transformers.models.vit_mae.modeling_vit_mae import ViTMAEEmbeddings

        sequence = torch.zeros(batch, SITES, 1, device=device)
        fake = SimpleNamespace(config=SimpleNamespace(mask_ratio=0.75))
        random["transformers ViTMAE"] = lambda: ViTMAEEmbeddings.random_masking(fake, sequence)
    if installed("stable-pretraining"):
        from stable_pretraining.backbone import IJEPAMasking, PatchMasking

        patches = torch.zeros(batch, SITES, 1, device=device)
        scattered, blocky = PatchMasking(mask_ratio=0.75), PatchMasking(mask_ratio=BLOCKS, block_size=4)
        shared = IJEPAMasking(num_targets=TARGETS, allow_target_overlap=True)
        random["stable-pretraining random"] = lambda: scattered(patches, SIDE, SIDE)
        blocks["stable-pretraining block"] = lambda: blocky(patches, SIDE, SIDE)
        multi["stable-pretraining IJEPAMasking, one for all samples"] = lambda: shared(patches, SIDE, SIDE)
    if dinov2 is not None:
        generator = loaded(dinov2 / "dinov2/data/masking.py").MaskingGenerator(
            SIDE, max_num_patches=SITES / 2
        )
        count = round(BLOCKS * SITES)
        blocks["DINOv2 MaskingGenerator"] = lambda: torch.stack(
            [torch.from_numpy(generator(count)) for _ in range(batch)]
        ).to(device)
    if ijepa is not None:
        multi["I-JEPA MaskCollator"] = collated(loaded(ijepa / "src/masks/multiblock.py").MaskCollator, batch)
    return [random, blocks, multi]


def collated(collator: Callable[..., Any], batch: int) -> Draw:
    """I-JEPA's masks where they are made with the batch, which is of numbers here."""
    collate = collator(**IJEPA, nenc=1, npred=TARGETS, min_keep=10)
    return lambda: collate([0] * batch)


def loaded(path: Path) -> Any:
    """A file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def drawn(draw: Draw, device: str) -> Callable[[int], float]:
    """Seconds of one draw: of this process on a CPU, by the clock on a GPU."""
    clock = time.process_time if device == "cpu" else time.perf_counter

    def batch() -> None:
        draw()
        if device == "cuda":
            torch.cuda.synchronize()

    return lambda turn: timed(batch, clock)


def race(
    batch: int = 256,
    rounds: int = 30,
    threads: int = 1,
    device: str = "cpu",
    dinov2: Path | None = None,
    ijepa: Path | None = None,
    out: Path | None = None,
) -> None:
    """Time one draw of every installed generator, in interleaved rounds.

    Args:
        batch: samples per draw.
        rounds: counted rounds, after three of warm-up.
        threads: CPU threads.
        device: ``cpu`` or ``cuda``.
        dinov2: a checkout of DINOv2, to time its generator.
        ijepa: a checkout of I-JEPA, likewise.
        out: where to write the figures as JSON.
    """
    torch.set_num_threads(threads)
    rows: dict[str, dict[str, float]] = {}
    for kind in contestants(batch, device, dinov2, ijepa):
        took = in_turns({name: drawn(draw, device) for name, draw in kind.items()}, rounds)
        own = next(iter(took.values()))
        for name, seconds in took.items():
            rows[name] = {"ms": 1e3 * statistics.median(seconds), **ratio(seconds, own)}
            print(f"{name:54}", *(f"{value:9.3f}" for value in rows[name].values()))
    if out is not None:
        setup: dict[str, Any] = {"batch": batch, "sites": SITES, "rounds": rounds, "threads": threads}
        packages = ("polymask", "torch", "lightly", "transformers", "stable-pretraining")
        setup |= {"device": device, "versions": versions(*packages)}
        write_json(out, {"setup": setup, "results": rows})


if __name__ == "__main__":
    command(race)
