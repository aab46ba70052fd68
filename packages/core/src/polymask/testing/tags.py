"""Tags of a declaration: what a part promises, or declares absent on purpose."""

from __future__ import annotations

TAGS = {
    "maskings": {
        "score": "goes by `request.score`",
        "fixed": "draws the same mask whatever the step",
        "shared": "gives all samples of a batch one mask",
        "variable-count": "rows differ in how many sites they hide",
        "soft": "masks are weights between 0 and 1",
        "learned": "passes gradient on to the score",
        "unbounded": "may hide all sites of a sample, or none, as the score says",
        "uneven": "some places are hidden more often than others, on purpose",
        "uniform": "every place is hidden equally often",
        "grid": "needs sites on a grid",
        "sequence": "needs sites in a row",
        "schedule": "changes over the run",
        "views": "draws several masks of one sample, told apart by `stream`",
    },
    "objectives": {
        "classes": "predictions are logits, targets are class numbers",
        "logits": "predictions are logits, targets are probabilities",
        "relative": "a sample's score depends on the rest of the batch",
        "two-sided": "gradient reaches the target too",
    },
    "encoders": {
        "needs-grid": "encodes whole grids only",
        "ordered": "takes place from the order of tokens",
    },
    "tokenizers": {"invertible": "has `inverse`"},
    "targets": {
        "invertible": "has `invert`",
        "classes": "gives class numbers",
        "score": "gives one number per token that a masking can go by",
        "relative": "a sample's target depends on the rest of the batch",
    },
    "systems": {
        "moving-target": "the loss need not fall, as its target is learned",
        "sees-hidden": "hidden content reaches the prediction, on purpose",
        "fixed": "the loss is the same at every step",
        "relative": "a sample's loss depends on the rest of the batch",
        "more-masks": "it shows masks beside those that its maskings draw",
    },
    "datasets": {"ragged": "samples differ in length"},
    "evaluations": {},
    "recipes": {},
}
"""By kind of part: every tag that the conformance suite or a reader goes by, and what it says."""
