"""Our encoders as models of timm and of transformers: weights, configuration, preprocessing.

Both libraries embed a patch by a convolution; its kernel is our embedding's weight, whose inputs are in the
order of :class:`polymask_vision.tokenizers.Patches` (row, column, channel). What is written is the layout of
the hub, by neither library.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from polymask import UserError
from polymask.export import Classifier, save_json, save_state
from polymask.imports import WEIGHTS
from polymask_vision.imports import merged

if TYPE_CHECKING:
    from polymask_vision.encoders import Swin, ViT

EIGHT_BITS = (0, 255)
"""Values that become 0 and 1 where the data does not say."""

Facts = Mapping[str, Any]
State = dict[str, Tensor]


def vit_to_timm(encoder: ViT, facts: Facts, out: Path, classifier: Classifier | None = None) -> None:
    """A folder for ``timm.create_model("local-dir:<out>", pretrained=True)``.

    ``forward_features`` gives class token and patch tokens, the model itself the mean of the latter, normed, or
    what a classifier makes of it.

    Raises:
        UserError: timm's model does not pool as the classifier does.
    """
    if encoder.relative is not None:
        _beit_to_timm(encoder, facts, out, classifier)
        return
    pool = _pool("timm's ViT", classifier, "mean", "prefix")
    vit: Any = encoder.vit
    first = vit.blocks[0]
    arguments = {
        "embed_dim": encoder.dim,
        "depth": len(vit.blocks),
        "num_heads": first.attn.num_heads,
        "mlp_ratio": first.mlp.fc1.out_features / encoder.dim,
        "class_token": encoder.prefix == 1,
        "no_embed_class": True,
        "pos_embed": "none" if vit.pos_embed is None else "learn",
        "init_values": 1.0 if hasattr(first.ls1, "gamma") else None,
        "global_pool": "token" if pool == "prefix" else "avg",
        "fc_norm": False,
    }
    _timm("vit_base_patch16_224", arguments, vit.state_dict(), "head", facts, out, classifier)


def _pool(model: str, classifier: Classifier | None, *known: str) -> str | None:
    """How a classifier pools, if a model of another library does too.

    Raises:
        UserError: it does not.
    """
    if classifier is None or classifier.pool in known:
        return None if classifier is None else classifier.pool
    raise UserError(
        f"{model} classifies {' or '.join(known)}, and this classifier has pool {classifier.pool}: export it as "
        f"safetensors, the encoder alone with --no-head, or fine-tune with --pool {known[-1]}"
    )


def _beit_to_timm(encoder: ViT, facts: Facts, out: Path, classifier: Classifier | None) -> None:
    """A ViT with one relative bias for all blocks is timm's BEiT; the model itself gives the class token.

    BEiT has no bias on keys. Ours adds the same to all that a query is compared with, which softmax
    does not see.
    """
    if encoder.prefix != 1 or encoder.relative is None:
        raise UserError(
            "timm's BEiT always has a class token and this encoder has none: export it as safetensors, or "
            "pre-train with --encoder.class_token true"
        )
    _pool("timm's BEiT", classifier, "prefix")
    first = encoder.vit.blocks[0]
    arguments = {
        "embed_dim": encoder.dim,
        "depth": len(encoder.vit.blocks),
        "num_heads": first.attn.num_heads,
        "mlp_ratio": first.mlp.fc1.out_features / encoder.dim,
        "init_values": 1.0 if hasattr(first.ls1, "gamma") else None,
        "use_abs_pos_emb": False,
        "use_rel_pos_bias": False,
        "use_shared_rel_pos_bias": True,
        "global_pool": "token",
    }
    state: State = {"rel_pos_bias.relative_position_bias_table": encoder.relative.bias}
    for name, value in encoder.vit.state_dict().items():
        if name.endswith("qkv.bias"):
            query, _, value_bias = value.chunk(3)
            state[name.replace("qkv.bias", "q_bias")] = query
            state[name.replace("qkv.bias", "v_bias")] = value_bias
        else:
            state[name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2")] = value
    _timm("beit_base_patch16_224", arguments, state, "head", facts, out, classifier)


def swin_to_timm(encoder: Swin, facts: Facts, out: Path, classifier: Classifier | None = None) -> None:
    """A folder for ``timm.create_model("local-dir:<out>", pretrained=True)``."""
    swin: Any = encoder.swin
    arguments = {
        "embed_dim": encoder.dim,
        "depths": [len(layer.blocks) for layer in swin.layers],
        "num_heads": [layer.blocks[0].attn.num_heads for layer in swin.layers],
        "window_size": encoder.window,
    }
    _pool("timm's Swin", classifier, "mean")
    state = for_timm(swin) if classifier is None else swin.state_dict()
    _timm("swin_base_patch4_window7_224", arguments, state, "head.fc", facts, out, classifier)


def for_timm(network: nn.Module) -> State:
    """Weights of a network of timm by the names that it takes from a file without a classifier."""
    swin = type(network).__name__ in ("SwinTransformer", "SwinTransformerV2")
    # timm merges patches at the start of a stage, but takes a file without a classifier for one of Swin's
    # authors, who merge at the end of the stage before (the last versions look more closely)
    return merged(network.state_dict(), -1) if swin else network.state_dict()


def vit_to_transformers(encoder: ViT, facts: Facts, out: Path, classifier: Classifier | None = None) -> None:
    """A folder for ``transformers.ViTModel.from_pretrained``, or ``ViTForImageClassification`` of a classifier.

    LayerScale, which it lacks, is multiplied into the projections before it.

    Raises:
        UserError: no class token, which ``ViTModel`` cannot be without, or a classifier of another.
    """
    _pool("transformers' ViT", classifier, "prefix")
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
        "embeddings.patch_embeddings.projection.weight": _kernel(source, facts),
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
    _pool("transformers' Swin", classifier, "mean")
    swin: Any = encoder.swin
    source, window = swin.state_dict(), encoder.window
    state = {
        "embeddings.patch_embeddings.projection.weight": _kernel(source, facts),
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


def _kernel(source: State, facts: Facts) -> Tensor:
    """Weight of the patch embedding as the kernel of a convolution, ``[D, C, p, p]``."""
    if not {"size", "channels", "patch_size"} <= facts.keys():
        raise UserError("timm and transformers embed square patches of pixels alone: export as safetensors")
    p, weight = facts["patch_size"], source["patch_embed.proj.weight"]
    return weight.view(-1, p, p, facts["channels"]).permute(0, 3, 1, 2)


def _statistics(facts: Facts) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel that values brought to [0, 1] are normalised with."""
    channels = facts["channels"]
    mean, std = facts.get("mean", [0.0] * channels), facts.get("std", [1.0] * channels)
    return [float(m) for m in mean], [float(s) for s in std]


def _timm(
    architecture: str,
    arguments: dict[str, Any],
    state: State,
    head: str,
    facts: Facts,
    out: Path,
    classifier: Classifier | None,
) -> None:
    state = {**state, "patch_embed.proj.weight": _kernel(state, facts)}
    arguments = {"img_size": list(facts["size"]), "patch_size": facts["patch_size"], **arguments}
    about: dict[str, Any] = {
        "fixed_input_size": True,
        "first_conv": "patch_embed.proj",
        "classifier": head,
    }
    config = timm_config(architecture, arguments, about, facts)
    if classifier is not None:
        state |= {f"{head}.weight": classifier.head.weight, f"{head}.bias": classifier.head.bias}
        config |= {"num_classes": len(classifier.names), "label_names": classifier.names}
        config["pretrained_cfg"]["num_classes"] = len(classifier.names)
    save_json(config, out / "config.json")
    save_state(state, out / WEIGHTS)


def timm_config(architecture: str, arguments: Facts, about: Facts, facts: Facts) -> dict[str, Any]:
    """``config.json`` of a folder that timm loads: ``about`` is what its ``pretrained_cfg`` says besides."""
    (mean, std), channels = _statistics(facts), facts["channels"]
    config = {
        "architecture": architecture,
        "num_classes": 0,
        "model_args": {"in_chans": channels, **arguments},
        "pretrained_cfg": {
            "input_size": [channels, *facts["size"]],
            "mean": mean,
            "std": std,
            "num_classes": 0,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "pool_size": None,
            **about,
        },
    }
    if tuple(facts.get("range", EIGHT_BITS)) != EIGHT_BITS:
        config["value_range"] = list(facts["range"])  # timm has no word for it
    return config


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
    mean, std = _statistics(facts)
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
    save_json({**config, **common}, out / "config.json")
    save_json(preprocessing, out / "preprocessor_config.json")
    save_state(state, out / WEIGHTS)
