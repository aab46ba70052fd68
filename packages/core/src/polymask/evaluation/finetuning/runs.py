"""Fine-tuning of an encoder with all labels or few, beside the same encoder from scratch.

Every run is one of the system ``supervised`` of the encoder's modality, in a folder of its own: it is
stopped, resumed, looked at and exported as any other.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from polymask.config import RUN, Resolved, RunConfig, Source, plain
from polymask.config.layers import flatten
from polymask.config.training import SAME_RUN
from polymask.data import Dataset
from polymask.data.few_labels import few_labels
from polymask.errors import UserError
from polymask.evaluation.features import batches, evaluating, on_device
from polymask.evaluation.finetuning.options import configured
from polymask.evaluation.finetuning.result import STARTS, Finetuned, share_text
from polymask.evaluation.probe import labels_of
from polymask.evaluation.result import TRAINED
from polymask.files import contents, read_json, write_json
from polymask.plugins.registry import Registry
from polymask.run import INITIAL, Run, holds_run, locked_together
from polymask.training import fit
from polymask.training.sanity_check import sanity_check

RESULT, PREDICTED = "finetune.json", "classified.json"
FEW_LABELS = "core/few-labels"


def finetune(
    source: Run | str | Path,
    out: str | Path | None = None,
    *,
    labels: Sequence[float] = (1.0,),
    seeds: int | Sequence[int] = 3,
    scratch: bool = True,
    data: Dataset | None = None,
    options: Mapping[str, Any] | Resolved | None = None,
    registry: Registry | None = None,
    progress: bool = True,
) -> Finetuned:
    """Fine-tune an encoder, and train the same one from scratch at the same budget; test both.

    A run that the folder holds already is used as it is, one that was stopped goes on from its last
    checkpoint. Shares and seeds may be added later. Writes ``finetune.json``, and a run folder for each run.

    Args:
        source: a run or its folder, or a folder exported as safetensors.
        out: folder of the runs; ``finetune-<data>`` within that of the source by default.
        labels: shares of the labels to train with, each in (0, 1].
        seeds: how many (0, 1, ...), or which: of the runs, and of the choice of labels.
        scratch: whether to train from scratch too.
        data: labelled data, prepared as the encoder knows it; by default that of the run, or the one named
            ``data`` in ``options``.
        options: as of ``polymask pretrain`` with the system ``supervised``: ``preset`` (``"finetune"`` by
            default), ``data``, ``steps``, ``pool``, ``layer_decay``; or resolved by :func:`configured`.
        registry: where names are looked up; the installed plugins by default.
        progress: say on stderr which run is trained and how long it takes, with a progress line.

    Raises:
        UserError: no labels, an encoder or options that do not fit, or a folder that holds another
            fine-tuning. Nothing is trained then.
    """
    source = source.folder if isinstance(source, Run) else Path(source)
    shares, seeds = tuple(map(float, labels)), tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    _require(shares, seeds)
    if not isinstance(options, Resolved):
        options = configured(source, Source("arguments", options or {}), registry=registry)
    base = RunConfig.of(options)
    if base.data is None and data is None:
        raise UserError("which data? give --data NAME or --data NAME:SOURCE, with labels")
    named = base.data.name if base.data else type(data).__name__
    out = folder_of(source, named) if out is None else Path(out)
    config = _plan(base, named)
    _keep(out, config)
    if data is None:
        data = base.data.build({RUN: source})  # type: ignore[union-attr]
    _, test = labels_of(data, "fine-tuning")
    counts = [len(few_labels(data=data, share=share).split("train")) for share in shares]
    starts = [start for start in STARTS if scratch or start == TRAINED]
    arms = [_Arm(base, source, out, data, *turn) for turn in itertools.product(seeds, shares, starts)]
    for arm in arms[: len(starts)]:
        arm.check()
    _require_one_source(out, arms)
    with locked_together(out):
        write_json(out / RESULT, {"config": config})
        todo = [arm for arm in arms if not arm.done]
        began = time.monotonic()
        for turn, arm in enumerate(todo):
            if progress:
                sys.stderr.write(
                    f"run {turn + 1} of {len(todo)}: {arm.title}{_left(began, turn, len(todo))}\n"
                )
            arm.train(progress)
        right = {(arm.seed, arm.share, arm.start): arm.right() for arm in arms}
        names = {(arm.seed, arm.share, arm.start): arm.folder.name for arm in arms}
        known = test[test >= 0]
        result = Finetuned(
            source=source.resolve().name,
            data=named,
            config=config,
            shares=shares,
            seeds=seeds,
            labels=counts,
            right={s: [[right[seed, share, s] for seed in seeds] for share in shares] for s in starts},
            chance=float(known.bincount().max() / len(known)),
            folders={s: [[names[seed, share, s] for seed in seeds] for share in shares] for s in starts},
        )
        write_json(out / RESULT, plain(result.to_json()))
    return result


def folder_of(source: Path, data: str) -> Path:
    """Where the runs go, unless told otherwise."""
    return source / f"finetune-{data.rpartition('/')[2]}"


class _Arm:
    """One run of a fine-tuning."""

    def __init__(
        self,
        base: RunConfig,
        source: Path,
        out: Path,
        data: Dataset,
        seed: int,
        share: float,
        start: str,
    ) -> None:
        self.base, self.source, self.data = base, source, data
        self.seed, self.share, self.start = seed, share, start
        self.folder = out / f"{start.replace(' ', '-')}-{share:g}-seed{seed}"
        self.title = f"{start}, {share_text(share)} of the labels, seed {seed}"

    def run(self) -> Run:
        """The run, built."""
        changes: dict[str, Any] = {"seed": self.seed, "init": None}
        if self.start == TRAINED:  # relative, so that both may be moved together
            changes["init"] = f"{RUN}/{os.path.relpath(self.source, self.folder)}"
        else:
            changes["layer_decay"] = 1.0
        if self.base.data is not None:
            inner = self.base.data.plain(defaults=False)
            changes["data"] = {"name": FEW_LABELS, "data": inner, "share": self.share, "seed": self.seed}
        own = {name: value for name, value in self.base.plain().items() if name != "data"}
        config = RunConfig.resolve(own, changes)
        data = few_labels(data=self.data, share=self.share, seed=self.seed)
        return Run.create(config, self.folder, data=data)

    def check(self) -> None:
        """See that it can be trained, if there is anything left to train."""
        if not holds_run(self.folder):
            run = self.run()
            sanity_check(run.name, run.system, run.data, self.seed)

    @property
    def done(self) -> bool:
        """Whether it is trained and tested."""
        return (self.folder / PREDICTED).is_file()

    def train(self, progress: bool) -> None:
        """Train what is left of it, and test it."""
        run = self.run()
        fit(run, resume=None, progress=progress)
        write_json(self.folder / PREDICTED, {"right": classified(run)})

    def right(self) -> str:
        """Which test samples it classified rightly."""
        return str(read_json(self.folder / PREDICTED, lambda found: found["right"]))


def classified(run: Run) -> str:
    """Which labelled test samples a supervised run classifies rightly, as a text of ``1`` and ``0``."""
    system: Any = run.system
    labels = run.data.labels("test")
    assert labels is not None
    index = torch.nonzero(labels >= 0)[:, 0]
    found = []
    with evaluating(system):
        for batch in batches(run.data.split("test"), index.tolist()):
            logits = system.classify(on_device(batch, system))
            found.append(logits.argmax(dim=1).cpu() == labels[batch["id"]])
    return "".join("1" if right else "0" for right in torch.cat(found).tolist())


def _require(shares: Sequence[float], seeds: Sequence[int]) -> None:
    if not shares or not all(0 < share <= 1 for share in shares) or len(set(shares)) < len(shares):
        raise UserError(
            f"labels={list(shares)}: give different shares of the labels above 0, up to 1, such as 0.01,0.1,1"
        )
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"seeds={list(seeds)}: give one seed or more, all different")


def _plan(base: RunConfig, data: str) -> dict[str, Any]:
    """What all runs of a folder share."""
    own: dict[str, Any] = base.plain() if base.data else {**base.plain(), "data": data}
    return {name: plain(value) for name, value in own.items() if name not in {"seed", "init", *SAME_RUN}}


def _keep(out: Path, config: Mapping[str, Any]) -> None:
    """See that a folder holds this fine-tuning or none."""
    if not (out / RESULT).is_file():
        if contents(out):
            raise UserError(f"{out} holds something else than a fine-tuning: give another --out")
        return
    kept = read_json(
        out / RESULT, lambda found: dict(found["config"]), "put back a copy, or give another --out"
    )
    then, now = flatten(kept), flatten(config)
    for name in dict.fromkeys([*then, *now]):
        if then.get(name) != now.get(name):
            raise UserError(
                f"{out} holds a fine-tuning whose {name} is {json.dumps(then.get(name))}, not "
                f"{json.dumps(now.get(name))}: give another --out, or the same again; only shares of the "
                "labels and seeds can be added"
            )


def _require_one_source(out: Path, arms: Sequence[_Arm]) -> None:
    """See that pre-trained runs that there are began with the weights that the source holds now."""
    begun = {arm.folder / INITIAL: arm for arm in arms if arm.start == TRAINED}
    # one of those that began alike stands for all
    apart = {
        read_json(path, lambda found: found["digest"]): arm for path, arm in begun.items() if path.is_file()
    }
    for arm in apart.values():
        try:
            arm.run().untrained()
        except UserError as error:
            raise UserError(
                f"the runs in {out} began with other weights than {arm.source} holds now: give another --out"
            ) from error


def _left(began: float, done: int, total: int) -> str:
    if not done:
        return ""
    minutes, seconds = divmod(round((time.monotonic() - began) / done * (total - done)), 60)
    return f" (about {minutes}:{seconds:02} left in all)"
