"""Whatever an installation had done when it ended, all is as before, at the second attempt if need be."""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from installer import putback, services, undo
from installer.undo import Undo
from llmsvc import paths, process
from llmsvc.errors import Error


@pytest.fixture(autouse=True)
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host on which no unit runs; its files are below the directory that this returns."""
    monkeypatch.setattr(paths, "UNDO", tmp_path / "state" / "undo")
    monkeypatch.setattr(services, "snapshot", lambda: {"model": None, "runs": {}})
    monkeypatch.setattr(services, "return_to", lambda before: None)
    (tmp_path / "old").write_text("old\n")
    (tmp_path / "link").symlink_to("old")
    return tmp_path


def tree(root: Path) -> dict[str, Any]:
    """Every path below a directory with its mode, and its text or target."""
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        what = path.readlink() if path.is_symlink() else path.read_text() if path.is_file() else None
        found[str(path.relative_to(root))] = (oct(path.lstat().st_mode), what)
    return found


def change(journal: Undo, host: Path) -> None:
    """Some of everything."""
    for path in (host / "old", host / "link", host / "new"):
        journal.file(path)
    (host / "old").unlink()
    (host / "old").write_text("new\n")
    (host / "link").unlink()
    (host / "link").symlink_to("new")
    (host / "new").write_text("new\n")
    journal.make_directory(host / "a" / "b")
    journal.appearing([host / "made", host / "old"])
    (host / "made").mkdir()
    (host / "made" / "file").write_text("x")
    journal.model(host / "a", keep=False)
    (host / "a" / "x.gguf").write_text("x")


def test_a_failure_puts_everything_back(host: Path) -> None:
    before = tree(host)
    with pytest.raises(Error, match=r"^no$"), undo.transaction(print) as journal:
        change(journal, host)
        raise Error("no")
    assert tree(host) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_puts_everything_back(host: Path, number: signal.Signals) -> None:
    before, handlers = tree(host), [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP)]
    with pytest.raises(KeyboardInterrupt), undo.transaction(print) as journal:
        change(journal, host)
        os.kill(os.getpid(), number)
    assert tree(host) == before
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP)] == handlers


def test_success_keeps_everything_and_leaves_no_journal(host: Path) -> None:
    with undo.transaction(print) as journal:
        change(journal, host)
    assert (host / "old").read_text() == "new\n"
    assert not Undo().pending and not paths.UNDO.exists()
    assert not undo.recover(print)


def test_a_killed_one_is_put_back_by_the_next_run(host: Path) -> None:
    before = tree(host)
    journal = Undo()
    journal.begin()
    change(journal, host)
    with (paths.UNDO / "journal").open("a") as stream:
        stream.write('{"kind": "file", "pa')  # killed in the middle of a line
    (host / ".old.abc123").write_text("killed in the middle of atomic.write()")
    said: list[str] = []
    assert undo.recover(said.append)
    assert tree(host) == before
    assert said == ["an installation before this one did not end: putting back what it changed"]


def test_what_cannot_be_put_back_is_told_and_tried_again(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(host)
    put_back = putback.put_back

    def fails_for_a_link(directory: Path, entry: dict[str, Any]) -> None:
        if entry.get("path") == str(host / "link"):
            raise OSError(28, "No space left on device", entry["path"])
        put_back(directory, entry)

    monkeypatch.setattr(putback, "put_back", fails_for_a_link)
    with pytest.raises(Error, match=r"^first; not everything could be put back: .*No space") as caught:
        with undo.transaction(print) as journal:
            change(journal, host)
            raise Error("first")
    assert "run 'llmsvc install' again" in (caught.value.hint or "")
    assert (host / "old").read_text() == "old\n"
    monkeypatch.setattr(putback, "put_back", put_back)
    # what was put back already is put back once more
    undo.recover(print)
    assert tree(host) == before


def test_a_directory_on_a_file_system_that_is_read_only_goes_at_the_next_try(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(host)
    remove = Path.rmdir

    def read_only(path: Path) -> None:
        if path == host / "a":
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        remove(path)

    monkeypatch.setattr(Path, "rmdir", read_only)
    with pytest.raises(Error, match=r"not everything could be put back: .*Read-only"):
        with undo.transaction(print) as journal:
            journal.make_directory(host / "a" / "b")
            raise Error("first")
    monkeypatch.setattr(Path, "rmdir", remove)
    undo.recover(print)
    assert tree(host) == before


def test_no_room_for_the_journal_leaves_nothing(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(host)

    def full(self: Undo, **entry: Any) -> None:
        raise OSError(28, "No space left on device", "journal")

    monkeypatch.setattr(Undo, "_note", full)
    with pytest.raises(OSError, match="No space"), undo.transaction(print):
        raise AssertionError("must not begin")
    assert tree(host) == before


def test_a_downloaded_model_that_is_whole_stays_for_the_next_run(host: Path) -> None:
    journal = Undo()
    journal.begin()
    journal.model(host, keep=True)
    for name in ("x.gguf", "x.gguf.sha256"):
        (host / name).write_text("x")
    (host / ".incoming").mkdir()
    journal.put_back(print)
    assert (host / "x.gguf").exists() and (host / "x.gguf.sha256").exists()
    assert not (host / ".incoming").exists()


def test_a_second_ctrl_c_does_not_reach_what_puts_back(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(host)
    sessions: list[int] = []

    def return_to(_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        # a terminal's would come to every process of our session's foreground
        sessions.append(int(process.run([sys.executable, "-c", "import os; print(os.getsid(0))"]).stdout))

    monkeypatch.setattr(services, "return_to", return_to)
    with pytest.raises(KeyboardInterrupt), undo.transaction(print) as journal:
        change(journal, host)
        os.kill(os.getpid(), signal.SIGINT)
    assert tree(host) == before
    assert sessions[0] != os.getsid(0)
    assert int(process.run([sys.executable, "-c", "import os; print(os.getsid(0))"]).stdout) == os.getsid(0)


@pytest.mark.parametrize("failed", [True, False])
def test_what_no_longer_runs_as_before_keeps_no_later_installation_from_mending_it(
    host: Path, monkeypatch: pytest.MonkeyPatch, failed: bool
) -> None:
    before = tree(host)

    def return_to(_: object) -> None:
        raise Error("auth-proxy.service does not start")

    monkeypatch.setattr(services, "return_to", return_to)
    monkeypatch.setattr(services, "failed", lambda: failed)
    with pytest.raises(Error, match="not everything could be put back"), undo.transaction(print) as journal:
        change(journal, host)
        raise Error("no")
    told: list[str] = []
    if failed:
        assert undo.recover(told.append)
        assert tree(host) == before
        assert told[-1] == "could not be put back: auth-proxy.service does not start"
    else:
        # systemd itself does not answer
        with pytest.raises(Error, match="not everything could be put back"):
            undo.recover(told.append)
        assert undo.Undo().pending


def test_a_file_comes_back_on_a_disk_that_is_full(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(host)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(Error, match=r"^no$"), undo.transaction(print) as journal:
        change(journal, host)
        monkeypatch.setattr(putback.shutil, "copy2", full)
        raise Error("no")
    assert tree(host) == before


def test_a_link_comes_back_whose_directory_went_with_it(host: Path) -> None:
    link = host / "sockets.target.wants" / "auth-proxy.socket"
    link.parent.mkdir()
    link.symlink_to("../auth-proxy.socket")
    before = tree(host)
    with pytest.raises(Error, match=r"^no$"), undo.transaction(print) as journal:
        journal.file(link)
        link.unlink()
        link.parent.rmdir()
        raise Error("no")
    assert tree(host) == before


def test_what_waits_for_a_block_is_raised_at_its_end() -> None:
    done = False
    with pytest.raises(KeyboardInterrupt), process.undisturbed():
        os.kill(os.getpid(), signal.SIGTERM)
        done = True
    assert done


def test_a_dump_is_put_back_once_and_goes(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    restored: list[Path] = []
    monkeypatch.setattr(putback.dump, "restore", restored.append)
    (host / "before.sql").write_text("x")
    entry = {"kind": "migration", "backup": str(host / "before.sql")}
    for _ in range(2):
        putback.put_back(host, entry)
    assert restored == [host / "before.sql"] and not restored[0].exists()
