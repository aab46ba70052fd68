"""Our encoders as models of transformers, with the vocabulary they read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

if TYPE_CHECKING:
    from polymask_language.encoders import Adapter


def to_transformers(encoder: Adapter, facts: Mapping[str, Any], out: Path) -> None:
    """A folder for ``transformers.AutoModel.from_pretrained``.

    A causal encoder becomes a language model with its head, for ``AutoModelForCausalLM``. Where the file of
    the vocabulary is known, ``AutoTokenizer`` finds it there too.
    """
    model, head = encoder.model, getattr(encoder, "lm_head", None)
    if encoder.causal:
        factory: Any = transformers.AutoModelForCausalLM
        with torch.device("meta"):
            whole = factory.from_config(model.config)
        setattr(whole, whole.base_model_prefix, model)
        if head is None:
            whole.tie_weights()
        else:
            whole.set_output_embeddings(head)
        model = whole
    model.save_pretrained(out)
    if facts.get("tokenizer_file"):
        _tokenizer(facts).save_pretrained(out)


def _tokenizer(facts: Mapping[str, Any]) -> Any:
    """The vocabulary with the roles of its special tokens."""
    fast: Any = transformers.PreTrainedTokenizerFast
    tokenizer = fast(tokenizer_file=str(facts["tokenizer_file"]))
    roles = {"mask_id": ["mask"], "pad_id": ["pad"], "start_id": ["bos", "cls"], "end_id": ["eos", "sep"]}
    for fact, names in roles.items():
        if facts.get(fact) is not None:
            for name in names:
                setattr(tokenizer, f"{name}_token", tokenizer.convert_ids_to_tokens(facts[fact]))
    tokenizer.model_max_length = facts["length"]
    return tokenizer
