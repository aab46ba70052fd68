"""Names and options become a configuration, and that a system; facts flow from part to part."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import pytest

import polymask
from polymask import Part, Registry, RunConfig, System, UserError, build, hookimpl, plugin
from polymask.config import PartConfig, Resolved, Source, built_from, options_of, resolve_part
from polymask.config.layers import nest
from polymask.config.tree import construct
from polymask.maskings import Block, Random, Scheduled, Span
from polymask.objectives import MSE
from polymask.testing.subject import Subject
from polymask.types import Fact, ModelArguments

ORDER: list[str] = []


class Cutter:
    """Stands for a tokenizer: it knows ``in_dim`` and ``grid`` once it is built."""

    def __init__(self, *, size: Fact[int] = 224, cut: int = 16) -> None:
        ORDER.append("tokenizer")
        self.size, self.provides = size, {"in_dim": cut * cut, "grid": (size // cut,)}


class Reader:
    def __init__(
        self,
        *,
        in_dim: Fact[int] = 1,
        grid: Fact[tuple[int, ...]] = (),
        dim: int = 8,
        heads: int = 2,
        like: int = 0,
    ) -> None:
        ORDER.append("encoder")
        if dim % heads:
            raise ValueError(f"{heads} heads do not divide {dim}")
        self.in_dim, self.grid, self.dim, self.like = in_dim, grid, dim, like


class OtherReader:
    def __init__(self, *, layers: int = 3, in_dim: int = 2) -> None:
        self.layers, self.in_dim = layers, in_dim


class Named:
    def __init__(self, *, model: str = "large", arguments: ModelArguments = None, seed: int = 0) -> None:
        self.model, self.arguments = model, arguments


class Gaps:
    def __init__(self, *, width: int = 1, masking: Any = None) -> None:
        self.width, self.masking = width or sys.exit(0), masking


class Numbers:
    def __init__(self, *, augment: str = "yes", n: int = 3) -> None:
        self.augment, self.n, self.provides = augment, n, {"size": 32}


class Two(System):
    def __init__(
        self, *, tokenizer: Any, encoder: Any, text_tokenizer: Any, text_encoder: Any, size: Fact[int] = 0
    ) -> None:
        super().__init__()
        self.tokenizer, self.encoder, self.size = tokenizer, encoder, size
        self.text_tokenizer, self.text_encoder = text_tokenizer, text_encoder


class Toy(System):
    def __init__(
        self,
        *,
        tokenizer: Any,
        encoder: Any,
        masking: Any,
        second_masking: Any = None,
        objective: Any = MSE,
        size: Fact[int] = 0,
        depth: int = 1,
    ) -> None:
        super().__init__()
        self.tokenizer, self.encoder, self.masking = tokenizer, encoder, masking
        self.second_masking, self.objective, self.size, self.depth = second_masking, objective, size, depth


class Wrapper(System):
    def __init__(self, *, host: Any, weight: float = 1.0) -> None:
        super().__init__()
        self.host, self.weight = host, weight


PRESETS: dict[str, dict[str, Any]] = {
    "small": {"encoder.dim": 4, "masking.ratio": 0.25, "depth": 2, "steps": 10, "data.augment": "no"},
    "large": {"encoder.dim": 512},
}
WRAPPER = {"host": "toy/toy", "host.masking": "core/random", "host.masking.cell": 3}


def toys() -> ModuleType:
    module = ModuleType("toys")

    def part(name: str, **fields: Any) -> Part:
        return Part(name=name, target=f"{__name__}:{fields.pop('cls')}", summary="for a test", **fields)

    @hookimpl
    def polymask_register_tokenizers() -> Iterable[Part]:
        return [part("cutter", cls="Cutter")]

    @hookimpl
    def polymask_register_encoders() -> Iterable[Part]:
        own = {"small": {"heads": 4, "like": 5}}
        return [
            part("reader", cls="Reader", defaults={"heads": 1}, presets=own),
            part("other", cls="OtherReader", presets={"small": {"layers": 7}, "huge": {"layers": 9}}),
        ]

    @hookimpl
    def polymask_register_maskings() -> Iterable[Part]:
        return [part("gaps", cls="Gaps", presets={"small": {"width": 9}})]

    @hookimpl
    def polymask_register_datasets() -> Iterable[Part]:
        return [part("numbers", cls="Numbers"), part("others", cls="Numbers", presets={"small": {"n": 9}})]

    @hookimpl
    def polymask_register_systems() -> Iterable[Part]:
        defaults = {
            "tokenizer": "toy/cutter",
            "encoder": "toy/reader",
            "encoder.dim": 6,
            "masking": "core/random",
            "masking.cell": 2,
        }
        return [
            part("toy", cls="Toy", defaults=defaults, presets=PRESETS),
            part("bare", cls="Toy", defaults={"tokenizer": "toy/cutter", "encoder": "toy/reader"}),
            part(
                "two",
                cls="Two",
                defaults={
                    "tokenizer": "toy/cutter",
                    "encoder": "toy/reader",
                    "text_tokenizer": "toy/cutter",
                    "text_encoder": "toy/reader",
                },
            ),
            part("twin", cls="Toy", defaults=defaults, presets={"small": {"depth": 5, "steps": 3}}),
            part("wrapper", cls="Wrapper", defaults=WRAPPER, presets={"small": {"host.masking.cell": 5}}),
        ]

    for name, hook in locals().copy().items():
        if name.startswith("polymask_register"):
            setattr(module, name, hook)
    return module


@pytest.fixture(scope="module")
def registry() -> Registry:
    registry = Registry(environ={"POLYMASK_STRICT": "1"}, entries=[])
    registry.add("core", plugin)
    registry.add("toy", toys())
    return registry


def make(registry: Registry, name: str = "toy", /, **given: Any) -> Toy:
    system = build(name, registry=registry, **given)
    assert isinstance(system, Toy)
    return system


# ---------------------------------------------------------------- the options


def test_nest_knows_one_form() -> None:
    nested = {"masking": {"name": "core/block", "ratio": 0.5}, "depth": 3}
    assert nest({"masking": "core/block", "masking.ratio": 0.5, "depth": 3}) == nested
    assert nest({"masking.ratio": 0.5, "depth": 3, "masking": "core/block"}) == nested
    assert nest({"masking": {"name": "core/block", "ratio": 0.5}, "depth": 3}) == nested
    assert nest(nested) == nested
    assert nest({"second_masking": "random"}) == {"second_masking": {"name": "random"}}
    assert nest({"masking.masking.ratio": 1, "masking": {"masking": "a"}}) == {
        "masking": {"masking": {"ratio": 1, "name": "a"}}
    }
    assert nest({"curve": "linear"}) == {"curve": "linear"}


def test_options_of_one_source_add_up() -> None:
    given = {"masking": {"name": "a", "ratio": 0.5}, "depth": 1}
    more = {**given, "masking.ratio": 0.6, "masking.masking": "b", "masking.masking.cell": 2}
    inner = {"name": "a", "ratio": 0.6, "masking": {"name": "b", "cell": 2}}
    assert nest(more) == {"masking": inner, "depth": 1}
    assert given["masking"] == {"name": "a", "ratio": 0.5}  # what was given stays as it is
    assert nest({"masking.ratio": 0.5, "masking": None}) == {"masking": None}


def resolved(registry: Registry, *layers: dict[str, Any], name: str = "toy", **more: Any) -> dict[str, Any]:
    """What is set of a system by sources over each other, without constructors' defaults."""
    sources = [Source(f"file {n}", options) for n, options in enumerate(layers)]
    part = registry.find("systems", name)
    return resolve_part(part, *sources, registry=registry, **more).require().plain(defaults=False)


def test_sources_lie_over_each_other(registry: Registry) -> None:
    below = {"masking": {"ratio": 0.5}, "depth": 2}
    assert resolved(registry, below, {"masking": {"ratio": 0.6}})["masking"] == {
        "name": "core/random",
        "cell": 2,
        "ratio": 0.6,
    }
    assert resolved(registry, below, {"depth": 3})["depth"] == 3
    assert resolved(registry, below, {"masking": "random"})["masking"]["ratio"] == 0.5
    assert resolved(registry, below, {"masking": "span", "masking.length": 3})["masking"] == {
        "name": "core/span",
        "length": 3,
    }
    empty = {"second_masking": {"name": "block"}}, {"second_masking": None}
    assert resolved(registry, *empty)["second_masking"] is None
    assert resolved(registry, *empty, {"second_masking": "block"})["second_masking"] == {"name": "core/block"}


def test_short_names_are_written_out(registry: Registry) -> None:
    found = resolved(registry, {"masking": {"name": "scheduled", "masking": {"name": "random"}}})
    assert found["masking"]["name"] == "core/scheduled"
    assert found["masking"]["masking"]["name"] == "core/random"
    with pytest.raises(UserError, match="no encoder is called 'nobody'"):
        resolved(registry, {"encoder": {"name": "nobody"}})


def test_slots_are_built_in_the_order_facts_flow(registry: Registry) -> None:
    slots = PartConfig(None, options_of(registry.find("systems", "toy"))).slots
    assert list(slots) == ["tokenizer", "encoder", "masking", "second_masking", "objective"]
    assert slots["second_masking"] == "maskings"
    assert PartConfig(None, options_of(registry.find("maskings", "random"))).slots == {}


# ---------------------------------------------------------------- the layers


def test_defaults_of_the_system_go_over_those_of_its_parts(registry: Registry) -> None:
    toy = make(registry)
    assert toy.encoder.dim == 6  # the reader's own default is 8
    assert toy.masking.cell == 2 and toy.masking.ratio == 0.75
    assert toy.depth == 1 and toy.second_masking is None


def test_presets_go_over_defaults_and_the_user_over_both(registry: Registry) -> None:
    assert make(registry, preset="small").masking.ratio == 0.25
    assert make(registry, preset="small").masking.cell == 2
    assert make(registry, preset="small").depth == 2
    assert make(registry, preset="large").encoder.dim == 512
    toy = make(registry, preset="small", **{"masking.ratio": 0.5, "depth": 9})
    assert (toy.masking.ratio, toy.masking.cell, toy.depth) == (0.5, 2, 9)


def test_options_of_training_and_data_in_a_preset_do_not_reach_the_system(registry: Registry) -> None:
    config = RunConfig.resolve({"system": "toy", "preset": "small", "data": "numbers"}, registry=registry)
    assert config.training.steps == 10 and config.data and config.data.options == {"augment": "no"}
    assert not {"steps", "data"} & config.system.options.keys()
    make(registry, preset="small")


def test_an_unknown_preset_lists_those_there_are(registry: Registry) -> None:
    with pytest.raises(UserError, match="toy/toy has no preset 'huge'; it has large, small"):
        make(registry, preset="huge")
    with pytest.raises(UserError, match="core/random has no preset 'x'; it has none"):
        build("random", "maskings", preset="x", registry=registry)


def test_another_part_in_a_slot_drops_the_options_of_the_first(registry: Registry) -> None:
    assert isinstance(make(registry, masking="core/block").masking, Block)
    assert make(registry, masking="core/block", preset="small").masking.ratio == 0.4
    assert make(registry, encoder="toy/other").encoder.layers == 3


def test_another_part_at_depth_drops_what_was_set_for_the_one_before(registry: Registry) -> None:
    """In the defaults of the wrapper, in its preset, and in a file below."""
    host = resolved(registry, name="wrapper", preset="small")["host"]
    assert host["masking"] == {"name": "core/random", "cell": 5}
    below = {"host": {"masking": {"ratio": 0.4}}}
    host = resolved(registry, below, {"host.masking.cell": 2}, name="wrapper")["host"]
    assert host["masking"] == {"name": "core/random", "cell": 2, "ratio": 0.4}
    host = resolved(registry, below, {"host.masking": "span"}, name="wrapper", preset="small")["host"]
    assert host["masking"] == {"name": "core/span"}
    whole = {"name": "toy/twin", "masking": {"ratio": 0.3}}
    host = resolved(registry, below, {"host": whole}, name="wrapper")["host"]
    assert host["masking"] == {"name": "core/random", "cell": 2, "ratio": 0.3}  # the twin's own cell


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"seed": 1}, {"model": "small", "arguments": {"depth": 2}, "seed": 1}),
        ({"model": "small"}, {"model": "small", "arguments": {"depth": 2}}),
        ({"model": "large"}, {"model": "large"}),
        ({"model": "large", "arguments.depth": 9}, {"model": "large", "arguments": {"depth": 9}}),
        ({"arguments": {"depth": 9}}, {"model": "small", "arguments": {"depth": 9}}),
    ],
)
def test_another_model_drops_the_arguments_of_the_first(given: Any, found: Any) -> None:
    preset = {"tiny": {"model": "small", "arguments": {"depth": 2}}}
    target = f"{__name__}:Named"
    part = Part(name="named", target=target, summary="by name", plugin="toy", kind="encoders", presets=preset)
    tree = resolve_part(part, Source("arguments", given), registry=Registry(), preset="tiny").require()
    assert tree.options == found


def test_what_is_set_before_a_part_is_named_holds_for_whichever_it_is(registry: Registry) -> None:
    found = resolved(registry, {"masking": {"ratio": 0.3}}, {"masking": "block"}, name="bare")
    assert found["masking"] == {"name": "core/block", "ratio": 0.3}
    given = {"system": "toy", "preset": "small", "data": "numbers"}
    config = RunConfig.resolve(given, {"data.n": 5}, registry=registry)
    assert config.data and config.data.options == {"augment": "no", "n": 5}
    config = RunConfig.resolve({"data": "others"}, given, registry=registry)
    assert config.data and config.data.options == {}


def test_an_encoder_or_a_host_in_place_of_another_takes_its_own_preset(registry: Registry) -> None:
    def of(slot: str, preset: str, name: str = "toy", **given: Any) -> dict[str, Any]:
        found: dict[str, Any] = resolved(registry, given, name=name, preset=preset)[slot]
        return found

    assert of("encoder", "small", encoder="other") == {"name": "toy/other", "layers": 7}
    assert of("encoder", "large", encoder="other") == {"name": "toy/other"}  # has no preset of that name
    mine = {"name": "other", "layers": 1}
    assert of("encoder", "small", encoder=mine) == {"name": "toy/other", "layers": 1}
    twin = of("host", "small", "wrapper", host="twin")
    assert twin["depth"] == 5 and twin["masking"] == {"name": "core/random", "cell": 2}
    # nothing else does: no part that the system's preset speaks of, no masking, no data set
    assert of("encoder", "small") == {"name": "toy/reader", "heads": 1, "dim": 4}
    assert "depth" not in of("host", "small", "wrapper")
    assert of("masking", "small", masking="gaps") == {"name": "toy/gaps"}
    assert resolved(registry, {"encoder": "other"})["encoder"] == {"name": "toy/other"}
    given = {"system": "toy", "preset": "small", "data": "others"}
    config = RunConfig.resolve({"data": "numbers"}, given, registry=registry)
    assert config.data and config.data.plain()["n"] == 3


@pytest.mark.parametrize("name", ["core/random", "random"])
def test_the_same_part_by_any_name_keeps_its_options(registry: Registry, name: str) -> None:
    assert make(registry, masking=name).masking.cell == 2
    assert make(registry, masking={"name": name, "ratio": 0.3}, preset="small").masking.ratio == 0.3


def test_a_slot_takes_an_instance(registry: Registry) -> None:
    masking = Random(ratio=0.1)
    assert make(registry, masking=masking).masking is masking


def test_slots_nest(registry: Registry) -> None:
    options = {
        "masking": "core/scheduled",
        "masking.masking": "block",
        "masking.masking.side": 2,
        "masking.start": 0.2,
    }
    masking = make(registry, **options).masking
    assert isinstance(masking, Scheduled) and masking.schedule.start == 0.2
    assert isinstance(masking.masking, Block) and masking.masking.side == 2
    # what the user leaves open, the declaration of the outer part fills
    assert isinstance(make(registry, masking="core/disjoint").masking.masking, Random)


def test_a_slot_with_a_prefix_is_a_slot(registry: Registry) -> None:
    toy = make(registry, second_masking="core/block", **{"second_masking.ratio": 0.5})
    assert isinstance(toy.second_masking, Block) and toy.second_masking.ratio == 0.5


def test_a_slot_filled_from_a_package_that_is_missing_says_what_to_install(registry: Registry) -> None:
    with pytest.raises(UserError, match="called 'vision/gone'\nno plugin .*: pip install polymask-v"):
        make(registry, second_masking="vision/gone")


def test_an_optional_slot_nobody_fills_keeps_its_default(registry: Registry) -> None:
    assert make(registry).objective is MSE
    assert make(registry, objective=None).objective is None


# ---------------------------------------------------------------- the facts


def test_facts_flow_from_data_through_the_tokenizer_to_the_rest(registry: Registry) -> None:
    ORDER.clear()
    toy = make(registry, facts={"size": 32, "unheard": 1}, **{"tokenizer.cut": 4})
    assert (toy.tokenizer.size, toy.encoder.in_dim, toy.encoder.grid) == (32, 16, (8,))
    assert toy.size == 32
    assert ORDER == ["tokenizer", "encoder"]


def test_facts_under_a_prefix_are_for_its_slots_alone(registry: Registry) -> None:
    facts = {"size": 32, "text": {"size": 48, "in_dim": 9}}
    both = build("two", registry=registry, facts=facts, **{"text_tokenizer.cut": 4})
    assert (both.tokenizer.size, both.encoder.in_dim, both.encoder.grid) == (32, 256, (2,))
    assert (both.text_tokenizer.size, both.text_encoder.in_dim, both.text_encoder.grid) == (48, 16, (12,))
    assert both.size == 32 and facts["text"] == {"size": 48, "in_dim": 9}


def test_an_option_goes_over_a_fact(registry: Registry) -> None:
    facts = {"size": 32}
    toy = make(registry, facts=facts, **{"tokenizer.size": 64, "tokenizer.cut": 4, "encoder.in_dim": 5})
    assert (toy.tokenizer.size, toy.encoder.in_dim, toy.encoder.grid) == (64, 5, (16,))
    assert facts == {"size": 32}


def test_facts_fill_what_is_annotated_so_and_nothing_else(registry: Registry) -> None:
    facts = {"in_dim": 7, "layers": 9, "dim": 11, "like": 12}
    other = build("other", "encoders", registry=registry, facts=facts)
    assert (other.in_dim, other.layers) == (2, 3)
    reader = build("reader", "encoders", registry=registry, facts=facts)
    assert (reader.in_dim, reader.dim, reader.like) == (7, 8, 0)
    system = make(registry, second_masking="span", facts={"length": 100, "size": 32})
    assert isinstance(system.second_masking, Span) and system.second_masking.length == Span().length != 100


def test_maskings_keep_their_options_whatever_facts_there_are() -> None:
    """Under any facts of tokenizers that are installed, and under one of the name of every option."""
    registry = polymask.default_registry()
    maskings = [part for part in registry.parts("maskings") if part.plugin == "core"]
    told = [Subject(part, registry).make().provides for part in registry.parts("tokenizers")]
    for part in maskings:
        options = options_of(part)
        own = built_from(resolve_part(part, registry=registry).require().build())
        named = {name: "a fact" for name, option in options.items() if not option.fact}
        for facts in [*told, named]:
            built = built_from(resolve_part(part, registry=registry).require().build(facts))
            assert built is not None and own is not None
            added = built.keys() - own.keys()
            assert all(options[name].fact for name in added), f"{part.full_name}: {added}"
            assert {name: built[name] for name in own} == own, part.full_name


# ---------------------------------------------------------------- the mistakes

MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "option": (
        {"depht": 3},
        r"^toy/toy has no option --depht \(from the arguments\)\ndid you mean --depth\?\n"
        "it has --tokenizer, --encoder",
    ),
    "option of a part": (
        {"masking.ratoi": 0.5},
        r"core/random, the masking, has no option --masking.ratoi .*\n"
        r"did you mean --masking.ratio or --masking.rounding\?\n"
        "it has --masking.ratio, --masking.cell",
    ),
    "option of another": (
        {"masking": "core/block", "masking.cell": 2},
        "core/block, the masking, has no option --masking.cell",
    ),
    "inner option": (
        {"masking": "core/scheduled", "masking.masking.rato": 1},
        r"core/random, the masking.masking, has no option --masking.masking.rato .*\n"
        r"did you mean --masking.masking.ratio or",
    ),
    "name": ({"masking": "blok"}, "no masking is called 'blok'\ndid you mean .*block"),
    "kind": ({"masking": "toy/reader"}, "no masking is called 'toy/reader'"),
    "value": ({"masking.ratio": 1.5}, "masking ratio must lie between 0 and 1, got 1.5"),
    "value of another's part": (
        {"encoder.dim": 7, "encoder.heads": 2},
        "toy/reader: 2 heads do not divide 7",
    ),
    "value that a constructor exits at": (
        {"masking": "toy/gaps", "masking.width": 0},
        "^toy/gaps: SystemExit: 0$",
    ),
    "value that a constructor stumbles over": ({"encoder.heads": 0}, "^toy/reader: ZeroDivisionError: "),
    "no number": ({"masking.ratio": float("nan")}, "^--masking.ratio takes float without nan, got nan$"),
    "type": ({"encoder.dim": "wide"}, "^--encoder.dim takes int, got 'wide'$"),
}


@pytest.mark.parametrize("given", [None, "vision/mae", ["vision/mae"], 3])
def test_what_holds_no_options_is_told(registry: Registry, given: Any) -> None:
    with pytest.raises(UserError, match="^arguments: options are given by name, as in .*; got ") as caught:
        RunConfig.resolve(given, registry=registry)
    assert str(caught.value).endswith(repr(given))


class Stop(BaseException):
    pass


@pytest.mark.parametrize(
    ("raised", "caught", "said"),
    [
        (Stop("now"), UserError, "toy/gaps: Stop: now"),
        (KeyboardInterrupt(), KeyboardInterrupt, "stopped while toy/gaps was built"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_whatever_a_constructor_raises_names_its_part(registry, monkeypatch, raised, caught, said):
    def stop(self, **options):
        raise raised

    monkeypatch.setattr(Gaps, "__init__", stop)
    with pytest.raises(caught) as found:
        make(registry, masking="toy/gaps")
    assert "\n".join([str(found.value), *getattr(found.value, "__notes__", [])]).strip() == said


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told(registry: Registry, mistake: str) -> None:
    options, message = MISTAKES[mistake]
    with pytest.raises(UserError, match=message):
        make(registry, **options)


def test_a_needed_slot_must_be_filled(registry: Registry) -> None:
    with pytest.raises(UserError, match="toy/bare needs a masking: give --masking NAME"):
        make(registry, "bare")
    with pytest.raises(UserError, match=r"which masking\? give --masking NAME beside --masking.ratio"):
        make(registry, "bare", **{"masking.ratio": 0.5})


# ---------------------------------------------------------------- the way back


def test_what_was_built_can_be_built_again(registry: Registry) -> None:
    toy = make(registry, masking="core/scheduled", facts={"size": 32}, **{"masking.masking.cell": 4})
    options = dict(built_from(toy) or {})
    again = make(registry, options.pop("name"), **options)
    assert built_from(again) == built_from(toy) == {"name": "toy/toy", **options}
    assert again.masking.masking.cell == 4 and again.encoder.grid == (2,)
    assert built_from(make(registry, masking=Random())) is None


def test_an_instance_tells_what_it_provides_like_a_part_built_by_name(registry: Registry) -> None:
    system = make(registry, tokenizer=Cutter(size=64, cut=8))
    assert (system.encoder.in_dim, system.encoder.grid) == (64, (8,))


class Pair(System):
    def __init__(
        self, *, left_tokenizer: Any, right_tokenizer: Any, left_encoder: Any, right_encoder: Any
    ) -> None:
        super().__init__()
        self.encoders = left_encoder, right_encoder


def test_two_tokenizers_tell_each_its_own_encoder(registry: Registry) -> None:
    pair = Part(name="pair", target=f"{__name__}:Pair", summary="for a test")
    options = {
        "left_tokenizer": {"name": "cutter", "cut": 8},
        "right_tokenizer": {"name": "cutter", "cut": 4},
        "left_encoder": {"name": "reader"},
        "right_encoder": {"name": "reader"},
    }
    built = resolve_part(pair, Source("arguments", options), registry=registry).require().build({"size": 64})
    assert [encoder.in_dim for encoder in built.encoders] == [64, 16]
    assert [encoder.grid for encoder in built.encoders] == [(8,), (16,)]


def test_a_system_in_a_slot_is_built_with_its_own_slots_and_remembered(registry: Registry) -> None:
    host = {"name": "toy", "masking": {"name": "core/random", "ratio": 0.5}, "depth": 3}
    built = build("wrapper", registry=registry, facts={"size": 64}, host=host, weight=2.0)
    assert isinstance(built.host, Toy)
    assert (built.host.depth, built.host.masking.ratio, built.host.encoder.in_dim) == (3, 0.5, 256)
    known = built_from(built)
    assert known is not None and known["host"]["name"] == "toy/toy" and known["host"]["size"] == 64


@pytest.mark.parametrize("name", [5, {"ratio": 0.5}, None])
def test_what_is_built_has_a_name(registry: Registry, name: Any) -> None:
    with pytest.raises(UserError, match="which of the maskings. give its name, or a mapping"):
        build(name, "maskings", registry=registry)


def test_the_package_lists_what_it_offers() -> None:
    assert {"build", "Run", "RunConfig", "Step", "System", "Mask"} <= set(dir(polymask))
    assert set(polymask.__all__) <= set(dir(polymask))
    assert all(getattr(polymask, name) is not None for name in dir(polymask))
    assert polymask.training.fit and not {"Any", "annotations", "_LAZY"} & set(dir(polymask))


def test_data_of_another_modality_is_refused(registry: Registry) -> None:
    system = Part(name="s", target=f"{__name__}:Toy", summary="s", modality="audio").of("toy", "systems")
    data = Part(name="d", target=f"{__name__}:Cutter", summary="d", modality="image").of("toy", "datasets")
    tree = PartConfig(system, {}, {"data": PartConfig(data, {})})
    with pytest.raises(UserError, match="toy/s is a system of audio, and toy/d is data of image"):
        RunConfig.of(Resolved(tree))


class Skips:
    """Says that it skipped something."""

    def __init__(self, skipped: Any) -> None:
        self.skipped = skipped


@pytest.mark.parametrize("skipped", [3, ["a.png"], [("a.png",)], [("a.png", "broken", 1)]])
def test_what_a_data_set_says_it_skipped_is_pairs(skipped: Any) -> None:
    data = Part(name="d", target=f"{__name__}:Skips", summary="d", modality="image").of("toy", "datasets")
    with pytest.raises(UserError, match=r"toy/d says that it skipped .*, and not \(path, reason\) of each"):
        construct(data, {"skipped": skipped})


class Reads:
    """Asks its tokenizer for what not all tell."""

    def __init__(self, *, tokenizer: Any) -> None:
        self.vocabulary = tokenizer.provides["vocabulary"]


def test_parts_that_do_not_go_together_are_named() -> None:
    system = Part(name="reads", target=f"{__name__}:Reads", summary="s").of("toy", "systems")
    message = r"toy/reads: these parts do not go together \(KeyError: .vocabulary.\): choose among --"
    with pytest.raises(UserError, match=message):
        construct(system, {"tokenizer": Cutter()})
