"""What networks tell of themselves is what their own libraries compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from polymask import Run, RunConfig, Step, Tokens, UserError, build
from polymask.export import export
from polymask.training import fit
from polymask_vision.networks import Activations, Network, open_network
from polymask_vision.relations import Relations
from polymask_vision.scores import Attention
from polymask_vision.targets import Teacher
from polymask_vision.tokenizers import Patches

FACTS: dict[str, Any] = {"pretrained": True, "mean": None, "std": None, "key": "image"}
BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 9,
}
SIZE = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}


def images(n: int = 3, channels: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"image": torch.randn(n, channels, 12, 20, generator=generator), "id": torch.arange(n)}


def tokens(batch: dict[str, Tensor]) -> Tokens:
    return Patches(size=(12, 20), channels=batch["image"].shape[1], patch_size=4)(batch)


def shaken(model: Any) -> Any:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def look(network: Network, batch: dict[str, Tensor]) -> Activations:
    every = range(1, len(network.blocks) + 1)
    with torch.no_grad():
        found: Activations = network.eval()(batch, tokens(batch), attention=every, pairs=(3, 1))
    return found


def softmax_of(pair: tuple[Tensor, Tensor]) -> Tensor:
    q, k = pair
    return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)


def saved(config: Any, folder: Path) -> Any:
    torch.manual_seed(0)
    model = shaken(transformers.AutoModel.from_config(config))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    ("config", "prefix"),
    [
        (transformers.ViTConfig(**SIZE, intermediate_size=32), 1),
        (transformers.DeiTConfig(**SIZE, intermediate_size=32), 2),
        (transformers.Dinov2Config(**SIZE), 1),
        (transformers.CLIPVisionConfig(**SIZE, intermediate_size=32), 1),
        (transformers.SiglipVisionConfig(**SIZE, intermediate_size=32), 0),
    ],
    ids=["vit", "deit", "dinov2", "clip", "siglip"],
)
def test_models_of_transformers(config: Any, prefix: int, tmp_path: Path) -> None:
    """Inner states are transformers' own; the norm behind the last block is left out of its state."""
    saved(config, tmp_path)
    batch = images()
    network = open_network(None, f"transformers:{tmp_path}", channels=3, **FACTS)
    found = look(network, batch)
    assert (network.prefix, network.dim, len(network.blocks)) == (prefix, 16, 3)
    model: Any = transformers.AutoModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    model = getattr(model, "vision_model", model)
    sized = {} if config.model_type == "dinov2" else {"interpolate_pos_encoding": True}
    with torch.no_grad():
        own = model(batch["image"], output_hidden_states=True, output_attentions=True, **sized)
    for state, expected in zip(found.blocks[:2], own.hidden_states[1:3], strict=True):
        torch.testing.assert_close(state, expected)
    for attention, expected in zip(found.attention, own.attentions, strict=True):
        torch.testing.assert_close(attention, expected)
    for pair, block in zip(found.pairs, (3, 1), strict=True):
        torch.testing.assert_close(softmax_of(pair), own.attentions[block - 1])
    assert found.blocks[0].shape == (3, prefix + 15, 16)
    if config.model_type == "vit":
        torch.testing.assert_close(model.layernorm(found.blocks[-1]), own.last_hidden_state)
        assert not torch.allclose(found.blocks[-1], own.last_hidden_state, atol=1e-2)


def test_the_image_half_of_clip_is_taken_in_its_own_units(tmp_path: Path) -> None:
    text = {"vocab_size": 10, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    vision = {**SIZE, "intermediate_size": 32}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    model = saved(config, tmp_path)
    transformers.CLIPImageProcessor(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.25]).save_pretrained(
        tmp_path
    )
    facts = {**FACTS, "mean": (0.5, 0.4, 0.3), "std": (0.25, 0.2, 0.3)}
    batch = images()
    found = look(open_network(None, f"transformers:{tmp_path}", channels=3, **facts), batch)
    data = [torch.tensor(facts[k])[:, None, None] for k in ("mean", "std")]
    theirs = [torch.tensor(x)[:, None, None] for x in ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))]
    pixels = (batch["image"] * data[1] + data[0] - theirs[0]) / theirs[1]
    with torch.no_grad():
        own = model.vision_model(pixels, output_hidden_states=True, interpolate_pos_encoding=True)
    torch.testing.assert_close(found.blocks[1], own.hidden_states[2], rtol=1e-4, atol=1e-5)


def test_an_exported_encoder_is_read_as_the_encoder_itself(tmp_path: Path) -> None:
    torch.manual_seed(0)
    size = {"encoder.dim": 32, "encoder.depth": 3, "encoder.heads": 2, "tokenizer.patch_size": 4}
    system: Any = shaken(build("vision/mae", facts={"size": (12, 20), "channels": 3}, **size))
    export(system, "transformers", tmp_path)
    batch = images()
    found = look(open_network(None, f"transformers:{tmp_path}", channels=3, **FACTS), batch)
    own, encoder = tokens(batch), system.encoder
    with torch.no_grad():
        x, _ = encoder.begin(encoder.embed(own.values), own.position)
        for block, state in zip(encoder.blocks, found.blocks, strict=True):
            x = block(x)
            torch.testing.assert_close(state, x, rtol=1e-4, atol=1e-5)
        for ours, theirs in zip(inner(own, encoder, 3), found.pairs[0], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def inner(own: Tokens, encoder: Any, number: int) -> tuple[Tensor, Tensor]:
    """Queries and keys of a block of vision/vit, as its projection gives them."""
    kept: list[Tensor] = []
    hook = encoder.blocks[number - 1].attn.qkv.register_forward_hook(lambda m, args, out: kept.append(out))
    encoder(encoder.embed(own.values), own.position)
    hook.remove()
    q, k, _ = kept[0].view(len(kept[0]), -1, 3, 2, 16).permute(2, 0, 3, 1, 4)
    return q, k


def test_queries_and_keys_of_runs_and_of_timm_are_those_of_their_projections(tmp_path: Path) -> None:
    torch.manual_seed(0)
    batch = images()
    network = shaken(open_network(None, "test_vit", channels=3, **{**FACTS, "pretrained": False}))
    watched: list[Tensor] = []
    network.blocks[2].attn.qkv.register_forward_hook(lambda m, args, out: watched.append(out))
    found = look(network, batch)
    assert (network.heads, len(found.blocks), len(found.attention)) == (2, 6, 6)
    q, k, _ = watched[0].view(3, 16, 3, 2, 32).permute(2, 0, 3, 1, 4)
    assert torch.equal(found.pairs[0][0], q) and torch.equal(found.pairs[0][1], k)
    torch.testing.assert_close(softmax_of(found.pairs[1]), found.attention[0])
    with torch.no_grad():
        short = network(batch, tokens(batch), pairs=(3,), run=2)
    assert len(short.blocks) == 2 and torch.equal(short.pairs[0][0], q)

    options = {"preset": "tiny", "steps": 1, "data": {"name": "vision/digits", "limit": 16}}
    run = Run.create(RunConfig.resolve({"system": "vision/mae", **options}), tmp_path / "run")
    fit(run, progress=False)
    digits = {"image": torch.randn(2, 1, 8, 8)}
    own = run.system.tokenizer(digits)
    opened = open_network(str(tmp_path / "run"), None, channels=1, **FACTS)
    with torch.no_grad():
        (pair,) = opened(digits, own, pairs=(2,)).pairs
        expected = inner(own, run.system.encoder.eval(), 2)
    assert all(torch.equal(a, b) for a, b in zip(pair, expected, strict=True))


def test_queries_and_keys_side_by_side_are_a_target() -> None:
    torch.manual_seed(0)
    batch = images()
    target = shaken(Relations(model="test_vit", pretrained=False, layers=(1, -2)))
    assert (target.layers, target.depth, target.heads, target.dim) == ((1, 5), 6, 2, 256)
    with torch.no_grad():
        found = target.network(batch, tokens(batch), pairs=(1, 5))
    relations, states = target.relate(batch, tokens(batch), states=(6, 1))
    assert relations.prefix is not None and relations.prefix.shape == (3, 1, 256)
    whole = torch.cat([relations.prefix, relations.values], dim=1)
    expected = [x for pair in found.pairs for x in pair]
    for chunk, x in zip(whole.chunk(4, -1), expected, strict=True):
        assert torch.equal(chunk.view(3, 16, 2, 32).transpose(1, 2), x)
    for state, block in zip(states, (6, 1), strict=True):
        assert torch.equal(state, found.blocks[block - 1][:, 1:])
    assert torch.equal(target(batch, tokens(batch)), relations.values)
    with pytest.raises(UserError, match="blocks 1 to 6, and no block -7"):
        Relations(model="test_vit", pretrained=False, layers=(-7,))


def test_grey_images_are_repeated_and_other_channels_refused(tmp_path: Path) -> None:
    saved(transformers.ViTConfig(**SIZE, intermediate_size=32), tmp_path)
    name = f"transformers:{tmp_path}"
    grey = images(channels=1)
    colour = {"image": grey["image"].expand(-1, 3, -1, -1)}
    first = look(open_network(None, name, channels=1, **FACTS), grey)
    second = look(open_network(None, name, channels=3, **FACTS), colour)
    torch.testing.assert_close(first.blocks[-1], second.blocks[-1])
    with pytest.raises(UserError, match="takes 3 channels, and images have 4"):
        open_network(None, name, channels=4, **FACTS)


def test_scores_of_transformers_stop_at_the_block_asked_for(tmp_path: Path) -> None:
    saved(transformers.ViTConfig(**SIZE, intermediate_size=32), tmp_path)
    batch, name = images(), f"transformers:{tmp_path}"
    score = Attention(model=name, block=2)
    assert len(score.looker.module.blocks) == 2
    model: Any = transformers.AutoModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    with torch.no_grad():
        own = model(batch["image"], output_attentions=True, interpolate_pos_encoding=True)
    expected = own.attentions[1].mean(1)[:, 0, 1:]
    torch.testing.assert_close(score(batch, tokens(batch))[..., 0], expected)


def test_networks_of_another_kind_are_refused(tmp_path: Path) -> None:
    swin = transformers.SwinConfig(
        image_size=16, patch_size=4, embed_dim=8, depths=[1], num_heads=[1], window_size=2
    )
    saved(swin, tmp_path)
    with pytest.raises(UserError, match="SwinModel, whose blocks are not read here"):
        open_network(None, f"transformers:{tmp_path}", channels=3, **FACTS)
    saved(transformers.BertConfig(**BERT), tmp_path / "bert")
    with pytest.raises(UserError, match="is a BertModel, which sees no images: use a ViT"):
        open_network(None, f"transformers:{tmp_path / 'bert'}", channels=3, **FACTS)
    with pytest.raises(UserError, match="timm cannot make 'resnet18'.*use a Vision Transformer"):
        open_network(None, "resnet18", channels=3, **FACTS)
    with pytest.raises(UserError, match="transformers cannot load"):
        open_network(None, f"transformers:{tmp_path / 'none'}", channels=3, **FACTS)


# ------------------------------------------------------------------------------------- teacher


def teacher(**options: Any) -> Teacher:
    torch.manual_seed(0)
    return shaken(Teacher(model="test_vit", pretrained=False, **options))  # type: ignore[no-any-return]


def test_a_teacher_gives_layers_side_by_side_and_whitens_each() -> None:
    batch = images()
    raw, white = teacher(norm="none", layers=(2, 6)), teacher(layers=(2, 6))
    assert (raw.depth, raw.layers, raw.dim) == (6, (2, 6), 128)
    features, attention = raw.look(batch, tokens(batch))
    with torch.no_grad():
        found = raw.network(batch, tokens(batch), attention=(6,))
    for half, block in ((features.values[..., :64], 2), (features.values[..., 64:], 6)):
        assert torch.equal(half, found.blocks[block - 1][:, 1:])
    assert features.prefix is not None and torch.equal(features.prefix[..., 64:], found.blocks[5][:, :1])
    assert torch.equal(attention, found.attention[-1].mean(1)[:, 0, 1:])
    assert torch.equal(raw(batch, tokens(batch)), features.values)
    for chunk, expected in zip(
        white(batch, tokens(batch)).chunk(2, -1), features.values.chunk(2, -1), strict=True
    ):
        torch.testing.assert_close(chunk, F.layer_norm(expected, (64,)))
        torch.testing.assert_close(chunk.mean(-1), torch.zeros(3, 15), atol=1e-5, rtol=0)
    short = teacher(norm="l2", layers=(2, 6))(batch, tokens(batch))
    torch.testing.assert_close(short[..., :64].norm(dim=-1), torch.ones(3, 15))


def test_a_teacher_gives_its_last_five_layers_unless_told_otherwise() -> None:
    assert teacher().layers == (2, 3, 4, 5, 6)
    with pytest.raises(UserError, match="blocks 1 to 6, and no block 7"):
        teacher(layers=(1, 7))
    with pytest.raises(UserError, match="which teacher"):
        Teacher()
    with pytest.raises(UserError, match="choose 'whiten'"):
        teacher(norm="batch")


def test_random_weights_are_told_and_timm_may_be_said_or_not() -> None:
    free = {**FACTS, "pretrained": False}
    with pytest.warns(UserWarning, match="timm:test_vit looks with random weights"):
        one = open_network(None, "timm:test_vit", channels=3, **free)
    assert one.dim == open_network(None, "test_vit", channels=3, **free).dim


def test_a_convolutional_teacher_tells_what_its_last_map_has_at_each_token() -> None:
    torch.manual_seed(0)
    target = Teacher(model="resnet18", pretrained=False, norm="none")
    network: Any = target.network.module
    batch = images()
    assert target.layers == (1,) and target.dim == 512 and network.prefix == 0
    # of 32 pixels for each of 3 x 5 tokens
    whole = F.interpolate(batch["image"], (96, 160), mode="bicubic", antialias=True)
    with torch.no_grad():
        expected = network.levels.net.eval()(whole)[-1]
    assert expected.shape[-2:] == (3, 5)
    torch.testing.assert_close(target(batch, tokens(batch)), expected.flatten(2).transpose(1, 2))
    assert target.look(batch, tokens(batch))[1] is None
    with pytest.raises(UserError, match="resnet18 has no attention to read: use a Vision Transformer"):
        network(batch, tokens(batch), attention=(1,))
    with pytest.raises(UserError, match="use a Vision Transformer"):
        Attention(model="resnet18", pretrained=False)


def test_a_student_learns_from_a_convolutional_teacher_without_attention() -> None:
    facts = {"size": (16, 16), "channels": 3}
    options = {"preset": "tiny", "target.model": "resnet18", "target.pretrained": False}
    batch = images()
    batch["image"] = F.interpolate(batch["image"], (16, 16))
    random = build("vision/maskalign", facts=facts, **options, masking="core/random")
    loss = sum(random(batch, Step(1, 10, 0)).values())
    loss.backward()
    assert loss > 0 and all(p.grad is None for p in random.target.parameters())
    random.preview(batch, Step(1, 10, 0))
    by_attention = build("vision/maskalign", facts=facts, **options)
    with pytest.raises(UserError, match="hides by score, and this system computes none"):
        by_attention(batch, Step(1, 10, 0))
