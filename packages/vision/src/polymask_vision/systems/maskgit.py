"""The recipe of MaskGIT (Chang et al. 2022, arXiv 2202.04200) on images; the system is in core."""

from __future__ import annotations

from typing import Any

from polymask.config import RunConfig
from polymask.recipes import Stage
from polymask.types import Count
from polymask_vision.codes import fitted


def maskgit(
    stage: Stage,
    /,
    *,
    codes: Count = 512,
    patches: Count = 200_000,
    preset: str = "small",
    steps: Count | None = None,
) -> None:
    """Fit codes to patches of the training images by k-means, then train a system that generates by them.

    Args:
        stage: trains a run.
        codes: how many (paper: 1,024, of a VQGAN).
        patches: at most so many are clustered.
        preset: of the system.
        steps: of training; by default the preset's.
    """
    options: dict[str, Any] = {
        "preset": preset,
        **stage.shared,
        **({} if steps is None else {"steps": steps}),
    }
    # a tokenizer of any codes says what its patches are
    given = {"system": "vision/maskgit", "data": stage.given, **options, "tokenizer.file": "random:2"}
    file = fitted(stage, RunConfig.resolve(given), codes=codes, patches=patches)
    stage("pretrain", "vision/maskgit", **{**options, "tokenizer.file": file})
