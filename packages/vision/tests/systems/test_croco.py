"""CroCo is MAE on one picture, whose decoder also attends to a second one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from polymask import Batch, Mask, Run, RunConfig, Step, Tokens, UserError, build
from polymask.training import fit
from polymask_vision.datasets.maps import VALUES
from polymask_vision.evaluations.dense import Dense
from polymask_vision.evaluations.other_view import OtherView

TINY = {
    "tokenizer.patch_size": 4,
    "encoder.dim": 32,
    "encoder.depth": 2,
    "encoder.heads": 2,
    "decoder_dim": 32,
    "decoder_depth": 2,
    "decoder_heads": 2,
}
STEP = Step(3, 10, seed=1)
FACTS = {"size": (16, 16), "channels": 3}
CONDITIONINGS = ("cross", "concatenate", "none")


def make(system: str = "vision/croco", facts: dict[str, Any] = FACTS, **options: Any) -> Any:
    torch.manual_seed(0)
    return build(system, facts=facts, **(TINY | {"masking.ratio": 0.75, "target.patch_norm": True} | options))


def pictures(n: int = 4, size: int = 16) -> Batch:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, n, 3, size, size, generator=generator)
    return {"image": x[0], "other": x[1], "id": torch.arange(n)}


def shaken(system: Any) -> Any:
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return system


def predicted(system: Any, batch: Batch) -> tuple[Tensor, Mask]:
    """Predictions at hidden tokens ``[B, M, T]``, and what is hidden."""
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)
    return system.predict(tokens, mask, system.other(batch)), mask


# ------------------------------------------------------------------------------------------ mask


def test_176_of_196_patches_are_hidden_each_as_often_and_of_the_first_picture_alone() -> None:
    system = make(
        facts={"size": (224, 224), "channels": 1}, **{"tokenizer.patch_size": 16, "masking.ratio": 0.9}
    )
    n = 2000
    tokens = Tokens(torch.zeros(n, 196, 1), torch.zeros(n, 196, 2), (14, 14))
    hidden = system.draw(tokens, {"id": torch.arange(n)}, STEP).hidden
    assert (hidden.sum(1) == 176).all()
    share = 176 / 196
    assert ((hidden.double().mean(0) - share).abs() < 5 * (share * (1 - share) / n) ** 0.5).all()
    assert (hidden[0] != hidden[1]).any()
    assert list(make().masks(pictures(), STEP)) == ["mask"]


# --------------------------------------------------------------------------------------- routing


@pytest.mark.parametrize("conditioning", ["cross", "concatenate"])
def test_predictions_depend_on_the_second_picture_and_on_no_hidden_pixel(conditioning: str) -> None:
    system, batch = shaken(make(conditioning=conditioning)), pictures()
    batch["image"].requires_grad_()
    batch["other"].requires_grad_()
    prediction, mask = predicted(system, batch)
    one, two = torch.autograd.grad(prediction.square().sum(), [batch["image"], batch["other"]])
    seen = system.tokenizer({"image": one}).values.abs().sum(-1)
    assert (seen[mask.hidden] == 0).all() and (seen[~mask.hidden] > 0).all()
    # every patch of the second picture counts
    assert (system.tokenizer({"image": two}).values.abs().sum(-1) > 0).all()


def test_a_sample_is_completed_from_its_own_second_picture() -> None:
    for conditioning in ("cross", "concatenate"):
        system, batch = shaken(make(conditioning=conditioning)), pictures()
        before = predicted(system, batch)[0]
        batch["other"] = batch["other"].clone()
        batch["other"][1] += 1
        after = predicted(system, batch)[0]
        changed = (before != after).flatten(1).any(1)
        assert changed.tolist() == [False, True, False, False]


def test_the_memory_is_what_the_encoder_makes_of_the_second_picture_and_stays_so() -> None:
    system, batch = shaken(make()), pictures()
    tokens = system.tokenizer({"image": batch["other"]})
    encoded = system.encoder(system.encoder.embed(tokens.values), tokens.position)[:, 1:]
    expected = system.decoder.embed(encoded) + system.decoder.positions(tokens.position)
    given: list[Tensor] = []
    for block in system.decoder.blocks:
        block.register_forward_pre_hook(
            lambda _, args, kwargs: given.append(kwargs["memory"]), with_kwargs=True
        )
    predicted(system, batch)
    assert len(given) == 2
    for memory in given:
        torch.testing.assert_close(memory, expected)


def test_the_decoder_by_hand() -> None:
    """Self-attention, cross-attention, network; raster order; positions in both streams."""
    system, batch = shaken(make(**{"encoder.class_token": False})), pictures()
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)
    d, place = system.decoder, system.decoder.positions(tokens.position)
    encoded = system.encoder(system.encoder.embed(mask.keep(tokens).values), mask.keep(tokens).position)
    x = d.mask_token.expand(4, 16, -1).clone()
    for row in range(4):
        x[row, ~mask.hidden[row]] = d.embed(encoded[row])
    x, memory = x + place, d.embed(system.other(batch).values) + place
    for block in d.blocks:
        x = x + block.attn(block.norm1(x), block.norm1(x))
        y = block.norm_memory(memory)
        x = x + block.cross(block.norm3(x), y, y)
        x = x + block.mlp(block.norm2(x))
    expected = d.head(d.norm(x))[mask.hidden].view(4, 12, -1)
    torch.testing.assert_close(predicted(system, batch)[0], expected)


def test_where_a_token_of_the_second_picture_lies_counts_and_its_turn_does_not() -> None:
    system, batch = shaken(make()), pictures()
    tokens, other = system.tokenizer(batch), system.other(batch)
    mask, decoder = system.draw(tokens, batch, STEP), system.decoder
    encoded = system.encoder(system.encoder.embed(mask.keep(tokens).values), mask.keep(tokens).position)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))

    def told(memory: Tensor) -> Tensor:
        features: Tensor = decoder.features(encoded, mask, tokens.position, memory=memory)
        return features

    plain = told(decoder.memory(other))
    torch.testing.assert_close(told(decoder.memory(other)[:, order]), plain)
    elsewhere = told(decoder.memory(Tokens(other.values[:, order], other.position)))
    assert (elsewhere - plain).abs().max() > 1e-3


# ---------------------------------------------------------------------------------- equivalences


def test_without_conditioning_it_is_mae_bit_for_bit_and_needs_no_second_picture() -> None:
    batch = pictures()
    ours = shaken(make(conditioning="none"))
    mae = make("vision/mae")
    mae.load_state_dict(ours.state_dict())
    alone = {key: batch[key] for key in ("image", "id")}
    assert torch.equal(ours(alone, STEP)["reconstruction"], mae(alone, STEP)["reconstruction"])
    assert ours.monitor(alone, STEP) == {}


def test_with_a_silent_cross_attention_it_is_mae() -> None:
    batch, ours = pictures(), shaken(make())
    mae = make("vision/mae")
    missing, extra = mae.load_state_dict(ours.state_dict(), strict=False)
    assert not missing and all("decoder.blocks" in name for name in extra)
    assert (ours(batch, STEP)["reconstruction"] - mae(batch, STEP)["reconstruction"]).abs() > 1e-4
    with torch.no_grad():
        for block in ours.decoder.blocks:
            block.cross.proj.weight.zero_()
            block.cross.proj.bias.zero_()
    torch.testing.assert_close(ours(batch, STEP), mae(batch, STEP))


def test_concatenated_rows_with_fewer_visible_tokens_ignore_their_padding() -> None:
    system, batch = shaken(make(conditioning="concatenate")), pictures(2)
    tokens, other = system.tokenizer(batch), system.other(batch)
    hidden = torch.arange(16).expand(2, -1) >= torch.tensor([[4], [9]])
    ragged = system.predict(tokens, Mask(hidden), other)
    for row, count in ((0, 12), (1, 7)):
        one = Tokens(tokens.values[row : row + 1], tokens.position[:1], tokens.grid)
        second = Tokens(other.values[row : row + 1], other.position[:1], other.grid)
        alone = system.predict(one, Mask(hidden[row : row + 1], 16 - count), second)
        torch.testing.assert_close(ragged[row, :count], alone[0])


# ------------------------------------------------------------------------------------------ loss


def test_the_loss_is_over_hidden_patches_of_the_first_picture_each_normalised() -> None:
    system, batch = shaken(make()), pictures()
    prediction, mask = predicted(system, batch)
    patches = system.tokenizer(batch).values[mask.hidden].view(4, 12, -1)
    target = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    expected = (prediction - target).square().mean()
    torch.testing.assert_close(system(batch, STEP)["reconstruction"], expected)
    with torch.no_grad():
        system.decoder.head.weight.zero_()
        system.decoder.head.bias.zero_()
    # variances are those of n - 1 numbers
    found = system(batch, STEP)["reconstruction"].item()
    assert found == pytest.approx(47 / 48, abs=1e-4)
    flat = {**batch, "image": torch.zeros_like(batch["image"])}
    assert system(flat, STEP)["reconstruction"].isfinite()


# ------------------------------------------------------------------------- comparisons, features


def test_compared_are_the_own_second_picture_that_of_another_sample_and_none() -> None:
    system, batch = shaken(make()), pictures()
    found = system.monitor(batch, STEP)
    torch.testing.assert_close(found["own_other"], system(batch, STEP)["reconstruction"])
    swapped = {**batch, "other": batch["other"].roll(1, 0)}
    torch.testing.assert_close(found["another_other"], system(swapped, STEP)["reconstruction"])
    mae = make("vision/mae")
    mae.load_state_dict(system.state_dict(), strict=False)
    torch.testing.assert_close(found["no_other"], mae(batch, STEP)["reconstruction"])
    assert len({round(float(x), 4) for x in found.values()}) == 3


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_features_of_one_picture_are_the_encoders_and_of_both_the_decoders(conditioning: str) -> None:
    system, batch = shaken(make(conditioning=conditioning)), pictures()
    one, both = system.encode(batch), system.encode_pair(batch)
    assert one.values.shape == (4, 16, 32) and both.values.shape == (4, 16, 32) and both.grid == (4, 4)
    changed = {**batch, "other": -batch["other"]}
    assert torch.equal(system.encode(changed).values, one.values)
    same = torch.equal(system.encode_pair(changed).values, both.values)
    assert same == (conditioning == "none")
    # no mask token is in it
    with torch.no_grad():
        system.decoder.mask_token.add_(1)
    assert torch.equal(system.encode_pair(batch).values, both.values)


def test_the_preview_shows_the_other_picture_first() -> None:
    system, batch = make(), pictures()
    media = system.preview(batch, STEP).media
    assert list(media)[:3] == ["other picture", "original", "visible"] and len(media) == 4
    torch.testing.assert_close(media["other picture"], batch["other"])


def test_what_is_missing_is_said() -> None:
    alone = {key: x for key, x in pictures().items() if key != "other"}
    with pytest.raises(UserError, match="pairs:FOLDER, two crops .* --conditioning none"):
        make()(alone, STEP)
    with pytest.raises(UserError, match="cross . concatenate . none"):
        make(conditioning="both")


# -------------------------------------------------------------------------------------- learning


class Shifted:
    """Noise, and the same noise a patch further left: the second picture alone tells what is hidden."""

    def __init__(self, n: int) -> None:
        generator = torch.Generator().manual_seed(n)
        self.x = torch.randn(n, 1, 8, 16, generator=generator)

    def batch(self, ids: Tensor) -> Batch:
        return {"image": self.x[ids], "other": self.x[ids].roll(-4, 3), "id": ids}


@pytest.mark.slow
def test_it_learns_to_look_things_up_in_the_second_picture() -> None:
    system = make(
        facts={"size": (8, 16), "channels": 1},
        **{"decoder_heads": 4, "decoder_depth": 1, "encoder.depth": 1},
    )
    data, steps = Shifted(4096), 250
    optimizer = torch.optim.AdamW(system.parameters(), lr=3e-3)
    for index in range(steps):
        ids = torch.randint(4096, (64,), generator=torch.Generator().manual_seed(index))
        loss = system(data.batch(ids), Step(index, steps))["reconstruction"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    held_out = Shifted(256).batch(torch.arange(256))
    found = {name: float(x) for name, x in system.eval().monitor(held_out, Step(0, 1)).items()}
    untrained = make(facts={"size": (8, 16), "channels": 1}).eval().monitor(held_out, Step(0, 1))
    assert found["own_other"] < 0.8 < 0.9 < min(found["another_other"], found["no_other"])
    assert abs(untrained["own_other"] - untrained["another_other"]) < 0.05


# ------------------------------------------------------------------------------------ evaluations


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    pytest.importorskip("skimage")
    data = {"name": "vision/motorcycle", "size": 16, "stride": 64}
    config = {"system": "vision/croco", "preset": "tiny", "data": data, "steps": 2, "batch_size": 8}
    run = Run.create(RunConfig.resolve(config), tmp_path_factory.mktemp("croco") / "run")
    fit(run, progress=False)
    return run


def test_dense_values_are_told_from_one_picture_and_from_both(run: Run) -> None:
    found = {one.row for one in Dense(images=8)(run)}
    assert found >= {"pre-trained", "untrained", "pre-trained, both pictures", "untrained, both pictures"}
    sample = run.data.split("test")[0]
    assert set(sample) == {"image", "other", VALUES}
    assert 7 <= np.nanmin(sample[VALUES]) < np.nanmax(sample[VALUES]) <= 60


def test_the_worth_of_the_second_picture_is_measured_on_held_out_samples(run: Run) -> None:
    found = {(one.row, one.metric): one.value for one in OtherView(batch_size=5)(run)}
    assert len(found) == 6 and len(set(found.values())) == 6
    batch = {
        key: torch.stack([run.data.split("test")[i][key] for i in range(len(run.data.split("test")))])
        for key in ("image", "other")
    }
    batch["id"] = torch.arange(len(batch["image"]))
    everything = run.system.eval()(batch, Step(0, 1))["reconstruction"].item()
    assert found["pre-trained", "loss with own"] == pytest.approx(everything, rel=1e-4)


def test_systems_of_one_picture_have_nothing_to_exchange(run: Run, tmp_path: Path) -> None:
    data = {"name": "vision/digits", "limit": 16}
    mae = Run.create(
        RunConfig.resolve({"system": "vision/mae", "preset": "tiny", "data": data}), tmp_path / "run"
    )
    with pytest.raises(UserError, match="sees no second picture"):
        list(OtherView()(mae))
