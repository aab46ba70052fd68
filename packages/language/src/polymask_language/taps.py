"""What happens inside a language model, recorded as it runs.

Kinds of activations, each one tensor ``[B, N, D]`` to a block: ``block``, what leaves it; ``query``, ``key``
and ``value`` before attention (and before rotation); ``attention``, what attention adds; ``mlp``, what the
feed-forward layer makes behind its nonlinearity, gated where it has a gate; ``mixed``, values summed by
attention, before they are projected. Of models that turn queries and keys by place (Llama, ModernBERT) these
do not tell where attention goes, so ``mixed`` is not read there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from polymask import UserError

Taps = dict[str, list[Tensor]]
"""Activations by kind, one for each block, in order."""

KINDS = ("block", "query", "key", "value", "attention", "mlp")
"""Those that all models give."""

# where in a block: name of the module, its input or its output, and which third of it
_PLACES: dict[str, tuple[str, dict[str, tuple[str, str, int | None]]]] = {
    "llama": (
        "layers",
        {
            "block": ("", "out", None),
            "query": ("self_attn.q_proj", "out", None),
            "key": ("self_attn.k_proj", "out", None),
            "value": ("self_attn.v_proj", "out", None),
            "attention": ("self_attn.o_proj", "out", None),
            "mlp": ("mlp.down_proj", "in", None),
        },
    ),
    "gpt2": (
        "h",
        {
            "block": ("", "out", None),
            "query": ("attn.c_attn", "out", 0),
            "key": ("attn.c_attn", "out", 1),
            "value": ("attn.c_attn", "out", 2),
            "attention": ("attn.c_proj", "out", None),
            "mlp": ("mlp.c_proj", "in", None),
            "mixed": ("attn.c_proj", "in", None),
        },
    ),
    **dict.fromkeys(
        ("bert", "roberta"),
        (
            "encoder.layer",
            {
                "block": ("", "out", None),
                "query": ("attention.self.query", "out", None),
                "key": ("attention.self.key", "out", None),
                "value": ("attention.self.value", "out", None),
                "attention": ("attention.output.dense", "out", None),
                "mlp": ("output.dense", "in", None),
                "mixed": ("attention.output.dense", "in", None),
            },
        ),
    ),
}


@contextmanager
def recording(model: Any, kinds: Sequence[str]) -> Iterator[Taps]:
    """Record activations of whatever a model of transformers computes inside this block.

    Args:
        model: a BERT, a RoBERTa, a GPT-2 or a Llama, without its head.
        kinds: of :data:`KINDS`, or ``mixed``; none costs nothing.

    Raises:
        UserError: nobody knows where these are in such a model.
    """
    taps: Taps = {kind: [] for kind in kinds}
    architecture = model.config.model_type
    known = [name for name, (_, places) in _PLACES.items() if places.keys() >= set(kinds)]
    if kinds and architecture not in known:
        asked = f"{', '.join(kinds)} of attention" if "mixed" in kinds else "activations"
        raise UserError(f"{asked} are read from {' or '.join(known)}, not from a {architecture}")
    with ExitStack() as hooks:
        for kind in kinds:
            blocks, places = _PLACES[architecture]
            name, end, third = places[kind]
            for block in model.get_submodule(blocks):
                hook = _keep(taps[kind], end, third)
                hooks.callback(block.get_submodule(name).register_forward_hook(hook).remove)
        yield taps


def _keep(into: list[Tensor], end: str, third: int | None) -> Callable[[nn.Module, Any, Any], None]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        x = inputs[0] if end == "in" else output[0] if isinstance(output, tuple) else output
        into.append(x if third is None else x.chunk(3, dim=-1)[third])

    return hook
