"""What users of each field would run instead of polymask, for ``race_references.py``.

A reference is a model of the same sizes as polymask's, and a data set of the same files in the same order,
both as the library's own training script has them. What its users compute once before training (ids of
text, cluster numbers of frames) is computed here once too.
"""

from __future__ import annotations

import copy
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from torch.utils.data import DataLoader

from polymask import Run

DIM, DEPTH, HEADS = 192, 6, 3
"""Of every encoder; its feed-forward layers are four times as wide."""

LENGTH = 128
"""Tokens of a text at most."""

SIZE: dict[str, Any] = {
    "hidden_size": DIM,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "intermediate_size": 4 * DIM,
}


class Reference(ABC):
    """A model, and samples of the same files by number.

    Args:
        files: that both read.
        run: of polymask, on the same files.
    """

    model: nn.Module

    @abstractmethod
    def __init__(self, files: Path, run: Run) -> None: ...

    @property
    def samples(self) -> Any:
        """What the loader reads."""
        return self

    def collate(self, samples: Sequence[Any]) -> Any:
        """Samples to a batch."""
        return torch.utils.data.default_collate(list(samples))

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """What is trained on."""

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
