"""What users of each field would run instead of polymask, for ``race_references.py``.

A reference is a model of the same sizes as polymask's, and a data set of the same files in the same order,
both as the library's own training script has them. What its users compute once before training (ids of
text, cluster numbers of frames) is computed here once too.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from torch.utils.data import DataLoader

from polymask import Run
from polymask.data import collate

DIM, DEPTH, HEADS = 192, 6, 3
"""Of every encoder; its feed-forward layers are four times as wide."""

RATE, LENGTH = 16_000, 128
"""Samples of a second of sound, tokens of a text at most."""

CONVOLUTION = {"conv_dim": 128, "kernel": 32, "groups": 8}
"""Of speech: channels of all convolutions but the last, tokens that this one reaches across, its groups."""

CLUSTERS, CODE = 100, 64
"""Of speech: how many classes, and the width of their embedding."""

SIZE: dict[str, Any] = {
    "hidden_size": DIM,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "intermediate_size": 4 * DIM,
}


class Reference:
    """A model, and samples of the same files by number.

    Args:
        files: that both read.
        run: of polymask, on the same files.
    """

    model: nn.Module

    def __init__(self, files: Path, run: Run) -> None:
        raise NotImplementedError

    @property
    def samples(self) -> Any:
        """What the loader reads."""
        return self

    def collate(self, samples: Sequence[Any]) -> Any:
        """Samples to a batch."""
        return torch.utils.data.default_collate(list(samples))

    def loss(self, batch: Any) -> Tensor:
        """What is trained on."""
        raise NotImplementedError

    @cached_property
    def optimiser(self) -> torch.optim.Optimizer:
        """AdamW, fused: that of ``transformers.Trainer``, which is polymask's too."""
        return torch.optim.AdamW(self.model.train().parameters(), 1e-4, weight_decay=0.01, fused=True)

    def loader(self, order: Sequence[Sequence[int]]) -> Iterator[Any]:
        """Batches of these samples, read in this process."""
        return iter(DataLoader(self.samples, batch_sampler=order, collate_fn=self.collate))

    def step(self, batch: Any, number: int) -> None:
        """Forward, backward, optimiser."""
        self.optimiser.zero_grad(set_to_none=True)
        self.loss(batch).backward()
        self.optimiser.step()


def tokenizer_of(run: Run, **more: Any) -> Any:
    """The vocabulary of a run, as a tokenizer of transformers."""
    from transformers import PreTrainedTokenizerFast

    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]", **more}
    return PreTrainedTokenizerFast(tokenizer_file=run.facts["tokenizer_file"], **names)


class Bert(Reference):
    """transformers' BertForMaskedLM with DataCollatorForLanguageModeling, as in its ``run_mlm.py``."""

    def __init__(self, files: Path, run: Run) -> None:
        from datasets import Dataset
        from transformers import BertConfig, BertForMaskedLM, DataCollatorForLanguageModeling

        tokenizer = tokenizer_of(run, cls_token="[CLS]", sep_token="[SEP]")
        lines = files.read_text().splitlines()
        read: Any = tokenizer(lines, truncation=True, max_length=LENGTH, return_special_tokens_mask=True)
        self.data = Dataset.from_dict(dict(read))
        self.collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
        config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=LENGTH, **SIZE)
        self.model = BertForMaskedLM(config)

    @property
    def samples(self) -> Any:
        return self.data

    def collate(self, samples: Sequence[Any]) -> Any:
        return self.collator(list(samples))

    def loss(self, batch: Any) -> Tensor:
        return self.model(**batch).loss


class Dpo(Reference):
    """TRL's DPOTrainer, its loss and its collator, without recomputing activations."""

    def __init__(self, files: Path, run: Run) -> None:
        from datasets import Dataset
        from transformers import LlamaForCausalLM
        from trl import DPOConfig, DPOTrainer

        tokenizer = tokenizer_of(run, bos_token="[CLS]", eos_token="[SEP]")
        # TRL writes the end itself
        start = TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", tokenizer.bos_token_id)])
        tokenizer.backend_tokenizer.post_processor = start
        pairs = [json.loads(line) for line in files.read_text().splitlines()]
        encoder: Any = run.system.encoder
        config = copy.deepcopy(encoder.model.config)
        config._name_or_path = ""
        self.trainer = DPOTrainer(
            LlamaForCausalLM(config),
            ref_model=LlamaForCausalLM(config),
            args=DPOConfig(
                output_dir="runs/trl",
                use_cpu=True,
                bf16=False,
                beta=0.1,
                max_length=LENGTH,
                gradient_checkpointing=False,
                disable_dropout=True,
                report_to=[],
            ),
            train_dataset=Dataset.from_list(pairs),
            processing_class=tokenizer,
        )
        self.model: Any = self.trainer.model
        self.data: Any = self.trainer.train_dataset

    @property
    def samples(self) -> Any:
        return self.data

    def collate(self, samples: Sequence[Any]) -> Any:
        return self.trainer.data_collator(list(samples))

    def loss(self, batch: Any) -> Tensor:
        found: Tensor = self.trainer.compute_loss(self.model, batch)
        return found


class SimMim(Reference):
    """transformers' ViTForMaskedImageModeling, with the transforms and masks of its ``run_mim.py``."""

    def __init__(self, files: Path, run: Run) -> None:
        from torchvision.datasets.folder import default_loader
        from torchvision.transforms import Compose, Grayscale, Normalize, ToTensor
        from transformers import ViTConfig, ViTForMaskedImageModeling

        facts, system = run.facts, run.system
        patch = system.tokenizer.patch_size
        self.files, self.load = sorted(files.iterdir()), default_loader
        self.transform = Compose([Grayscale(), ToTensor(), Normalize(facts["mean"], facts["std"])])
        side = facts["size"][0]
        self.patches = (side // patch) ** 2
        image = {"image_size": side, "patch_size": patch, "num_channels": 1, "encoder_stride": patch}
        self.model = ViTForMaskedImageModeling(ViTConfig(**image, **SIZE))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        mask = np.zeros(self.patches, dtype=bool)
        mask[np.random.permutation(self.patches)[: round(0.6 * self.patches)]] = True
        image = self.transform(self.load(str(self.files[index])))
        return {"pixel_values": image, "bool_masked_pos": torch.from_numpy(mask)}

    def loss(self, batch: Any) -> Tensor:
        return self.model(**batch).loss


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
