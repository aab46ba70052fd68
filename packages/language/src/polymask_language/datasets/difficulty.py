"""What is known of how hard each training sample is, before any training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polymask import UserError
from polymask.data.cache import cache_folder, whole_or_not
from polymask_language.datasets.sequences import Sequences
from polymask_language.vocabulary import hash_of
from polymask_language.words import load_statistics


def difficulty_file(
    samples: Sequences, statistics: Path, label: Tensor | None, classes: Sequence[str] | None
) -> Path:
    """File of the difficulty of each sample, see :func:`unigram_perplexity`.

    It holds ``unigram`` float64, ``length`` and ``label`` int64 ``[samples]``, and ``classes``, names, none
    where nobody knows what the samples are of.

    Args:
        samples: of the training split.
        statistics: file of the counts of its tokens.
        label: int64 ``[samples]``, the class of each.
        classes: their names.
    """
    known = label is not None and classes is not None
    label = label if label is not None and known else torch.zeros(len(samples), dtype=torch.int64)
    names = [str(name) for name in classes or ()] if known else []
    pieces = (samples.starts, samples.stops, samples.spans, label)
    name = hash_of([str(statistics.parent.name), *(str(x.tolist()) for x in pieces), *names])
    folder = cache_folder("difficulty") / name
    if not folder.is_dir():
        counts = torch.from_numpy(load_statistics(statistics)["counts"])
        with whole_or_not(folder) as part:
            np.savez_compressed(
                part / "difficulty.npz",
                unigram=unigram_perplexity(samples, counts).numpy(),
                length=samples.lengths.numpy(),
                label=label.numpy(),
                classes=np.array(names, dtype=str),
            )
    return folder / "difficulty.npz"


def unigram_perplexity(samples: Sequences, counts: Tensor) -> Tensor:
    """Perplexity of each sample under the shares of its tokens in the corpus, special tokens left out.

    Args:
        samples: of a corpus that the counts are of, so that no token has a share of 0.
        counts: int64 ``[vocabulary]``.

    Returns:
        float64 ``[samples]``.
    """
    nats = -(counts.double() / counts.sum()).log()
    ids = torch.from_numpy(samples.encoded.array("ids").astype(np.int64))
    # ids of held-out documents may have a share of 0; no sample has them
    each = torch.where(counts[ids] > 0, nats[ids], 0.0)
    until = torch.cat([each.new_zeros(1), each.cumsum(0)])
    size = samples.stops - samples.starts
    by_piece = torch.stack([until[samples.stops] - until[samples.starts], size.double()])
    along = torch.cat([by_piece.new_zeros(2, 1), by_piece.cumsum(1)], dim=1)
    total, tokens = along[:, samples.spans].diff(dim=2)[..., 0]
    return torch.exp(total / tokens.clamp(min=1))


def load_difficulty(file: str | Path) -> dict[str, np.ndarray[Any, Any]]:
    """What :func:`difficulty_file` wrote.

    Raises:
        UserError: there is no such file.
    """
    try:
        with np.load(file, allow_pickle=False) as found:
            return dict(found)
    except (OSError, ValueError) as error:
        raise UserError(f"nothing about the difficulty of samples in {file}: {error}") from error
