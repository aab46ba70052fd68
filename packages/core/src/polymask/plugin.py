"""What the core package registers: parts of any modality."""

from __future__ import annotations

from collections.abc import Iterable

from polymask.parts import Part
from polymask.plugins.hookspecs import hookimpl

POLYMASK_API = "1.0"


@hookimpl
def polymask_register_maskings() -> Iterable[Part]:
    return [
        Part(
            name="random",
            target="polymask.maskings:Random",
            summary="uniformly random sites, or cells of a grid",
            suits="first choice: high ratios for images, sound and clouds, low ones for text",
            paper="He et al. 2021, arXiv 2111.06377; cells: Xie et al. 2021, arXiv 2111.09886",
            tags=frozenset({"uniform"}),
        ),
        Part(
            name="bernoulli",
            target="polymask.maskings:Bernoulli",
            summary="each site by itself, by one chance or by one that goes by its score",
            suits="words, and systems whose share of hidden sites is to vary: ga-dms",
            paper="Zheng et al. 2025, arXiv 2509.09118",
            tags=frozenset({"uniform", "variable-count"}),
        ),
        Part(
            name="block",
            target="polymask.maskings:Block",
            summary="rectangles on a grid of any number of axes, hidden or kept",
            suits="grids on which single sites are guessed from their neighbours",
            paper="Bao et al. 2021, arXiv 2106.08254; kept: Baevski et al. 2022, arXiv 2212.07525",
            tags=frozenset({"grid", "uniform"}),
        ),
        Part(
            name="color",
            target="polymask.maskings:Color",
            summary="thresholded noise of a colour: even spacing, blobs of one size or large holes",
            suits="choosing how large hidden pieces are, from even spacing to large holes",
            paper="Hinojosa et al. 2024, arXiv 2407.13036",
            tags=frozenset({"grid", "uniform"}),
        ),
        Part(
            name="modalities",
            target="polymask.maskings:Modalities",
            summary="a random subset of the modalities of a sample, never all",
            suits="samples of several modalities, or layers: phg-mae",
            paper="Pirvu et al. 2025, arXiv 2510.10068",
            tags=frozenset({"variable-count", "unbounded", "uniform"}),
        ),
        Part(
            name="span",
            target="polymask.maskings:Span",
            summary="runs of neighbouring sites of a sequence",
            suits="speech and text, where single sites are guessed from their neighbours",
            paper="Baevski et al. 2020, arXiv 2006.11477",
            tags=frozenset({"sequence", "uniform"}),
        ),
        Part(
            name="frequency",
            target="polymask.maskings:Frequency",
            summary="low or high frequencies of a spectrum, or a ring; for systems that hide bins",
            suits="systems that hide frequencies: mfm",
            paper="Xie et al. 2022, arXiv 2206.07706",
            tags=frozenset({"grid", "uneven", "variable-count"}),
        ),
        Part(
            name="top-score",
            target="polymask.maskings:TopScore",
            summary="sites of highest score, or some of them and the rest at random",
            suits="something tells which sites matter: attention, rarity, a loss",
            paper="Wang et al. 2023, arXiv 2304.05919",
            tags=frozenset({"score"}),
        ),
        Part(
            name="threshold",
            target="polymask.maskings:Threshold",
            summary="sites whose score is above a threshold; a score that learns gets gradient",
            suits="masks that are learned, over weights: r-amt",
            paper="straight-through: Bengio et al. 2013, arXiv 1308.3432",
            tags=frozenset({"score", "fixed", "variable-count", "learned", "unbounded"}),
        ),
        Part(
            name="gumbel",
            target="polymask.maskings:Gumbel",
            summary="sites at random by their logits; logits that learn get gradient",
            suits="masks that are learned and drawn, over weights: maskunet",
            paper="Wang et al. 2025, arXiv 2505.03097",
            tags=frozenset({"score", "variable-count", "learned", "unbounded"}),
        ),
        Part(
            name="scheduled",
            target="polymask.maskings:Scheduled",
            summary="another masking, one option of which changes over the run",
            suits="ratios, or other options, that rise or fall over the run",
            paper="curves: Diehl Martinez et al. 2023, arXiv 2311.08886",
            defaults={"masking": "core/random"},
            tags=frozenset({"schedule"}),
        ),
        Part(
            name="drawn-ratio",
            target="polymask.maskings:DrawnRatio",
            summary="another masking, its ratio drawn for each sample and step",
            suits="systems that generate, and are to know every ratio: maskgit",
            paper="Chang et al. 2022, arXiv 2202.04200",
            defaults={"masking": "core/random"},
            tags=frozenset({"uniform", "variable-count"}),
        ),
        Part(
            name="disjoint",
            target="polymask.maskings:Disjoint",
            summary="several masks of one sample that together hide all of it",
            suits="systems of several views that share a sample out: dmjd, hpm, lut",
            paper="Ma et al. 2023, arXiv 2301.00230",
            defaults={"masking": "core/random"},
            tags=frozenset({"uniform", "views"}),
        ),
        Part(
            name="multi-block",
            target="polymask.maskings:MultiBlock",
            summary="several target blocks of a grid, and a context block without them",
            suits="systems that predict large targets from a context: ijepa, dmt-jepa",
            paper="Assran et al. 2023, arXiv 2301.08243",
            tags=frozenset({"grid", "uneven", "variable-count", "views"}),
        ),
        Part(
            name="tube",
            target="polymask.maskings:Tube",
            summary="another masking over rows and columns, the same at all times of a video",
            suits="video, where a patch hidden at one time is copied from another",
            paper="Tong et al. 2022, arXiv 2203.12602",
            defaults={"masking": "core/random"},
            tags=frozenset({"grid", "uniform"}),
        ),
        Part(
            name="tube-blocks",
            target="polymask.maskings:TubeBlocks",
            summary="blocks of rows and columns hidden at all times, in two families: small ones and large",
            suits="video, as V-JEPA hides it: salt, and mae as its teacher",
            paper="Bardes et al. 2024, arXiv 2404.08471",
            tags=frozenset({"grid", "uneven", "variable-count", "views"}),
        ),
        Part(
            name="partition",
            target="polymask.maskings:Partition",
            summary="groups of samples that show each site in one of them, to be mixed",
            suits="systems that mix samples: mixedae",
            paper="Chen et al. 2023, arXiv 2303.17152",
            # by place in the batch, so a sample's mask depends on which lead its group
            tags=frozenset({"shared"}),
        ),
    ]


@hookimpl
def polymask_register_objectives() -> Iterable[Part]:
    return [
        Part(name="mse", target="polymask.objectives:MSE", summary="mean squared error"),
        Part(name="l1", target="polymask.objectives:L1", summary="mean absolute error"),
        Part(name="smooth-l1", target="polymask.objectives:SmoothL1", summary="Huber-like error"),
        Part(name="cosine", target="polymask.objectives:Cosine", summary="one minus cosine similarity"),
        Part(
            name="spectral",
            target="polymask.objectives.spectral:Spectral",
            summary="distance of complex numbers, for spectra",
            paper="Xie et al. 2022, arXiv 2206.07706",
        ),
        Part(
            name="pairwise",
            target="polymask.objectives.ranking:Pairwise",
            summary="which of two sites of a sample has more of it",
            paper="Burges et al. 2005; by loss: Wang et al. 2023, arXiv 2304.05919",
            tags=frozenset({"relative"}),
        ),
        Part(
            name="standardised-mse",
            target="polymask.objectives.ranking:StandardisedMSE",
            summary="squared error of what is standardised within the sample",
            paper="Wang et al. 2023, arXiv 2304.05919",
            tags=frozenset({"relative"}),
        ),
        Part(
            name="binary-cross-entropy",
            target="polymask.objectives:BinaryCrossEntropy",
            summary="cross-entropy of yes or no, for each number",
            tags=frozenset({"logits"}),
        ),
        Part(
            name="dice",
            target="polymask.objectives:Dice",
            summary="overlap of what is predicted at a site and its answer, as one object",
            paper="Milletari et al. 2016, arXiv 1606.04797",
            tags=frozenset({"logits"}),
        ),
        Part(
            name="infonce",
            target="polymask.objectives.matching:Matching",
            summary="which target of the batch is that of a prediction, by softmax of cosines",
            paper="van den Oord et al. 2018, arXiv 1807.03748; Radford et al. 2021, arXiv 2103.00020",
            tags=frozenset({"relative", "two-sided"}),
        ),
        Part(
            name="sdm",
            target="polymask.objectives.matching:Matching",
            summary="divergence of such a softmax from who is alike in identity",
            paper="Jiang and Ye 2023, arXiv 2303.12501",
            defaults={"reverse": True, "temperature": 0.02},
            tags=frozenset({"relative", "two-sided"}),
        ),
        Part(
            name="cyclic",
            target="polymask.objectives.cyclic:Cyclic",
            summary="whether sites of a sample are as alike by one embedding as by the other",
            paper="Goel et al. 2022, arXiv 2205.14459; over views: Hamoud et al. 2025, arXiv 2502.13883",
            tags=frozenset({"relative", "two-sided"}),
        ),
        Part(
            name="cross-entropy",
            target="polymask.objectives:CrossEntropy",
            summary="cross-entropy of class ids",
            tags=frozenset({"classes"}),
        ),
    ]


@hookimpl
def polymask_register_datasets() -> Iterable[Part]:
    return [
        Part(
            name="few-labels",
            target="polymask.data.few_labels:few_labels",
            summary="some of the labelled training samples of another data set",
            # those of the other data set may be
            tags=frozenset({"ragged"}),
        ),
    ]


@hookimpl
def polymask_register_evaluations() -> Iterable[Part]:
    return [
        Part(
            name="heldout-loss",
            target="polymask.evaluation.heldout_loss:HeldoutLoss",
            summary="loss on held-out samples, under the same masks whatever a run was trained with",
            defaults={"masking": "core/random", "masking.ratio": 0.75},
        ),
        Part(
            name="constant-baseline",
            target="polymask.evaluation.constant_baseline:ConstantBaseline",
            summary="what predictions cost on held-out samples, beside the best constant ones",
        ),
        Part(
            name="multi-label-probe",
            target="polymask.evaluation.multi_label_probe:MultiLabelProbe",
            summary="probes of several label sets of the same data",
        ),
        Part(
            name="finetune",
            target="polymask.evaluation.finetuning.measure:Finetune",
            summary="accuracy after fine-tuning with all labels or few, beside the same encoder from scratch",
            paper="He et al. 2021, arXiv 2111.06377",
        ),
        Part(
            name="frechet-distance",
            target="polymask.evaluation.frechet_distance:FrechetDistance",
            summary="how near to held-out samples those come that a system generates, at several budgets",
            paper="Heusel et al. 2017, arXiv 1706.08500",
        ),
    ]
