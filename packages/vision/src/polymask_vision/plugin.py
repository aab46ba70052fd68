"""What the vision package registers. Strings only: torch is imported when a part is used."""

from __future__ import annotations

from collections.abc import Iterable

from polymask.hookspecs import hookimpl
from polymask.parts import Part
from polymask_vision import presets

POLYMASK_API = "1.0"

JEPA = {
    "tokenizer": "vision/patches",
    "encoder": "vision/vit",
    "encoder.class_token": False,
    "masking": "core/multi-block",
    "objective": "core/smooth-l1",
}

IMAGES = "polymask_vision.datasets.base:ImageDataset"


@hookimpl
def polymask_register_tokenizers() -> Iterable[Part]:
    return [
        Part(
            name="patches",
            target="polymask_vision.tokenizers:Patches",
            presets=presets.PATCHES,
            summary="square patches of raw pixels, any image size and channel count",
            modality="image",
            tags=frozenset({"invertible"}),
        ),
        Part(
            name="code-patches",
            target="polymask_vision.codes:CodePatches",
            presets=presets.CODE_PATCHES,
            summary="square patches as numbers of the codes nearest to them, of a codebook",
            modality="image",
        ),
    ]


@hookimpl
def polymask_register_encoders() -> Iterable[Part]:
    return [
        Part(
            name="vit",
            target="polymask_vision.encoders:ViT",
            presets=presets.VIT,
            summary="timm's Vision Transformer on any subset of tokens",
            paper="Dosovitskiy et al. 2020, arXiv 2010.11929",
            modality="image",
        ),
        Part(
            name="dit",
            target="polymask_vision.dit:DiT",
            presets=presets.VIT,
            summary="a Vision Transformer whose blocks can be told a time, on any subset of tokens",
            paper="Peebles and Xie 2022, arXiv 2212.09748",
            modality="image",
        ),
        Part(
            name="conv-vit",
            target="polymask_vision.convvit:ConvViT",
            presets=presets.CONV_VIT,
            summary="convolutions that see no hidden pixel, then a Transformer, on any subset of tokens",
            paper="Gao et al. 2022, arXiv 2205.03892",
            modality="image",
        ),
        Part(
            name="resnet",
            target="polymask_vision.resnet:ResNet",
            presets=presets.RESNET,
            summary="timm's ResNet on the image its patches make, whole grids only",
            paper="He et al. 2015, arXiv 1512.03385",
            modality="image",
            tags=frozenset({"needs-grid"}),
        ),
        Part(
            name="timm",
            target="polymask_vision.backbones:Backbone",
            presets=presets.TIMM,
            summary="any backbone of timm: ViTs on any subset of tokens, others on whole grids",
            paper="Wightman 2019, github.com/huggingface/pytorch-image-models",
            modality="image",
            tags=frozenset({"needs-grid"}),
        ),
        Part(
            name="swin",
            target="polymask_vision.encoders:Swin",
            presets=presets.SWIN,
            summary="timm's Swin Transformer, hierarchical, whole grids only",
            paper="Liu et al. 2021, arXiv 2103.14030",
            modality="image",
            tags=frozenset({"needs-grid"}),
        ),
    ]


@hookimpl
def polymask_register_targets() -> Iterable[Part]:
    return [
        Part(
            name="pixels",
            target="polymask_vision.targets:Pixels",
            summary="pixels of each patch, normalised per patch or not",
            modality="image",
            tags=frozenset({"invertible"}),
        ),
        Part(
            name="codes",
            target="polymask_vision.codes:Codes",
            presets=presets.CODES,
            summary="the code nearest to each patch, of a codebook fitted by k-means",
            modality="image",
            tags=frozenset({"classes"}),
        ),
        Part(
            name="variance",
            target="polymask_vision.scores:Variance",
            summary="pixel variance of each patch, a score to hide by",
            modality="image",
            tags=frozenset({"score"}),
        ),
        Part(
            name="entropy",
            target="polymask_vision.scores:Entropy",
            summary="entropy of the pixel values of each patch, a score to hide by",
            modality="image",
            tags=frozenset({"score"}),
        ),
        Part(
            name="attention",
            target="polymask_vision.scores:Attention",
            presets=presets.TEACHER,
            summary="attention a frozen Transformer pays to each patch, a score to hide by",
            modality="image",
            tags=frozenset({"score"}),
        ),
        Part(
            name="teacher",
            target="polymask_vision.targets:Teacher",
            presets=presets.TEACHER,
            summary="layers of a finished run, or of a Transformer of timm or transformers",
            modality="image",
        ),
        Part(
            name="relations",
            target="polymask_vision.relations:Relations",
            presets=presets.TEACHER,
            summary="queries and keys within a finished run, or a Transformer of timm or transformers",
            modality="image",
        ),
        Part(
            name="dct",
            target="polymask_vision.targets:DCT",
            summary="cosine coefficients of each patch, all or the lowest",
            paper="Ahmed, Natarajan and Rao 1974",
            modality="image",
            tags=frozenset({"invertible"}),
        ),
        Part(
            name="hog",
            target="polymask_vision.targets:HOG",
            summary="histograms of oriented gradients, normalised by cell",
            paper="Dalal and Triggs 2005; as a target: Wei et al. 2021, arXiv 2112.09133",
            modality="image",
        ),
    ]


@hookimpl
def polymask_register_maskings() -> Iterable[Part]:
    return [
        Part(
            name="block",
            target="polymask.maskings:Block",
            summary="rectangles of neighbouring patches",
            suits="images, as BEiT hides them: rectangles until enough is hidden",
            paper="Bao et al. 2021, arXiv 2106.08254",
            modality="image",
            # BEiT: 75 of 196 patches, blocks of 16 patches at least
            defaults={"ratio": 0.4, "scale": (0.08, 0.4), "aspect": (0.3, 3.3)},
            tags=frozenset({"grid", "uniform"}),
        ),
    ]


@hookimpl
def polymask_register_datasets() -> Iterable[Part]:
    return [
        Part(
            name="digits",
            target="polymask_vision.datasets.digits:digits",
            prepare=IMAGES,
            summary="1,797 grey digits of 8 x 8 pixels, from scikit-learn",
            paper="Alpaydin and Kaynak 1998",
            modality="image",
        ),
        Part(
            name="fashion",
            target="polymask_vision.datasets.fashion:fashion",
            prepare=IMAGES,
            summary="8,000 grey images of clothes of 28 x 28 pixels, built in",
            paper="Xiao et al. 2017, arXiv 1708.07747",
            modality="image",
        ),
        Part(
            name="fashion-mnist",
            target="polymask_vision.datasets.fashion_mnist:fashion_mnist",
            prepare=IMAGES,
            summary="all 70,000 of them, fetched once",
            paper="Xiao et al. 2017, arXiv 1708.07747",
            modality="image",
        ),
        Part(
            name="folder",
            target="polymask_vision.datasets.folder:folder",
            prepare=IMAGES,
            summary="folder:PATH, image files in class folders or none",
            modality="image",
        ),
        Part(
            name="hf",
            target="polymask_vision.datasets.huggingface:huggingface",
            prepare=IMAGES,
            summary="hf:NAME, a data set of the Hugging Face hub or a folder in its layout",
            modality="image",
            needs="pip install 'polymask-vision[hf]'",
        ),
        Part(
            name="torchvision",
            target="polymask_vision.datasets.torchvision_sets:torchvision_set",
            prepare=IMAGES,
            summary="torchvision:CLASS, e.g. torchvision:CIFAR10",
            modality="image",
        ),
        Part(
            name="wds",
            target="polymask_vision.datasets.webdataset:webdataset",
            prepare=IMAGES,
            summary="wds:PATTERN, local tar files in WebDataset's format",
            modality="image",
        ),
        Part(
            name="segmentation",
            target="polymask_vision.datasets.segmentation:segmentation",
            prepare=IMAGES,
            summary="segmentation:PATH, images and masks of the same names in two folders",
            modality="image",
        ),
        Part(
            name="pairs",
            target="polymask_vision.datasets.pairs:pairs",
            prepare=IMAGES,
            summary="pairs:PATH, two pictures of each scene: left/a.png and right/a.png, or a_1.png, a_2.png",
            modality="image",
        ),
        Part(
            name="motorcycle",
            target="polymask_vision.datasets.motorcycle:motorcycle",
            prepare=IMAGES,
            summary="tiles of a rectified pair of photographs with the disparity of each pixel",
            paper="Scharstein et al. 2014, doi:10.1007/978-3-319-11752-2_3",
            modality="image",
        ),
        Part(
            name="stamps",
            target="polymask_vision.datasets.stamps:stamps",
            prepare=IMAGES,
            summary="785 cut-out pictures with captions in 16 classes, fetched once",
            paper="http://www.tuxpaint.org/stamps",
            modality="image",
        ),
        Part(
            name="clipart",
            target="polymask_vision.datasets.clipart:clipart",
            prepare=IMAGES,
            summary="6,732 drawings of Open Clip Art in 21 classes, fetched once",
            paper="https://openclipart.org",
            modality="image",
        ),
        Part(
            name="emoji",
            target="polymask_vision.datasets.emoji:emoji",
            prepare=IMAGES,
            summary="1,906 emoji of two vendors with names in 9 classes, fetched once",
            paper="https://github.com/iamcal/emoji-data",
            modality="image",
        ),
        Part(
            name="earth",
            target="polymask_vision.datasets.earth:earth",
            prepare=IMAGES,
            summary="tiles of maps of the Earth with the climate, or land and water, of each pixel",
            paper="Rubel et al. 2017, doi:10.1127/metz/2016/0816",
            modality="image",
            needs="pip install 'polymask-vision[earth]'",
        ),
    ]


@hookimpl
def polymask_register_systems() -> Iterable[Part]:
    return [
        Part(
            name="mae",
            target="polymask.systems.mae:MAE",
            presets=presets.MAE,
            summary="encode the visible quarter, reconstruct the rest with a light decoder",
            suits="first choice for images: the encoder sees a quarter of the tokens",
            paper="He et al. 2021, arXiv 2111.06377",
            modality="image",
            defaults={
                "tokenizer": "vision/patches",
                "encoder": "vision/vit",
                "target": "vision/pixels",
                "target.patch_norm": True,
                "masking": "core/random",
                "objective": "core/mse",
            },
        ),
        Part(
            name="umd",
            target="polymask_vision.systems.umd:UMD",
            presets=presets.UMD,
            summary="reconstruct clean images, and remove noise from noised ones: features and pictures",
            suits="features and generated images by one network",
            paper="Hansen-Estruch et al. 2024, arXiv 2406.17688",
            modality="image",
            defaults={
                "tokenizer": "vision/patches",
                "encoder": "vision/dit",
                "target": "vision/pixels",
                "masking": "core/random",
                "masking.ratio": 0.75,
                "noisy_masking": "core/random",
                "noisy_masking.ratio": 0.375,
                "objective": "core/mse",
            },
        ),
        Part(
            name="hpm",
            target="polymask_vision.systems.hpm:HPM",
            presets=presets.HPM,
            summary="train a masked autoencoder that predicts which patches are hard and hides those",
            suits="images of which much is background: learns which patches are hard and hides those",
            paper="Wang et al. 2023, arXiv 2304.05919",
            modality="image",
            defaults={
                "tokenizer": "vision/patches",
                "encoder": "vision/vit",
                "target": "vision/pixels",
                "masking": "core/top-score",
                "masking.ratio": 0.75,
                "masking.hard": (0.0, 0.5),
                "objective": "core/mse",
                "ranking_objective": "core/pairwise",
            },
        ),
        Part(
            name="hybrid-distillation",
            target="polymask_vision.systems.hybrid_distillation:HybridDistillation",
            presets=presets.HYBRID_DISTILLATION,
            summary="match features of one frozen teacher and token relations of another, without a decoder",
            suits="two frozen teachers at hand: one for what features say, one for how tokens relate",
            paper="Shi et al. 2023, arXiv 2306.15876",
            modality="image",
            defaults={
                "tokenizer": "vision/patches",
                "encoder": "vision/vit",
                "target": "vision/teacher",
                "target.layers": (-1,),
                "relation_target": "vision/relations",
                "objective": "core/smooth-l1",
                "relation_objective": "core/smooth-l1",
            },
            # what is redundant depends on the image alone; hidden content reaches the second target too
            tags=frozenset({"fixed", "sees-hidden"}),
        ),
        Part(
            name="lut",
            target="polymask_vision.systems.lut:LUT",
            presets=presets.LUT,
            summary="reconstruct one view, and predict another from the mean of the visible tokens",
            suits="mae whose visible tokens are to know the whole image, where augmentation is allowed",
            paper="Kim et al. 2023, arXiv 2310.13593",
            modality="image",
            defaults={
                "tokenizer": "vision/patches",
                "encoder": "vision/vit",
                "target": "vision/pixels",
                "target.patch_norm": True,
                "masking": "core/disjoint",
                "masking.masking": "core/random",
                "masking.masking.ratio": 0.75,
                "masking.views": 4,
                "objective": "core/mse",
                "context_objective": "core/cosine",
            },
            # half of the target follows the encoder, through batch norms
            tags=frozenset({"moving-target", "relative"}),
        ),
        Part(
            name="croco",
            target="polymask_vision.systems.croco:CroCo",
            presets=presets.CROCO,
            summary="reconstruct a picture, nine tenths hidden, from the rest and a second one of the scene",
            suits="pairs of pictures of a scene, and tasks of depth, motion or matching",
            paper="Weinzaepfel et al. 2022, arXiv 2210.10716",
            modality="image",
            defaults={
                "tokenizer": "vision/patches",
                "encoder": "vision/vit",
                "target": "vision/pixels",
                "target.patch_norm": True,
                "masking": "core/random",
                "masking.ratio": 0.9,
                "objective": "core/mse",
            },
        ),
        Part(
            name="maskalign",
            target="polymask_vision.systems.maskalign:MaskAlign",
            presets=presets.MASKALIGN,
            summary="match several layers of a frozen teacher at the visible tokens, without a decoder",
            suits="a frozen teacher is at hand, to be made smaller or moved to other data",
            paper="Xue et al. 2022, arXiv 2211.08887",
            modality="image",
            defaults={
                "tokenizer": "vision/patches",
                "encoder": "vision/vit",
                "target": "vision/teacher",
                "masking": "core/top-score",
                "masking.ratio": 0.7,
                "masking.largest": False,
                "masking.temperature": 1.0,
                "objective": "core/smooth-l1",
            },
        ),
        Part(
            name="mixedae",
            target="polymask_vision.systems.mixedae:MixedAE",
            presets=presets.MIXEDAE,
            summary="reconstruct mixed images with an encoder that learns which patches belong together",
            suits="samples that may be mixed: no mask tokens, and no token is wasted",
            paper="Chen et al. 2023, arXiv 2303.17152",
            modality="image",
            defaults={
                "tokenizer": "vision/patches",
                "encoder": "vision/vit",
                "target": "vision/pixels",
                "target.patch_norm": True,
                "masking": "core/partition",
                "objective": "core/mse",
            },
        ),
        Part(
            name="mto",
            target="polymask_vision.systems.mto:MTO",
            presets=presets.MTO,
            summary="optimise the mask token of a host, simmim or mae",
            suits="mae or simmim, when a better mask token is to save steps",
            paper="Choi et al. 2024, arXiv 2404.08330",
            modality="image",
            defaults={"host": "vision/simmim"},
        ),
        Part(
            name="colormae",
            target="polymask.systems.mae:MAE",
            presets=presets.MAE,
            summary="train vision/mae with masks from filtered noise, by default blobs of one size",
            suits="mae with hidden pieces of one size, at no further cost",
            paper="Hinojosa et al. 2024, arXiv 2407.13036",
            modality="image",
            defaults={
                "tokenizer": "vision/patches",
                "encoder": "vision/vit",
                "target": "vision/pixels",
                "target.patch_norm": True,
                "masking": "core/color",
                "objective": "core/mse",
            },
        ),
        Part(
            name="cae",
            target="polymask_vision.systems.cae:CAE",
            presets=presets.CAE,
            summary="predict latents of hidden patches from visible ones, and codes from those alone",
            suits="an encoder that is to keep no part of the pretext task: a regressor predicts",
            paper="Chen et al. 2022, arXiv 2202.03026",
            modality="image",
            defaults={
                "tokenizer": "vision/patches",
                "encoder": "vision/vit",
                "target": "vision/codes",
                "masking": "vision/block",
                "masking.ratio": 0.5,
                "masking.placement": "inside",
                "objective": "core/cross-entropy",
                "align_objective": "core/mse",
            },
            # so is the alignment's
            tags=frozenset({"moving-target"}),
        ),
        Part(
            name="dmjd",
            target="polymask_vision.systems.dmjd:DMJD",
            presets=presets.DMJD,
            summary="predict hidden and visible tokens of two views with complementary masks",
            suits="more of each image per step: two views that hide different halves",
            paper="Ma et al. 2022, arXiv 2301.00230",
            modality="image",
            defaults={
                "tokenizer": "vision/patches",
                "encoder": "vision/vit",
                "target": "vision/hog",
                "masking": "core/disjoint",
                "masking.masking": "core/random",
                "masking.masking.ratio": 0.6,
                "masking.masking.cell": 2,
                "masking.masking.rounding": "up",
                "objective": "core/mse",
                "visible_objective": "core/smooth-l1",
                "visible_objective.beta": 2.0,
            },
        ),
        Part(
            name="data2vec2",
            target="polymask.systems.data2vec2:Data2Vec2",
            presets=presets.DATA2VEC2,
            summary="predict an EMA teacher's features of hidden patches, several masks to one teacher pass",
            suits="latents as targets; several masks of an image share one pass of the teacher",
            paper="Baevski et al. 2022, arXiv 2212.07525",
            modality="image",
            defaults={
                "tokenizer": "vision/patches",
                "encoder": "vision/vit",
                "encoder.norm_first": False,
                "masking": "core/block",
                "masking.ratio": 0.8,
                "masking.side": 3,
                "masking.inverse": True,
                "objective": "core/mse",
                # 0.01 summed over 16 images in 16 views, as released
                "class_weight": 2.56,
            },
            # the target follows the encoder
            tags=frozenset({"moving-target"}),
        ),
        Part(
            name="dmt-jepa",
            target="polymask_vision.systems.dmt_jepa:DMTJEPA",
            presets=presets.DMT_JEPA,
            summary="predict summaries of like neighbours in an EMA teacher's features from a context block",
            suits="latents as targets, for tasks at each patch",
            paper="Mo and Yun 2024, arXiv 2405.17995",
            modality="image",
            defaults=JEPA,
            # the target follows the encoder
            tags=frozenset({"moving-target"}),
        ),
        Part(
            name="ijepa",
            target="polymask_vision.systems.ijepa:IJEPA",
            presets=presets.IJEPA,
            summary="predict an EMA teacher's features of target blocks from a context block",
            suits="latents as targets, without augmentation; a step costs about four of mae's",
            paper="Assran et al. 2023, arXiv 2301.08243",
            modality="image",
            defaults=JEPA,
            # the target follows the encoder
            tags=frozenset({"moving-target"}),
        ),
        Part(
            name="supervised",
            target="polymask.systems.supervised:Supervised",
            presets=presets.SUPERVISED,
            summary="train an encoder and a linear classifier on labels: fine-tuning, a baseline, a teacher",
            suits="labels for all images: a baseline, and a teacher for others",
            paper="recipe: He et al. 2021, arXiv 2111.06377",
            modality="image",
            defaults={"tokenizer": "vision/patches", "encoder": "vision/vit"},
            tags=frozenset({"fixed"}),
        ),
        Part(
            name="maskgit",
            target="polymask.systems.maskgit:MaskGIT",
            presets=presets.MASKGIT,
            summary="predict hidden codes at any ratio, and generate images from none in a few steps",
            suits="generating images from codes in a dozen passes, and completing them",
            paper="Chang et al. 2022, arXiv 2202.04200",
            modality="image",
            defaults={
                "tokenizer": "vision/code-patches",
                "encoder": "vision/vit",
                "encoder.positions": "learned",
                "encoder.class_token": False,
                "masking": "core/drawn-ratio",
                "masking.visible": 0,
                "objective": "core/cross-entropy",
                "objective.label_smoothing": 0.1,
            },
        ),
        Part(
            name="recap",
            target="polymask_vision.systems.recap:ReCAP",
            presets=presets.RECAP,
            summary="generate with the weights of a host, maskgit, and reuse keys and values between steps",
            suits="generating as maskgit does, at less cost per step",
            paper="Liu et al. 2025, arXiv 2505.19089",
            modality="image",
            defaults={"host": "vision/maskgit"},
        ),
        Part(
            name="mfm",
            target="polymask_vision.systems.masked_frequency:MaskedFrequency",
            presets=presets.MFM,
            summary="predict the frequencies that a filter removed from the image",
            suits="networks that cannot leave tokens out, and images in which detail matters",
            paper="Xie et al. 2022, arXiv 2206.07706",
            modality="image",
            defaults={
                "tokenizer": "vision/patches",
                "encoder": "vision/vit",
                "encoder.positions": "learned",
                "masking": "core/frequency",
                "objective": "core/spectral",
            },
        ),
        Part(
            name="simmim",
            target="polymask.systems.simmim:SimMIM",
            presets=presets.SIMMIM,
            summary="encode mask tokens with the rest, regress raw pixels with one linear layer",
            suits="networks of whole grids (Swin, ResNet, ConvNeXt), which mae cannot train",
            paper="Xie et al. 2021, arXiv 2111.09886",
            modality="image",
            defaults={
                "tokenizer": "vision/patches",
                "encoder": "vision/vit",
                "encoder.positions": "learned",
                "target": "vision/pixels",
                "masking": "core/random",
                "masking.ratio": 0.6,
                "masking.cell": 2,
                "masking.rounding": "up",
                "objective": "core/l1",
            },
        ),
    ]


@hookimpl
def polymask_register_evaluations() -> Iterable[Part]:
    return [
        Part(
            name="dense",
            target="polymask_vision.dense:Dense",
            summary="mean IoU and accuracy of a linear classifier of pixels, or R2 of their values",
            paper="Oquab et al. 2023, arXiv 2304.07193",
            modality="image",
        ),
        Part(
            name="other-view",
            target="polymask_vision.other_view:OtherView",
            summary="loss with the other picture of a sample, with that of another one, and with none",
            paper="Weinzaepfel et al. 2022, arXiv 2210.10716",
            modality="image",
        ),
    ]


@hookimpl
def polymask_register_recipes() -> Iterable[Part]:
    return [
        Part(
            name="cae",
            target="polymask_vision.systems.cae:cae",
            summary="fit codes to patches by k-means, then train a system that predicts them",
            paper="Chen et al. 2022, arXiv 2202.03026",
            modality="image",
        ),
        Part(
            name="maskgit",
            target="polymask_vision.systems.maskgit:maskgit",
            summary="fit codes to patches by k-means, then train a system that generates by them",
            paper="Chang et al. 2022, arXiv 2202.04200",
            modality="image",
        ),
        Part(
            name="hybrid-distillation",
            target="polymask_vision.systems.hybrid_distillation:hybrid_distillation",
            summary="train a teacher on labels and a masked autoencoder, then a student of both",
            paper="Shi et al. 2023, arXiv 2306.15876",
            modality="image",
        ),
        Part(
            name="maskalign",
            target="polymask_vision.systems.maskalign:maskalign",
            summary="train a teacher on labels, then a student that matches its layers",
            paper="Xue et al. 2022, arXiv 2211.08887",
            modality="image",
        ),
    ]
