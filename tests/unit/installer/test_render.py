"""The rendered units: right for each systemd and GPU, accepted by systemd, and as closed as promised."""

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from installer import render
from installer.facts import Facts
from installer.services import PRUNE, WATCH
from llmsvc import config, config_settings, env, paths

SERVICES = ("llama-server@.service", "auth-proxy.service", "llmsvc-alert@.service", "llmsvc-prune.service")
HELPERS = ("llama-server-rollback@.service", "llmsvc-retry.service", "llmsvc-schedule@.service")
FIXED = ("auth-proxy.socket", "llmsvc-backend.slice", *WATCH, PRUNE)


DEFAULTS = config.parse({}, Path("config.env"))
EXTERNAL = dataclasses.replace(DEFAULTS, postgres_auth_host="db.example.org")


def units(systemd: int = 252, gpu: str = "none", settings: config.Config = DEFAULTS) -> dict[str, str]:
    return render.units(Facts(systemd=systemd, gpu=gpu, release=""), settings)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """All units as systemd would find them, the command replaced by one that exists."""
    for name, text in units().items():
        (tmp_path / name).write_text(text.replace(f"{paths.VENV}/bin/llmsvc", "/bin/true"))
    for name in FIXED:
        shutil.copy(paths.data("units", name), tmp_path)
    return tmp_path


def test_systemd_accepts_every_unit_without_a_warning(directory: Path) -> None:
    for name in (*SERVICES, *HELPERS):
        if "@" in name:
            (directory / name.replace("@", "@x")).symlink_to(directory / name)
    names = [name.replace("@", "@x") for name in (*SERVICES, *HELPERS, *FIXED)]
    done = subprocess.run(
        [
            "systemd-analyze",
            "verify",
            "--man=no",
            "--recursive-errors=yes",
            *[directory / name for name in names],
        ],
        capture_output=True,
        text=True,
        env={"SYSTEMD_UNIT_PATH": f"{directory}:", "PATH": "/usr/bin:/bin"},
    )
    # a word about others' units on the machine that runs the test is none of ours
    ours = [line for line in done.stderr.splitlines() if re.search(r"llama-server|auth-proxy|llmsvc", line)]
    assert ours == []


@pytest.mark.parametrize("name", SERVICES)
def test_exposure_is_at_most_half_a_point(directory: Path, name: str) -> None:
    path = directory / name.replace("@.", "@x.")
    if not path.exists():
        path.symlink_to(directory / name)
    assert exposure(directory, path) <= 0.5


def exposure(directory: Path, unit: Path) -> float:
    output = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", unit],
        capture_output=True,
        text=True,
        env={"SYSTEMD_UNIT_PATH": f"{directory}:", "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
    ).stdout
    match = re.search(r"Overall exposure level for .*: ([0-9.]+)", output)
    assert match
    return float(match[1])


@pytest.mark.parametrize("name", ["auth-proxy.service", "llmsvc-prune.service"])
def test_a_database_elsewhere_costs_half_a_point_more(tmp_path: Path, name: str) -> None:
    address = dataclasses.replace(EXTERNAL, postgres_auth_host="192.0.2.5")
    text = units(settings=address)[name].replace(f"{paths.VENV}/bin/llmsvc", "/bin/true")
    (tmp_path / name).write_text(text)
    assert "IPAddressAllow=192.0.2.5\n" in text
    assert "LoadCredential=database-password:/etc/llmsvc/credentials/database-password" in text
    assert "postgresql.service" not in text
    assert exposure(tmp_path, tmp_path / name) <= 1.0
    by_name = units(settings=EXTERNAL)
    assert "IPAddressAllow" not in by_name[name] and "AF_INET" in by_name[name]
    assert "AF_INET" not in by_name["llama-server@.service"]
    assert "AF_INET" not in units()[name]


@pytest.mark.parametrize("gpu", ["none", "nvidia", "amd", "drm"])
@pytest.mark.parametrize("systemd", [249, 252, 257])
def test_every_host_gets_units_without_a_template_left_over(systemd: int, gpu: str) -> None:
    rendered = units(systemd, gpu)
    assert set(rendered) == {*SERVICES, *HELPERS}
    for text in rendered.values():
        assert "{" not in text and "\n\n\n" not in text


def test_keys_that_an_older_systemd_does_not_know_are_left_out() -> None:
    assert "RestartSteps=" not in units(253)["llama-server@.service"]
    assert "RestartSteps=" in units(254)["llama-server@.service"]


def test_only_a_gpu_opens_devices() -> None:
    cpu = units(gpu="none")["llama-server@.service"]
    assert "PrivateDevices=yes" in cpu and "DeviceAllow=" not in cpu
    nvidia = units(gpu="nvidia")["llama-server@.service"]
    assert "PrivateDevices=no" in nvidia and "DeviceAllow=char-nvidia rw" in nvidia
    assert "DeviceAllow=char-kfd rw" in units(gpu="amd")["llama-server@.service"]
    for gpu in ("none", "nvidia", "amd", "drm"):
        assert "PrivateNetwork=yes" in units(gpu=gpu)["llama-server@.service"]


def test_a_new_config_env_documents_every_setting_and_means_the_defaults() -> None:
    text = render.config_env({})
    for setting in config_settings.SETTINGS:
        assert f"#{setting.key}={setting.default}" in text
    assert config.parse(env.parse(text, Path("x")), Path("x")) == config.parse({}, Path("x"))


def test_values_are_set_in_a_new_config_env_and_in_an_old_one() -> None:
    new = render.config_env({"LLAMA_PROXY_PORT": "9000"})
    assert config.parse(env.parse(new, Path("x")), Path("x")).llama_proxy_port == 9000
    edited = env.set_values("# mine\n#LLAMA_PROXY_HOST=127.0.0.1\nLLAMA_PROXY_PORT=1\n", {
        "LLAMA_PROXY_HOST": "::1", "LLAMA_PROXY_PORT": "2", "LLAMA_PROXY_RATE_LIMIT": "7",
    })  # fmt: skip
    assert edited == "# mine\nLLAMA_PROXY_HOST=::1\nLLAMA_PROXY_PORT=2\nLLAMA_PROXY_RATE_LIMIT=7\n"
