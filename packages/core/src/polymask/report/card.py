"""A model card: what an exported encoder is, what it learned from and how, and how well that served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml  # type: ignore[import-untyped]

from polymask.config import resolve_path
from polymask.errors import UserError
from polymask.evaluation.features import evaluating
from polymask.evaluation.finetuning import Finetuned
from polymask.evaluation.finetuning.result import NOTES
from polymask.evaluation.measurements import Measurements, read_scores
from polymask.evaluation.result import CAVEAT, METHODS, read_probe
from polymask.export import as_probed, formats
from polymask.files import atomic, contents, write_text
from polymask.plugins.registry import default_registry
from polymask.report import views
from polymask.report.drawing import Pixels, png, sheet
from polymask.report.finetuned import read_all
from polymask.report.templates import flat, markdown_table
from polymask.run import Run
from polymask.step import Step
from polymask.systems.supervised import Supervised

CARD, MASKS = "README.md", "masks.png"

SAMPLES, SIDE = 6, 112
"""How many masks of a step are drawn, and how wide each."""

ENCODERS = {
    "safetensors": "from polymask.export import load\n\nfeatures = load(FOLDER)  # a batch to Tokens",
    "onnx": "import onnxruntime\n\nsession = onnxruntime.InferenceSession(f'{FOLDER}/model.onnx')\n"
    "tokens, pooled = session.run(None, batch)  # arrays by name, see polymask.json",
    "timm": "import timm\n\nmodel = timm.create_model(f'local-dir:{FOLDER}', pretrained=True)",
    "masks": "from polymask_vision.weights import apply_masks\n\n"
    "apply_masks(encoder, FOLDER)  # of the base, whose hidden weights are then 0",
    "segmenter": "from polymask_vision.segmenter import load_segmenter\n\n"
    "network = load_segmenter(FOLDER)  # images, normalised as segmenter.json says, to logits of each pixel",
    "tasks": "import onnxruntime\n\nsession = onnxruntime.InferenceSession(f'{FOLDER}/model.onnx')\n"
    "answers = session.run(None, layers)  # arrays by name, prepared as tasks.json says",
    "transformers": "from transformers import AutoModel\n\nmodel = AutoModel.from_pretrained(FOLDER)",
}
"""How an encoder is loaded, by format."""

CLASSIFIERS = {
    "safetensors": "from polymask.export import load\n\nclassifier = load(FOLDER)\n"
    "logits = classifier.classify(batch)  # classifier.names says of which classes",
    "onnx": "import onnxruntime\n\nsession = onnxruntime.InferenceSession(f'{FOLDER}/model.onnx')\n"
    "(logits,) = session.run(None, batch)  # arrays by name, see polymask.json, which names the classes too",
    "timm": ENCODERS["timm"] + "\nlogits = model(batch)  # model.pretrained_cfg['label_names']",
    "transformers": "from transformers import AutoModelForImageClassification\n\n"
    "model = AutoModelForImageClassification.from_pretrained(FOLDER)  # model.config.id2label",
}
"""The same of an encoder with its classifier."""


def require_own(out: Path) -> None:
    """See that a folder to export to is no project or model of somebody else.

    Raises:
        UserError: there is a ``README.md`` that no export wrote.
    """
    path = out / CARD
    if path.is_file():
        front = path.read_text(encoding="utf-8", errors="replace").split("\n---", 1)[0]
        if not front.startswith("---\n") or "- polymask\n" not in front:
            raise UserError(f"{out} holds a {CARD} that no export wrote: give another --out")
    elif contents(out):
        raise UserError(f"{out} holds something that no export wrote: give another --out")


def write_card(run: Run, format: str, out: Path, *, head: bool = True) -> Path:
    """Write ``README.md`` beside an export, as hubs show it, and ``masks.png`` of a system that masks.

    Args:
        run: whose encoder was exported.
        format: in which it was.
        out: folder of the export.
        head: whether the classifier of a run that learned from labels was exported with it.

    Returns:
        Path of the card.

    Raises:
        UserError: it cannot be written.
    """
    known = run.config.plain() if run.config else {"system": run.name}
    config: dict[str, Any] = resolve_path(known, run.folder)
    system = str(config["system"])
    try:
        part = default_registry().find("systems", system)
        about = f"{part.summary[0].upper()}{part.summary[1:]}{f' ({part.paper})' if part.paper else ''}. "
    except UserError:
        about = ""
    library = {"library_name": format} if format in ("timm", "transformers") else {}
    front = yaml.safe_dump({**library, "tags": ["masked-modelling", "polymask", system]}, sort_keys=False)
    encoder: Any = run.system.backbone
    size = sum(weight.numel() for weight in encoder.parameters())
    labels = isinstance(run.system, Supervised)
    what, loaded = ("Classifier", CLASSIFIERS) if labels and head else ("Encoder", ENCODERS)
    parts = [
        f"---\n{front}---",
        f"# {what} of {system}",
        f"{about}{'Trained' if labels else 'Pre-trained'} with polymask for {run.step:,} steps; "
        f"the encoder has {size:,} parameters.",
    ]
    if format in loaded:
        parts += ["## Use", f"```python\n{loaded[format]}\n```", "`FOLDER` is the path of this folder."]
    data = config.get("data") or {"name": "given in Python"}
    facts = {"data": data["name"], **{name: x for name, x in run.facts.items() if name != "preparation"}}
    parts += ["## Data", markdown_table([("fact", "value"), *flat(facts).items()])]
    parts += ["## Probes", _probes(run.folder)]
    if format in formats(run.system) and not as_probed(run.system):
        parts += ["The run encodes by more than the tokenizer and encoder exported here; these are its own."]
    for found in read_scores(run.folder):
        parts += [f"### {found.evaluation}", _scores(found)]
    for tuned in _finetuned(run):
        parts += [f"## {tuned.title[0].upper()}{tuned.title[1:]}", markdown_table(tuned.rows())]
        parts += [f"Accuracy; {tuned.test:,} test samples; most frequent class {tuned.chance:.3f}. {NOTES}"]
    if _drawn(run, out / MASKS):
        parts += ["## Masks", f"![masks of the first and the last step, over random input]({MASKS})"]
    parts += ["## Configuration", f"```yaml\n{yaml.safe_dump(config, sort_keys=False)}```"]
    write_text(out / CARD, "\n\n".join(parts) + "\n")
    return out / CARD


def _finetuned(run: Run) -> list[Finetuned]:
    """Fine-tunings of a run; of a run of a fine-tuning, that one."""
    return read_all(run.folder.parent, "") if isinstance(run.system, Supervised) else read_all(run.folder)


def _probes(folder: Path) -> str:
    found = read_probe(folder)
    if found is None:
        return "None was run."
    rows: list[tuple[str, ...]] = [("features", *METHODS)]
    for name in dict.fromkeys(row.features for row in found.rows):
        rows.append((name, *(found.accuracy(name, method).text() for method in METHODS)))
    rows.append(("most frequent class", *(f"{found.chance:.3f}" for _ in METHODS)))
    samples = f"Accuracy with intervals of 95 %; {found.train:,} training and {found.test:,} test samples."
    return f"{markdown_table(rows)}\n\n{samples} {CAVEAT}"


def _scores(found: Measurements) -> str:
    rows: list[tuple[str, ...]] = [("", *found.metrics)]
    for name in found.rows:
        values = found.row(name)
        rows.append((name, *(f"{values[m]:.4g}" if m in values else "" for m in found.metrics)))
    return markdown_table(rows)


def _drawn(run: Run, path: Path) -> bool:
    """Draw the masks of two steps over random input, which needs no data; whether there are any."""
    try:
        batch = run.system.example(SAMPLES)
    except AttributeError:  # a tokenizer without `example` is refused by the conformance suite, not here
        return False
    if not batch:
        return False
    batch, total = {**batch, "id": torch.arange(SAMPLES)}, max(run.step, 1)
    viewer, rows = views.of_system(run.system), list[list[Pixels]]()
    with evaluating(run.system, torch.device("cpu")):
        for index in dict.fromkeys((0, total - 1)):
            found = viewer(batch, Step(index, total, run.training.seed))
            rows += [view.bare(SIDE) for view in found.values()]
    if rows:
        with atomic(path, "wb") as file:
            file.write(png(sheet(rows)))
    return bool(rows)
