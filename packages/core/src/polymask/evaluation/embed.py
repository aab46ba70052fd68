"""Features of every sample, written to a file batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from polymask.config import CONFIG
from polymask.data import Dataset, Named, Samples, SplitName, as_dataset
from polymask.data.reading import exhausted
from polymask.errors import UserError
from polymask.evaluation.features import (
    Encoding,
    TokenReader,
    batches,
    encoder_tokens,
    evaluating,
    layer_tokens,
    pooled,
    require_finite,
)
from polymask.evaluation.tables import WIDE, table, writer
from polymask.export import Features, load
from polymask.files import require_writable
from polymask.imports import DESCRIPTION, weights_digest
from polymask.protocols import Batch
from polymask.run import Run
from polymask.tokens import Tokens
from polymask.training.digest import digest

Pool = Literal["mean", "prefix", "tokens"]


def embed(
    source: Run | Features | str | Path,
    out: str | Path,
    *,
    data: Dataset | None = None,
    split: Literal["train", "test", "all"] = "all",
    pool: Pool = "mean",
    layer: int | None = None,
    batch_size: int = 256,
    workers: int = 0,
    progress: bool = False,
) -> int:
    """Write the features of unmasked samples, as the probes see them, to a file.

    A row is a sample: its place in the split, ``id``, the ``split``, its ``name`` where it is a file, its
    ``label`` and ``class`` where there are any, and its ``embedding``. With ``pool="tokens"`` a row is a
    token, and ``token`` its place in the sample; padding has no row. Nor has a sample that cannot be read,
    for which another stands in where it is trained on. Parquet has one column of each; ``.npz`` one array of
    each; ``.safetensors`` one tensor of each number, and text as JSON under ``"text"`` of its
    metadata. What a process that was killed had computed is kept beside the file, in ``.<name>.unfinished``,
    and the same call goes on from there.

    Args:
        source: a run or its folder; or an encoder exported as safetensors, or its folder.
        out: file to write, whole or not at all: ``.parquet``, ``.npz`` or ``.safetensors``.
        data: what to embed, as the encoder was trained to see it; that of the run by default.
        split: which samples.
        pool: ``"mean"`` over the tokens of a sample, ``"prefix"``, its class token, or ``"tokens"``, each.
        layer: block of the encoder, from 1; by default what the encoder gives.
        batch_size: samples per batch.
        workers: processes that read samples.
        progress: show on the terminal how far it has come.

    Returns:
        How many rows were written.

    Raises:
        UserError: a format that is none of these, no data, no such layer or token, a place that cannot be
            written or holds the beginning of something else, or features that are not finite.
    """
    out = Path(out)
    writer(out)
    if out.is_dir():
        raise UserError(f"{out} is a folder: give the name of a file to write")
    require_writable(out.parent)
    source = opened(source)
    if data is None and not isinstance(source, Run):
        raise UserError("an exported encoder has no data: give the data to embed")
    data = source.data if data is None and isinstance(source, Run) else as_dataset(data)
    assert data is not None
    names: list[SplitName] = ["train", "test"] if split == "all" else [split]
    parts = {name: samples for name in names if (samples := _samples(data, name, split == "all"))}
    encoding = source.system if isinstance(source, Run) else source
    read = _taken(_reader(encoding, layer))
    weights, found = weights_digest(encoding.state_dict()), {name: digest(data, name) for name in parts}
    same = {"weights": weights, "pool": pool, "layer": layer, "data": found}
    with table(out, same) as log, evaluating(encoding), _progress(progress, parts) as advance:
        left = log.samples
        advance(left)
        for name, samples in parts.items():
            begun = min(left, len(samples))
            left -= begun
            about, rest = _About(data, name, samples), range(begun, len(samples))
            for batch in batches(samples, rest, batch_size=batch_size, workers=workers):
                rows = _rows(read, batch, pool)
                require_finite(name, rows[WIDE])
                bad = getattr(getattr(samples, "split", None), "bad", None)
                if bad is not None:
                    rows = {column: x[~bad[rows["id"]]] for column, x in rows.items()}
                log.append({**about(rows.pop("id")), **rows}, len(batch["id"]))
                advance(len(batch["id"]))
    return log.rows


def opened(source: Run | Features | str | Path) -> Run | Features:
    """A run, or an exported encoder, of the folder that holds either."""
    if not isinstance(source, str | Path):
        return source
    folder = Path(source)
    if (folder / DESCRIPTION).is_file():
        return load(folder)
    if (folder / "config.json").is_file() and not (folder / CONFIG).is_file():
        raise UserError(
            f"{folder} is a model for another library: give the folder of a run, or of "
            "`polymask export --format safetensors`"
        )
    return Run.open(folder)


def _samples(data: Dataset, name: SplitName, may_lack: bool) -> Samples | None:
    try:
        return data.split(name)
    except UserError:
        if may_lack and name == "test":
            return None
        raise


def _reader(system: Encoding, layer: int | None) -> TokenReader:
    if layer is None:
        return encoder_tokens(system)
    layers = layer_tokens(system)
    if not 1 <= layer <= len(layers):
        raise UserError(f"layer {layer}: this encoder has blocks 1 to {len(layers)}")
    return layers[layer - 1]


def _taken(read: TokenReader) -> TokenReader:
    """The same, where data that the encoder does not take is the user's to mend."""

    def taken(batch: Batch) -> Tokens:
        try:
            return read(batch)
        except (RuntimeError, ValueError, LookupError) as error:
            if exhausted(error):
                raise
            shapes = ", ".join(f"{key} {list(value.shape)}" for key, value in batch.items() if key != "id")
            raise UserError(
                f"this encoder does not take such data ({shapes}): {error}. Prepare it as what the encoder "
                "was trained on; other data opened by polymask embed is, unless --data.* says otherwise"
            ) from error

    return taken


def _rows(read: TokenReader, batch: Batch, pool: Pool) -> dict[str, Any]:
    """``id`` and ``embedding`` of the samples of a batch, or of their tokens with ``token``."""
    if pool != "tokens":
        return {"id": batch["id"], WIDE: pooled(read, pool)(batch).float().cpu()}
    tokens = read(batch)
    sample, place = tokens.real.nonzero(as_tuple=True)
    return {
        "id": batch["id"][sample.cpu()],
        "token": place.cpu(),
        WIDE: tokens.values[sample, place].float().cpu(),
    }


class _About:
    """What is known of the samples of a split, by column."""

    def __init__(self, data: Dataset, name: SplitName, samples: Samples) -> None:
        self.names = samples.names() if isinstance(samples, Named) else None
        self.split, self.labels, self.classes = name, data.labels(name), data.classes

    def __call__(self, ids: Tensor) -> dict[str, Any]:
        places = ids.tolist()
        columns: dict[str, Any] = {"id": ids, "split": [self.split] * len(places)}
        if self.names is not None:
            columns["name"] = [self.names[i] for i in places]
        if self.labels is not None:
            columns["label"] = self.labels[ids]
            if self.classes is not None:
                known = [*self.classes, ""]  # -1 is a class nobody knows
                columns["class"] = [str(known[label]) for label in columns["label"].tolist()]
        return columns


@contextmanager
def _progress(shown: bool, parts: Mapping[SplitName, Samples]) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("embedding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task("", total=sum(map(len, parts.values())))
        yield lambda n: bar.advance(task, n)
