"""units/llmsvc-generator: exclusion in one direction, who wins at boot, address and stop time-outs."""

import os
import subprocess
from pathlib import Path

import pytest

from llmsvc import paths


class Host:
    """An /etc/llmsvc and /run/llama-server of the test's own."""

    def __init__(self, root: Path) -> None:
        self.etc, self.run, self.out, self.units = root / "etc", root / "run", root / "out", root / "units"
        for directory in (self.etc / "models.d", self.run, self.out, self.units / "multi-user.target.wants"):
            directory.mkdir(parents=True)

    def model(self, name: str, text: str = "MODEL=m.gguf\n") -> None:
        (self.etc / "models.d" / f"{name}.env").write_text(text)

    def default(self, name: str) -> None:
        (self.etc / "default-model").symlink_to(f"models.d/{name}.env")

    def enable(self, name: str) -> None:
        link = self.units / f"multi-user.target.wants/llama-server@{name}.service"
        link.symlink_to("/etc/systemd/system/llama-server@.service")

    def generate(self) -> None:
        subprocess.run(
            ["/bin/sh", paths.data("units", "llmsvc-generator"), self.out],
            check=True,
            env={
                "LLMSVC_ETC": str(self.etc),
                "LLMSVC_RUN": str(self.run),
                "LLMSVC_ENABLED": str(self.units),
                "PATH": os.environ["PATH"],
            },
        )

    def exclusion(self) -> dict[str, tuple[list[str], list[str]]]:
        """By model: what it conflicts with, and what it comes after."""
        found = {}
        for file in self.out.glob("llama-server@?*.service.d/50-llmsvc-exclusive.conf"):
            values: dict[str, list[str]] = {"Conflicts": [], "After": []}
            for line in file.read_text().splitlines():
                key, _, value = line.partition("=")
                if key in values:
                    values[key] = [name(unit) for unit in value.split()]
            found[name(file.parent.name.removesuffix(".d"))] = (values["Conflicts"], values["After"])
        return found

    def setting(self, unit: str, drop_in: str) -> list[str]:
        return (self.out / f"{unit}.d" / drop_in).read_text().splitlines()[1:]


def name(unit: str) -> str:
    return unit.removeprefix("llama-server@").removesuffix(".service")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_each_model_names_exactly_those_before_it(host: Host) -> None:
    for model in ("beta", "alpha", "gamma"):
        host.model(model)
    host.default("gamma")
    host.generate()
    assert host.exclusion() == {
        "gamma": ([], []),
        "alpha": (["gamma"], ["gamma"]),
        "beta": (["gamma", "alpha"], ["gamma", "alpha"]),
    }


def test_at_boot_the_default_declares_the_conflict_with_all_that_is_enabled(host: Host) -> None:
    for model in ("alpha", "beta", "gamma", "delta"):
        host.model(model)
    host.default("beta")
    for model in ("gamma", "beta", "gone"):
        host.enable(model)
    host.generate()
    assert host.exclusion()["beta"] == (["gamma"], ["gamma"])


def test_the_running_model_names_no_other(host: Host) -> None:
    for model in ("alpha", "beta", "gamma"):
        host.model(model)
    host.default("alpha")
    (host.run / "gamma").mkdir()
    host.generate()
    assert host.exclusion()["gamma"] == ([], [])


def test_every_pair_is_exclusive_in_one_direction_only(host: Host) -> None:
    models = [f"m{i}" for i in range(12)]
    for model in models:
        host.model(model)
    host.default("m5")
    host.enable("m7")
    (host.run / "m9").mkdir()
    host.generate()
    exclusion = host.exclusion()
    for a in models:
        for b in models:
            if a != b:
                assert (b in exclusion[a][0]) != (a in exclusion[b][0])
        assert exclusion[a][0] == exclusion[a][1]


def test_the_default_model_starts_at_boot(host: Host) -> None:
    host.model("alpha")
    host.default("alpha")
    host.generate()
    link = host.out / "multi-user.target.wants/llama-server@alpha.service"
    assert os.readlink(link) == "/etc/systemd/system/llama-server@.service"


def test_a_default_that_is_gone_starts_nothing(host: Host) -> None:
    host.model("alpha")
    host.default("gone")
    host.generate()
    assert not (host.out / "multi-user.target.wants").exists()


def test_an_instance_that_runs_without_its_file_stays_exclusive(host: Host) -> None:
    host.model("alpha")
    (host.run / "orphan").mkdir()
    host.generate()
    assert host.exclusion() == {"orphan": ([], []), "alpha": (["orphan"], ["orphan"])}


@pytest.mark.parametrize("bad", ["Upper", "-x", ".x", "a b", "a;b", "current", "ä"])
def test_a_file_that_cannot_be_an_instance_is_skipped(host: Host, bad: str) -> None:
    host.model("good")
    host.model(bad)
    host.generate()
    assert set(host.exclusion()) == {"good"}


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", "127.0.0.1:8001"),
        ("LLAMA_PROXY_HOST=0.0.0.0\nLLAMA_PROXY_PORT=80\n", "0.0.0.0:80"),
        ('LLAMA_PROXY_HOST="::1"\n', "[::1]:8001"),
        ("LLAMA_PROXY_HOST=[::]\n", "[::]:8001"),
        ("  LLAMA_PROXY_PORT = 1\nLLAMA_PROXY_PORT_X=2\n", "127.0.0.1:1"),
        ("#LLAMA_PROXY_PORT=1\nLLAMA_PROXY_PORT=2\nLLAMA_PROXY_PORT='3'  \n", "127.0.0.1:3"),
        ("LLAMA_PROXY_PORT=80\\nExecStart=/bin/evil\n", "127.0.0.1:8001"),
        ("LLAMA_PROXY_HOST=$(reboot)\nLLAMA_PROXY_PORT=8001", "127.0.0.1:8001"),
        *(
            (f"LLAMA_PROXY_PORT={port}\n", "127.0.0.1:8001")
            for port in ("0", "08001", "65536", "99999", "123456", "-1")
        ),
        ("LLAMA_PROXY_PORT=65535\n", "127.0.0.1:65535"),
        *(
            (f"LLAMA_PROXY_HOST={host}\n", "127.0.0.1:8001")
            for host in (
                "1.2.3",
                "1.2.3.4.",
                "1.2.3.256",
                "01.2.3.4",
                "1..2.3",
                ":::",
                "1::2::3",
                "12345::",
                "1:2",
                "g::",
            )
        ),
        *(
            (f"LLAMA_PROXY_HOST={host}\n", f"[{host}]:8001")
            for host in ("::", "fe80::1", "1:2:3:4:5:6:7:8", "2001:db8::ffff")
        ),
        ("LLAMA_PROXY_HOST=255.0.10.1\n", "255.0.10.1:8001"),
    ],
)
def test_the_socket_listens_where_config_env_says(host: Host, text: str, address: str) -> None:
    (host.etc / "config.env").write_text(text)
    host.generate()
    lines = host.setting("auth-proxy.socket", "50-llmsvc-listen.conf")
    assert lines == ["[Socket]", "ListenStream=", f"ListenStream={address}"]


@pytest.mark.parametrize(
    ("text", "more"),
    [
        ("LLAMA_PROXY_LISTEN=[::1]:8001 /run/a.sock\n", ["[::1]:8001", "/run/a.sock", None]),
        (
            "LLAMA_PROXY_LISTEN='127.0.0.1:8001 192.0.2.1:80 localhost:9'\n",
            ["192.0.2.1:80", "127.0.0.1:9", None],
        ),
        ("LLAMA_PROXY_LISTEN=/run/a.sock\n", ["/run/a.sock"]),
        ("LLAMA_PROXY_LISTEN=::1:8001 8001 1.2.3:1 [::1]:0 example.org:80 /a%b * /a;b\n", []),
        ("LLAMA_PROXY_LISTEN=\n", []),
    ],
)
def test_more_places_to_listen_on(host: Host, text: str, more: list[str | None]) -> None:
    (host.etc / "config.env").write_text(text)
    host.generate()
    lines = host.setting("auth-proxy.socket", "50-llmsvc-listen.conf")
    # where IPv4 has sockets of its own, [::] must not take it too
    wanted = [f"ListenStream={place}" if place else "BindIPv6Only=ipv6-only" for place in more]
    assert lines == ["[Socket]", "ListenStream=", "ListenStream=127.0.0.1:8001", *wanted]


def test_what_is_no_socket_is_not_listened_on_for_systemd_would_remove_it(host: Host, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("precious")
    (host.etc / "config.env").write_text(f"LLAMA_PROXY_LISTEN={tmp_path}/precious.txt {tmp_path}/s.sock\n")
    host.generate()
    lines = host.setting("auth-proxy.socket", "50-llmsvc-listen.conf")
    assert lines[2:] == ["ListenStream=127.0.0.1:8001", f"ListenStream={tmp_path}/s.sock"]


def test_the_socket_of_single_key_mode_starts_the_default_model(host: Host) -> None:
    (host.etc / "config.env").write_text("LLAMA_SERVER_HOST=::\nLLAMA_SERVER_PORT=80\n")
    host.generate()
    lines = ["[Socket]", "ListenStream=", "ListenStream=[::]:80"]
    assert host.setting("llama-server.socket", "50-llmsvc-listen.conf") == lines
    host.model("alpha")
    host.default("alpha")
    host.generate()
    lines.append("Service=llama-server@alpha.service")
    assert host.setting("llama-server.socket", "50-llmsvc-listen.conf") == lines


def test_stop_time_outs_follow_the_drain_time(host: Host) -> None:
    (host.etc / "config.env").write_text("LLAMA_PROXY_DRAIN_SECONDS=100\n")
    host.generate()
    for unit in ("auth-proxy.service", "llama-server@.service"):
        assert host.setting(unit, "50-llmsvc-stop.conf") == ["[Service]", "TimeoutStopSec=110"]


@pytest.mark.parametrize("bad", ["08", "soon", "1000", "-1", "+1"])
def test_a_bad_drain_time_keeps_the_default(host: Host, bad: str) -> None:
    (host.etc / "config.env").write_text(f"LLAMA_PROXY_DRAIN_SECONDS={bad}\n")
    host.model("alpha")
    host.generate()
    assert host.setting("auth-proxy.service", "50-llmsvc-stop.conf") == ["[Service]", "TimeoutStopSec=40"]
    assert set(host.exclusion()) == {"alpha"}


def test_a_model_waits_for_the_file_system_that_holds_it(host: Host) -> None:
    (host.etc / "config.env").write_text("LLAMA_MODELS_DIR=/data/models\n")
    host.model("absolute", "# x\nMODEL=/mnt/big/a.gguf\n")
    host.model("relative", "MODEL='b.gguf'\n")
    host.generate()
    for model, path in (("absolute", "/mnt/big/a.gguf"), ("relative", "/data/models/b.gguf")):
        lines = host.setting(f"llama-server@{model}.service", "50-llmsvc-exclusive.conf")
        assert f"RequiresMountsFor={path}" in lines


def test_no_file_at_all_is_no_error(host: Host) -> None:
    host.generate()
    assert host.exclusion() == {}


def test_a_model_in_a_home_directory_is_bound_into_the_sandbox(host: Host) -> None:
    host.model("home", "MODEL=/home/bob/m.gguf\n")
    host.model("parts", 'MODEL="/root/big-00001-of-00011.gguf"\n')
    host.model("seen", "MODEL=/srv/m.gguf\n")
    host.model("odd", "MODEL=/home/bob/a:b.gguf\n")
    host.generate()

    def bound(model: str) -> list[str]:
        lines = host.setting(f"llama-server@{model}.service", "50-llmsvc-exclusive.conf")
        return [line for line in lines if line.startswith(("Bind", "Protect"))]

    assert bound("home") == ["ProtectHome=tmpfs", "BindReadOnlyPaths=-/home/bob/m.gguf"]
    expected = [f"BindReadOnlyPaths=-/root/big-{part:05d}-of-00011.gguf" for part in range(1, 12)]
    assert bound("parts") == ["ProtectHome=tmpfs", *expected]
    assert bound("seen") == bound("odd") == []


def test_certificate_and_key_become_credentials_where_both_are_there(host: Host) -> None:
    cert, key = host.etc / "fullchain.pem", host.etc / "privkey.pem"
    drop_in = host.out / "auth-proxy.service.d/50-llmsvc-tls.conf"
    cert.touch()
    settings = host.etc / "config.env"
    settings.write_text(f"LLAMA_PROXY_TLS_CERT={cert}\nLLAMA_PROXY_TLS_KEY='{key}'\n")
    host.generate()
    assert not drop_in.exists()  # the service says which file is missing
    key.touch()
    host.generate()
    assert host.setting("auth-proxy.service", "50-llmsvc-tls.conf") == [
        "[Service]",
        f"LoadCredential=tls-cert:{cert}",
        f"LoadCredential=tls-key:{key}",
    ]
    drop_in.unlink()
    for bad in (f"{cert}:x", f"{cert} x", "fullchain.pem", f"{cert}%i"):
        settings.write_text(f"LLAMA_PROXY_TLS_CERT={bad}\nLLAMA_PROXY_TLS_KEY={key}\n")
        host.generate()
        assert not drop_in.exists()
