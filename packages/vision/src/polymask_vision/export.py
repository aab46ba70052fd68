"""Our encoders as models of timm: weights, configuration, preprocessing; what transformers needs too.

Both libraries embed a patch by a convolution; its kernel is our embedding's weight, whose inputs are in the
order of :class:`polymask_vision.tokenizers.Patches` (row, column, channel). What is written is the layout of
the hub, by neither library.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

    ``forward_features`` gives class token and patch tokens, the model itself the mean of the latter, normed,
    or what a classifier makes of it.

    Raises:
        UserError: timm's model does not pool as the classifier does.
    """
    if encoder.relative is not None:
        _beit_to_timm(encoder, facts, out, classifier)
        return
    pool = require_pool("timm's ViT", classifier, "mean", "prefix")
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


def require_pool(model: str, classifier: Classifier | None, *known: str) -> str | None:
    """How a classifier pools, if a model of another library does too.

    Raises:
        UserError: it does not.
    """
    if classifier is None or classifier.pool in known:
        return None if classifier is None else classifier.pool
    raise UserError(
        f"{model} classifies {' or '.join(known)}, and this classifier has pool {classifier.pool}: export it "
        f"as safetensors, the encoder alone with --no-head, or fine-tune with --pool {known[-1]}"
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
    require_pool("timm's BEiT", classifier, "prefix")
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
    require_pool("timm's Swin", classifier, "mean")
    state = for_timm(swin) if classifier is None else swin.state_dict()
    _timm("swin_base_patch4_window7_224", arguments, state, "head.fc", facts, out, classifier)


def for_timm(network: nn.Module) -> State:
    """Weights of a network of timm by the names that it takes from a file without a classifier."""
    swin = type(network).__name__ in ("SwinTransformer", "SwinTransformerV2")
    # timm merges patches at the start of a stage, but takes a file without a classifier for one of Swin's
    # authors, who merge at the end of the stage before (the last versions look more closely)
    return merged(network.state_dict(), -1) if swin else network.state_dict()


def kernel_of(source: State, facts: Facts) -> Tensor:
    """Weight of the patch embedding as the kernel of a convolution, ``[D, C, p, p]``."""
    if not {"size", "channels", "patch_size"} <= facts.keys():
        raise UserError("timm and transformers embed square patches of pixels alone: export as safetensors")
    p, weight = facts["patch_size"], source["patch_embed.proj.weight"]
    return weight.view(-1, p, p, facts["channels"]).permute(0, 3, 1, 2)


def statistics_of(facts: Facts) -> tuple[list[float], list[float]]:
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
    state = {**state, "patch_embed.proj.weight": kernel_of(state, facts)}
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
    save_state(state, out / WEIGHTS)
    save_json(config, out / "config.json")


def timm_config(architecture: str, arguments: Facts, about: Facts, facts: Facts) -> dict[str, Any]:
    """``config.json`` of a folder that timm loads: ``about`` is what its ``pretrained_cfg`` says besides."""
    (mean, std), channels = statistics_of(facts), facts["channels"]
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
