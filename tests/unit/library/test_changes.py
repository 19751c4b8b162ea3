"""`llmsvc model set`, `verify` and `list`: what an admin changes of a model, and how it is told."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmsvc import paths
from llmsvc.cli import main, model_change, session
from llmsvc.config import Config
from llmsvc.errors import SettingError
from llmsvc.library import installing, memory, records, settings, store
from llmsvc.systemd import manager
from tests.unit.library import ggufs

Run = Callable[..., tuple[int, str, str]]
COPY = installing.Options(how="copy")


@pytest.fixture
def run(host: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(model_change, "require_root", lambda what: None)
    monkeypatch.setattr(manager, "instances", list)
    monkeypatch.setattr(manager, "memory_limits", lambda units: {})
    monkeypatch.setattr(session, "note", lambda verb, thing: None)

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main.main(["model", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def m(conf: Config, model_file: Path) -> Path:
    """The settings of an installed model `m`."""
    installing.add(str(model_file), name="m", config=conf, options=COPY)
    return store.env_file("m")


def test_set_changes_the_value_where_it_stands_and_nothing_else(run: Run, m: Path) -> None:
    before = m.read_text()
    code, out, _ = run("set", "m", "N_CTX=1024", "FLASH_ATTN=1")
    assert code == 0
    changed = before.replace("\nN_CTX=2048", "\nN_CTX=1024").replace("\n#FLASH_ATTN=0", "\nFLASH_ATTN=1")
    assert m.read_text() == changed
    assert m.stat().st_mode & 0o7777 == 0o644
    line = changed.splitlines().index("N_CTX=1024") + 1
    assert f"N_CTX is 1024  ({m}:{line})" in out
    assert "sudo llmsvc restart m" in out
    assert json.loads(run("set", "m", "N_CTX=1024", "--json")[1])["changed"] is False


def test_set_to_nothing_goes_back_to_the_default(run: Run, m: Path) -> None:
    run("set", "m", "N_BATCH=64")
    told = json.loads(run("set", "m", "N_BATCH=", "N_CTX=", "--json")[1])
    assert told["settings"]["N_BATCH"] == {"value": 512, "source": "default"}
    assert "\n#N_BATCH=512\n" in m.read_text()
    assert set(settings.load("m").lines) == {"MODEL"}


def test_a_setting_that_is_not_shown_comes_with_its_explanation(run: Run, m: Path) -> None:
    assert run("set", "m", 'CHAT_TEMPLATE_KWARGS={"enable_thinking": false}')[0] == 0
    text = m.read_text()
    assert text.endswith('\n# JSON object for the chat template, as {"enable_thinking": false}.\n'
                         'CHAT_TEMPLATE_KWARGS="{\\"enable_thinking\\": false}"\n')  # fmt: skip
    assert settings.load("m")["CHAT_TEMPLATE_KWARGS"] == {"enable_thinking": False}


def test_of_several_lines_only_one_is_left(run: Run, m: Path) -> None:
    m.write_text(m.read_text() + "N_CTX=512\nN_CTX=256\n")
    run("set", "m", "N_CTX=1024")
    assert [line for line in m.read_text().splitlines() if line.startswith("N_CTX")] == ["N_CTX=1024"]
    run("set", "m", "N_CTX=")
    assert settings.load("m")["N_CTX"] is None


@pytest.mark.parametrize(
    ("values", "code", "said"),
    [
        (["N_CTX=many"], 78, "N_CTX: must be a whole number"),
        (["FLASH_ATTN=1", "N_CTX=-5"], 78, "N_CTX: must be a whole number"),
        (["N_CTXX=5"], 78, "N_CTXX: unknown setting\nhint: did you mean N_CTX?"),
        (["SEED=1"], 78, "SEED: is not allowed"),
        (["SEED="], 78, "SEED: is not allowed"),
        (["HF_TOKEN=hf_secret"], 78, "a secret does not belong into this file"),
        (["TYPE_V=q8_0"], 78, "TYPE_V: a quantized value cache needs FLASH_ATTN=1"),
        (["MODEL="], 78, "MODEL: must name a GGUF file"),
        (["N_CTX"], 2, "'N_CTX' is not KEY=VALUE"),
        (["N_CTX=1\nMODEL=/etc/shadow"], 2, "control characters"),
    ],
)
def test_a_bad_value_changes_nothing(run: Run, m: Path, values: list[str], code: int, said: str) -> None:
    before = (m.read_text(), m.stat().st_ino)
    done = run("set", "m", *values)
    assert done[0] == code
    assert said in done[2]
    assert "hf_secret" not in done[2]
    assert (m.read_text(), m.stat().st_ino) == before


def test_what_would_not_fit_is_set_with_a_warning(run: Run, m: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "room", lambda name=None: memory.Room(50_000_000))
    code, out, _ = run("set", "m", "N_CTX=1024")
    assert code == 0
    assert "warning: m does not fit: it needs" in out


def test_set_needs_no_library(run: Run, m: Path, models: Path) -> None:
    """Its disk may not be mounted."""
    models.rename(models.with_name("away"))
    assert run("set", "m", "N_CTX=512")[0] == 0
    assert not models.exists()
    assert settings.load("m")["N_CTX"] == 512


def test_two_changes_at_once_are_both_made(m: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = store.atomic.write

    def slowly(*arguments: object) -> None:
        time.sleep(0.02)  # so that the next one has read the old text by then, if it may
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store.atomic, "write", slowly)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.change("m", {key: "1"}), ["N_THREADS", "N_BATCH", "N_UBATCH"]))
    loaded = settings.load("m")
    assert [loaded[key] for key in ("N_THREADS", "N_BATCH", "N_UBATCH")] == [1, 1, 1]


def test_set_of_what_is_not_there_is_exit_3(run: Run) -> None:
    assert run("set", "nobody", "N_CTX=1")[0] == 3


# ---------------------------------------------------------------------------------------------------------


def test_verify_reads_everything_again(run: Run, m: Path, conf: Config, host: Path) -> None:
    file = settings.load("m").model
    code, out, _ = run("verify")
    assert (code, out.split()[4:7]) == (0, ["m", "m.gguf", "ok"])
    # what no time stamp tells, such as a bad block
    before = file.stat()
    with file.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\1")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    code, out, _ = run("verify", "m")
    assert code == 78
    assert "broken" in out and "is damaged, or another file: its sha256 is" in out
    (told,) = json.loads(run("verify", "m", "--json")[1])
    assert (told["name"], told["state"], told["file"]) == ("m", "broken", str(file))


def test_verify_records_a_sum_where_there_is_none(run: Run, m: Path) -> None:
    file = settings.load("m").model
    records.remove(file)
    assert json.loads(run("verify", "--json")[1])[0]["state"] == "recorded"
    found = records.read(file)
    assert found is not None and found.sha256 == records.sha256(file)
    assert json.loads(run("verify", "--json")[1])[0]["state"] == "ok"


def test_verify_leaves_what_lies_elsewhere_alone(run: Run, model_file: Path) -> None:
    store.env_file("x").write_text(f'MODEL="{model_file}"\n')
    assert json.loads(run("verify", "--json")[1])[0]["state"] == "no sum"
    assert not list(model_file.parent.glob("*.sha256"))
    store.env_file("y").write_text("MODEL=/gone.gguf\n")
    code, out, _ = run("verify", "--json")
    assert (code, [one["state"] for one in json.loads(out)]) == (78, ["no sum", "broken"])


def test_the_last_use_is_told(run: Run, m: Path) -> None:
    assert json.loads(run("list", "--json")[1])[0]["last_used"] is None
    paths.USED_MODELS.mkdir()
    (paths.USED_MODELS / "m").touch()
    os.utime(paths.USED_MODELS / "m", (1_700_000_000, 1_700_000_000))
    told = json.loads(run("list", "--json")[1])[0]["last_used"]
    assert told.startswith(time.strftime("%Y-%m-%dT%H:%M", time.localtime(1_700_000_000)))
    assert "2023-11-1" in run("list")[1]


def test_settings_that_are_kept_elsewhere_are_changed_there(m: Path, tmp_path: Path) -> None:
    file = m.rename(tmp_path / "kept.env")
    m.symlink_to(file)
    assert store.change("m", {"N_CTX": "512"})
    assert m.is_symlink() and "\nN_CTX=512\n" in file.read_text()


def test_a_change_needs_a_whole_file(m: Path) -> None:
    m.write_text(m.read_text() + "what is this\n")
    with pytest.raises(SettingError, match="expected KEY=value"):
        store.change("m", {"N_CTX": "512"})


def test_set_refuses_what_the_file_was_not_made_for(run: Run, m: Path, conf: Config, host: Path) -> None:
    before = m.read_text()
    code, _, err = run("set", "m", "ENGINE=native", "RERANK=1")
    assert code == 78
    assert "is no reranker" in err
    assert m.read_text() == before
    assert "works with ENGINE=native only" in run("set", "m", "RERANK=1")[2]
    assert "contradicts EMBEDDING=1" in run("set", "m", "ENGINE=native", "RERANK=1", "EMBEDDING=1")[2]
    file = host / "ranks.gguf"
    head = ("cls.output.weight", (256,), 0)
    file.write_bytes(ggufs.gguf(ggufs.META | {"llama.pooling_type": 4}, [*ggufs.TENSORS, head]))
    installing.add(str(file), name="ranks", config=conf, options=COPY)
    for change in ("RERANK=", "ENGINE=llama-cpp-python"):
        code, _, err = run("set", "ranks", change)
        assert code == 78
    code, _, err = run("set", "ranks", "RERANK=", "EMBEDDING=1")
    assert "ranks.gguf is a reranker, and needs RERANK=1" in err
    assert "hint: llmsvc model set ranks ENGINE=native RERANK=1 EMBEDDING=" in err
    # an installation from before that setting
    store.env_file("ranks").write_text(f"MODEL={file}\nEMBEDDING=1\n")
    assert "is a reranker" in str(store.model("ranks").problem)
    assert run("set", "ranks", "ENGINE=native", "RERANK=1", "EMBEDDING=")[0] == 0
    assert store.model("ranks").problem is None
