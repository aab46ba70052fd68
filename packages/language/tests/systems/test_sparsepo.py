"""SparsePO: its reductions in closed form, the sign of divergence, where gradient goes, masks that died."""

from __future__ import annotations

import dataclasses
import math
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from polymask import Mask, Step, UserError, build
from polymask.recipes import run_recipe
from polymask.run import Run
from polymask_language.systems import sparsepo
from polymask_language.weights import ActivationWeight, LearnedWeight, stretch

FACTS = {"vocabulary": 96, "length": 24}
STEP = Step(3, 10, seed=1)
ONES, NONE = "language/constant-weight", {"name": "language/constant-weight", "weight": 0.0}


def make(moved: bool = True, **options: Any) -> Any:
    """A policy, away from its reference unless told otherwise, and without terms of sparsity."""
    torch.manual_seed(0)
    options = {"reward_l1": 0.0, "kl_l1": 0.0, **options}
    system: Any = build("language/sparsepo", preset="tiny", facts=FACTS, **options)
    with torch.no_grad():
        for x in (*system.encoder.parameters(), *(system.reference.parameters() if moved else ())):
            x.add_(0.1 * torch.randn_like(x) if moved else 0)
    return system


def pairs(system: Any, n: int = 5) -> dict[str, Tensor]:
    return {**system.example(n), "id": torch.arange(n) + 7}


def log_p(model: Any, batch: dict[str, Tensor], side: str) -> Tensor:
    """Log likelihood of everything after each token, by transformers' own head and mask: ``[B, N, V]``."""
    factory: Any = transformers.AutoModelForCausalLM
    whole = factory.from_config(model.model.config).eval()
    whole.base_model.load_state_dict(model.model.state_dict())
    ids, length = batch[f"{side}text"], batch[f"{side}text_length"]
    valid = (torch.arange(ids.shape[1]) < length[:, None]).long()
    found: Tensor = whole(input_ids=ids, attention_mask=valid).logits.log_softmax(-1)
    return found


def closed_form(system: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sums of log ratios and of divergences over each response, by side."""
    sums: dict[str, Tensor] = {}
    for side in ("", "rejected_"):
        p, q = (log_p(model, batch, side)[:, :-1] for model in (system.encoder, system.reference.module))
        ids, n = batch[f"{side}text"], batch[f"{side}text"].shape[1]
        real = batch[f"{side}response"] & (torch.arange(n) < batch[f"{side}text_length"][:, None])
        ratio = (p - q).gather(2, ids[:, 1:, None])[..., 0]
        sums[f"{side}u"] = (ratio * real[:, 1:]).sum(1)
        sums[f"{side}kl"] = (F.kl_div(p, q, log_target=True, reduction="none").sum(-1) * real[:, 1:]).sum(1)
    return sums


def test_weights_of_1_and_0_are_dpo_and_weights_of_1_are_tdpo() -> None:
    dpo, tdpo = make(masking=ONES, kl_masking=NONE), make(masking=ONES)
    batch = pairs(dpo)
    with torch.no_grad():
        found = closed_form(dpo, batch)
        margin = found["u"] - found["rejected_u"]
        expected = -F.logsigmoid(0.8 * margin).mean()
        torch.testing.assert_close(dpo(batch, STEP)["preference"], expected, rtol=1e-5, atol=1e-6)
        # TDPO, first version: u - (KL of the rejected - KL of the chosen)
        expected = -F.logsigmoid(0.8 * (margin - (found["rejected_kl"] - found["kl"]))).mean()
        torch.testing.assert_close(tdpo(batch, STEP)["preference"], expected, rtol=1e-5, atol=1e-6)
    assert abs(float(margin.mean())) > 0.1 and float(found["kl"].mean()) > 0.1


def test_dpo_is_that_of_trl(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from trl import DPOConfig, DPOTrainer

    system = make(masking=ONES, kl_masking=NONE)
    words = {f"w{i}": i for i in range(96)}
    spelled = Tokenizer(models.WordLevel(words, unk_token="w1"))
    spelled.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=spelled, pad_token="w0", eos_token="w3", unk_token="w1"
    )
    factory: Any = transformers.AutoModelForCausalLM
    both = [factory.from_config(system.encoder.model.config) for _ in range(2)]
    both[0].base_model.load_state_dict(system.encoder.model.state_dict())
    both[1].base_model.load_state_dict(system.reference.module.model.state_dict())
    texts = torch.randint(5, 96, (4, 3, 9), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [
        {
            name: " ".join(f"w{i}" for i in ids[: 9 - k - 2 * side])
            for side, (name, ids) in enumerate(zip(("prompt", "chosen", "rejected"), row, strict=True))
        }
        for k, row in enumerate(texts)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = DPOTrainer(
            model=both[0],
            ref_model=both[1],
            args=DPOConfig(
                str(tmp_path),
                beta=0.8,
                per_device_train_batch_size=4,
                use_cpu=True,
                report_to="none",
                bf16=False,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        inputs = next(iter(trainer.get_train_dataloader()))
        with torch.no_grad():
            theirs = trainer.compute_loss(trainer.model, dict(inputs))
    ids, response, valid = (inputs[k] for k in ("input_ids", "completion_mask", "attention_mask"))
    batch: dict[str, Tensor] = {"id": torch.arange(4)}
    for prefix, part in (("", slice(4)), ("rejected_", slice(4, None))):
        batch[f"{prefix}text"], batch[f"{prefix}response"] = ids[part], response[part].bool()
        batch[f"{prefix}text_length"] = valid[part].sum(1)
    with torch.no_grad():
        ours = system(batch, STEP)["preference"]
    torch.testing.assert_close(ours, theirs.float(), rtol=1e-5, atol=1e-6)
    assert abs(float(ours) - math.log(2)) > 0.01


@pytest.mark.parametrize("masking", ["language/learned-weight", "language/random-weight", "core/random"])
def test_a_policy_that_is_its_reference_costs_ln_2(masking: str) -> None:
    system = make(moved=False, masking=masking)
    with torch.no_grad():
        assert float(system(pairs(system), STEP)["preference"]) == pytest.approx(math.log(2), abs=1e-6)


def test_moving_away_is_held_against_the_rejected_side_alone() -> None:
    system = make(masking="language/random-weight")
    batch = pairs(system)
    found = closed_form(system, batch)
    terms = system.terms(batch, STEP)
    chosen, rejected = terms.divergence.sum(1).chunk(2)
    torch.testing.assert_close(chosen, found["kl"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rejected, found["rejected_kl"], rtol=1e-4, atol=1e-5)
    assert (terms.divergence >= 0).all() and not torch.equal(terms.reward_weight[:5], terms.reward_weight[5:])
    divergence = terms.divergence.detach().requires_grad_()
    system.terms = lambda batch, step: dataclasses.replace(terms, divergence=divergence)
    gradient = torch.autograd.grad(system(batch, STEP)["preference"], divergence)[0]
    chosen, rejected = gradient[terms.divergence_weight > 0].sign(), gradient[~terms.scored]
    sides = torch.arange(10)[:, None].expand_as(gradient)[terms.divergence_weight > 0] >= 5
    assert (chosen[sides] == 1).all() and (chosen[~sides] == -1).all() and not rejected.any()


def gated(request: Any) -> Mask:
    """Weight 1, but 0 for the sixth token."""
    weight = request.valid.float()
    weight[:, 6] = 0
    return Mask(weight, None, request.valid)


def test_a_token_of_weight_0_and_all_that_is_no_response_gets_no_gradient() -> None:
    system = make(masking=gated)
    batch = pairs(system)
    kept: list[Tensor] = []
    logits = system.encoder.logits

    def spied(states: Tensor) -> Tensor:
        kept.append(logits(states))
        kept[-1].retain_grad()
        return kept[-1]

    system.encoder.logits = spied
    system(batch, STEP)["preference"].backward()
    (found,) = kept
    assert found.grad is not None
    reached = found.grad.abs().sum(-1) > 0  # [R, N - 1], at the place before the token
    for side, prefix in enumerate(("", "rejected_")):
        real = torch.arange(24) < batch[f"{prefix}text_length"][:, None]
        wanted = batch[f"{prefix}response"] & real
        wanted[:, 6] = False
        assert torch.equal(reached[5 * side : 5 * side + 5], wanted[:, 1:])


def test_gradient_reaches_the_mask_once_the_policy_has_moved_and_never_the_reference() -> None:
    still, moved = make(moved=False), make()
    for system in (still, moved):
        system(pairs(system), STEP)["preference"].backward()
        assert all(p.grad is None for p in system.reference.parameters())
        assert any(p.grad.any() for p in system.encoder.parameters())
    masks = [p.grad for p in still.masking.parameters()]
    assert masks and not any(g.any() for g in masks)
    for p in (
        *(s.weight for s in moved.masking.scorers),
        moved.masking.mixer.weight,
        moved.masking.norm.weight,
    ):
        assert p.grad.any()
    (group,) = moved.parameter_groups()
    assert {*group["params"]} == {*moved.masking.parameters()} and group["weight_decay"] == 0.01
    assert make(mask_decay=0.3).parameter_groups()[0]["weight_decay"] == 0.3


def test_the_policy_is_pulled_by_its_divergence() -> None:
    system = make(masking={"name": ONES, "weight": 0.0}, kl_masking=ONES)
    system(pairs(system), STEP)["preference"].backward()
    assert system.encoder.weight.grad.any()


def test_sparsity_is_the_sum_of_the_weights_and_half_where_they_are_shared() -> None:
    options = {"reward_l1": 0.1, "kl_l1": 0.3}
    common, own = make(**options), make(**options, kl_masking="language/learned-weight")
    batch = pairs(common)
    for system, share in ((common, 0.5), (own, 1.0)):
        terms = system.terms(batch, STEP)
        by_hand = 0.1 * terms.reward_weight.sum() + 0.3 * terms.divergence_weight.sum()
        torch.testing.assert_close(system(batch, STEP)["sparsity"], share * by_hand / 5)
    terms = common.terms(batch, STEP)
    assert terms.reward_weight is terms.divergence_weight
    assert not torch.equal(own.terms(batch, STEP).reward_weight, own.terms(batch, STEP).divergence_weight)


def test_a_mask_that_died_teaches_nothing_and_says_so_once() -> None:
    system = make()
    batch = pairs(system)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert system.monitor(batch, STEP)["dead pairs"] == 0
    with torch.no_grad():
        system.masking.mixer.weight.abs_().neg_()
    loss = system(batch, STEP)["preference"]
    loss.backward()
    assert float(loss.detach()) == pytest.approx(math.log(2))
    assert not any(p.grad.any() for p in system.parameters() if p.grad is not None)
    with pytest.warns(UserWarning, match="masks have died"):
        found = system.monitor(batch, STEP)
    assert found["dead pairs"] == 1 and found["terms that count"] == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        system.monitor(batch, STEP)


def half_gone(request: Any) -> Mask:
    """Weight 0 on both responses of two pairs, and on either response of one more."""
    weight = request.valid.float()
    weight[:2] = weight[2 + request.stream % 2] = 0
    return Mask(weight, None, request.valid)


def test_a_pair_is_dead_where_neither_of_its_responses_weighs_anything() -> None:
    system = make(masking=half_gone)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert float(system.monitor(pairs(system), STEP)["dead pairs"]) == pytest.approx(0.4)


def test_positive_mixers_are_alive_and_published_ones_may_be_born_dead() -> None:
    """States of tokens that are much alike, as those of real text are."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(1, 1, 32, generator=generator) + 0.3 * torch.randn(1, 30, 32, generator=generator)
    taps = {"block": [states, states.roll(1, dims=2)]}
    dead = {"positive": 0, "symmetric": 0}
    for mixer in dead:
        for seed in range(100):
            torch.manual_seed(seed)
            masking = LearnedWeight(width=32, layers=2, mixer=mixer)  # type: ignore[arg-type]
            scores = masking.evidence(taps, torch.ones(1, 30, dtype=torch.bool))
            dead[mixer] += int((scores <= 0).all())
    # with both blocks silent a positive mixer is silent too: a chance of about a quarter here
    assert dead["symmetric"] > dead["positive"] + 20


def test_a_weight_is_what_the_reference_thinks_before_it_reads_the_token() -> None:
    for masking in (
        "language/learned-weight",
        {"name": "language/activation-weight", "kinds": ["mlp", "key"]},
    ):
        system = make(masking=masking)
        batch = pairs(system)
        batch["text"][:, 3:] = torch.where(batch["text"][:, 3:] < 5, 9, batch["text"][:, 3:])
        other = {**batch, "text": batch["text"].clone()}
        other["text"][:, 8] = 5 + (batch["text"][:, 8] - 4) % 91
        seen: list[Tensor] = []
        for asked in (batch, other):
            rows = sparsepo.stack(asked)
            with torch.no_grad(), sparsepo.recording(system.reference.module.model, system.kinds()) as taps:
                system.see(system.reference.module, system.tokenizer(rows))
            before = {kind: [sparsepo.later(x[:, :-1]) for x in taps[kind]] for kind in taps}
            seen.append(torch.cat([x.flatten(2) for part in before.values() for x in part], dim=-1))
        same = (seen[0] == seen[1]).all(-1)[:5]
        assert same[:, :9].all() and not same[:, 9].any()
        weights = [system.terms(asked, STEP).reward_weight[:5] for asked in (batch, other)]
        if isinstance(system.masking, LearnedWeight):
            assert torch.equal(weights[0][:, :9], weights[1][:, :9])
        assert not torch.equal(weights[0][:, 9:], weights[1][:, 9:])


def test_learned_weights_are_their_formula() -> None:
    system = make()
    batch = pairs(system)
    terms = system.terms(batch, STEP)
    model, rows = system.reference.module, sparsepo.stack(batch)
    tokens = system.tokenizer(rows)
    with torch.no_grad():
        states = model.model(
            inputs_embeds=model.embed(tokens.values),
            attention_mask=tokens.valid.long(),
            output_hidden_states=True,
        ).hidden_states
        masking, norm = system.masking, system.masking.norm
        # the first is the embedding; the last is normed, so what left that block is found behind the norm
        said = F.relu(masking.scorers[0](F.layer_norm(states[1], (32,), norm.weight, norm.bias)))
        with sparsepo.recording(model.model, ["block"]) as taps:
            system.see(model, tokens)
        real = tokens.valid
        torch.testing.assert_close(taps["block"][0][real], states[1][real])
        torch.testing.assert_close(model.model.norm(taps["block"][1])[real], states[2][real])
        last = F.relu(masking.scorers[1](masking.norm(taps["block"][1])))
        expected = F.relu((torch.cat([said, last], -1) * masking.mixer.weight).sum(-1))[:, :-1]
    expected = F.pad(expected, (1, 0)) * terms.scored
    torch.testing.assert_close(terms.reward_weight, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_activations_are_stretched_over_the_response(architecture: str) -> None:
    system = make(masking="language/activation-weight", **{"encoder.architecture": architecture})
    terms = system.terms(pairs(system), STEP)
    weight = terms.reward_weight
    assert not weight.requires_grad and (weight[~terms.scored] == 0).all()
    assert (weight >= 0).all() and (weight <= 1).all() and 0.2 < weight[terms.scored].mean() < 0.8
    x = torch.randn(10, 24, 8, generator=torch.Generator().manual_seed(0))
    found = stretch(x, terms.scored)
    inside = found.masked_fill(~terms.scored, torch.nan)
    assert torch.equal(inside.nan_to_num(9).amin(1), torch.zeros(10))
    assert torch.equal(inside.nan_to_num(-9).amax(1), torch.ones(10))
    torch.testing.assert_close(stretch(3 * x + 5, terms.scored), found)
    # padding and prompt do not matter, and one token alone does not divide by 0
    torch.testing.assert_close(stretch(torch.where(terms.scored[..., None], x, 1e4), terms.scored), found)
    alone = torch.arange(24)[None] == 7
    assert torch.equal(stretch(x[:1], alone), torch.zeros(1, 24))
    if architecture == "gpt2":
        with sparsepo.recording(system.reference.module.model, ["query", "value"]) as taps:
            system.see(system.reference.module, terms.tokens)
        block = system.reference.module.model.h[0]
        assert taps["query"][0].shape == taps["value"][0].shape == (10, 24, 32)
        states = (
            system.reference.module.embed(terms.tokens.values) + system.reference.module.model.wpe.weight[:24]
        )
        both = block.attn.c_attn(block.ln_1(states)).chunk(3, -1)
        torch.testing.assert_close(taps["query"][0], both[0])
        torch.testing.assert_close(taps["value"][0], both[2])


def test_activation_weights_are_the_mean_of_what_blocks_and_kinds_say_before_the_token() -> None:
    kinds = ["mlp", "key"]
    system = make(masking={"name": "language/activation-weight", "kinds": kinds})
    terms = system.terms(pairs(system), STEP)
    with torch.no_grad(), sparsepo.recording(system.reference.module.model, kinds) as taps:
        system.see(system.reference.module, terms.tokens)
    found = [*taps["mlp"], *taps["key"]]
    assert len(found) == 2 * system.encoder.depth
    expected = torch.zeros(10, 24)
    for row, scored in enumerate(terms.scored):
        places = scored.nonzero()[:, 0]
        for activations in found:
            said = activations[row, places - 1].mean(-1)
            expected[row, places] += (said - said.min()) / (said.max() - said.min()) / len(found)
    torch.testing.assert_close(terms.reward_weight, expected, rtol=1e-4, atol=1e-5)


def test_in_parts_the_loss_and_its_gradient_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for at_once in (1 << 25, 10 * 96 * 5):
        monkeypatch.setattr(sparsepo, "AT_ONCE", at_once)
        system = make()
        loss = system(pairs(system), STEP)["preference"]
        loss.backward()
        found.append((loss.detach(), system.encoder.weight.grad, system.masking.mixer.weight.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_dropout_is_off_in_policy_and_reference() -> None:
    system = make(**{"encoder.architecture": "gpt2", "encoder.dropout": 0.5}).train()
    batch = pairs(system)
    assert system.training and torch.equal(
        system(batch, STEP)["preference"], system(batch, STEP)["preference"]
    )


def test_refuses_what_it_cannot_align() -> None:
    with pytest.raises(UserError, match="language/causal"):
        build(
            "language/sparsepo", facts=FACTS, encoder={"name": "language/transformer", "dim": 32, "heads": 2}
        )
    system = make()
    with pytest.raises(UserError, match="responses:FILE"):
        system(system.tokenizer.example(3), STEP)
    with pytest.raises(UserError, match="beta"):
        make(beta=0.0)


@pytest.mark.slow
def test_the_recipe_hands_its_model_on_from_stage_to_stage(tmp_path: Path) -> None:
    data = {"name": "language/sentiment", "limit": 40, "length": 32, "vocab_size": 400}
    options = {"preset": "tiny", "pretrain_steps": 2, "tune_steps": 2, "align_steps": 2}
    run_recipe("language/sparsepo", data, tmp_path, options=options, progress=False)
    first, second, last = (Run.open(tmp_path / n) for n in ("pre-trained", "fine-tuned", "aligned"))
    assert [run.step for run in (first, second, last)] == [2, 2, 2]
    assert "rejected_text" not in first.data.split("train")[0] and "document" in first.data.split("train")[0]
    assert second.data.split("train")[0]["response"].any()
    assert [run.data.provides["vocabulary"] for run in (first, second, last)] == [
        first.data.provides["vocabulary"]
    ] * 3
    aligned: Any = last.system
    tuned: Any = second.system
    for mine, theirs in zip(aligned.reference.parameters(), tuned.encoder.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert not torch.equal(aligned.encoder.weight, tuned.encoder.weight)
    start: Any = Run.open(tmp_path / "fine-tuned", trained=False).system
    pre: Any = first.system
    assert torch.equal(start.encoder.weight, pre.encoder.weight)
    before = (tmp_path / "aligned" / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    run_recipe("language/sparsepo", data, tmp_path, options=options, progress=False)
    assert (tmp_path / "aligned" / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_folder_of_the_recipe_that_is_moved_is_whole(tmp_path: Path) -> None:
    """Models and the vocabulary that they speak are found from the run; the recipe goes on."""
    data = {"name": "language/sentiment", "limit": 40, "length": 32, "vocab_size": 400}
    options = {"preset": "tiny", "pretrain_steps": 2, "tune_steps": 2, "align_steps": 2}
    here, there = tmp_path / "here", tmp_path / "there"
    run_recipe("language/sparsepo", data, here, options=options, progress=False)
    shutil.move(here, there)
    assert not any(str(tmp_path) in path.read_text() for path in there.glob("*/config.yaml"))
    systems: list[Any] = [Run.open(there / name).system for name in ("fine-tuned", "aligned")]
    tuned, aligned = systems
    pairs = zip(aligned.reference.parameters(), tuned.encoder.parameters(), strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)
    again = run_recipe("language/sparsepo", data, there, options=options, progress=False)
    assert [run.step for run in again.done] == [2, 2, 2]


def test_activation_weights_name_what_there_is() -> None:
    with pytest.raises(UserError, match="choose of block"):
        ActivationWeight(kinds=["logits"])
