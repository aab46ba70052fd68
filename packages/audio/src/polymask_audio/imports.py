"""Weights of torchaudio and transformers as those of our encoders."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
import torchaudio
from torchaudio.models.wav2vec2.utils import import_huggingface_model

from polymask import UserError
from polymask.imports import Weights
from polymask.pretrained import from_pretrained, require_whole

_HEADS = re.compile(
    r"(aux|masked_spec_embed|mask_generator|logit_generator|quantizer|project_q|project_hid)\b"
)
"""Weights that are no part of an encoder: classifiers, quantisers, what stands for hidden tokens."""


def from_torchaudio(name: str, facts: Mapping[str, Any]) -> Weights:
    """A model of torchaudio by the name of its bundle, e.g. ``HUBERT_LARGE``.

    Raises:
        UserError: there is none of this name, or its weights cannot be had.
    """
    bundle: Any = getattr(torchaudio.pipelines, name, None)
    if not hasattr(bundle, "get_model"):
        raise UserError(f"torchaudio.pipelines has no model {name!r}")
    try:
        model = bundle.get_model()
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"torchaudio cannot load {name!r}: {error}") from error
    # a bundle whose waveforms are normalised wraps its model
    standardise = hasattr(model, "normalize_waveform") and bool(model.normalize_waveform)
    model = getattr(model, "model", model)
    _require_norms(name, model)
    return _weights(model, bundle.sample_rate, standardise)


def from_transformers(name: str, facts: Mapping[str, Any]) -> Weights:
    """A wav2vec 2.0 or HuBERT of transformers, by name on the Hugging Face hub or as a folder.

    Raises:
        UserError: it cannot be loaded or is of another kind, or transformers is not installed.
    """
    try:
        from transformers import AutoFeatureExtractor, AutoModel
    except ImportError as error:
        raise UserError(
            "transformers is not installed: pip install 'polymask-audio[transformers]'"
        ) from error
    try:
        model, missing = from_pretrained(AutoModel, name, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise UserError(f"transformers cannot load {name!r}: {error}") from error
    if type(model).__name__ not in ("Wav2Vec2Model", "HubertModel"):
        raise UserError(f"{name} is a {type(model).__name__}: audio/transformer is a wav2vec 2.0 or a HuBERT")
    require_whole(name, missing)
    found = import_huggingface_model(model)
    _require_norms(name, found)
    try:
        inputs: Any = AutoFeatureExtractor.from_pretrained(name)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise UserError(
            f"{name} does not say at which rate it hears, and whether recordings are standardised: save its "
            f"feature extractor beside it ({error})"
        ) from error
    return _weights(found, inputs.sampling_rate, bool(inputs.do_normalize))


def _weights(model: Any, rate: int, standardise: bool) -> Weights:
    layers, transformer = model.feature_extractor.conv_layers, model.encoder.transformer
    first, conv = transformer.layers[0], transformer.pos_conv_embed.conv
    options = {
        "dim": conv.in_channels,
        "depth": len(transformer.layers),
        "heads": first.attention.num_heads,
        "mlp_ratio": first.feed_forward.intermediate_dense.out_features / conv.in_channels,
        # "norm first" is said of the stack there, and is the opposite of what it is of its blocks
        "norm_first": not transformer.layer_norm_first,
        "conv_dim": layers[0].conv.out_channels,
        "conv_bias": layers[0].conv.bias is not None,
        "kernel": conv.kernel_size[0],
        "groups": conv.groups,
    }
    return Weights(model.state_dict(), options, {"rate": int(rate), "standardise": standardise})


def _require_norms(name: str, model: Any) -> None:
    if any(isinstance(layer.layer_norm, torch.nn.GroupNorm) for layer in model.feature_extractor.conv_layers):
        raise UserError(
            f"the convolutions of {name} are normed over time, through which all tokens meet; those of "
            "audio/transformer are normed over channels, as in the large models: choose one of these"
        )


def adapt(weights: Weights) -> Weights:
    """Weights of torchaudio's model under the names of ours."""
    state = {
        re.sub(r"^feature_extractor\.", "extractor.", name): value
        for name, value in weights.state.items()
        if not _HEADS.match(name)
    }
    unused = tuple(name for name in weights.state if _HEADS.match(name))
    return Weights(state, weights.options, weights.facts, unused)
