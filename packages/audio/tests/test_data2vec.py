"""data2vec 2.0's audio encoder knows places by convolutions over time and by distance."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from polymask import Mask, Tokens, UserError
from polymask_audio.data2vec import Data2VecTransformer, slopes
from polymask_audio.encoders import Transformer
from polymask_audio.tokenizers import MelFrames, MelPatches, Waveform

SMALL: dict[str, Any] = {
    "dim": 32,
    "depth": 2,
    "heads": 4,
    "position_depth": 3,
    "kernel": 5,
    "groups": 4,
    "dropout": 0.0,
    "layer_drop": 0.0,
}


def make(**options: Any) -> Any:
    """Every weight moved, so that no term is 0 or 1 by its initial value."""
    torch.manual_seed(0)
    encoder = Data2VecTransformer(**{"in_dim": 16, **SMALL, **options})
    with torch.no_grad():
        for p in encoder.parameters():
            p += 0.1 * torch.randn_like(p)
    return encoder.eval()


def frames(n: int = 30, rows: int = 3) -> Tokens:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(rows, n, 16, generator=generator)
    return Tokens(values, torch.arange(float(n))[:, None].expand(rows, -1, -1))


def encode(encoder: Any, tokens: Tokens) -> Tensor:
    out: Tensor = encoder(encoder.embed(tokens.values), tokens.position, tokens.valid)
    return out


def test_positions_are_those_of_data2vec_in_transformers_with_nothing_where_tokens_are_left_out() -> None:
    from transformers import Data2VecAudioConfig
    from transformers.models.data2vec.modeling_data2vec_audio import Data2VecAudioPositionalConvEmbedding

    encoder, tokens = make(), frames()
    config = Data2VecAudioConfig(
        hidden_size=32,
        conv_pos_kernel_size=5,
        num_conv_pos_embedding_groups=4,
        num_conv_pos_embeddings=3,
        feat_extract_activation="gelu",
    )
    theirs: Any = Data2VecAudioPositionalConvEmbedding(config).eval()
    for layer, ours in zip(theirs.layers, encoder.positions.layers, strict=True):
        layer.conv.load_state_dict(ours.state_dict())
    hidden = torch.rand(3, 30, generator=torch.Generator().manual_seed(1)) < 0.5
    x = torch.randn(3, 30, 32)
    mask = Mask(hidden)
    seen = mask.keep(dataclasses.replace(tokens, values=x))
    found = encoder._along_time(seen.values, seen.position[..., 0].long(), seen.valid)
    line = torch.nn.functional.pad(torch.where(hidden[..., None], 0, x), (0, 0, 0, 10))
    with torch.no_grad():
        expected = mask.keep(dataclasses.replace(tokens, values=theirs(line)[:, :30])).values
    torch.testing.assert_close(found[seen.valid], expected[seen.valid], rtol=1e-4, atol=1e-5)


def test_blocks_are_torchs_post_norm_layers_with_attention_that_falls_with_distance() -> None:
    encoder, tokens = make(depth=1), frames()
    theirs = torch.nn.TransformerEncoderLayer(32, 4, 128, 0.0, "gelu", batch_first=True).eval()
    block = encoder.blocks[0]
    with torch.no_grad():
        for ours, name in (
            (block.attn.qkv, "self_attn.in_proj_"),
            (block.attn.proj, "self_attn.out_proj."),
            *((getattr(block, n), f"{n}.") for n in ("norm1", "norm2")),
            (block.mlp.fc1, "linear1."),
            (block.mlp.fc2, "linear2."),
        ):
            theirs.get_parameter(f"{name}weight").copy_(ours.weight)
            theirs.get_parameter(f"{name}bias").copy_(ours.bias)
    embedded, place = encoder.embed(tokens.values), tokens.position[..., 0].long()
    x = encoder.norm(embedded + encoder._along_time(embedded, place, None))
    distance = (place[0][:, None] - place[0]).abs()
    rate = torch.tensor([0.25, 0.0625, 0.015625, 0.00390625]) * encoder.slope_scale.detach()
    bias = -(distance * rate[:, None, None]).repeat(3, 1, 1)
    torch.testing.assert_close(encode(encoder, tokens), theirs(x, src_mask=bias), rtol=1e-4, atol=1e-5)


def test_slopes_are_those_published_for_any_number_of_heads() -> None:
    assert slopes(8) == [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625]
    assert slopes(12)[:8] == slopes(8)
    assert slopes(12)[8:] == pytest.approx([2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5])


def test_features_of_a_token_go_by_time_and_not_by_order() -> None:
    encoder, tokens = make(), frames(8)
    pair = [Tokens(tokens.values[:, :2], torch.tensor([[0.0], [gap]]).expand(3, -1, -1)) for gap in (1, 3, 3)]
    near, far, again = (encode(encoder, each) for each in pair)
    assert torch.equal(far, again) and (near - far).abs().max() > 1e-3
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    shuffled = Tokens(tokens.values[:, order], tokens.position[:, order])
    torch.testing.assert_close(
        encode(encoder, shuffled), encode(encoder, tokens)[:, order], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("kernel", [1, 5])
def test_a_sample_is_encoded_alike_alone_padded_and_of_a_known_length(kernel: int) -> None:
    encoder, tokens = make(kernel=kernel), frames()
    valid = torch.arange(30) < torch.tensor([[30], [17], [9]])
    out = encode(encoder, dataclasses.replace(tokens, valid=valid))
    for row, n in enumerate((30, 17, 9)):
        alone = Tokens(tokens.values[row : row + 1, :n], tokens.position[:1, :n])
        torch.testing.assert_close(out[row : row + 1, :n], encode(encoder, alone), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        encode(make(grid=(30,), kernel=kernel), tokens), encode(encoder, tokens), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("kernel", [1, 5])
def test_padding_may_hold_anything_and_lie_anywhere(kernel: int) -> None:
    encoder, tokens = make(kernel=kernel), frames(10)
    valid = (torch.arange(10) < 7).expand(3, -1)
    values = torch.where(valid[..., None], tokens.values, 50.0)
    position = torch.where(valid[..., None], tokens.position, 2.0)
    out = encode(encoder, Tokens(values, position, valid=valid))
    alone = Tokens(tokens.values[:, :7], tokens.position[:, :7])
    torch.testing.assert_close(out[:, :7], encode(encoder, alone), rtol=1e-4, atol=1e-5)


def test_samples_are_embedded_as_by_wav2vecs_convolutions() -> None:
    tokenizer = Waveform(rate=16000)
    tokens = tokenizer({"audio": torch.randn(2, 3200)})
    encoder = Data2VecTransformer(raw=True, conv_dim=8, **SMALL)
    other = Transformer(raw=True, conv_dim=8, dim=32, depth=1, heads=4, kernel=8, groups=4, dropout=0.0)
    other.extractor.load_state_dict(encoder.front.extractor.state_dict())
    other.encoder.feature_projection.load_state_dict(encoder.front.encoder.feature_projection.state_dict())
    assert torch.equal(encoder.embed(tokens.values), other.embed(tokens.values))
    assert not any("transformer" in name for name, _ in encoder.named_parameters())


def test_blocks_are_passed_over_in_training_alone() -> None:
    encoder, tokens = make(layer_drop=1.0), frames()
    states = encoder.train().layers(encoder.embed(tokens.values), tokens.position)
    assert torch.equal(states[0], states[1])
    states = encoder.eval().layers(encoder.embed(tokens.values), tokens.position)
    assert not torch.equal(states[0], states[1])


def test_patches_of_time_and_frequency_are_refused() -> None:
    tokenizer = MelPatches(rate=1600, mels=16, patch_size=4, window_ms=40.0)
    encoder = make()
    tokens = tokenizer({"audio": torch.randn(2, 1600)})
    with pytest.raises(UserError, match="in time, not on 2 axes"):
        encode(encoder, tokens)
    assert (
        encode(make(in_dim=8), MelFrames(rate=1600, mels=8)({"audio": torch.randn(2, 1600)})).isfinite().all()
    )
