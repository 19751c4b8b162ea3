"""What a package's units lack on a host goes into drop-ins, and systemd makes the same of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from installer import package, render, services
from installer.facts import Facts
from llmsvc import config, env, paths


def units(gpu: str, systemd: int = 252, **settings: str) -> dict[str, str]:
    entries = {key: env.Entry(key, value, 1) for key, value in settings.items()}
    wanted = config.parse(entries, paths.CONFIG_ENV)
    return render.units(Facts(systemd=systemd, gpu=gpu, release=""), wanted)


def merged(unit: str, lines: list[str]) -> dict[tuple[str, str], list[str]]:
    """What systemd makes of a unit and its drop-in: lists add up, an empty one clears, the last counts.

    An empty boolean is an error, of which it only warns: the value before counts.
    """
    found = package._parse(unit)
    for place, values in package._parse("\n".join(lines)).items():
        for value in values:
            if value == "":
                assert place[1] in package._LISTS
                found.pop(place, None)
            elif place[1] in package._LISTS:
                found.setdefault(place, []).append(value)
            else:
                found[place] = [value]
    return found


@pytest.mark.parametrize("gpu", ["nvidia", "amd", "drm"])
def test_a_gpu_is_let_through_by_a_drop_in(gpu: str) -> None:
    base, wanted = units("none")["llama-server@.service"], units(gpu)["llama-server@.service"]
    lines = package.difference(base, wanted)
    assert merged(base, lines) == package._parse(wanted)
    assert 0 < len(lines) < 12
    assert package.difference(wanted, wanted) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"LLAMA_PROXY_ENABLED": "0"},
        {"POSTGRES_AUTH_HOST": "db.example.org", "POSTGRES_AUTH_SSLMODE": "verify-full"},
        {"POSTGRES_AUTH_HOST": "192.0.2.7"},
    ],
    ids=["single-key", "database by name", "database by address"],
)
def test_every_mode_is_a_drop_in(settings: dict[str, str]) -> None:
    base, wanted = units("none"), units("none", **settings)
    assert base.keys() == wanted.keys() and base != wanted
    for name, text in wanted.items():
        assert merged(base[name], package.difference(base[name], text)) == package._parse(text)


def test_a_package_has_the_units_of_both_modes() -> None:
    host = Facts(systemd=252, gpu="none", release="")
    names = {path.name for path in render.packaged(host)}
    one_key = config.parse(
        {"LLAMA_PROXY_ENABLED": env.Entry("LLAMA_PROXY_ENABLED", "0", 1)}, paths.CONFIG_ENV
    )
    assert {path.name for path in render.files(host, one_key)} <= names
    for proxy in (True, False):
        assert set(services.at_boot(proxy=proxy)) <= names


@pytest.mark.parametrize(
    ("base", "wanted", "lines"),
    [
        ("[Service]\nA=1\n", "[Service]\nA=2\n", ["[Service]", "A=2"]),
        (
            "[Service]\nDeviceAllow=a\n",
            "[Service]\nDeviceAllow=a\nDeviceAllow=b\n",
            ["[Service]", "DeviceAllow=b"],
        ),
        ("[Service]\nIPAddressDeny=any\n", "[Service]\n", ["[Service]", "IPAddressDeny="]),
        (
            "[Unit]\nAfter=a\n[Service]\nB=1\n",
            "[Unit]\nAfter=b\n[Service]\nB=1\n",
            ["[Unit]", "After=", "After=b"],
        ),
    ],
)
def test_the_difference(base: str, wanted: str, lines: list[str]) -> None:
    assert package.difference(base, wanted) == lines
    assert merged(base, lines) == package._parse(wanted)


def test_only_what_differs_gets_a_drop_in_and_an_old_one_is_emptied(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(paths, "UNITS", tmp_path / "lib")
    monkeypatch.setattr(paths, "DROP_INS", tmp_path / "etc")
    paths.UNITS.mkdir()
    for name, text in units("none").items():
        (paths.UNITS / name).write_text(text)
    assert package.drop_ins(units("none")) == {}
    place = paths.DROP_INS / "llama-server@.service.d" / package.DROP_IN
    found = package.drop_ins(units("nvidia"))
    assert set(found) == {place} and "DeviceAllow=char-nvidia rw" in found[place]
    place.parent.mkdir(parents=True)
    place.write_text(found[place])
    emptied = package.drop_ins(units("none"))[place]
    assert all(line.startswith("#") for line in emptied.splitlines())
