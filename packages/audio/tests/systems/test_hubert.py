"""HuBERT's head is torchaudio's, it learns from hidden frames alone, and streams are averaged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchaudio.models
from torch import Tensor

from polymask import RunConfig, Step, Tokens, UserError, build
from polymask.evaluation.features import layer_features
from polymask_audio.encoders import Transformer

STEP = Step(3, 10, seed=1)
CLASSES = 7


class Lookup:
    """Classes that are in the batch, one stream or several."""

    def __init__(self, streams: int = 1) -> None:
        self.dim, self.streams = CLASSES, streams

    def __call__(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        return batch["label"]


def make(streams: int = 1, **options: Any) -> Any:
    torch.manual_seed(0)
    return build("audio/hubert", preset="tiny", facts={"rate": 1600}, target=Lookup(streams), **options)


def sounds(system: Any, streams: int = 1, n: int = 4, fixed: bool = False) -> dict[str, Tensor]:
    batch: dict[str, Tensor] = system.tokenizer.example(n)
    if fixed:
        del batch["audio_length"]
    shape = (n, system.tokenizer(batch).shape[1], *([streams] if streams > 1 else []))
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(CLASSES, shape, generator=generator)
    return batch | {"label": labels, "id": torch.arange(n)}


def reference(system: Any) -> Any:
    """torchaudio's pre-training model of the same size with the same weights."""
    layers = [(8, c.kernel_size, c.stride) for c in system.encoder.extractor.conv_layers]
    model: Any = torchaudio.models.hubert_pretrain_model(
        extractor_mode="layer_norm",
        extractor_conv_layer_config=layers,
        extractor_conv_bias=False,
        encoder_embed_dim=32,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=8,
        encoder_pos_conv_groups=4,
        encoder_num_layers=2,
        encoder_num_heads=2,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=128,
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=False,
        encoder_layer_drop=0.0,
        mask_prob=0.8,
        mask_selection="static",
        mask_other=0.0,
        mask_length=2,
        no_mask_overlap=False,
        mask_min_space=1,
        mask_channel_prob=0.0,
        mask_channel_selection="static",
        mask_channel_other=0.0,
        mask_channel_length=10,
        no_mask_channel_overlap=False,
        mask_channel_min_space=1,
        skip_masked=False,
        skip_nomask=False,
        num_classes=CLASSES,
        final_dim=16,
        feature_grad_mult=0.1,
    )
    model.wav2vec2.feature_extractor.load_state_dict(system.encoder.extractor.state_dict())
    model.wav2vec2.encoder.load_state_dict(system.encoder.encoder.state_dict())
    model.logit_generator.final_proj.load_state_dict(system.proj.state_dict())
    model.logit_generator.label_embeddings.data.copy_(system.codes[0])
    model.mask_generator.mask_embedding.data.copy_(system.mask_token)
    return model


@pytest.mark.parametrize("fixed", [True, False])
def test_logits_loss_and_gradients_are_torchaudios(fixed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    system = make(unmasked_weight=0.5)
    # uniform embeddings all point one way; spread them so that logits differ by more than rounding
    torch.nn.init.normal_(system.codes)
    batch = sounds(system, fixed=fixed)
    model = reference(system)
    hidden = system.masks(batch, STEP)["mask"].mask.hidden

    def same_mask(x: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
        return torch.where(hidden[..., None], model.mask_generator.mask_embedding, x), hidden

    monkeypatch.setattr(model.mask_generator, "forward", same_mask)
    theirs_m, theirs_u, penalty = model(batch["audio"], batch["label"], batch.get("audio_length"))
    # column 0 repeats the true class, which is -inf in its own column
    first_m, first_u = (torch.zeros(len(x), dtype=torch.long) for x in (theirs_m, theirs_u))
    expected = {
        "hidden": F.cross_entropy(theirs_m, first_m),
        "visible": 0.5 * F.cross_entropy(theirs_u, first_u),
        "features": 10 * penalty,
    }
    losses = system(batch, STEP)
    if not fixed:  # torchaudio counts the features of padding too
        del losses["features"], expected["features"]
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-5, atol=1e-5)
    torch.autograd.backward(sum(losses.values()))
    torch.autograd.backward(sum(expected.values()))
    theirs = {
        **{f"encoder.extractor.{k}": p for k, p in model.wav2vec2.feature_extractor.named_parameters()},
        **{f"encoder.encoder.{k}": p for k, p in model.wav2vec2.encoder.named_parameters()},
        "mask_token": model.mask_generator.mask_embedding,
    }
    for name, parameter in system.named_parameters():
        if name in theirs:
            torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-4, atol=1e-6, msg=name)
    theirs_codes = model.logit_generator.label_embeddings
    torch.testing.assert_close(system.codes.grad[0], theirs_codes.grad, rtol=1e-4, atol=1e-6)


def test_only_hidden_frames_teach() -> None:
    system = make(feature_penalty=0.0)
    batch = sounds(system)
    hidden = system.masks(batch, STEP)["mask"].mask.hidden

    def learned(labels: Tensor) -> tuple[Tensor, Tensor]:
        system.zero_grad()
        loss = system(batch | {"label": labels}, STEP)["hidden"]
        loss.backward()
        return loss.detach(), system.codes.grad.clone()

    other = (batch["label"] + 1) % CLASSES
    before, changed = learned(batch["label"]), learned(torch.where(hidden, batch["label"], other))
    assert torch.equal(before[0], changed[0]) and torch.equal(before[1], changed[1])
    assert not torch.equal(before[0], learned(torch.where(hidden, other, batch["label"]))[0])


def test_hidden_frames_are_not_seen() -> None:
    system = make().eval()
    tokens = system.tokenizer(sounds(system))
    mask = system.draw(tokens, sounds(system), STEP)

    def logits(values: Tensor) -> Tensor:
        x = mask.fill(system.encoder.embed(values), system.mask_token)
        return system.logits(system.encoder(x, tokens.position, tokens.valid))

    before = logits(tokens.values)
    assert torch.equal(before, logits(mask.fill(tokens.values, torch.full_like(tokens.values, 3.0))))
    assert not torch.equal(before, logits(mask.invert().fill(tokens.values, torch.ones_like(tokens.values))))


def test_streams_are_averaged() -> None:
    """Two heads of equal weights and equal labels cost what one does."""
    one, two = make(), make(streams=2)
    batch = sounds(one)
    state = one.state_dict()
    state["codes"] = state["codes"].repeat(2, 1, 1)
    state["proj.weight"], state["proj.bias"] = state["proj.weight"].repeat(2, 1), state["proj.bias"].repeat(2)
    two.load_state_dict(state)
    double = batch | {"label": batch["label"][..., None].expand(-1, -1, 2)}
    torch.testing.assert_close(two(double, STEP)["hidden"], one(batch, STEP)["hidden"])
    # each stream has a head of its own: its labels move no other
    odd = double["label"].clone()
    odd[..., 1] = (odd[..., 1] + 1) % CLASSES
    gradients = []
    for labels in (double["label"], odd):
        two.zero_grad()
        two(batch | {"label": labels}, STEP)["hidden"].backward()
        gradients.append(two.codes.grad.clone())
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert not torch.equal(gradients[0][1], gradients[1][1])


def test_logits_are_cosines_over_the_temperature() -> None:
    system = make(temperature=0.25)
    logits = system.logits(torch.randn(2, 5, 32))
    assert logits.shape == (2, 5, 1, CLASSES)
    assert logits.abs().max() <= 4 + 1e-5
    with torch.no_grad():
        system.codes[:] = system.codes[:, :1]
    labels = torch.zeros(2, 5, 1, dtype=torch.long)
    loss = system.objective.sites(system.logits(torch.randn(2, 5, 32)), labels)
    torch.testing.assert_close(loss, torch.full((2, 5), math.log(CLASSES)))


def test_a_tenth_of_the_gradient_reaches_the_convolutions() -> None:
    gradients = []
    for factor in (1.0, 0.1):
        system = make(feature_gradient=factor)
        torch.autograd.backward(sum(system(sounds(system), STEP).values()))
        gradients.append(system.encoder.extractor.conv_layers[0].conv.weight.grad)
    torch.testing.assert_close(gradients[1], 0.1 * gradients[0])


def test_features_of_padding_are_not_penalised() -> None:
    system = make()
    batch = sounds(system)
    penalty = system(batch, STEP)["features"]
    longer = batch | {"audio": F.pad(batch["audio"], (0, 320)), "label": F.pad(batch["label"], (0, 10))}
    torch.testing.assert_close(system(longer, STEP)["features"], penalty)


def test_no_penalty_without_convolutions() -> None:
    system = make(tokenizer="audio/mel-frames", **{"encoder.dim": 32})
    assert set(system(sounds(system), STEP)) == {"hidden"}


def test_encode_gives_the_layer_asked_for() -> None:
    system = make().eval()
    batch = sounds(system)
    layers = [system.encode(batch, layer).values for layer in (1, 2)]
    assert not torch.equal(*layers)
    assert torch.equal(layers[1], system.encode(batch).values)
    assert torch.equal(make(layer=1).eval().encode(batch).values, layers[0])
    with pytest.raises(UserError, match="1 to 2"):
        make(layer=3)


def test_runs_on_a_vit() -> None:
    system = make(encoder={"name": "audio/vit", "dim": 32, "depth": 2, "heads": 2}, layer=1)
    batch = sounds(system)
    assert set(system(batch, STEP)) == {"hidden"}
    assert system.encode(batch).values.shape == (*batch["label"].shape, 32)


def test_labels_at_another_rate_are_refused() -> None:
    system = make()
    batch = sounds(system)
    with pytest.raises(UserError, match="rate of the tokens"):
        system(batch | {"label": batch["label"][:, ::2]}, STEP)


def test_pictures_silence_what_is_hidden_and_compare_units() -> None:
    system = make().eval()
    batch = sounds(system)
    columns = system.preview(batch, STEP).media
    hidden = system.masks(batch, STEP)["mask"].mask.hidden
    assert torch.equal(columns["visible"][:, :32] == 0, hidden[:, :1].expand(-1, 32))
    units = columns["units: true, predicted, which are hidden"]
    assert len(units[1].true) == system.tokenizer(batch).valid[1].sum()
    assert "hidden right" in units[0]._repr_html_()


def test_nothing_is_drawn_from_the_global_generator_but_dropout() -> None:
    system = make()
    batch = sounds(system)
    before = torch.get_rng_state()
    system(batch, STEP)
    assert torch.equal(before, torch.get_rng_state())


def test_labels_of_padding_count_for_nothing() -> None:
    system = make(unmasked_weight=1.0)
    batch = sounds(system)
    valid = system.tokenizer(batch).valid
    other = torch.where(valid, batch["label"], (batch["label"] + 1) % CLASSES)
    one, two = system(batch, STEP), system(batch | {"label": other}, STEP)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_preset_of_the_paper_is_fairseqs_base() -> None:
    config = RunConfig.resolve({"system": "audio/hubert", "preset": "paper"})
    found = config.system.plain()
    encoder, masking, training = found["encoder"], found["masking"], config.training
    assert (encoder["dropout"], encoder["mlp_dropout"], encoder["layer_drop"]) == (0.1, 0.0, 0.05)
    assert masking["trim"] is True
    assert (training.eps, training.betas, training.lr, training.clip) == (1e-6, (0.9, 0.98), 5e-4, 10.0)


def test_the_feed_forward_layers_may_have_a_dropout_of_their_own() -> None:
    encoder = Transformer(in_dim=8, dim=32, depth=1, heads=2, groups=4, kernel=8, mlp_dropout=0.0)
    layer = encoder.encoder.transformer.layers[0]
    assert (layer.feed_forward.intermediate_dropout.p, layer.feed_forward.output_dropout.p) == (0.0, 0.1)


def test_a_probe_reads_every_block() -> None:
    system = make().eval()
    batch = sounds(system)
    blocks = layer_features(system)
    assert list(blocks) == ["block 1", "block 2"]
    with torch.no_grad():
        torch.testing.assert_close(blocks["block 1"](batch), system.encode(batch, layer=1).pool())
        torch.testing.assert_close(blocks["block 2"](batch), system.encode(batch).pool())
