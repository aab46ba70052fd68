"""What is claimed of text."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from claims.claim import Claim, trained
from polymask.export import export

# A minute or so of one core must tell more than frequencies of tokens do, a loss of 6.4: ModernBERT leaves
# that within 300 steps, RoBERTa with norms in front within 600, BERT not within 1,000
GLOSSES: dict[str, Any] = {"name": "language/glosses", "vocab_size": 2048, "length": 32}
TAGGED: dict[str, Any] = {**GLOSSES, "tags": True}
SIZE = {"encoder.depth": 2, "encoder.architecture": "modernbert"}
BUDGET = {"steps": 2000, "batch_size": 32, "lr": 1e-3}
EVALUATIONS = (
    {"name": "language/perplexity", "limit": 500, "stride": 8},
    {"name": "language/minimal-pairs", "limit": 150, "stride": 8},
)
PROBE = {"limit": 4000}

# sizes with which a run takes about a minute on one core
TINY = {"encoder.dim": 64, "encoder.depth": 2, "encoder.heads": 4}

TITLES = {"name": "language/titles", "length": 32, "vocab_size": 1024}

RETRIEVAL = {"name": "language/retrieval", "queries": 200, "documents": 5000, "depth": 20}

# eight minutes of one core: which words of a set stand in the document is not learned in one or two
RANKING = {
    "system": "language/prop",
    "data": TITLES,
    "preset": "small",
    **SIZE,
    "encoder.init_std": 0.09,
    "steps": 3000,
    "batch_size": 64,
}

# three passes over the pairs, from one language model of definitions
ALIGNMENT = {
    "system": "language/sparsepo",
    "preset": "small",
    "data": {"name": "language/sentiment"},
    "steps": 150,
    "batch_size": 32,
}
DEFINITIONS = {
    "system": "language/meap",
    "preset": "small",
    "masking": None,
    "data": {"name": "language/glosses", "vocab_size": 4096},
    "steps": 800,
    "batch_size": 32,
}
LEARNED, ONES = "language/learned-weight", "language/constant-weight"


def definitions(folder: Path) -> dict[str, str]:
    """Train the language model of definitions that all runs begin with, or what is left of it.

    Args:
        folder: of the comparison; the run lies beside.

    Returns:
        Options of the others: its model, and the vocabulary it speaks.
    """
    model = folder.with_name(f"{folder.name}-base") / "model"
    if not model.is_dir():
        export(trained(DEFINITIONS, folder, "base"), "transformers", model)
    return {"encoder.pretrained": str(model), "data.vocab": str(model)}


SPARSEPO = Claim(
    text="Weights on tokens, learned or read off activations, move a policy further towards what is "
    "preferred for the divergence they cost than DPO, TDPO or random weights do (SparsePO, arXiv 2410.05102)",
    config=ALIGNMENT,
    variants={
        "DPO": {"masking": ONES, "kl_masking": {"name": ONES, "weight": 0.0}},
        "TDPO": {"masking": ONES},
        "random weights": {"masking": "language/random-weight"},
        "MaPO": {"masking": "language/activation-weight"},
        "SparsePO, common": {"masking": LEARNED},
        "SparsePO, independent": {"masking": LEARNED, "kl_masking": LEARNED},
    },
    about=("MaPO", "SparsePO, common", "SparsePO, independent"),
    measure="margin over root KL",
    evaluation="language/preference",
    prepare=definitions,
)

PROP = Claim(
    text="A masked language model that also learns which of two sets of words represents a document ranks "
    "documents for queries better without any label (PROP, arXiv 2010.10137)",
    config=RANKING,
    variants={"masked words alone": {"rop_weight": 0.0}, "prop": {}},
    about=("prop",),
    measure="nDCG@10",
    evaluation=RETRIEVAL,
)

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
    "language/sparsepo": SPARSEPO,
    "language/sparsepo-weights": dataclasses.replace(
        SPARSEPO,
        text="The weights that SparsePO learns are larger on the words that decide what is preferred than on "
        "others (SparsePO, arXiv 2410.05102)",
        about=("SparsePO, common", "SparsePO, independent"),
        measure="contrast",
        runs="language/sparsepo",
    ),
    "language/prop": PROP,
    "language/prop-few-labels": dataclasses.replace(
        PROP,
        text="Fine-tuned on a few labelled queries, it ranks better too (PROP, arXiv 2010.10137)",
        evaluation={**RETRIEVAL, "labelled": 64},
        runs="language/prop",
    ),
    "language/meap": Claim(
        text="Masking a few tokens of the input makes a language model find facts again in long text, at no "
        "cost in perplexity (MEAP, arXiv 2502.07490)",
        config={
            "system": "language/meap",
            "preset": "small",
            "data": {"name": "language/titles", "length": 160, "vocab_size": 2048, "pack": True},
            **TINY,
            "steps": 2000,
            "batch_size": 16,
        },
        variants={"next token": {"masking": None}, "meap": {"masking.ratio": 0.15}},
        about=("meap",),
        measure="told",
        evaluation={"name": "language/facts", "facts": 3},
    ),
    "language/masked-pdpp": Claim(
        text="Planning by diffusion that is masked by the task, in noise, sampling and loss, succeeds more "
        "often than without the mask (Masked-PDPP, arXiv 2309.07409)",
        config={
            "data": "language/openings",
            "preset": "small",
            "system": "language/masked-pdpp",
            "steps": 2500,
        },
        variants={
            "no mask": {"mask_noise": False, "mask_sampling": False, "mask_loss": False},
            "in noise and sampling": {"mask_loss": False},
            "in noise, sampling and loss": {},
        },
        about=("in noise, sampling and loss",),
        evaluation="language/planning",
        measure="success rate",
    ),
}
