"""Models of transformers, built from sizes or loaded with their weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from polymask import UserError
from polymask.pretrained import from_pretrained, require_whole
from polymask_language.vocabulary import Vocabulary, vocabulary_of

BIDIRECTIONAL, CAUSAL = ("bert", "roberta", "roberta-prelayernorm", "modernbert"), ("gpt2", "llama")
FROM_PADDING = ("roberta", "roberta-prelayernorm", "xlm-roberta", "camembert")
"""Models whose places count from behind the id of padding."""

_DROPOUT = {
    "bert": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "roberta": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "roberta-prelayernorm": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "modernbert": ("attention_dropout", "mlp_dropout", "embedding_dropout"),
    "gpt2": ("attn_pdrop", "resid_pdrop", "embd_pdrop"),
    "llama": ("attention_dropout",),
}
# as published; ModernBERT and Llama have gates, and Llama's differs between sizes: that of TinyLlama
_RATIO = {
    "bert": 4.0,
    "roberta": 4.0,
    "roberta-prelayernorm": 4.0,
    "modernbert": 1.5,
    "gpt2": 4.0,
    "llama": 2.75,
}
_MORE: dict[str, dict[str, Any]] = {
    "roberta": {"type_vocab_size": 1},
    "roberta-prelayernorm": {"type_vocab_size": 1},
    "modernbert": {"cls_token_id": None, "sep_token_id": None},
}


def build(
    architecture: str,
    choices: tuple[str, ...],
    *,
    dim: int,
    depth: int,
    heads: int,
    mlp_ratio: float | None,
    dropout: float,
    init_std: float | None,
    length: int,
    pad_id: int,
    **more: Any,
) -> Any:
    """A model without a head, its weights drawn anew.

    Args:
        architecture: which one.
        choices: which there are.
        dim: width.
        depth: blocks.
        heads: attention heads per block.
        mlp_ratio: width of the feed-forward layers over ``dim``, or None for the published one.
        dropout: in every place that has one.
        init_std: deviation that weights are drawn with, or None for the published one.
        length: most tokens of a sequence.
        pad_id: id of padding.
        more: of its configuration, by the names that transformers has.

    Raises:
        UserError: no such architecture, or sizes that cannot be.
    """
    if architecture not in choices:
        raise UserError(f"architecture={architecture!r}: choose {' or '.join(choices)}")
    if dim % heads:
        raise UserError(f"encoder width {dim} is not divisible by {heads} heads")
    if init_std is not None:
        if init_std <= 0:
            raise UserError(f"init_std={init_std}: must be above 0, or none for the architecture's own")
        more["initializer_range"] = init_std
    config = transformers.AutoConfig.for_model(
        architecture,
        hidden_size=dim,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        max_position_embeddings=length + (pad_id + 1 if architecture in FROM_PADDING else 0),
        pad_token_id=pad_id,
        **{
            "n_inner" if architecture == "gpt2" else "intermediate_size": _width(architecture, mlp_ratio, dim)
        },
        **dict.fromkeys(_DROPOUT[architecture], dropout),
        **_MORE.get(architecture, {}),
        **more,
    )
    factory: Any = transformers.AutoModel
    return factory.from_config(config, attn_implementation="sdpa")


def load(name: str, kind: Any, tokenizer_file: str | None = None) -> Any:
    """A model with its weights, in float32.

    Args:
        name: on the Hugging Face hub, or path of a folder.
        kind: auto class of transformers.
        tokenizer_file: the vocabulary of the data, None where there is none.

    Raises:
        UserError: it cannot be loaded, or its vocabulary is not that of the data.
    """
    path = Path(name).expanduser()
    where = str(path) if path.exists() else name
    if tokenizer_file is not None:
        _confirm_vocabulary(where, tokenizer_file)
    try:
        model, missing = from_pretrained(kind, where, dtype=torch.float32, attn_implementation="sdpa")
    except (OSError, ValueError) as error:
        raise UserError(
            f"no model {name!r} can be loaded, neither from a folder nor from the hub: {error}"
        ) from error
    require_whole(name, missing)
    return model


def _confirm_vocabulary(model: str, tokenizer_file: str) -> None:
    """The ids of a model name the same tokens in the data; those that the data adds are new to it.

    Raises:
        UserError: they do not.
    """
    try:
        own = vocabulary_of(model, []).tokenizer.get_vocab(with_added_tokens=True)
    except UserError:
        warnings.warn(
            f"the model {model} comes without a vocabulary: its ids are taken for those of the data",
            stacklevel=4,
        )
        return
    data = Vocabulary(Path(tokenizer_file)).tokenizer.get_vocab(with_added_tokens=True)
    other = sum(data.get(token) != i for token, i in own.items())
    if other:
        raise UserError(
            f"the model {model} has a vocabulary of its own, and {other} of its {len(own)} tokens have other "
            f"ids in the data: give the data the same, --data.vocab {model}"
        )


def require_same_vocabulary(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Refuse weights of other data whose ids name other tokens.

    Args:
        theirs: facts of the data that a model was trained on, with its ``tokenizer_file``.
        ours: facts of the data.

    Raises:
        UserError: the vocabularies differ, or one is gone.
    """
    one, other = (facts.get("tokenizer_file") for facts in (theirs, ours))
    if one is None or other is None:
        return
    if not Path(one).is_file():
        raise UserError(f"the vocabulary of these weights, {one}, is gone: their ids cannot be compared")
    if Path(one).read_bytes() != Path(other).read_bytes():
        raise UserError(
            f"these weights have a vocabulary of their own: give the data the same, --data.vocab {one}"
        )


def _width(architecture: str, ratio: float | None, dim: int) -> int:
    return round((ratio or _RATIO[architecture]) * dim)
