"""Downloads that go wrong on the way, and go on: the real huggingface_hub against the hub of tests/hub.py."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from llmsvc.config import Config
from llmsvc.errors import Error, NotFoundError, UnavailableError
from llmsvc.library import installing, settings, store
from tests.hub import COMMIT, Hub, Repository
from tests.unit.library.ggufs import META, gguf

ROOT = Path(__file__).parents[3]
REAL = Path(os.environ.get("LLMSVC_TEST_MODELS", "/var/cache/llmsvc/models"))
ELEMENTS = 1 << 20
CONTENTS = gguf(
    tensors=[("a", (ELEMENTS,), 0)], data=random.Random(1).randbytes(4 * ELEMENTS)
)  # 4 MiB that differ from each other
FILE = "Big.Q8_0.gguf"
WHAT = f"owner/big-GGUF/{FILE}"


@pytest.fixture(autouse=True)
def _files(hub: Hub) -> None:
    hub.repositories["owner/big-GGUF"] = Repository({FILE: CONTENTS})


def halves(models: Path) -> list[Path]:
    return sorted((models / ".incoming").rglob("*.part"))


def visible(models: Path) -> list[str]:
    return sorted(path.name for path in models.glob("[!.]*"))


def pull(host: Path, *arguments: str, hub: Hub, **variables: str) -> subprocess.Popen[str]:
    """`llmsvc model pull` as a process of its own.

    :param variables: of its environment
    """
    environ = {**os.environ, "HF_ENDPOINT": hub.endpoint, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("pull.py")), str(host), "pull", *arguments],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def stopped(hub: Hub) -> Iterator[threading.Event]:
    """Set once half of a file was sent; nothing more comes until the test ends."""
    half, end = threading.Event(), threading.Event()

    def before(file: str, at: int) -> None:
        if at >= len(hub.repositories["owner/big-GGUF"].files[file]) // 2:
            half.set()
            end.wait(30)

    hub.before = before
    yield half
    end.set()


def go_on(hub: Hub) -> None:
    hub.before = lambda file, at: None
    hub.sent = 0
    hub.requests.clear()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_what_was_stopped_at_half_goes_on_there(
    hub: Hub, stopped: threading.Event, conf: Config, host: Path, models: Path, number: signal.Signals
) -> None:
    real = REAL / "smollm2.gguf"
    contents = real.read_bytes() if number == signal.SIGKILL and real.is_file() else CONTENTS
    hub.repositories["owner/big-GGUF"].files[FILE] = contents
    process = pull(host, WHAT, hub=hub)
    assert stopped.wait(60)
    (part,) = _until(lambda: [one for one in halves(models) if one.stat().st_size >= len(contents) // 2])
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert visible(models) == []
    assert store.names() == []
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "Traceback" not in said
        assert said.splitlines()[-2:] == [
            "llmsvc: interrupted; nothing was installed",
            "hint: what has arrived of a download is kept for a week: the same command goes on with it",
        ]
    there = part.stat().st_size
    go_on(hub)
    installed = installing.add(WHAT, config=conf)
    assert installed.file.read_bytes() == contents
    assert hub.sent == len(contents) - there <= len(contents) // 2
    assert [one.first for one in hub.got()] == [there]
    assert list((models / ".incoming").iterdir()) == [models / ".incoming/.names"]


def _until(look, seconds: float = 20):  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def test_a_connection_that_breaks_is_taken_up_again(hub: Hub, conf: Config) -> None:
    broken: list[int] = []

    def before(file: str, at: int) -> None:
        if at > (len(broken) + 1) * 500_000:
            broken.append(at)
            raise ConnectionError

    hub.before = before
    assert installing.add(WHAT, config=conf).file.read_bytes() == CONTENTS
    assert len(broken) >= 7, "more breaks than tries, each with progress in between"
    assert hub.sent == len(CONTENTS), "nothing was sent twice"


def test_a_network_that_is_lost_keeps_what_there_is(hub: Hub, conf: Config, models: Path) -> None:
    def before(file: str, at: int) -> None:
        if at > 1_000_000:
            raise ConnectionError

    hub.before = before
    with pytest.raises(UnavailableError, match=r"the download of hf:owner/\S+ broke off: ") as caught:
        installing.add(WHAT, config=conf)
    assert "1 MB of 4 MB are kept: the same command goes on from there" in str(caught.value.hint)
    assert visible(models) == []
    (part,) = halves(models)
    there = part.stat().st_size
    go_on(hub)
    assert installing.add(WHAT, config=conf).file.read_bytes() == CONTENTS
    assert hub.sent == len(CONTENTS) - there


def test_a_server_that_stalls_is_asked_again(hub: Hub, conf: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
    end = threading.Event()
    stalls = iter([1_000_000, 2_000_000])
    at_next = [next(stalls)]

    def before(file: str, at: int) -> None:
        if at_next[0] and at > at_next[0]:
            at_next[0] = next(stalls, 0)
            end.wait(30)

    hub.before = before
    try:
        assert installing.add(WHAT, config=conf).file.read_bytes() == CONTENTS
    finally:
        end.set()
    assert len(hub.got()) == 3


def test_a_server_that_stalls_for_ever_is_given_up(
    hub: Hub, stopped: threading.Event, conf: Config, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    with pytest.raises(UnavailableError, match=r"broke off: .*timed out"):
        installing.add(WHAT, config=conf)
    assert len(halves(models)) == 1
    assert visible(models) == []


def test_a_slow_server_is_waited_for_and_shown(
    hub: Hub, host: Path, conf: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it takes three times as long as the time-out: there is none, for something always comes."""
    hub.before = lambda file, at: time.sleep(0.05)
    process = pull(host, WHAT, "--json", hub=hub, HF_HUB_DOWNLOAD_TIMEOUT="1")
    out, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert f'"file": "{conf.llama_models_dir / FILE}"' in out, "JSON alone on stdout"
    assert "fetching Big.Q8_0.gguf: 4 MB" in said
    assert "\x1b" not in said and "\r" not in said


def test_a_server_that_cannot_send_a_part_sends_all_again(hub: Hub, conf: Config) -> None:
    def before(file: str, at: int) -> None:
        if at > 1_000_000 and len(hub.got()) == 1:
            raise ConnectionError

    hub.ranges, hub.before = False, before
    assert installing.add(WHAT, config=conf).file.read_bytes() == CONTENTS
    assert len(hub.got()) == 2


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_refusal_is_tried_again(hub: Hub, conf: Config, status: int) -> None:
    hub.refusals = [status]
    assert installing.add(WHAT, config=conf).file.read_bytes() == CONTENTS


def test_one_that_lasts_is_told(hub: Hub, conf: Config, models: Path) -> None:
    hub.refusals = [503] * 9
    with pytest.raises(UnavailableError, match="broke off: the hub answers 503"):
        installing.add(WHAT, config=conf)
    hub.refusals = [404]
    with pytest.raises(NotFoundError):
        installing.add(WHAT, config=conf)
    assert visible(models) == []


def test_a_half_that_was_damaged_meanwhile_is_found(
    hub: Hub, conf: Config, models: Path, stopped: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    with pytest.raises(UnavailableError):
        installing.add(WHAT, config=conf)
    (part,) = halves(models)
    with part.open("r+b") as stream:
        stream.seek(1000)
        stream.write(b"damaged")
    go_on(hub)
    with pytest.raises(Error, match="arrived damaged: its sha256 is not the hub's"):
        installing.add(WHAT, config=conf)
    assert (visible(models), halves(models)) == ([], [])
    assert installing.add(WHAT, config=conf).file.read_bytes() == CONTENTS


def test_the_half_of_what_the_hub_had_before_is_not_gone_on_with(
    hub: Hub, conf: Config, models: Path, stopped: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    with pytest.raises(UnavailableError):
        installing.add(WHAT, config=conf)
    other = gguf(META | {"general.name": "Other"})
    hub.repositories["owner/big-GGUF"].files[FILE] = other
    go_on(hub)
    assert installing.add(WHAT, config=conf).file.read_bytes() == other
    assert halves(models) == []


def test_halves_are_removed_after_a_week(
    hub: Hub, conf: Config, models: Path, stopped: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    with pytest.raises(UnavailableError):
        installing.add(WHAT, config=conf)
    go_on(hub)
    hub.repositories["owner/other"] = Repository({"o.gguf": gguf()})
    for days, left in ((6, 1), (8, 0)):
        for part in halves(models):
            os.utime(part, (time.time() - days * 86400,) * 2)
        installing.add("owner/other/o.gguf", name=f"o{days}", config=conf)
        assert len(halves(models)) == left


def test_two_processes_that_pull_the_same_fetch_it_once(
    hub: Hub, host: Path, stopped: threading.Event
) -> None:
    first = pull(host, WHAT, hub=hub)
    assert stopped.wait(60)
    second = pull(host, WHAT, hub=hub)
    assert second.stderr is not None
    assert "another process is adding hf:owner/big-GGUF/" in second.stderr.readline()
    first.kill()  # the second takes over, with the half that is there
    first.communicate()
    go_on(hub)
    _, said = second.communicate(timeout=60)
    assert second.returncode == 0, said
    assert hub.sent <= len(CONTENTS) // 2


def test_a_repository_that_was_renamed_is_found(hub: Hub, conf: Config) -> None:
    hub.moved["owner/old-GGUF"] = "owner/big-GGUF"
    assert installing.add(f"owner/old-GGUF/{FILE}", config=conf).file.read_bytes() == CONTENTS


def test_the_token_stays_with_the_hub(hub: Hub, conf: Config, host: Path) -> None:
    hub.repositories["owner/big-GGUF"].gated = True
    (host / "etc/credentials").mkdir()
    (host / "etc/credentials/hf-token").write_text(hub.token)
    assert installing.add(WHAT, config=conf).file.read_bytes() == CONTENTS
    tokens = {one.host.partition(":")[0]: one.token for one in hub.requests}
    assert tokens == {"127.0.0.1": f"Bearer {hub.token}", "localhost": ""}


def test_a_proxy_is_used(hub: Hub, conf: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.invalid")
    monkeypatch.setenv("HTTP_PROXY", hub.endpoint)
    monkeypatch.setenv("NO_PROXY", "")
    hub.downloads = "http://cdn.invalid"
    close_session()
    assert installing.add(WHAT, config=conf).file.read_bytes() == CONTENTS
    assert {one.host for one in hub.requests} == {"mirror.invalid", "cdn.invalid"}


# ---------------------------------------------------------------------------------------------------------
# Revisions and updates


def test_a_revision_is_asked_for_and_noted(hub: Hub, conf: Config, models: Path) -> None:
    hub.repositories["owner/big-GGUF"].branches = ("main", "v2")
    installing.add(f"{WHAT}@v2", config=conf)
    assert hub.requests[0].path == f"/owner/big-GGUF/resolve/v2/{FILE}"
    written = (models / f"{FILE}.sha256").read_text()
    assert f"# source: hf:owner/big-GGUF@v2/{FILE}\n# commit: {COMMIT}\n" in written
    with pytest.raises(NotFoundError, match="has no revision v3"):
        installing.add(f"{WHAT}@v3", name="x", config=conf)


UPDATE = installing.Options(update=True)


def test_pulled_again_a_model_gets_the_newer_file_and_keeps_its_settings(hub: Hub, conf: Config) -> None:
    first = installing.add(WHAT, name="m", config=conf, options=UPDATE)
    env = store.env_file("m")
    env.write_text(env.read_text().replace("N_CTX=2048", "# mine\nN_CTX=512"))
    again = installing.add(WHAT, name="m", config=conf, options=UPDATE)
    assert (again.changed, again.updated) == (False, False)
    newer = gguf(META | {"general.name": "Newer"})
    hub.repositories["owner/big-GGUF"].files[FILE] = newer
    with first.file.open("rb") as running:
        updated = installing.add(WHAT, name="m", config=conf, options=UPDATE)
        assert running.read() == CONTENTS, "who has it open goes on with the old one"
    assert (updated.changed, updated.updated, updated.file) == (True, True, first.file)
    assert first.file.read_bytes() == newer
    assert settings.load("m")["N_CTX"] == 512
    assert "# mine" in env.read_text()


def test_an_update_with_wrong_bytes_changes_nothing(hub: Hub, conf: Config, models: Path) -> None:
    file = installing.add(WHAT, name="m", config=conf, options=UPDATE).file
    before = (file.stat(), (models / f"{FILE}.sha256").read_text())
    repository = hub.repositories["owner/big-GGUF"]
    repository.files[FILE] = gguf(META | {"general.name": "Newer"})
    repository.sent[FILE] = repository.files[FILE][:-1] + b"\1"
    with pytest.raises(Error, match="arrived damaged"):
        installing.add(WHAT, name="m", config=conf, options=UPDATE)
    assert (file.stat(), (models / f"{FILE}.sha256").read_text()) == before
    assert hashlib.sha256(file.read_bytes()).hexdigest() == hashlib.sha256(CONTENTS).hexdigest()
