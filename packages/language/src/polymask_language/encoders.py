"""transformers' models of text, run on the tokens they are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from polymask import UserError
from polymask.export import Exporter
from polymask.imports import Weights
from polymask.protocols import Attended
from polymask.types import Count, Fact, Place, Positive, Whole
from polymask_language import configurations, export
from polymask_language.attention import ATTENDED, attended, attention, place_of
from polymask_language.configurations import BIDIRECTIONAL, CAUSAL, FROM_PADDING
from polymask_language.taps import recording
from polymask_language.tokenizers import documents


class Adapter(nn.Module):
    """A model of transformers behind the contract of encoders.

    Place comes from ``position`` alone, so any subset of tokens in any order can be encoded; attention
    stays within a document where several are packed, and never goes to padding.

    Args:
        model: without a head and without a pooler.
        vocabulary: how many ids the data has.
        length: most tokens of a sequence.
    """

    prefix, downsample, needs_grid = 0, 1, False
    causal: ClassVar[bool]

    def __init__(self, model: Any, vocabulary: int, length: int) -> None:
        super().__init__()
        config = model.config
        # RoBERTa counts places from behind the id of padding
        self.first_place = config.pad_token_id + 1 if config.model_type in FROM_PADDING else 0
        room = config.max_position_embeddings - self.first_place
        if length > room:
            raise UserError(
                f"sequences have up to {length} tokens and this model has places for {room}: choose a "
                "shorter --data.length"
            )
        if vocabulary > config.vocab_size:  # tokens were added, such as one to mask with
            model.resize_token_embeddings(vocabulary)
        self.model = model
        self.dim = self.out_dim = config.hidden_size

    @property
    def weight(self) -> Tensor:
        """The embedding matrix ``[vocabulary, dim]``, for heads that are tied to it."""
        weight: Tensor = self.model.get_input_embeddings().weight
        return weight

    @property
    def depth(self) -> int:
        """Blocks."""
        return int(self.model.config.num_hidden_layers)

    @property
    def blocks(self) -> Any:
        """Blocks of transformers, in order."""
        model = getattr(self.model, "encoder", self.model)
        return next(getattr(model, name) for name in ("layer", "h", "layers") if hasattr(model, name))

    @property
    def feed_forwards(self) -> list[nn.Module]:
        """The feed-forward layer of each block; of BERT and RoBERTa its last part, before dropout."""
        return [b.output.dense if hasattr(b, "output") else b.mlp for b in self.blocks]

    @property
    def provides(self) -> dict[str, Any]:
        """``width`` and ``layers``, for parts that read its states."""
        return {"width": self.dim, "layers": self.depth}

    def embed(self, values: Tensor) -> Tensor:
        """Ids ``[B, K, 1] -> [B, K, dim]``."""
        # hidden tokens and padding may hold anything, also what is no id
        ids = values[..., 0].clamp(0, len(self.weight) - 1)
        embedded: Tensor = self.model.get_input_embeddings()(ids)
        return embedded

    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        """``[B, K, dim]`` at ``[B, K, 1]``, or at ``[B, K, 2]`` with documents, to ``[B, K, dim]``."""
        out: Tensor = self._run(x, position, valid).last_hidden_state
        return out

    def layers(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> list[Tensor]:
        """The output of every block, ``[B, K, dim]``; the last, normed, is that of ``forward``."""
        return list(self._run(x, position, valid, output_hidden_states=True).hidden_states[1:])

    def attending(
        self, x: Tensor, position: Tensor, valid: Tensor | None = None, last: int = 1
    ) -> tuple[Tensor, list[Attended]]:
        """The output, and what attention did in the last blocks, see :class:`polymask.protocols.Encoder`."""
        reach = attention(place_of(position), documents(position), valid, self.causal)
        with recording(self.model, ATTENDED) as taps:
            out = self.forward(x, position, valid)
        return out, attended(taps, reach, int(self.model.config.num_attention_heads), last)

    def adapt(self, weights: Weights, facts: Mapping[str, Any]) -> Weights:
        """Weights of a run or an export, whose ids must name the same tokens as those of the data."""
        configurations.require_same_vocabulary(weights.facts, facts)
        return weights

    def exports(self) -> Mapping[str, Exporter]:
        """Formats of other libraries, see :mod:`polymask.export`."""
        return {"transformers": lambda facts, out: export.to_transformers(self, facts, out)}

    def _run(self, x: Tensor, position: Tensor, valid: Tensor | None, **options: Any) -> Any:
        place = place_of(position)
        reach = attention(place, documents(position), valid, self.causal)
        window = getattr(self.model.config, "local_attention", None)
        if window is not None:
            near = (place[:, None, :, None] - place[:, None, None, :]).abs() <= window // 2
            reach = {"full_attention": reach, "sliding_attention": reach & near}  # type: ignore[assignment]
        if self.causal:
            options["use_cache"] = False
        return self.model(
            inputs_embeds=x, attention_mask=reach, position_ids=place + self.first_place, **options
        )


class Transformer(Adapter):
    """BERT, RoBERTa or ModernBERT: every token sees every other.

    Built from a configuration, or loaded with its weights. Of BERT and RoBERTa the pooler is left out.
    ``roberta-prelayernorm`` norms before its layers, and once at the end.

    Args:
        vocabulary: how many ids there are, from the tokenizer.
        length: most tokens of a sequence, from the tokenizer.
        pad_id: id of padding, from the tokenizer.
        start_id: id that begins a document, from the data; told to those who load an export.
        end_id: id that ends one, the same.
        tokenizer_file: the vocabulary of the data, which a loaded model must share.
        architecture: which model to build.
        dim: width.
        depth: blocks.
        heads: attention heads per block.
        mlp_ratio: width of the feed-forward layers over ``dim``; as published if none (4, or 1.5 gated).
        dropout: of attention, of both parts of a block, and behind the embedding.
        init_std: deviation that weights are drawn with; the architecture's own if none, 0.02, which is made
            for widths near 1,000.
        pretrained: name on the Hugging Face hub or path of a model to load; sizes are then its own.
    """

    causal = False

    def __init__(
        self,
        *,
        vocabulary: Fact[Count] = 8192,
        length: Fact[Count] = 128,
        pad_id: Fact[Whole] = 0,
        start_id: Fact[int | None] = None,
        end_id: Fact[int | None] = None,
        tokenizer_file: Fact[str | None] = None,
        architecture: Literal["bert", "roberta", "roberta-prelayernorm", "modernbert"] = "bert",
        dim: Count = 768,
        depth: Whole = 12,
        heads: Count = 12,
        mlp_ratio: Positive | None = None,
        dropout: float = 0.1,
        init_std: float | None = None,
        pretrained: Place = None,
    ) -> None:
        if pretrained is None:
            model = configurations.build(
                architecture,
                BIDIRECTIONAL,
                dim=dim,
                depth=depth,
                heads=heads,
                mlp_ratio=mlp_ratio,
                dropout=dropout,
                init_std=init_std,
                length=length,
                pad_id=pad_id,
                vocab_size=vocabulary,
                bos_token_id=start_id,
                eos_token_id=end_id,
            )
        else:
            model = configurations.load(pretrained, transformers.AutoModel, tokenizer_file)
            if model.config.model_type not in (*BIDIRECTIONAL, *FROM_PADDING):
                raise UserError(
                    f"{pretrained} is a {model.config.model_type}, and this encoder runs "
                    f"{', '.join(BIDIRECTIONAL)}: load decoders with --encoder language/causal"
                )
        if hasattr(model, "pooler"):
            model.pooler = None
        super().__init__(model, vocabulary, length)


class Causal(Adapter):
    """GPT-2 or Llama: every token sees those before it.

    :meth:`logits` is the head, tied to the embedding unless asked otherwise, so that what is exported is a
    whole language model.

    Args:
        vocabulary: how many ids there are, from the tokenizer.
        length: most tokens of a sequence, from the tokenizer.
        pad_id: id of padding, from the tokenizer.
        start_id: id that begins a document, from the data; told to those who load an export.
        end_id: id that ends one, the same.
        tokenizer_file: the vocabulary of the data, which a loaded model must share.
        architecture: which model to build.
        dim: width.
        depth: blocks.
        heads: attention heads per block.
        kv_heads: heads of keys and values, each of which several of queries share (Llama); all if none.
        mlp_ratio: width of the feed-forward layers over ``dim``; 4 (GPT-2) or 2.75 (Llama, gated) if none.
        dropout: of attention, and in GPT-2 also of both parts of a block and behind the embedding.
        init_std: deviation that weights are drawn with; the architecture's own if none.
        tied: the head's weights are those of the embedding.
        pretrained: name on the Hugging Face hub or path of a model to load; sizes, and whether it is tied,
            are then its own.
    """

    causal = True
    lm_head: nn.Linear | None

    def __init__(
        self,
        *,
        vocabulary: Fact[Count] = 8192,
        length: Fact[Count] = 128,
        pad_id: Fact[Whole] = 0,
        start_id: Fact[int | None] = None,
        end_id: Fact[int | None] = None,
        tokenizer_file: Fact[str | None] = None,
        architecture: Literal["gpt2", "llama"] = "gpt2",
        dim: Count = 768,
        depth: Whole = 12,
        heads: Count = 12,
        kv_heads: int | None = None,
        mlp_ratio: Positive | None = None,
        dropout: float = 0.1,
        init_std: float | None = None,
        tied: bool = True,
        pretrained: Place = None,
    ) -> None:
        head = None
        if pretrained is None:
            if kv_heads is not None and (architecture != "llama" or heads % kv_heads):
                raise UserError(f"kv_heads={kv_heads}: for architecture llama alone, a divisor of {heads}")
            shared = {} if kv_heads is None else {"num_key_value_heads": kv_heads}
            model = configurations.build(
                architecture,
                CAUSAL,
                dim=dim,
                depth=depth,
                heads=heads,
                mlp_ratio=mlp_ratio,
                dropout=dropout,
                init_std=init_std,
                length=length,
                pad_id=pad_id,
                vocab_size=vocabulary,
                bos_token_id=start_id,
                eos_token_id=end_id,
                tie_word_embeddings=tied,
                **shared,
            )
        else:
            whole = configurations.load(pretrained, transformers.AutoModelForCausalLM, tokenizer_file)
            if whole.config.model_type not in CAUSAL:
                raise UserError(
                    f"{pretrained} is a {whole.config.model_type}, and this encoder runs {', '.join(CAUSAL)}"
                )
            if vocabulary > whole.config.vocab_size:  # while the head is there to grow too
                whole.resize_token_embeddings(vocabulary)
            model, tied = whole.base_model, whole.config.tie_word_embeddings
            head = None if tied else whole.get_output_embeddings()
        super().__init__(model, vocabulary, length)
        if head is None and not tied:
            head = nn.Linear(self.dim, len(self.weight), bias=False)
            nn.init.normal_(head.weight, std=0.02)
        self.lm_head = head

    def logits(self, states: Tensor) -> Tensor:
        """What comes next after each token: ``[..., dim] -> [..., vocabulary]``."""
        return F.linear(states, self.weight if self.lm_head is None else self.lm_head.weight)
