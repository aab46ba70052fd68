"""Formats of our encoders; models of transformers: weights, configuration, preprocessing, as on the hub."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from polymask import UserError
from polymask.export import Classifier, Exporter, save_json, save_state
from polymask.imports import WEIGHTS
from polymask_vision.export import (
    EIGHT_BITS,
    Facts,
    State,
    kernel_of,
    require_pool,
    statistics_of,
    swin_to_timm,
    vit_to_timm,
)

if TYPE_CHECKING:
    from polymask_vision.encoders import Swin, ViT


def vit_exports(encoder: ViT, classifier: Classifier | None) -> dict[str, Exporter]:
    """Formats in which a ViT can leave, by itself or with a classifier."""
    if not (encoder.grid and encoder.norm_first) or encoder.vocabulary:
        return {}
    offered = {"timm": functools.partial(vit_to_timm, encoder, classifier=classifier)}
    if encoder.relative is None:
        offered["transformers"] = functools.partial(vit_to_transformers, encoder, classifier=classifier)
    return dict(offered)


def swin_exports(encoder: Swin, classifier: Classifier | None) -> dict[str, Exporter]:
    """The same of a Swin."""
    return {
        "timm": functools.partial(swin_to_timm, encoder, classifier=classifier),
        "transformers": functools.partial(swin_to_transformers, encoder, classifier=classifier),
    }


def vit_to_transformers(encoder: ViT, facts: Facts, out: Path, classifier: Classifier | None = None) -> None:
    """A folder for ``transformers.ViTModel.from_pretrained``, or ``ViTForImageClassification``.

    LayerScale, which it lacks, is multiplied into the projections before it.

    Raises:
        UserError: no class token, which ``ViTModel`` cannot be without, or a classifier of another.
    """
    require_pool("transformers' ViT", classifier, "prefix")
    if encoder.prefix != 1:
        raise UserError(
            "transformers' ViT always has a class token and this encoder has none: export it to timm, or "
            "pre-train with --encoder.class_token true"
        )
    vit: Any = encoder.vit
    source, dim = vit.state_dict(), encoder.dim
    positions = torch.zeros(1, 1 + encoder.grid[0] * encoder.grid[1], dim)
    if "pos_embed" in source:
        positions[:, 1:] = source["pos_embed"]
    state = {
        "embeddings.cls_token": source["cls_token"],
        "embeddings.position_embeddings": positions,
        "embeddings.patch_embeddings.projection.weight": kernel_of(source, facts),
        "embeddings.patch_embeddings.projection.bias": source["patch_embed.proj.bias"],
        "layernorm.weight": source["norm.weight"],
        "layernorm.bias": source["norm.bias"],
    }
    for i in range(len(vit.blocks)):
        state |= _block(source, f"blocks.{i}", f"encoder.layer.{i}", "attention.attention")
    config = {
        "architectures": ["ViTModel"],
        "model_type": "vit",
        "hidden_size": dim,
        "num_hidden_layers": len(vit.blocks),
        "num_attention_heads": vit.blocks[0].attn.num_heads,
        "intermediate_size": vit.blocks[0].mlp.fc1.out_features,
        "layer_norm_eps": vit.norm.eps,
        "encoder_stride": facts["patch_size"],
    }
    _transformers(config, state, facts, out, classifier)


def swin_to_transformers(
    encoder: Swin, facts: Facts, out: Path, classifier: Classifier | None = None
) -> None:
    """A folder for ``transformers.SwinModel.from_pretrained``, or ``SwinForImageClassification``.

    Raises:
        UserError: a stage whose grid its windows do not tile, where ``SwinModel`` differs.
    """
    require_pool("transformers' Swin", classifier, "mean")
    swin: Any = encoder.swin
    source, window = swin.state_dict(), encoder.window
    state = {
        "embeddings.patch_embeddings.projection.weight": kernel_of(source, facts),
        "embeddings.patch_embeddings.projection.bias": source["patch_embed.proj.bias"],
        "embeddings.norm.weight": source["patch_embed.norm.weight"],
        "embeddings.norm.bias": source["patch_embed.norm.bias"],
        "layernorm.weight": source["norm.weight"],
        "layernorm.bias": source["norm.bias"],
    }
    for i, layer in enumerate(swin.layers):
        h, w = (n // 2**i for n in encoder.grid)
        if h % window or w % window or (h != w and window in (h, w)):
            raise UserError(
                f"transformers' Swin treats windows that do not tile a grid otherwise than timm, and stage "
                f"{i + 1} has {h} x {w} tokens in windows of {window}: export to timm, or pre-train with "
                "another --encoder.window"
            )
        for j in range(len(layer.blocks)):
            ours, theirs = f"layers.{i}.blocks.{j}", f"encoder.layers.{i}.blocks.{j}"
            state |= _block(source, ours, theirs, "attention.self")
            table = "relative_position_bias_table"
            state[f"{theirs}.attention.self.{table}"] = source[f"{ours}.attn.{table}"]
        if i:  # timm merges patches at the start of a stage, transformers at the end of the one before
            for name in ("norm.weight", "norm.bias", "reduction.weight"):
                state[f"encoder.layers.{i - 1}.downsample.{name}"] = source[f"layers.{i}.downsample.{name}"]
    config = {
        "architectures": ["SwinModel"],
        "model_type": "swin",
        "embed_dim": encoder.dim,
        "depths": [len(layer.blocks) for layer in swin.layers],
        "num_heads": [layer.blocks[0].attn.num_heads for layer in swin.layers],
        "window_size": window,
        "mlp_ratio": swin.layers[0].blocks[0].mlp.fc1.out_features / encoder.dim,
        "drop_path_rate": 0.0,
        "layer_norm_eps": swin.norm.eps,
        "encoder_stride": facts["patch_size"] * encoder.downsample,
    }
    _transformers(config, state, facts, out, classifier)


_BLOCK = {
    "norm1": "layernorm_before",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def _block(source: State, ours: str, theirs: str, attention: str) -> State:
    """One Transformer block of timm under the names that transformers has on the hub."""
    state: State = {}
    for kind in ("weight", "bias"):
        joint = source[f"{ours}.attn.qkv.{kind}"].chunk(3)
        for name, value in zip(("query", "key", "value"), joint, strict=True):
            state[f"{theirs}.{attention}.{name}.{kind}"] = value
        for mine, other in _BLOCK.items():
            state[f"{theirs}.{other}.{kind}"] = source[f"{ours}.{mine}.{kind}"]
    for scale, other in (("ls1", "attention.output.dense"), ("ls2", "output.dense")):
        gamma = source.get(f"{ours}.{scale}.gamma")
        if gamma is not None:
            state[f"{theirs}.{other}.weight"] = gamma[:, None] * state[f"{theirs}.{other}.weight"]
            state[f"{theirs}.{other}.bias"] = gamma * state[f"{theirs}.{other}.bias"]
    return state


def _transformers(
    config: dict[str, Any], state: State, facts: Facts, out: Path, classifier: Classifier | None
) -> None:
    if classifier is not None:
        base, names = config["model_type"], classifier.names
        state = {f"{base}.{name}": value for name, value in state.items()}
        state |= {"classifier.weight": classifier.head.weight, "classifier.bias": classifier.head.bias}
        config = {
            **config,
            "architectures": [config["architectures"][0].replace("Model", "ForImageClassification")],
            "id2label": dict(enumerate(names)),
            "label2id": {name: k for k, name in enumerate(names)},
        }
    height, width = facts["size"]
    mean, std = statistics_of(facts)
    low, high = facts.get("range", EIGHT_BITS)
    common = {
        "image_size": height if height == width else [height, width],
        "patch_size": facts["patch_size"],
        "num_channels": facts["channels"],
        "qkv_bias": True,
    }
    preprocessing = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / (high - low),
        "do_normalize": True,
        # the processor scales and does not shift
        "image_mean": [m + low / (high - low) for m in mean],
        "image_std": std,
    }
    save_state(state, out / WEIGHTS)
    save_json(preprocessing, out / "preprocessor_config.json")
    save_json({**config, **common}, out / "config.json")
