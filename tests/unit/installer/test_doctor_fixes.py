"""What `llmsvc doctor` says of running services and of its fixes, on hosts that are made up."""

from __future__ import annotations

from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from installer import services
from installer.doctor import (
    firewall,
    machine,
    models,
    pepper,
    serving,
    units,
)
from llmsvc import paths
from llmsvc.accounts import keys, meta
from llmsvc.backup import archive
from llmsvc.errors import UnavailableError
from tests.unit.installer.made_up import WELL, MadeUp, names, settings


def test_who_starts_the_proxy_as_another_user_is_told_of_the_drop_in() -> None:
    mine = {"User": "nobody", "DropInPaths": "/etc/systemd/system/auth-proxy.service.d/mine.conf"}
    boot = dict.fromkeys(services.at_boot(proxy=True), WELL)
    (found,) = units.states(MadeUp(units=boot | {"auth-proxy.service": WELL | mine}))
    assert (found.name, found.command) == ("unit-user", None) and "mine.conf" in found.fix


def test_one_command_starts_all_that_is_stopped() -> None:
    stopped = WELL | {"ActiveState": "inactive", "UnitFileState": "disabled"}
    found = units.states(MadeUp(units=dict.fromkeys(services.at_boot(proxy=False), stopped)))
    names = "auth-proxy.socket auth-proxy.service llmsvc-models.path llmsvc-prune.timer"
    host = MadeUp(units=dict.fromkeys(services.at_boot(proxy=True), stopped))
    found = units.states(host)
    assert [finding.command for finding in found] == [
        f"sudo systemctl start {names}",
        f"sudo systemctl enable {names}",
    ]


SMOLLM2, GEMMA3 = "llama-server@smollm2.service", "llama-server@gemma3.service"
FAILED = WELL | {"ActiveState": "failed"}


@pytest.mark.parametrize(
    ("instances", "told", "found"),
    [
        ({SMOLLM2: WELL}, {}, []),
        ({SMOLLM2: WELL | {"ActiveState": "activating"}}, {}, []),
        ({}, {}, [("no-model", "error")]),
        ({}, {"unloaded": "smollm2"}, []),
        ({SMOLLM2: FAILED}, {}, [("model-failed", "error")]),
        ({SMOLLM2: WELL, GEMMA3: FAILED}, {}, [("model-failed", "warning")]),
        (
            {SMOLLM2: WELL | {"ActiveState": "activating", "SubState": "auto-restart"}},
            {},
            [("model-failed", "error")],
        ),
        ({SMOLLM2: {"LoadState": "masked", "ActiveState": "inactive"}}, {}, [("unit-masked", "error")]),
    ],
)
def test_a_model_that_does_not_run(
    monkeypatch: pytest.MonkeyPatch,
    instances: dict[str, dict[str, str]],
    told: dict[str, str],
    found: list[tuple[str, str]],
) -> None:
    monkeypatch.setattr(serving.store, "default_model", lambda: "smollm2")
    host = MadeUp(models=["gemma3", "smollm2"], units=instances, told_by_proxy=told)
    assert [(finding.name, finding.level) for finding in serving.models(host)] == found


def test_a_port_that_is_ours_and_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: Any, **__: Any) -> Any:
        raise UnavailableError("timed out")

    monkeypatch.setattr(serving.client, "get_json", silent)
    boot = dict.fromkeys(services.at_boot(proxy=True), WELL)
    listening = boot | {"auth-proxy.socket": WELL | {"Listen": "127.0.0.1:8001 (Stream)"}}
    (found,) = serving.answer(MadeUp(units=listening))
    assert found.name == "no-answer" and "firewall" in found.fix
    # told already by others
    assert names(serving.answer(MadeUp(units=boot))) == []
    assert names(serving.answer(MadeUp(units=listening | {"auth-proxy.service": FAILED}))) == []


UFW = "Status: active\nDefault: deny (incoming), allow (outgoing), disabled (routed)\n\nTo   Action   From\n"


@pytest.mark.parametrize(
    ("rules", "closed"),
    [
        ("22/tcp ALLOW IN Anywhere", True),
        ("OpenSSH ALLOW IN Anywhere", True),
        ("8001/udp ALLOW IN Anywhere", True),
        ("8001/tcp DENY IN Anywhere", True),
        ("8001/tcp ALLOW IN Anywhere", False),
        ("8001 LIMIT IN 10.0.0.0/8", False),
        ("8000:8010/tcp ALLOW IN Anywhere", False),
        ("80,8001/tcp ALLOW IN Anywhere", False),
        ("Anywhere ALLOW IN 192.168.0.0/16", False),
        ("MyService ALLOW IN Anywhere", False),
    ],
)
def test_ufw(monkeypatch: pytest.MonkeyPatch, rules: str, closed: bool) -> None:
    monkeypatch.setattr(firewall.shutil, "which", lambda name: name if name == "ufw" else None)
    monkeypatch.setattr(
        firewall, "run", lambda argv, **_: CompletedProcess(argv, 0, f"{UFW}22/tcp ALLOW IN x\n{rules}\n", "")
    )
    outside = MadeUp(config=settings(LLAMA_PROXY_HOST="0.0.0.0"))
    assert [finding.command for finding in firewall.check(outside)] == (
        ["sudo ufw allow 8001/tcp"] if closed else []
    )
    # whoever is on this machine passes no firewall
    assert names(firewall.check(MadeUp())) == []


@pytest.mark.parametrize(("answer", "found"), [("no", ["firewall"]), ("yes", [])])
def test_firewalld(monkeypatch: pytest.MonkeyPatch, answer: str, found: list[str]) -> None:
    prints = {"--state": "running\n", "--query-port=8001/tcp": f"{answer}\n"}
    monkeypatch.setattr(firewall.shutil, "which", lambda name: name if name == "firewall-cmd" else None)
    monkeypatch.setattr(firewall, "run", lambda argv, **_: CompletedProcess(argv, 0, prints[argv[1]], ""))
    assert names(firewall.check(MadeUp(config=settings(LLAMA_PROXY_HOST="::")))) == found


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        (
            'audit: type=1400 apparmor="DENIED" operation="open" profile="llmsvc-extra" '
            'name="/var/lib/llmsvc/models/x.gguf"',
            "allow it in the profile llmsvc-extra",
        ),
        (
            'avc:  denied  { execute } for  comm="llmsvc" path="/opt/llmsvc/venv/bin/python"',
            "sudo restorecon",
        ),
        ('apparmor="DENIED" profile="snap.firefox"', None),
    ],
)
def test_what_the_kernel_denied(
    told: dict[str, str], monkeypatch: pytest.MonkeyPatch, line: str, fix: str | None
) -> None:
    monkeypatch.setattr(machine, "_in_container", lambda: False)
    told["journalctl -q"] = f"usb 1-1: new device\n{line}\n"
    found = [*machine.denials(MadeUp())]
    assert [finding.fix.startswith(fix) for finding in found if fix] == ([True] if fix else [])


@pytest.mark.parametrize(
    ("shown", "fix"),
    [
        (
            "# /etc/systemd/journald.conf\n[Journal]\n#Storage=auto\n\n"
            "# /etc/systemd/journald.conf.d/a.conf\n[Journal]\nStorage=none\n",
            "sudo sed -i '/^ *Storage *=/d' /etc/systemd/journald.conf.d/a.conf && ",
        ),
        (
            "# /usr/lib/systemd/journald.conf.d/a.conf\n[Journal]\nStorage=volatile\n",
            "set another Storage= in ",
        ),
    ],
)
def test_a_setting_of_the_journal_goes_where_it_stands(told: dict[str, str], shown: str, fix: str) -> None:
    told["systemd-analyze cat-config"] = shown
    (found,) = machine.journal(MadeUp())
    assert found.fix.startswith(fix)


def test_a_model_on_a_disk_that_is_not_mounted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(models, "FSTAB", tmp_path / "fstab")
    (tmp_path / "fstab").write_text(
        f"# {tmp_path}/old\nUUID=1 {tmp_path}/data ext4 defaults 0 2\n\n/x none swap sw\n"
    )
    assert models._unmounted(tmp_path / "data/models/x.gguf") == tmp_path / "data"
    assert models._unmounted(tmp_path / "old/x.gguf") is None


def test_how_a_model_file_comes_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert models._fetch("smollm2", file) == "sudo llmsvc model add smollm2 --name smollm2"
    file.touch()
    assert models._fetch("smollm2", file, [file]).startswith(f"sudo rm {file} && sudo llmsvc model add")
    other = tmp_path / "mine.gguf"
    records = models.records
    monkeypatch.setattr(records, "read", lambda _: records.Record("0" * 64, "hf:owner/repo@v1/mine.gguf"))
    assert models._fetch("mine", other) == "sudo llmsvc model add owner/repo@v1/mine.gguf --name mine"
    monkeypatch.setattr(records, "read", lambda _: records.Record("0" * 64, "file:/data/mine.gguf"))
    assert "/data/mine.gguf" in models._fetch("mine", other)


def test_a_pepper_comes_back_from_where_it_is_right(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    right, wrong = keys.generate_pepper(), keys.generate_pepper()
    fingerprint = meta.fingerprint(bytes.fromhex(right))
    monkeypatch.setattr(pepper, "LENT", tmp_path / "lent")
    monkeypatch.setattr(paths, "SAVED", tmp_path)
    assert "BACKUP" in pepper.back(fingerprint)
    pepper.LENT.write_text(wrong)
    assert "BACKUP" in pepper.back(fingerprint)
    assert f"sudo install -m 600 {pepper.LENT}" in pepper.back(None)
    about = archive.About("", "", "", "", [], fingerprint, None, [])
    with (tmp_path / "of-tuesday.tar").open("wb") as stream:
        archive.write(stream, about, {archive.PEPPER: pepper.LENT})
    (tmp_path / "broken.tar").write_bytes(b"x" * 2000)
    assert f"tar -xf {tmp_path}/of-tuesday.tar" in pepper.back(fingerprint)
    pepper.LENT.write_text(right)
    assert f"sudo install -m 600 {pepper.LENT}" in pepper.back(fingerprint)
