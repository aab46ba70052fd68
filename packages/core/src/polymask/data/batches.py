"""Samples to a batch with padding, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from polymask.errors import UserError


def collate(samples: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Samples to a batch.

    Entries that differ in the length of their first axis (sound, text, points) are padded with zeros at
    its end, and ``"<key>_length"``, int64 ``[B]``, says how much of each is real.

    Raises:
        UserError: see :func:`alike`.
    """
    batch: dict[str, Tensor] = {}
    rows = alike(samples)
    for key in rows[0]:
        values = [row[key] for row in rows]
        if len({value.shape for value in values}) == 1:
            batch[key] = torch.stack(values)
            continue
        batch[key] = pad_sequence(values, batch_first=True)
        batch[length_key(key)] = torch.tensor([len(value) for value in values])
    return batch


def alike(samples: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Samples as tensors by name, which differ in the length of their first axis and in nothing else.

    Raises:
        UserError: one is something else than the first, naming it by its ``"id"`` or its place.
    """
    rows = list[dict[str, Tensor]]()
    kinds: dict[str, tuple[Any, ...]] | None = None
    for place, sample in enumerate(samples):
        if not isinstance(sample, Mapping):
            raise UserError(f"sample {place} is {type(sample).__name__}, not a dict of tensors by name")
        rows.append(_tensors(sample, place))
        kinds = kinds or _kinds(rows[0])
        if _kinds(rows[-1]) != kinds:
            this, first = _name(sample, place), _name(samples[0], 0)
            raise UserError(
                f"{this} is {shown(rows[-1])}, and {first} is {shown(rows[0])}; bring all samples to the "
                "same entries, dtypes and size: only the first axis may differ in length"
            )
    return rows


def shown(sample: Mapping[str, Tensor]) -> str:
    """What a sample is, for messages: ``image float32 [3, 32, 32]``."""
    entries = [
        f"{name} {str(x.dtype).removeprefix('torch.')} {list(x.shape)}"
        for name, x in sample.items()
        if name != "id"
    ]
    return ", ".join(entries) or "empty"


def _name(sample: Mapping[str, Tensor], place: int) -> str:
    return f"sample {int(sample.get('id', place))}"


def _tensors(sample: Mapping[str, Any], place: int) -> dict[str, Tensor]:
    found = dict[str, Tensor]()
    for key, value in sample.items():
        try:
            found[key] = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            kind = type(value).__name__
            raise UserError(f"{_name(sample, place)} has {kind} as {key!r}; give a tensor") from error
    return found


def _kinds(sample: Mapping[str, Tensor]) -> dict[str, tuple[Any, ...]]:
    return {key: (x.dtype, x.dim(), x.shape[1:]) for key, x in sample.items()}


def length_key(key: str) -> str:
    """Name of the entry of a batch that tells how much of each row of entry ``key`` is real."""
    return f"{key}_length"


def valid_of(batch: Mapping[str, Tensor], key: str) -> Tensor | None:
    """False on the padding of an entry ``[B, N, ...]``: bool ``[B, N]``, or None where none is padded."""
    length = batch.get(length_key(key))
    if length is None:
        return None
    return torch.arange(batch[key].shape[1], device=length.device) < length[:, None]


def padding(batch: Mapping[str, Tensor]) -> Tensor:
    """Share of a batch that is padding, among entries of which any is: float32, 0 where none is."""
    lengths = {key: batch[length_key(key)] for key in batch if length_key(key) in batch}
    total = sum(batch[key].shape[0] * batch[key].shape[1] for key in lengths)
    if not total:
        return torch.zeros((), device=next(iter(batch.values())).device)
    return 1 - torch.stack([length.sum() for length in lengths.values()]).sum() / total


def sample_of(batch: Mapping[str, Tensor], row: int) -> dict[str, Tensor]:
    """One sample of a batch, without its padding."""
    sample = {key: value[row] for key, value in batch.items()}
    for key in batch:
        if length_key(key) in sample:
            sample[key] = sample[key][: int(sample.pop(length_key(key)))]
    return sample
