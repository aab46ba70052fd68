"""polymask beside what users of each field would run: a step, reading, and both together.

In each pair all train models of the same sizes on the same files in the same order and batches, on one thread
in float32, with the same optimiser, and take turns in one process. A step is forward, backward and optimiser
on one batch; reading is from files to that batch. polymask and torchaudio draw masks within a step, and with
the batch scripts of transformers do, so the two together are what training costs.

References are in ``references.py``, ``speech_references.py`` and ``point_mae.py``; those not installed
are left out::

    python -m venv references
    references/bin/pip install polymask-vision polymask-audio polymask-language polymask-pointcloud trl
    references/bin/python benchmarks/race_references.py

The same command goes on where it was stopped: what is in the file is measured again if ``--only`` names it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from command import command
from installed import installed, versions
from point_mae import DECODER, GROUPS, NEIGHBOURS, RATIO, PlainPointMae
from race_systems import NAMED
from reference_files import write_clouds, write_images, write_pairs, write_sounds, write_text
from references import DEPTH, DIM, HEADS, LENGTH, Bert, Dpo, Reference, SimMim
from speech_references import (
    CLUSTERS,
    CODE,
    CONVOLUTION,
    TorchaudioHubert,
    TransformersHubert,
    Wav2Vec2,
)
from turns import advance, in_turns, ratio, timed

from polymask import Batch, Run, RunConfig, Step
from polymask.files import read_json, write_json
from polymask.training.loader import Keyed, Loader
from polymask.training.optimiser import make_optimiser
from polymask.training.order import Batches
from polymask.training.trainer import plan_of

STEPS = 2000


class Ours:
    """A run of polymask, its steps and its loader."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        size = {"encoder.dim": DIM, "encoder.depth": DEPTH, "encoder.heads": HEADS}
        training = {"seed": 0, "steps": STEPS, "data.test": 0.0}
        # nothing is written into a folder of a run that is not trained
        self.run = Run.create(RunConfig.resolve({**size, **training, **config}), "runs/references")
        self.system, data = self.run.system.train(), self.run.data
        lengths = data.lengths("train") if hasattr(data, "lengths") else None
        self.samples = Keyed(data.split("train", augment=True), 0, lengths)
        self.optimiser = make_optimiser(self.system, self.run.training, 1e-4)[0]

    def batches(self) -> Batches:
        """The samples of each step."""
        return Batches(plan_of(self.run), lengths=self.samples.lengths)

    def loader(self) -> Iterator[Batch]:
        """Batches, read in this process."""
        return iter(Loader(self.samples, self.batches()))

    def step(self, batch: Batch, number: int) -> None:
        """Forward, backward, optimiser."""
        advance(self.system, batch, self.optimiser, Step(number, STEPS, 0))


@dataclass(frozen=True)
class Pair:
    """A system and what it runs beside.

    Args:
        source: files below a folder, as in ``--data``.
        write: writes them.
        config: of the system, beside its data and the sizes of its encoder.
        references: by name, each with the package that it needs.
    """

    source: str
    write: Callable[[Path], None]
    config: Mapping[str, Any]
    references: Mapping[str, tuple[type[Reference], str]]


PAIRS: dict[str, Pair] = {
    "language/mlm": Pair(
        "language/file:text.txt",
        write_text,
        {
            "system": "language/mlm",
            "data.length": LENGTH,
            "encoder.architecture": "bert",
            "masking.ratio": 0.15,
            "batch_size": 32,
        },
        {"transformers, BertForMaskedLM": (Bert, "datasets")},
    ),
    "audio/hubert": Pair(
        "audio/folder:sounds",
        write_sounds,
        {
            "system": "audio/hubert",
            "data.seconds": 1.0,
            "data.pad": True,
            "tokenizer": "audio/waveform",
            "target": "audio/clusters",
            "target.file": f"random:{CLUSTERS}",
            "code_dim": CODE,
            "batch_size": 8,
            **{f"encoder.{key}": value for key, value in CONVOLUTION.items()},
        },
        {
            "torchaudio, HuBERT": (TorchaudioHubert, "torchaudio"),
            "transformers, HubertModel": (TransformersHubert, "transformers"),
            "transformers, Wav2Vec2ForPreTraining": (Wav2Vec2, "transformers"),
        },
    ),
    "language/sparsepo as DPO": Pair(
        "language/responses:pairs.jsonl",
        write_pairs,
        {
            **NAMED["DPO"],
            "data.length": LENGTH,
            "encoder.architecture": "llama",
            "beta": 0.1,
            "batch_size": 8,
        },
        {"TRL, DPOTrainer": (Dpo, "trl")},
    ),
    "vision/simmim": Pair(
        "vision/folder:images",
        write_images,
        {
            "system": "vision/simmim",
            "tokenizer.patch_size": 4,
            "encoder.positions": "learned",
            "masking.cell": 1,
            "masking.ratio": 0.6,
            "batch_size": 32,
        },
        {"transformers, ViTForMaskedImageModeling": (SimMim, "transformers")},
    ),
    "pointcloud/mae": Pair(
        "pointcloud/folder:clouds",
        write_clouds,
        {
            "system": "pointcloud/mae",
            "tokenizer.groups": GROUPS,
            "tokenizer.neighbours": NEIGHBOURS,
            "masking.ratio": RATIO,
            "decoder_dim": DIM,
            "decoder_depth": DECODER,
            "decoder_heads": HEADS,
            "batch_size": 16,
        },
        {"plain torch, Point-MAE": (PlainPointMae, "torch")},
    ),
}


def race(
    only: str | None = None,
    rounds: int = 5,
    files: Path = Path("runs", "references-files"),
    out: Path = Path("benchmarks", "results", "references.json"),
) -> None:
    """Time steps, reading and both of polymask and of every installed reference.

    Args:
        only: names of pairs, with commas between, measured anew; by default those that are not in the file.
        rounds: counted ones, after one of warm-up.
        files: folder that what is read is written to.
        out: file of the figures.
    """
    torch.set_num_threads(1)
    files.mkdir(parents=True, exist_ok=True)
    known: dict[str, dict[str, Any]] = read_json(out, dict)["results"] if out.is_file() else {}
    for name, pair in PAIRS.items():
        there = any(label.startswith(f"{name} ") for label in known)
        if (there if only is None else name not in only.split(",")) or not any(
            installed(package) for _, package in pair.references.values()
        ):
            continue
        known |= measured(name, pair, files, rounds)
        setup = {"encoder": f"{DIM} x {DEPTH}", "rounds": rounds, "threads": 1, "device": "cpu"}
        packages = ("polymask", "torch", "transformers", "torchaudio", "trl")
        write_json(out, {"setup": {**setup, "versions": versions(*packages)}, "results": known})


def measured(name: str, pair: Pair, files: Path, rounds: int) -> dict[str, dict[str, Any]]:
    """A row for each reference and each of step, reading and both."""
    kind, _, file = pair.source.partition(":")
    if not (files / file).exists():
        pair.write(files / file)
    ours = Ours({**pair.config, "data": {"name": kind, "source": str(files / file)}})
    order = [[sample for _, sample in keys] for keys in islice(ours.batches(), 2 * rounds + 9)]
    runners: dict[str, Ours | Reference] = {"polymask": ours}
    for label, (reference, package) in pair.references.items():
        if installed(package):
            runners[label] = reference(files / file, ours.run)
    readers = {
        label: runner.loader() if isinstance(runner, Ours) else runner.loader(order)
        for label, runner in runners.items()
    }
    first = {label: next(reader) for label, reader in readers.items()}

    def seconds(task: Callable[[str, int], object], label: str) -> Callable[[int], float]:
        return lambda turn: timed(lambda: task(label, turn))

    tasks: dict[str, Callable[[str, int], object]] = {
        "step": lambda label, turn: runners[label].step(first[label], turn),
        "reading": lambda label, turn: next(readers[label]),
        "both": lambda label, turn: runners[label].step(next(readers[label]), turn),
    }
    batch, rows = int(pair.config["batch_size"]), dict[str, dict[str, Any]]()
    for what, task in tasks.items():
        took = in_turns({label: seconds(task, label) for label in runners}, rounds, warm_up=1)
        for label in runners.keys() - {"polymask"}:
            row = {
                "polymask, samples per second": batch / statistics.median(took["polymask"]),
                "theirs": batch / statistics.median(took[label]),
                **ratio(took["polymask"], took[label]),
            }
            rows[f"{name} beside {label}: {what}"] = row
            print(f"{name} beside {label}: {what}", {k: round(v, 3) for k, v in row.items()}, flush=True)
    return {label: rows[label] for label in sorted(rows, key=lambda label: label.rpartition(": ")[0])}


if __name__ == "__main__":
    command(race)
