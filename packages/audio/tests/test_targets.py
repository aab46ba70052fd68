"""Targets by their closed forms: what a frame is, which token gets it, and that padding changes nothing."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor

from polymask import Tokens, UserError
from polymask.codebooks import Codebook, Units, nearest
from polymask.data import collate, open_data
from polymask_audio import features
from polymask_audio.features import MFCC, Mel, Pretrained, open_features
from polymask_audio.targets import Clusters, LogMel, RandomProjection, Teacher, _OfFrames
from polymask_audio.tokenizers import MelFrames, MelPatches, Waveform

RATE = 16000


def speech(*seconds: float, seed: int = 0) -> dict[str, Tensor]:
    """Tones whose pitch and loudness move, of the given lengths; padded with the lengths beside them."""
    generator = torch.Generator().manual_seed(seed)
    sounds = []
    for length in seconds:
        time = torch.arange(round(length * RATE)) / RATE
        phase = torch.cumsum(300 + 2000 * torch.sin(3 * time).square(), 0) * 2 * torch.pi / RATE
        noise = 0.01 * torch.randn(len(time), generator=generator)
        sounds.append({"audio": 0.4 * torch.sin(7 * time).abs() * torch.sin(phase) + noise})
    return collate(sounds)


# ------------------------------------------------------------------------------------ features


def test_cepstra_are_torchaudios_with_its_differences() -> None:
    batch = speech(0.5)
    own = torchaudio.transforms.MFCC(
        RATE,
        13,
        log_mels=True,
        melkwargs={
            "n_fft": 512,
            "win_length": 400,
            "hop_length": 160,
            "n_mels": 40,
            "pad": 56,
            "center": False,
        },
    )(batch["audio"])
    first = torchaudio.functional.compute_deltas(own)
    second = torchaudio.functional.compute_deltas(first)
    (found,), counts = MFCC(RATE)(batch)
    assert counts is None
    expected = torch.cat([own, first, second], dim=1).transpose(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert found.shape == (1, (8000 - 400) // 160 + 1, 39)


@pytest.mark.parametrize("kind", ["mfcc", "mel"])
def test_padding_has_no_influence_on_what_is_real(kind: str) -> None:
    of = open_features(kind, RATE)
    batch = speech(0.31, 0.8, 0.555)
    batch["audio"][0, batch["audio_length"][0] :] = 0.7  # whatever stands there
    (together,), counts = of(batch)
    assert counts is not None
    for row in range(3):
        alone = batch["audio"][row : row + 1, : batch["audio_length"][row]]
        (single,), _ = of({"audio": alone})
        assert single.shape[1] == counts[row]
        torch.testing.assert_close(together[row : row + 1, : counts[row]], single, rtol=1e-4, atol=1e-4)


def test_spectra_peak_where_the_tone_is_at_any_rate() -> None:
    for rate in (1600, 8000, 16000, 44100):
        pitch = rate / 8
        tone = torch.sin(2 * torch.pi * pitch * torch.arange(rate // 2) / rate)
        of = Mel(rate, 24)
        (x,), _ = of({"audio": tone[None]})
        edges = torchaudio.functional.melscale_fbanks(of.mel.n_fft // 2 + 1, 0, rate / 2, 24, rate)
        assert (edges.amax(0) > 0).all(), f"empty filters at {rate}"
        expected = edges[round(pitch / rate * of.mel.n_fft)].argmax()
        assert (x[0].argmax(-1) == expected).all()
        assert x.shape[1] == (rate // 2 - of.window) // of.hop + 1


def test_features_shorter_than_a_window_are_one_frame() -> None:
    (x,), counts = MFCC(RATE)({"audio": torch.randn(2, 50), "audio_length": torch.tensor([50, 3])})
    assert x.shape == (2, 1, 39)
    assert counts is not None
    assert counts.tolist() == [1, 1]


def test_names_that_mean_nothing_are_refused() -> None:
    for name in ("mfccs", "run:", "torchaudio:"):
        with pytest.raises(UserError, match="choose mfcc, mel, run:FOLDER"):
            open_features(name, RATE)
    with pytest.raises(UserError, match="has no layers"):
        open_features("mfcc", RATE, (3,))
    with pytest.raises(UserError, match="torchaudio:NOTHING cannot be loaded"):
        open_features("torchaudio:NOTHING", RATE)


# ----------------------------------------------------------------------------------- alignment


class Counted(features.Features):
    """Frame i is the number i."""

    def __init__(self, per_second: float) -> None:
        super().__init__(1, per_second)

    def extract(self, audio: Tensor, length: Tensor | None) -> tuple[list[Tensor], Tensor | None]:
        n = round(audio.shape[1] / RATE * self.per_second)
        counts = None if length is None else (length / RATE * self.per_second).long()
        return [torch.arange(float(n)).expand(len(audio), -1)[..., None]], counts


@pytest.mark.parametrize("per_second", [100.0, 50.0, 25.0, 33.0, 49.0])
def test_token_i_gets_frame_floor_of_i_times_the_ratio(per_second: float) -> None:
    tokens = Waveform(rate=RATE)(batch := speech(3.0))
    (found,) = _OfFrames(Counted(per_second), RATE, 320).aligned(batch, tokens)
    i = torch.arange(tokens.shape[1])
    assert found[0, :, 0].tolist() == (i * int(per_second) // 50).tolist()


def test_tokens_left_out_do_not_shift_the_rest() -> None:
    tokens = Waveform(rate=RATE)(batch := speech(1.0))
    some = Tokens(tokens.values[:, 1::3], tokens.position[:, 1::3])
    target = _OfFrames(Counted(100.0), RATE, 320)
    target._confirm = lambda *args: None  # type: ignore[method-assign]
    assert target.aligned(batch, some)[0][0, :, 0].tolist() == [2 * i for i in range(1, tokens.shape[1], 3)]


def test_frames_side_by_side_end_with_the_last_real_one() -> None:
    batch = speech(0.2, 0.5)
    tokens = Waveform(rate=RATE)(batch)
    (found,) = _OfFrames(Counted(100.0), RATE, 320).aligned(batch, tokens, reach=2)
    assert found[1].tolist() == [[2 * i, 2 * i + 1] for i in range(tokens.shape[1])]
    assert found[0].max() == 19


def test_a_wrong_rate_is_noticed() -> None:
    batch = speech(2.0)
    tokens = Waveform(rate=RATE)(batch)
    for wrong in (100.0 / 2, 100.0 * 2):
        target = _OfFrames(Counted(100.0), RATE, 320)
        target.per_token *= wrong / 100
        with pytest.raises(UserError, match="is not what it is taken for"):
            target.aligned(batch, tokens)


def test_patches_of_one_time_share_a_label() -> None:
    tokenizer = MelPatches(rate=RATE)
    tokens = tokenizer(batch := speech(2.0))
    labels = Clusters(file="random:16", rate=RATE, hop=tokenizer.hop)(batch, tokens)
    by_time = labels.view(1, -1, 8)
    assert (by_time == by_time[..., :1]).all()
    assert by_time[..., 0].unique().numel() > 1


# ------------------------------------------------------------------------------------- targets


def codebook(path: Path, dim: int, stages: tuple[int, ...] = (1,), name: str = "mfcc", codes: int = 6) -> str:
    generator = torch.Generator().manual_seed(1)
    books = tuple(
        Codebook(torch.randn(q, codes, dim, generator=generator), torch.zeros(dim), 5 * torch.ones(dim))
        for q in stages
    )
    layers = (None,) if len(books) == 1 else tuple(range(1, len(books) + 1))
    return str(Units(name, layers, books).save(path / "units.safetensors"))


def test_clusters_are_the_nearest_codes_of_the_frame_that_is_due(tmp_path: Path) -> None:
    batch = speech(0.6, 1.0)
    tokens = Waveform(rate=RATE)(batch)
    target = Clusters(file=codebook(tmp_path, 39), rate=RATE, hop=320)
    labels = target(batch, tokens)
    (frames,), _ = MFCC(RATE)(batch)
    book = target.books[0]
    n = int(tokens.valid[0].sum())  # type: ignore[index]
    for row, length in ((0, n), (1, tokens.shape[1])):
        due = frames[row, 2 * torch.arange(length)] / 5
        expected = torch.cdist(due, book.centers[0]).argmin(-1)  # type: ignore[index, union-attr]
        assert torch.equal(labels[row, :length], expected)
    assert (target.dim, target.streams) == (6, 1)


def test_stages_are_streams(tmp_path: Path) -> None:
    batch = speech(0.6)
    tokens = Waveform(rate=RATE)(batch)
    target = Clusters(file=codebook(tmp_path, 39, (3,)), rate=RATE, hop=320)
    labels = target(batch, tokens)
    assert labels.shape == (1, tokens.shape[1], 3)
    assert target.streams == 3
    (frames,), _ = MFCC(RATE)(batch)
    assert torch.equal(labels, target.books[0](frames[:, ::2][:, : tokens.shape[1]]))


def test_labels_of_a_sample_do_not_depend_on_its_company(tmp_path: Path) -> None:
    target = Clusters(file=codebook(tmp_path, 39), rate=RATE, hop=320)
    batch = speech(0.4, 1.0)
    both = target(batch, Waveform(rate=RATE)(batch))
    alone = {"audio": batch["audio"][:1, : batch["audio_length"][0]]}
    single = target(alone, Waveform(rate=RATE)(alone))
    assert torch.equal(both[:1, : single.shape[1]], single)


def test_a_token_may_have_several_frames_of_a_faster_teacher() -> None:
    """Of 100 cepstra a second and 50 tokens: the two of each, one after another, each with its stages."""
    batch = speech(0.5, 0.8)
    tokens = Waveform(rate=RATE)(batch)
    one, two = (Clusters(file="random:9x3", frames=n, rate=RATE, hop=320) for n in (1, 2))
    assert (one.streams, two.streams) == (3, 6)
    every = Tokens(
        torch.zeros(2, 70, 1), torch.arange(70.0)[None, :, None].expand(2, -1, -1)
    )  # a token for each frame
    fine = Clusters(file="random:9x3", rate=RATE, hop=160)(batch, every)
    ids = two(batch, tokens)
    assert torch.equal(ids[1, :30, :3], fine[1, :60:2]) and torch.equal(ids[1, :30, 3:], fine[1, 1:60:2])
    assert torch.equal(one(batch, tokens), ids[..., :3])
    for options in ({"frames": 0}, {"file": "random:9x0"}, {"file": "random:9xx2"}):
        with pytest.raises(UserError):
            Clusters(**{"file": "random:9", **options})  # type: ignore[arg-type]


def test_clusters_without_a_file_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="speech-targets"):
        Clusters()
    with pytest.raises(UserError, match="2 or more"):
        Clusters(file="random:one")
    with pytest.raises(UserError, match="width"):
        Clusters(file=codebook(tmp_path, 7))


def test_mel_is_standardised_over_real_frames_alone() -> None:
    batch = speech(0.5, 0.9)
    tokenizer = MelFrames(rate=RATE)
    tokens = tokenizer(batch)
    target = LogMel(rate=RATE, hop=tokenizer.hop, mels=20)
    out = target(batch, tokens)
    assert target.dim == out.shape[2] == 40
    for row in range(2):
        real = out[row][tokens.valid[row]]  # type: ignore[index]
        assert abs(float(real.mean())) < 1e-4
        assert abs(float(real.std(correction=0)) - 1) < 1e-3
    (raw,), _ = Mel(RATE, 20)(batch)
    plain = LogMel(rate=RATE, hop=tokenizer.hop, mels=20, norm=False)(batch, tokens)
    torch.testing.assert_close(plain[1, 3], raw[1, 6:8].flatten())


def test_random_projection_is_the_nearest_code_by_hand() -> None:
    values = torch.randn(2, 7, 12)
    target = RandomProjection(in_dim=12, codes=9, width=5, hidden=8, seed=3)
    ids = target({}, Tokens(values, torch.zeros(2, 7, 1)))
    x = F.layer_norm(values @ target.get_buffer("map_0")[0], (8,))
    x = F.layer_norm(x @ target.get_buffer("map_1")[0], (5,))
    assert torch.equal(ids, torch.cdist(x, target.codes).argmin(-1))
    same = RandomProjection(in_dim=12, codes=9, width=5, hidden=8, seed=3)
    other = RandomProjection(in_dim=12, codes=9, width=5, hidden=8, seed=4)
    assert torch.equal(same.codes, target.codes)
    assert not torch.equal(other.codes, target.codes)


def test_random_projection_uses_many_codes_on_sound() -> None:
    samples = open_data("words").split("test")
    batch = collate([samples[i] for i in range(0, 175, 4)])
    tokens = MelPatches(rate=RATE)(batch)
    ids = RandomProjection(in_dim=256)(batch, tokens)[tokens.valid]
    assert ids.unique().numel() > 50


def test_random_projection_of_raw_tokens_is_of_their_spectra() -> None:
    """A change of sign is inaudible, and turns raw samples around."""
    tokenizer = Waveform(rate=RATE)
    batch = speech(1.0)
    target = RandomProjection(in_dim=400, raw=True, rate=RATE, hop=320)
    ids = target(batch, tokenizer(batch))
    turned = {"audio": -batch["audio"]}
    assert torch.equal(ids, target(turned, tokenizer(turned)))
    assert ids.unique().numel() > 5


@pytest.mark.parametrize(
    "target",
    [LogMel(mels=8), Teacher(model="mfcc"), Clusters(file="random:8"), RandomProjection(in_dim=400)],
    ids=["mel", "teacher", "clusters", "random"],
)
def test_targets_pass_no_gradient_and_train_nothing(target: Any) -> None:
    batch = speech(0.4)
    batch["audio"].requires_grad_()
    tokens = Waveform(rate=RATE)(batch)
    out = target(batch, tokens)
    assert not out.requires_grad
    assert not [p for p in target.parameters() if p.requires_grad]


# ------------------------------------------------------------------------------------ teachers


def tiny_wav2vec() -> Any:
    torch.manual_seed(0)
    return torchaudio.models.wav2vec2_model(
        extractor_mode="layer_norm",
        extractor_conv_layer_config=[
            (8, 10, 5),
            (8, 3, 2),
            (8, 3, 2),
            (8, 3, 2),
            (8, 3, 2),
            (8, 2, 2),
            (8, 2, 2),
        ],
        extractor_conv_bias=False,
        encoder_embed_dim=16,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=4,
        encoder_pos_conv_groups=2,
        encoder_num_layers=3,
        encoder_num_heads=2,
        encoder_attention_dropout=0.1,
        encoder_ff_interm_features=16,
        encoder_ff_interm_dropout=0.1,
        encoder_dropout=0.1,
        encoder_layer_norm_first=False,
        encoder_layer_drop=0.5,
        aux_num_out=None,
    )


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'polymask-audio\[transformers\]'"):
        Teacher(model="transformers:microsoft/wavlm-base")


def test_a_torchaudio_model_teaches_what_its_layer_says(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = SimpleNamespace(sample_rate=RATE, get_model=tiny_wav2vec)
    monkeypatch.setattr(torchaudio.pipelines, "TINY", bundle, raising=False)
    batch = speech(0.5, 0.8)
    tokens = Waveform(rate=RATE)(batch)
    teacher = Teacher(model="torchaudio:TINY", layer=2, rate=RATE, hop=320).train()
    out = teacher(batch, tokens)
    assert teacher.dim == 16
    states, counts = tiny_wav2vec().eval().extract_features(batch["audio"], batch["audio_length"])
    n = int(counts[0])
    torch.testing.assert_close(out[0, :n], states[1][0, :n])
    torch.testing.assert_close(out[1], states[1][1])
    assert teacher.features.per_second == 50
    with pytest.raises(UserError, match="has no layer 4"):
        Teacher(model="torchaudio:TINY", layer=4)
    unit = Teacher(model="torchaudio:TINY", norm=True)(batch, tokens)
    torch.testing.assert_close(unit.mean(-1), torch.zeros(unit.shape[:2]), rtol=0, atol=1e-5)


def test_a_model_of_another_rate_hears_resampled_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = SimpleNamespace(sample_rate=RATE, get_model=tiny_wav2vec)
    monkeypatch.setattr(torchaudio.pipelines, "TINY", bundle, raising=False)
    of = Pretrained("torchaudio:TINY", (None,), 8000)
    sound = torch.randn(1, 4000)
    (found,), _ = of({"audio": sound})
    states, _ = tiny_wav2vec().eval().extract_features(torchaudio.functional.resample(sound, 8000, RATE))
    torch.testing.assert_close(found, states[-1])


def test_a_transformers_model_teaches_what_its_layer_says(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=[8] * 7,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
    )
    torch.manual_seed(0)
    model = transformers.Wav2Vec2Model(config).eval()
    model.save_pretrained(tmp_path)
    inputs = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    inputs.save_pretrained(tmp_path)
    batch = speech(0.5, 0.8)
    teacher = Teacher(model=f"transformers:{tmp_path}", layer=1, rate=RATE, hop=320)
    tokens = Waveform(rate=RATE)(batch)
    found = teacher(batch, tokens)
    sounds = [x[:n].numpy() for x, n in zip(batch["audio"], batch["audio_length"], strict=True)]
    given = inputs(sounds, sampling_rate=RATE, padding=True, return_tensors="pt")
    with torch.no_grad():
        state = model(**given, output_hidden_states=True).hidden_states[1]
    n = int(tokens.valid[0].sum())  # type: ignore[index]
    torch.testing.assert_close(found[0, :n], state[0, :n], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found[1], state[1], rtol=1e-3, atol=1e-4)


def test_one_teacher_is_asked_for() -> None:
    for options in ({}, {"run": "a", "model": "mfcc"}):
        with pytest.raises(UserError, match="which teacher"):
            Teacher(**options)  # type: ignore[arg-type]


def test_batches_are_left_as_they_are() -> None:
    batch: Mapping[str, Tensor] = speech(0.3, 0.5)
    before = {key: value.clone() for key, value in batch.items()}
    MFCC(RATE)(batch)
    assert all(torch.equal(batch[key], value) for key, value in before.items())
    assert nearest(torch.zeros(1, 2), torch.ones(1, 2)).tolist() == [0]
