"""What is claimed of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from claims.claim import Claim, trained
from polymask import RunConfig
from polymask.run import open_data_of
from polymask_vision.codes import fit_codes

SMALL = {"data": "vision/fashion", "preset": "small", "steps": 600}

# A constant learning rate, so that every point on the way is the end of a run of that length
CURVES = {**SMALL, "steps": 400, "schedule": "constant", "probe_every": 40}

# One view as DMJD hides it, and two views without its second head
ONE = {"name": "core/random", "ratio": 0.6, "rounding": "up"}
VIEWS = {"system": "vision/dmjd", "visible_weight": 0.0}

HOSTED = {"system": "vision/mto", "host.encoder.dim": 64}

EARTH = {
    "data": {"name": "vision/earth", "augment": "crop-flip", "crop_scale": [0.3, 1.0]},
    "preset": "small",
    "tokenizer.patch_size": 8,
}

# Patches of 8 pixels at half the size of the photographs: of 36, a quarter stays visible
STEREO = {
    "system": "vision/croco",
    "data": {"name": "vision/motorcycle", "size": 48},
    "preset": "small",
    "tokenizer.patch_size": 8,
    "masking.ratio": 0.75,
    "steps": 600,
}

# A fifth of the images know their distances; boxes are known of all
OBJECTS = {
    "system": "vision/mom",
    "data": {"name": "vision/placed-objects", "labelled": 0.2},
    "preset": "small",
    "steps": 500,
}

DENSE = {"name": "vision/dense", "by_class": False}

# A tenth of the training tiles have a label; the ensemble is what is scored
LAYERS = {
    "system": "vision/phg-mae",
    "data": {"name": "vision/earth-layers", "labelled": 0.1},
    "preset": "small",
}
ALL_LAYERS = {"masking.whole": 1.0, "reconstruction_weight": 0.0}

# Boxes are given: heads and losses alone differ
LINES = {
    "system": "vision/mayor",
    "data": {"name": "vision/curved-text", "count": 1500},
    "preset": "small",
    "steps": 400,
}
BCE = {"objective": "core/binary-cross-entropy"}
HEADS = {
    "deconv, bce": {"head": "deconv", **BCE},
    "deconv, dice": {"head": "deconv"},
    "deconv of as many weights, dice": {"head": "deconv-wide"},
    "deconv with coordinates, dice": {"head": "deconv-coordinates"},
    "mlp, bce": BCE,
    "mlp, dice": {},
}

# Tests are by other cameras than those of training
ROOMS = {"data": {"name": "vision/camera-poses", "windows": 800, "test_windows": 400}}
MASKED_ALONE = {
    "video_tokenizer": None,
    "video_encoder": None,
    "match_weight": 0.0,
    "geometry_weight": 0.0,
}

# Tiles of shaded relief with climates, and of satellite images without
DOMAINS = {
    "system": "vision/masked-feature",
    "data": "vision/earth-domains",
    "preset": "small",
    "steps": 300,
}

V_PIXEL = Path("runs", "evidence-vision-salt-teacher")
"""Teacher of video, one for all seeds."""

TOLD = {
    True: {"name": "vision/moving-digits", "coloured": True},
    False: {"name": "vision/moving-digits", "coloured": True, "told": ["colour", "direction"]},
}
"""Digits that move, by whether their captions tell which they are."""

DUAL = {told: Path("runs", f"evidence-vision-tgm-guide-{'told' if told else 'untold'}") for told in TOLD}
"""What tells TGM where its captions are, one for all seeds."""

CODES = Path("runs", "evidence-vision-codes.safetensors")
"""Codebook of patches, one for all seeds."""


def codes(folder: Path) -> dict[str, Any]:
    """Fit 512 codes to patches of the training images."""
    if not CODES.exists():
        config = RunConfig.resolve({**SMALL, "system": "vision/cae"})
        data = open_data_of(config)
        fit_codes(CODES, data, config.system.options["tokenizer"].build(data.provides), codes=512)
    return {"target.file": str(CODES)}


def supervised_teacher(folder: Path) -> dict[str, Any]:
    """Train a teacher on labels; its class token is classified, so that its attention says what matters."""
    teacher = trained({**SMALL, "system": "vision/supervised", "pool": "prefix"}, folder, "teacher")
    return {"target.run": str(teacher.folder)}


def pixel_teacher(folder: Path) -> dict[str, Any]:
    """Train the teacher of SALT's students, for a sixth of the steps."""
    options = {"system": "vision/mae", "preset": "small-v-pixel", "steps": 200}
    trained({"data": "vision/moving-digits", **options}, V_PIXEL, "all")
    return {}


def guide(told: bool) -> Callable[[Path], Mapping[str, Any]]:
    """Train an encoder of patches and one of captions that share a space."""

    def prepare(folder: Path) -> Mapping[str, Any]:
        config = {"system": "vision/dual", "data": TOLD[told], "preset": "small"}
        trained(config, DUAL[told].with_name("evidence-vision-tgm-guide"), "told" if told else "untold")
        return {}

    return prepare


def hidden_by(told: bool, *maskings: str) -> dict[str, dict[str, Any]]:
    """Variants of TGM by what is hidden, each without and with the contrast to captions."""
    share, guided = (
        {"ratio": 0.6, "per_axis": 0},
        {"name": "vision/text-similarity", "guide": str(DUAL[told])},
    )
    tube = {"name": "core/tube", "masking": {"name": "core/random", "ratio": 0.9}}
    found: dict[str, dict[str, Any]] = {
        "tube": {"masking": tube, "score": None},
        "random": {"masking": {"name": "core/random", "ratio": 0.6}, "score": None},
        "motion": {"masking": {"name": "core/top-score", **share}, "score": "vision/motion"},
        "bottom": {"masking": {"name": "core/top-score", **share, "largest": False}, "score": guided},
        "top": {"masking": {"name": "core/top-score", **share}, "score": guided},
    }
    alone = {name: {**found[name], "match_weight": 0.0} for name in maskings}
    return alone | {f"{name}, contrast": {**found[name], "guide": str(DUAL[told])} for name in maskings}


def pose_codes(folder: Path) -> dict[str, Any]:
    """Train a tokenizer of poses, whose codes are predicted; one for all seeds."""
    tokenizer = trained({**ROOMS, "system": "vision/pose-tokenizer", "preset": "small"}, folder, "tokenizer")
    return dict.fromkeys(("tokenizer.run", "target.run"), str(tokenizer.folder))


def two_teachers(folder: Path) -> dict[str, Any]:
    """Train a teacher of features on labels, and one of relations by masking."""
    features = trained({**SMALL, "system": "vision/supervised"}, folder, "feature-teacher")
    relations = trained({**SMALL, "system": "vision/mae"}, folder, "relation-teacher")
    return {"target.run": str(features.folder), "relation_target.run": str(relations.folder)}


def emoji(vendor: str) -> dict[str, Any]:
    """Emoji of a vendor; a picture of one vendor and its like of the other are in one split."""
    return {"name": "vision/emoji", "vendor": vendor, "size": 32}


def classifier(folder: Path) -> dict[str, Any]:
    """Train a classifier on Twitter's emoji, one for all seeds."""
    config = {"system": "vision/supervised", "preset": "small", "data": emoji("twitter"), "steps": 600}
    return {"base": str(trained(config, folder, "base").folder)}


EMOJI = {"name": "vision/emoji", "size": 32}

SELECTING = {"preset": "small", "steps": 600}


def detector(folder: Path) -> dict[str, Any]:
    """Train a classifier of whole images, one for all seeds."""
    net = {"encoder": "vision/resnet", "encoder.depths": (1, 1, 1), "encoder.width": 16}
    net |= {"encoder.bottleneck": False, "encoder.small_stem": True}
    config = {**SELECTING, **net, "system": "vision/supervised", "data": EMOJI}
    return {"detector": str(trained(config, folder, "detector").folder)}


SCENES = {
    "data": {"name": "vision/scenes", "count": 6000, "text_vocab": "bpe", "text_vocab_size": 1024},
    "preset": "small",
    "tokenizer.patch_size": 8,
}

TEACHERS_OF_SCENES = {
    f"{name}_target": {
        "name": "vision/teacher",
        "run": f"runs/evidence-vision-ola-vlm-{name}-teacher",
        "layers": [-1],
    }
    for name in ("depth", "seg", "gen")
}
"""One each for all seeds, as :func:`teachers_of_scenes` trains them."""


def teachers_of_scenes(folder: Path) -> dict[str, Any]:
    """Train teachers, the image encoder by masking, and a language model on the texts, one for all seeds."""
    common = {**SCENES, "steps": 600}
    encoder = trained({**common, "system": "vision/mae"}, folder, "encoder")
    trained({**common, "system": "vision/supervised"}, folder, "gen-teacher")
    for name, layer in (("depth", "value_map"), ("seg", "label_map")):
        target = {"name": "vision/map", "layer": layer}
        told = {"target": target, "objective": "core/mse", "masking": "core/random"}
        trained({**common, **told, "system": "vision/simmim"}, folder, f"{name}-teacher")
    words = {"system": "vision/ola-vlm", "with_images": False, "steps": 300}
    language = trained({**common, **words}, folder, "language")
    return {"init": str(encoder.folder), "base": str(language.folder)}


CLAIMS: dict[str, Claim] = {
    "vision/masking": Claim(
        text="Masks from green noise, or in blocks, teach a masked autoencoder more than random ones "
        "(ColorMAE, arXiv 2407.13036); each masking at its default share, 0.75, and 0.4 for blocks",
        config={**SMALL, "system": "vision/mae", "steps": 1000},
        variants={name: {"masking": name} for name in ("core/random", "core/block", "core/color")},
        about=("core/color", "core/block"),
    ),
    "vision/mae-finetune": Claim(
        text="Fine-tuned with labels, an encoder is better where patches at random were hidden from it than "
        "where blocks were, at the same share and at a smaller one (MAE, arXiv 2111.06377, table 1f)",
        config={**SMALL, "system": "vision/mae"},
        variants={
            "blocks, 75 %": {"masking": {"name": "core/block", "ratio": 0.75}},
            "blocks, 50 %": {"masking": {"name": "core/block", "ratio": 0.5}},
            "random, 75 %": {"masking": "core/random"},
        },
        about=("random, 75 %",),
        evaluation={"name": "core/finetune", "labels": [0.1], "scratch": False},
        measure="accuracy with 10 % of the labels",
    ),
    "vision/simmim": Claim(
        text="Fine-tuned with few labels, an encoder is better after regressing the pixels of hidden patches "
        "with one linear layer than from scratch (SimMIM, arXiv 2111.09886)",
        config={**SMALL, "system": "vision/simmim", "steps": 2000},
        within=("untrained", "pre-trained"),
        about=("pre-trained",),
        evaluation={"name": "core/finetune", "labels": [0.1]},
        measure="accuracy with 10 % of the labels",
    ),
    "vision/hpm": Claim(
        text="Hiding the patches that a learned predictor ranks as hard teaches more than hiding patches at "
        "random, and more than predicting the ranks alone (HPM, arXiv 2304.05919)",
        config=SMALL,
        variants={
            "mae": {"system": "vision/mae", "target.patch_norm": False},
            "hpm, prediction only": {"system": "vision/hpm", "preset": "prediction-only"},
            "hpm": {"system": "vision/hpm"},
            "hpm, complementary scoring": {"system": "vision/hpm", "scoring": "complementary"},
        },
        about=("hpm", "hpm, complementary scoring"),
    ),
    "vision/r-amt": Claim(
        text="Dropping mask gradients that lead away from the classifier as it was keeps more of what it "
        "knew (R-AMT, arXiv 2307.15049), here of emoji of one vendor, while masks learn from few of another",
        config={
            "system": "vision/r-amt",
            "preset": "small",
            "data": {"name": "core/few-labels", "data": emoji("google"), "share": 0.2},
        },
        variants={"amt": {"drop": 0.0}, "r-amt": {"drop": 1.0}},
        about=("r-amt",),
        measure="accuracy on the base's data",
        evaluation="vision/retention",
        prepare=classifier,
        seeds=5,
    ),
    "vision/mixedae": Claim(
        text="Mixing images helps once the encoder is asked which patches belong together; mixing alone does "
        "not (MixedAE, arXiv 2303.17152)",
        config=SMALL,
        variants={
            "naive mixing": {"system": "vision/mixedae", "preset": "small-naive"},
            "mae": {"system": "vision/mae"},
            "mixedae": {"system": "vision/mixedae"},
        },
        about=("mixedae",),
        seeds=5,
    ),
    "vision/mto": Claim(
        text="Optimising the mask token reaches the same accuracy in fewer steps (MTO, arXiv 2404.08330)",
        config=CURVES,
        rows=dict.fromkeys(("simmim", "simmim with mto", "mto, without sparsity", "mto, without depth"), 64),
        variants={
            "simmim": {"system": "vision/simmim", "encoder.dim": 64},
            "simmim with mto": HOSTED,
            "mto, without sparsity": {**HOSTED, "sparsity": 0.0},
            "mto, without depth": {**HOSTED, "depth": 0.0},
        },
        about=("simmim with mto",),
    ),
    "vision/mto-mae": Claim(
        text="Optimising the mask token of a masked autoencoder's decoder reaches the same accuracy in fewer "
        "steps (MTO, arXiv 2404.08330)",
        config=CURVES,
        rows=dict.fromkeys(("mae", "mae with mto"), 64),
        variants={
            "mae": {"system": "vision/mae", "encoder.dim": 64, "decoder_depth": 2},
            "mae with mto": {**HOSTED, "preset": "small-mae"},
        },
        about=("mae with mto",),
    ),
    "vision/dmjd": Claim(
        text="Disjoint views with a loss at visible tokens too teach more in as many steps "
        "(DMJD, arXiv 2301.00230)",
        config={**CURVES, "encoder.dim": 64},
        rows={"mae of HOG": 64, "two independent views": 128, "disjoint views": 128, "dmjd": 128},
        variants={
            "mae of HOG": {"system": "vision/mae", "target": "vision/hog", "masking": ONE},
            "two independent views": {**VIEWS, "masking": ONE},
            "disjoint views": VIEWS,
            "dmjd": {"system": "vision/dmjd"},
        },
        about=("dmjd",),
    ),
    "vision/dmt-jepa": Claim(
        text="Predicting summaries of like neighbours in place of single patches teaches more of what each "
        "pixel is, here its climate (DMT-JEPA, arXiv 2405.17995)",
        config={**EARTH, "steps": 500},
        variants={
            "ijepa": {"system": "vision/ijepa"},
            "dmt-jepa": {"system": "vision/dmt-jepa"},
        },
        about=("dmt-jepa",),
        evaluation=DENSE,
        measure="mIoU",
    ),
    "vision/mfm": Claim(
        text="Predicting masked frequencies, low and high by turns, teaches more than the classical "
        "restoration tasks (Masked Frequency Modeling, arXiv 2206.07706)",
        config={**SMALL, "system": "vision/mfm"},
        variants={
            "denoising": {"corruption": "denoising"},
            "super-resolution": {"corruption": "super-resolution"},
            "deblurring": {"corruption": "deblurring"},
            "frequency": {},
        },
        about=("frequency",),
    ),
    "vision/ijepa": Claim(
        text="Predicting several large target blocks from a spread context teaches more than predicting "
        "random patches, or one block (I-JEPA, arXiv 2301.08243, table 6)",
        config={**SMALL, "system": "vision/ijepa", "momentum": 0.98},
        variants={
            "random patches": {"masking": {"name": "core/random", "ratio": 0.6}},
            "one block": {"masking": {"name": "core/block", "ratio": 0.6}},
            "several blocks": {},
        },
        about=("several blocks",),
    ),
    "vision/salt": Claim(
        text="At equal steps, its teacher's included, a student of a frozen teacher that learned from pixels "
        "knows more than V-JEPA, whose teacher is a moving average, and than V-Pixel, the teacher trained on "
        "(SALT, arXiv 2509.24317); digits that move, which are made up",
        config={"system": "vision/salt", "data": "vision/moving-digits", "preset": "small", "steps": 1200},
        variants={
            "v-jepa": {"teacher": "ema", "momentum": 0.98},
            "v-pixel": {"system": "vision/mae", "preset": "small-v-pixel"},
            "salt": {"teacher": str(V_PIXEL.with_name(f"{V_PIXEL.name}-all")), "steps": 1000},
        },
        about=("salt",),
        measure="linear",
        may_differ=("steps",),
        prepare=pixel_teacher,
    ),
    "vision/tgm": Claim(
        text="Contrast of visible parts with captions raises a linear probe whatever is hidden, and by more "
        "than what is hidden does: tubes, random, what moves, or what captions match best or least (TGM, "
        "arXiv 2408.00759, by linear probes); made-up clips whose captions name the label, so that the "
        "contrast is supervision: see vision/tgm-untold",
        config={"system": "vision/tgm", "data": TOLD[True], "preset": "small", "steps": 300},
        variants=hidden_by(True, "tube", "random", "motion", "bottom", "top"),
        about=("tube, contrast", "top, contrast"),
        measure="linear",
        prepare=guide(True),
    ),
    "vision/tgm-untold": Claim(
        text="The same of a label that captions do not tell: they name colour and direction of a digit, and "
        "not which it is (TGM, arXiv 2408.00759, whose captions were written without labels)",
        config={"system": "vision/tgm", "data": TOLD[False], "preset": "small", "steps": 300},
        variants=hidden_by(False, "tube", "top"),
        about=("tube, contrast", "top, contrast"),
        measure="linear",
        prepare=guide(False),
    ),
    "vision/lut": Claim(
        text="Predicting another view from the mean of the visible tokens teaches a masked autoencoder more "
        "(LUT, arXiv 2310.13593); the same two augmentations, and the second view unused without",
        config={**SMALL, "system": "vision/lut"},
        variants={"mae": {"context_weight": 0.0}, "lut": {}},
        about=("lut",),
    ),
    "vision/croco": Claim(
        text="Completing a picture from a second one of the scene teaches more of depth than completing it "
        "alone (CroCo, arXiv 2210.10716); disparity by the encoder of one picture, on one scene",
        config=STEREO,
        variants={"mae": {"conditioning": "none"}, "croco": {}},
        about=("croco",),
        evaluation={"name": "vision/dense", "images": None, "pixels": 100},
        measure="R2",
    ),
    "vision/ga-dms": Claim(
        text="Words of low score left out of matching make retrieval better where captions are partly wrong, "
        "and predicting those of high score a little better still (GA-DMS, arXiv 2509.09118); persons drawn "
        "by rule, 30 % of training captions with one false attribute, recall at 1 of images by captions",
        config={
            "system": "vision/ga-dms",
            "data": {"name": "vision/persons", "count": 4000, "size": 48, "false": 0.3},
            "preset": "small",
            "steps": 800,
        },
        variants={
            "no masking": {"noise_masking": None, "words_weight": 0.0},
            "random": {"noise_masking": {"name": "core/random", "ratio": 0.1}, "words_weight": 0.0},
            "noise masking": {"words_weight": 0.0},
            "ga-dms": {},
        },
        about=("noise masking", "ga-dms"),
        evaluation=["vision/text-retrieval", "vision/planted-words"],
        measure="text to image R@1",
    ),
    "vision/mom": Claim(
        text="Painting hidden cells of objects beside telling how far away they are makes distances of "
        "covered objects better than telling alone, and than painting with nothing hidden (MoM, arXiv "
        "2401.03191); digits on photographs, distances known for a fifth of the training images",
        config=OBJECTS,
        variants={
            "no painting": {"reconstruction_weight": 0.0, "masking": None},
            "nothing hidden": {"masking": None, "visible_weight": 1.0},
            "mom": {},
        },
        about=("mom",),
        evaluation="vision/distance",
        measure="AbsRel, occluded",
        lower=True,
    ),
    "vision/previps": Claim(
        text="With few labels, activities seen by new cameras are told better where clips and poses of all "
        "cameras were matched, with agreement of their geometry and masked poses, than by masked poses alone "
        "(PreViPS, arXiv 2502.13883); stick figures that are made up, five labelled windows of each activity",
        config={**ROOMS, "system": "vision/previps", "preset": "small", "steps": 250},
        variants={
            "masked poses alone": MASKED_ALONE,
            "no geometry": {"geometry_weight": 0.0},
            "no mask": {"masking": None},
            "previps": {},
        },
        about=("previps",),
        measure="linear",
        probe={"labels_per_class": 5},
        prepare=pose_codes,
    ),
    "vision/ola-vlm": Claim(
        text="A language model of images answers more questions where some of its layers also predict what "
        "teachers of depth, segmentation and whole images make of them (OLA-VLM, arXiv 2412.09585); drawn "
        "scenes, embeddings count in the first 60 % of the steps and the next token alone behind, answers "
        "without heads and teachers",
        config={**SCENES, "system": "vision/ola-vlm", "steps": 600, "embedding_share": 0.6},
        variants={"next token": {}, "ola-vlm": TEACHERS_OF_SCENES},
        about=("ola-vlm",),
        evaluation=[
            "vision/answers",
            {"name": "vision/layer-embeddings", "target": TEACHERS_OF_SCENES["depth_target"]},
        ],
        measure="accuracy",
        prepare=teachers_of_scenes,
    ),
    "vision/cae": Claim(
        text="Aligning predicted latents with those that the encoder makes of the hidden patches teaches "
        "more than predicting codes alone (CAE, arXiv 2202.03026)",
        config={**SMALL, "system": "vision/cae"},
        variants={"no alignment": {"align_weight": 0.0}, "cae": {}},
        about=("cae",),
        prepare=codes,
    ),
    "vision/data2vec2": Claim(
        text="Several masked views of a sample for one pass of the teacher teach more in the same time than "
        "one view each (data2vec 2.0, arXiv 2212.07525); as many rows go through the student",
        config={**CURVES, "system": "vision/data2vec2"},
        rows=dict.fromkeys(("one view", "four views"), 256),
        variants={
            "one view": {"views": 1, "batch_size": 256},
            "four views": {"views": 4, "batch_size": 64},
        },
        about=("four views",),
        may_differ=("batch_size",),
    ),
    "vision/maskalign": Claim(
        text="Matching a teacher's features of visible patches teaches more where those that it attends to "
        "stay visible, and several layers are matched by mixtures (MaskAlign, arXiv 2211.08887)",
        config={**SMALL, "system": "vision/maskalign"},
        variants={
            "last layer": {"target.layers": [-1], "fusion": "simple", "masking": "core/random"},
            "last layer, attention": {"target.layers": [-1], "fusion": "simple"},
            "maskalign": {},
        },
        about=("maskalign",),
        prepare=supervised_teacher,
    ),
    "vision/selfie": Claim(
        text="Fine-tuned with few labels, a ResNet is better where it learned to choose patches by their "
        "place and the visible ones than from scratch (Selfie, arXiv 1906.02940), and than where it went by "
        "the place alone",
        config={**SMALL, "system": "vision/selfie"},
        variants={
            "place alone": {"query": "position"},
            "selfie": {},
            "selfie, token queries": {"query": "token"},
        },
        about=("selfie", "selfie, token queries"),
        evaluation={"name": "core/finetune", "labels": [0.05], "seeds": 1},
        measure="accuracy with 5 % of the labels",
    ),
    "vision/hybrid-distillation": Claim(
        text="Relations of tokens, of a masked autoencoder, beside features of a supervised teacher teach "
        "more than these alone (Hybrid Distillation, arXiv 2306.15876)",
        config={**SMALL, "system": "vision/hybrid-distillation"},
        variants={"features alone": {"relation_weights": [0, 0]}, "both": {}},
        about=("both",),
        prepare=two_teachers,
    ),
    "vision/comet": Claim(
        text="A detector that looks at what a selector removes makes its masks find objects better than "
        "selector and predictor alone do, at the same budget (COMET, arXiv 2407.19308)",
        config={**SELECTING, "system": "vision/comet", "data": EMOJI, "area": 10.0, "budget": 0.4},
        variants={"selector and predictor": {"completeness": 0.0}, "comet": {}},
        about=("comet",),
        evaluation="vision/localisation",
        measure="pixel AP",
        prepare=detector,
    ),
    "vision/phg-mae": Claim(
        text="Layers hidden at random, and answers averaged over many masks, tell a task better than a "
        "network that always sees all layers does (PHG-MAE, arXiv 2510.10068)",
        config=LAYERS,
        variants={"nothing hidden": ALL_LAYERS, "hidden at random": {}},
        about=("hidden at random",),
        evaluation="vision/mask-ensemble",
        measure="climate mIoU",
    ),
    "vision/masked-feature": Claim(
        text="Features of the target of which cells are hidden, rebuilt and classified by the decoder adapt "
        "a network better than DACS alone, and than hiding them without rebuilding (arXiv 2509.13801)",
        config=DOMAINS,
        variants={
            "DACS": {"rebuilt_weight": 0.0},
            "hidden, not rebuilt": {"fill": "zeros"},
            "like the teacher's features": {"predict": "features"},
            "rebuilt": {},
        },
        about=("rebuilt",),
        evaluation={"name": "vision/segmentation", "by_class": False},
        measure="target mIoU",
    ),
    "vision/phg-mae-consistency": Claim(
        text="Its ensemble says more often the same of an image that changes a little "
        "(PHG-MAE, arXiv 2510.10068)",
        config=LAYERS,
        variants={"nothing hidden": ALL_LAYERS, "hidden at random": {}},
        about=("hidden at random",),
        evaluation="vision/mask-ensemble",
        measure="climate consistency",
        runs="vision/phg-mae",
    ),
    "vision/mayor": Claim(
        text="A mask head that sees all of a box at once tells an instance from its neighbours better than "
        "one of convolutions (MAYOR, arXiv 2109.03426, as rebuilt from its abstract); instances crowded by "
        "others, of drawn lines of text in given boxes",
        config=LINES,
        variants=HEADS,
        about=("mlp, bce", "mlp, dice"),
        evaluation="vision/instances",
        measure="mask IoU, crowded",
    ),
    "vision/mayor-leak": Claim(
        text="It marks less of the neighbours (MAYOR, arXiv 2109.03426, as rebuilt)",
        config=LINES,
        variants=HEADS,
        about=("mlp, bce", "mlp, dice"),
        evaluation="vision/instances",
        measure="leak, crowded",
        lower=True,
        runs="vision/mayor",
    ),
}
