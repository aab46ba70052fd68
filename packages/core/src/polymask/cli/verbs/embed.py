"""Features of all samples of a data set, written to a file that pandas or numpy reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from polymask.cli.help import JSON, help_text
from polymask.cli.parse import parse
from polymask.cli.terminal import print_json, say, warn_broken
from polymask.config import RUN, UNSET, Option, PartConfig, Source, built_from, resolve_part
from polymask.config.options import options_of, table
from polymask.config.resolve import DATA
from polymask.errors import UserError
from polymask.plugins.registry import Registry, default_registry
from polymask.types import Count, Whole

if TYPE_CHECKING:
    from polymask.export import Features
    from polymask.run import Run

OPTIONS = table(
    Option("split", Literal["train", "test", "all"], "all", "which samples"),
    Option("pool", Literal["mean", "prefix", "tokens"], "mean", "one row for a sample, or for each token"),
    Option("layer", Count | None, None, "block of the encoder, from 1; by default what the encoder gives"),
    Option("batch_size", Count, 256, "samples per batch"),
    Option("workers", Whole, 0, "processes that read samples"),
)
"""Those of :func:`polymask.evaluation.embed`, written out to be light."""

OWN = table(
    Option("out", str, UNSET, "file to write: .parquet, .npz or .safetensors; or -o", "FILE"),
    Option("data", str, None, "other data than the run's, prepared as that was", "NAME[:SOURCE]"),
    JSON,
)

EXAMPLE = "polymask embed runs/mae-digits-1 --data folder:photos -o features.parquet"


def run(argv: list[str]) -> int:
    """``polymask embed RUN|EXPORT -o FILE [--data SPEC] [options]``."""
    command = parse(argv, flags=("help", "json"), short={"-o": "out"})
    wants_help, as_json = command.flag("help"), command.flag("json")
    if wants_help:
        print(help_text("polymask embed RUN|EXPORT", __doc__ or "", EXAMPLE, PartConfig(None, OPTIONS), OWN))
        return 0
    out = command.take("out")
    given = command.source(after="the run")
    if not command.words:
        raise UserError("embed with what? the first argument should be the folder of a run or of an export")
    if out is None:
        raise UserError(f"where to? give -o FILE, as {EXAMPLE}")
    registry = warn_broken(default_registry())
    from polymask.evaluation.embed import embed, opened

    source = opened(command.words[0])
    options = _resolve(source, given, registry)
    data = options.pop("data", None)
    if data is not None:
        data = data.build({RUN: getattr(source, "folder", None)})
    rows = embed(source, out, data=data, **options, progress=not as_json)
    if as_json:
        print_json({"out": str(out), "rows": rows})
    else:
        say(f"{rows:,} rows")
        print(out)
    return 0


def _resolve(source: Run | Features, given: Source, registry: Registry) -> dict[str, Any]:
    """Options checked; ``data`` among them where it is not just that of the run."""
    from polymask.export import Features
    from polymask.run import Run

    own = source.config.data if isinstance(source, Run) and source.config else None
    owner = source if isinstance(source, Features) else source.system
    if (made := getattr(owner, "tokenizer", None)) is None:
        raise UserError(
            f"{type(owner).__name__} has no tokenizer, and so no features of a whole sample: its run is what "
            "polymask evaluate takes"
        )
    tokenizer = built_from(made)
    modality = registry.find("tokenizers", tokenizer["name"]).modality if tokenizer else "any"
    registry = registry.within(modality)
    asked, sources = given.options.get("data"), [given]
    if isinstance(asked, Mapping) and "name" in asked:
        part = registry.find("datasets", str(asked["name"]))
        if not part.fits(modality):
            raise UserError(
                f"{part.full_name} is data of {part.modality}, and this encoder is for {modality}"
            )
        prepared = source.facts.get("preparation")
        if prepared is None:
            say("warning: nobody knows how the data of this run was prepared: see --data.* for this", 33)
        known = options_of(part)
        same = {key: value for key, value in (prepared or {}).items() if key in known}
        sources.insert(0, Source("run", {"data": {"name": asked["name"], **same}}))
    elif isinstance(asked, Mapping) and own is not None:
        sources.insert(0, Source("run", {"data": own.plain(defaults=False)}))
    extra = {"data": DATA, **OPTIONS}
    resolved = resolve_part(None, *sources, registry=registry, extra=extra, name="embed")
    return dict(resolved.require().options)
