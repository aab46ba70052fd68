"""The training samples nearest to some held-out ones, by the features of an encoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from polymask.data import evenly
from polymask.errors import UserError
from polymask.evaluation.features import encoder_features, extract
from polymask.report import views
from polymask.report.drawing import Pixels, in_rows
from polymask.run import Run

QUERIES, NEAREST, POOL = 6, 6, 1000
"""Samples asked about, shown for each, and to choose from."""


@dataclass(frozen=True)
class Neighbours:
    """Rows of pictures: a sample, then those nearest to it.

    Args:
        rows: of pictures.
        note: what is seen.
    """

    rows: list[list[Pixels]]
    note: str


def neighbours(run: Run, side: int) -> Neighbours | None:
    """The training samples whose features have the greatest cosine with those of some held-out ones.

    Args:
        run: whose system is in eval mode.
        side: width of a picture, about.

    Returns:
        None where there are no held-out samples.
    """
    train = run.data.split("train")
    try:
        held_out = run.data.split("test")
    except UserError:
        return None
    pool, asked = evenly(len(train), POOL), evenly(len(held_out), QUERIES)
    read = {"x": encoder_features(run.system)}
    ours, others = (extract(read, *what)["x"] for what in ((held_out, asked), (train, pool)))
    cosine = F.normalize(ours, dim=1) @ F.normalize(others, dim=1).T  # as that of the kNN probe
    room = len(in_rows(_picture(run, held_out[asked[0]], side) * (1 + NEAREST), 1500)[0]) - 1
    best = cosine.topk(min(max(room, 1), len(pool)), dim=1).indices
    rows = [
        [drawn for one in (held_out[i], *(train[pool[k]] for k in row)) for drawn in _picture(run, one, side)]
        for i, row in zip(asked, best.tolist(), strict=True)
    ]
    note = f"a held-out sample, then the nearest of {len(pool):,} training samples, by cosine of features"
    labels = [run.data.labels(name) for name in ("test", "train")]
    if labels[0] is not None and labels[1] is not None:
        same = labels[0][asked][:, None] == labels[1][pool][best]
        note += f"; {int(same.sum())} of {same.numel()} are of its class"
    return Neighbours(rows, note)


def _picture(run: Run, sample: dict[str, Tensor], side: int) -> list[Pixels]:
    """One picture; of a clip that in its middle."""
    drawn = views.pictures_of(run.data, views.batch_of([sample], [0]), side)
    return [picture[len(picture) // 2] if picture.ndim == 4 else picture for picture in drawn]
