"""The encoder begins with weights of transformers and torchaudio, and gives their features."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchaudio
import transformers
from torch import Tensor
from torchaudio.pipelines._wav2vec2.utils import _extend_model

from polymask import UserError, build
from polymask.imports import load_initial

CONVOLUTIONS = [(16, 10, 5), *[(16, 3, 2)] * 4, *[(16, 2, 2)] * 2]
SMALL: dict[str, Any] = {
    "encoder.dim": 32,
    "encoder.depth": 2,
    "encoder.heads": 4,
    "encoder.conv_dim": 16,
    "encoder.kernel": 16,
    "encoder.groups": 4,
    "encoder.norm_first": True,
    "encoder.conv_bias": True,
    "tokenizer.standardise": True,
}


def make(rate: int = 16000, **more: Any) -> Any:
    torch.manual_seed(1)
    options = {**SMALL, "tokenizer": "audio/waveform", "encoder": "audio/transformer", **more}
    return build("audio/simmim", preset="tiny", facts={"rate": rate}, **options).eval()


def shake(model: Any) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def save(name: str, folder: Path, **more: Any) -> Any:
    """A model as transformers writes it."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    layers = list(zip(*CONVOLUTIONS, strict=True))
    convolutions = dict(zip(("conv_dim", "conv_kernel", "conv_stride"), map(list, layers), strict=True))
    places = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    large = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
    config = getattr(transformers, f"{name}Config")(**sizes, **convolutions, **places, **{**large, **more})
    model = shake(getattr(transformers, f"{name}Model")(config))
    model.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return model


def features(system: Any, audio: Tensor) -> Tensor:
    with torch.no_grad():
        values: Tensor = system.encode({"audio": audio}).values
    return values


def close(actual: Tensor, expected: Tensor) -> None:
    """To the rounding of convolutions that run over windows here, and over the whole recording there."""
    assert actual.shape == expected.shape
    assert (actual - expected).norm() < 1e-5 * expected.norm()


def standard(audio: Tensor) -> Tensor:
    return (audio - audio.mean(1, keepdim=True)) / audio.std(1, keepdim=True, correction=0)


AUDIO = 0.3 + 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["Wav2Vec2", "Hubert"])
def test_a_model_of_transformers(tmp_path: Path, name: str) -> None:
    model, system = save(name, tmp_path), make()
    report = load_initial(system, f"transformers:{tmp_path}", facts={"rate": 16000})
    with torch.no_grad():
        expected = model(standard(AUDIO)).last_hidden_state
    close(features(system, AUDIO), expected)
    assert len(report.loaded) == len(system.encoder.state_dict())


def bundle(mode: str = "layer_norm", normalise: bool = True) -> Any:
    """What torchaudio hands out under a name, with a head, and the model in it."""
    model: Any = shake(
        torchaudio.models.wav2vec2_model(
            extractor_mode=mode,
            extractor_conv_layer_config=CONVOLUTIONS,
            extractor_conv_bias=True,
            encoder_embed_dim=32,
            encoder_projection_dropout=0.0,
            encoder_pos_conv_kernel=16,
            encoder_pos_conv_groups=4,
            encoder_num_layers=2,
            encoder_num_heads=4,
            encoder_attention_dropout=0.0,
            encoder_ff_interm_features=128,
            encoder_ff_interm_dropout=0.0,
            encoder_dropout=0.0,
            encoder_layer_norm_first=True,
            encoder_layer_drop=0.0,
            aux_num_out=5,
        )
    )
    whole = _extend_model(model, normalize_waveform=normalise).eval() if normalise else model
    return model, SimpleNamespace(sample_rate=16000, get_model=lambda: whole), whole


def test_a_bundle_of_torchaudio(monkeypatch: pytest.MonkeyPatch) -> None:
    model, offered, _ = bundle()
    monkeypatch.setattr(torchaudio.pipelines, "TINY", offered, raising=False)
    system = make()
    report = load_initial(system, "torchaudio:TINY", facts={"rate": 16000})
    model.aux = None
    with torch.no_grad():
        expected = model(standard(AUDIO))[0]
    close(features(system, AUDIO), expected)
    assert set(report.unused) == {"aux.weight", "aux.bias"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"encoder.heads": 2}, "--encoder.heads 4"),
        ({"encoder.norm_first": False}, "--encoder.norm_first true"),
        ({"encoder.conv_bias": False}, "--encoder.conv_bias true"),
        ({"tokenizer.standardise": False}, "--tokenizer.standardise 'true'"),
        ({"rate": 8000}, "--data.rate '16000'"),
    ],
)
def test_what_does_not_fit_is_refused(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], says: str
) -> None:
    monkeypatch.setattr(torchaudio.pipelines, "TINY", bundle()[1], raising=False)
    with pytest.raises(UserError, match=says):
        load_initial(make(**options), "torchaudio:TINY", facts={"rate": options.get("rate", 16000)})


def test_base_models_and_others_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torchaudio.pipelines, "BASE", bundle("group_norm")[1], raising=False)
    with pytest.raises(UserError, match="normed over time"):
        load_initial(make(), "torchaudio:BASE")
    with pytest.raises(UserError, match="no model 'NOTHING'"):
        load_initial(make(), "torchaudio:NOTHING")
    save("WavLM", tmp_path)
    with pytest.raises(UserError, match="is a WavLMModel"):
        load_initial(make(), f"transformers:{tmp_path}")


def test_a_model_without_its_feature_extractor_is_refused(tmp_path: Path) -> None:
    save("Hubert", tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match="does not say at which rate it hears"):
        load_initial(make(), f"transformers:{tmp_path}", facts={"rate": 16000})


def test_standardised_recordings_do_not_depend_on_padding() -> None:
    tokenizer = build("audio/waveform", "tokenizers", facts={"rate": 16000}, standardise=True)
    short = tokenizer({"audio": AUDIO[:1, :5000]})
    padded = AUDIO.clone()
    padded[:, 5000:] = 7.0
    long = tokenizer({"audio": padded[:1], "audio_length": torch.tensor([5000])})
    n = short.values.shape[1]
    torch.testing.assert_close(long.values[:, :n], short.values)
    assert long.valid.sum() == n and short.values.mean().abs() < 0.1
