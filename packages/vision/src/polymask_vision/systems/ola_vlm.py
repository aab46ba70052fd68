"""OLA-VLM: Elevating Visual Perception in Multimodal LLMs with Auxiliary Embedding Distillation (2024).

A language model reads images as tokens between a prompt and a text, and learns to tell the next token. Small
heads at some of its layers also have to predict what frozen teachers of depth, of segmentation and of image
generation make of the image; heads and teachers then leave, and learned task tokens stay.

    pip install 'polymask-vision[language]'
    polymask recipe vision/ola-vlm --data scenes
    polymask pretrain vision/ola-vlm --preset small --data scenes --depth_target.run FOLDER
    polymask evaluate RUN vision/answers   (and vision/layer-embeddings)
    polymask export RUN --format vlm

arXiv 2412.09585, later VisPer-LM; read with its release. Data needs captions (``--data.text_vocab bpe``, in
all presets); where a part of them is a response to the rest (``scenes``), only that part is learned.
What is masked are loss terms: a sample without an image has no targets, nor one whose target is unknown.

Here smooth L1 and InfoNCE leave out what has no target, negatives included, so that a batch of texts costs
exactly 0 and a mixed one what its images cost. The release sets all of its embedding losses to 0, by a mask
that is cleared right before them. It also counts on fixed numbers of prompt and image tokens; here places
follow from the sequence. Layers are the outputs of blocks, from 1; the last is normed. A gen target is one
vector: that of the teacher's class token, or the mean. With the language model frozen, as in pre-training,
the embedding losses reach projector, task tokens and heads alone, of one block each, so that they cannot
do the work by themselves.

Reports show texts with what is told, and the cosine of prediction and target by layer. ``encode`` gives what
the language model makes of image tokens. ``--format vlm`` is all that answers questions, for ``--base``.

Shapes: B samples, K tokens of a sequence, D width of the language model, Q queries of a head, which are the N
patches of an image or one, T width of a target.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import Batch, Losses, Mask, Preview, Step, Tokens, UserError, functional
from polymask.config import relative_to_run
from polymask.objectives.matching import require_matching
from polymask.protocols import Encoder, Objective, Target, Tokenizer
from polymask.recipes import Stage
from polymask.types import Count, NotNegative, Place, Share
from polymask_vision.interleaved import Interleaved
from polymask_vision.perceiver import PerceiverHead
from polymask_vision.vlm import ImageLanguageModel
from polymask_vision.vlm_weights import begin_with

TEACHERS = ("gen", "depth", "seg")
"""Kinds of teachers, in the order of their task tokens."""


class OLAVLM(ImageLanguageModel):
    """A language model of images and texts whose layers predict embeddings of frozen teachers.

    Args:
        tokenizer: cuts the image into tokens.
        encoder: encodes the image; it stays as it is (paper: CLIP).
        text_tokenizer: makes tokens of the text.
        text_encoder: the language model, every token of which sees those before it (paper: Llama, Phi).
        depth_target: embeddings of each patch by a teacher of depth (paper: Depth Anything V2), or none.
        seg_target: the same of segmentation (paper: OneFormer's backbone), or none.
        gen_target: the same of image generation (paper: the image encoder of unCLIP), or none.
        objective: how a predicted embedding is scored.
        match_objective: how those of a batch are told apart; one of each teacher learns its scale.
        text_objective: how a predicted token is scored.
        depth_layers: layers, from 1, that predict embeddings of depth.
        seg_layers: of segmentation.
        gen_layers: of image generation.
        embedding_weight: of each loss of embeddings.
        match_weight: of ``match_objective`` within these.
        embedding_share: of the run in which they count; behind it the next token alone does.
        task_tokens: of each teacher in the sequence.
        heads: attention heads of a head's one block.
        head_dim: width of each.
        text_to_heads: heads see the text too.
        image_block: block of the encoder whose output is seen, from the last, -1 (paper: -2).
        prompt: words in front of the image.
        with_images: False trains on texts alone, as if samples had no image.
        train_language: train the language model (paper: in the later stages).
        base: folder of a run of this system, or of its export ``vlm``, to begin with: image encoder,
            projector, task tokens and language model.
    """

    task_names = TEACHERS

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        text_tokenizer: Tokenizer,
        text_encoder: Encoder,
        depth_target: Target | None = None,
        seg_target: Target | None = None,
        gen_target: Target | None = None,
        objective: Objective,
        match_objective: Objective,
        text_objective: Objective,
        depth_layers: tuple[Count, ...] = (18, 20),
        seg_layers: tuple[Count, ...] = (10, 18),
        gen_layers: tuple[Count, ...] = (12, 20),
        embedding_weight: NotNegative = 0.5,
        match_weight: NotNegative = 0.3,
        embedding_share: Share = 1.0,
        task_tokens: Count = 8,
        heads: Count = 4,
        head_dim: Count = 32,
        text_to_heads: bool = True,
        image_block: int = -1,
        prompt: str = "",
        with_images: bool = True,
        train_language: bool = False,
        base: Place = None,
    ) -> None:
        super().__init__(
            tokenizer=tokenizer,
            encoder=encoder,
            text_tokenizer=text_tokenizer,
            text_encoder=text_encoder,
            text_objective=text_objective,
            image_block=image_block,
            prompt=prompt,
            with_images=with_images,
        )
        self.depth_target, self.seg_target, self.gen_target = depth_target, seg_target, gen_target
        self.objective, self.count, self.text_to_heads = objective, task_tokens, text_to_heads
        self.layers = {"gen": gen_layers, "depth": depth_layers, "seg": seg_layers}
        self.embedding_weight, self.match_weight = embedding_weight, match_weight
        self.embedding_share = embedding_share
        matching = require_matching(
            "ola-vlm tells embeddings of a batch apart", match_objective, "core/infonce"
        )
        width = self.text_encoder.dim
        self.heads, self.matches = nn.ModuleDict(), nn.ModuleDict()
        for name, target in self.targets():
            self._check(name, target)
            rows = task_tokens if name == "gen" else self.sites
            self.task_tokens[name] = nn.Parameter(torch.randn(rows, width))
            self.matches[name] = copy.deepcopy(matching)
            for layer in self.layers[name]:
                self.heads[f"{name}-{layer}"] = PerceiverHead(width, target.dim, heads, head_dim)
        if base is not None:
            begin_with(self, base)
        self.require_room(task_tokens * len(self.task_tokens))
        self.freeze(train_language)

    def forward(self, batch: Batch, step: Step) -> Losses:
        tokens = self.tokenizer(batch)
        sequence = self.sequence(tokens, self.has_image(batch), self.text(batch))
        states = self.states(sequence)
        losses = {"next token": self.text_objective(*self.next_token(batch, sequence, states[-1]))}
        weight = self.embedding_weight * self.counted(step)
        for name, target in self.targets():
            known_BQ, wanted_BQT = self.wanted(name, target, batch, tokens)
            for layer in self.layers[name]:
                predicted_BQT = self.predict(name, layer, sequence, states)
                near, match = self.compare(name, predicted_BQT, wanted_BQT, known_BQ)
                loss = near + self.match_weight * match
                losses[f"{name} {layer}"] = weight * loss
        return losses

    def fed(self, name: str) -> Tensor:
        """Those of image generation as they are, of others the means of groups."""
        x_QD: Tensor = self.task_tokens[name]
        return x_QD if name == "gen" else x_QD.view(self.count, -1, x_QD.shape[-1]).mean(1)

    def targets(self) -> Iterator[tuple[str, Any]]:
        """The teachers that there are, by name."""
        for name in TEACHERS:
            target: Any = getattr(self, f"{name}_target")
            if target is not None:
                yield name, target

    @torch.no_grad()
    def wanted(self, name: str, target: Any, batch: Batch, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Which embeddings are known, bool ``[B, Q]``, and what they are, ``[B, Q, T]``, 0 where unknown."""
        shows = name == "gen" and hasattr(target, "look")  # a class token too
        found = target.look(batch, tokens)[0] if shows else Tokens(target(batch, tokens), tokens.position)
        values = found.values if name != "gen" else found.values.mean(1, keepdim=True)
        values = values if found.prefix is None else found.prefix[:, :1]
        known = values.isfinite().all(-1) & self.has_image(batch)[:, None]
        return known, torch.where(known[..., None], values, 0)

    def predict(self, name: str, layer: int, sequence: Interleaved, states: list[Tensor]) -> Tensor:
        """What a head tells of the embeddings of a teacher, ``[B, Q, T]``."""
        x_BKD = states[layer - 1]
        own = x_BKD[:, sequence.spans[name]].mean(1, keepdim=True)
        learned: Tensor = self.task_tokens[name]
        queries = own if name == "gen" else learned.expand(len(x_BKD), -1, -1).to(x_BKD.dtype)
        seen = sequence.within("prompt", "image", name, *["text"] * self.text_to_heads)
        predicted: Tensor = self.heads[f"{name}-{layer}"](queries, x_BKD, seen)
        return predicted

    def compare(
        self, name: str, predicted_BQT: Tensor, wanted_BQT: Tensor, known_BQ: Tensor
    ) -> tuple[Tensor, Tensor]:
        """How near predictions are to their own target, and whether they are told from those of others."""
        near = self.objective(predicted_BQT, wanted_BQT, Mask(known_BQ))
        shown = torch.where(known_BQ[..., None], predicted_BQT, 0)
        one, other = (x.flatten(1)[:, None] for x in (shown, wanted_BQT.detach()))
        return near, self.matches[name](one, other, Mask(known_BQ.any(1, keepdim=True)))

    def counted(self, step: Step) -> float:
        """1 where embeddings count, else 0."""
        return float(self.embedding_share == 1 or step.progress < self.embedding_share)

    def schedule(self, step: Step) -> Mapping[str, float]:
        return {"embedding losses": self.counted(step)} if self.heads else {}

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        tokens = self.tokenizer(batch)
        sequence = self.sequence(tokens, self.has_image(batch), self.text(batch))
        states = self.states(sequence)
        logits_BLC, _, asked = self.next_token(batch, sequence, states[-1])
        shown: Any = self.text_tokenizer
        told = shown.compared(self.text(batch), asked.hidden, logits_BLC.argmax(-1))
        media = {"image": batch[self.tokenizer.key], "text, and what is told": told}
        lines: dict[str, Tensor] = {}
        for name, target in self.targets():
            known_BQ, wanted_BQT = self.wanted(name, target, batch, tokens)
            lines[name] = torch.full((1 + len(states),), torch.nan)
            for layer in self.layers[name]:
                predicted = self.predict(name, layer, sequence, states).float()
                alike = F.cosine_similarity(predicted, wanted_BQT.float(), dim=-1)
                lines[name][layer] = Mask(known_BQ).mean(alike)
        return Preview(media, {"cosine of prediction and target, by layer": lines} if lines else {})

    def _check(self, name: str, target: Target) -> None:
        """Refuse a teacher that does not go with the rest."""
        depth = functional.depth(self.text_encoder)
        if not self.layers[name] or max(self.layers[name]) > depth:
            raise UserError(
                f"{name}_layers={self.layers[name]}: the language model has layers 1 to {depth}, choose some "
                f"of them, or --{name}_target none"
            )
        if name != "gen" and self.sites % self.count:
            raise UserError(
                f"the {self.count} task tokens of {name} are means of as many groups of {self.sites} "
                f"patches: give --task_tokens a divisor of {self.sites}"
            )


def ola_vlm(
    stage: Stage,
    /,
    *,
    teachers: tuple[str, ...] = TEACHERS,
    language: str | None = None,
    preset: str = "small",
    patch_size: Count = 8,
    steps: Count | None = None,
) -> None:
    """An image encoder, teachers and a language model, then the system in two stages.

    In pre-training the language model is frozen, and embeddings of teachers are predicted; instruction tuning
    trains it by the next token alone, without heads and teachers. Teachers of depth and segmentation are
    trained on the maps of the data, that of generation on its classes.

    Args:
        stage: trains a run.
        teachers: which of ``gen``, ``depth`` and ``seg``.
        language: a causal model of transformers, by path, whose vocabulary the data has
            (``--data.text_vocab PATH``); by default one is trained on the texts of the data.
        preset: of all stages.
        patch_size: of all stages, in pixels.
        steps: of each stage; by default the preset's.
    """
    if unknown := set(teachers) - set(TEACHERS):
        raise UserError(f"teachers={sorted(unknown)}: choose of {', '.join(TEACHERS)}")
    maps = {"depth": "value_map", "seg": "label_map"}
    sample, classes = stage.data.split("train")[0], stage.data.labels("train")
    lacking = [name for name in teachers if (maps[name] not in sample if name in maps else classes is None)]
    if lacking:
        raise UserError(f"these data have no maps or classes for {', '.join(lacking)}: name other --teachers")
    common: dict[str, Any] = {"preset": preset, "tokenizer.patch_size": patch_size}
    common |= {} if steps is None else {"steps": steps}
    stage("encoder", "vision/mae", **common)
    slots: dict[str, Any] = {}
    for name in teachers:
        system, told = "vision/supervised", dict[str, Any]()
        if name != "gen":
            system, target = "vision/simmim", {"name": "vision/map", "layer": maps[name]}
            told = {"target": target, "objective": "core/mse", "masking": "core/random"}
        run = relative_to_run(stage(f"{name}-teacher", system, **told, **common).folder.name)
        slots[f"{name}_target"] = {"name": "vision/teacher", "run": run, "layers": (-1,)}
    none = dict.fromkeys(f"{name}_target" for name in TEACHERS)
    words: dict[str, Any] = {"text_encoder.pretrained": language}
    if language is None:
        stage("language", "vision/ola-vlm", **none, with_images=False, train_language=True, **common)
        words = {"base": relative_to_run("language")}
    first = none | slots | words | {"init": relative_to_run("encoder")}
    stage("pre-training", "vision/ola-vlm", **first, train_language=False, **common)
    last = none | words | {"base": relative_to_run("pre-training")}
    stage("tuning", "vision/ola-vlm", **last, train_language=True, **common)
