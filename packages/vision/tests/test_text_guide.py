"""Frozen encoders of frames and captions: what maps are of, and what words say."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from polymask import UserError, build
from polymask.run import Run
from polymask_vision.text_guide import open_guide
from polymask_vision.video_scores import TextSimilarity


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of transformers, tiny, with random weights."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**size, "vocab_size": 64, "max_position_embeddings": 12, "eos_token_id": 3},
        vision_config={**size, "image_size": 24, "patch_size": 8},
        projection_dim=8,
    )
    folder = tmp_path_factory.mktemp("clip")
    model = transformers.CLIPModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def opened(name: Path | str, channels: int = 3, mean: Any = None, std: Any = None, text: Any = None) -> Any:
    name = f"transformers:{name}" if isinstance(name, Path) else name
    return open_guide(name, channels=channels, mean=mean, std=std, text=text).requires_grad_(False)


def test_patches_of_a_clip_take_the_way_of_its_class_token(clip: Path) -> None:
    guide = opened(clip, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2))
    model = guide.model
    video = torch.randn(2, 3, 3, 24, 24)
    frames = (video * 0.2 + torch.tensor([0.4, 0.5, 0.6])[:, None, None]).flatten(0, 1)
    with torch.no_grad():
        hidden_states = model.vision_model(frames).last_hidden_state
        tokens = model.visual_projection(model.vision_model.post_layernorm(hidden_states))
        features = model.get_image_features(frames)
        features = features if isinstance(features, Tensor) else features.pooler_output
        maps = guide.maps(video)
        torch.testing.assert_close(tokens[:, 0], features)
        torch.testing.assert_close(maps.flatten(0, 1).flatten(1, 2), tokens[:, 1:])
        assert maps.shape == (2, 3, 3, 3, 8)
        text = torch.randint(5, 60, (2, 10))
        text[:, 7] = 3
        told = {"text": text[:, :8]}
        padded = {"text": text.clone(), "text_length": torch.tensor([8, 8])}
        theirs = model.get_text_features(text[:, :8], attention_mask=torch.ones(2, 8).long())
        theirs = theirs if isinstance(theirs, Tensor) else theirs.pooler_output
        for batch in (told, padded):
            torch.testing.assert_close(guide.text(batch), theirs)


def test_frames_reach_clip_as_its_own_processor_prepares_them(clip: Path, tmp_path: Path) -> None:
    """Of another size, of values that the data have normalised otherwise, and grey ones."""
    transformers = pytest.importorskip("transformers")
    own = {"image_mean": [0.3, 0.4, 0.5], "image_std": [0.25, 0.3, 0.35]}
    size = {"size": {"height": 24, "width": 24}, "do_center_crop": False, "do_rescale": False}
    folder = shutil.copytree(clip, tmp_path / "clip")
    processor = transformers.CLIPImageProcessor(**own, **size)
    processor.save_pretrained(folder)
    for channels, mean, std in ((3, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)), (1, (0.4,), (0.2,))):
        guide = opened(folder, channels, mean, std)
        frames = torch.rand(2, channels, 60, 40, generator=torch.Generator().manual_seed(0))
        shown = guide.maps(
            ((frames - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None])[None]
        )
        if channels == 3:
            seen = processor(list(frames), return_tensors="pt")["pixel_values"]
        else:  # one channel has the mean of the three statistics
            grey = transformers.CLIPImageProcessor(image_mean=[0.4] * 3, image_std=[0.3] * 3, **size)
            seen = grey(list(frames.expand(-1, 3, -1, -1)), return_tensors="pt")["pixel_values"]
        expected = guide.model.vision_model(seen).last_hidden_state[:, 1:]
        expected = guide.model.visual_projection(guide.model.vision_model.post_layernorm(expected))
        torch.testing.assert_close(shown.flatten(0, 1).flatten(1, 2), expected, atol=1e-3, rtol=1e-3)


def test_a_clip_that_lacks_weights_and_frames_of_two_channels_are_refused(clip: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    with pytest.raises(UserError, match="takes 1 channel, repeated, or 3, and frames have 2"):
        opened(clip, channels=2)
    folder = shutil.copytree(clip, tmp_path / "clip")
    state = load_file(folder / "model.safetensors")
    del state["vision_model.post_layernorm.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 weights of its encoder"):
        opened(folder)


def test_without_transformers_the_message_says_how_to_install_it(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"polymask-vision\[transformers\]"):
        TextSimilarity(guide=f"transformers:{clip}")


def test_random_guides_have_a_vector_for_each_patch_and_add_up_those_of_words() -> None:
    guide = opened("random", channels=2)
    video = torch.randn(2, 3, 2, 8, 16)
    moved = video.clone()
    moved[1, 2, :, 4:8, 8:12] += 1
    assert differing(guide.maps(video), guide.maps(moved)) == [[1, 2, 1, 2]]
    example, other = guide.example(2), guide.example(2, seed=1)
    assert example["text"].shape[1] == example["text_length"].min()
    assert not torch.equal(example["text"], other["text"])
    text = torch.tensor([[5, 2000, 7], [7, 5, 9]])
    whole, vectors = guide.text({"text": text}), guide.vectors.weight
    torch.testing.assert_close(whole[0] - whole[1], vectors[2000 % 1021] - vectors[9])
    padded = guide.text({"text": text, "text_length": torch.tensor([1, 2])})
    torch.testing.assert_close(padded, torch.stack([vectors[5], vectors[7] + vectors[5]]))


def differing(one: Tensor, other: Tensor) -> list[list[int]]:
    """Places whose vectors differ."""
    found: list[list[int]] = (one != other).any(-1).nonzero().tolist()
    return found


def test_the_towers_of_a_run_tell_each_patch_of_each_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("polymask_language")
    torch.manual_seed(0)
    size = {"frames": 4, "size": (8, 16), "channels": 3}
    dual: Any = build("vision/dual", preset="tiny", facts=size, **{"tokenizer.patch_size": 4})
    run = SimpleNamespace(system=dual, folder="run", facts={"mean": (0.2, 0.2, 0.2), "std": (0.3, 0.3, 0.3)})
    monkeypatch.setattr(Run, "open", lambda folder: run)
    guide, batch = opened("run"), dual.example(2)
    moved = batch["video"].clone()
    moved[1, 2, :, 4:8, 8:12] += 1
    maps = guide.maps(batch["video"])
    assert maps.shape == (2, 4, 2, 4, guide.dim) and differing(maps, guide.maps(moved)) == [[1, 2, 1, 2]]
    torch.testing.assert_close(guide.text(batch), dual.embed_text(batch))
    with pytest.raises(UserError, match="trained on clips of"):
        guide.maps(batch["video"][:, :2])
    vocabularies = [tmp_path / name for name in ("one", "same", "other")]
    for path, content in zip(vocabularies, ("a", "a", "b"), strict=True):
        path.write_text(content)
    dual.text_tokenizer.tokenizer_file = str(vocabularies[0])
    opened("run", text={"tokenizer_file": str(vocabularies[1])})
    with pytest.raises(UserError, match="another vocabulary"):
        opened("run", text={"tokenizer_file": str(vocabularies[2])})
    opened("run", mean=(0.2, 0.2, 0.205), std=(0.3, 0.3, 0.3))
    for scale in ({"mean": (0.2, 0.5, 0.2), "std": (0.3, 0.3, 0.3)}, {"mean": (0.2,) * 3, "std": (0.2,) * 3}):
        with pytest.raises(UserError, match="was trained on pixels with mean"):
            opened("run", **scale)
    monkeypatch.setattr(Run, "open", lambda folder: SimpleNamespace(system=torch.nn.Linear(1, 1)))
    with pytest.raises(UserError, match="does not match patches with captions"):
        opened("run")
