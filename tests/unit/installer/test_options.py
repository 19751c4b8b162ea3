"""What `llmsvc install` understands, and what it knows of a host."""

from pathlib import Path

import pytest

from installer.facts import systemd_version
from installer.options import Database, Options, parse_database, parse_listen
from installer.verify import reach
from installer.wanted import config_text
from llmsvc import config, env, paths
from llmsvc.errors import SettingError, UnavailableError, UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (["127.0.0.1:8001"], ("127.0.0.1:8001",)),
        (["localhost:80"], ("127.0.0.1:80",)),
        (["[::1]:8001"], ("[::1]:8001",)),
        (["0.0.0.0:65535", "[::]:65535", "0.0.0.0:65535"], ("0.0.0.0:65535", "[::]:65535")),
        (["/run/llmsvc.sock", "[::1]:8001"], ("[::1]:8001", "/run/llmsvc.sock")),
        ([], ()),
    ],
)
def test_listen_takes_addresses_and_sockets_a_tcp_address_first(
    text: list[str], expected: tuple[str, ...]
) -> None:
    assert parse_listen(text) == expected


@pytest.mark.parametrize(
    "text",
    ["8001", "127.0.0.1", "example.org:80", "127.0.0.1:0", "127.0.0.1:65536", "::1:80", "", "/run/a b", "/"],
)
def test_listen_refuses_the_rest_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_listen([text])
    assert "for example" in (caught.value.hint or "")


def test_a_unix_socket_alone_is_refused() -> None:
    with pytest.raises(UsageError, match="no TCP address"):
        parse_listen(["/run/llmsvc.sock"])


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "postgresql://al%40x@db.example.org:5433/llm?sslmode=require",
            Database("db.example.org", 5433, "llm", "al@x", "require", None),
        ),
        (
            "postgres://u@[2001:db8::1]/n?sslrootcert=/etc/ca.pem",
            Database("2001:db8::1", 5432, "n", "u", "verify-full", "/etc/ca.pem"),
        ),
        (
            "postgresql:///?port=5433",
            Database("/run/postgresql", 5433, "llmsvc", "llmsvc-proxy", "prefer", None),
        ),
        ("postgresql:///n?host=/tmp", Database("/tmp", 5432, "n", "llmsvc-proxy", "prefer", None)),
    ],
)
def test_a_database_is_a_url(url: str, expected: Database) -> None:
    assert parse_database(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "mysql://x/y",
        "db.example.org",
        "postgresql://h:x/y",
        "postgresql://h/y?sslmode=some",
        "postgresql://h/y?nosuch=1",
        "postgresql://h/y?sslrootcert=ca.pem",
    ],
)
def test_other_urls_are_refused_with_an_example(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_database(url)
    assert "for example" in (caught.value.hint or "")


@pytest.mark.parametrize("url", ["postgresql://u:secret@h/d", "postgresql://u@h/d?password=secret"])
def test_a_password_on_the_command_line_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_database(url)
    assert "secret" not in caught.value.message + (caught.value.hint or "")


CONFIG = Path("config.env")


@pytest.fixture
def config_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(paths, "CONFIG_ENV", tmp_path / "config.env")
    return tmp_path / "config.env"


def parsed(text: str) -> config.Config:
    return config.parse(env.parse(text, CONFIG), CONFIG)


def test_several_places_to_listen_on_are_set_and_unset(config_env: Path) -> None:
    text = config_text(Options(listen=("127.0.0.1:9", "[::1]:9", "/run/llmsvc.sock")))
    assert parsed(text).listen == ["127.0.0.1:9", "[::1]:9", "/run/llmsvc.sock"]
    assert parsed(text).base_url == "http://127.0.0.1:9/v1"
    config_env.write_text(text)
    assert parsed(config_text(Options(listen=("[::]:9",)))).listen == ["[::]:9"]
    assert parsed(config_text(Options())).listen == ["127.0.0.1:9", "[::1]:9", "/run/llmsvc.sock"]


def test_what_is_no_text_is_one_clear_error(config_env: Path) -> None:
    config_env.write_bytes(b"\xd4\x00")
    with pytest.raises(SettingError, match="is not UTF-8 text"):
        config_text(Options())


def test_single_key_mode_has_an_address_of_its_own(config_env: Path) -> None:
    config_env.write_text("LLAMA_PROXY_PORT=9\n")
    text = config_text(Options(proxy=False, listen=("[::]:80",)))
    assert (parsed(text).listen, parsed(text).base_url) == (["[::]:80"], "http://[::1]:80/v1")
    config_env.write_text(text)
    assert parsed(config_text(Options(proxy=True))).listen == ["127.0.0.1:9"]
    with pytest.raises(UsageError, match="one address"):
        config_text(Options(listen=("[::]:80", "127.0.0.1:81")))


def test_systemd_version() -> None:
    assert systemd_version("systemd 252 (252.39-1~deb12u1)\n+PAM") == 252
    with pytest.raises(UnavailableError):
        systemd_version("openrc 1")


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("127.0.0.1", "Only this machine"),
        ("::1", "Only this machine"),
        ("0.0.0.0", "Every machine"),
        ("192.0.2.7", "192.0.2.7"),
    ],
)
def test_the_end_says_who_can_reach_the_port(host: str, words: str) -> None:
    text = f"LLAMA_PROXY_HOST={host}\n"
    assert words in reach(config.parse(env.parse(text, Path("x")), Path("x")))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "http://127.0.0.1:8001/v1"),
        ("LLAMA_PUBLIC_URL=https://llm.example.org\n", "https://llm.example.org/v1"),
        ("LLAMA_PUBLIC_URL=https://example.org:8443/llm/v1/\n", "https://example.org:8443/llm/v1"),
    ],
)
def test_users_are_told_the_public_url_where_there_is_one(line: str, told: str) -> None:
    settings = config.parse(env.parse(line, Path("x")), Path("x"))
    assert settings.told_url == told
    assert settings.base_url == "http://127.0.0.1:8001/v1"


@pytest.mark.parametrize(
    "url", ["llm.example.org", "ftp://x", "https://x y", "https://u:p@x", "https://x?k=v"]
)
def test_a_public_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(SettingError, match="must be a URL such as"):
        config.parse(env.parse(f'LLAMA_PUBLIC_URL="{url}"\n', Path("x")), Path("x"))
