"""`llmsvc model`, from the command line to what lies on disk."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from llmsvc.cli import main, model_change, model_get, switching
from llmsvc.library import memory, store
from llmsvc.systemd import journal, manager, schedule
from tests.hub import COMMIT, Hub, Repository
from tests.unit.library.ggufs import META, gguf

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(host: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        code = main.main(["model", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (model_get, model_change):
        monkeypatch.setattr(module, "require_root", lambda what: None)


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What systemd was asked, and a model named `dud` that does not start."""
    asked: list[str] = []

    def switch(name: str) -> None:
        asked.append(f"start {name}")
        if name == "dud":
            raise manager.StartError(name, "it is a dud", ["loading", "it is a dud"])

    monkeypatch.setattr(manager, "switch", switch)
    monkeypatch.setattr(manager, "instances", list)
    monkeypatch.setattr(manager, "memory_limits", lambda units: {})
    monkeypatch.setattr(journal, "note", lambda *about: None)
    monkeypatch.setattr(switching, "_NOTHING_SECONDS", 0)
    monkeypatch.setattr(manager, "daemon_reload", lambda: asked.append("daemon-reload"))
    monkeypatch.setattr(manager, "reload_where_booted", manager.daemon_reload)
    return asked


@pytest.mark.usefixtures("root")
def test_add_tells_where_things_are_and_reloads(
    run: Run, systemd: list[str], models: Path, model_file: Path
) -> None:
    code, out, _ = run("add", model_file, "--name", "m")
    assert code == 0
    assert f"model m is installed: {models / 'm.gguf'}" in out
    assert "hard link" in out
    assert "sudo llmsvc model use m" in out
    assert systemd == ["daemon-reload"]
    assert "is installed already" in run("add", model_file, "--name", "m")[1]


def line_of(name: str, line: str) -> int:
    return store.env_file(name).read_text().splitlines().index(line) + 1


@pytest.mark.usefixtures("root", "systemd")
def test_every_command_has_json(run: Run, models: Path, model_file: Path) -> None:
    added = json.loads(run("add", model_file, "--name", "m", "--copy", "--json")[1])
    assert (added["name"], added["changed"], added["linked"]) == ("m", True, False)
    (listed,) = json.loads(run("list", "--json")[1])
    assert 0 < listed.pop("memory") <= listed.pop("memory_needed")
    assert [listed] == [
        {
            "name": "m",
            "file": str(models / "m.gguf"),
            "size": len(gguf()),
            "architecture": "llama",
            "quantization": "Q4_K_M",
            "parameters": 1280,
            "context": 2048,
            "context_trained": 2048,
            "default": False,
            "active": False,
            "last_used": None,
            "problem": None,
            "memory_needed_gpu": 0,
            "fits": True,
        }
    ]
    shown = json.loads(run("show", "m", "--json")[1])
    assert shown["settings"]["N_CTX"]["value"] == 2048
    assert shown["settings"]["N_CTX"]["source"].endswith(f"models.d/m.env:{line_of('m', 'N_CTX=2048')}")
    assert shown["settings"]["N_BATCH"] == {"value": 512, "source": "default"}
    assert shown["origin"] == f"file:{model_file}"
    assert json.loads(run("use", "m", "--json")[1])["default"] is True
    names = [entry["name"] for entry in json.loads(run("catalog", "--json")[1])]
    assert "smollm2" in names
    run("add", model_file, "--name", "n", "--json")
    run("use", "n")
    removed = json.loads(run("remove", "m", "--json")[1])
    assert removed == {"name": "m", "files": [str(models / "m.gguf")], "freed": len(gguf())}


@pytest.mark.usefixtures("root", "systemd")
def test_people_get_tables(run: Run, model_file: Path) -> None:
    assert "sudo llmsvc model pull smollm2" in run("list")[1]
    run("add", model_file, "--name", "m")
    header, row = run("list")[1].splitlines()
    columns = ["NAME", "FILE", "SIZE", "QUANTIZATION", "CONTEXT", "MEMORY", "FITS", "DEFAULT", "ACTIVE"]
    assert header.split() == [*columns, "LAST", "USED"]
    assert row.split() == ["m", "m.gguf", "3", "kB", "Q4_K_M", "2048", "89", "MB", "yes", "no", "no", "-"]
    store.env_file("bad").write_text("MODEL=/gone.gguf\n")
    assert "/gone.gguf: cannot be read" in run("list")[1]
    assert re.search(r"^chat template +yes", run("show", "m")[1], re.MULTILINE)
    assert "/gone.gguf: cannot be read" in run("show", "bad")[1]
    assert "SmolLM2 135M Instruct" in run("catalog")[1]


@pytest.mark.usefixtures("root")
def test_use_switches_and_only_then_makes_it_the_default(
    run: Run, systemd: list[str], model_file: Path
) -> None:
    for name in ("m", "dud"):
        run("add", model_file, "--name", name)
    systemd.clear()
    assert run("use", "m")[0] == 0
    assert systemd == ["start m", "daemon-reload"]
    assert store.default_model() == "m"
    code, _, err = run("use", "dud")
    assert code == 1
    assert err.splitlines()[:3] == ["  loading", "  it is a dud", "llmsvc: dud did not start: it is a dud"]
    assert store.default_model() == "m"


@pytest.mark.usefixtures("root", "systemd")
def test_use_that_is_interrupted_leaves_the_default_and_says_so(
    run: Run, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(name: str, **options: bool) -> None:
        raise switching.LeftError("interrupted", hint="it goes on")

    run("add", model_file, "--name", "m")
    monkeypatch.setattr(switching, "start", start)
    code, _, err = run("use", "m")
    assert (code, store.default_model()) == (130, None)
    assert "it goes on; the default model is as before" in err


@pytest.mark.usefixtures("root", "systemd")
def test_use_forces_only_when_asked_to(run: Run, models: Path, model_file: Path) -> None:
    run("add", model_file, "--name", "m", "--copy")
    side = models / "m.gguf.sha256"
    side.write_text(f"{'0' * 64}  m.gguf\n")
    code, _, err = run("use", "m")
    assert (code, "is damaged" in err, "--force starts it all the same" in err) == (78, True, True)
    assert run("use", "m", "--force")[0] == 0


@pytest.mark.usefixtures("root")
def test_use_of_a_broken_model_touches_nothing(run: Run, systemd: list[str], model_file: Path) -> None:
    run("add", model_file, "--name", "m", "--copy")
    systemd.clear()
    os.truncate(store.model("m").file or "", 2000)
    code, _, err = run("use", "m")
    assert code == 78
    assert "is truncated" in err
    assert "hint: the model that runs was not touched" in err
    assert systemd == []
    assert store.default_model() is None


@pytest.mark.parametrize("arguments", [("use", "m"), ("remove", "m"), ("show", "m")])
@pytest.mark.usefixtures("root", "systemd")
def test_an_unknown_model_is_exit_3(run: Run, arguments: tuple[str, ...]) -> None:
    code, _, err = run(*arguments)
    assert code == 3
    assert err.startswith("llmsvc: no model 'm'\nhint: ")


@pytest.mark.parametrize("arguments", [("add", "smollm2"), ("use", "m"), ("remove", "m")])
def test_a_normal_user_is_told_to_use_sudo(
    run: Run, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    code, _, err = run(*arguments)
    assert code == 4
    assert "hint: run it again with sudo" in err


def test_a_normal_user_may_look(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert run("list")[0] == run("catalog")[0] == 0
    assert run("add", "x", "--copy", "--link")[0] == 2


# ---------------------------------------------------------------------------------------------------------
# catalog, pull


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 GB of memory, all of it free."""
    monkeypatch.setattr(memory, "room", lambda name=None: memory.Room(8 * 10**9, total=8 * 10**9))


@pytest.mark.usefixtures("small_machine")
def test_the_catalogue_tells_what_fits_here(run: Run) -> None:
    everything = {one["name"]: one for one in json.loads(run("catalog", "--json")[1])}
    assert len(everything) >= 20
    fits = {file["name"]: file["fits"] for one in everything.values() for file in one["files"]}
    assert (fits["mistral"], fits["mistral:q8_0"], fits["llama3.3-70b:q2_k"]) == (True, False, False)
    assert everything["gemma3-12b-qat"]["gated"] is True
    (mistral,) = (file for file in everything["mistral"]["files"] if file["name"] == "mistral")
    assert 0 < mistral["n_ctx"] < 32768
    assert mistral["size"] < mistral["memory_needed"] < 8 * 10**9
    fitting = json.loads(run("catalog", "--fits", "--json")[1])
    assert {one["name"] for one in fitting} < set(everything)
    assert all(file["fits"] for one in fitting for file in one["files"])
    lines = run("catalog", "--fits")[1].splitlines()
    assert lines[0].split() == [
        *("NAME", "MODEL", "SIZE", "MEMORY", "CONTEXT", "FITS", "LICENCE", "GATED", "INSTALLED"),
    ]
    assert any(line.startswith("mistral  ") for line in lines)
    assert any(line.startswith("phi4:q3_k_m  ") or "phi4" not in line for line in lines)
    assert not any(line.startswith("llama3.3-70b") for line in lines)


@pytest.mark.usefixtures("small_machine")
def test_one_model_of_the_catalogue_with_all_its_quantizations(run: Run) -> None:
    notes, _, *rows = run("catalog", "mistral")[1].splitlines()
    assert notes.startswith("A good general model")
    assert [row.split()[0] for row in rows] == [
        *("mistral:q3_k_m", "mistral", "mistral:q5_k_m", "mistral:q6_k", "mistral:q8_0"),
    ]
    assert run("catalog", "mistrall")[0] == 3


@pytest.mark.usefixtures("root", "systemd")
def test_pull_is_for_what_is_elsewhere(run: Run, model_file: Path, hub: Hub) -> None:
    code, _, err = run("pull", model_file)
    assert (code, f"sudo llmsvc model add {model_file} installs it" in err) == (2, True)
    hub.repositories["o/r"] = Repository({"m.gguf": gguf()})
    told = json.loads(run("pull", "o/r/m.gguf", "--json")[1])
    assert (told["name"], told["changed"], told["updated"], told["in_place"]) == ("m", True, False, False)
    assert "is installed already" in run("pull", "o/r/m.gguf")[1]
    hub.repositories["o/r"].files["m.gguf"] = gguf(META | {"general.name": "Newer"})
    assert "model m has a newer file" in run("pull", "o/r/m.gguf")[1]
    assert json.loads(run("show", "m", "--json")[1])["commit"] == COMMIT


@pytest.mark.usefixtures("root")
def test_remove_takes_its_schedule_with_it(
    run: Run, systemd: list[str], model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone: list[str] = []
    monkeypatch.setattr(schedule, "remove", lambda name, times: gone.append(name))
    monkeypatch.setattr(schedule, "get", lambda name: schedule.Schedule(name, ["daily"]))
    run("add", model_file, "--name", "m")
    assert run("remove", "m")[0] == 0
    assert gone == ["m"]
