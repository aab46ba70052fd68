"""Features of unmasked samples, every row of a probe from one pass over the same data."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from polymask import functional
from polymask.data import Dataset, Samples, collate, sample_of
from polymask.errors import UserError
from polymask.export import Features
from polymask.protocols import Batch
from polymask.systems.base import System
from polymask.tokens import Tokens

M = TypeVar("M", bound=nn.Module)

Extractor = Callable[[Batch], Tensor]
"""Vectors ``[B, D]`` of a batch."""

TokenReader = Callable[[Batch], Tokens]
"""All tokens of a batch, encoded."""

Encoding = System | Features
"""What encodes a batch: a system, or the encoder that was exported of one."""

Known = dict[bytes, dict[str, Tensor]]
"""Vectors ``[D]`` by name of extractor, of every sample seen, by a digest of what the sample holds."""


def encoder_features(system: Encoding, pool: str = "mean") -> Extractor:
    """What a system's encoder makes of the unmasked input, pooled to one vector per sample.

    Args:
        system: the system; use within :func:`evaluating`.
        pool: ``"mean"`` over tokens or ``"prefix"``, the class token.
    """
    return pooled(encoder_tokens(system), pool)


def layer_features(system: Encoding, pool: str = "mean") -> dict[str, Extractor]:
    """The same of each block of the encoder, by name; their order is that of the blocks.

    Raises:
        UserError: the encoder does not let its blocks be read.
    """
    return {f"block {k}": pooled(read, pool) for k, read in enumerate(layer_tokens(system), start=1)}


def encoder_tokens(system: Encoding) -> TokenReader:
    """What a system's encoder makes of every token of the unmasked input."""
    return lambda batch: system.encode(on_device(batch, system))


def layer_tokens(system: Encoding) -> list[TokenReader]:
    """The same of each block of the encoder, in their order; all come of one pass over a batch.

    Raises:
        UserError: the encoder does not let its blocks be read.
    """
    encoder, tokenizer = getattr(system, "backbone", None), getattr(system, "tokenizer", None)
    if encoder is None or tokenizer is None:
        raise UserError(
            f"the blocks of {type(system).__name__} cannot be read: it has no encoder and tokenizer"
        )
    last: tuple[Any, ...] = (None,)

    def read(batch: Batch, layer: int) -> Tokens:
        nonlocal last
        if last[0] is not batch:
            tokens = tokenizer(on_device(batch, system))
            last = batch, tokens, functional.layers(encoder, tokens)
        _, tokens, outputs = last
        return functional.as_tokens(encoder, outputs[layer], tokens)

    return [partial(read, layer=k) for k in range(functional.depth(encoder))]


def pooled(read: TokenReader, pool: str) -> Extractor:
    """One vector per sample of what is read, see :meth:`polymask.tokens.Tokens.pool`."""

    def extract(batch: Batch) -> Tensor:
        try:
            return read(batch).pool(pool)
        except ValueError as error:
            raise UserError(f"features with pool={pool!r}: {error}") from error

    return extract


def on_device(batch: Batch, module: nn.Module) -> Batch:
    """A batch where a module is."""
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    return {key: value.to(device, non_blocking=True) for key, value in batch.items()}


def raw_of(data: Dataset) -> Extractor | None:
    """The raw input of a data set as vectors, without an encoder.

    That is the data set's own ``descriptor(batch) -> [B, D]`` where it has one (a mean spectrum, counts of
    words), the input itself otherwise; None where that differs in length from sample to sample.
    """
    descriptor: Extractor | None = getattr(data, "descriptor", None)
    return descriptor or (None if hasattr(data, "lengths") else raw_features(data.key))


def raw_features(key: str, most: int = 4096) -> Extractor:
    """The input itself as a vector; averaged over neighbours until it has at most ``most`` numbers.

    Args:
        key: entry of the batch, ``[B, C, *axes]`` or ``[B, T]``.
        most: largest length of the vector.
    """

    def extract(batch: Batch) -> Tensor:
        x = batch[key].float()
        if x[0].numel() > most:
            x = x[:, None] if x.dim() == 2 else x
            shrink = (most / x[0].numel()) ** (1 / (x.dim() - 2))
            size = [max(1, math.floor(n * shrink)) for n in x.shape[2:]]
            pools: dict[int, Any] = {
                1: F.adaptive_avg_pool1d,
                2: F.adaptive_avg_pool2d,
                3: F.adaptive_avg_pool3d,
            }
            x = pools[len(size)](x, size)
        return x.flatten(1)

    return extract


@contextmanager
def evaluating(system: M, device: torch.device | None = None) -> Iterator[M]:
    """The system in eval mode, on the best device, without gradient; as it was afterwards."""
    modes = {module: module.training for module in system.modules()}
    home = next((p.device for p in system.parameters()), torch.device("cpu"))
    system.eval().to(device or torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        with torch.no_grad():
            yield system
    finally:
        system.to(home)
        for module, training in modes.items():
            module.training = training


def extract(
    extractors: Mapping[str, Extractor],
    samples: Samples,
    index: Sequence[int] | None = None,
    *,
    batch_size: int = 256,
    workers: int = 0,
    known: Known | None = None,
) -> dict[str, Tensor]:
    """Run every extractor over the same samples, each sample read once.

    Args:
        extractors: functions by name.
        samples: a split of a data set, without augmentation.
        index: which samples, in this order; all by default.
        batch_size: samples per batch; it does not change the result beyond rounding.
        workers: processes that read samples.
        known: what the same extractors made of other samples; what is in it already is not made again,
            what is not is added.

    Returns:
        float32 ``[n, D]`` on the CPU, by name.

    Raises:
        UserError: a feature is not finite.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in extractors}
    for batch in batches(samples, index, batch_size=batch_size, workers=workers):
        made = _made(extractors, batch) if known is None else _made_once(extractors, batch, known)
        for name, value in made.items():
            require_finite(name, value)
            found[name].append(value)
    return {name: torch.cat(parts) for name, parts in found.items()}


def batches(
    samples: Samples,
    index: Sequence[int] | None = None,
    *,
    batch_size: int = 256,
    workers: int = 0,
    drop_last: bool = False,
) -> DataLoader[dict[str, Tensor]]:
    """Batches of the samples at some places, in order; the places are under ``"id"``."""
    return DataLoader(
        Picked(samples, range(len(samples)) if index is None else index),
        batch_size=batch_size,
        num_workers=workers,
        drop_last=drop_last,
        collate_fn=collate,
        # of its own: a loader otherwise draws its workers' seed from the global one
        generator=torch.Generator().manual_seed(0),
    )


def require_finite(name: str, features: Tensor) -> None:
    """Features ``[n, D]`` without NaN and infinity.

    Raises:
        UserError: there is one.
    """
    bad = ~features.isfinite().all(1)
    if bad.any():
        raise UserError(
            f"features of {name!r} are not finite in {int(bad.sum())} of {len(bad)} samples: the run has "
            "diverged; lower the learning rate or resume from before"
        )


class Picked(TorchDataset[dict[str, Tensor]]):
    """Some samples of a split, each with its place in it as ``"id"``."""

    def __init__(self, samples: Samples, index: Sequence[int]) -> None:
        self.samples, self.index = samples, index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {**self.samples[self.index[i]], "id": torch.tensor(self.index[i])}


def _made(extractors: Mapping[str, Extractor], batch: Batch) -> dict[str, Tensor]:
    return {name: function(batch).float().cpu() for name, function in extractors.items()}


def _made_once(extractors: Mapping[str, Extractor], batch: Batch, known: Known) -> dict[str, Tensor]:
    """The same, of samples that are not known already."""
    digests = [_digest(sample_of(batch, row)) for row in range(len(batch["id"]))]
    fresh = [row for row, digest in enumerate(digests) if digest not in known]
    if fresh:
        made = _made(extractors, {key: value[fresh] for key, value in batch.items()})
        for at, row in enumerate(fresh):
            known[digests[row]] = {name: value[at] for name, value in made.items()}
    return {name: torch.stack([known[digest][name] for digest in digests]) for name in extractors}


def _digest(sample: Mapping[str, Tensor]) -> bytes:
    """Of what a sample holds, wherever in a split it lies."""
    digest = hashlib.blake2b(digest_size=16)
    for key in sorted(sample.keys() - {"id"}):
        value = sample[key]
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()
