"""Every system with every masking, target and encoder of its modality, at tiny size.

A pair either trains, or is refused with a UserError that is listed here with its reason. The parts of a
hosted system are exchanged too.
"""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from polymask import Part, Request, RunConfig, Step, System, Tokens, UserError, default_registry
from polymask.config import PartConfig, options_of, resolve_part
from polymask.protocols import Batch
from polymask.testing.loop import built, total
from polymask.testing.subject import Subject

REGISTRY = default_registry()
SYSTEMS = REGISTRY.parts("systems")

LEAVE_OUT = (
    *("mae", "colormae", "hpm", "dmjd", "ijepa", "dmt-jepa", "data2vec2", "cae", "lut", "maskalign"),
    *("hybrid-distillation", "croco", "mom"),
)
OWN_SCORES = ("vision/ga-dms",)
"""They hide words of captions, whatever masking, by scores of their own."""
LEARNED = ("vision/r-amt", "vision/maskunet")
"""They learn what to hide."""
EVEN = {"image", "video", "motion", "plan"}
PADDED = tuple(part.full_name for part in SYSTEMS if not EVEN & set(part.modality.split("+")))
"""Their inputs differ in length, so batches are padded and fill no grid, unless told to be of one length."""
REFUSED = {
    **{
        (f"vision/{system}", f"vision/{encoder}"): "encodes whole grids only"
        for system in LEAVE_OUT
        for encoder in ("swin", "resnet", "patch-resnet", "unet", "timm")
    },
    **{
        ("vision/mixedae", f"vision/{encoder}"): "does not let"
        for encoder in ("swin", "resnet", "patch-resnet", "unet", "conv-vit", "dit", "timm", "layer-masked")
    },
    **{
        ("vision/mto", f"vision/{encoder}"): "changes attention from block to block"
        for encoder in ("swin", "resnet", "patch-resnet", "unet", "conv-vit", "dit", "timm", "layer-masked")
    },
    **{
        ("vision/mixedae", part.full_name): "does not deal sites out"
        for part in REGISTRY.parts("maskings")
        if part.full_name != "core/partition" and "score" not in part.tags
    },
    **{
        (system, masking): "form a grid without padding"
        for system in (*PADDED, "vision/ga-dms")
        for masking in ("core/frequency", "core/multi-block", "core/tube", "core/tube-blocks")
    },
    **{(f"vision/{system}", "core/multi-block"): "of rows and columns" for system in ("salt", "tgm")},
    # scores of clips, where the default is patches of images
    **{
        ("vision/mae", f"vision/{score}"): "use --tokenizer vision/tubelets"
        for score in ("motion", "text-similarity")
    },
    **{(system, "core/partition"): "needs samples of equal size" for system in (*PADDED, "vision/ga-dms")},
    **{
        (system, masking): "grid, and these"
        for system in PADDED
        if not system.startswith("language/")
        for masking in ("core/block", "core/color")
    },
    **{
        (f"audio/{system}", target): f"{system} predicts classes"
        for system in ("hubert", "spear")
        for target in ("audio/content", "audio/mel", "audio/teacher")
    },
    **{
        ("audio/openbeats-tokenizer", target): "distils features"
        for target in ("audio/clusters", "audio/distilled", "audio/random-projection")
    },
    ("vision/data2vec2", "vision/conv-vit"): "needs a class token",
    ("vision/data2vec2", "vision/layer-masked"): "what feed-forward layers return",
    **{
        (f"audio/{system}", "audio/data2vec-transformer"): "needs tokens in time"
        for system in ("mae", "simmim", "openbeats", "openbeats-tokenizer", "supervised")
    },
    **{
        ("vision/maskalign", f"vision/{encoder}"): "matches the output of every block"
        for encoder in ("conv-vit", "dit", "layer-masked")
    },
    **{
        ("vision/maskalign", f"vision/{target}"): "hides by score, and this system computes none"
        for target in (
            "pixels",
            "dct",
            "hog",
            "variance",
            "entropy",
            "attention",
            "codes",
            "relations",
            "map",
        )
    },
    **{
        (f"vision/{system}", f"vision/{encoder}"): "predicts codes by their embedding"
        for system in ("maskgit", "recap")
        for encoder in ("swin", "conv-vit", "dit")
    },
    **{
        (f"vision/{system}", f"vision/{encoder}"): "square patches of pixels"
        for system in ("maskgit", "recap")
        for encoder in ("resnet", "patch-resnet", "unet", "timm", "layer-masked")
    },
    **{
        ("vision/layer-masking", f"vision/{encoder}"): "reads the whole grid"
        for encoder in ("swin", "resnet", "patch-resnet", "unet", "timm")
    },
    ("vision/layer-masking", "core/top-score"): "has no option --score",
    ("vision/maskgit", "core/top-score"): "has no option --score",
    ("vision/masked-feature", "core/top-score"): "has no option --score",
    ("vision/recap", "core/top-score"): "has no option --host.score",
    **{
        ("vision/hybrid-distillation", f"vision/{encoder}"): "matches relations within blocks"
        for encoder in ("conv-vit", "dit", "layer-masked")
    },
    ("pointcloud/msm", "pointcloud/transformer"): "no levels: use pointcloud/unet",
    ("pointcloud/geomae", "core/span"): "spans of 10 do not fit into 4 sites",
    ("pointcloud/msm", "core/top-score"): "has no option --score",
    ("language/meap", "language/transformer"): "choose --encoder language/causal",
    ("language/prop", "language/causal"): "choose --encoder language/transformer",
    **{
        (f"language/{system}", "language/words"): "does not tell which tokens make one"
        for system in ("mae", "data2vec2")
    },
    ("language/sparsepo", "language/transformer"): "choose --encoder language/causal",
    **{
        (part.full_name, f"language/{weight}-weight"): "hides them in part"
        for part in SYSTEMS
        if part.modality == "text" and part.full_name != "language/sparsepo"
        for weight in ("learned", "activation", "constant", "random")
    },
    **{
        ("language/prop", masking): "has no option --score"
        for masking in (
            "core/top-score",
            "language/rates",
            "language/learned-weight",
            "language/activation-weight",
        )
    },
    ("vision/mixedae", "core/top-score"): "has no option --score",
    **{
        (f"vision/{system}", f"core/{objective}"): "gives one number for all"
        for system in ("hpm", "umd", "maskunet")
        for objective in ("pairwise", "standardised-mse", "infonce", "sdm", "cyclic")
    },
    **{
        (system, f"vision/{encoder}"): "cannot be told: use vision/dit"
        for system in ("vision/umd", "vision/maskunet")
        for encoder in ("vit", "conv-vit", "swin", "resnet", "patch-resnet", "unet", "timm", "layer-masked")
    },
    ("vision/mfm", "core/top-score"): "has no option --score",
    ("vision/ga-dms", "core/top-score"): "has no option --score",
    **{
        (system, part.full_name): "passes no gradient on"
        for system in LEARNED
        for part in REGISTRY.within("image").fitting("maskings")
        if not {"unbounded", "score"} <= part.tags
    },
    ("pointcloud/humanmac", "core/top-score"): "has no option --score",
    # what it paints are crops of objects
    ("vision/mom", "vision/map"): "a target of maps needs the value_map of samples",
    # its sites are a few layers, which a sample may lack
    **{("vision/phg-mae", masking): "on a grid" for masking in ("core/block", "core/color", "vision/block")},
    # their sites are persons, or joints, of whom some are not seen
    **{
        (f"vision/{system}", "core/top-score"): "has no option --score"
        for system in ("previps", "pose-tokenizer")
    },
    ("vision/phg-mae", "core/frequency"): "form a grid without padding",
    **{
        ("vision/phg-mae", masking): "form a grid without padding"
        for masking in ("core/multi-block", "core/tube", "core/tube-blocks")
    },
    ("vision/phg-mae", "core/partition"): "needs samples of equal size",
    ("vision/phg-mae", "core/span"): "spans of 10 do not fit into 3 sites",
    ("vision/phg-mae", "core/top-score"): "has no option --score",
    **{
        ("vision/selfie", f"vision/{encoder}"): "has no `of_patches`"
        for encoder in ("vit", "conv-vit", "dit", "swin", "resnet", "unet", "timm", "layer-masked")
    },
}
"""What cannot be combined, and what the user is told."""


def pairs(kind: str, of: str = "systems") -> pytest.MarkDecorator:
    """Pairs of a system, or another part, and a part of a kind that fits its modality."""
    owners = REGISTRY.parts(of)
    found = [(one, part) for one in owners for part in REGISTRY.within(one.modality).fitting(kind)]
    ids = [f"{one.full_name}-{part.full_name}" for one, part in found]
    return pytest.mark.parametrize((of.removesuffix("s"), "part"), found, ids=ids)


HOSTS = [part for part in SYSTEMS if "host" in options_of(part)]


def path_of(system: Part, slot: str) -> str | None:
    """Where a system has a slot: its own, or that of the system which it hosts."""
    if slot in options_of(system):
        return slot
    hosted = system in HOSTS and slot in options_of(REGISTRY.find("systems", system.defaults["host"]))
    return f"host.{slot}" if hosted else None


def tried(system: Part, slot: str, part: Part, **others: str) -> None:
    """One step of training; the losses are finite and gradient reaches the encoder."""
    path = path_of(system, slot)
    if path is None:
        pytest.skip(f"{system.full_name} has no slot {slot}")
    inside = path.removesuffix(slot)
    changes = {slot: part.full_name, **others}
    subject = Subject(system, REGISTRY, {f"{inside}{name}": value for name, value in changes.items()})
    if (system.full_name, part.full_name) in REFUSED:
        with pytest.raises(UserError) as caught:
            step(subject)
        assert REFUSED[system.full_name, part.full_name] in str(caught.value)
        return
    step(subject)


def step(subject: Subject) -> System:
    model, batch = built(subject, 3)
    loss = total(model, batch, Step(1, 10, 0))
    assert math.isfinite(float(loss.detach()))
    loss.backward()
    model.after_backward(Step(1, 10, 0))
    gradients = [p.grad for p in model.parameters() if p.requires_grad and p.grad is not None]
    assert any(bool(gradient.any()) for gradient in gradients)
    model.after_step(Step(1, 10, 0))
    with torch.no_grad():
        assert model.eval().encode(batch).pool().isfinite().all()
    return model


def score_of(modality: str) -> str | None:
    """A target of a modality that a masking can go by."""
    fitting = REGISTRY.within(modality).fitting("targets")
    targets = (p for p in fitting if p.modality != "any" and "score" in p.tags)
    return next((part.full_name for part in targets), None)


@pairs("maskings")
def test_masking(system: Part, part: Part) -> None:
    others: dict[str, str] = {}
    if "unbounded" in part.tags and system.full_name not in LEARNED:
        pytest.skip(f"{part.full_name} may hide all tokens or none")
    if {"unbounded", "score"} <= part.tags:
        others = {"masking.largest": "false"}
    elif "score" in part.tags and system.full_name not in LEARNED:
        score = score_of(system.modality)
        if score is None:
            pytest.skip(f"no target of {system.modality} gives a score")
        others = {"score": score}
    tried(system, "masking", part, **others)


def of_classes(system: Part) -> bool:
    """Whether a system predicts class numbers, by the objective that it has unless told otherwise."""
    owner = REGISTRY.find("systems", system.defaults["host"]) if system in HOSTS else system
    objective = owner.defaults.get("objective")
    return objective is not None and "classes" in REGISTRY.find("objectives", objective).tags


@pairs("targets")
def test_target(system: Part, part: Part) -> None:
    objectives = {}
    if part.full_name != system.defaults.get("target"):
        scores = "core/cross-entropy" if "classes" in part.tags else "core/mse"
        objectives = {slot: scores for slot in ("objective", "visible_objective") if path_of(system, slot)}
    tried(system, "target", part, **objectives)


@pairs("encoders")
def test_encoder(system: Part, part: Part) -> None:
    tried(system, "encoder", part)


@pairs("objectives")
def test_objective(system: Part, part: Part) -> None:
    if path_of(system, "objective") and of_classes(system) != ("classes" in part.tags):
        pytest.skip("one of the two is about class numbers, the other about values")
    if (system.full_name, part.full_name) == ("pointcloud/humanmac", "core/cyclic"):
        pytest.skip("compares sites with each other, and a motion is one")
    tried(system, "objective", part)


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda s: s.full_name)
def test_a_masking_that_goes_by_score_is_refused_without_one(system: Part) -> None:
    if "masking" not in options_of(system):
        pytest.skip("draws its masks itself")
    masking = system.defaults.get("masking")
    if system.full_name in OWN_SCORES:
        pytest.skip("has a score of its own")
    if masking and "score" in REGISTRY.find("maskings", masking).tags:
        pytest.skip("has a score of its own")
    for part in (p for p in REGISTRY.parts("maskings") if "score" in p.tags):
        with pytest.raises(UserError, match="score|does not deal"):
            step(Subject(system, REGISTRY, {"masking": part.full_name}))


@pytest.mark.parametrize("weigh_layers", [False, True])
@pytest.mark.parametrize("system", [s for s in SYSTEMS if s.name == "mae"], ids=lambda s: s.full_name)
def test_hidden_tokens_are_decoded_by_share_in_every_modality(system: Part, weigh_layers: bool) -> None:
    options = {"decoder": "cross", "decode_share": 0.5, "weigh_layers": weigh_layers}
    subject = Subject(system, REGISTRY, options)
    if weigh_layers and system.modality == "text":
        with pytest.raises(UserError, match="does not show them"):
            step(subject)
        return
    step(subject)


@pytest.mark.parametrize("preset", ["small", "tiny"])
@pytest.mark.parametrize("system", HOSTS, ids=lambda s: s.full_name)
def test_parts_of_a_host_are_exchanged_under_its_presets(system: Part, preset: str) -> None:
    """The part put in a slot has nothing of the one that was there; an encoder is of the preset's size."""

    def host(**changes: str) -> PartConfig:
        config = RunConfig.resolve({"system": system.full_name, "preset": preset, **changes})
        found: PartConfig = config.system.options["host"]
        return found

    registry, before = REGISTRY.within(system.modality), host()
    for slot, kind in before.slots.items():
        there = before.options.get(slot)
        for part in registry.fitting(kind):
            if there is not None and there.name == part.full_name:
                continue
            chosen = host(**{f"host.{slot}": part.full_name}).options[slot]
            own = preset if kind == "encoders" and preset in part.presets else None
            assert chosen.plain() == resolve_part(part, registry=registry, preset=own).require().plain()
    for part in registry.fitting("systems"):
        if part not in HOSTS and part.full_name != before.name:
            chosen = host(host=part.full_name)
            expected = RunConfig.resolve({"system": part.full_name, "preset": preset}).system
            assert chosen.plain() == expected.plain()


def drawn(masking: Any, tokens: Tokens, batch: Batch) -> Tensor:
    score = torch.linspace(0, 1, tokens.shape[1]).expand(tokens.shape)
    hidden: Tensor = masking(Request.of(tokens, batch, Step(1, 10, 0), score=score)).hidden
    return hidden


@pairs("maskings", "tokenizers")
def test_a_masking_takes_no_option_from_what_a_tokenizer_says(tokenizer: Part, part: Part) -> None:
    """Facts and options may share a name: the length of a text is not that of a span."""
    registry = REGISTRY.within(tokenizer.modality)
    subject = Subject(tokenizer, REGISTRY)
    config = resolve_part(part, registry=registry).require()
    if any(option.fact for option in config.known.values()):
        pytest.skip(f"{part.full_name} takes facts")
    batch = subject.batch(3)
    tokens = subject.tokenizer(batch)
    facts = {**subject.tokenizer.provides, **dict.fromkeys(config.known, "a fact of that name")}
    try:
        expected = drawn(config.build(), tokens, batch)
    except UserError as error:
        with pytest.raises(UserError, match=re.escape(str(error))):
            drawn(config.build(facts), tokens, batch)
        return
    assert torch.equal(drawn(config.build(facts), tokens, batch), expected)


@pytest.mark.parametrize(("tokenizer", "axes"), [("audio/mel-patches", 2), ("audio/mel-frames", 1)])
def test_sound_of_one_length_is_masked_by_coloured_noise(tokenizer: str, axes: int) -> None:
    """Refused above, where padded batches fill no grid; spectrograms of one length do."""
    part = REGISTRY.find("systems", "audio/mae")
    one_length = {"name": tokenizer, "seconds": 2.0}
    model = Subject(part, REGISTRY, {"tokenizer": one_length, "masking": "core/color"}).make()
    batch = {**model.tokenizer.example(3), "id": torch.arange(3)}
    tokens = model.tokenizer(batch)
    assert tokens.grid is not None and len(tokens.grid) == axes and tokens.valid is None
    total(model, batch, Step(1, 10, 0)).backward()
    (view,) = model.masks(batch, Step(1, 10, 0)).values()
    mask = view.mask
    assert (mask.hidden.sum(1) == mask.count).all() and mask.count == round(0.75 * tokens.shape[1])


def test_every_refusal_names_parts_that_exist() -> None:
    for system, part in REFUSED:
        assert REGISTRY.find("systems", system)
        assert REGISTRY.locate(part)
