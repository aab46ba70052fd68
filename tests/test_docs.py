"""What the documentation shows is real: its Python runs, its hooks and tables are those there are."""

from __future__ import annotations

import importlib.util
import inspect
import re
import runpy
import sys
import tomllib
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polymask import Mask, Request, Step, Tokens
from polymask.maskings import Disjoint, Random, TopScore
from polymask.nn.decoders import LightDecoder
from polymask.nn.teachers import EMATeacher, Frozen
from polymask.objectives import MSE, CrossEntropy, SmoothL1
from polymask.objectives import Cosine as CosineDistance
from polymask.plugins import hookspecs
from polymask.training.sanity_check import sanity_check
from polymask_vision.encoders import ViT
from polymask_vision.targets import Pixels
from polymask_vision.tokenizers import Patches

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
"""Without tutorials, whose notebooks ``nox -s tutorials`` executes."""
STEP = Step(index=5, total=10)


def python_blocks(text: str) -> list[tuple[int, str]]:
    """Line number and source of each Python block; those under ``<!-- not run -->`` are left out."""
    found = re.finditer(
        r"(<!-- not run -->\n(?:<!-- .* -->\n)?)?```python[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE
    )
    return [(text[: m.start(2)].count("\n"), m[2]) for m in found if not m[1]]


def run_page(page: Path) -> dict[str, Any]:
    """Run the blocks of a page from top to bottom; returns what they defined."""
    module = types.ModuleType(f"page_{page.stem}")
    sys.modules[module.__name__] = module
    for line, source in python_blocks(page.read_text()):
        exec(compile("\n" * line + source, str(page), "exec"), vars(module))
    return vars(module)


@pytest.fixture(scope="module")
def concepts() -> SimpleNamespace:
    return SimpleNamespace(**run_page(ROOT / "docs/concepts.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_all_python_compiles_and_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for source in re.findall(r"```python[^\n]*\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        compile(source, str(page), "exec")
    monkeypatch.chdir(tmp_path)
    run_page(page)


# ------------------------------------------------- the hard cases of concepts.md, one step each


def train(system: nn.Module, batch: dict[str, Tensor], step: Step = STEP) -> dict[str, Tensor]:
    """One step as any loop would take it; every parameter must learn."""
    check(system, batch, step)
    losses = system(batch, step)
    assert all(loss.isfinite() for loss in losses.values())
    optimizer = torch.optim.SGD([p for p in system.parameters() if p.requires_grad], lr=0.1)
    sum(losses.values()).backward()
    system.after_backward(step)
    optimizer.step()
    system.after_step(step)
    return losses


def check(system: nn.Module, batch: dict[str, Tensor], step: Step = STEP) -> None:
    """Forward runs without gradients, with the same losses, and in the check before training."""
    expected = system(batch, step)
    with torch.no_grad():
        found = system(batch, step)
    assert not any(loss.requires_grad for loss in found.values())
    torch.testing.assert_close(found, {name: loss.detach() for name, loss in expected.items()})
    samples = [{key: x[i] for key, x in batch.items() if key != "id"} for i in range(len(batch["id"]))]
    data: Any = SimpleNamespace(split=lambda name: samples, labels=lambda name: None, key=next(iter(batch)))
    sanity_check("sketch", system, data)


def idle(system: nn.Module) -> set[str]:
    """Trainable parameters that got no gradient."""
    return {n for n, p in system.named_parameters() if p.requires_grad and p.grad is None}


def images(n: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"image": torch.randn(n, 3, 16, 16, generator=generator), "id": torch.arange(n)}


def vit() -> ViT:
    return ViT(in_dim=48, grid=(4, 4), dim=16, depth=1, heads=2)


def light_decoder(out_dim: int) -> LightDecoder:
    return LightDecoder(in_dim=16, out_dim=out_dim, prefix=1, grid=(4, 4), dim=16, depth=1, heads=2)


TOKENIZER = Patches(size=16, patch_size=4)


class EverySite(nn.Module):
    """A decoder that answers at visible sites too."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.head = nn.Parameter(torch.zeros(16)), nn.Linear(18, 1)

    def forward(self, encoded: Tensor, mask: Mask, position: Tensor) -> Tensor:
        return self.head(torch.cat([mask.restore(encoded[:, 1:], self.token), position], -1))


class Scorer(nn.Module):
    """Scores every patch of a whole image."""

    def __init__(self, encoder: ViT, ranker: EverySite) -> None:
        super().__init__()
        self.encoder, self.ranker = encoder, ranker

    def forward(self, tokens: Tokens) -> Tensor:
        nothing = Mask(torch.zeros(tokens.shape, dtype=torch.bool), tokens.shape[1])
        encoded = self.encoder(self.encoder.embed(tokens.values), tokens.position)
        return self.ranker(encoded, nothing, tokens.position)[..., 0]


def test_sketch_hpm(concepts: SimpleNamespace) -> None:
    encoder, ranker = vit(), EverySite()
    scorer = Scorer(encoder, ranker)
    teacher = EMATeacher(scorer, momentum=0.9)
    system = concepts.HPM(
        tokenizer=TOKENIZER,
        encoder=encoder,
        decoder=light_decoder(48),
        ranker=ranker,
        scorer=scorer,
        teacher=teacher,
        target=Pixels(in_dim=48),
        masking=TopScore(ratio=0.75, hard=(0.0, 0.5)),
    )
    before, start = teacher.module.ranker.head.weight.clone(), ranker.head.weight.clone()
    losses = train(system, images())
    assert not idle(system)
    assert 0.5 < losses["ranking"].item() < 1.0  # ln 2 where the order is guessed
    moved = 0.9 * before + 0.1 * ranker.head.weight
    torch.testing.assert_close(teacher.module.ranker.head.weight, moved)
    assert not torch.equal(ranker.head.weight, start)


def test_sketch_dmjd(concepts: SimpleNamespace) -> None:
    masking = Disjoint(masking=Random(ratio=0.75))
    encoder = vit()
    system = concepts.DMJD(
        tokenizer=TOKENIZER,
        encoder=encoder,
        decoder=light_decoder(48),
        target=Pixels(in_dim=48),
        masking=masking,
        objective=MSE(),
        visible_objective=SmoothL1(beta=2.0),
        head=nn.Linear(16, 48),
    )
    train(system, images())
    assert not idle(system)
    tokens = TOKENIZER(images())
    first, second = (masking(Request.of(tokens, images(), STEP, stream=view)) for view in (0, 1))
    assert (first.hidden | second.hidden).all()
    assert first.visible == second.visible == 4


def test_sketch_masked_frequency(concepts: SimpleNamespace) -> None:
    masking = concepts.LowOrHigh(radius=3.0, low=0.5)
    system = concepts.MaskedFrequency(
        tokenizer=TOKENIZER, encoder=vit(), masking=masking, head=nn.Linear(16, 48), mean=0.5, std=0.25
    )
    train(system, images())
    assert idle(system) <= {"encoder.vit.cls_token"}
    request = Request(torch.arange(200), 32 * 32, STEP, grid=(32, 32))
    hidden = masking(request).hidden.sum(dim=1)
    assert set(hidden.tolist()) == {25, 32 * 32 - 25}  # the disk of radius 3 holds 25 bins


class Words:
    """Sequences of word ids; 0 is padding."""

    key = "text"
    provides = {"in_dim": 1, "vocabulary": 30}

    def __call__(self, batch: dict[str, Tensor]) -> Tokens:
        ids = batch[self.key]
        position = torch.arange(float(ids.shape[1])).expand(ids.shape)[..., None]
        return Tokens(ids[..., None], position, (ids.shape[1],), ids=ids, valid=ids > 0)


class Reader(nn.Module):
    """One layer of attention over words."""

    prefix, dim, out_dim = 0, 16, 16

    def __init__(self) -> None:
        super().__init__()
        self.table, self.query, self.value = nn.Embedding(30, 16), nn.Linear(16, 16), nn.Linear(16, 16)

    def embed(self, values: Tensor) -> Tensor:
        return self.table(values[..., 0])

    def attended(self, text: Tokens) -> list[SimpleNamespace]:
        x = self.embed(text.values)
        weight = (self.query(x) @ x.transpose(1, 2)).softmax(-1)
        value = self.value(x)
        return [SimpleNamespace(weight=weight, value=value, output=weight @ value)]

    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        return (self.query(x) @ x.transpose(1, 2)).softmax(-1) @ self.value(x)


def sentences(n: int = 4) -> Tensor:
    return torch.randint(1, 30, (n, 8), generator=torch.Generator().manual_seed(1))


def test_sketch_climb(concepts: SimpleNamespace) -> None:
    system = concepts.CLIMB(
        tokenizer=Words(),
        encoder=Reader(),
        masking=Random(ratio=0.5),
        objective=CrossEntropy(),
        heads=nn.ModuleDict({"words": nn.Linear(16, 30), "classes": nn.Linear(16, 4)}),
        windows={"classes": (0.0, 0.125), "words": (0.125, 1.0)},
        pace=lambda progress: 0.1 + 0.9 * progress,
        difficulty=torch.arange(100.0),
        vocabulary=30,
        unknown_id=torch.tensor(1),
        mask_id=torch.tensor(2),
    )
    batch = {"text": sentences(), "classes": sentences() % 4, "id": torch.arange(4)}
    assert [system.sample_weights(Step(i, 10)).sum() for i in (0, 5, 10)] == [10, 55, 100]
    assert set(system(batch, Step(0, 10))) == {"classes"}
    assert set(train(system, batch)) == {"words"}
    assert idle(system) == {"heads.classes.weight", "heads.classes.bias"}


def test_sketch_sparsepo(concepts: SimpleNamespace) -> None:
    def language_model() -> nn.Module:
        return nn.Sequential(nn.Flatten(1), nn.Embedding(30, 16))

    policy, head = language_model(), nn.Linear(16, 30)
    system = concepts.SparsePO(
        tokenizer=Words(),
        policy=policy,
        head=head,
        reference=Frozen(language_model()),
        reference_head=Frozen(nn.Linear(16, 30)),
        scorer=nn.Linear(16, 1),
        masking=concepts.Soft(),
        beta=0.1,
    )
    batch = {"chosen": sentences(), "rejected": sentences().flip(0), "id": torch.arange(4)}
    train(system, batch)
    assert not idle(system)
    assert system.scorer.weight.grad.abs().sum() > 0  # the gradient goes through the mask
    same = {**batch, "rejected": batch["chosen"]}
    torch.testing.assert_close(system(same, STEP)["preference"], torch.tensor(2.0).log())


def test_sketch_openbeats(concepts: SimpleNamespace) -> None:
    stages = []

    def fit(system: nn.Module, folder: str) -> None:
        stages.append(folder)
        losses = train(system, images())
        assert losses["reconstruction"].item() > 2  # near ln 1024: codes are being predicted

    def distil(encoder: nn.Module, folder: str) -> nn.Module:
        stages.append(folder)
        return concepts.RandomCodes(in_dim=48, seed=1)

    concepts.openbeats(fit, distil, {"size": (16, 16), "channels": 3}, "run")
    assert stages == ["run/encoder-0", "run/codes-0", "run/encoder-1", "run/codes-1"]


class Pyramid(nn.Module):
    """Predictions at three resolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.token = nn.Linear(48, 16), nn.Parameter(torch.zeros(16))
        self.heads = nn.ModuleList(nn.Linear(16, 8) for _ in range(3))

    def forward(self, tokens: Tokens, mask: Mask | None = None) -> list[Tensor]:
        x = self.embed(tokens.values)
        x = x if mask is None else mask.fill(x, self.token)
        x = x.view(-1, *tokens.grid, 16).movedim(-1, 1)
        pools = (nn.functional.avg_pool2d(x, 2**level) for level in range(3))
        return [head(p.flatten(2).transpose(1, 2)) for head, p in zip(self.heads, pools, strict=True)]


def test_sketch_msm(concepts: SimpleNamespace) -> None:
    student = Pyramid()
    system = concepts.MSM(
        tokenizer=Patches(size=32, patch_size=4),
        student=student,
        teacher=EMATeacher(student),
        masking=Random(ratio=0.5, cell=4),
        objective=CosineDistance(),
    )
    image = torch.randn(4, 3, 32, 32)
    losses = train(system, {"image": image, "other": image.flip(-1), "id": torch.arange(4)})
    assert set(losses) == {"level 0", "level 1", "level 2"}
    assert not idle(system)


class Cross(nn.Module):
    """Tells words by what is read and by the image."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(32, 30)

    def forward(self, words: Tensor, image: Tensor) -> Tensor:
        return self.head(torch.cat([words, image[:, :1].expand_as(words)], -1))


def contrast(image: Tensor, caption: Tensor) -> Tensor:
    """Each image against the captions of all."""
    return nn.functional.cross_entropy(image @ caption.T, torch.arange(len(image)))


def ga_dms(concepts: SimpleNamespace) -> nn.Module:
    return concepts.GADMS(
        text_tokenizer=Words(),
        image_tokenizer=TOKENIZER,
        text_encoder=Reader(),
        image_encoder=vit(),
        noise_masking=TopScore(ratio=0.25),
        telling_masking=TopScore(ratio=0.25),
        scores=torch.full((10, 8), 0.85),
        mask_id=torch.tensor(2),
        match=contrast,
        cross=Cross(),
        objective=CrossEntropy(),
    )


def test_sketch_ga_dms(concepts: SimpleNamespace) -> None:
    system = ga_dms(concepts)
    batch = {**images(), "text": sentences(), "id": torch.tensor([1, 3, 5, 7])}
    train(system, batch)
    assert not idle(system)
    written = (system.scores != 0.85).any(dim=1)
    assert written.nonzero()[:, 0].tolist() == [1, 3, 5, 7]
    assert not system.scores.requires_grad


def r_amt(concepts: SimpleNamespace) -> nn.Module:
    network = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 5))
    names = ["0.weight", "2.weight"]
    reals = nn.ParameterList(torch.full_like(network.get_parameter(name), 0.01) for name in names)
    return concepts.RAMT(frozen=Frozen(network), names=names, reals=reals, threshold=0.005)


def test_sketch_r_amt(concepts: SimpleNamespace) -> None:
    torch.manual_seed(0)
    system = r_amt(concepts)
    network, reals = system.frozen.module, system.reals
    batch = {"features": torch.randn(8, 12), "label": torch.arange(8) % 5}
    check(system, {**batch, "id": torch.arange(8)})
    plain = nn.functional.cross_entropy(network(batch["features"]), batch["label"])
    assert torch.equal(system(batch, STEP)["task"], plain)  # nothing is masked at first
    reals[0].data[:, :6] = 0.0
    system(batch, STEP)["task"].backward()
    ungated = [real.grad.clone() for real in reals]
    system.after_backward(STEP)
    for real, a, b in zip(reals, ungated, system.stay, strict=True):
        assert torch.equal(real.grad[a * b >= 0], a[a * b >= 0])  # gradients that agree pass
        assert ((real.grad == a) | (real.grad == 0)).all()
        assert (real.grad != a).any()


def test_sketch_humanmac(concepts: SimpleNamespace) -> None:
    class Denoiser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(6, 6)

        def forward(self, y: Tensor, t: Tensor) -> Tensor:
            return self.out(y)

    alpha = torch.cos((torch.arange(1000) / 1000 + 0.008) / 1.008 * torch.pi / 2) ** 2
    motion = torch.randn(3, 20, 6, generator=torch.Generator().manual_seed(0)).cumsum(1) * 0.1
    batch = {"motion": motion, "id": torch.arange(3)}
    system = concepts.HumanMAC(tokenizer=concepts.Cosine(), alpha=alpha, denoise=Denoiser())
    assert 0.8 < train(system, batch)["noise"].item() < 3
    everything_seen = Mask(torch.zeros(3, 20, dtype=torch.bool))
    low_pass = system.tokenizer.inverse(system.tokenizer(batch).values)
    completed = system.generate(batch, STEP, everything_seen).samples["motion"]
    torch.testing.assert_close(completed, low_pass, rtol=0, atol=0.07)  # the noise of the last state
    free = system.generate(batch, STEP).samples["motion"]
    assert free.shape == motion.shape and (free - motion).abs().mean() > 0.1


def test_sketch_layer_masking(concepts: SimpleNamespace) -> None:
    convolutions = nn.ModuleList([nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1)])
    encoder = concepts.LayerMasked(tokenizer=TOKENIZER, convolutions=convolutions)
    tokens = TOKENIZER(images())
    mask = Random(ratio=0.5)(Request.of(tokens, images(), STEP))
    spoilt = mask.fill(tokens.values, torch.tensor(float("nan")))
    seen = encoder(encoder.embed(tokens.values), tokens.position, ~mask.hidden)
    assert torch.equal(seen, encoder(encoder.embed(spoilt), tokens.position, ~mask.hidden))
    plain = convolutions[1](convolutions[0](images()["image"]).relu()).relu()
    whole = encoder(tokens.values, tokens.position)
    torch.testing.assert_close(whole, plain.flatten(2).transpose(1, 2))


SHARED = {"ga_dms": (ga_dms, 0.1), "r_amt": (r_amt, 0.5)}
"""Sketches that use what several processes share, with learning rates that make the gate close."""


def batches(name: str) -> list[dict[str, Tensor]]:
    """Samples of three steps; the second has none of the first, so that its memory must last."""
    if name == "r_amt":
        generator = torch.Generator().manual_seed(0)
        return [
            {"features": torch.randn(8, 12, generator=generator), "label": torch.arange(8) % 5}
            for _ in range(3)
        ]
    ids = ([1, 3, 5, 7], [0, 2, 4, 6], [1, 2, 5, 6])
    return [{**images(), "text": sentences(), "id": torch.tensor(one)} for one in ids]


def train_shared() -> dict[str, dict[str, Tensor]]:
    """Weights and buffers of each sketch after three steps, with this process's part of each batch."""
    concepts = SimpleNamespace(**run_page(ROOT / "docs/concepts.md"))
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else None
    trained = {}
    for name, (make, lr) in SHARED.items():
        torch.manual_seed(0)
        system = make(concepts)
        optimizer = torch.optim.SGD([p for p in system.parameters() if p.requires_grad], lr=lr)
        forward = system if rank is None else nn.parallel.DistributedDataParallel(system)
        for index, batch in enumerate(batches(name)):
            half = len(next(iter(batch.values()))) // 2
            own = slice(None) if rank is None else slice(rank * half, (rank + 1) * half)
            step = Step(index, 3)
            optimizer.zero_grad()
            sum(forward({key: x[own] for key, x in batch.items()}, step).values()).backward()
            system.after_backward(step)
            optimizer.step()
            system.after_step(step)
        trained[name] = system.state_dict()
    return trained


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What two processes trained, and what one did."""
    run = runpy.run_path(str(ROOT / "packages/core/tests/processes.py"))["run"]
    two = run(__file__, "train_shared", tmp_path_factory.mktemp("two"))
    return two, train_shared()


@pytest.mark.parametrize("name", sorted(SHARED))
def test_two_processes_train_a_sketch_as_one_does(shared: Any, name: str) -> None:
    (first, second), one = shared
    assert first[name].keys() == one[name].keys()
    for key, value in one[name].items():
        assert torch.equal(first[name][key], second[name][key]), key
        torch.testing.assert_close(first[name][key], value, rtol=0, atol=1e-5, msg=key)
    if name == "ga_dms":
        written = (first[name]["scores"] != 0.85).any(dim=1)
        assert written.tolist() == [True] * 8 + [False] * 2


# -------------------------------------------------------------------- hooks and tables


def test_every_hook_has_a_heading_with_its_signature() -> None:
    page = (ROOT / "docs/plugins.md").read_text()
    hooks = {
        name: f"{name}{str(inspect.signature(hook)).replace(chr(39), '')}"
        for name, hook in vars(hookspecs).items()
        if name.startswith("polymask_register_")
    }
    headings = re.findall(r"^#+ `(polymask_register_.*)`$", page, re.MULTILINE)
    assert sorted(headings) == sorted(hooks.values())


@pytest.fixture(scope="module")
def tables() -> Any:
    """tools/tables.py."""
    spec = importlib.util.spec_from_file_location("tables", ROOT / "tools/tables.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_system_and_masking_says_what_it_suits(tables: Any) -> None:
    parts = [part for kind in ("systems", "maskings") for part in tables.own_registry().parts(kind)]
    assert len(parts) > 50 and not [part.full_name for part in parts if not part.suits]


def test_every_picture_of_the_gallery_is_of_a_part(tables: Any) -> None:
    parts = [part for kind in ("systems", "maskings") for part in tables.own_registry().parts(kind)]
    drawn = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs/assets/gallery").iterdir()}
    assert drawn <= {tables.picture_of(part) for part in parts} and len(drawn) > 40


def test_the_tables_are_those_of_the_registry(tables: Any) -> None:
    stale = [str(path.relative_to(ROOT)) for path, text in tables.pages().items() if path.read_text() != text]
    assert not stale, f"run tools/tables.py: it would change {', '.join(stale)}"


def test_the_readme_names_the_extras_of_every_package() -> None:
    readme = (ROOT / "README.md").read_text()
    for file in ROOT.glob("packages/*/pyproject.toml"):
        project = tomllib.loads(file.read_text())["project"]
        (row,) = re.findall(rf"^\| `{project['name']}` \|[^|]*\|([^|]*)\|", readme, re.MULTILINE)
        assert re.findall(r"`([^`]+)`", row) == sorted(project["optional-dependencies"]), project["name"]


# -------------------------------------------------------------------- tutorials


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "docs/tutorials").glob("*.md")))
def test_the_page_of_a_tutorial_is_of_its_notebook(name: str) -> None:
    """Its text and code, in their order, and every picture that it names."""
    source, page = ((ROOT / "docs/tutorials" / f"{name}.{end}").read_text() for end in ("py", "md"))
    at = 0
    for kind, cell in re.findall(r"^# %%(.*)\n((?:(?!# %%).*\n?)*)", source, re.MULTILINE):
        text = re.sub(r"^# ?", "", cell, flags=re.MULTILINE) if "markdown" in kind else cell
        found = page.find(text.strip(), at)
        assert found >= at, f"run nox -s tutorials -- {name}: its page lacks, or has elsewhere, {text[:80]!r}"
        at = found + len(text.strip())
    shown = set(re.findall(r"assets/tutorials/([\w.-]+)", page))
    kept = {path.name for path in (ROOT / "docs/assets/tutorials").glob(f"{name}-*")}
    assert shown == kept and shown
    assert f"tutorials/{name}.md" in (ROOT / "mkdocs.yml").read_text()
