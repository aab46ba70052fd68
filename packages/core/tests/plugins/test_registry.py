"""One plugin's fault is that plugin's alone, and is told."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from polymask import Part, Registry, UserError, hookimpl
from polymask.plugins.hookspecs import API
from polymask.plugins.import_guard import HEAVY
from polymask.plugins.registry import FIRST_PARTY

GOOD = """
    @hookimpl
    def polymask_register_maskings():
        return [Part(name="stripes", target="polymask.maskings:Random", summary="lines")]
"""

Entries = Callable[..., EntryPoint]


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Entries:
    """Writes a plugin module and gives the entry point an installed distribution would have."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(name: str, source: str = GOOD, dist: str = "", version: str = "1.2") -> EntryPoint:
        module = f"plugin_{len(list(tmp_path.iterdir()))}_{tmp_path.name.replace('-', '_')}"
        head = "from polymask import Part, hookimpl\n"
        (tmp_path / f"{module}.py").write_text(head + textwrap.dedent(source))
        metadata = {"Name": dist or f"dist-of-{name}", "Version": version}
        made = EntryPoint(name, module, "polymask")
        vars(made)["dist"] = SimpleNamespace(metadata=metadata)
        return made

    return make


def load(*entries: EntryPoint, environ: Mapping[str, str] | None = None) -> Registry:
    return Registry(environ=environ or {}, entries=entries)


FAULTS = {
    "raises-on-import": ("raise RuntimeError('no libfoo here')", "RuntimeError: no libfoo here"),
    "exits-on-import": ("raise SystemExit(3)", "SystemExit: 3"),
    "syntax-error": ("def (:", "SyntaxError"),
    "long-error": ("raise ValueError('y' * 1_000_000)", "yyy... (1,000,012 characters)"),
    "error-that-colours": ("raise ValueError('\\x1b[31mred')", r"ValueError: \x1b[31mred"),
    "error-without-text": (
        "class Mute(Exception):\n    def __str__(self): raise RuntimeError\nraise Mute",
        "Mute, whose text cannot be had",
    ),
    "missing-import": ("import a_package_nobody_has", "No module named 'a_package_nobody_has'"),
    "misspelt-hook": (
        GOOD.replace("register_maskings", "register_masking"),
        "unknown hook 'polymask_register_masking'; did you mean 'polymask_register_maskings'?",
    ),
    "hook-raises": (
        "@hookimpl\ndef polymask_register_targets():\n    raise OSError('disk gone')",
        "OSError: disk gone",
    ),
    "hook-raises-halfway": (GOOD.replace("return [", "yield from [") + "        1 / 0", "ZeroDivisionError"),
    "hook-exits": ("@hookimpl\ndef polymask_register_targets():\n    exit(1)", "SystemExit: 1"),
    "hook-returns-nothing": (
        "@hookimpl\ndef polymask_register_targets(): pass",
        "polymask_register_targets returned None; return a list of polymask.Part",
    ),
    "hook-takes-arguments": (
        "@hookimpl\ndef polymask_register_targets(registry): return []",
        "Argument(s) {'registry'} are declared in the hookimpl but can not be found",
    ),
    "not-a-part": (
        "@hookimpl\ndef polymask_register_targets(): return ['acme/edges']",
        "polymask_register_targets returned 'acme/edges', which is not a polymask.Part",
    ),
    "bad-name": (GOOD.replace('"stripes"', '"Zebra_Stripes"'), "Part name 'Zebra_Stripes'"),
    "bad-target": (GOOD.replace(":Random", ".Random"), "is not 'package.module:Class'"),
    "unknown-field": (GOOD.replace("summary=", "sumary="), "'sumary'"),
    "part-twice": (
        GOOD.rstrip() + " * 2\n",
        "declares maskings 'stripes' twice",
    ),
    "future-api": (f"POLYMASK_API = '{API[0] + 1}'\n" + textwrap.dedent(GOOD), "written for plugin API"),
    "future-minor-api": (f"POLYMASK_API = '{API[0]}.{API[1] + 1}'\n" + textwrap.dedent(GOOD), "plugin API"),
    "nonsense-api": ("POLYMASK_API = 'latest'", "'latest' is not a version"),
    "interrupts": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "own-kind-of-exception": ("class Stop(BaseException): pass\nraise Stop('enough')", "Stop: enough"),
    "endless-parts": (
        GOOD.replace(
            "return [Part(name=",
            "i = 0\n        while True:\n            i += 1\n            yield Part(name=f",
        )
        .replace("stripes", "s{i}")
        .replace(")]", ")"),
        "declares more than 1000 parts",
    ),
    "modality-is-a-number": (
        GOOD.replace("summary=", "modality=7, summary="),
        "modality must be a string, got 7",
    ),
    "defaults-are-objects": (GOOD.replace("summary=", "defaults={'a': Part}, summary="), "defaults, a: give"),
    "heavy": ("import torch\n" + textwrap.dedent(GOOD), "imports torch"),
    "heavy-from": ("from torch.nn import Module\n" + textwrap.dedent(GOOD), "imports torch"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_plugin_is_a_record_and_the_others_work(entry: Entries, fault: str) -> None:
    source, expected = FAULTS[fault]
    registry = load(entry("after"), entry("bad", source, dist="faulty-dist", version="9.8"), entry("zz"))
    bad = next(p for p in registry.plugins if p.name == "bad")
    assert (bad.status, bad.distribution, bad.version) == ("broken", "faulty-dist", "9.8")
    assert expected in bad.error
    assert bad.trace.startswith("Traceback") or "SyntaxError" in bad.trace
    assert bad.parts == 0
    assert [p.full_name for p in registry.parts("maskings")] == ["after/stripes", "zz/stripes"]


@pytest.mark.parametrize("where", ["as it is imported", "as it declares"])
def test_what_a_plugin_prints_goes_nowhere(
    entry: Entries, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    # it declares in a child process where no other thread runs, as those of a test runner do
    monkeypatch.setattr("polymask.plugins.registry.threading.active_count", lambda: 1)
    prints = "import os; [os.write(number, b'noise' * 4000) for number in (1, 2)]"
    source = f"{prints}\n{textwrap.dedent(GOOD)}"
    if where == "as it declares":
        source = textwrap.dedent(GOOD).replace("    return", f"    {prints}\n    return")
    assert load(entry("loud", source)).plugins[0].status == "ok"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("fault", FAULTS)
def test_strict_raises_and_names_the_distribution(entry: Entries, fault: str) -> None:
    source, expected = FAULTS[fault]
    bad = entry("bad", source, dist="faulty-dist", version="9.8")
    with pytest.raises(UserError) as caught:
        load(bad, environ={"POLYMASK_STRICT": "1"})
    assert "plugin 'bad' (faulty-dist 9.8)" in str(caught.value)
    assert expected in str(caught.value)


def test_a_misspelt_hook_does_not_poison_a_later_plugin(entry: Entries) -> None:
    misspelt = entry("a", GOOD.replace("register_maskings", "register_maskingz"))
    registry = load(misspelt, entry("b"))
    assert [p.status for p in registry.plugins] == ["broken", "ok"]


def test_a_plugin_name_taken_twice_is_a_conflict_that_names_both(entry: Entries) -> None:
    first, second = entry("acme", dist="acme-one"), entry("acme", dist="acme-two", version="2.0")
    for order in ((first, second), (second, first)):
        kept, refused = load(*order).plugins
        assert (kept.source, kept.status) == ("acme-one 1.2", "ok")
        assert (refused.source, refused.status) == ("acme-two 2.0", "conflict")
        assert "'acme' is taken by acme-one 1.2" in refused.error


def test_a_broken_owner_keeps_its_name(entry: Entries) -> None:
    broken = entry("acme", "raise ValueError", dist="acme-one")
    registry = load(broken, entry("acme", dist="acme-two"))
    assert [p.status for p in registry.plugins] == ["broken", "conflict"]


FATAL = {
    "exits": ("import os\nos._exit(0)", "ended its process, exit status 0"),
    "aborts": ("import os\nos.abort()", "ended its process, signal 6"),
    "sleeps": ("import time\ntime.sleep(1000)", "declared no parts within 0.7 s"),
    "hook-loops": (
        "@hookimpl\ndef polymask_register_targets():\n    while True: pass",
        "declared no parts within",
    ),
    "asks": ("input('licence key? ')", "EOFError"),
    "interrupts": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
}
LEAVES = {
    "forks": "import os, time\nif os.fork() == 0:\n    time.sleep(30)\n    os._exit(0)\n",
    "starts": "import subprocess\nsubprocess.Popen(['sleep', '30'])\n",
    "threads": "import threading, time\nthreading.Thread(target=time.sleep, args=(30,)).start()\n",
}
LOUD = "import os, sys\nprint('hello')\nos.write(1, b'hello')\nsys.stdout.close()\nos.close(1)\n"


def test_no_plugin_ends_hangs_or_disturbs_the_process(entry: Entries, tmp_path: Path) -> None:
    sources = {name: source for name, (source, _) in FATAL.items()} | {"loud": LOUD + textwrap.dedent(GOOD)}
    values = {name: entry(name, source).value for name, source in sources.items()}
    script = f"""
import json, sys
sys.path.insert(0, {str(tmp_path)!r})
from importlib.metadata import EntryPoint
from polymask import Registry
from polymask.plugins import registry
registry.SECONDS = 0.7
made = Registry({{}}, [EntryPoint(*each, "polymask") for each in {values!r}.items()])
assert [part.full_name for part in made.parts("maskings")] == ["loud/stripes"]
assert not set({list(values.values())!r}) & set(sys.modules)
print(json.dumps({{p.name: p.error for p in made.plugins}}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    errors = json.loads(done.stdout)
    assert errors.pop("loud") == ""
    assert errors.keys() == FATAL.keys()
    for name, (_, expected) in FATAL.items():
        assert expected in errors[name]
    assert errors["sleeps"].endswith("; POLYMASK_DISABLE=sleeps leaves it out")


def test_what_a_plugin_starts_holds_nobody_up(entry: Entries, tmp_path: Path) -> None:
    """Neither the list of its parts nor who reads what this process says, which ends with its last child."""
    values = [entry(name, source + textwrap.dedent(GOOD)).value for name, source in LEAVES.items()]
    script = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from importlib.metadata import EntryPoint
from polymask import Registry
made = Registry({{}}, [EntryPoint(name, name, "polymask") for name in {values!r}])
print([plugin.error for plugin in made.plugins])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=9)
    assert done.stdout == f"{[''] * len(LEAVES)}\n", done.stderr


@pytest.mark.parametrize("name", FIRST_PARTY)
def test_names_of_ours_are_reserved(entry: Entries, name: str) -> None:
    stranger = entry(name, dist="aaa-first")
    registry = load(stranger, entry(name, dist=FIRST_PARTY[name].replace("-", "_").title()))
    kept, refused = sorted(registry.plugins, key=lambda p: p.status != "ok")
    assert (kept.status, refused.status, refused.source) == ("ok", "conflict", "aaa-first 1.2")
    assert f"{name!r} is reserved for {FIRST_PARTY[name]}; rename it" in refused.error
    vars(stranger)["dist"] = None
    assert load(stranger).plugins[0].status == "conflict"


@pytest.mark.parametrize(
    ("entries", "metadata", "name", "said"),
    [
        (b"no equals sign", b"sad", "sad", "TypeError"),
        (b"b\xff = a_module", b"sad", "sad", "UnicodeDecodeError"),
        (b"low = a_module_nobody_has", b"s\xffd", "low", "No module named"),
    ],
    ids=["syntax", "encoding", "metadata"],
)
def test_a_damaged_distribution_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    entries: bytes,
    metadata: bytes,
    name: str,
    said: str,
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "sad-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_bytes(b"Name: " + metadata + b"\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_bytes(b"[polymask]\n" + entries + b"\n")
    registry = Registry(environ={})
    broken = {p.name: p for p in registry.plugins if p.status != "ok"}
    assert broken.keys() == {name} and said in broken[name].error
    assert registry.find("maskings", "core/random")


def test_an_entry_point_without_metadata_loads(entry: Entries) -> None:
    bare, damaged = entry("bare"), entry("damaged")
    vars(bare)["dist"] = None
    vars(damaged)["dist"] = SimpleNamespace(metadata={"Name": None, "Version": None})
    assert [(p.status, p.source) for p in load(bare, damaged).plugins] == [("ok", ""), ("ok", "")]


def test_an_entry_point_that_is_no_module(entry: Entries) -> None:
    assert load(EntryPoint("x", "not a module!", "polymask")).plugins[0].status == "broken"


@pytest.mark.parametrize("version", [str(API[0]), f"{API[0]}.0", API[0], None])
def test_this_api_version_loads(entry: Entries, version: Any) -> None:
    assert (
        load(entry("acme", f"POLYMASK_API = {version!r}\n" + textwrap.dedent(GOOD))).plugins[0].status == "ok"
    )


def test_a_plugin_that_hides_its_heavy_import_is_caught_too(entry: Entries) -> None:
    import torch  # noqa: F401  # loaded already: sys.modules alone would show no difference

    quiet = "try:\n    import torch\nexcept ImportError:\n    pass\n" + textwrap.dedent(GOOD)
    assert "imports torch" in load(entry("quiet", quiet)).plugins[0].error


def test_a_heavy_import_is_caught_without_a_child_process_too(
    entry: Entries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "fork")
    heavy = entry("heavy", "import torch\n" + textwrap.dedent(GOOD))
    assert "imports torch" in load(heavy).plugins[0].error


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ("import torch", "torch"),
        ("import importlib; importlib.import_module('torch')", "torch"),
        # a stand-in of that name, which no import statement brings in
        ("import importlib; importlib.import_module('timm')", "timm"),
    ],
)
def test_a_heavy_import_is_caught_in_a_fresh_process(
    entry: Entries, tmp_path: Path, how: str, found: str
) -> None:
    value = entry("slow", how + "\n" + textwrap.dedent(GOOD)).value
    (tmp_path / "timm.py").touch()
    script = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from importlib.metadata import EntryPoint
from polymask import Registry
from polymask.plugins.import_guard import HEAVY
assert not HEAVY.intersection(sys.modules)
print(Registry({{}}, [EntryPoint("slow", {value!r}, "polymask")]).plugins[0].error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert f"importing {value} imports {found}" in done.stdout


def test_loading_leaves_the_import_statement_as_it_was(entry: Entries) -> None:
    import builtins

    before = builtins.__import__
    load(entry("a"), entry("b", "raise SystemExit"), entry("c", "import torch"))
    assert builtins.__import__ is before


# ------------------------------------------------------------------- switches


def test_deny_list_keeps_a_plugin_from_being_imported(entry: Entries) -> None:
    registry = load(entry("a", "raise ValueError"), entry("b"), environ={"POLYMASK_DISABLE": " a ,zz"})
    assert [(p.name, p.status) for p in registry.plugins] == [("a", "disabled"), ("b", "ok")]


@pytest.mark.parametrize(("allowed", "loaded"), [("b", ["b"]), ("a, b", ["a", "b"]), ("", [])])
def test_allow_list(entry: Entries, allowed: str, loaded: list[str]) -> None:
    registry = load(entry("a"), entry("b"), environ={"POLYMASK_PLUGINS": allowed})
    assert [p.name for p in registry.plugins if p.status == "ok"] == loaded


def test_deny_wins_over_allow(entry: Entries) -> None:
    environ = {"POLYMASK_PLUGINS": "a", "POLYMASK_DISABLE": "a"}
    assert load(entry("a"), environ=environ).plugins[0].status == "disabled"


@pytest.mark.parametrize("off", ["", "0"])
def test_strict_can_be_switched_off(entry: Entries, off: str) -> None:
    assert (
        load(entry("a", "raise ValueError"), environ={"POLYMASK_STRICT": off}).plugins[0].status == "broken"
    )


def test_registries_share_nothing(entry: Entries) -> None:
    one, other = load(entry("a")), load()
    assert one.parts("maskings")
    assert not other.parts("maskings")


# ------------------------------------------------------------------ resolving


def module(**parts: list[Part]) -> ModuleType:
    """A plugin made in memory: ``module(maskings=[...])``."""
    made = ModuleType("made")
    for kind, declared in parts.items():
        name = f"polymask_register_{kind}"
        setattr(made, name, hookimpl(lambda declared=declared: declared, specname=name))
    return made


def part(name: str, target: str = "polymask.maskings:Random", **fields: Any) -> Part:
    return Part(name=name, target=target, summary="for a test", **fields)


@pytest.fixture
def registry() -> Registry:
    made = Registry(environ={}, entries=[])
    made.add("acme", module(maskings=[part("stripes"), part("dots")], targets=[part("edges")]))
    made.add("other", module(maskings=[part("dots")], objectives=[part("edges")]))
    return made


def test_full_and_short_names(registry: Registry) -> None:
    assert registry.find("maskings", "acme/stripes").full_name == "acme/stripes"
    assert registry.find("maskings", "stripes").full_name == "acme/stripes"
    assert registry.find("maskings", "other/dots").plugin == "other"


def test_an_ambiguous_short_name_lists_candidates(registry: Registry) -> None:
    with pytest.raises(UserError, match="'dots' is ambiguous: choose one of acme/dots, other/dots"):
        registry.find("maskings", "dots")


def test_an_unknown_name_lists_candidates_and_plugins_that_failed(registry: Registry) -> None:
    registry.add("sad", SimpleNamespace(__name__="sad", POLYMASK_API="99"))
    with pytest.raises(UserError) as caught:
        registry.find("maskings", "acme/stripe")
    message = str(caught.value)
    assert "no masking is called 'acme/stripe'" in message
    assert "did you mean acme/stripes" in message
    assert "installed maskings: acme/dots, acme/stripes, other/dots" in message
    assert "plugin 'sad' did not load: ImportError: written for plugin API 99" in message


def test_an_unknown_name_tells_of_disabled_plugins(entry: Entries) -> None:
    registry = load(entry("acme"), environ={"POLYMASK_DISABLE": "acme"})
    with pytest.raises(UserError, match="plugin 'acme' of dist-of-acme 1.2 is disabled: by POLYMASK_DISABLE"):
        registry.find("maskings", "stripes")


def test_an_unknown_kind(registry: Registry) -> None:
    with pytest.raises(UserError, match="no kind of part called 'masking'; the kinds are systems, maskings"):
        registry.find("masking", "stripes")


def test_locate_looks_at_all_kinds(registry: Registry) -> None:
    assert registry.locate("stripes").kind == "maskings"
    assert registry.locate("acme/edges").kind == "targets"
    assert registry.locate("edges", "objectives").plugin == "other"
    with pytest.raises(UserError, match=r"one of acme/edges \(--kind targets\), other/edges \(--kind obj"):
        registry.locate("edges")
    with pytest.raises(UserError, match="no part is called 'wedges'\ndid you mean edges"):
        registry.locate("wedges")


def test_adding_a_name_again_replaces_it(registry: Registry) -> None:
    record = registry.add("acme", module(maskings=[part("waves")]))
    assert (record.status, record.parts) == ("ok", 1)
    assert [p.full_name for p in registry.parts("maskings")] == ["acme/waves", "other/dots"]
    assert not registry.parts("targets")
    assert [p.name for p in registry.plugins] == ["other", "acme"]


def test_adding_cannot_replace_what_is_installed(entry: Entries) -> None:
    registry = load(entry("acme"))
    assert registry.add("acme", module(maskings=[part("waves")])).status == "conflict"
    assert [p.full_name for p in registry.parts("maskings")] == ["acme/stripes"]


@pytest.mark.parametrize(
    ("target", "cause"),
    [
        ("a_package_nobody_has:Foo", "ModuleNotFoundError: No module named 'a_package_nobody_has'"),
        ("polymask.maskings:Foo", "AttributeError"),
        ("broken_extension:Foo", "OSError: libcudart.so.99"),
    ],
)
def test_a_part_that_cannot_be_imported_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, cause: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_extension.py").write_text("raise OSError('libcudart.so.99')")
    registry = Registry(environ={}, entries=[])
    registry.add("acme", module(maskings=[part("foo", target, needs="pip install polymask-acme[foo]")]))
    with pytest.raises(UserError) as caught:
        registry.get("maskings", "foo")
    assert f"acme/foo cannot be imported from {target}: {cause}" in str(caught.value)
    assert str(caught.value).endswith("; pip install polymask-acme[foo]")


def test_get_imports_the_class(registry: Registry) -> None:
    from polymask.maskings import Random

    assert registry.get("maskings", "stripes") is Random


# ----------------------------------------------------------------- weightless


def test_importing_polymask_its_command_line_and_every_plugin_is_light() -> None:
    script = """
import sys
import polymask, polymask.cli, polymask.plugins.registry
from importlib.metadata import entry_points
modules = [e.load() for e in entry_points(group="polymask")]
print(len(modules), *sorted(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    count, *modules = done.stdout.split()
    assert int(count) >= 1
    assert not HEAVY.intersection(modules)


def declare_folder(registry: Registry, plugin: str, modality: str) -> None:
    registry.add(plugin, module(datasets=[part("folder", modality=modality)]))


def test_a_short_name_means_the_part_of_the_modality_of_the_system() -> None:
    registry = Registry(environ={}, entries=[])
    declare = functools.partial(declare_folder, registry)
    declare("vision", "image")
    declare("audio", "audio")
    with pytest.raises(UserError, match="'folder' is ambiguous: choose one of audio/folder, vision/folder"):
        registry.find("datasets", "folder")
    for modality, plugin in (("image", "vision"), ("audio", "audio")):
        assert registry.within(modality).find("datasets", "folder").plugin == plugin
    assert registry.within("image").find("datasets", "audio/folder").plugin == "audio"
    with pytest.raises(UserError, match="no dataset called 'folder' is for text; of those.* these are: none"):
        registry.within("text").find("datasets", "folder")
    declare("other", "any")
    for modality, plugins in (("image", "other vision"), ("text", "other"), ("any", "audio other vision")):
        assert " ".join(p.plugin for p in registry.within(modality).fitting("datasets")) == plugins
    assert registry.fitting("datasets") == registry.parts("datasets")
    with pytest.raises(UserError, match="choose one of other/folder, vision/folder"):
        registry.within("image").find("datasets", "folder")
    assert registry.within("text").find("datasets", "folder").plugin == "other"
    with pytest.raises(UserError, match="ambiguous"):
        registry.within("any").find("datasets", "folder")


def test_a_system_of_two_modalities_takes_parts_of_both_and_they_of_it() -> None:
    registry = Registry(environ={}, entries=[])
    for plugin, modality in (("vision", "image"), ("audio", "audio"), ("pairs", "image+text")):
        declare_folder(registry, plugin, modality)
    expected = {"image+text": "pairs vision", "text": "pairs", "audio+text": "audio pairs"}
    for modality, plugins in expected.items():
        assert " ".join(p.plugin for p in registry.within(modality).fitting("datasets")) == plugins
    assert registry.within("text").find("datasets", "folder").plugin == "pairs"
    with pytest.raises(UserError, match="choose one of pairs/folder, vision/folder"):
        registry.within("image+text").find("datasets", "folder")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("language/folder", "\nno plugin called language is installed: pip install polymask-language"),
        ("nobody/folder", "\nno plugin called nobody is installed\n"),
        ("vision/folders", None),
        ("folders", None),
    ],
)
def test_a_name_of_a_plugin_that_is_missing_says_so(name: str, remedy: str | None) -> None:
    registry = Registry(environ={}, entries=[])
    declare_folder(registry, "vision", "image")
    with pytest.raises(UserError, match=f"no dataset is called '{name}'") as caught:
        registry.find("datasets", name)
    assert remedy in str(caught.value) if remedy else "no plugin called" not in str(caught.value)


def test_first_party_plugins_are_in_the_package_of_that_name() -> None:
    """The message above tells what to install; the names are those of the installed entry points."""
    for entry_point in entry_points(group="polymask"):
        if entry_point.dist is not None and entry_point.dist.name.startswith("polymask-"):
            assert entry_point.dist.name == FIRST_PARTY[entry_point.name]


def test_a_path_given_for_a_data_set_says_where_it_goes() -> None:
    registry = Registry(environ={}, entries=[])
    with pytest.raises(UserError, match=r"--data folder:\.\./photos"):
        registry.find("datasets", "../photos")
    with pytest.raises(UserError, match=r"'true' \(what an option without a value means\)"):
        registry.find("datasets", "true")
    with pytest.raises(UserError) as caught:
        registry.find("systems", "../photos")
    assert "--data" not in str(caught.value)
