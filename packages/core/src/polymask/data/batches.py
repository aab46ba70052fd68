"""Samples to a batch with padding, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from polymask.errors import UserError


def collate(samples: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Samples to a batch.

    Entries that differ in the length of their first axis (sound, text, points) are padded with zeros at
    its end, and ``"<key>_length"``, int64 ``[B]``, says how much of each is real.

    Raises:
        UserError: shapes differ otherwise, naming the entry and the shapes.
    """
    batch: dict[str, Tensor] = {}
    for key in samples[0]:
        values = [torch.as_tensor(sample[key]) for sample in samples]
        shapes = {tuple(value.shape) for value in values}
        if len(shapes) == 1:
            batch[key] = torch.stack(values)
            continue
        if len({shape[1:] for shape in shapes}) > 1 or () in shapes:
            raise UserError(
                f"samples differ in the shape of {key!r}: {sorted(shapes)}; only the first axis may differ "
                "in length: give the data set one size"
            )
        batch[key] = pad_sequence(values, batch_first=True)
        batch[length_key(key)] = torch.tensor([len(value) for value in values])
    return batch


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
