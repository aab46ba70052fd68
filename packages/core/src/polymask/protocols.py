"""What each kind of part must do. Protocols, so that parts need no base class of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from polymask.mask import Mask
from polymask.step import Step
from polymask.tokens import Tokens

Batch: TypeAlias = dict[str, Tensor]
"""Tensors by view or modality; ``"id"`` is int64 ``[B]``, the index of each sample in its data set."""

Losses: TypeAlias = dict[str, Tensor]
"""Weighted losses by name, float32 scalars."""


def sample_ids(batch: Mapping[str, Tensor]) -> Tensor:
    """``batch["id"]``, or 0..B-1 where a loop of one's own gives none."""
    if "id" in batch:
        return batch["id"]
    first = next(iter(batch.values()))
    return torch.arange(len(first), device=first.device)


@dataclass(frozen=True, eq=False)
class Request:
    """What a masking is asked for.

    Args:
        ids: int64 ``[B]`` sample ids; masks are drawn on their device.
        sites: number of sites per sample.
        step: the only source of time and chance.
        grid: lengths of the axes when the sites fill a grid in row-major order.
        valid: bool ``[B, sites]``, False on padding, which must stay visible and uncounted.
        score: float ``[B, sites]``, evidence a system computed: the higher, the sooner hidden.
        position: ``[B, sites, P]`` where sites lie, for clouds and other sets without a grid.
        stream: tells apart several draws of one step.
    """

    ids: Tensor
    sites: int
    step: Step
    grid: tuple[int, ...] | None = None
    valid: Tensor | None = None
    score: Tensor | None = None
    position: Tensor | None = None
    stream: int = 0

    @property
    def real(self) -> Tensor:
        """Which sites are no padding, bool ``[B, sites]``."""
        if self.valid is not None:
            return self.valid
        return torch.ones(len(self.ids), self.sites, dtype=torch.bool, device=self.ids.device)

    @classmethod
    def of(
        cls,
        tokens: Tokens,
        batch: Mapping[str, Tensor],
        step: Step,
        score: Tensor | None = None,
        stream: int = 0,
    ) -> Request:
        """A request for one mask over the tokens of a batch."""
        return cls(
            ids=sample_ids(batch),
            sites=tokens.shape[1],
            step=step,
            grid=tokens.grid,
            valid=tokens.valid,
            score=score,
            position=tokens.position,
            stream=stream,
        )


@dataclass(frozen=True, eq=False)
class Attended:
    """What attention did in one block, part of the graph of what came of it.

    Args:
        query: ``[B, K, D]``, all heads side by side.
        key: the same.
        value: the same.
        mixed: ``[B, K, D]``, values summed by attention, before they are projected.
        weights: ``[B, H, K, K]``, how much of each key a query takes; rows sum to 1.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mixed: Tensor
    weights: Tensor


@runtime_checkable
class Masking(Protocol):
    """Draws a mask. Every draw comes from ``request.step``; global generators stay untouched."""

    def __call__(self, request: Request) -> Mask: ...


@runtime_checkable
class Tokenizer(Protocol):
    """Cuts one entry of a batch into tokens of raw content.

    It embeds nothing, so that hidden tokens cost nothing: the encoder's ``embed`` does that to
    those it is given. ``provides`` holds what later parts may take as constructor arguments,
    by name: at least ``in_dim`` (width of ``Tokens.values``), and ``grid`` where there is one.
    A tokenizer that can be undone has ``inverse(values [B, N, C]) -> [B, ...]``. One that cannot, but
    whose tokens can be seen, may have ``show(tokens, mask, predicted=None) -> Sequence[Media]``: a display
    of each sample, of what is visible, what is hidden, and values ``[B, N, C]`` predicted where it is.
    An entry that is padded has its lengths beside it (:func:`polymask.data.valid_of`).
    ``example`` makes random input of the right shape, with rows of several lengths where lengths
    may differ, so that whatever is built on this tokenizer can be tried without data.
    """

    key: str

    @property
    def provides(self) -> dict[str, Any]: ...

    def __call__(self, batch: Mapping[str, Tensor]) -> Tokens: ...

    def example(self, n: int, seed: int = 0) -> Batch:
        """``n`` random samples, the same for the same seed, global generators untouched."""


class Encoder(Protocol):
    """Encodes the tokens it is given. It draws no mask and sees none.

    Attributes:
        dim: width of embedded tokens and of the output of a plain encoder.
        out_dim: width of the output (differs from ``dim`` in hierarchical encoders).
        prefix: how many tokens of no place (class, registers) lead the output.
        downsample: input tokens per output token along each axis of the grid; 1 in a plain one.
        needs_grid: True when only the whole grid can be encoded (windows, convolutions): a
            system may substitute hidden tokens then, but not leave them out.

    An encoder that other libraries know may have ``exports()`` (:mod:`polymask.export`), ``imports()`` and
    ``adapt(weights, facts)`` (:mod:`polymask.imports`).

    An encoder that is one stack of Transformer blocks may let a system run them itself, to change attention
    from block to block. It has ``begin(x, position, valid) -> (x, bias)``, the input of the first block
    ``[B, prefix + K, dim]`` and what attention adds: bool (False where attention must not go), float or None,
    broadcasting to ``[B, heads, prefix + K, prefix + K]``; ``blocks``, each called as
    ``block(x, attn_mask=bias)``; and ``norm`` for the output of the last. A system that needs them refuses
    encoders without. :func:`polymask.functional.layers` reads the output of every block of such an encoder,
    and of one that has ``layers(x, position, valid)``, a list of them, and their number, ``depth``, itself.

    An encoder may have ``blocks``, its modules in order of depth, without those methods too: learning rates
    may then differ from block to block (:class:`polymask.systems.supervised.Supervised`).

    An encoder that downsamples and reads nothing that is not ``valid`` has ``see(x, position, valid) ->
    (features, valid)``, the same with what of them is real, bool ``[B, K']`` or None.

    An encoder of Transformer blocks may have ``feed_forwards``, the feed-forward layer of each block, in
    order: modules that return ``[B, prefix + K, out_dim]``, what is added to a shortcut. A system that
    predicts what they return refuses encoders without.

    An encoder of Transformer blocks may have ``attending(x, position, valid, last) -> (features,
    [Attended])``: its output, and what attention did in so many of its last blocks, as it ran. A system that
    goes by that refuses encoders without.
    """

    dim: int
    out_dim: int
    prefix: int
    downsample: int
    needs_grid: bool

    def embed(self, values: Tensor) -> Tensor:
        """``[B, K, in_dim] -> [B, K, dim]``, each token on its own, without position."""

    def __call__(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        """``[B, K, dim]`` and ``[B, K, P] -> [B, prefix + K', out_dim]``."""


class Target(Protocol):
    """What is to be predicted at each token: a function of the unmasked input, no gradient.

    ``dim`` is the width of the answer. A target that a prediction can be turned back from has
    ``invert(prediction, tokens) -> (values [B, N, C], note)``; the note names the statistics used. One of
    entries that no tokenizer reads has ``example(n, seed=0) -> Batch``, random samples of them.
    """

    dim: int

    def __call__(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """``[B, N, dim]``."""


class Objective(Protocol):
    """Scores a prediction with one number, in float32.

    An objective that scores each site by itself may have ``sites(prediction, target) -> [B, N]``,
    float32: the loss of each, of which the call is the mean over the mask. Systems that learn from
    where the loss is need it.
    """

    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        """``[B, N, D]`` each; with a mask only hidden sites count, without one all that are given."""


class Media(Protocol):
    """Audio, text or a point cloud that displays itself as HTML in notebooks and reports; it escapes text.

    One that can be saved has ``file() -> (suffix, bytes)``: ``(".wav", ...)``.
    """

    def _repr_html_(self) -> str: ...
