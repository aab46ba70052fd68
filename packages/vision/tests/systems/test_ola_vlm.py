"""OLA-VLM: layers of a language model predict what teachers make of an image, and texts are left alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import Batch, Run, RunConfig, Step, Tokens, UserError, build
from polymask.checkpoints import read_state
from polymask.export import export
from polymask.recipes import run_recipe
from polymask.training import fit
from polymask_vision.evaluations.answers import Answers
from polymask_vision.evaluations.layer_embeddings import LayerEmbeddings, linear_map
from polymask_vision.interleaved import Interleaved
from polymask_vision.perceiver import PerceiverHead

pytest.importorskip("polymask_language")

STEP = Step(3, 10, seed=1)
TINY = {
    "tokenizer.patch_size": 2,
    "encoder.dim": 32,
    "encoder.depth": 2,
    "encoder.heads": 2,
    "text_tokenizer.vocabulary": 64,
    "text_tokenizer.length": 16,
    "text_tokenizer.start_id": 2,
    "text_encoder.dim": 32,
    "text_encoder.depth": 3,
    "text_encoder.heads": 2,
    "text_encoder.length": 64,
    "depth_target": "vision/hog",
    "seg_target": "vision/dct",
    "gen_target": "vision/pixels",
    "depth_layers": (1, 2, 3),
    "seg_layers": (1,),
    "gen_layers": (2,),
    "task_tokens": 4,
    "heads": 2,
    "head_dim": 8,
}
NONE = {"depth_target": None, "seg_target": None, "gen_target": None}


def make(**options: Any) -> Any:
    torch.manual_seed(0)
    system = build("vision/ola-vlm", facts={"size": (8, 8), "channels": 3}, **(TINY | options))
    with torch.no_grad():  # nothing is equal by initialisation
        for parameter in system.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return system


def samples(n: int = 6, images: bool | list[bool] = True) -> Batch:
    """Images, and texts of several lengths from a start (2) to an end (3), the second half a response."""
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(5, 64, (n, 12), generator=generator)
    lengths = torch.randint(6, 13, (n,), generator=generator)
    lengths[0] = 12
    text[:, 0] = 2
    text[torch.arange(n), lengths - 1] = 3
    place = torch.arange(12)
    text[place >= lengths[:, None]] = 0
    image = torch.randn(n, 3, 8, 8, generator=generator)
    has = torch.tensor([images] * n if isinstance(images, bool) else images)
    return {
        "image": image,
        "text": text,
        "text_length": lengths,
        "response": (place >= lengths[:, None] // 2) & (place < lengths[:, None]),
        "has_image": has,
        "id": torch.arange(n),
    }


def sequence_of(system: Any, batch: Batch) -> Interleaved:
    found: Interleaved = system.sequence(system.tokenizer(batch), system.has_image(batch), system.text(batch))
    return found


def embedding_losses(system: Any, batch: Batch, step: Step = STEP) -> dict[str, Tensor]:
    return {name: loss for name, loss in system(batch, step).items() if name != "next token"}


def told(system: Any, name: str, layer: int, batch: Batch) -> Tensor:
    sequence = sequence_of(system, batch)
    found: Tensor = system.predict(name, layer, sequence, system.states(sequence))
    return found


# -------------------------------------------------------------------------------- availability


def test_embeddings_cost_something_with_images_and_exactly_nothing_without() -> None:
    system = make()
    losses = embedding_losses(system, samples())
    assert list(losses) == ["gen 2", "depth 1", "depth 2", "depth 3", "seg 1"]
    assert all(float(loss.detach()) > 0.05 for loss in losses.values())
    texts = system(samples(images=False), STEP)
    assert texts.pop("next token") > 1
    assert all(float(loss) == 0 for loss in texts.values())
    torch.stack([*texts.values()]).sum().backward()
    assert not any(p.grad.any() for p in system.parameters() if p.grad is not None)


def test_a_mixed_batch_costs_what_its_images_cost_whatever_the_others_hold() -> None:
    system, batch = make(), samples(images=[True, False, True, True, False, True])
    mixed = embedding_losses(system, batch)
    alone = embedding_losses(system, {key: x[batch["has_image"]] for key, x in batch.items()})
    torch.testing.assert_close(mixed, alone)
    changed = torch.where(batch["has_image"][:, None, None, None], batch["image"], 1e3)
    torch.testing.assert_close(embedding_losses(system, {**batch, "image": changed}), mixed)


def test_a_sample_whose_target_is_unknown_counts_for_other_teachers_alone() -> None:
    class Known(nn.Module):
        dim = 12

        def forward(self, batch: Batch, tokens: Tokens) -> Tensor:
            values = tokens.values.clone()
            values[1] = torch.nan
            values[2, 3:5] = torch.nan
            return values

    system, batch = make(), samples()
    before = system(batch, STEP)
    system.seg_target = Known()
    after = system(batch, STEP)
    assert torch.equal(after["depth 1"], before["depth 1"]) and torch.isfinite(after["seg 1"])
    predicted = told(system, "seg", 1, batch)
    known = torch.ones(6, 16, dtype=torch.bool)
    known[1], known[2, 3:5] = False, False
    wanted = system.tokenizer(batch).values
    near = F.smooth_l1_loss(predicted[known], wanted[known])
    rows = [0, 2, 3, 4, 5]
    one, other = (F.normalize((x * known[..., None])[rows].flatten(1), dim=1) for x in (predicted, wanted))
    scale = system.matches["seg"].log_scale.exp()
    match = F.cross_entropy(scale * one @ other.T, torch.arange(5))
    torch.testing.assert_close(after["seg 1"], 0.5 * (near + 0.3 * match))


def test_samples_without_an_image_are_read_as_texts() -> None:
    system, batch = make().eval(), samples(images=False)
    last = system.states(sequence_of(system, batch))[-1]
    logits, _, asked = system.next_token(batch, sequence_of(system, batch), last)
    lm = system.text_encoder
    x = lm.embed(batch["text"][..., None])
    place = torch.arange(12).expand(6, -1)[..., None].float()
    plain = lm.logits(lm(x, place, place[..., 0] < batch["text_length"][:, None]))
    real = asked.hidden[:, 1:]
    torch.testing.assert_close(logits[:, 1:][real], plain[:, :-1][real], rtol=1e-4, atol=1e-5)
    off = make(with_images=False).eval()
    torch.testing.assert_close(off(samples(), STEP)["next token"], system(batch, STEP)["next token"])


# ------------------------------------------------------------------------------------ gradients


def test_in_pre_training_projector_task_tokens_heads_and_scales_train() -> None:
    system = make()
    sum(embedding_losses(system, samples()).values()).backward()  # type: ignore[union-attr]
    for name, parameter in system.named_parameters():
        moves = not name.startswith(("encoder.", "text_encoder."))
        assert parameter.requires_grad is moves
        assert (parameter.grad is not None and bool(parameter.grad.any())) is moves, name


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_a_head_trains_no_block_above_its_layer(layer: int) -> None:
    system = make(train_language=True)
    system(samples(), STEP)[f"depth {layer}"].backward()
    trained = [
        any(p.grad is not None and bool(p.grad.any()) for p in block.parameters())
        for block in system.text_encoder.blocks
    ]
    assert trained == [k < layer for k in range(3)]
    assert all(p.grad is None for p in system.encoder.parameters())


def test_layers_are_outputs_of_blocks_and_the_last_is_normed() -> None:
    system, batch = make().eval(), samples()
    sequence = sequence_of(system, batch)
    states = system.states(sequence)
    seen: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda module, args, out: seen.append(out))
        for block in system.text_encoder.blocks
    ]
    system.states(sequence)
    for hook in hooks:
        hook.remove()
    blocks = [x[0] if isinstance(x, tuple) else x for x in seen]
    assert len(states) == 3 and all(torch.equal(a, b) for a, b in zip(states[:2], blocks, strict=False))
    assert torch.equal(states[2], system.text_encoder.model.ln_f(blocks[2]))


def test_what_is_frozen_stays_in_eval_mode() -> None:
    system = make(**{"text_encoder.dropout": 0.5}).train()
    assert system.projector.training and not system.encoder.training and not system.text_encoder.training
    assert make(train_language=True).train().text_encoder.training


def test_behind_their_share_of_the_run_embeddings_count_no_more() -> None:
    system, batch = make(embedding_share=0.5), samples()
    for index, counts in ((0, True), (4, True), (5, False), (9, False)):
        losses = embedding_losses(system, batch, Step(index, 10))
        assert all((float(loss) > 0) is counts for loss in losses.values())
        assert system.schedule(Step(index, 10)) == {"embedding losses": float(counts)}


# ------------------------------------------------------------------------------------- sequence


def test_task_tokens_are_means_of_groups_of_what_asks() -> None:
    system = make()
    for name in ("depth", "seg"):
        whole = system.task_tokens[name]
        assert whole.shape == (16, 32)
        expected = torch.stack([whole[k : k + 4].mean(0) for k in (0, 4, 8, 12)])
        torch.testing.assert_close(system.fed(name), expected)
    assert torch.equal(system.fed("gen"), system.task_tokens["gen"]) and len(system.fed("gen")) == 4
    sequence = sequence_of(system, samples())
    assert list(sequence.spans) == ["prompt", "image", "gen", "depth", "seg", "text"]
    torch.testing.assert_close(sequence.values[3, sequence.spans["depth"]], system.fed("depth"))


def test_a_head_sees_prompt_image_own_task_tokens_and_text_whatever_teachers_there_are() -> None:
    system, batch = make(), samples()
    sequence = sequence_of(system, batch)
    states = system.states(sequence)
    before = system.predict("seg", 1, sequence, states)
    for name, matters in {"prompt": 1, "image": 1, "gen": 0, "depth": 0, "seg": 1, "text": 1}.items():
        changed = [x.clone() for x in states]
        changed[0][:, sequence.spans[name]] += torch.randn_like(changed[0][:, sequence.spans[name]])
        after = system.predict("seg", 1, sequence, changed)
        assert torch.equal(after, before) is (not matters), name
    changed = [x.clone() for x in states]
    changed[0][~sequence.valid] = 1e3
    assert torch.equal(system.predict("seg", 1, sequence, changed), before)


@pytest.mark.parametrize("seen", [False, True])
def test_a_head_depends_on_the_text_only_where_it_is_told_it(seen: bool) -> None:
    system, batch = make(text_to_heads=seen).eval(), samples()
    other = {**batch, "text": torch.where(batch["text"] > 4, 68 - batch["text"], batch["text"])}
    for name, layer in (("depth", 3), ("seg", 1), ("gen", 2)):
        one, two = (told(system, name, layer, each) for each in (batch, other))
        assert torch.equal(one, two) is not seen


def test_next_tokens_are_those_of_the_model_in_transformers_and_only_the_response_counts() -> None:
    system, batch = make().eval(), samples()
    row = {key: x[:1] for key, x in batch.items()}
    sequence = sequence_of(system, row)
    labels = torch.full((1, sequence.values.shape[1]), -100)
    span = sequence.spans["text"]
    labels[:, span] = torch.where(row["response"], row["text"], -100)
    # the start of the text stands in the prompt, so it is left out of the text
    keep = [k for k in range(labels.shape[1]) if k != span.start]
    import transformers

    config = system.text_encoder.model.config
    whole = transformers.GPT2LMHeadModel(config).eval()
    whole.transformer.load_state_dict(system.text_encoder.model.state_dict())
    whole.tie_weights()
    expected = whole(inputs_embeds=sequence.values[:, keep], labels=labels[:, keep]).loss
    torch.testing.assert_close(system(row, STEP)["next token"], expected, rtol=1e-4, atol=1e-5)
    changed = {**row, "response": torch.ones_like(row["response"])}
    assert not torch.allclose(system(changed, STEP)["next token"], expected)
    del changed["response"]
    torch.testing.assert_close(
        system(changed, STEP)["next token"], system({**row, "response": row["text"] > 0}, STEP)["next token"]
    )


@pytest.mark.parametrize("left", [False, True])
def test_padding_at_either_end_changes_nothing(left: bool) -> None:
    system, batch = make().eval(), samples()
    n = int(batch["text_length"][1])
    row = {key: x[[1]] for key, x in batch.items()} | {"text": batch["text"][[1], :n]}
    row |= {"response": batch["response"][[1], :n]}
    padded = {**row, "text": F.pad(row["text"], (4, 0) if left else (0, 4), value=9)}
    real = F.pad(torch.ones(1, n, dtype=torch.bool), (4, 0) if left else (0, 4))
    padded["response"] = F.pad(row["response"], (4, 0) if left else (0, 4), value=True)

    def pad(batch: Batch) -> Tokens:
        ids = batch["text"]
        place = torch.arange(ids.shape[1])[None, :, None].float()
        return Tokens(ids[..., None], place, ids=ids, valid=real)

    del row["text_length"], padded["text_length"]
    alone = system(row, STEP)
    with mock.patch.object(system.text_tokenizer, "forward", pad):
        torch.testing.assert_close(system(padded, STEP), alone, rtol=1e-4, atol=1e-5)


def test_places_follow_from_what_was_put_together() -> None:
    ones = torch.ones(2, 3, 4)
    some = torch.tensor([[True, True, False], [False, True, True]])
    sequence = Interleaved.of({"a": (ones[:, :2], some[:, 1:]), "b": (ones, some), "c": (ones, ~some)})
    assert sequence.spans == {"a": slice(0, 2), "b": slice(2, 5), "c": slice(5, 8)}
    assert sequence.position[0, [0, 2, 3, 7], 0].tolist() == [0, 1, 2, 3]
    assert sequence.position[1, [0, 1, 3, 4, 5], 0].tolist() == [0, 1, 2, 3, 4]
    assert sequence.before("a").tolist() == [[-1, 0], [-1, 0]]
    assert sequence.before("b").tolist() == [[0, 2, 3], [1, 1, 3]]
    assert sequence.within("a", "c", "x").tolist() == [
        [True, False] + [False] * 3 + [False, False, True],
        [True, True] + [False] * 3 + [True, False, False],
    ]


# ------------------------------------------------------------------------------- heads and losses


def test_a_head_is_the_block_of_the_paper() -> None:
    torch.manual_seed(0)
    head = PerceiverHead(10, 12, heads=4, head_dim=5)
    queries, states = torch.randn(2, 3, 10), torch.randn(2, 7, 10)
    seen = torch.rand(2, 7) < 0.6
    x, z = head.inward(states), head.inward(queries)
    block, attention = head.block, head.block.attn
    memory = torch.cat([head.norm_states(x), block.norm1(z)], 1)

    def split(y: Tensor) -> Tensor:
        return y.view(2, -1, 4, 5).transpose(1, 2)

    q, k, v = split(attention.q(block.norm1(z))), split(attention.k(memory)), split(attention.v(memory))
    logits = q @ k.transpose(-1, -2) / math.sqrt(5)
    reach = torch.cat([seen, torch.ones(2, 3, dtype=torch.bool)], 1)[:, None, None]
    mixed = logits.masked_fill(~reach, -torch.inf).softmax(-1) @ v
    z = z + attention.proj(mixed.transpose(1, 2).reshape(2, 3, 20))
    z = z + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(z))))
    assert block.mlp.fc1.out_features == 12
    torch.testing.assert_close(head(queries, states, seen), head.norm(head.outward(z)))


def test_matching_has_its_closed_forms() -> None:
    system = build("vision/ola-vlm", facts={"size": (8, 8), "channels": 3}, **TINY)
    eye = torch.eye(6)[:, None]
    known = torch.ones(6, 1, dtype=torch.bool)
    _, match = system.compare("gen", eye, eye, known)
    torch.testing.assert_close(match, torch.tensor(math.log(1 + 5 * math.exp(-math.exp(2)))))
    _, match = system.compare("gen", torch.ones(6, 1, 6), eye, known)
    torch.testing.assert_close(match, torch.tensor(math.log(6)))
    known[4:] = False
    _, match = system.compare("gen", torch.ones(6, 1, 6), eye, known)
    torch.testing.assert_close(match, torch.tensor(math.log(4)))
    # predictions are told from targets, and not the other way round
    far = torch.cat([eye[:1], eye[:1], eye[2:]])
    _, match = system.compare("gen", far, eye, torch.ones(6, 1, dtype=torch.bool))
    scale = math.exp(2)
    right = math.log(1 + 5 * math.exp(-scale))
    assert float(match) == pytest.approx(right + scale / 6, rel=1e-4)


def test_the_query_of_image_generation_is_the_mean_of_its_states() -> None:
    system, batch = make(), samples()
    sequence = sequence_of(system, batch)
    states = system.states(sequence)
    query = states[1][:, sequence.spans["gen"]].mean(1, keepdim=True)
    seen = sequence.within("prompt", "image", "gen", "text")
    expected = system.heads["gen-2"](query, states[1], seen)
    torch.testing.assert_close(system.predict("gen", 2, sequence, states), expected)


def test_a_gen_target_is_the_class_token_or_the_mean() -> None:
    system, batch = make(), samples()
    tokens = system.tokenizer(batch)
    _, wanted = system.wanted("gen", system.gen_target, batch, tokens)
    torch.testing.assert_close(wanted, tokens.values.mean(1, keepdim=True))
    teacher = {"name": "vision/teacher", "model": "test_vit", "pretrained": False, "layers": (-1,)}
    system = make(gen_target=teacher)
    _, wanted = system.wanted("gen", system.gen_target, batch, tokens)
    whole = system.gen_target.look(batch, tokens)[0]
    assert torch.equal(wanted, whole.prefix) and wanted.shape == (6, 1, 64)
    assert not any(p.requires_grad for p in system.gen_target.parameters())


# ------------------------------------------------------------------------------------- what stays


def test_features_do_not_depend_on_the_text_and_are_those_of_the_image() -> None:
    system, batch = make().eval(), samples()
    whole = system.encode(batch)
    assert whole.values.shape == (6, 16, 32) and whole.grid == (4, 4)
    assert torch.equal(system.encode({"image": batch["image"]}).values, whole.values)
    sequence = sequence_of(system, batch)
    torch.testing.assert_close(
        system.states(sequence)[-1][:, sequence.spans["image"]], whole.values, rtol=1e-4, atol=1e-5
    )
    deep = make(image_block=-2).eval()
    assert not torch.equal(deep.encode(batch).values, whole.values)


def test_what_answers_is_exported_without_heads_and_teachers_and_begun_with(tmp_path: Path) -> None:
    system, batch = make(), samples()
    export(system, "vlm", tmp_path / "vlm")
    state = read_state(tmp_path / "vlm" / "model.safetensors")
    roots = {name.partition(".")[0] for name in state}
    assert roots == {"encoder", "projector", "task_tokens", "text_encoder"}
    tuned = make(**NONE, base=str(tmp_path / "vlm"), train_language=True)
    tuned.load_state_dict(state)  # make() shook them
    assert not tuned.heads and not tuned.matches and list(tuned.targets()) == []
    assert set(tuned.state_dict()) == set(state)
    assert list(sequence_of(tuned, batch).spans) == list(sequence_of(system, batch).spans)
    torch.testing.assert_close(
        tuned.eval()(batch, STEP), {"next token": system.eval()(batch, STEP)["next token"]}
    )
    assert torch.equal(tuned.right(batch), system.right(batch))
    frozen = {name for name, p in tuned.named_parameters() if not p.requires_grad}
    assert all(name.startswith(("encoder.", "task_tokens.")) for name in frozen)
    plain = make(**NONE)
    assert list(sequence_of(plain, batch).spans) == ["prompt", "image", "text"]
    with pytest.raises(UserError, match="other sizes or options"):
        make(**NONE, base=str(tmp_path / "vlm"), **{"text_encoder.depth": 2})
    with pytest.raises(UserError, match="no language model of images"):
        make(base=str(tmp_path))


def test_an_answer_is_right_where_greedy_decoding_gives_it() -> None:
    system, batch = make().eval(), samples()
    text, length = batch["text"].clone(), batch["text_length"]
    for _ in range(12):  # what it gives itself in the place of responses, one token more each time
        sequence = sequence_of(system, {**batch, "text": text})
        logits, _, asked = system.next_token({**batch, "text": text}, sequence, system.states(sequence)[-1])
        text = torch.where(asked.hidden, logits.argmax(-1), text)
    given = {**batch, "text": text}
    assert not system.right(batch).any() and system.right(given).all()
    text = text.clone()
    text[0, int(length[0]) - 1] = 1 + text[0, int(length[0]) - 1] % 60
    assert system.right({**batch, "text": text}).tolist() == [False] + [True] * 5


def test_the_preview_shows_texts_and_what_heads_tell() -> None:
    system, batch = make(), samples()
    shown = system.preview(batch, STEP)
    assert list(shown.media) == ["image", "text, and what is told"]
    (lines,) = shown.lines.values()
    assert list(lines) == ["gen", "depth", "seg"]  # type: ignore[arg-type]
    depth = lines["depth"]  # type: ignore[index, call-overload]
    assert depth.shape == (4,) and depth.isnan().tolist() == [True, False, False, False]
    assert not make(**NONE).preview(batch, STEP).lines


def test_what_cannot_be_is_said() -> None:
    for options, said in (
        ({"text_encoder": "language/transformer"}, "--text_encoder language/causal"),
        ({"match_objective": "core/mse"}, "--match_objective core/infonce"),
        ({"depth_layers": (4,)}, "has layers 1 to 3"),
        ({"task_tokens": 5}, "a divisor of 16"),
        ({"text_encoder.length": 40}, "--text_encoder.length 45"),
        ({"image_block": 0}, "from the last, -1"),
        ({"image_block": -3}, "from the last, -1"),
        ({"depth_target": "vision/variance"}, "one number per patch"),
        ({"prompt": "look"}, "--data.text_vocab"),
    ):
        with pytest.raises(UserError, match=said):
            make(**options)
    with pytest.raises(UserError, match="--data.text_vocab bpe"):
        make()({"image": torch.zeros(2, 3, 8, 8)}, STEP)


# ------------------------------------------------------------------------------------- evaluations


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    data = {"name": "vision/scenes", "count": 80, "pixels": 16, "text_only": 0.2, "text_length": 80}
    config = {"system": "vision/ola-vlm", "preset": "tiny", "data": data, "steps": 3, "batch_size": 8}
    config |= {"prompt": "look at the red circle"}
    run = Run.create(RunConfig.resolve(config), tmp_path_factory.mktemp("ola-vlm") / "run")
    fit(run, progress=False)
    return run


def test_a_prompt_stands_in_front_of_the_image(run: Run) -> None:
    system: Any = run.system
    ids = system.prompt_ids.tolist()
    start = run.facts["text"]["start_id"]
    assert ids[0] == start and len(ids) > 4 and run.facts["text"]["end_id"] not in ids


def test_an_export_brings_its_vocabulary_and_is_for_data_of_the_same(run: Run, tmp_path: Path) -> None:
    export(run, "vlm", tmp_path)
    own = Path(run.facts["text"]["tokenizer_file"])
    assert (tmp_path / "tokenizer.json").read_bytes() == own.read_bytes()
    assert run.config is not None
    config = {**run.config.plain(), "base": str(tmp_path)}
    again = Run.create(RunConfig.resolve(config), tmp_path / "again", data=run.data)
    for name, x in again.system.text_encoder.state_dict().items():  # type: ignore[operator, union-attr]
        assert torch.equal(x, run.system.text_encoder.state_dict()[name])  # type: ignore[operator, union-attr]
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="vocabulary of their own"):
        Run.create(RunConfig.resolve(config), tmp_path / "again", data=run.data)


def test_answers_are_counted_by_topic_with_and_without_the_image(run: Run) -> None:
    found = {(one.row, one.metric): one.value for one in Answers()(run)}
    assert {row for row, _ in found} == {"pre-trained", "pre-trained, without the image", "untrained"}
    assert {metric for _, metric in found} == {f"accuracy{of}" for of in ("", ", size", ", depth", ", told")}
    with mock.patch.object(type(run.system), "right", lambda self, batch: batch["has_image"]):
        found = {(one.row, one.metric): one.value for one in Answers()(run)}
    assert found["pre-trained", "accuracy, size"] == 1 and found["pre-trained", "accuracy, told"] == 0
    assert found["pre-trained, without the image", "accuracy, size"] == 0


def test_layers_are_asked_for_the_embeddings_of_any_teacher(run: Run) -> None:
    found = {(one.row, one.metric): one.value for one in LayerEmbeddings(images=20)(run)}
    assert len(found) == 2 * 3 * 2 and all(-1 <= value <= 1 for value in found.values())
    pixels = build("vision/pixels", "targets")
    found = {(one.row, one.metric): one.value for one in LayerEmbeddings(target=pixels, images=20)(run)}
    assert [metric for _, metric in found][:2] == ["cosine, layer 1", "cosine, layer 2"]


def test_a_linear_map_is_found_again() -> None:
    generator = torch.Generator().manual_seed(0)
    x, z = (torch.randn(n, 5, generator=generator) for n in (400, 30))
    weight, bias = torch.randn(5, 3, generator=generator), torch.randn(3, generator=generator)
    torch.testing.assert_close(linear_map(x, x @ weight + bias, z), z @ weight + bias, rtol=0.02, atol=0.02)


def test_evaluations_refuse_other_systems_and_data(run: Run, tmp_path: Path) -> None:
    data = {"name": "vision/digits", "limit": 16}
    mae = Run.create(
        RunConfig.resolve({"system": "vision/mae", "preset": "tiny", "data": data}), tmp_path / "run"
    )
    for evaluation in (Answers(), LayerEmbeddings(target=build("vision/pixels", "targets"))):
        with pytest.raises(UserError, match="this is for vision/ola-vlm"):
            list(evaluation(mae))
    with pytest.raises(UserError, match="--evaluation.target"):
        list(LayerEmbeddings()(mae))


@pytest.mark.slow
def test_the_recipe_sees_first_what_its_teachers_lack(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no maps or classes for depth, seg: name other --teachers"):
        run_recipe("vision/ola-vlm", {"name": "vision/digits"}, tmp_path / "a", progress=False)
    assert not list((tmp_path / "a").glob("*/config.yaml"))


@pytest.mark.slow
def test_the_recipe_trains_a_system_that_answers_without_heads(tmp_path: Path) -> None:
    data = {"name": "vision/scenes", "count": 40, "pixels": 16, "text_vocab": "bpe"}
    options = {"preset": "tiny", "steps": 1, "patch_size": 4}
    with mock.patch("polymask.recipes.probe"):
        found = run_recipe("vision/ola-vlm", data, tmp_path / "a", options=options, progress=False)
    stages = {run.folder.name: run for run in found.done}
    assert list(stages)[-3:] == ["language", "pre-training", "tuning"]
    first, last = (stages[name].system for name in ("pre-training", "tuning"))
    assert [name for name, _ in first.targets()] == ["gen", "depth", "seg"] and not list(last.targets())  # type: ignore[operator]
    language, encoder = stages["language"].system, stages["encoder"].system
    for one, other in ((language, first), (first, last)):
        same = [
            torch.equal(a, b)
            for a, b in zip(one.text_encoder.parameters(), other.text_encoder.parameters(), strict=True)  # type: ignore[union-attr]
        ]
        assert all(same) is (one is language)  # frozen in pre-training, trained in tuning
    for system in (first, last):
        for a, b in zip(system.encoder.parameters(), encoder.encoder.parameters(), strict=True):  # type: ignore[attr-defined]
            assert torch.equal(a, b)
    assert torch.equal(first.task_tokens["depth"], last.task_tokens["depth"])  # type: ignore[index]
