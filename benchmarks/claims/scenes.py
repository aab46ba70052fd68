"""What is claimed of pairs of pictures, videos, captions, layers and whole scenes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from claims.claim import Claim, trained

# Of 64 patches of 8 pixels, 13 stay visible
RENDERED = {
    "system": "vision/croco",
    "data": {"name": "vision/rendered-rooms"},
    "preset": "small",
    "tokenizer.patch_size": 8,
    "masking.ratio": 0.8,
    "steps": 800,
}


# A fifth of the images know their distances; boxes are known of all
OBJECTS = {
    "system": "vision/mom",
    "data": {"name": "vision/placed-objects", "labelled": 0.2},
    "preset": "small",
    "steps": 500,
}


# A tenth of the training tiles have a label. The ensemble is what is scored; of a network that always sees
# all layers, whose masks hide nothing, it is one pass
LAYERS = {
    "system": "vision/phg-mae",
    "data": {"name": "vision/earth-layers", "labelled": 0.1},
    "preset": "small",
}


SUBSETS = {
    "nothing hidden": {"masking.whole": 1.0, "reconstruction_weight": 0.0},
    "hidden at random, tasks alone": {"reconstruction_weight": 0.0},
    "hidden at random": {},
}


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
# 20 motions
ROOMS = {"data": {"name": "vision/recorded-poses", "windows": 40, "test_windows": 20}}


MASKED_ALONE = {
    "video_tokenizer": None,
    "video_encoder": None,
    "match_weight": 0.0,
    "geometry_weight": 0.0,
}


# Tiles of shaded relief with land and water, and of satellite images without. A teacher of minutes is never
# as sure as the paper asks (0.968): at 0.8 pseudo-labels weigh 0.2 after 100 steps and 0.5 after 200
DOMAINS = {
    "system": "vision/masked-feature",
    "data": {
        "name": "vision/earth-domains",
        "source_data": {"name": "vision/earth", "layer": "relief", "label": "land"},
        "target_data": {"name": "vision/earth", "label": "land"},
    },
    "preset": "small",
    "sure": 0.8,
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


def pixel_teacher(folder: Path) -> dict[str, Any]:
    """Train the teacher of SALT's students, for a sixth of the steps."""
    options = {"system": "vision/mae", "preset": "small-v-pixel", "steps": 100}
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
        "motion": {"masking": {"name": "core/top-score", **share}, "score": "vision/motion"},
        "top": {"masking": {"name": "core/top-score", **share}, "score": guided},
    }
    alone = {name: {**found[name], "match_weight": 0.0} for name in maskings}
    return alone | {f"{name}, contrast": {**found[name], "guide": str(DUAL[told])} for name in maskings}


def pose_codes(folder: Path) -> dict[str, Any]:
    """Train a tokenizer of poses, whose codes are predicted; one for all seeds."""
    tokenizer = trained({**ROOMS, "system": "vision/pose-tokenizer", "preset": "small"}, folder, "tokenizer")
    return dict.fromkeys(("tokenizer.run", "target.run"), str(tokenizer.folder))


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
    "vision/salt": Claim(
        text="At equal steps, its teacher's included, a student of a frozen teacher that learned from pixels "
        "knows more than V-JEPA, whose teacher is a moving average, and than V-Pixel, the teacher trained on "
        "(SALT, arXiv 2509.24317); digits that move, which are made up",
        config={"system": "vision/salt", "data": "vision/moving-digits", "preset": "small", "steps": 600},
        variants={
            "v-jepa": {"teacher": "ema", "momentum": 0.98},
            "v-pixel": {"system": "vision/mae", "preset": "small-v-pixel"},
            "salt": {"teacher": str(V_PIXEL.with_name(f"{V_PIXEL.name}-all")), "steps": 500},
        },
        about=("salt",),
        measure="linear",
        may_differ=("steps",),
        prepare=pixel_teacher,
    ),
    "vision/tgm": Claim(
        text="Contrast of visible parts with captions raises a linear probe whatever is hidden, and by more "
        "than what is hidden does: tubes, what moves, or what captions match best (TGM, arXiv 2408.00759, by "
        "linear probes); made-up clips whose captions name the label, so that the "
        "contrast is supervision: see vision/tgm-untold",
        config={"system": "vision/tgm", "data": TOLD[True], "preset": "small", "steps": 300},
        variants=hidden_by(True, "tube", "motion", "top"),
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
    "vision/croco": Claim(
        text="Completing a picture from a second one of the scene teaches more of depth than completing it "
        "alone (CroCo, arXiv 2210.10716); depth by the encoder of one picture, of rendered rooms",
        config=RENDERED,
        variants={"mae": {"conditioning": "none"}, "croco": {}},
        about=("croco",),
        evaluation={"name": "vision/dense", "images": None},
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
            "steps": 300,
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
            "hidden, no painting": {"reconstruction_weight": 0.0},
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
        "(PreViPS, arXiv 2502.13883); captured motions, synthetic cameras, five labelled windows of each",
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
    "vision/phg-mae": Claim(
        text="Layers hidden at random, and answers averaged over many masks, tell a task better than a "
        "network that always sees all layers does (PHG-MAE, arXiv 2510.10068)",
        config=LAYERS,
        variants=SUBSETS,
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
        text="Its ensemble says more often the same of an image to which a little noise is added, in place "
        "of the next frame of a video (PHG-MAE, arXiv 2510.10068)",
        config=LAYERS,
        variants=SUBSETS,
        about=("hidden at random",),
        evaluation="vision/mask-ensemble",
        measure="climate consistency",
        runs="vision/phg-mae",
    ),
    "vision/mayor": Claim(
        text="A mask head that sees all of a box at once tells an instance from its neighbours better than "
        "one of convolutions (MAYOR, arXiv 2109.03426, as rebuilt from its abstract), both behind one "
        "convolution; instances crowded by others, of drawn lines of text in given boxes",
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
