"""Train an encoder on with labels, all or few, beside the same encoder from scratch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from polymask.cli.help import JSON, about, help_text, run_options
from polymask.cli.parse import parse
from polymask.cli.terminal import print_result, warn_broken
from polymask.cli.verbs.pretrain import require_data
from polymask.config import UNSET, Option, PartConfig, Source
from polymask.config.layers import TRAINING
from polymask.config.options import table
from polymask.errors import UserError
from polymask.plugins.registry import default_registry
from polymask.types import Share

OPTIONS = table(
    Option(
        "labels", tuple[Share, ...], (1.0,), "shares of the labels to train with", "SHARE,...", group="runs"
    ),
    Option("seeds", int | tuple[int, ...], 3, "how many (0, 1, ...), or which", group="runs"),
    Option("scratch", bool, True, "train the same encoder from scratch too", group="runs"),
)
"""Those of :func:`polymask.evaluation.finetuning.finetune`, written out to be light."""

FORMS = """train an encoder on with labels, all or few, beside the same encoder from scratch

  polymask finetune RUN [--data NAME[:SOURCE]] [--labels 0.01,0.1,1] [options]
  polymask finetune EXPORT --data NAME[:SOURCE]     an encoder exported as safetensors

polymask finetune RUN --help lists the options of the classifier, the encoder and training.
The same command again goes on where it was stopped, with more shares of the labels or seeds too."""

EXAMPLE = "polymask finetune runs/mae-digits-1 --labels 0.1,1 --seeds 3"


def run(argv: list[str]) -> int:
    """``polymask finetune RUN|EXPORT [options]``."""
    registry = warn_broken(default_registry())
    command = parse(argv, flags=("help", "json", "resume"), short={"-o": "out"})
    wants_help, as_json = command.flag("help"), command.flag("json")
    command.flag("resume")
    own = table(
        Option("out", str, "RUN/finetune-<data>", "folder of the runs", "DIR"),
        Option("resume", bool, UNSET, "does nothing: the same command always goes on", " "),
        JSON,
    )
    if not command.words:
        if not wants_help:
            raise UserError(
                "fine-tune what? the first argument should be the folder of a run or of an export"
            )
        tree = PartConfig(None, {**OPTIONS, **TRAINING})
        first = {**run_options(None, tree, "finetune", registry), **own}
        print(help_text("polymask finetune RUN", FORMS, EXAMPLE, tree, first))
        return 0
    source, out, file = Path(command.words[0]), command.take("out"), command.take("config")
    if "labels" in command.values:
        command.values["labels"] = f"[{command.values['labels'].strip('[]')}]"
    given = [*([Source.of_file(file)] if file else []), command.source(after="the run")]
    from polymask.evaluation.finetuning import configured, finetune, folder_of

    resolved = configured(source, *given, registry=registry, check=not wants_help, extra=OPTIONS)
    chosen = resolved.tree
    if wants_help:
        part = chosen.part
        first = {**run_options(part, chosen, resolved.preset, registry), **own}
        print(help_text(f"polymask finetune {source}", about(part) if part else "", EXAMPLE, chosen, first))
        return 0
    if resolved.wrong:
        raise UserError(resolved.wrong[0])
    asked: dict[str, Any] = {name: chosen.options[name] for name in OPTIONS if name in chosen.options}
    data = require_data(resolved, registry)
    folder = Path(out) if out else folder_of(source, data.name)
    result = finetune(source, folder, **asked, options=resolved, registry=registry)
    from polymask.report.finetuned import write_page

    page = write_page(folder)
    print_result(result, as_json)
    if not as_json:
        print(f"page: {page}")
    return 0
