"""UMD: what each part of its loss sees, its special cases, and what it generates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from polymask import Batch, Mask, Step, UserError, build
from polymask.maskings import Random
from polymask.nn.diffusion import add_noise
from polymask.protocols import Request

STEP = Step(3, 10, seed=1)
SIZE = {"tokenizer.patch_size": 4, "encoder.dim": 32, "encoder.depth": 2, "encoder.heads": 2}
FACTS = {"size": (16, 16), "channels": 3, "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "classes": 4}


def make(name: str = "vision/umd", **options: Any) -> Any:
    torch.manual_seed(0)
    decoder = {"decoder_depth": 2, "decoder_heads": 2}
    return build(name, facts=FACTS, **(SIZE | decoder | options))


def images(n: int = 8, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return {"image": torch.randn(n, 3, 16, 16, generator=generator), "id": torch.arange(n) * 7 + 3}


def shaken(system: Any, much: float = 0.1) -> Any:
    """All parameters moved, so that blocks are not the identity."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(much * torch.randn(parameter.shape, generator=generator))
    return system


def answering(system: Any, target: Tensor | float, noise: Tensor | float) -> Any:
    """The system with a network that gives these answers."""

    def predict(x: Any, mask: Any, told: Any) -> tuple[Tensor, Tensor]:
        like = torch.zeros_like(x.values)
        return like + target, like + noise

    object.__setattr__(system, "predict", predict)
    return system


def total(system: Any, batch: Batch, step: Step = STEP) -> Tensor:
    return torch.stack([*system(batch, step).values()]).sum()


# ------------------------------------------------------------------------------ the two parts


def test_parts_and_times_go_by_id_and_step_and_not_by_place() -> None:
    system, batch = make(), images(4000)
    noisy, time = system.part(batch, STEP)
    assert noisy.float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert (time[~noisy] == 0).all() and time[noisy].min() >= 1 and time[noisy].max() <= 1000
    assert time[noisy].float().mean().item() == pytest.approx(500.5, abs=25)  # 4 deviations of the mean
    order = torch.randperm(4000, generator=torch.Generator().manual_seed(0))[:100]
    again = system.part({key: x[order] for key, x in batch.items()}, STEP)
    assert torch.equal(again[0], noisy[order]) and torch.equal(again[1], time[order])
    other, _ = system.part(batch, Step(4, 10, seed=1))
    assert (other != noisy).float().mean().item() == pytest.approx(0.5, abs=0.03)
    last = build("vision/umd", facts=FACTS, times=3, **SIZE, decoder_depth=1, decoder_heads=2)
    assert last.part(batch, STEP)[1].unique().tolist() == [0, 1, 2, 3]


def test_clean_images_enter_as_they_are_and_noised_ones_noised_at_the_networks_time() -> None:
    system, batch, seen = make(), images(), {}
    object.__setattr__(
        system, "predict", lambda x, mask, told: seen.update(x=x.values, mask=mask) or (x.values, x.values)
    )
    times: list[Tensor] = []
    condition = system.encoder.condition
    system.encoder.condition = lambda time, other=None: times.append(time) or condition(time, other)
    system(batch, STEP)
    tokens, (noisy, time) = system.tokenizer(batch), system.part(batch, STEP)
    assert 0 < noisy.sum() < len(noisy)
    assert torch.equal(times[0], time)
    assert torch.equal(seen["x"][~noisy], tokens.values[~noisy])
    noise = STEP.normal(batch["id"], tokens.values[0].numel(), -3).view_as(tokens.values)
    noised = add_noise(tokens.values, noise, system.signal[time])
    torch.testing.assert_close(seen["x"][noisy], noised[noisy])
    hidden = seen["mask"].hidden.sum(1)
    assert (hidden[noisy] == 6).all() and (hidden[~noisy] == 12).all()  # 37.5 and 75 % of 16


def test_answering_nothing_costs_1_for_noise_and_the_mean_square_of_hidden_pixels() -> None:
    system, batch = answering(make(), 0.0, 0.0), images(512)
    found = system(batch, STEP)
    noisy, _ = system.part(batch, STEP)
    share = noisy.float().mean()
    assert (2 * found["noise"] / share).item() == pytest.approx(1, abs=0.02)
    assert (2 * found["hidden"] / share).item() == pytest.approx(1, abs=0.02)
    assert (found["clean"] / (1 - share)).item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("what", ["target", "noise"])
def test_each_answer_counts_where_it_can_be_known_alone(what: str) -> None:
    """The target is asked for where hidden, the noise where visible and of noised images alone."""
    system, batch = make(), images()
    answer = torch.zeros(8, 16, 48, requires_grad=True)
    answering(system, **{"target": 0.0, "noise": 0.0} | {what: answer})
    total(system, batch).backward()
    moved = (answer.grad != 0).any(-1)
    noisy, _ = system.part(batch, STEP)
    tokens = system.tokenizer(batch)
    hidden = torch.where(
        noisy[:, None],
        system.draw_noisy(tokens, batch, STEP).hidden,
        system.draw(tokens, batch, STEP).hidden,
    )
    assert torch.equal(moved, hidden if what == "target" else ~hidden & noisy[:, None])


def test_the_truth_costs_nothing() -> None:
    """Clean pixels where hidden, of noised images too; and the noise that was added."""
    system, batch = make(), images()
    tokens = system.tokenizer(batch)
    noise = STEP.normal(batch["id"], tokens.values[0].numel(), -3).view_as(tokens.values)
    assert total(answering(system, tokens.values, noise), batch).item() == 0


def test_images_count_alike_whatever_is_hidden_of_them() -> None:
    system, batch = shaken(make()).eval(), images()
    with torch.no_grad():
        whole = total(system, batch)
        alone = [total(system, {key: x[i : i + 1] for key, x in batch.items()}) for i in range(8)]
    torch.testing.assert_close(whole, torch.stack(alone).mean(), rtol=1e-4, atol=1e-5)


def test_hidden_content_does_not_reach_the_prediction_and_padding_does_not_either() -> None:
    system, batch = shaken(make()).eval(), images()
    seen: list[tuple[Tensor, Tensor]] = []
    predict = system.predict
    object.__setattr__(system, "predict", lambda *args: seen.append(predict(*args)) or seen[-1])
    tokens, (noisy, _) = system.tokenizer(batch), system.part(batch, STEP)
    hidden = torch.where(
        noisy[:, None],
        system.draw_noisy(tokens, batch, STEP).hidden,
        system.draw(tokens, batch, STEP).hidden,
    )
    other = system.tokenizer.inverse(Mask(hidden).fill(tokens.values, 100 * torch.ones(48)))
    with torch.no_grad():
        system(batch, STEP), system({**batch, "image": other}, STEP)
        rows = (~noisy).nonzero()[:, 0]
        clean = {key: x[rows] for key, x in batch.items()}
        short = predict(
            system.tokenizer(clean), system.draw(system.tokenizer(clean), clean, STEP), system.told(clean)
        )
    assert torch.equal(seen[0][0], seen[1][0]) and torch.equal(seen[0][1], seen[1][1])
    torch.testing.assert_close(
        seen[0][0][rows], short[0], rtol=1e-4, atol=1e-5
    )  # beside noised ones, or alone


# ------------------------------------------------------------------------------ the network


def test_blocks_begin_as_the_identity_and_learn_the_time() -> None:
    system, batch = make(), images(64)
    tokens = system.tokenizer(batch)
    encoder = system.encoder
    start = super(type(encoder), encoder).begin(encoder.embed(tokens.values), tokens.position)[0]

    def encoded(t: int) -> Tensor:
        told = encoder.condition(torch.full((64,), t))
        return encoder(encoder.embed(tokens.values), tokens.position, None, told)

    with torch.no_grad():
        assert torch.equal(encoded(0), encoder.norm(start)) and torch.equal(encoded(0), encoded(900))
    optimizer = torch.optim.AdamW(system.parameters(), lr=1e-3)
    for index in range(3):
        optimizer.zero_grad()
        total(system, batch, Step(index, 3)).backward()
        optimizer.step()
    with torch.no_grad():
        assert (encoded(0) - encoded(900)).abs().max() > 1e-4
        alone = encoder(encoder.embed(tokens.values), tokens.position)
        assert torch.equal(alone, encoded(0))  # alone it is at time 0
        assert torch.equal(system.encode(batch).values, encoded(0)[:, 1:])


def test_decoder_is_modulated_too() -> None:
    system, batch = shaken(make()).eval(), images()
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)
    encoded = system.encoded(tokens, mask, system.told(batch))
    late = system.told(batch, None, torch.full((8,), 900))
    one, other = (system.decoder(encoded, mask, tokens.position, told) for told in (system.told(batch), late))
    assert one.shape == (8, 16, 96) and (one - other).abs().max() > 1e-3


# ------------------------------------------------------------------------------ special cases


def test_all_clean_is_a_masked_autoencoder_bit_for_bit() -> None:
    for more in ({}, {"target.patch_norm": True}):
        mae = shaken(
            make("vision/mae", decoder_dim=32, **({"target.patch_norm": False} | more)),
        )
        umd = make(clean_share=1.0, encoder="vision/vit", **more)
        umd.load_state_dict(mae.state_dict())
        batch = images()
        one, other = mae(batch, STEP)["reconstruction"], umd(batch, STEP)["clean"]
        assert torch.equal(one, other) and list(umd(batch, STEP)) == ["clean"]
        one.backward(), other.backward()
        for (name, p), q in zip(mae.named_parameters(), umd.parameters(), strict=True):
            assert p.grad is None or torch.equal(p.grad, q.grad), name


def test_all_clean_with_its_own_network_is_mae_at_time_0() -> None:
    umd, batch = shaken(make(clean_share=1.0)), images()
    mae = make("vision/mae", encoder="vision/dit", decoder_dim=32, **{"target.patch_norm": False})
    mae.encoder.load_state_dict(umd.encoder.state_dict())
    tokens = umd.tokenizer(batch)
    mask = umd.draw(tokens, batch, STEP)
    assert torch.equal(mask.hidden, mae.draw(tokens, batch, STEP).hidden)
    seen = mask.keep(tokens)
    plain = mae.encoder(mae.encoder.embed(seen.values), seen.position, seen.valid)
    assert torch.equal(umd.encoded(tokens, mask, umd.told(batch)), plain)
    assert umd.decoder.head.out_features == 48  # there is no noise to predict


def test_dit_and_maskdit() -> None:
    batch = images(256)
    dit = answering(make(clean_share=0.0, noisy_masking=None), 0.0, 0.0)
    found = dit(batch, STEP)
    assert "clean" not in found and dit.masks(batch, STEP) == {}
    assert found["noise"].item() == pytest.approx(0.5, abs=0.01)  # half of the error over everything
    square = batch["image"].square().mean().item()
    assert found["hidden"].item() == pytest.approx(square / 2, rel=1e-5)
    masked = make(clean_share=0.0, **{"noisy_masking.ratio": 0.5})
    (view,) = masked.masks(batch, STEP).values()
    assert (view.mask.hidden.sum(1) == 8).all() and "clean" not in masked(batch, STEP)


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(UserError, match="ViT cannot be told: use vision/dit, or --clean_share 1"):
        make(encoder="vision/vit")
    with pytest.raises(UserError, match="gives one number for all"):
        make(objective="core/standardised-mse")
    with pytest.raises(UserError, match="below 1"):
        make(clean_share=1.0).generate(images(), STEP)
    with pytest.raises(UserError, match="1 to 1000 steps"):
        make().generate(images(), STEP, steps=1001)


# ------------------------------------------------------------------------------ generation


def test_a_network_that_knows_the_noise_generates_the_data() -> None:
    system, batch = make(), images()
    truth = system.tokenizer(batch).values.clamp(-2, 2)

    def noise_in(x: Any, whole: Any, batch: Batch, time: int, guidance: float) -> Tensor:
        s = system.signal[time]
        return (x.values - s.sqrt() * truth) / (1 - s).sqrt()

    object.__setattr__(system, "noise_in", noise_in)
    for eta in (0.0, 1.0):
        made = system.generate(batch, STEP, steps=10, eta=eta)
        torch.testing.assert_close(made.samples["image"], system.tokenizer.inverse(truth), rtol=0, atol=1e-3)
        spread = [frame["image"].sub(system.tokenizer.inverse(truth)).std().item() for frame in made.frames]
        assert len(made.frames) == 11 and spread == sorted(spread, reverse=True) and spread[0] > 0.9


def test_samples_stay_in_range_keep_what_is_known_and_use_chance_as_asked() -> None:
    system, batch = shaken(make(), 0.02).eval(), images()
    made = system.generate(batch, STEP, steps=20).samples["image"]
    assert made.abs().max() <= 2 + 1e-5  # black and white, in deviations
    mask = Random(ratio=0.5)(Request.of(system.tokenizer(batch), batch, STEP))
    done = system.tokenizer(system.generate(batch, STEP, mask, steps=20).samples)
    torch.testing.assert_close(mask.keep(done).values, mask.keep(system.tokenizer(batch)).values)
    asked: list[int] = []
    normal = system.normal
    object.__setattr__(
        system, "normal", lambda t, b, s, stream: asked.append(stream) or normal(t, b, s, stream)
    )
    system.generate(batch, STEP, steps=3, eta=0.0)
    assert len(asked) == 1
    system.generate(batch, STEP, steps=3, eta=1.0)
    assert len(set(asked)) == 4 and len(asked) == 5
    used = {0, 1, -1, -2, -3, -4}
    assert not used & set(asked)


def test_the_network_is_told_the_time_that_it_learned() -> None:
    system, times = make(), []
    condition = system.encoder.condition
    system.encoder.condition = lambda time, other=None: times.append(int(time[0])) or condition(time, other)
    system.generate(images(), STEP, steps=4)
    assert times == [1000, 750, 500, 250]  # never 0, which is for clean images


def test_classes_are_told_dropped_and_guided_by() -> None:
    system = shaken(make(labelled=True)).eval()
    batch = {**images(2000), "label": torch.arange(2000) % 5 - 1}
    assert system.supervised
    nobody = {**batch, "label": torch.full((2000,), -1)}
    told, silent = system.told(batch), system.told(nobody)
    known = batch["label"] >= 0
    assert torch.equal(told[~known], silent[~known]) and (told[known] != silent[known]).any(1).all()
    dropped = (system.told(batch, STEP) == silent).all(1)[known]
    assert dropped.float().mean().item() == pytest.approx(0.1, abs=0.03)
    few = {key: x[1:5] for key, x in batch.items()}
    x, whole = system.tokenizer(few), Mask(torch.zeros(4, 16, dtype=torch.bool), 16)
    with torch.no_grad():
        free, plain, far = (system.noise_in(x, whole, few, 300, g) for g in (0.0, 1.0, 3.0))
        none = system.noise_in(x, whole, {k: v for k, v in few.items() if k != "label"}, 300, 3.0)
    torch.testing.assert_close(far, free + 3 * (plain - free))
    torch.testing.assert_close(none, free)
    assert (plain - free).abs().max() > 1e-3


def test_preview_shows_both_parts() -> None:
    system, batch = shaken(make()).eval(), images()
    media = system.preview(batch, STEP).media
    assert list(media)[:2] == ["original", "visible"] and len(media) == 6
    noised = media["noised, more from left to right"]
    corr = [
        torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1]
        for x, y in zip(noised, batch["image"], strict=True)
    ]
    assert corr[0] > 0.9 > 0.5 > corr[-1]
    visible = media["what is visible of it"]
    assert (visible == 0).float().mean().item() == pytest.approx(0.375, abs=0.01)


@pytest.mark.compile
def test_forward_compiles_without_graph_breaks() -> None:
    system, batch = make(), images()
    compiled = torch.compile(system, fullgraph=True, backend="aot_eager")
    for index in range(3):
        step = Step(index, 10)
        torch.testing.assert_close(total(compiled, batch, step), total(system, batch, step))
