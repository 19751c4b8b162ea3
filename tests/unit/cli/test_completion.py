"""The completions of the three shells, each in the real shell, and the manual page."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmsvc import paths
from llmsvc.cli import completion
from llmsvc.cli.completion import tree

ASKED = [
    ("llmsvc mo", ["model"]),
    ("llmsvc db re", ["restore"]),
    ("llmsvc --json key r", ["revoke", "rotate"]),
    ("llmsvc user add alice --role ", ["user", "admin"]),
    ("llmsvc install --model mistral-s", ["mistral-small"]),
    ("llmsvc install --model x --li", ["--listen"]),
    ("llmsvc model add --wheel", ["--wheelhouse"]),
    ("llmsvc completion f", ["fish"]),
    ("llmsvc start t", ["tiny", "tinier"]),
    ("llmsvc model use m", ["mine"]),
    ("llmsvc db restore backup.t", ["backup.tar"]),
]
"""What is typed, and all that it may become."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the scripts, a file, three models, and a command llmsvc."""
    folder = tmp_path_factory.mktemp("shells")
    for name in ("tiny", "tinier", "mine"):
        (folder / f"{name}.env").touch()
    for kind in completion.KINDS:
        text = completion.text(kind).replace(str(paths.MODELS_D), str(folder))
        (folder / kind).mkdir()
        (folder / kind / "_llmsvc").write_text(text)
    (folder / "backup.tar").touch()
    (folder / "llmsvc").symlink_to(shutil.which("true") or "/bin/true")
    return folder


def shell(name: str) -> str:
    found = shutil.which(name)
    if not found:
        pytest.skip(f"there is no {name}; tests/run installs it")
    return found


def run(place: Path, *command: str) -> str:
    path = f"{place}:/usr/bin:/bin"
    environment = {"PATH": path, "HOME": str(place), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


def test_bash(place: Path) -> None:
    lines = ["compopt() { :; }", f"source {place}/bash/_llmsvc"]
    for line, _ in ASKED:
        words = " ".join(f"'{word}'" for word in line.split(" "))
        lines.append(f"COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMPREPLY=(); _llmsvc")
        lines.append('echo "${COMPREPLY[*]}"')
    answers = run(place, shell("bash"), "--norc", "-c", "\n".join(lines)).splitlines()
    assert [sorted(answer.split()) for answer in answers] == [sorted(wanted) for _, wanted in ASKED]
    subprocess.run([shell("shellcheck"), "--shell=bash", place / "bash/_llmsvc"], check=True)


def test_fish(place: Path) -> None:
    lines = [f"source {place}/fish/_llmsvc"]
    lines += [f"echo (complete -C '{line}' | string replace -r '\\t.*' '')" for line, _ in ASKED]
    answers = run(place, shell("fish"), "--no-config", "-c", "\n".join(lines)).splitlines()
    assert [sorted(answer.split()) for answer in answers] == [sorted(wanted) for _, wanted in ASKED]


def test_zsh(place: Path) -> None:
    shell("zsh")
    pid, terminal = pty.fork()
    if pid == 0:
        environment = {
            "PATH": f"{place}:/usr/bin:/bin",
            "HOME": str(place),
            "TERM": "dumb",
            "LC_ALL": "C.UTF-8",
        }
        os.chdir(place)
        os.execvpe("zsh", ["zsh", "-f", "-i"], environment)
    try:
        setup = f"fpath=({place}/zsh $fpath); autoload -U compinit && compinit -u -D; "
        # '''' apart from what is typed, which the terminal shows too
        setup += "unsetopt prompt_cr list_ambiguous; setopt no_beep no_auto_menu; echo rea''dy\n"
        os.write(terminal, setup.encode())
        await_words(terminal, ["ready\r"], "")
        for line, wanted in ASKED:
            os.write(terminal, f"{line}\t".encode())
            await_words(terminal, wanted, line)
            os.write(terminal, b"\x15")  # away with the line
    finally:
        os.close(terminal)
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def await_words(terminal: int, wanted: list[str], after: str, seconds: float = 60) -> None:
    """Reads what the shell shows until all of that is there."""
    shown = ""
    deadline = time.monotonic() + seconds
    while not all(word in shown for word in wanted):
        ready, _, _ = select.select([terminal], [], [], max(deadline - time.monotonic(), 0))
        assert ready, f"{wanted} does not come after {after!r}: {shown!r}"
        shown += os.read(terminal, 65536).decode(errors="replace")


def test_the_manual_page_has_every_command_and_option() -> None:
    page = completion.text("man").replace("\\-", "-")
    for command in tree.read().walk():
        if command.path and not command.commands:
            assert f"llmsvc {' '.join(command.path)}" in page
            assert all(flag in page for option in command.options for flag in option.flags if flag != "-h")
    done = subprocess.run(
        [shell("groff"), "-man", "-Tutf8", "-ww", "-z"],
        input=completion.text("man"),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_no_command_of_systemd_is_completed() -> None:
    assert not {"backend", "proxy", "rollback"} & {
        command.path[0] for command in tree.read().walk() if command.path
    }


def test_python_is_not_needed_to_complete() -> None:
    for kind in completion.SHELLS:
        assert sys.executable not in completion.text(kind) and "llmsvc completion" in completion.text(kind)
