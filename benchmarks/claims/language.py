"""What is claimed of text."""

from __future__ import annotations

from claims.claim import Claim

# sizes with which a run takes about a minute on one core
TINY = {"encoder.dim": 64, "encoder.depth": 2, "encoder.heads": 4}

TITLES = {"name": "language/titles", "length": 64, "vocab_size": 4096}

RETRIEVAL = {"name": "language/retrieval", "queries": 200, "documents": 5000, "depth": 50}

RANKING = {
    "data": TITLES,
    "preset": "small",
    **TINY,
    "steps": 600,
    "batch_size": 32,
    "lr": 1e-3,
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

CLAIMS: dict[str, Claim] = {
    "language/sparsepo": Claim(
        text="Weights on tokens, learned or read off activations, move a policy further towards what is "
        "preferred for the divergence they cost than DPO, TDPO or random weights do "
        "(SparsePO, arXiv 2410.05102)",
        config=ALIGNMENT,
        base=DEFINITIONS,
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
    ),
    "language/sparsepo-weights": Claim(
        text="The weights that SparsePO learns are larger on the words that decide what is preferred "
        "(SparsePO, arXiv 2410.05102)",
        config=ALIGNMENT,
        base=DEFINITIONS,
        variants={
            "random weights": {"masking": "language/random-weight"},
            "MaPO": {"masking": "language/activation-weight"},
            "SparsePO": {"masking": LEARNED},
            "SparsePO, sparser": {"masking": LEARNED, "reward_l1": 0.001, "kl_l1": 0.001},
        },
        about=("SparsePO", "SparsePO, sparser"),
        measure="contrast",
        evaluation="language/preference",
    ),
    "language/prop": Claim(
        text="A masked language model that also learns which of two sets of words represents a document "
        "ranks documents for queries better without any label (PROP, arXiv 2010.10137)",
        config=RANKING,
        variants={"mlm": {"system": "language/mlm"}, "prop": {"system": "language/prop"}},
        about=("prop",),
        measure="nDCG@10",
        evaluation=RETRIEVAL,
    ),
    "language/prop-few-labels": Claim(
        text="Fine-tuned on a few labelled queries, it ranks better too (PROP, arXiv 2010.10137)",
        config=RANKING,
        variants={"mlm": {"system": "language/mlm"}, "prop": {"system": "language/prop"}},
        about=("prop",),
        measure="nDCG@10",
        evaluation={**RETRIEVAL, "labelled": 64},
    ),
    "language/meap": Claim(
        text="Masking a few tokens of the input makes a language model find facts again in long text, at no "
        "cost in perplexity (MEAP, arXiv 2502.07490)",
        config={
            "system": "language/meap",
            "preset": "small",
            "data": {"name": "language/titles", "length": 160, "vocab_size": 4096, "pack": True},
            **TINY,
            "steps": 800,
            "batch_size": 16,
        },
        variants={"next token": {"masking": None}, "meap": {"masking.ratio": 0.15}},
        about=("meap",),
        measure="found",
        evaluation={"name": "language/facts", "facts": 3},
    ),
}
