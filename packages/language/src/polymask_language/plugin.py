"""What the language package registers. Strings only: torch is imported when a part is used."""

from __future__ import annotations

from collections.abc import Iterable

from polymask.parts import Part
from polymask.plugins.hookspecs import hookimpl
from polymask_language import presets

POLYMASK_API = "1.0"

TEXT = "polymask_language.datasets.base:TextDataset"
EXCHANGES = "polymask_language.datasets.exchanges:ExchangeDataset"

PLANS = "polymask_language.datasets.plans:PlanDataset"


@hookimpl
def polymask_register_tokenizers() -> Iterable[Part]:
    return [
        Part(
            name="tokens",
            target="polymask_language.tokenizers:TokenIds",
            presets=presets.TOKEN_IDS,
            summary="token ids of one document per sequence, or of several packed together",
            modality="text",
            tags=frozenset({"invertible"}),
        ),
        Part(
            name="steps",
            target="polymask_language.steps:Steps",
            summary="steps of plans as one-hot rows",
            modality="plan",
            tags=frozenset({"invertible"}),
        ),
    ]


@hookimpl
def polymask_register_encoders() -> Iterable[Part]:
    return [
        Part(
            name="transformer",
            target="polymask_language.encoders:Transformer",
            presets=presets.ENCODER,
            summary="BERT, RoBERTa or ModernBERT of transformers, built or loaded, on any subset of tokens",
            paper="Devlin et al. 2018, arXiv 1810.04805",
            modality="text",
        ),
        Part(
            name="causal",
            target="polymask_language.encoders:Causal",
            presets=presets.ENCODER,
            summary="GPT-2 or Llama of transformers, built or loaded, on any subset of tokens",
            paper="Radford et al. 2019; Touvron et al. 2023, arXiv 2302.13971",
            modality="text",
        ),
    ]


@hookimpl
def polymask_register_targets() -> Iterable[Part]:
    return [
        Part(
            name="word-class",
            target="polymask_language.targets:WordClass",
            summary="part of speech of each token's word, as a class to predict",
            paper="Diehl Martinez et al. 2023, arXiv 2311.08886",
            modality="text",
            tags=frozenset({"classes"}),
        ),
        Part(
            name="token-id",
            target="polymask_language.targets:TokenId",
            summary="token ids as classes to predict",
            modality="text",
            tags=frozenset({"classes"}),
        ),
        Part(
            name="part-of-speech",
            target="polymask_language.targets:PartOfSpeech",
            summary="1 for tokens of chosen parts of speech such as nouns and verbs, a score to hide by",
            modality="text",
            tags=frozenset({"score"}),
        ),
        Part(
            name="frequency",
            target="polymask_language.targets:Rarity",
            summary="rarity of each token in the corpus, a score to hide by",
            modality="text",
            tags=frozenset({"score"}),
        ),
    ]


@hookimpl
def polymask_register_maskings() -> Iterable[Part]:
    return [
        Part(
            name="words",
            target="polymask_language.maskings:Words",
            summary="whole words, with all their subword tokens",
            suits="text, where parts of a word would give the rest of it away",
            paper="Ma et al. 2020, arXiv 2010.10137",
            modality="text",
            tags=frozenset({"sequence", "variable-count"}),
        ),
        Part(
            name="rates",
            target="polymask_language.maskings:Rates",
            summary="each token at random, at one rate where the score is high and at another elsewhere",
            suits="text of which some words, nouns or rare ones, are to be hidden more often",
            paper="Diehl Martinez et al. 2023, arXiv 2311.08886",
            modality="text",
            tags=frozenset({"score", "variable-count"}),
        ),
        Part(
            name="learned-weight",
            target="polymask_language.weights:LearnedWeight",
            presets=presets.LEARNED_WEIGHT,
            summary="learned, sparse weights on loss terms, computed from a frozen model's states",
            suits="sparsepo as published",
            paper="Christopoulou et al. 2024, arXiv 2410.05102",
            modality="text",
            tags=frozenset({"score", "soft", "learned", "fixed", "variable-count"}),
        ),
        Part(
            name="activation-weight",
            target="polymask_language.weights:ActivationWeight",
            summary="weights on loss terms, from the activation magnitudes of a frozen model (MaPO)",
            suits="sparsepo without weights of its own to learn",
            paper="Christopoulou et al. 2024, arXiv 2410.05102",
            modality="text",
            tags=frozenset({"score", "soft", "fixed", "variable-count"}),
        ),
        Part(
            name="constant-weight",
            target="polymask_language.weights:ConstantWeight",
            presets=presets.CONSTANT_WEIGHT,
            summary="one constant weight on all loss terms",
            suits="a baseline of sparsepo: all tokens count alike",
            modality="text",
            tags=frozenset({"soft", "fixed", "shared", "uniform", "variable-count"}),
        ),
        Part(
            name="random-weight",
            target="polymask_language.weights:RandomWeight",
            summary="random weights on loss terms, between 0 and 1",
            suits="a baseline of sparsepo: tokens count at random",
            modality="text",
            tags=frozenset({"soft", "uniform", "variable-count"}),
        ),
    ]


@hookimpl
def polymask_register_datasets() -> Iterable[Part]:
    return [
        Part(
            name="glosses",
            target="polymask_language.datasets.glosses:glosses",
            prepare=TEXT,
            defaults={"length": 64},
            summary="117,659 definitions of WordNet, 45 topics; comes with the package",
            paper="https://wordnet.princeton.edu",
            modality="text",
            tags=frozenset({"ragged"}),
        ),
        Part(
            name="folder",
            target="polymask_language.datasets.folder:folder",
            prepare=TEXT,
            summary="folder:PATH, text files, class folders or not",
            modality="text",
            tags=frozenset({"ragged"}),
        ),
        Part(
            name="file",
            target="polymask_language.datasets.lines:lines",
            prepare=TEXT,
            summary="file:PATH, a document to a line or paragraph",
            modality="text",
            tags=frozenset({"ragged"}),
        ),
        Part(
            name="jsonl",
            target="polymask_language.datasets.json_lines:json_lines",
            prepare=TEXT,
            summary="jsonl:PATH, an object to a line, fields chosen by name",
            modality="text",
            tags=frozenset({"ragged"}),
        ),
        Part(
            name="hf",
            target="polymask_language.datasets.huggingface:huggingface",
            prepare=TEXT,
            summary="hf:NAME of the Hugging Face hub, or a local folder in its layout",
            modality="text",
            needs="pip install polymask-language[hf]",
            tags=frozenset({"ragged"}),
        ),
        Part(
            name="titles",
            target="polymask_language.datasets.titles:titles",
            prepare=TEXT,
            summary="long descriptions of Debian's packages, each answering its title",
            modality="text",
            tags=frozenset({"ragged"}),
        ),
        Part(
            name="responses",
            target="polymask_language.datasets.responses:responses",
            prepare=EXCHANGES,
            summary="responses:PATH, jsonl of prompts with a response, or a chosen and a rejected one",
            modality="text",
            tags=frozenset({"ragged"}),
        ),
        Part(
            name="sentiment",
            target="polymask_language.datasets.sentiment:sentiment",
            prepare=EXCHANGES,
            defaults={"vocab_size": 4096, "length": 64, "test": 0.2},
            summary="1,924 pairs of definitions, a pleasant word deciding; comes with the package",
            modality="text",
            tags=frozenset({"ragged"}),
        ),
        Part(
            name="openings",
            target="polymask_language.datasets.openings:openings",
            prepare=PLANS,
            summary="10,000 named lines of chess: last moves between two boards, by family; fetched once",
            modality="plan",
            needs="pip install 'polymask-language[plans]'",
        ),
        Part(
            name="json-plans",
            target="polymask_language.datasets.plans:json_plans",
            prepare=PLANS,
            summary="json-plans:PATH, plans of a jsonl file: task, actions, start and goal",
            modality="plan",
        ),
        Part(
            name="made-up-plans",
            target="polymask_language.datasets.plans:made_up_plans",
            prepare=PLANS,
            summary="plans of 12 tasks that share steps, made up, built in",
            modality="plan",
        ),
    ]


@hookimpl
def polymask_register_systems() -> Iterable[Part]:
    return [
        Part(
            name="data2vec2",
            target="polymask.systems.data2vec2:Data2Vec2",
            presets=presets.DATA2VEC2,
            summary="predict an EMA teacher's features of masked tokens, several masks to one teacher pass",
            suits="latents as targets; several masks of a sample share one pass of the teacher",
            paper="Baevski et al. 2022, arXiv 2212.07525",
            modality="text",
            defaults={
                "tokenizer": "language/tokens",
                "encoder": "language/transformer",
                "encoder.architecture": "roberta",
                "masking": "core/random",
                "masking.ratio": 0.48,
                "objective": "core/mse",
                "views": 8,
                "layers": 12,
                "target_norm": "none",
                "loss_scale": 1.0,
                "shared_embedding": True,
                "momentum": 0.9999,
                "momentum_rise": 0.1,
                "decoder_depth": 5,
                "decoder_kernel": 9,
                "decoder_groups": 1,
                "decoder_residual": False,
                "decoder_head_depth": 2,
                "decoder_dropout": 0.1,
            },
            # the target follows the encoder
            tags=frozenset({"moving-target"}),
        ),
        Part(
            name="mlm",
            target="polymask_language.systems.mlm:MLM",
            presets=presets.MLM,
            summary="predict masked tokens from both sides, as BERT does",
            suits="first choice for text encoders",
            paper="Devlin et al. 2018, arXiv 1810.04805",
            modality="text",
            defaults={
                "tokenizer": "language/tokens",
                "encoder": "language/transformer",
                "masking": "core/random",
                "masking.ratio": 0.15,
                "objective": "core/cross-entropy",
            },
        ),
        Part(
            name="climb",
            target="polymask_language.systems.climb:CLIMB",
            presets=presets.CLIMB,
            summary="train any language system with curricula over words, samples and objectives",
            suits="little text: trains another system from easy to hard",
            paper="Diehl Martinez et al. 2023, arXiv 2311.08886",
            modality="text",
            defaults={
                "host": "language/mlm",
                "class_target": "language/word-class",
                "class_target.tags": ("NOUN", "VERB"),
                "class_masking": "language/rates",
                "class_score": "language/part-of-speech",
                "class_score.tags": ("NOUN", "VERB"),
                "class_objective": "core/cross-entropy",
            },
            tags=frozenset({"more-masks"}),
        ),
        Part(
            name="mae",
            target="polymask.systems.mae:MAE",
            presets=presets.MAE,
            summary="encode only the visible tokens, predict the rest with a light decoder",
            suits="long sequences, whose hidden tokens are to cost the encoder nothing",
            paper="He et al. 2021, arXiv 2111.06377",
            modality="text",
            defaults={
                "tokenizer": "language/tokens",
                "encoder": "language/transformer",
                "target": "language/token-id",
                "masking": "core/random",
                "masking.ratio": 0.4,
                "objective": "core/cross-entropy",
            },
        ),
        Part(
            name="supervised",
            target="polymask.systems.supervised:Supervised",
            presets=presets.SUPERVISED,
            summary="train an encoder and a linear classifier on labels: fine-tuning, and a baseline",
            suits="labels for all texts, and fine-tuning",
            paper="recipe: He et al. 2021, arXiv 2111.06377",
            modality="text",
            defaults={"tokenizer": "language/tokens", "encoder": "language/transformer"},
            tags=frozenset({"fixed"}),
        ),
        Part(
            name="meap",
            target="polymask_language.systems.meap:MEAP",
            presets=presets.MEAP,
            summary="predict the next token of partially masked text",
            suits="causal language models that are to find what lies far back in their context",
            paper="Zhuang et al. 2025, arXiv 2502.07490",
            modality="text",
            defaults={
                "tokenizer": "language/tokens",
                "encoder": "language/causal",
                "masking": "core/random",
                "masking.ratio": 0.15,
                "objective": "core/cross-entropy",
            },
        ),
        Part(
            name="prop",
            target="polymask_language.systems.prop:PROP",
            presets=presets.PROP,
            summary="predict masked words, and which of two word sets is likelier for a document",
            suits="ranking documents by a query with few labels or none",
            paper="Ma et al. 2020, arXiv 2010.10137",
            modality="text",
            defaults={
                "tokenizer": "language/tokens",
                "encoder": "language/transformer",
                "masking": "language/words",
                "masking.most": 60,
                "objective": "core/cross-entropy",
            },
        ),
        Part(
            name="sparsepo",
            target="polymask_language.systems.sparsepo:SparsePO",
            presets=presets.SPARSEPO,
            summary="align a language model on preference pairs with learned token weights",
            suits="aligning a language model where few tokens of a response matter",
            paper="Christopoulou et al. 2024, arXiv 2410.05102",
            modality="text",
            defaults={
                "tokenizer": "language/tokens",
                "encoder": "language/causal",
                "encoder.dropout": 0.0,
                "masking": "language/learned-weight",
            },
            tags=frozenset({"fixed"}),
        ),
        Part(
            name="masked-pdpp",
            target="polymask_language.systems.masked_pdpp:MaskedPDPP",
            presets=presets.MASKED_PDPP,
            summary="plan steps between two observations by diffusion that is masked by the task",
            suits="plans of known tasks, each of which has few of the steps there are",
            paper="Fang et al. 2023, arXiv 2309.07409",
            modality="plan",
            defaults={"tokenizer": "language/steps"},
            tags=frozenset({"more-masks"}),
        ),
    ]


@hookimpl
def polymask_register_recipes() -> Iterable[Part]:
    return [
        Part(
            name="sparsepo",
            target="polymask_language.systems.alignment:align",
            summary="pre-train a language model, fine-tune it on responses, align it on preference pairs",
            paper="Christopoulou et al. 2024, arXiv 2410.05102",
            modality="text",
        ),
    ]


@hookimpl
def polymask_register_evaluations() -> Iterable[Part]:
    return [
        Part(
            name="perplexity",
            target="polymask_language.evaluations.perplexity:Perplexity",
            summary="perplexity or pseudo-perplexity of held-out text, with a unigram baseline",
            paper="Salazar et al. 2020, arXiv 1910.14659",
            modality="text",
        ),
        Part(
            name="minimal-pairs",
            target="polymask_language.evaluations.minimal_pairs:MinimalPairs",
            summary="accuracy on minimal pairs, sentences with and without one grammatical error",
            paper="Warstadt et al. 2020, arXiv 1912.00582",
            modality="text",
        ),
        Part(
            name="retrieval",
            target="polymask_language.evaluations.retrieval:Retrieval",
            summary="document ranking (nDCG, MRR, recall), with BM25 and query likelihood as baselines",
            modality="text",
        ),
        Part(
            name="facts",
            target="polymask_language.evaluations.facts:Facts",
            summary="recall of facts planted in long held-out text",
            paper="Zhuang et al. 2025, arXiv 2502.07490",
            modality="text",
        ),
        Part(
            name="preference",
            target="polymask_language.evaluations.preference:Preference",
            summary="accuracy on held-out preference pairs, KL from the reference, weight on deciding tokens",
            paper="Christopoulou et al. 2024, arXiv 2410.05102",
            modality="text",
        ),
        Part(
            name="planning",
            target="polymask_language.evaluations.planning:Planning",
            summary="success, accuracy and overlap of plans, beside those without diffusion",
            modality="plan",
        ),
    ]
