"""MTO gates mask tokens off from visible ones, moves what each term says, and leaves its host as it was."""

from __future__ import annotations

import copy
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from polymask import Mask, Step, System, UserError, build
from polymask_vision.attention import Gate, gate_bias
from polymask_vision.encoders import ViT
from polymask_vision.heterogeneity import heterogeneity

ENCODER = {"tokenizer.patch_size": 4, "encoder.dim": 32, "encoder.depth": 3, "encoder.heads": 2}
HOSTS: dict[str, dict[str, Any]] = {
    "simmim": {**ENCODER, "masking.cell": 1},
    "mae": {**ENCODER, "decoder_dim": 16, "decoder_depth": 3, "decoder_heads": 2},
}
BOTH = pytest.mark.parametrize("name", list(HOSTS))
STEP = Step(3, 10, seed=1)
OFF = {"embedding": 0.0, "depth": 0.0, "sparsity": 0.0}


FACTS = {"size": (16, 16), "channels": 3}


def make(name: str = "simmim", **options: Any) -> Any:
    torch.manual_seed(0)
    host = {f"host.{key}": value for key, value in HOSTS[name].items()}
    system: Any = build("vision/mto", facts=FACTS, host=f"vision/{name}", **(host | options))
    return system


def images(n: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"image": torch.randn(n, 3, 16, 16, generator=generator), "id": torch.arange(n)}


def gates_at(system: Any, value: float) -> None:
    """All gates at one value, whatever the states."""
    for gate in system.gates:
        nn.init.constant_(gate.linear.bias, value)


def recorded(system: Any, batch: dict[str, Tensor]) -> Any:
    """Mask, embedding and states of one forward pass."""
    return system.watch(system.host, batch, STEP)[1]


def profile(system: Any, batch: dict[str, Tensor], temperature: float = 0.1) -> Tensor:
    """Heterogeneity at the embedding and behind each block."""
    record = recorded(system, batch)
    sites = [*record.embedded, *(x[:, system.prefix :] for x in record.states[1:])]
    return torch.stack([heterogeneity(x, record.mask, temperature) for x in sites])


def gradients(system: Any, term: str) -> dict[str, Tensor]:
    """Parameters that a term moves, by name."""
    system.zero_grad()
    system(images(), STEP)[term].backward()
    return {n: p.grad for n, p in system.named_parameters() if p.grad is not None and p.grad.any()}


# ------------------------------------------------------------------------------------ the host


@BOTH
def test_without_its_terms_it_is_the_host(name: str) -> None:
    system, batch = make(name, **OFF), images()
    assert not len(system.gates)
    losses = system(batch, STEP)
    assert set(losses) == {"reconstruction"}
    # mae alone evaluates its last block at hidden tokens: the same to rounding
    torch.testing.assert_close(losses["reconstruction"], system.host(batch, STEP)["reconstruction"])


@BOTH
@pytest.mark.parametrize("term", list(OFF))
def test_each_term_is_switched_by_its_weight(name: str, term: str) -> None:
    batch, one, two = images(), make(name, **OFF | {term: 0.1}), make(name, **OFF | {term: 0.2})
    losses, twice = one(batch, STEP), two(batch, STEP)
    assert set(losses) == {"reconstruction", term}
    torch.testing.assert_close(2 * losses[term], twice[term])


@BOTH
def test_open_gates_are_plain_attention(name: str) -> None:
    system, batch = make(name), images()
    gates_at(system, 40.0)
    losses = system(batch, STEP)
    torch.testing.assert_close(losses["reconstruction"], system.host(batch, STEP)["reconstruction"])
    assert losses["sparsity"].item() == pytest.approx(0.01, abs=1e-6)
    gates_at(system, 0.0)
    ours, theirs = (x(batch, STEP)["reconstruction"] for x in (system, system.host))
    assert not torch.allclose(ours, theirs, rtol=1e-6)


def test_encoding_and_pictures() -> None:
    system, batch = make(), images()
    assert torch.equal(system.encode(batch).values, system.host.encode(batch).values)
    assert torch.equal(
        system.masks(batch, STEP)["mask"].mask.hidden, system.host.masks(batch, STEP)["mask"].mask.hidden
    )
    gates_at(system, 40.0)
    for ours, theirs in zip(
        system.preview(batch, STEP).media.items(), system.host.preview(batch, STEP).media.items(), strict=True
    ):
        assert ours[0] == theirs[0]
        torch.testing.assert_close(ours[1], theirs[1])
    gates_at(system, -4.0)
    predicted = [list(x.preview(batch, STEP).media.values())[2] for x in (system, system.host)]
    assert not torch.allclose(*predicted, rtol=1e-4)


# ----------------------------------------------------------------------------------- the gates


def block_and_pairs(prefix: int = 1) -> tuple[nn.Module, Mask, Tensor, Tensor]:
    torch.manual_seed(0)
    block = ViT(in_dim=4, grid=(3, 3), dim=16, depth=1, heads=2).blocks[0].double()
    mask = Mask(torch.tensor([[1, 0, 1, 1, 0, 0, 1, 0, 1]] * 2, dtype=torch.bool), 4)
    seen, hidden = (F.pad(x, (prefix, 0)) for x in (~mask.hidden, mask.hidden))
    x = torch.randn(2, prefix + 9, 16, dtype=torch.float64)
    return block, mask, seen[:, :, None] & hidden[:, None, :], x


def reference(block: Any, gate: Tensor, pairs: Tensor, x: Tensor) -> Tensor:
    """Attention, then the gate on it, then rows scaled back to one."""
    q, k, v = block.attn.qkv(block.norm1(x)).view(2, -1, 3, 2, 8).permute(2, 0, 3, 1, 4)
    attention = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1)
    attention = attention * torch.where(pairs, gate[:, None, :], 1.0)[:, None]
    attention = attention / attention.sum(-1, keepdim=True)
    x = x + block.attn.proj((attention @ v).transpose(1, 2).flatten(2))
    out: Tensor = x + block.mlp(block.norm2(x))
    return out


def test_a_gate_scales_attention_and_rows_are_scaled_back() -> None:
    block, _, pairs, x = block_and_pairs()
    gate = Gate(16)
    nn.init.normal_(gate.linear.weight)
    value = F.pad(gate.double()(x[:, 1:]).exp().double(), (1, 0), value=1.0)
    assert value.min() < 0.5 < value.max()
    ours = block(x, attn_mask=gate_bias(gate, pairs, 1, x))
    torch.testing.assert_close(ours, reference(block, value, pairs, x), rtol=1e-6, atol=1e-6)


def test_a_shut_gate_hides_mask_tokens_from_visible_ones_alone() -> None:
    block, mask, pairs, x = block_and_pairs()
    gate = Gate(16).double()
    nn.init.constant_(gate.linear.bias, -100.0)
    other = x.clone()
    other[:, 1:][mask.hidden] += torch.randn(10, 16).double()
    ours, theirs = (block(z, attn_mask=gate_bias(gate, pairs, 1, z)) for z in (x, other))
    same = (ours - theirs).abs().amax(-1) < 1e-12
    assert same[:, 1:][~mask.hidden].all()
    # masked queries and the class token see them as ever
    assert not same[:, 1:][mask.hidden].any() and not same[:, 0].any()
    plain = block(x, attn_mask=None)
    torch.testing.assert_close(ours[:, 1:][mask.hidden], plain[:, 1:][mask.hidden])
    torch.testing.assert_close(ours[:, 0], plain[:, 0])


@BOTH
def test_visible_queries_alone_see_mask_tokens_through_gates(name: str) -> None:
    """Shut in the whole system: behind the first block, hidden sites and the class token are the host's."""
    system, batch = make(name), images()
    gates_at(system, -100.0)
    ours = recorded(system, batch)
    theirs = recorded(make(name, **OFF), batch)
    assert torch.equal(ours.states[0], theirs.states[0])
    same = (ours.states[1] - theirs.states[1]).abs().amax(-1) < 1e-5
    assert same[:, : system.prefix].all()
    assert torch.equal(same[:, system.prefix :], ours.mask.hidden)


def test_nothing_hidden_is_the_plain_block() -> None:
    block, _, pairs, x = block_and_pairs()
    gate = Gate(16).double()
    torch.testing.assert_close(
        block(x, attn_mask=gate_bias(gate, torch.zeros_like(pairs), 1, x)), block(x, attn_mask=None)
    )


def test_gates_add_to_relative_positions() -> None:
    """The host's own bias stays: with gates open the system is the host, which has one."""
    system, batch = make(**{"host.encoder.positions": "relative"}), images()
    nn.init.normal_(system.host.encoder.relative.bias)
    gates_at(system, 40.0)
    ours, theirs = (x(batch, STEP)["reconstruction"] for x in (system, system.host))
    torch.testing.assert_close(ours, theirs)


@BOTH
def test_one_gate_before_each_block_but_the_first_starts_almost_open(name: str) -> None:
    system = make(name)
    assert len(system.gates) == 2
    losses = system(images(), STEP)
    assert losses["sparsity"].item() == pytest.approx(0.01 / (1 + 2.718281828**-2.0), abs=1e-6)


@BOTH
def test_sparsity_is_the_mean_over_hidden_sites_alone(name: str) -> None:
    system, batch = make(name), images()
    for gate in system.gates:
        nn.init.normal_(gate.linear.weight, std=0.3)
    _, record = system.watch(system.host, batch, STEP)
    hidden, sites = record.mask.hidden, [x[:, system.prefix :] for x in record.states]
    openness = [gate(x).exp() for gate, x in zip(system.gates, sites, strict=False)]
    expected = torch.stack([x[hidden].mean() for x in openness]).mean()
    torch.testing.assert_close(system(batch, STEP)["sparsity"], 0.01 * expected)
    assert not torch.isclose(expected, torch.stack([x[~hidden].mean() for x in openness]).mean(), rtol=1e-3)


# --------------------------------------------------------------------------- where gradients go


@BOTH
def test_the_embedding_term_moves_the_mask_token_alone(name: str) -> None:
    token = {"simmim": "host.mask_token", "mae": "host.decoder.mask_token"}[name]
    assert set(gradients(make(name), "embedding")) == {token}


@BOTH
def test_sparsity_reaches_every_gate_and_depth_every_block(name: str) -> None:
    system = make(name)
    blocks = {"simmim": "host.encoder.vit.blocks", "mae": "host.decoder.blocks"}[name]
    moved = gradients(system, "sparsity")
    assert {f"gates.{i}.linear.{k}" for i in range(2) for k in ("weight", "bias")} <= set(moved)
    assert all((moved[f"gates.{i}.linear.bias"] > 0).all() for i in range(2))
    moved = gradients(system, "depth")
    assert all(f"{blocks}.{i}.attn.qkv.weight" in moved for i in range(3))
    head = {"simmim": "host.head.weight", "mae": "host.decoder.head.weight"}[name]
    assert head not in moved
    # what is learned from the host's loss too
    assert {f"gates.{i}.linear.bias" for i in range(2)} <= set(gradients(system, "reconstruction"))


# -------------------------------------------------------------------------------- what is measured


@BOTH
def test_terms_are_the_measure_by_depth(name: str) -> None:
    system, batch = make(name, temperature=0.2), images()
    line = profile(system, batch, 0.2)
    losses = system(batch, STEP)
    torch.testing.assert_close(losses["embedding"], 0.1 * (1 - line[0]))
    weight = torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(losses["depth"], 0.01 * (weight * line[1:]).sum() / 6)


def test_the_embedding_is_measured_before_positions_with_one_vector() -> None:
    system, batch = make(), images()
    record = recorded(system, batch)
    (embedded,), mask = record.embedded, record.mask
    tokens = system.tokenizer(batch)
    e, z = system.host.mask_token, system.encoder.embed(tokens.values)
    assert torch.equal(embedded[mask.hidden], e.expand(int(mask.hidden.sum()), -1))
    rows = []
    for row, hidden in zip(z, mask.hidden, strict=True):
        p = (F.cosine_similarity(e[None], row[~hidden]) / 0.1).softmax(0)
        rows.append(-(p * p.log()).sum() / torch.tensor(float((~hidden).sum())).log())
    singular = torch.stack(rows).mean()
    torch.testing.assert_close(system(batch, STEP)["embedding"], 0.1 * (1 - singular))


def test_singularity_rises_and_the_token_does_not_shrink() -> None:
    """With dot products in place of cosines the same descent drives the vector to 0."""
    generator = torch.Generator().manual_seed(0)
    seen = F.pad(torch.randn(64, 12, 8, generator=generator), (0, 4))  # no patch points along the last axes
    mask = Mask(torch.arange(13).expand(64, -1) == 0, 12)
    start = seen[0, 0] + seen[1, 3] + 0.1

    def descend(cosine: bool) -> tuple[float, float, float]:
        e, values = nn.Parameter(start.clone()), []
        optimizer = torch.optim.Adam([e], lr=0.05)
        for _ in range(150):
            z = torch.cat([e.expand(64, 1, -1), seen], dim=1)
            if cosine:
                singular = heterogeneity(z, mask)
            else:
                p = (seen @ e).softmax(-1)
                singular = -(p * p.log()).sum(-1).mean() / torch.tensor(12.0).log()
            values.append(singular.item())
            optimizer.zero_grad()
            (1 - singular).backward()
            optimizer.step()
        return values[0], values[-1], (e.norm() / start.norm()).item()

    before, after, length = descend(cosine=True)
    assert after > 0.95 > before + 0.2 and length > 0.9
    before, after, length = descend(cosine=False)
    assert after > before and length < 0.5


@pytest.mark.slow
def test_mask_tokens_commit_with_depth_and_more_so_with_the_terms() -> None:
    """A host trained alone: singular at the embedding, less behind the blocks. The terms widen the drop."""
    digits = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 16
    digits = (digits - digits.mean()) / digits.std()
    held_out = {"image": digits[1500:1600], "id": torch.arange(100)}

    def line(**weights: float) -> Tensor:
        torch.manual_seed(0)
        host = {f"host.{key}": value for key, value in HOSTS["simmim"].items()} | {
            "host.tokenizer.patch_size": 2
        }
        facts = {"size": (8, 8), "channels": 1}
        system: Any = build("vision/mto", facts=facts, host="vision/simmim", **host, **weights)
        optimizer = torch.optim.AdamW([p for p in system.parameters() if p.requires_grad], lr=3e-3)
        generator = torch.Generator().manual_seed(0)
        for i in range(80):
            index = torch.randint(1500, (32,), generator=generator)
            optimizer.zero_grad()
            torch.stack(
                [*system({"image": digits[index], "id": index}, Step(i, 80)).values()]
            ).sum().backward()
            optimizer.step()
        with torch.no_grad():
            return profile(system, held_out)

    alone, optimised = line(**OFF), line(embedding=0.1, depth=0.1, sparsity=0.01)
    assert alone[0] == alone.max() and alone[1:].max() < alone[0] - 0.05
    assert optimised[0] > alone[0]
    assert optimised[0] - optimised[-1] > alone[0] - alone[-1] + 0.05


def test_visible_embeddings_are_watched() -> None:
    system, batch = make(), images()
    record = recorded(system, batch)
    (embedded,) = record.embedded
    assert torch.equal(system.monitor(batch, STEP)["embedding"], record.mask.keep(embedded))


# ------------------------------------------------------------------------------ parts that swap


def test_the_preview_draws_the_measure_by_depth() -> None:
    system, batch = make(), images()
    ((title, line),) = system.preview(batch, STEP).lines.items()
    assert title.startswith("Heterogeneity of mask tokens")
    torch.testing.assert_close(line, profile(system, batch).detach())
    assert system.record is None and system.host.preview(batch, STEP).lines == {}


def test_hooks_are_silent_outside_and_follow_a_copy() -> None:
    system, batch = make(), images()
    gates_at(system, -4.0)
    alone = system.host(batch, STEP)["reconstruction"]
    twin = copy.deepcopy(system)
    for gate in twin.gates:
        nn.init.constant_(gate.linear.bias, 40.0)
    torch.testing.assert_close(twin(batch, STEP)["reconstruction"], alone)
    assert not torch.allclose(system(batch, STEP)["reconstruction"], alone, rtol=1e-6)
    with (
        pytest.raises(RuntimeError),
        mock.patch.object(type(system.host), "predict", side_effect=RuntimeError),
    ):
        system(batch, STEP)
    assert system.record is None


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(UserError, match="no blocks of System see one: take vision/simmim"):
        build("vision/mto", host=System())
    for host in ("ijepa", "cae", "mto"):
        with pytest.raises(UserError, match="no blocks of .* see one: take vision/simmim or mae"):
            build("vision/mto", preset="tiny", facts=FACTS, host=f"vision/{host}")
    swin = {"encoder": "vision/swin", "encoder.depths": (1, 1), "encoder.heads": (1, 1), "encoder.window": 2}
    options = {f"host.{k}": v for k, v in (swin | {"encoder.dim": 16, "tokenizer.patch_size": 4}).items()}
    with pytest.raises(UserError, match="Swin does not let it"):
        build("vision/mto", facts={"size": (16, 16), "channels": 3}, host="vision/simmim", **options)
    with pytest.raises(UserError, match="give it two, or --sparsity 0"):
        make("mae", **{"host.decoder_depth": 1})
    make("mae", **{"host.decoder_depth": 1, "sparsity": 0.0})(images(), STEP)
    with pytest.raises(UserError, match="weights must be 0 or more"):
        make(depth=-1.0)
    soft = make()
    soft.host.masking = lambda request: Mask(torch.full((4, 16), 0.5))
    with pytest.raises(UserError, match="hides them in part"):
        soft(images(), STEP)


def test_a_host_of_its_own_parts_and_presets() -> None:
    system: Any = build(
        "vision/mto",
        preset="small-mae",
        facts={"size": (28, 28), "channels": 1},
        **{"host.masking": "core/block"},
    )
    assert type(system.host).__name__ == "MAE" and len(system.host.decoder.blocks) == 2
    assert type(system.host.masking).__name__ == "Block"
    assert system.encoder.dim == 128


@pytest.mark.compile
@BOTH
def test_compiles_without_graph_breaks_and_once_for_all_steps(name: str) -> None:
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter, system = CompileCounter(), make(name)
    compiled = torch.compile(system, backend=counter, fullgraph=True)
    for i in range(4):
        batch = images() | {"id": torch.arange(4) + i}
        ours, theirs = (sum(x(batch, Step(i, 10, seed=1)).values()) for x in (compiled, system))
        torch.testing.assert_close(ours, theirs)
    assert counter.frame_count <= 2
