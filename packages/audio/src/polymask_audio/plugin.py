"""What the audio package registers. Strings only: torch is imported when a part is used."""

from __future__ import annotations

from collections.abc import Iterable

from polymask.parts import Part
from polymask.plugins.hookspecs import hookimpl
from polymask_audio import presets

POLYMASK_API = "1.0"

AUDIO = "polymask_audio.datasets.base:AudioDataset"


@hookimpl
def polymask_register_tokenizers() -> Iterable[Part]:
    return [
        Part(
            name="waveform",
            target="polymask_audio.tokenizers:Waveform",
            presets=presets.WAVEFORM,
            summary="windows of raw samples, 20 ms apart at any rate",
            modality="audio",
        ),
        Part(
            name="mel-frames",
            target="polymask_audio.tokenizers:MelFrames",
            presets=presets.MEL_FRAMES,
            summary="log-mel spectra, one token each",
            modality="audio",
        ),
        Part(
            name="mel-patches",
            target="polymask_audio.tokenizers:MelPatches",
            presets=presets.MEL_PATCHES,
            summary="square patches of a log-mel spectrogram, in time and frequency",
            modality="audio",
        ),
    ]


@hookimpl
def polymask_register_encoders() -> Iterable[Part]:
    return [
        Part(
            name="transformer",
            target="polymask_audio.encoders:Transformer",
            presets=presets.TRANSFORMER,
            summary="torchaudio's wav2vec 2.0 and HuBERT, on raw samples or on spectra",
            paper="Baevski et al. 2020, arXiv 2006.11477; Hsu et al. 2021, arXiv 2106.07447",
            modality="audio",
            tags=frozenset({"ordered"}),
        ),
        Part(
            name="data2vec-transformer",
            target="polymask_audio.data2vec:Data2VecTransformer",
            presets=presets.DATA2VEC_TRANSFORMER,
            summary="convolutions over the line of time, attention that falls with distance, any tokens",
            paper="Baevski et al. 2022, arXiv 2212.07525; Press et al. 2021, arXiv 2108.12409",
            modality="audio",
        ),
        Part(
            name="vit",
            target="polymask_audio.encoders:ViT",
            presets=presets.VIT,
            summary="timm's Vision Transformer on any subset of frames or patches of any length",
            paper="Dosovitskiy et al. 2020, arXiv 2010.11929",
            modality="audio",
        ),
    ]


@hookimpl
def polymask_register_targets() -> Iterable[Part]:
    return [
        Part(
            name="content",
            target="polymask_audio.content:Content",
            summary="what each token holds, normalised within it or not",
            modality="audio",
            tags=frozenset({"invertible"}),
        ),
        Part(
            name="mel",
            target="polymask_audio.targets:LogMel",
            presets=presets.LOG_MEL,
            summary="log-mel spectra over the time of each token",
            modality="audio",
        ),
        Part(
            name="teacher",
            target="polymask_audio.targets:Teacher",
            presets=presets.TEACHER,
            summary="a layer of a finished run, or of a model of torchaudio or transformers",
            modality="audio",
            needs="pip install 'polymask-audio[transformers]'",
        ),
        Part(
            name="clusters",
            target="polymask_audio.targets:Clusters",
            presets=presets.CLUSTERS,
            summary="codes of cepstra, spectra or layers: k-means, residual stages, codebooks that add up",
            paper="Hsu et al. 2021, arXiv 2106.07447; Chen et al. 2024, arXiv 2409.10788; Yang et al. 2025, "
            "arXiv 2510.25955",
            modality="audio",
            tags=frozenset({"classes"}),
        ),
        Part(
            name="distilled",
            target="polymask_audio.systems.openbeats_tokenizer:Distilled",
            presets=presets.DISTILLED,
            summary="codes of a finished run of audio/openbeats-tokenizer",
            paper="Bharadwaj et al. 2025, arXiv 2507.14129",
            modality="audio",
            tags=frozenset({"classes"}),
        ),
        Part(
            name="random-projection",
            target="polymask_audio.targets:RandomProjection",
            presets=presets.RANDOM_PROJECTION,
            summary="nearest of random codes to a random projection, nothing to fit",
            paper="Chiu et al. 2022, arXiv 2202.01855; Chen et al. 2022, arXiv 2212.09058",
            modality="audio",
            tags=frozenset({"classes"}),
        ),
    ]


@hookimpl
def polymask_register_maskings() -> Iterable[Part]:
    return [
        Part(
            name="hubert-span",
            target="polymask_audio.maskings:HubertSpan",
            summary="spans at distinct random places that may overlap, as HuBERT draws them",
            suits="frames of speech",
            paper="Baevski et al. 2020, arXiv 2006.11477; Hsu et al. 2021, arXiv 2106.07447",
            modality="audio",
            tags=frozenset({"sequence", "variable-count", "uneven"}),
        ),
        Part(
            name="bands",
            target="polymask_audio.maskings:Bands",
            summary="bands of time and bands of frequency, across the whole spectrogram",
            suits="spectrograms, where neighbours in time or frequency would give a patch away",
            paper="Park et al. 2019, arXiv 1904.08779",
            modality="audio",
            tags=frozenset({"uniform"}),
        ),
    ]


@hookimpl
def polymask_register_datasets() -> Iterable[Part]:
    return [
        Part(
            name="folder",
            target="polymask_audio.datasets.folder:folder",
            prepare=AUDIO,
            summary="folder:PATH, audio files in class folders or none",
            modality="audio",
            tags=frozenset({"ragged"}),
        ),
        Part(
            name="hf",
            target="polymask_audio.datasets.huggingface:huggingface",
            prepare=AUDIO,
            summary="hf:NAME of the Hugging Face hub, or a local folder in its layout",
            modality="audio",
            needs="pip install 'polymask-audio[hf]'",
            tags=frozenset({"ragged"}),
        ),
        Part(
            name="prompts",
            target="polymask_audio.datasets.prompts:prompts",
            prepare=AUDIO,
            summary="2,831 spoken prompts in five languages, and music, fetched once",
            modality="audio",
            tags=frozenset({"ragged"}),
        ),
        Part(
            name="words",
            target="polymask_audio.datasets.words:words",
            prepare=AUDIO,
            summary="885 spoken words by five voices, built in",
            modality="audio",
            tags=frozenset({"ragged"}),
        ),
    ]


@hookimpl
def polymask_register_systems() -> Iterable[Part]:
    return [
        Part(
            name="data2vec2",
            target="polymask.systems.data2vec2:Data2Vec2",
            presets=presets.DATA2VEC2,
            summary="predict an EMA teacher's features of masked audio, several masks to one teacher pass",
            suits="latents as targets; several masks of a sample share one pass of the teacher",
            paper="Baevski et al. 2022, arXiv 2212.07525",
            modality="audio",
            defaults={
                "tokenizer": "audio/waveform",
                "encoder": "audio/data2vec-transformer",
                "masking": "audio/hubert-span",
                "masking.probability": 0.5,
                "masking.length": 5,
                "objective": "core/mse",
                "views": 8,
                "layers": 8,
                "target_norm": "none",
                "shared_embedding": True,
                "momentum": 0.999,
                "momentum_rise": 0.1875,
                "decoder_dim": 384,
                "decoder_depth": 4,
                "decoder_kernel": 7,
                "decoder_dropout": 0.1,
            },
            # the target follows the encoder
            tags=frozenset({"moving-target"}),
        ),
        Part(
            name="hubert",
            target="polymask_audio.systems.hubert:HuBERT",
            presets=presets.HUBERT,
            summary="predict the cluster of every masked frame of speech",
            suits="speech: features of each frame that tell what is said",
            paper="Hsu et al. 2021, arXiv 2106.07447; Chen et al. 2024, arXiv 2409.10788",
            modality="audio",
            defaults={
                "tokenizer": "audio/waveform",
                "encoder": "audio/transformer",
                "target": "audio/random-projection",
                "masking": "audio/hubert-span",
                "objective": "core/cross-entropy",
            },
        ),
        Part(
            name="mae",
            target="polymask.systems.mae:MAE",
            presets=presets.MAE,
            summary="encode the visible quarter of a spectrogram, reconstruct the rest with a light decoder",
            suits="sound of any kind on a small budget; speech goes by frames, see hubert",
            paper="He et al. 2021, arXiv 2111.06377; of sound: Huang et al. 2022, arXiv 2207.06405",
            modality="audio",
            defaults={
                "tokenizer": "audio/mel-patches",
                "encoder": "audio/vit",
                "target": "audio/content",
                "target.norm": True,
                "masking": "core/random",
                "objective": "core/mse",
            },
        ),
        Part(
            name="supervised",
            target="polymask.systems.supervised:Supervised",
            presets=presets.SUPERVISED,
            summary="train an encoder and a linear classifier on labels: fine-tuning, and a baseline",
            suits="labels for all recordings, and fine-tuning",
            paper="recipe: He et al. 2021, arXiv 2111.06377",
            modality="audio",
            defaults={"tokenizer": "audio/mel-patches", "encoder": "audio/vit"},
            tags=frozenset({"fixed"}),
        ),
        Part(
            name="simmim",
            target="polymask.systems.simmim:SimMIM",
            presets=presets.SIMMIM,
            summary="encode mask tokens with the rest, regress spectra with one linear layer",
            suits="encoders that need the whole grid; a baseline without a decoder",
            paper="Xie et al. 2021, arXiv 2111.09886",
            modality="audio",
            defaults={
                "tokenizer": "audio/mel-patches",
                "encoder": "audio/vit",
                "target": "audio/content",
                "masking": "core/random",
                "masking.ratio": 0.6,
                "objective": "core/l1",
            },
        ),
        Part(
            name="openbeats",
            target="polymask_audio.systems.openbeats:OpenBEATs",
            presets=presets.OPENBEATS,
            summary="predict the acoustic token of every masked patch from the visible quarter",
            suits="sound of any kind by frames and bands, with tokens for targets; two trainings in turn",
            paper="Bharadwaj et al. 2025, arXiv 2507.14129",
            modality="audio",
            defaults={
                "tokenizer": "audio/mel-patches",
                "encoder": "audio/vit",
                "target": "audio/random-projection",
                "masking": "core/random",
                "objective": "core/cross-entropy",
                "objective.label_smoothing": 0.1,
            },
        ),
        Part(
            name="spear",
            target="polymask_audio.systems.spear:SPEAR",
            presets=presets.SPEAR,
            summary="predict every masked frame's codes in several codebooks of one or two teachers",
            suits="speech and other sound in one encoder, noise included; needs a teacher",
            paper="Yang et al. 2025, arXiv 2510.25955",
            modality="audio",
            defaults={
                "tokenizer": "audio/mel-frames",
                "encoder": "audio/transformer",
                "target": "audio/random-projection",
                "target.codes": 256,
                "target.codebooks": 8,
                "masking": "audio/hubert-span",
                "masking.probability": 0.65,
                "masking.length": 5,
                "objective": "core/cross-entropy",
                "channel_masking": "audio/hubert-span",
                "channel_masking.probability": 0.25,
                "channel_masking.length": 20,
                "channel_masking.least": 1,
            },
            # relative: sounds of one batch are mixed
            tags=frozenset({"relative"}),
        ),
        Part(
            name="openbeats-tokenizer",
            target="polymask_audio.systems.openbeats_tokenizer:OpenBEATsTokenizer",
            presets=presets.OPENBEATS_TOKENIZER,
            summary="distil an encoder into the acoustic tokens that openbeats predicts next",
            suits="the second stage of openbeats, not by itself",
            paper="Bharadwaj et al. 2025, arXiv 2507.14129",
            modality="audio",
            defaults={
                "tokenizer": "audio/mel-patches",
                "encoder": "audio/vit",
                "target": "audio/mel",
                "objective": "core/cosine",
            },
            tags=frozenset({"fixed"}),
        ),
    ]


@hookimpl
def polymask_register_recipes() -> Iterable[Part]:
    return [
        Part(
            name="speech-targets",
            target="polymask_audio.systems.speech_targets:speech_targets",
            summary="train HuBERT in iterations, each on clusters of the previous model's features",
            paper="Chen et al. 2024, arXiv 2409.10788; Hsu et al. 2021, arXiv 2106.07447",
            modality="audio",
        ),
        Part(
            name="spear",
            target="polymask_audio.systems.spear:spear",
            summary="fit codebooks of one or two teachers, then train a model that predicts the codes",
            paper="Yang et al. 2025, arXiv 2510.25955",
            modality="audio",
        ),
        Part(
            name="openbeats",
            target="polymask_audio.systems.openbeats:openbeats",
            summary="train encoder and tokenizer in turns, each distilled from the other",
            paper="Bharadwaj et al. 2025, arXiv 2507.14129",
            modality="audio",
        ),
    ]
