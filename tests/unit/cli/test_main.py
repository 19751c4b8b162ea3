"""The frame of every command: help, errors, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import llmsvc
from llmsvc import errors
from llmsvc.cli import main as cli
from llmsvc.cli.output import Result

HINTED = errors.NotFoundError("there is no user bob", hint="see 'llmsvc user list'")


@pytest.fixture
def verb(monkeypatch):
    """Sets what the command `try` does."""

    def set_verb(function):
        class Verb:
            @staticmethod
            def add_parser(subparsers):
                subparsers.add_parser("try").set_defaults(command=function)

        monkeypatch.setattr(cli, "_VERBS", (Verb,))

    return set_verb


def failing(error):
    def command(args):
        raise error

    return command


@pytest.mark.parametrize(
    "error",
    [errors.Error, errors.NotFoundError, errors.DeniedError, errors.ConflictError, errors.UnavailableError],
)
def test_an_expected_failure_is_two_lines_and_an_exit_code(verb, capsys, error):
    verb(failing(error("it does not work", hint="mend it")))
    assert cli.main(["try"]) == error.exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "llmsvc: it does not work\nhint: mend it\n"


def test_an_expected_failure_is_one_object_under_json(verb, capsys):
    verb(failing(HINTED))
    assert cli.main(["try", "--json"]) == 3
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out) == {
        "error": {
            "type": "NotFoundError",
            "message": "there is no user bob",
            "hint": "see 'llmsvc user list'",
            "exit_code": 3,
        }
    }


def test_a_message_cannot_steer_the_terminal(verb, capsys):
    verb(failing(errors.Error("bad \x1b[2J")))
    cli.main(["try"])
    assert capsys.readouterr().err == "llmsvc: bad ?[2J\n"


def test_a_bug_keeps_its_traceback(verb):
    verb(failing(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        cli.main(["try"])


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError("Cannot do that"), "output: Cannot do that"),
        (FileNotFoundError(2, "No such file", "/x"), "/x: No such file"),
        (FileNotFoundError(2, "No such file"), "the current directory is not there any more"),
    ],
)
def test_a_failure_of_the_system_is_one_line(verb, capsys, error, told):
    verb(failing(error))
    assert cli.main(["try"]) == 1
    assert capsys.readouterr().err.splitlines()[0] == f"llmsvc: {told}"


def test_an_interrupt_is_quiet(verb, capsys):
    verb(failing(KeyboardInterrupt()))
    assert cli.main(["try"]) == 130
    assert capsys.readouterr() == ("", "\n")


@pytest.mark.parametrize("arguments", [["--json", "try"], ["try", "--json"]])
def test_json_may_stand_before_or_after_the_verb(verb, capsys, arguments):
    verb(lambda args: Result({"a": 1}, "text", exit_code=2))
    assert cli.main(arguments) == 2
    assert json.loads(capsys.readouterr().out) == {"a": 1}


def test_a_command_that_runs_on_returns_its_exit_code(verb, capsys):
    verb(lambda args: 78)
    assert cli.main(["try"]) == 78
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("arguments", [["usre"], ["user"], ["user", "add"], ["user", "list", "--x"]])
def test_a_wrong_command_line_is_explained_without_the_whole_usage(capsys, arguments):
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    first, hint = err.splitlines()
    assert first.startswith("llmsvc: ")
    assert hint.startswith("hint: see 'llmsvc") and hint.endswith("--help'")


def test_the_help_shows_every_command_in_a_group():
    shown = cli.RootParser().format_help()
    for verb in cli.RootParser().commands.choices:
        assert f"\n  {verb:<12}" in shown


def test_every_command_has_an_example():
    def walk(parser):
        for action in parser._actions:
            if action.dest == "help" or not hasattr(action, "choices"):
                continue
            if isinstance(action.choices, dict):
                for child in action.choices.values():
                    yield child
                    yield from walk(child)

    for parser in walk(cli.RootParser()):
        by_hand = parser.prog.split()[1] not in cli.GROUPS["Run by systemd"]
        assert not by_hand or "example" in (parser.epilog or ""), parser.prog
        assert max(map(len, parser.format_help().splitlines())) <= 120, parser.prog


def llmsvc_command(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-c", "from llmsvc.cli.main import main; raise SystemExit(main())", *arguments],
        **options,
    )


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from llmsvc.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'asyncio', 'psycopg', 'fastapi', 'uvicorn', 'aiohttp', 'huggingface_hub', 'jinja2'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    assert done.stdout.startswith("usage: llmsvc")


def test_a_reader_that_leaves_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = llmsvc_command(stdout=writer, stderr=subprocess.PIPE, env=buffered)
    os.close(writer)
    assert process.communicate(timeout=20)[1] == b""
    assert process.returncode == 141


def test_without_any_standard_output_a_command_still_works():
    code = "from llmsvc.cli import main; raise SystemExit(main.main(['completion', 'bash']))"
    command = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-c", code]
    done = subprocess.run(command, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_locale_without_the_letter_is_no_error():
    code = "from llmsvc.cli import main; raise SystemExit(main.main(['--ü…']))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0"},
        capture_output=True,
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"llmsvc: unrecognized arguments: --??" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["install", "--modle", "x"], "did you mean --model? see 'llmsvc install --help'"),
        (["user", "add", "bob", "--ratelimit=3"], "did you mean --rate-limit? see 'llmsvc user add --help'"),
        (["status", "now"], "see 'llmsvc status --help'"),
        (["--jsno"], "did you mean --json? see 'llmsvc --help'"),
    ],
)
def test_a_slip_in_an_option_is_told_with_the_help_of_its_command(capsys, arguments, hint):
    assert cli.main(arguments) == 2
    message, said = capsys.readouterr().err.splitlines()
    assert message.startswith("llmsvc: unrecognized arguments: ")
    assert said == f"hint: {hint}"


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"llmsvc {llmsvc.__version__}\n"
