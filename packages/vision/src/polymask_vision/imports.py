"""Weights of timm and transformers as those of our encoders: names, sizes, normalisation.

What cannot be had here (registers, rotary positions, gates) is refused, by the names of its weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import timm
import timm.models
import torch
from torch import Tensor, nn

from polymask import UserError
from polymask.imports import Weights, require_options
from polymask.pretrained import from_pretrained, require_whole
from polymask_vision.resizing import by, embed_patches, resize_bias, resize_positions

if TYPE_CHECKING:
    from polymask_vision.encoders import Swin, ViT

Facts = Mapping[str, Any]
State = dict[str, Tensor]

_HEADS = re.compile(
    r"(head|head_drop|fc_norm|attn_pool|pooler|classifier|decoder|lm_head|embeddings\.mask_token|mask_token)\b"
)
"""Weights that are no part of an encoder: classifiers, poolers, decoders, what stands for hidden tokens."""

_FROM_TRANSFORMERS = [
    (r"^(vit|deit|dinov2|swin|beit|backbone|model)\.", ""),
    (r"^embeddings\.cls_token", "cls_token"),
    (r"^embeddings\.position_embeddings", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"^embeddings\.norm", "patch_embed.norm"),
    (r"^(encoder\.)?layers?\.(\d+)\.(?!blocks\.|downsample\.)", r"blocks.\2."),
    (r"^encoder\.layers\.", "layers."),
    (r"\.attention\.(attention\.|self\.)?(query|key|value)\.", r".attn.\2."),
    (r"\.attention\.q_proj\.", ".attn.query."),
    (r"\.attention\.k_proj\.", ".attn.key."),
    (r"\.attention\.v_proj\.", ".attn.value."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (
        r"\.attention\.(self\.|relative_position_bias\.)relative_position_bias_",
        ".attn.relative_position_bias_",
    ),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layer_scale([12])\.lambda1", r".ls\1.gamma"),
    (r"\.lambda_([12])$", r".ls\1.gamma"),
    (r"^layernorm\.", "norm."),
]


def from_timm(name: str, facts: Facts) -> Weights:
    """A model of timm, by any name that ``timm.create_model`` takes.

    Raises:
        UserError: it cannot be loaded.
    """
    model: Any = timm_model(name)
    options: dict[str, Any] = {}
    if isinstance(model, timm.models.SwinTransformer):
        stages: Any = [layer.blocks for layer in model.layers]
        options = {
            "depths": [len(blocks) for blocks in stages],
            "heads": [blocks[0].attn.num_heads for blocks in stages],
            "window": max(block.window_size[0] for blocks in stages for block in blocks),
        }
        _require_gelu(name, isinstance(stages[0][0].mlp.act, nn.GELU))
    elif isinstance(model, timm.models.VisionTransformer | timm.models.Beit):
        first: Any = model.blocks[0]
        options = {"heads": first.attn.num_heads}
        _require_gelu(name, isinstance(first.mlp.act, nn.GELU))
    config: Any = model.pretrained_cfg
    known = {name: config[name] for name in ("mean", "std") if config.get(name)}
    if hasattr(model, "patch_embed"):
        known["grid"] = tuple(model.patch_embed.grid_size)
    return Weights(model.state_dict(), options, known)


def timm_model(name: str, **arguments: Any) -> nn.Module:
    """A model of timm with its weights.

    Raises:
        UserError: there is none of this name, or its weights cannot be had.
    """
    try:
        model: nn.Module = timm.create_model(name, pretrained=True, **arguments)
    # a name unknown, no network, weights of other shapes: the libraries raise all kinds of errors
    except Exception as error:
        raise UserError(f"timm cannot load {name!r} with its weights: {error}") from error
    return model


def from_transformers(name: str, facts: Facts) -> Weights:
    """A model of transformers, by name on the Hugging Face hub or as a folder.

    Raises:
        UserError: it cannot be loaded, or transformers is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            "transformers is not installed: pip install 'polymask-vision[transformers]'"
        ) from error
    try:
        model, drawn = from_pretrained(transformers.AutoModel, name, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise UserError(f"transformers cannot load {name!r}: {error}") from error
    config = model.config
    swin = hasattr(config, "window_size") and hasattr(config, "depths")
    if not (hasattr(config, "image_size") and (swin or hasattr(config, "num_attention_heads"))):
        raise UserError(
            f"{name} is a {type(model).__name__}, and these encoders are Vision Transformers and Swin: "
            "convolutional networks are encoders by vision/timm, from timm"
        )
    _require_gelu(name, getattr(config, "hidden_act", "gelu") == "gelu")
    if swin:
        options = {"depths": config.depths, "heads": config.num_heads, "window": config.window_size}
    else:
        options = {"heads": config.num_attention_heads}
    known: dict[str, Any] = {}
    changes: tuple[str, ...] = ()
    try:
        processor: Any = transformers.AutoImageProcessor.from_pretrained(name)  # type: ignore[no-untyped-call]
        if processor.do_normalize:
            known = {"mean": tuple(processor.image_mean), "std": tuple(processor.image_std)}
    except (OSError, ValueError, ImportError):
        changes = ("normalisation: none was saved beside the model, that of the data stays",)
    size = (config.image_size,) * 2 if isinstance(config.image_size, int) else tuple(config.image_size)
    grid = tuple(n // config.patch_size for n in size)
    require_whole(name, drawn)
    state = {weight: value for weight, value in model.state_dict().items() if weight not in drawn}
    return Weights(state, options, {**known, "grid": grid}, changes=changes)


def _require_gelu(name: str, gelu: bool) -> None:
    if not gelu:
        raise UserError(f"{name} has other activations than GELU, which these encoders have: use vision/timm")


def adapt_vit(encoder: ViT, weights: Weights, facts: Facts) -> Weights:
    """Weights of a Vision Transformer under the names and in the sizes of ours."""
    state, unused = _renamed(weights.state)
    state = {name.removeprefix("vit."): value for name, value in state.items()}
    _join_queries(state)
    changes = [*weights.changes]
    if "rel_pos_bias.relative_position_bias_table" in state:
        state["relative.bias"] = state.pop("rel_pos_bias.relative_position_bias_table")
    scaled = any(name.endswith("ls1.gamma") for name in state)
    has_scale = hasattr(encoder.vit.blocks[0].ls1, "gamma") if len(encoder.vit.blocks) else scaled
    require_options(
        encoder,
        {**weights.options, **_vit_sizes(state)}
        | ({} if scaled == has_scale else {"layer_scale": 1e-5 if scaled else None}),
    )
    if any(name.endswith(("dist_token", "distillation_token")) for name in state):
        raise UserError("these weights have a distillation token (DeiT); vision/vit has a class token alone")
    positions = state.get("pos_embed")
    if positions is not None and "cls_token" in state and _leads(positions, weights, state):
        # ours has no position for the class token: the two are only ever summed
        state["cls_token"] = state["cls_token"] + positions[:, :1]
        positions = positions[:, 1:]
    if positions is not None:
        if encoder.vit.pos_embed is not None:
            positions = resize_positions(positions, weights, encoder.grid, changes)
            if encoder.positions == "sincos" and not torch.allclose(positions, encoder.vit.pos_embed):
                changes.append(
                    "positions: those of the model, fixed (--encoder.positions learned trains them)"
                )
        elif not positions.any():  # what an export writes where there are none
            positions = None
        if positions is None:
            state.pop("pos_embed")
        else:
            state["pos_embed"] = positions
    if "relative.bias" in state and encoder.relative is not None:
        shape = tuple(encoder.relative.bias.shape)
        if state["relative.bias"].shape != shape:
            state["relative.bias"] = resize_bias(state["relative.bias"], encoder.grid, shape)
            changes.append(f"relative positions: interpolated to a grid of {by(encoder.grid)}")
    embed_patches(state, weights, facts, changes)
    own = {name if name.startswith("relative.") else f"vit.{name}": value for name, value in state.items()}
    return Weights(own, weights.options, rest_of(weights.facts), unused, tuple(changes))


def adapt_swin(encoder: Swin, weights: Weights, facts: Facts) -> Weights:
    """Weights of a Swin Transformer under the names and in the sizes of ours."""
    state, unused = _renamed(weights.state)
    state = {name.removeprefix("swin."): value for name, value in state.items()}
    _join_queries(state)
    own = encoder.swin.state_dict()
    dim = {"dim": len(state["norm.weight"]) // encoder.downsample} if "norm.weight" in state else {}
    require_options(encoder, {**weights.options, **dim})
    changes = [*weights.changes]
    if not any(name.startswith("layers.0.downsample") for name in own) and any(
        name.startswith("layers.0.downsample") for name in state
    ):  # some merge patches at the end of a stage, timm at the start of the next
        state = merged(state, 1)
    resized = {}
    for name, value in own.items():
        table = state.get(name)
        if name.endswith("relative_position_bias_table") and table is not None and table.shape != value.shape:
            block = encoder.swin.get_submodule(name.rpartition(".")[0])
            resized[name] = resize_bias(table, block.window_size, tuple(value.shape))
    if resized:
        state |= resized
        changes.append("relative positions: interpolated to the windows of this grid")
    embed_patches(state, weights, facts, changes)
    return Weights(
        {f"swin.{name}": value for name, value in state.items()},
        weights.options,
        rest_of(weights.facts),
        unused,
        tuple(changes),
    )


def _renamed(source: Mapping[str, Tensor]) -> tuple[State, tuple[str, ...]]:
    """Weights by the names of timm, and the names of those that belong to no encoder."""
    state, unused = State(), []
    for name, value in source.items():
        found = name
        for pattern, replacement in _FROM_TRANSFORMERS:
            found = re.sub(pattern, replacement, found)
        if _HEADS.match(found):
            unused.append(name)
        # timm can compute these from the sizes, and some files hold them
        elif not found.endswith(("relative_position_index", "attn_mask")):
            state[found.replace(".gamma_1", ".ls1.gamma").replace(".gamma_2", ".ls2.gamma")] = value
    return state, tuple(unused)


def merged(state: Mapping[str, Tensor], later: int) -> State:
    """Weights of a Swin whose patches are merged by a stage so many places later."""
    merge = re.compile(r"^layers\.(\d+)(?=\.downsample\.)")
    return {merge.sub(lambda m: f"layers.{int(m[1]) + later}", name): x for name, x in state.items()}


def _join_queries(state: State) -> None:
    """One matrix for queries, keys and values; where keys have no bias, as in BEiT, it is 0."""
    for name in [name for name in state if name.endswith(("attn.query.weight", "attn.query.bias"))]:
        parts = [name.replace("query", part) for part in ("query", "key", "value")]
        like = state[name]
        state[name.replace("query", "qkv")] = torch.cat(
            [state.pop(part, torch.zeros_like(like)) for part in parts]
        )
    for name in [name for name in state if name.endswith("attn.q_bias")]:
        query, value = state.pop(name), state.pop(name.replace("q_bias", "v_bias"))
        state[name.replace("q_bias", "qkv.bias")] = torch.cat([query, torch.zeros_like(query), value])


def _vit_sizes(state: State) -> dict[str, Any]:
    """Options of ``vision/vit`` that the shapes show."""
    if "norm.weight" not in state:
        return {}
    dim = len(state["norm.weight"])
    blocks = {name.split(".")[1] for name in state if name.startswith("blocks.")}
    sizes: dict[str, Any] = {"dim": dim, "depth": len(blocks), "class_token": "cls_token" in state}
    if (hidden := state.get("blocks.0.mlp.fc1.weight")) is not None:
        sizes["mlp_ratio"] = len(hidden) / dim
    return sizes


def _leads(positions: Tensor, weights: Weights, state: State) -> bool:
    """Whether the first position is that of the class token."""
    grid = weights.facts.get("grid")
    sites = math.prod(grid) if grid else None
    return positions.shape[1] != sites if sites else math.isqrt(positions.shape[1]) ** 2 != positions.shape[1]


def rest_of(facts: Facts) -> dict[str, Any]:
    """Facts that nothing was adapted to."""
    return {name: value for name, value in facts.items() if name not in ("mean", "std")}
