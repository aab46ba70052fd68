from __future__ import annotations

import os
import subprocess
import sys

import pytest

from polymask import UserError
from polymask.cli import VERBS, main
from polymask.errors import Ended

HEAVY = {"torch", "lightning", "timm", "transformers", "matplotlib", "sklearn", "torchvision"}


def in_a_process(*argv, **env):
    """Status, and which heavy modules a command line imports."""
    code = (
        "import sys; from polymask.cli import main; status = main(sys.argv[1:]);"
        f"print('imported', sorted({HEAVY} & set(sys.modules))); sys.exit(status)"
    )
    environ = {**os.environ, **env}
    return subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, env=environ)


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["--version"],
        ["list"],
        ["list", "maskings", "--json"],
        ["plugins"],
        ["plugins", "--json"],
        ["show", "core/block"],
        ["show", "core/scheduled", "--json"],
        ["look", "core/scheduled", "--masking.masking", "core/block", "--help"],
        ["evaluate", "core/heldout-loss", "--help"],
        *([verb, "--help"] for verb in VERBS),
    ],
    ids=" ".join,
)
def test_light_verbs_import_nothing_heavy(argv):
    done = in_a_process(*argv)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported []"


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["show", "randon"], "random"),
        (["check", "randon"], "random"),
        (["pretrain", "no"], "system"),
    ],
    ids=lambda x: x[0],
)
def test_unknown_names_are_told_before_anything_heavy_is_imported(argv, named):
    done = in_a_process(*argv)
    assert done.returncode == 2 and named in done.stderr
    assert done.stdout.splitlines()[-1] == "imported []"


def test_help_names_every_verb(polymask):
    shown = polymask("--help")
    assert shown.status == 0 and polymask().out == polymask("-h").out == shown.out
    for verb in VERBS:
        assert f"\n  {verb} " in shown.out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(polymask, verb):
    shown = polymask(verb, "--help")
    assert shown.status == 0 and shown.err == ""
    assert f"usage: polymask {verb}" in shown.out and f"example:\n  polymask {verb}" in shown.out


@pytest.mark.parametrize(
    ("said", "spins"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_waiting_threads_sleep_soon_unless_told_otherwise(monkeypatch, said, spins):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    main(["--version"])
    assert os.environ.get("GOMP_SPINCOUNT") == spins


def test_version(polymask):
    from importlib.metadata import version

    assert polymask("--version").out == f"polymask {version('polymask')}\n"


def test_unknown_verb_suggests_the_nearest(polymask):
    done = polymask("pretrian")
    assert done.status == 2 and done.out == "" and "'pretrain'" in done.err and "export" in done.err


def test_errors_are_one_message_without_a_traceback(polymask):
    done = polymask("list", "nonsense")
    assert done.status == 2 and done.err.startswith("error: ") and "Traceback" not in done.err


def test_debug_shows_where(monkeypatch):
    from polymask.cli import main
    from polymask.errors import UserError

    monkeypatch.setenv("POLYMASK_DEBUG", "1")
    with pytest.raises(UserError):
        main(["list", "nonsense"])


def interrupt():
    raise KeyboardInterrupt


def interrupt_as_lightning_does():
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        sys.exit(1)


def end():
    raise Ended(143)


@pytest.mark.parametrize(
    ("stop", "status"), [(interrupt, 130), (interrupt_as_lightning_does, 130), (end, 143)]
)
def test_a_stop_sets_the_status(polymask, monkeypatch, stop, status):
    import polymask.cli.verbs.list as verb

    monkeypatch.setattr(verb, "run", lambda argv: stop())
    done = polymask("list")
    assert done.status == status and "Traceback" not in done.err


def test_a_reader_that_goes_away_is_no_error():
    command = [sys.executable, "-m", "polymask", "list", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 0)


@pytest.mark.parametrize("closed", [1, 2])
def test_output_that_is_closed_is_no_error(closed):
    command = [sys.executable, "-m", "polymask", "list"]
    done = subprocess.run(
        command, capture_output=True, text=True, preexec_fn=lambda: os.close(closed), check=False
    )
    assert done.returncode == 0, done.stderr
    assert bool(done.stdout) is (closed == 2)


@pytest.mark.parametrize("argv", [["list"], ["show", "core/random"], ["pretrain", "--help"]], ids=" ".join)
def test_a_broken_plugin_is_told_once_on_stderr_and_stops_nothing(polymask, broken, argv):
    done = polymask(*argv)
    assert done.status == 0
    assert done.err.count("'bad'") == 1 and "out of order" in done.err and "polymask plugins" in done.err


def test_help_and_plugins_do_not_warn(polymask, broken):
    assert polymask("--help").err == polymask("plugins").err == polymask("--version").err == ""


def test_everything_broken():
    """With no plugin left, help, list and plugins still answer."""
    for argv in (["--help"], ["list"], ["plugins"]):
        assert in_a_process(*argv, POLYMASK_PLUGINS="").returncode == 0


def test_warnings_are_one_line(polymask, monkeypatch):
    import warnings

    import polymask.cli.verbs.list as verb

    def warn(argv):
        for _ in range(2):
            warnings.warn("look out for test_warnings_are_one_line", stacklevel=1)
        return 0

    monkeypatch.setattr(verb, "run", warn)
    assert polymask("list").err == "warning: look out for test_warnings_are_one_line\n"


def test_a_module_can_be_run():
    done = subprocess.run([sys.executable, "-m", "polymask", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("polymask ")


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (OSError(13, "Permission denied", "a/b"), 2, "error: a/b: Permission denied\nkept\n"),
        (OSError(28, "No space"), 2, "error: No space (POLYMASK_DEBUG=1 shows where)\nkept\n"),
        (UserError("so"), 2, "error: so\nkept\n"),
        (KeyboardInterrupt(), 130, "kept\n"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_what_ends_a_verb_is_one_message_with_its_notes(monkeypatch, capsys, error, status, said):
    error.add_note("kept")

    def fail(argv):
        raise error

    monkeypatch.setattr("polymask.cli.verbs.list.run", fail)
    monkeypatch.delenv("POLYMASK_DEBUG", raising=False)
    assert main(["list"]) == status
    assert capsys.readouterr().err == said


def test_a_broken_pipe_of_a_part_is_no_success(monkeypatch, capsys):
    def fail(argv):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("polymask.cli.verbs.list.run", fail)
    assert main(["list"]) == 2
    assert capsys.readouterr().err == "error: Broken pipe (POLYMASK_DEBUG=1 shows where)\n"


@pytest.mark.parametrize("argv", [["list"], ["show", "core/random"]], ids=" ".join)
@pytest.mark.parametrize(
    ("what", "status", "said"), [("gone", 0, ""), ("full", 2, "No space left on device")]
)
def test_output_that_cannot_be_written_is_told_as_that(polymask, unread, argv, what, status, said):
    unread(what)
    done = polymask(*argv)
    assert done.status == status
    told = f"error: what is printed cannot be written to standard output: {said}; send it elsewhere\n"
    assert done.err == (told if said else "")


def test_a_part_that_prints_to_nobody_stops_nothing(monkeypatch, unread):
    reached = []

    def run(argv):
        print("x" * 100_000, flush=True)
        reached.append(True)
        return 0

    monkeypatch.setattr("polymask.cli.verbs.list.run", run)
    unread("gone")
    assert main(["list"]) == 0
    assert reached


def test_messages_to_nobody_stop_nothing(monkeypatch):
    class Closed:
        def isatty(self):
            return False

        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr("sys.stderr", Closed())
    assert main(["no-verb"]) == 2


@pytest.mark.parametrize("code", [0, 3, "no licence", None])
def test_a_part_that_ends_the_program_is_an_error(monkeypatch, capsys, code):
    def run(argv):
        sys.exit(code)

    monkeypatch.setattr("polymask.cli.verbs.list.run", run)
    assert main(["list"]) == 2
    said = capsys.readouterr().err
    assert f"{__file__}, line {run.__code__.co_firstlineno + 1}: sys.exit({code!r})" in said


def test_a_part_that_raises_what_is_no_exception_is_an_error(monkeypatch, capsys):
    def run(argv):
        raise GeneratorExit("enough")

    monkeypatch.setattr("polymask.cli.verbs.list.run", run)
    assert main(["list"]) == 2
    line = run.__code__.co_firstlineno + 1
    assert f"{__file__}, line {line}: GeneratorExit('enough') ends the program" in capsys.readouterr().err


def test_help_ends_the_program_as_it_is_asked_to():
    assert main(["report", "--help"]) == 0
