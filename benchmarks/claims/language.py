"""What is claimed of text."""

from __future__ import annotations

from typing import Any

from claims.claim import Claim

# 2,048 ids and two blocks: a minute or so of one core then tells more than frequencies of tokens do
GLOSSES: dict[str, Any] = {"name": "language/glosses", "vocab_size": 2048, "length": 32}
TAGGED: dict[str, Any] = {**GLOSSES, "tags": True}
SIZE = {"encoder.depth": 2}
BUDGET = {"steps": 1000, "batch_size": 64, "lr": 3e-3}
EVALUATIONS = (
    {"name": "language/perplexity", "limit": 500, "stride": 8},
    {"name": "language/minimal-pairs", "limit": 150, "stride": 8},
)
PROBE = {"limit": 4000}

CLAIMS: dict[str, Claim] = {
    "language/mlm": Claim(
        text="Hiding 40 % of the words, all behind the mask token, teaches as much as hiding 15 % or more "
        "(Wettig et al. 2022, arXiv 2202.08005)",
        config={
            "system": "language/mlm",
            "preset": "small",
            "data": GLOSSES,
            **SIZE,
            **BUDGET,
        },
        variants={
            "15 %": {"masking.ratio": 0.15},
            "15 %, all masked": {"masking.ratio": 0.15, "shares": (1.0, 0.0, 0.0)},
            "40 %, all masked": {"masking.ratio": 0.4, "shares": (1.0, 0.0, 0.0)},
        },
        about=("40 %, all masked",),
        measure="pseudo-perplexity",
        lower=True,
        evaluation=EVALUATIONS,
        probe=PROBE,
    ),
    "language/climb": Claim(
        text="A curriculum over words, samples or objectives leaves a masked language model better than "
        "none; the paper itself finds no consistent gain (CLIMB, arXiv 2311.08886)",
        config={
            "system": "language/climb",
            "preset": "small",
            "data": TAGGED,
            **{f"host.{key}": value for key, value in SIZE.items()},
            **BUDGET,
            "words": None,
            "order": None,
            "class_window": None,
            "host.masking.ratio": 0.4,
        },
        variants={
            "no curriculum": {},
            "words by ids": {"words": "ids"},
            "samples by unigram perplexity": {"order": "unigram"},
            "word classes, then words": {"host_window": (0.125, 1.0), "class_window": (0.0, 0.125)},
            "all three": {"words": "ids", "order": "unigram", "class_window": (0.0, 1.0)},
        },
        about=("words by ids", "samples by unigram perplexity", "word classes, then words", "all three"),
        measure="pseudo-perplexity",
        lower=True,
        evaluation=EVALUATIONS,
        probe=PROBE,
    ),
}
