"""Speech models of torchaudio and transformers, trained beside audio/hubert by ``race_references.py``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import soundfile
import torch
import torch.nn.functional as F
from references import DEPTH, DIM, HEADS, SIZE, Reference
from torch import Tensor, nn

from polymask import Run
from polymask.data import collate

RATE = 16_000
"""Samples of a second."""

CONVOLUTION = {"conv_dim": 128, "kernel": 32, "groups": 8}
"""Of speech: channels of all convolutions but the last, tokens that this one reaches across, its groups."""

CLUSTERS, CODE = 100, 64
"""Of speech: how many classes, and the width of their embedding."""


class Speech(Reference):
    """Recordings of one second with the clusters of their frames, which were computed before."""

    def __init__(self, files: Path, run: Run) -> None:
        self.files = sorted(files.iterdir())
        system: Any = run.system
        samples = run.data.split("train")
        batches = (collate([samples[i]]) for i in range(len(samples)))
        self.labels = torch.cat([system.target(batch, system.tokenizer(batch)) for batch in batches])
        self.frames = self.labels.shape[1]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        sound = torch.from_numpy(soundfile.read(self.files[index], dtype="float32")[0])[:RATE]
        return {"sound": F.pad(sound, (0, RATE - len(sound))), "labels": self.labels[index]}


class TorchaudioHubert(Speech):
    """torchaudio's HuBERT with its heads, and the loss of its training script."""

    def __init__(self, files: Path, run: Run) -> None:
        import torchaudio

        super().__init__(files, run)
        channels = CONVOLUTION["conv_dim"]
        convolutions = [(channels, 10, 5), *[(channels, 3, 2)] * 4, *[(channels, 2, 2)] * 2]
        masks = {"selection": "static", "other": 0.0}
        self.model = torchaudio.models.hubert_pretrain_model(
            extractor_mode="layer_norm",
            extractor_conv_layer_config=convolutions,
            extractor_conv_bias=False,
            encoder_embed_dim=DIM,
            encoder_projection_dropout=0.1,
            encoder_pos_conv_kernel=CONVOLUTION["kernel"],
            encoder_pos_conv_groups=CONVOLUTION["groups"],
            encoder_num_layers=DEPTH,
            encoder_num_heads=HEADS,
            encoder_attention_dropout=0.1,
            encoder_ff_interm_features=4 * DIM,
            encoder_ff_interm_dropout=0.1,
            encoder_dropout=0.1,
            encoder_layer_norm_first=False,
            encoder_layer_drop=0.0,
            mask_prob=0.8,
            mask_length=10,
            no_mask_overlap=False,
            mask_min_space=1,
            mask_channel_prob=0.0,
            mask_channel_length=10,
            no_mask_channel_overlap=False,
            mask_channel_min_space=1,
            skip_masked=False,
            skip_nomask=True,
            num_classes=CLUSTERS,
            final_dim=CODE,
            feature_grad_mult=0.1,
            **{f"mask_{key}": value for key, value in masks.items()},
            **{f"mask_channel_{key}": value for key, value in masks.items()},
        )

    def loss(self, batch: Any) -> Tensor:
        hidden, _, penalty = self.model(batch["sound"], batch["labels"])
        # the right cluster comes first
        right = hidden.new_zeros(len(hidden), dtype=torch.int64)
        return F.cross_entropy(hidden, right) + 10 * penalty


def speech_config() -> dict[str, Any]:
    """Sizes of transformers' models of speech."""
    return {
        **SIZE,
        "feat_extract_norm": "layer",
        "conv_dim": [CONVOLUTION["conv_dim"]] * 7,
        "num_conv_pos_embeddings": CONVOLUTION["kernel"],
        "num_conv_pos_embedding_groups": CONVOLUTION["groups"],
        "feat_proj_dropout": 0.1,
        "layerdrop": 0.0,
        "mask_time_prob": 0.8,
    }


class MaskedSpeech(Speech):
    """The same with masks, drawn where batches are made, as in transformers' pre-training script."""

    probability = 0.8

    def collate(self, samples: Sequence[Any]) -> Any:
        from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices

        mask = _compute_mask_indices((len(samples), self.frames), self.probability, 10, min_masks=2)
        return {**super().collate(samples), "mask": torch.from_numpy(mask)}


class TransformersHubert(MaskedSpeech):
    """transformers' HubertModel; its head, which transformers lacks, is HuBERT's, over hidden frames."""

    def __init__(self, files: Path, run: Run) -> None:
        from transformers import HubertConfig, HubertModel

        super().__init__(files, run)
        hubert = HubertModel(HubertConfig(**speech_config()))
        self.model = nn.ModuleDict({"hubert": hubert, "proj": nn.Linear(DIM, CODE)})
        self.model.codes = nn.Parameter(torch.rand(CLUSTERS, CODE))

    def loss(self, batch: Any) -> Tensor:
        states = self.model["hubert"](batch["sound"], mask_time_indices=batch["mask"]).last_hidden_state
        z = F.normalize(self.model["proj"](states[batch["mask"]]), dim=-1)
        cosine = z @ F.normalize(self.model.codes, dim=-1).T
        return F.cross_entropy(cosine / 0.1, batch["labels"][batch["mask"]])


class Wav2Vec2(MaskedSpeech):
    """transformers' Wav2Vec2ForPreTraining: the same encoder, and a contrastive loss."""

    probability = 0.65

    def __init__(self, files: Path, run: Run) -> None:
        from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining

        super().__init__(files, run)
        code = {"codevector_dim": CODE, "proj_codevector_dim": CODE}
        self.model: Any = Wav2Vec2ForPreTraining(Wav2Vec2Config(**speech_config(), **code))

    def collate(self, samples: Sequence[Any]) -> Any:
        from transformers.models.wav2vec2.modeling_wav2vec2 import _sample_negative_indices

        batch, count = super().collate(samples), self.model.config.num_negatives
        shape = (len(samples), self.frames)
        negatives = _sample_negative_indices(shape, count, batch["mask"].numpy())
        return {**batch, "negatives": torch.from_numpy(negatives)}

    def loss(self, batch: Any) -> Tensor:
        out = self.model(
            batch["sound"], mask_time_indices=batch["mask"], sampled_negative_indices=batch["negatives"]
        )
        return out.loss / batch["mask"].sum()
