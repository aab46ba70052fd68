"""One MAE training step beside the peers', in one process, in interleaved rounds.

ViT-S/16 at 224 pixels, 75 % hidden, decoder 8 x 512 with 16 heads, per-patch normalised target for
all; forward and backward, gradients set to None before each step. ``floor`` is what nobody can
beat with the same mathematics in eager mode: timm's bare blocks on the same token counts (12 of
width 384 on 50 tokens, 8 of width 512 on 197), no embedding, head, mask or loss.

Peers live in an environment of their own; those that are not installed are left out::

    python -m venv race
    race/bin/pip install polymask-vision transformers "lightly[timm]" stable-pretraining
    race/bin/python benchmarks/race_step.py --threads 2 --out benchmarks/results/step.json

Times are per image. A ratio is the median over rounds of (contestant / polymask in that round).
Memory is what autograd keeps for backward, weights left out: counted, not sampled, so it is the same on
any device.
"""

from __future__ import annotations

import functools
import gc
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from command import command
from installed import installed, versions
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from polymask.files import write_json

Step = Callable[[Tensor], Tensor]


class Floor(nn.Module):
    """The Transformer blocks alone."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*(Block(384, 6, qkv_bias=True) for _ in range(12)))
        self.bridge = nn.Linear(384, 512)
        self.decoder = nn.Sequential(*(Block(512, 16, qkv_bias=True) for _ in range(8)))

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.randn(len(x), 50, 384, device=x.device)
        z = self.bridge(self.encoder(seen))
        return self.decoder(torch.cat([z, z, z, z[:, :47]], dim=1)).square().mean()


class Polymask(nn.Module):
    """``polymask.build("vision/mae")`` at this size."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        import polymask

        size = {"encoder.dim": 384, "encoder.depth": 12, "encoder.heads": 6}
        self.system = polymask.build("vision/mae", **size, **options)
        self.step, self.at = polymask.Step, 0

    def forward(self, x: Tensor) -> Tensor:
        self.at += 1
        batch = {"image": x, "id": torch.arange(len(x), device=x.device)}
        return self.system(batch, self.step(self.at, 10_000, 0))["reconstruction"]


class Transformers(nn.Module):
    """transformers' ViTMAEForPreTraining."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import ViTMAEConfig, ViTMAEForPreTraining

        self.model = ViTMAEForPreTraining(
            ViTMAEConfig(
                hidden_size=384,
                num_hidden_layers=12,
                num_attention_heads=6,
                intermediate_size=1536,
                decoder_hidden_size=512,
                decoder_num_hidden_layers=8,
                decoder_num_attention_heads=16,
                decoder_intermediate_size=2048,
                mask_ratio=0.75,
                norm_pix_loss=True,
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.model(pixel_values=x).loss


class Lightly(nn.Module):
    """The MAE of lightly's examples, with the per-patch normalised target its example lacks."""

    def __init__(self) -> None:
        super().__init__()
        from lightly.models import utils
        from lightly.models.modules import (
            MaskedVisionTransformerDecoderTIMM,
            MaskedVisionTransformerTIMM,
        )

        self.utils = utils
        vit = timm.create_model("vit_small_patch16_224", num_classes=0)
        self.encoder = MaskedVisionTransformerTIMM(vit=vit)
        self.embed = nn.Linear(384, 512)
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            num_patches=196,
            embed_dim=512,
            depth=8,
            num_heads=16,
            num_prefix_tokens=1,
            mlp_ratio=4.0,
            proj_drop_rate=0.0,
            attn_drop_rate=0.0,
        )
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 512))
        self.head = nn.Linear(512, 768)

    def forward(self, x: Tensor) -> Tensor:
        u, size = self.utils, (len(x), 197)
        keep, mask = u.random_token_mask(size=size, mask_ratio=0.75, device=x.device)
        encoded = self.embed(self.encoder.encode(images=x, idx_keep=keep))
        full = u.repeat_token(self.mask_token, size).to(encoded.dtype)
        full = u.set_at_index(full, keep, encoded)
        decoded = self.decoder(full, idx_mask=mask)
        prediction = self.head(u.get_at_index(decoded, mask))
        target = u.get_at_index(u.patchify(x, 16), mask - 1)
        mean, var = target.mean(-1, keepdim=True), target.var(-1, keepdim=True)
        return nn.functional.mse_loss(prediction, (target - mean) / (var + 1e-6).sqrt())


class StablePretraining(nn.Module):
    """stable-pretraining's MAE; its decoder is 512 x 8 x 16 by default."""

    def __init__(self) -> None:
        super().__init__()
        from stable_pretraining.methods import MAE

        self.model = MAE("vit_small_patch16_224", mask_ratio=0.75)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).loss


FAST = {"preset": "fast", "tokenizer.patch_size": 16, "decoder_dim": 256, "decoder_heads": 8}
"""The decoder of the preset ``fast``, as wide beside this encoder as it is there."""

CROSS = {"decoder": "cross", "decode_share": 0.25}
"""Hidden tokens attend to visible ones alone, a quarter of them at a step: CrossMAE's decoder."""

CONTESTANTS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "floor": (Floor, "timm"),
    "polymask": (Polymask, "polymask"),
    "polymask cross": (functools.partial(Polymask, **CROSS), "polymask"),
    "polymask fast": (functools.partial(Polymask, **FAST), "polymask"),
    "transformers": (Transformers, "transformers"),
    "lightly": (Lightly, "lightly"),
    "stable-pretraining": (StablePretraining, "stable-pretraining"),
}


def race(
    batch: int = 16,
    rounds: int = 9,
    threads: int = 2,
    device: str = "cpu",
    precision: str = "float32",
    compile: bool = False,
    only: str | None = None,
    out: Path | None = None,
) -> None:
    """Time one training step of every installed contestant.

    Args:
        batch: images per step.
        rounds: counted rounds, after two of warm-up; every contestant runs once in each.
        threads: CPU threads of every contestant.
        device: ``cpu`` or ``cuda``.
        precision: ``float32``, or ``bfloat16`` for autocast.
        compile: ``torch.compile`` every contestant.
        only: names of contestants, with commas between; all installed ones by default.
        out: where to write the figures as JSON.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    x = torch.randn(batch, 3, 224, 224, device=device)
    models: dict[str, nn.Module] = {}
    for name, (build, package) in CONTESTANTS.items():
        if (only is None or name in only.split(",")) and installed(package):
            models[name] = build().to(device).train()

    def once(model: nn.Module) -> float:
        model.zero_grad(set_to_none=True)
        _wait(device)
        start = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = model(x)
        loss.backward()
        _wait(device)
        return time.perf_counter() - start

    # a number that a module counts up is no reason to compile it anew
    torch._dynamo.config.allow_unspec_int_on_nn_module = True
    kept = {name: kept_for_backward(model, x, precision) for name, model in models.items()}
    for name in list(models):
        models[name] = torch.compile(models[name]) if compile else models[name]  # type: ignore[assignment]
        for _ in range(2):
            once(models[name])
    gc.collect()
    gc.disable()
    times: dict[str, list[float]] = {name: [] for name in models}
    for i in range(rounds):
        # another order each round, so that nobody always runs after the same neighbour
        names = list(models)[i % len(models) :] + list(models)[: i % len(models)]
        for name in names:
            times[name].append(once(models[name]) / batch * 1e3)
    reference = times.get("polymask", times[next(iter(times))])
    rows = {
        name: {
            "ms_per_image": statistics.median(t),
            "min": min(t),
            "max": max(t),
            "ratio_to_polymask": statistics.median(a / b for a, b in zip(t, reference, strict=True)),
            "kept_mib_per_image": kept[name] / batch / 2**20,
            "parameters": sum(p.numel() for p in models[name].parameters()),
        }
        for name, t in times.items()
    }
    print(f"{'':20}{'ms/image':>10}{'min':>9}{'max':>9}{'/ polymask':>12}{'MiB/image':>11}")
    for name, row in rows.items():
        print(
            f"{name:20}{row['ms_per_image']:10.2f}{row['min']:9.2f}{row['max']:9.2f}"
            f"{row['ratio_to_polymask']:12.3f}{row['kept_mib_per_image']:11.1f}"
        )
    if out is not None:
        packages = [p for n, (_, p) in CONTESTANTS.items() if n in models] + ["torch"]
        setup = {
            "batch": batch,
            "rounds": rounds,
            "threads": threads,
            "device": torch.cuda.get_device_name() if device == "cuda" else platform.processor() or device,
            "precision": precision,
            "compile": compile,
            "versions": versions(*packages),
        }
        write_json(out, {"setup": setup, "results": rows})


def kept_for_backward(model: nn.Module, x: Tensor, precision: str) -> int:
    """Bytes of all storages that autograd keeps for the backward pass of one step."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, so that no address is given out twice
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bfloat16"),
    ):
        model(x)
    return sum(storage.nbytes() for storage in kept.values())


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    command(race)
