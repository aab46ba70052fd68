"""Attention span and rank by block, of a run and of what it began with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from polymask import Run, RunConfig, UserError
from polymask.data import collate
from polymask.evaluation.result import TRAINED, UNTRAINED
from polymask.training import fit
from polymask_vision.depth import RANK, SPAN, lines_by_depth
from polymask_vision.evaluations.by_block import ByBlock

CONFIG: dict[str, Any] = {
    "system": "vision/mae",
    "preset": "tiny",
    "data": {"name": "vision/digits", "limit": 60},
    "tokenizer.patch_size": 2,
    "steps": 2,
    "warmup_steps": 0,
    "workers": 0,
}


def test_lines_are_those_of_held_out_images_trained_and_untrained(tmp_path: Path) -> None:
    run = Run.create(RunConfig.resolve(CONFIG), tmp_path / "run")
    fit(run, progress=False)
    found = {(one.row, one.metric): one.value for one in ByBlock(images=9)(run)}
    assert set(found) == {
        (row, f"{name}, block {k}")
        for row in (TRAINED, UNTRAINED)
        for name in ("span", "rank")
        for k in (1, 2)
    }
    samples = run.data.split("test")
    batch = collate([samples[i * len(samples) // 9] for i in range(9)])
    for row, system in ((TRAINED, run.system), (UNTRAINED, run.untrained())):
        with torch.no_grad():
            lines = lines_by_depth(system.eval().backbone, system.tokenizer(batch))
        for title, name in ((SPAN, "span"), (RANK, "rank")):
            for k in (1, 2):
                assert found[row, f"{name}, block {k}"] == pytest.approx(float(lines[title][k]))
    assert found[TRAINED, "span, block 2"] != found[UNTRAINED, "span, block 2"]


def test_an_encoder_whose_blocks_cannot_be_run_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: Any = Run.create(RunConfig.resolve(CONFIG), tmp_path / "run")
    monkeypatch.setattr("polymask_vision.evaluations.by_block.lines_by_depth", lambda *_: {})
    with pytest.raises(UserError, match="ViT does not let its blocks be run .* this is for vision/vit"):
        list(ByBlock()(run))
