"""The Transformer is torchaudio's on the same weights; both take what they are given and no padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchaudio.models
from torch import Tensor

from polymask import Tokens, UserError, functional
from polymask_audio.encoders import Transformer, ViT, convolutions
from polymask_audio.tokenizers import MelPatches, Waveform

SMALL: dict[str, Any] = {"dim": 32, "depth": 3, "heads": 2, "kernel": 16, "groups": 4, "dropout": 0.0}
PUBLISHED = [(512, 10, 5), *[(512, 3, 2)] * 4, *[(512, 2, 2)] * 2]


def reference(encoder: Transformer, norm_first: bool, layers: list[tuple[int, int, int]]) -> Any:
    """torchaudio's model of the same size with the same weights."""
    model: Any = torchaudio.models.wav2vec2_model(
        extractor_mode="layer_norm",
        extractor_conv_layer_config=layers,
        extractor_conv_bias=False,
        encoder_embed_dim=32,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=16,
        encoder_pos_conv_groups=4,
        encoder_num_layers=3,
        encoder_num_heads=2,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=128,
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=norm_first,
        encoder_layer_drop=0.0,
        aux_num_out=None,
    ).eval()
    model.feature_extractor.load_state_dict(encoder.extractor.state_dict())
    model.encoder.load_state_dict(encoder.encoder.state_dict())
    return model


def encode(encoder: Any, tokens: Tokens) -> Tensor:
    out: Tensor = encoder(encoder.embed(tokens.values), tokens.position, tokens.valid)
    return out


def randomised(encoder: Any) -> Any:
    """Every weight moved, so that no term is 0 or 1 by its initial value."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in encoder.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    return encoder.eval()


@pytest.mark.parametrize("norm_first", [False, True])
def test_whole_and_padded_sound_gives_what_torchaudio_gives(norm_first: bool) -> None:
    """Though each token's convolutions run by themselves here, and over the whole sound there."""
    tokenizer = Waveform(rate=16000)
    encoder = randomised(Transformer(raw=True, conv_dim=16, norm_first=norm_first, **SMALL))
    model = reference(encoder, norm_first, convolutions(320, 16))
    batch = {"audio": torch.randn(2, 16000), "audio_length": torch.tensor([16000, 9001])}
    batch["audio"][1, 9001:] = 0
    tokens = tokenizer(batch)
    ours = encode(encoder, tokens)
    theirs, lengths = model(batch["audio"], batch["audio_length"])
    assert lengths.tolist() == tokens.valid.sum(1).tolist()
    torch.testing.assert_close(ours[tokens.valid], theirs[tokens.valid], rtol=1e-4, atol=1e-4)
    whole = tokenizer({"audio": batch["audio"]})
    torch.testing.assert_close(encode(encoder, whole), model(batch["audio"])[0], rtol=1e-4, atol=1e-4)


def test_layers_are_torchaudios_intermediate_outputs() -> None:
    encoder = randomised(Transformer(raw=True, conv_dim=16, **SMALL))
    audio = torch.randn(2, 8000)
    tokens = Waveform(rate=16000)({"audio": audio})
    theirs, _ = reference(encoder, False, convolutions(320, 16)).extract_features(audio)
    ours = encoder.layers(encoder.embed(tokens.values), tokens.position)
    assert len(ours) == encoder.depth == 3
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert torch.equal(ours[-1], encode(encoder, tokens))


def test_published_convolutions_at_16_khz_and_one_stage_less_at_8() -> None:
    assert convolutions(320, 512) == PUBLISHED
    assert convolutions(160, 512) == [PUBLISHED[0], *PUBLISHED[2:]]
    for hop in (160, 320, 480, 640, 960, 32, 4):
        seen, stride = 1, 1
        for _, kernel, step in convolutions(hop, 8):
            seen, stride = seen + (kernel - 1) * stride, stride * step
        assert (seen, stride) == (hop * 5 // 4, hop)
    with pytest.raises(UserError, match="200 Hz"):
        convolutions(441, 8)
    with pytest.raises(UserError, match="window_ms"):
        Transformer(raw=True, in_dim=320, **SMALL)


def test_layers_are_dropped_in_training_only_and_keep_their_gradient() -> None:
    encoder = Transformer(in_dim=8, layer_drop=1.0, **SMALL)
    x, position = torch.randn(2, 5, 32), torch.zeros(2, 5, 1)
    dropped = encoder(x, position)
    torch.testing.assert_close(dropped, encoder.encoder.transformer._preprocess(x))
    dropped.sum().backward()
    weights = encoder.encoder.transformer.layers.parameters()
    assert all(p.grad is not None and not p.grad.any() for p in weights)
    assert not torch.allclose(encoder.eval()(x, position), dropped, atol=1e-2)


def test_vit_goes_by_time_and_frequency() -> None:
    """Equal patches at different places differ, and differ by their place alone."""
    encoder = ViT(in_dim=16, dim=32, depth=1, heads=2).eval()
    values = torch.ones(1, 12, 16)
    position = torch.cartesian_prod(torch.arange(3.0), torch.arange(4.0))[None]
    out = encode(encoder, Tokens(values, position))[0]
    assert (out[:, None] - out[None]).abs().amax(-1)[~torch.eye(12, dtype=torch.bool)].min() > 1e-3
    order = torch.randperm(12)
    torch.testing.assert_close(encode(encoder, Tokens(values, position[:, order]))[0], out[order])


def test_vit_takes_sound_of_any_length() -> None:
    tokenizer = MelPatches(rate=1600, mels=16, patch_size=4, window_ms=40.0)
    encoder = ViT(in_dim=16, dim=32, depth=2, heads=2, class_token=True).eval()
    for seconds in (0.1, 1.0, 60.0):
        tokens = tokenizer({"audio": torch.randn(1, round(1600 * seconds))})
        assert encode(encoder, tokens).shape == (1, 1 + tokens.shape[1], 32)
        if seconds == 1.0:
            states = functional.layers(encoder, tokens)
            assert len(states) == 2 and torch.equal(states[-1], encode(encoder, tokens))


def test_vit_runs_timms_blocks_as_they_are() -> None:
    encoder = randomised(ViT(in_dim=16, dim=32, depth=2, heads=2))
    tokens = Tokens(torch.randn(2, 6, 16), torch.arange(6.0)[None, :, None].expand(2, -1, -1))
    x, attend = encoder.begin(encoder.embed(tokens.values), tokens.position)
    assert attend is None
    for block in encoder.blocks:
        x = block(x)
    assert torch.equal(encoder.norm(x), encode(encoder, tokens))


def test_mistakes_are_told() -> None:
    with pytest.raises(UserError, match="3 heads"):
        ViT(dim=32, heads=3)
    with pytest.raises(UserError, match="width divisible by 4"):
        ViT(dim=30, heads=3)
    with pytest.raises(UserError, match="groups"):
        Transformer(**(SMALL | {"groups": 5}))
