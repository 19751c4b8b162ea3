from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmsvc import paths
from llmsvc.config import Config
from llmsvc.errors import ConflictError, Error, ModelError, NotFoundError, SettingError
from llmsvc.library import installing, settings, space, store
from tests.unit.library.ggufs import META, gguf

NAME = "some-model.q4_k_m"


def tree(models: Path) -> list[str]:
    """What lies in the library, or on its way into it."""
    unseen = (".incoming", ".names")
    return sorted(str(path.relative_to(models)) for path in models.rglob("*") if path.name not in unseen)


@pytest.fixture
def elsewhere(host: Path) -> Path:
    """A directory on another file system than the library, as a USB disk would be."""
    directory = Path("/dev/shm") / f"llmsvc-test-{os.getpid()}"
    if not directory.parent.is_dir() or directory.parent.stat().st_dev == host.stat().st_dev:
        pytest.skip("there is no second file system here")
    directory.mkdir()
    yield directory  # type: ignore[misc]
    shutil.rmtree(directory)


def test_a_local_file_is_hard_linked_and_left_as_it_is(conf: Config, models: Path, model_file: Path) -> None:
    model_file.chmod(0o604)
    installed = installing.add(str(model_file), config=conf)
    assert installed.linked
    assert installed.name == NAME
    assert installed.file.samefile(model_file)
    assert not installed.file.is_symlink()
    assert model_file.stat().st_mode & 0o777 == 0o604, "a link shares the mode: it is the owner's to choose"
    assert model_file.stat().st_nlink == 2, "nothing of the work directory is left"
    assert (models / f"{NAME}.gguf.sha256").exists()


def test_a_link_of_a_symlink_is_one_of_its_file(conf: Config, host: Path, model_file: Path) -> None:
    (host / "link.gguf").symlink_to(model_file)
    installed = installing.add(str(host / "link.gguf"), name="x", config=conf)
    assert not installed.file.is_symlink()
    assert installed.file.samefile(model_file)


def test_a_file_that_the_service_could_not_read_is_copied(conf: Config, model_file: Path) -> None:
    model_file.chmod(0o600)
    installed = installing.add(str(model_file), config=conf)
    assert not installed.linked
    assert not installed.file.samefile(model_file)
    assert installed.file.read_bytes() == model_file.read_bytes()
    assert installed.file.stat().st_mode & 0o7777 == 0o644
    assert model_file.stat().st_mode & 0o777 == 0o600


def test_a_file_of_another_file_system_is_copied(conf: Config, elsewhere: Path) -> None:
    file = elsewhere / "m.gguf"
    file.write_bytes(gguf())
    file.chmod(0o644)
    assert not installing.add(str(file), config=conf).linked
    with pytest.raises(Error, match="cannot be linked"):
        installing.add(str(file), name="other", config=conf, options=installing.Options(how="link"))


def test_copy_copies_and_link_links_or_fails(conf: Config, models: Path, model_file: Path) -> None:
    copied = installing.add(
        str(model_file), name="copied", config=conf, options=installing.Options(how="copy")
    )
    assert not copied.file.samefile(model_file)
    model_file.chmod(0o600)
    with pytest.raises(Error, match="cannot be linked") as caught:
        installing.add(str(model_file), name="linked", config=conf, options=installing.Options(how="link"))
    assert "--copy" in str(caught.value.hint)
    assert store.names() == ["copied"]
    assert tree(models) == ["copied.gguf", "copied.gguf.sha256"]


def test_a_file_that_lies_in_the_library_already_stays_where_it_is(conf: Config, models: Path) -> None:
    models.mkdir()
    file = models / "mine.gguf"
    file.write_bytes(gguf())
    file.chmod(0o644)
    assert installing.add(str(file), config=conf).file == file
    assert tree(models) == ["mine.gguf", "mine.gguf.sha256"]
    assert file.stat().st_nlink == 1


@pytest.mark.parametrize("data", [gguf()[:-1], b"<html>", b""])
def test_a_broken_file_leaves_nothing(conf: Config, models: Path, model_file: Path, data: bytes) -> None:
    model_file.write_bytes(data)
    with pytest.raises(ModelError) as caught:
        installing.add(str(model_file), config=conf)
    assert str(model_file) in caught.value.message
    assert tree(models) == []
    assert store.names() == []


def test_the_settings_that_are_written_are_valid_and_teach(conf: Config, model_file: Path) -> None:
    installing.add(str(model_file), name="m", config=conf)
    loaded = settings.load("m")
    assert loaded["N_CTX"] == 2048
    assert loaded["CHAT_FORMAT"] is None
    assert set(loaded.lines) == {"MODEL", "N_CTX"}
    text = store.env_file("m").read_text()
    assert "systemctl restart llama-server@m" in text
    assert "trained for 2048 tokens" in text
    assert max(map(len, text.splitlines())) <= 110
    assert store.env_file("m").stat().st_mode & 0o7777 == 0o644
    uncommented = text.replace("\n#GPU=", "\nGPU=").replace("\n#REQUIRE_GPU=", "\nREQUIRE_GPU=")
    store.env_file("m").write_text(uncommented)
    assert "GPU" in settings.load("m").lines


@pytest.mark.parametrize(("trained", "n_ctx"), [(512, 512), (131072, 32768), (None, 4096)])
def test_the_context_is_the_trained_one_within_bounds(
    conf: Config, model_file: Path, trained: int | None, n_ctx: int
) -> None:
    meta = {k: v for k, v in META.items() if k != "llama.context_length"}
    model_file.write_bytes(gguf(meta | ({"llama.context_length": trained} if trained else {})))
    installing.add(str(model_file), name="m", config=conf)
    assert settings.load("m")["N_CTX"] == n_ctx


def test_a_model_without_template_is_told_to_need_a_format(conf: Config, model_file: Path) -> None:
    model_file.write_bytes(gguf({k: v for k, v in META.items() if k != "tokenizer.chat_template"}))
    installing.add(str(model_file), name="m", config=conf)
    assert "This GGUF has no template of its own: set the format" in store.env_file("m").read_text()


def test_texts_of_a_hostile_model_cannot_become_settings(conf: Config, model_file: Path) -> None:
    evil = "x\nMODEL=/etc/shadow\n"
    model_file.write_bytes(gguf(META | {"general.name": evil}))
    installing.add(str(model_file), name="m", config=conf)
    assert settings.load("m").model.name == "m.gguf"


def test_a_strict_umask_of_the_admin_does_not_lock_the_service_out(
    conf: Config, models: Path, model_file: Path
) -> None:
    paths.MODELS_D.rmdir()
    before = os.umask(0o077)
    try:
        file = installing.add(
            str(model_file), name="m", config=conf, options=installing.Options(how="copy")
        ).file
    finally:
        os.umask(before)
    modes = [path.stat().st_mode & 0o7777 for path in (models, paths.MODELS_D, models / ".incoming")]
    assert modes == [0o755, 0o755, 0o700]
    written = (file, file.with_name("m.gguf.sha256"), store.env_file("m"))
    assert [path.stat().st_mode & 0o7777 for path in written] == [0o644] * 3


def test_a_library_directory_of_any_name_is_quoted_right(conf: Config, host: Path, model_file: Path) -> None:
    odd = dataclasses.replace(conf, llama_models_dir=host / "data disk $1 \"a\" 'b' \\c")
    installed = installing.add(str(model_file), name="m", config=odd)
    assert settings.load("m").model == installed.file
    assert installed.file.exists()


# ---------------------------------------------------------------------------------------------------------


def test_ensure_twice_does_nothing_and_keeps_the_admins_settings(conf: Config, model_file: Path) -> None:
    assert installing.pending(str(model_file), name="m") == f"install model m from file:{model_file}"
    assert installing.ensure(str(model_file), name="m", config=conf).changed
    env = store.env_file("m")
    env.write_text(env.read_text().replace("N_CTX=2048", "N_CTX=512"))
    before = env.stat()
    assert installing.pending(str(model_file), name="m") is None
    assert not installing.ensure(str(model_file), name="m", config=conf).changed
    assert (env.stat().st_ino, env.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("damage", ["gone", "truncated"])
def test_ensure_puts_back_a_file_and_keeps_the_settings(conf: Config, model_file: Path, damage: str) -> None:
    file = installing.ensure(
        str(model_file), name="m", config=conf, options=installing.Options(how="copy")
    ).file
    env = store.env_file("m")
    env.write_text(env.read_text().replace("N_CTX=2048", "N_CTX=512"))
    if damage == "gone":
        file.unlink()
    else:
        os.truncate(file, 100)
    assert installing.pending(str(model_file), name="m") is not None
    installed = installing.ensure(
        str(model_file), name="m", config=conf, options=installing.Options(how="copy")
    )
    assert installed == installing.Installed("m", file, changed=True)
    assert file.read_bytes() == model_file.read_bytes()
    assert settings.load("m")["N_CTX"] == 512


def test_ensure_does_not_replace_what_another_file_of_the_admin_is(conf: Config, model_file: Path) -> None:
    store.env_file("m").write_text("MODEL=/data/gone.gguf\n")
    with pytest.raises(ModelError, match=r"/data/gone\.gguf: cannot be read"):
        installing.ensure(str(model_file), name="m", config=conf)


def test_broken_settings_are_named(conf: Config, model_file: Path) -> None:
    store.env_file("m").write_text("MODEL=/m.gguf\nN_CTX=many\n")
    with pytest.raises(SettingError, match=r"m\.env:2: N_CTX"):
        installing.ensure(str(model_file), name="m", config=conf)


def test_adding_the_same_again_is_fine_and_another_under_its_name_is_not(
    conf: Config, host: Path, model_file: Path
) -> None:
    assert installing.add(str(model_file), name="m", config=conf).changed
    assert not installing.add(str(model_file), name="m", config=conf).changed
    other = host / "other.gguf"
    other.write_bytes(gguf(META | {"general.name": "Other"}))
    with pytest.raises(ConflictError) as caught:
        installing.add(str(other), name="m", config=conf)
    assert caught.value.message == "there is a model m already"
    assert settings.load("m").model.samefile(model_file)


def test_two_files_of_one_name_get_two_places(conf: Config, host: Path, models: Path) -> None:
    for number in (1, 2):
        (host / f"{number}").mkdir()
        (host / f"{number}/model.gguf").write_bytes(gguf(META | {"general.name": f"N{number}"}))
    installing.add(
        str(host / "1/model.gguf"), name="one", config=conf, options=installing.Options(how="copy")
    )
    installing.add(
        str(host / "2/model.gguf"), name="two", config=conf, options=installing.Options(how="copy")
    )
    installing.add(
        str(host / "1/model.gguf"), name="three", config=conf, options=installing.Options(how="copy")
    )
    assert [settings.load(name).model.name for name in ("one", "two", "three")] == [
        "model.gguf",
        "two.gguf",
        "model.gguf",
    ]
    assert tree(models) == ["model.gguf", "model.gguf.sha256", "two.gguf", "two.gguf.sha256"]


def test_several_adds_of_one_file_at_once_make_one_model(
    conf: Config, models: Path, model_file: Path
) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: installing.add(str(model_file), config=conf), range(8)))
    assert [result.changed for result in results].count(True) == 1
    assert tree(models) == [f"{NAME}.gguf", f"{NAME}.gguf.sha256"]


def test_of_two_models_that_want_one_name_at_once_one_gets_it(conf: Config, host: Path, models: Path) -> None:
    sources = []
    for number in range(6):
        sources.append(host / f"m{number}.gguf")
        sources[-1].write_bytes(gguf(META | {"general.name": f"N{number}"}))

    def attempt(file: Path) -> str:
        try:
            return installing.add(
                str(file), name="m", config=conf, options=installing.Options(how="copy")
            ).file.name
        except ConflictError:
            return ""

    with ThreadPoolExecutor(6) as pool:
        got = [name for name in pool.map(attempt, sources) if name]
    assert [settings.load("m").model.name] == got
    assert tree(models) == [got[0], f"{got[0]}.sha256"], "the files of the others are gone again"


def test_too_little_space_is_said_before_anything_is_copied(
    conf: Config, models: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "LEAST", shutil.disk_usage(model_file.parent).total)
    with pytest.raises(Error, match="not enough space in") as caught:
        installing.add(str(model_file), config=conf, options=installing.Options(how="copy"))
    assert "LLAMA_MODELS_DIR" in str(caught.value.hint)
    assert tree(models) == []


def test_a_library_that_cannot_be_written_is_one_line(conf: Config, host: Path, model_file: Path) -> None:
    (host / "blocked").write_text("")
    blocked = dataclasses.replace(conf, llama_models_dir=host / "blocked")
    with pytest.raises(Error, match="blocked: File exists"):
        installing.add(str(model_file), config=blocked)


def test_what_a_killed_process_left_is_removed(
    conf: Config, host: Path, models: Path, model_file: Path
) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom llmsvc.library import files\n"
        "with files.work_directory(Path(sys.argv[1]), 'hf:a/b/c.gguf') as work:\n"
        "    (work / 'partial.gguf').write_bytes(bytes(1000))\n"
        "    print('ready', flush=True)\n    sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(models)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin
    assert process.stdout
    with process, process.stdin, process.stdout:
        assert process.stdout.readline() == b"ready\n"
        installing.add(str(model_file), config=conf)
        assert list(models.rglob("partial.gguf")), "one that is at work is left alone"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert list(models.rglob("partial.gguf"))
    installing.add(str(model_file), name="again", config=conf)
    assert [path.name for path in (models / ".incoming").iterdir()] == [".names"]


# ---------------------------------------------------------------------------------------------------------


def test_the_default_is_a_relative_symlink_that_is_replaced(conf: Config, model_file: Path) -> None:
    assert store.default_model() is None
    for name in ("a", "b"):
        installing.add(str(model_file), name=name, config=conf)
        assert store.set_default(name)
        assert not store.set_default(name)
        assert os.readlink(paths.DEFAULT_MODEL) == f"models.d/{name}.env"
        assert store.default_model() == name
    assert sorted(p.name for p in paths.DEFAULT_MODEL.parent.iterdir()) == [
        "config.env",
        "default-model",
        "models.d",
    ]


@pytest.mark.parametrize("name", ["none", "../../etc/passwd", ""])
def test_an_unknown_model_cannot_be_the_default(conf: Config, model_file: Path, name: str) -> None:
    installing.add(str(model_file), name="a", config=conf)
    with pytest.raises(NotFoundError) as caught:
        store.set_default(name)
    assert caught.value.hint == "there are a"
    assert store.default_model() is None


def test_the_list_tells_what_is_there_and_what_is_wrong(conf: Config, host: Path, model_file: Path) -> None:
    installing.add(str(model_file), name="good", config=conf)
    store.set_default("good")
    (host / "run/good").mkdir(parents=True)
    store.env_file("bad").write_text("MODEL=/gone.gguf\n")
    store.env_file("worse").write_text("N_CTX\n")
    store.env_file("Not A Name").write_text("")
    found = {model.name: model for model in store.models()}
    assert list(found) == ["bad", "good", "worse"]
    good = found["good"]
    assert (good.problem, good.n_ctx, good.default, good.active) == (None, 2048, True, False)
    assert good.header is not None
    (host / "run/good/ready").touch()
    assert store.model("good").active
    assert "/gone.gguf: cannot be read" in str(found["bad"].problem)
    assert "expected KEY=value" in str(found["worse"].problem)


def test_for_those_who_may_not_look_an_instance_that_exists_is_active(
    conf: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hidden(type(Path())):  # type: ignore[misc]
        def stat(self, **options: bool) -> os.stat_result:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(paths, "instance_ready", lambda name: Hidden("/run/hidden/ready"))
    assert store.is_active("m")


@pytest.mark.parametrize(("line", "n_ctx"), [("", 2048), ("N_CTX=0", 2048), ("N_CTX=700", 700)])
def test_the_context_in_the_list_is_the_one_it_starts_with(
    conf: Config, model_file: Path, line: str, n_ctx: int
) -> None:
    store.env_file("m").write_text(f"MODEL={model_file}\n{line}\n")
    assert store.model("m").n_ctx == n_ctx


def test_remove_takes_the_file_only_when_nobody_else_uses_it(
    conf: Config, models: Path, model_file: Path
) -> None:
    model_file.chmod(0o600)
    file = installing.add(str(model_file), name="a", config=conf).file
    store.env_file("b").write_text(f"MODEL={file.name}\n")
    assert store.remove("a", conf) == store.Removed("a", [], 0)
    assert file.exists()
    assert store.remove("b", conf) == store.Removed("b", [file], model_file.stat().st_size)
    assert tree(models) == []
    assert store.names() == []


def test_removing_a_link_frees_nothing_and_keeps_the_original(conf: Config, model_file: Path) -> None:
    file = installing.add(str(model_file), name="a", config=conf).file
    assert store.remove("a", conf) == store.Removed("a", [file], 0)
    assert model_file.read_bytes() == gguf()


def test_remove_never_touches_a_file_outside_the_library(conf: Config, model_file: Path) -> None:
    store.env_file("m").write_text(f"MODEL={model_file}\n")
    assert store.remove("m", conf).files == []
    assert model_file.exists()


def test_a_model_with_broken_settings_can_be_removed(conf: Config) -> None:
    store.env_file("m").write_text("what is this\n")
    assert store.remove("m", conf).files == []
    assert store.names() == []


def test_the_running_and_the_default_model_are_not_removed(
    conf: Config, host: Path, model_file: Path
) -> None:
    installing.add(str(model_file), name="m", config=conf)
    (host / "run/m").mkdir(parents=True)
    with pytest.raises(ConflictError, match="model m is running"):
        store.remove("m", conf)
    (host / "run/m").rmdir()
    store.set_default("m")
    with pytest.raises(ConflictError, match="model m is the default"):
        store.remove("m", conf)
    assert store.names() == ["m"]


# ---------------------------------------------------------------------------------------------------------
# link, move


LINK, MOVE = installing.Options(how="link"), installing.Options(how="move")


def test_move_leaves_one_file_in_the_library_that_the_service_can_read(
    conf: Config, models: Path, model_file: Path
) -> None:
    contents = model_file.read_bytes()
    model_file.chmod(0o600)
    installed = installing.add(str(model_file), name="m", config=conf, options=MOVE)
    assert not model_file.exists()
    assert installed.file.read_bytes() == contents
    assert (installed.file.stat().st_mode & 0o7777, installed.file.stat().st_nlink) == (0o644, 1)
    assert not installed.linked


def test_move_from_another_disk_removes_the_original_at_the_end(conf: Config, elsewhere: Path) -> None:
    file = elsewhere / "m.gguf"
    file.write_bytes(gguf())
    assert installing.add(str(file), config=conf, options=MOVE).file.read_bytes() == gguf()
    assert not file.exists()


def test_a_move_that_fails_leaves_the_original(
    conf: Config, host: Path, models: Path, model_file: Path
) -> None:
    broken = host / "broken.gguf"
    broken.write_bytes(gguf()[:-1])
    with pytest.raises(ModelError):
        installing.add(str(broken), config=conf, options=MOVE)
    store.env_file("m").write_text(f"MODEL={model_file}\n")
    for taken in (model_file.name.replace(" ", "-"), f"{NAME}.gguf"):
        (models / taken).write_bytes(b"something else")
    with pytest.raises(ConflictError):
        installing.add(str(model_file), config=conf, options=MOVE)
    assert broken.exists() and model_file.exists()
    assert model_file.stat().st_nlink == 1


def test_move_of_a_file_that_lies_in_the_library_keeps_it(conf: Config, models: Path) -> None:
    models.mkdir()
    file = models / "mine.gguf"
    file.write_bytes(gguf())
    assert installing.add(str(file), config=conf, options=MOVE).file == file
    assert file.read_bytes() == gguf()
    assert tree(models) == ["mine.gguf", "mine.gguf.sha256"]
