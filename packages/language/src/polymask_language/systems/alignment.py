"""The recipe of SparsePO (Christopoulou et al. 2024, arXiv 2410.05102): pre-train, fine-tune, align.

polymask recipe language/sparsepo --data language/sentiment
"""

from __future__ import annotations

from pathlib import Path

from polymask.config import relative_to_run
from polymask.export import export
from polymask.recipes import Stage
from polymask.types import Count


def align(
    stage: Stage,
    /,
    *,
    corpus: str | None = None,
    preset: str = "small",
    pretrain_steps: Count | None = None,
    tune_steps: Count | None = None,
    align_steps: Count | None = None,
    masking: str = "language/learned-weight",
) -> None:
    """Pre-train a language model, fine-tune it on chosen responses, align it by pairs; each a run of its own.

    Args:
        stage: trains a run; its data are pairs of responses.
        corpus: data to pre-train on, a name; the data's own text if none.
        preset: of the first and the last stage.
        pretrain_steps: of the first stage; the preset's if none.
        tune_steps: of the second; a quarter of the first's if none.
        align_steps: of the last; the preset's if none.
        masking: what weighs tokens in the last.
    """
    data = {"name": stage.given} if isinstance(stage.given, str) else dict(stage.given)
    length = stage.data.provides["length"]
    text = {**data, "pack": True} if corpus is None else {"name": corpus, "length": length, "pack": True}

    def steps(count: int | None) -> dict[str, int]:
        return {} if count is None else {"steps": count}

    first = stage("pre-trained", "language/meap", preset=preset, data=text, **steps(pretrain_steps))
    model = hand_on(first.folder)
    data["vocab"] = model
    tune_steps = max(1, first.step // 4) if tune_steps is None else tune_steps
    second = stage(
        "fine-tuned",
        "language/meap",
        preset="sft",
        data=data,
        steps=tune_steps,
        **{"encoder.pretrained": model, "batch_size": 32, "lr": 5e-4},
    )
    stage(
        "aligned",
        "language/sparsepo",
        preset=preset,
        data=data,
        masking=masking,
        **{"encoder.pretrained": hand_on(second.folder), **steps(align_steps)},
    )


def hand_on(run: Path) -> str:
    """The model of a stage with its vocabulary, as the next one names them."""
    out = run / "model"
    if not out.is_dir():
        export(run, "transformers", out)
    return relative_to_run(f"{run.name}/{out.name}")
