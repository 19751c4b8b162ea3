"""Checks of `llmsvc doctor` that no test machine can be brought to fail, on hosts that are made up."""

from __future__ import annotations

import contextlib
import dataclasses
import socketserver
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from installer import services
from installer.doctor import (
    code,
    credentials,
    database,
    examine,
    exclusion,
    gpu,
    machine,
    models,
    network,
    tls,
    units,
)
from installer.doctor.finding import Finding
from installer.doctor.host import Host
from installer.manifest import Manifest
from llmsvc import config, paths
from llmsvc.errors import UnavailableError
from tests.unit.installer.made_up import WELL, MadeUp, names, settings


@pytest.mark.parametrize(
    ("state", "name"),
    [
        ({"LoadState": "masked"}, "unit-masked"),
        ({"LoadState": "bad-setting"}, "unit-broken"),
        ({"ActiveState": "failed"}, "unit-failed"),
        ({"ActiveState": "activating", "SubState": "auto-restart"}, "unit-failed"),
        ({"LoadState": "not-found"}, "unit-broken"),
        ({"ActiveState": "inactive"}, "unit-stopped"),
        ({"UnitFileState": "disabled"}, "unit-disabled"),
        ({"NeedDaemonReload": "yes"}, "reload-pending"),
        ({}, None),
    ],
)
def test_the_states_of_units(state: dict[str, str], name: str | None) -> None:
    boot = services.at_boot(proxy=True)
    for unit in boot:
        host = MadeUp(
            units={other: WELL | (state if other == unit else {}) for other in services.at_boot(proxy=True)}
        )
        assert names(units.states(host)) == ([name] if name else [])


def test_in_single_key_mode_other_units_run_and_there_is_no_database() -> None:
    single = settings(LLAMA_PROXY_ENABLED="0")
    boot = services.at_boot(proxy=False)
    host = MadeUp(config=single, units=dict.fromkeys(boot, WELL))
    assert names(units.states(host)) == names(database.check(host)) == []
    host = MadeUp(config=single, units={name: WELL | {"ActiveState": "failed"} for name in boot})
    found = next(iter(units.states(host)))
    assert (found.name, found.level) == ("unit-failed", "error")


@pytest.mark.parametrize(("mode", "found"), [("verify-full", []), ("require", ["database-tls"])])
def test_a_database_elsewhere_must_show_who_it_is(
    monkeypatch: pytest.MonkeyPatch, mode: str, found: list[str]
) -> None:
    def refuse(_: Any) -> Any:
        raise UnavailableError("no answer")

    monkeypatch.setattr(database, "connect", refuse)
    elsewhere = settings(POSTGRES_AUTH_HOST="db.example.org", POSTGRES_AUTH_SSLMODE=mode)
    assert names(database.check(MadeUp(config=elsewhere))) == [*found, "database"]


@pytest.mark.parametrize(
    ("more", "listening", "found"),
    [
        ("", "127.0.0.1:8001 (Stream)", []),
        (
            "[::1]:8001 /run/llm.sock",
            "127.0.0.1:8001 (Stream)\n[::1]:8001 (Stream)\n/run/llm.sock (Stream)",
            [],
        ),
        ("[::1]:8001", "127.0.0.1:8001 (Stream)", ["listen"]),
        ("0.0.0.0:80", "127.0.0.1:8001 (Stream)\n0.0.0.0:80 (Stream)", ["no-tls"]),
    ],
)
def test_all_places_where_clients_connect(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, more: str, listening: str, found: list[str]
) -> None:
    monkeypatch.setattr(network, "OUTPUT", tmp_path)
    drop_in = tmp_path / "auth-proxy.socket.d/50-llmsvc-listen.conf"
    drop_in.parent.mkdir()
    drop_in.touch()
    socket = {"auth-proxy.socket": WELL | {"Listen": listening}}
    assert names(network.check(MadeUp(config=settings(LLAMA_PROXY_LISTEN=more), units=socket))) == found


def test_without_systemd_that_is_the_one_finding() -> None:
    host = MadeUp(systemd=False)
    assert names(units.states(host)) == ["systemd"]
    for check in (exclusion.check, machine.journal, machine.polkit, machine.systemd):
        assert names(check(host)) == []


def test_two_models_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(paths, "GENERATORS", tmp_path)
    (tmp_path / "llmsvc-generator").write_text("")
    (tmp_path / "llmsvc-generator").chmod(0o755)
    assert "two-models" in names(exclusion.check(MadeUp(running=["a", "b"])))


def test_a_unit_of_another_version_or_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(paths, "UNITS", tmp_path)
    monkeypatch.setattr(units.facts, "gather", lambda: None)
    monkeypatch.setattr(units.render, "units", lambda facts, settings: {"auth-proxy.service": "new\n"})
    (tmp_path / "auth-proxy.service").write_text("old\n")
    manifest = Manifest(tmp_path / "manifest.json")
    manifest.record(tmp_path / "auth-proxy.service", "sum of the old one")
    assert names(units.current(MadeUp(manifest=manifest))) == ["unit-outdated"]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ("Storage=none", "journal"),
        ("Storage=volatile", "journal-volatile"),
        ("Storage=persistent\nMaxLevelStore=err", "journal-level"),
        ("Storage=persistent\nSystemMaxUse=20M", "journal-small"),
        ("Storage=persistent\nSystemMaxUse=1G\nMaxLevelStore=debug", None),
        ("#Storage=none\nStorage=none\nStorage=persistent", None),
    ],
)
def test_the_journal(told: dict[str, str], settings: str, name: str | None) -> None:
    told["systemd-analyze cat-config"] = f"# /etc/systemd/journald.conf\n[Journal]\n{settings}\n"
    assert names(machine.journal(MadeUp())) == ([name] if name else [])


def test_polkit(told: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told["systemctl show"] = "not-found\n"
    assert names(machine.polkit(MadeUp())) == ["polkit"]
    told["systemctl show"] = "loaded\n"
    monkeypatch.setattr(paths, "POLKIT_RULES", tmp_path / "none")
    assert names(machine.polkit(MadeUp())) == ["polkit-rules"]
    monkeypatch.setattr(paths, "POLKIT_RULES", tmp_path)
    assert names(machine.polkit(MadeUp())) == ["polkit-rule"]
    (tmp_path / "50-llmsvc.rules").write_text("")
    assert names(machine.polkit(MadeUp())) == []


def test_an_old_systemd(told: dict[str, str]) -> None:
    told["systemctl --version"] = "systemd 247 (247.3)"
    assert names(machine.systemd(MadeUp())) == ["systemd-old"]
    told["systemctl --version"] = "systemd 249 (249.11)"
    assert names(machine.systemd(MadeUp())) == []


def test_a_clock_that_nobody_keeps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MANIFEST", "PROXY_STATE", "GOOD_MODELS"):
        monkeypatch.setattr(paths, name, tmp_path / name)
    monkeypatch.setattr(machine, "_in_container", lambda: False)
    for unsynchronized in (True, False):
        monkeypatch.setattr(machine, "_unsynchronized", lambda: unsynchronized)  # noqa: B023
        assert names(machine.clock(MadeUp())) == ["clock-sync"] * unsynchronized


def test_users_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "PROXY_USER", "no-such-user")
    monkeypatch.setattr(paths, "BACKEND_USER", "root")
    monkeypatch.setattr(paths, "ADMIN_GROUP", "no-such-group")
    assert names(credentials.users(MadeUp())) == ["user-missing", "group-missing"]


# ---------------------------------------------------------------------------------------------------------
# The environment


@pytest.fixture
def venv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    release = tmp_path / "release"
    (release / "bin").mkdir(parents=True)
    (release / "lib/python3.11/site-packages/llama_cpp/lib").mkdir(parents=True)
    (release / "bin/llmsvc").write_text("")
    monkeypatch.setattr(paths, "VENV", tmp_path / "venv")
    (tmp_path / "venv").symlink_to(release)
    monkeypatch.setattr(paths, "PYTHON", release / "bin/python")
    monkeypatch.setattr(code, "HIDDEN", ())
    monkeypatch.setattr(code, "_writable", lambda *_: ())
    return release


def test_no_environment(venv: Path) -> None:
    assert names(code.check(MadeUp())) == ["code-missing"]


@pytest.mark.parametrize(
    ("script", "name"),
    [
        (
            "#!/bin/sh\necho \"ModuleNotFoundError: No module named 'llmsvc'\" >&2; exit 1\n",
            "interpreter-wrong",
        ),
        ("#!/bin/sh\n", None),
    ],
)
def test_another_interpreter_than_the_packages_are_for(venv: Path, script: str, name: str | None) -> None:
    (venv / "bin/python").write_text(script)
    (venv / "bin/python").chmod(0o755)
    found = list(code.check(MadeUp()))
    assert names(found) == ([name] if name else [])
    if found:
        assert "No module named" in found[0].what and "python3.11" in found[0].why


def test_the_distribution_has_another_python_now(venv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interpreters = {name: venv / "usr" / name for name in ("python3.11", "python3.13")}
    (venv / "usr").mkdir()
    for file in interpreters.values():
        file.write_text("#!/bin/sh\n")
        file.chmod(0o755)
    (venv / "bin/python").symlink_to(interpreters["python3.11"])
    python = venv / "usr/python3"
    monkeypatch.setattr(paths, "PYTHON", python)
    for current, said in (("python3.11", []), ("python3.13", ["interpreter-old"]), ("python3.14", [])):
        python.unlink(missing_ok=True)
        python.symlink_to(current)
        assert names(code.check(MadeUp())) == said


# ---------------------------------------------------------------------------------------------------------
# TLS


def certificate(folder: Path, days: int) -> tuple[Path, Path]:
    cert, key = folder / f"cert{days}", folder / f"key{days}"
    # one that has expired cannot be made this way
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    made += ["-subj", "/CN=x", "-days", str(days), "-out", str(cert), "-keyout", str(key)]
    subprocess.run(made, check=True, capture_output=True)
    return cert, key


def test_certificate_and_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = certificate(tmp_path, 400)
    soon, its_key = certificate(tmp_path, 5)

    def found(cert: Path | None, key: Path | None) -> list[str]:
        settings = dataclasses.replace(
            config.parse({}, Path("x")), llama_proxy_tls_cert=cert, llama_proxy_tls_key=key
        )
        return names(tls.check(MadeUp(config=settings)))

    assert found(None, None) == found(cert, key) == []
    assert found(cert, None) == found(cert, tmp_path / "none") == found(cert, its_key) == ["tls"]
    assert found(soon, its_key) == ["tls-expiry"]
    monkeypatch.setattr(tls, "_lasts", lambda cert, seconds: False)
    assert found(cert, key) == ["tls-expired"]


# ---------------------------------------------------------------------------------------------------------
# The GPU


@dataclasses.dataclass
class Gpu:
    """A machine with an engine for CUDA, its nodes and the unit's rules; a test takes something away."""

    dev: Path
    unit: Path
    library: Path
    models: Path

    def check(self, running: bool = False) -> list[str]:
        return names(gpu.check(MadeUp(models=["m"], running=["m"] if running else [])))


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, venv: Path) -> Gpu:
    made = Gpu(
        tmp_path / "dev",
        tmp_path / "llama-server@.service",
        venv / "lib/python3.11/site-packages/llama_cpp/lib/libggml-cuda.so",
        tmp_path / "models.d",
    )
    for folder in (made.dev, made.models):
        folder.mkdir()
    monkeypatch.setattr(gpu, "DEV", made.dev)
    monkeypatch.setattr(paths, "UNITS", tmp_path)
    monkeypatch.setattr(paths, "DROP_INS", tmp_path / "drop-ins")
    monkeypatch.setattr(paths, "MODELS_D", made.models)
    monkeypatch.setattr(paths, "RUN_INSTANCES", tmp_path)
    monkeypatch.setattr(paths, "CONFIG_ENV", tmp_path / "config.env")
    (made.models / "m.env").write_text("MODEL=/m.gguf\nREQUIRE_GPU=1\n")
    made.unit.write_text("[Service]\nDeviceAllow=char-nvidia rw\nDeviceAllow=char-nvidia-uvm rw\n")
    made.library.write_text("")
    (made.dev / "nvidiactl").touch()
    (made.dev / "nvidia-uvm").touch()
    return made


def test_a_gpu_that_is_in_order(cuda: Gpu) -> None:
    assert cuda.check() == []


def test_a_gpu_whose_nodes_are_gone(cuda: Gpu) -> None:
    (cuda.dev / "nvidiactl").unlink()
    assert cuda.check() == ["gpu-gone"]
    cuda.library.unlink()  # the unit was made for it, and the engine was replaced by one for the CPU
    assert cuda.check() == ["gpu-gone"]


def test_cuda_without_its_second_node(cuda: Gpu) -> None:
    (cuda.dev / "nvidia-uvm").unlink()
    assert cuda.check() == ["gpu-uvm"]


def test_a_unit_that_lets_no_gpu_through(cuda: Gpu) -> None:
    cuda.unit.write_text("[Service]\nPrivateDevices=yes\n")
    assert cuda.check() == ["gpu-sandbox"]


def test_an_engine_for_the_cpu_and_a_model_that_requires_a_gpu(cuda: Gpu) -> None:
    cuda.library.unlink()
    cuda.unit.write_text("")
    assert cuda.check() == ["gpu-engine"]


@pytest.mark.parametrize(("layers", "found"), [(0, ["gpu-unused"]), (31, [])])
def test_a_model_that_runs_beside_the_gpu(cuda: Gpu, layers: int, found: list[str]) -> None:
    with backend(paths.instance_socket("m"), f'{{"device": "cpu", "n_gpu_layers": {layers}}}'):
        assert cuda.check(running=True) == found


@contextlib.contextmanager
def backend(place: Path, health: str) -> Any:
    class Answer(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(health)}\r\n\r\n{health}".encode())

    place.parent.mkdir(exist_ok=True)
    with socketserver.UnixStreamServer(str(place), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


# ---------------------------------------------------------------------------------------------------------
# What cannot be checked, or is not wrong


def test_no_models_and_no_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(paths, "DEFAULT_MODEL", tmp_path / "default-model")
    assert names(models.default(MadeUp())) == ["no-models"]
    assert names(models.default(MadeUp(models=["m"]))) == ["no-default"]


def test_a_database_that_does_not_answer_is_told_in_its_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(_: Any) -> Any:
        raise UnavailableError("PostgreSQL does not answer", hint="start it")

    monkeypatch.setattr(database, "connect", refuse)
    monkeypatch.setattr(database.provision, "database_exists", refuse)
    (tmp_path / ".s.PGSQL.5433").touch()
    settings = dataclasses.replace(config.parse({}, tmp_path), postgres_auth_host=str(tmp_path))
    monkeypatch.setattr(database.clusters, "known", list)
    (found,) = database.check(MadeUp(config=settings))
    assert (found.name, found.what, found.fix) == ("database", "PostgreSQL does not answer", "start it")
    down = database.clusters.Cluster("15", "main", settings.postgres_auth_port, "down")
    monkeypatch.setattr(database.clusters, "known", lambda: [down])
    (found,) = database.check(MadeUp(config=settings))
    assert found.command == "sudo systemctl restart postgresql@15-main"
    monkeypatch.setattr(database.provision, "database_exists", lambda other: other.postgres_auth_port == 5433)
    (found,) = database.check(MadeUp(config=settings))
    assert (found.name, found.command) == ("database-cluster", "sudo llmsvc install")


def test_wrong_settings_do_not_keep_the_right_ones_from_counting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(paths, "CONFIG_ENV", tmp_path / "config.env")
    paths.CONFIG_ENV.write_text("NONSENSE=1\nLLAMA_PROXY_RATE_LIMIT=many\nLLAMA_PROXY_PORT=8009\n")
    host = Host()
    assert [problem.line for problem in host.config_problems] == [2]
    assert (host.config.llama_proxy_port, host.config.llama_proxy_rate_limit) == (8009, 60)
    paths.CONFIG_ENV.write_text("no setting\n")
    assert Host().config.llama_proxy_port == 8001


def test_a_check_that_fails_is_a_finding_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(host: Host) -> Any:
        yield Finding("first", "warning", "a", "b", "c")
        raise UnavailableError("ss is not installed", hint="install it")

    monkeypatch.setattr(machine, "clock", failing)
    found = examine._run("machine.clock", MadeUp())
    assert names(found) == ["first", "unknown"]
    assert "ss is not installed" in found[1].what and found[1].fix == "install it"
    assert names(examine._run("no_such_module.check", MadeUp())) == ["unknown"]


def test_every_check_is_there() -> None:
    import importlib

    for name in examine.CHECKS:
        module, _, function = name.partition(".")
        assert callable(getattr(importlib.import_module(f"installer.doctor.{module}"), function))
