"""Names and options become a system; what one part knows, the next need not be told."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType
from typing import Any

import pytest
from polymask.wiring import construct, full_names, layer, nest, options_of, preset_options, slots_of

from polymask import Part, Registry, System, UserError, build, hookimpl, plugin
from polymask.maskings import Block, Random, Scheduled
from polymask.objectives import MSE

ORDER: list[str] = []


class Cutter:
    """Stands for a tokenizer: it knows ``in_dim`` and ``grid`` once it is built."""

    def __init__(self, *, size: int = 224, cut: int = 16) -> None:
        ORDER.append("tokenizer")
        self.size, self.provides = size, {"in_dim": cut * cut, "grid": (size // cut,)}


class Reader:
    def __init__(self, *, in_dim: int = 1, grid: tuple[int, ...] = (), dim: int = 8, heads: int = 2) -> None:
        ORDER.append("encoder")
        if dim % heads:
            raise ValueError(f"{heads} heads do not divide {dim}")
        self.in_dim, self.grid, self.dim = in_dim, grid, dim


class OtherReader:
    def __init__(self, *, layers: int = 3) -> None:
        self.layers = layers


class Toy(System):
    def __init__(
        self,
        *,
        tokenizer: Any,
        encoder: Any,
        masking: Any,
        second_masking: Any = None,
        objective: Any = MSE,
        size: int = 0,
        depth: int = 1,
    ) -> None:
        super().__init__()
        self.tokenizer, self.encoder, self.masking = tokenizer, encoder, masking
        self.second_masking, self.objective, self.size, self.depth = second_masking, objective, size, depth


PRESETS: dict[str, dict[str, Any]] = {
    "small": {"encoder.dim": 4, "masking.ratio": 0.25, "depth": 2, "steps": 10, "data.augment": "no"},
    "large": {"encoder.dim": 512},
}


def toys() -> ModuleType:
    module = ModuleType("toys")

    def part(name: str, **fields: Any) -> Part:
        return Part(name=name, target=f"{__name__}:{fields.pop('cls')}", summary="for a test", **fields)

    @hookimpl
    def polymask_register_tokenizers() -> Iterable[Part]:
        return [part("cutter", cls="Cutter")]

    @hookimpl
    def polymask_register_encoders() -> Iterable[Part]:
        return [part("reader", cls="Reader", defaults={"heads": 1}), part("other", cls="OtherReader")]

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
        ]

    for hook in (polymask_register_tokenizers, polymask_register_encoders, polymask_register_systems):
        setattr(module, hook.__name__, hook)
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


def test_layer_lays_options_over_options() -> None:
    slot = {"name": "a", "ratio": 0.5, "cell": 2}
    below = {"masking": slot, "depth": 1}
    assert layer(below, {"masking": {"ratio": 0.6}}) == {"masking": {**slot, "ratio": 0.6}, "depth": 1}
    assert layer(slot, {"name": "a", "cell": 1}) == {"name": "a", "ratio": 0.5, "cell": 1}
    assert layer(slot, {"name": "b", "length": 3}) == {"name": "b", "length": 3}
    assert layer(below, {"masking": None})["masking"] is None
    assert layer({}, below) == below


def test_full_names_write_short_names_out(registry: Registry) -> None:
    options = {"masking": {"name": "scheduled", "masking": {"name": "random"}}, "encoder": {"name": "nobody"}}
    assert full_names(options, registry) == {
        "masking": {"name": "core/scheduled", "masking": {"name": "core/random"}},
        "encoder": {"name": "nobody"},
    }


def test_slots_are_built_in_the_order_facts_flow() -> None:
    assert list(slots_of(Toy)) == ["tokenizer", "encoder", "masking", "second_masking", "objective"]
    assert slots_of(Toy)["second_masking"] == "maskings"
    assert slots_of(Random) == {}


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
    part = registry.find("systems", "toy")
    assert preset_options(part, "small", registry)["steps"] == 10
    make(registry, preset="small")


def test_an_unknown_preset_lists_those_there_are(registry: Registry) -> None:
    with pytest.raises(UserError, match="toy/toy has no preset 'huge'; it has large, small"):
        make(registry, preset="huge")
    with pytest.raises(UserError, match="core/random has no preset 'x'; it has none"):
        preset_options(registry.find("maskings", "random"), "x", registry)


def test_another_part_in_a_slot_drops_the_options_of_the_first(registry: Registry) -> None:
    assert isinstance(make(registry, masking="core/block").masking, Block)
    assert make(registry, masking="core/block", preset="small").masking.ratio == 0.4
    assert make(registry, encoder="toy/other").encoder.layers == 3


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


def test_an_option_goes_over_a_fact(registry: Registry) -> None:
    facts = {"size": 32}
    toy = make(registry, facts=facts, **{"tokenizer.size": 64, "tokenizer.cut": 4, "encoder.in_dim": 5})
    assert (toy.tokenizer.size, toy.encoder.in_dim, toy.encoder.grid) == (64, 5, (16,))
    assert facts == {"size": 32}


# ---------------------------------------------------------------- the mistakes

MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "option": (
        {"depht": 3},
        r"toy/toy has no option 'depht'; did you mean 'depth'\? it has tokenizer, encoder",
    ),
    "option of a part": (
        {"masking.ratoi": 0.5},
        r"core/random has no option 'ratoi'; did you mean 'ratio'\?",
    ),
    "option of another": ({"masking": "core/block", "masking.cell": 2}, "core/block has no option 'cell'"),
    "inner option": (
        {"masking": "core/scheduled", "masking.masking.rato": 1},
        r"core/random has no option 'rato'; did you mean 'ratio'\?",
    ),
    "name": ({"masking": "blok"}, "no masking is called 'blok'\ndid you mean .*block"),
    "kind": ({"masking": "toy/reader"}, "no masking is called 'toy/reader'"),
    "value": ({"masking.ratio": 1.5}, "masking ratio must lie between 0 and 1, got 1.5"),
    "value of another's part": (
        {"encoder.dim": 7, "encoder.heads": 2},
        "toy/reader: 2 heads do not divide 7",
    ),
    "type": ({"encoder.dim": "wide"}, "toy/reader: "),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told(registry: Registry, mistake: str) -> None:
    options, message = MISTAKES[mistake]
    with pytest.raises(UserError, match=message):
        make(registry, **options)


def test_a_needed_slot_must_be_filled(registry: Registry) -> None:
    with pytest.raises(UserError, match="toy/bare needs a masking: give --masking NAME"):
        make(registry, "bare")
    with pytest.raises(UserError, match=r"toy/bare: which masking\? give --masking NAME beside its options"):
        make(registry, "bare", **{"masking.ratio": 0.5})


# ---------------------------------------------------------------- the way back


def test_what_was_built_can_be_built_again(registry: Registry) -> None:
    toy = make(registry, masking="core/scheduled", facts={"size": 32}, **{"masking.masking.cell": 4})
    options = dict(options_of(toy) or {})
    again = construct(registry.find("systems", options.pop("name")), options, {}, registry)
    assert options_of(again) == options_of(toy) == {"name": "toy/toy", **options}
    assert again.masking.masking.cell == 4 and again.encoder.grid == (2,)
    assert options_of(make(registry, masking=Random())) is None


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
    built = construct(pair, options, {"size": 64}, registry)
    assert [encoder.in_dim for encoder in built.encoders] == [64, 16]
    assert [encoder.grid for encoder in built.encoders] == [(8,), (16,)]


class Wrapper(System):
    def __init__(self, *, host: Any, weight: float = 1.0) -> None:
        super().__init__()
        self.host, self.weight = host, weight


def test_a_system_in_a_slot_is_built_with_its_own_slots_and_remembered(registry: Registry) -> None:
    wrapper = Part(name="wrapper", target=f"{__name__}:Wrapper", summary="for a test")
    host = {"name": "toy", "masking": {"name": "core/random", "ratio": 0.5}, "depth": 3}
    built = construct(wrapper, {"host": host, "weight": 2.0}, {"size": 64}, registry)
    assert isinstance(built.host, Toy)
    assert (built.host.depth, built.host.masking.ratio, built.host.encoder.in_dim) == (3, 0.5, 256)
    known = options_of(built)
    assert known is not None and known["host"]["name"] == "toy/toy" and known["host"]["size"] == 64
