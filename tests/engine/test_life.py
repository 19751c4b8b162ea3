"""From the start of the process to its end, as systemd sees it."""

import contextlib
import json
import os
import pwd
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time

import pytest

VERSIONS = {"llama-cpp-python": "0.3.36", "native": "2026.10.11549"}
ONLY: dict[str, list[str]] = {"llama-cpp-python": ["min_tokens"], "native": []}
SLOTS = {"llama-cpp-python": 1, "native": 4}
SMOLLM2 = "MODEL={models}/smollm2.gguf\nN_THREADS=1\n"


def test_ready_is_told_after_load_progress_and_a_self_test(start, engine):
    backend = start(SMOLLM2, name="m")
    backend.wait_for("READY=1")
    told = [line for message in backend.messages for line in message.split("\n")]
    assert told[0] == "STATUS=Loading smollm2.gguf"
    assert any(line.startswith("STATUS=Loading smollm2.gguf: ") for line in told)
    assert told.index("STATUS=Testing smollm2.gguf") < told.index("READY=1")
    context = {"llama-cpp-python": "4096 tokens", "native": "4 slots of 4096 tokens"}[engine]
    assert told[-1] == f"STATUS=Serving m (smollm2.gguf, {context}, cpu)"
    assert backend.output == ""


def test_the_socket_is_for_owner_and_group_and_a_stale_one_is_replaced(start, smollm2):
    assert stat.S_IMODE(smollm2.socket.stat().st_mode) == 0o660
    nobody = pwd.getpwnam("nobody")
    script = f"import socket; socket.socket(socket.AF_UNIX).connect({str(smollm2.socket)!r})"
    for parent in smollm2.socket.parents:
        if str(parent).startswith("/tmp/"):
            os.chmod(parent, 0o755)
    done = subprocess.run([sys.executable, "-c", script], user=nobody.pw_uid, group=nobody.pw_gid,
                          extra_groups=[], capture_output=True, text=True)  # fmt: skip
    assert "PermissionError" in done.stderr


def test_a_stale_socket_is_replaced(start, tmp_path):
    backend = start(SMOLLM2)
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(backend.socket))
    stale.close()
    backend.wait_for("READY=1")
    assert backend.client.get("/health").status_code == 200


def test_an_idle_backend_ends_at_once_with_status_0(start):
    backend = start(SMOLLM2)
    backend.wait_for("READY=1")
    with backend.client.stream("GET", "/health"):
        pass
    # half a second where nothing else runs; for requests it would wait half a minute
    assert backend.stop() < 10
    assert any("STOPPING=1" in message for message in backend.messages)
    assert not backend.socket.exists()
    assert backend.output == ""


def accepts(backend):
    with socket.socket(socket.AF_UNIX) as late:
        return late.connect_ex(str(backend.socket)) == 0


def test_sigterm_lets_a_stream_finish(start):
    backend = start(SMOLLM2)
    backend.wait_for("READY=1")
    body = {"messages": [{"role": "user", "content": "Count to fifty."}], "max_tokens": 60, "stream": True}
    with backend.client.stream("POST", "/v1/chat/completions", json=body) as response:
        chunks = response.iter_bytes()
        first = next(chunks)
        backend.process.terminate()
        backend.wait_for("STOPPING=1")
        deadline = time.monotonic() + 30
        while accepts(backend):
            assert time.monotonic() < deadline
        text = b"".join([first, *chunks]).decode()
    assert text.endswith("data: [DONE]\n\n")
    assert backend.finish() == 0


def test_what_outlasts_the_drain_ends_with_an_error_event(start):
    backend = start(SMOLLM2, config="LLAMA_PROXY_DRAIN_SECONDS=1\n")
    backend.wait_for("READY=1")
    body = {
        "prompt": "One two three",
        "max_tokens": 3000,
        "stream": True,
        "logit_bias": {"2": -100, "0": -100},
    }
    with backend.client.stream("POST", "/v1/completions", json=body) as response:
        chunks = response.iter_bytes()
        first = next(chunks)
        backend.process.terminate()
        text = b"".join([first, *chunks]).decode()
    usage, error = text.split("\n\n")[-3:-1]
    assert json.loads(usage[6:])["usage"]["completion_tokens"] > 0
    assert json.loads(error[6:]) == {"error": STOPPING}
    assert "[DONE]" not in text
    assert backend.finish() == 0


@pytest.mark.parametrize("stream", [False, True])
def test_what_has_sent_nothing_at_the_end_of_the_drain_is_a_503_with_its_usage(start, stream):
    backend = start(SMOLLM2, config="LLAMA_PROXY_DRAIN_SECONDS=1\n")
    backend.wait_for("READY=1")
    answers = []
    body = {"prompt": "word " * 3500, "max_tokens": 1, "stream": stream}
    worker = threading.Thread(target=lambda: answers.append(backend.post("/v1/completions", body)))
    worker.start()
    while not backend.client.get("/health").json()["busy_since"]:
        time.sleep(0.01)
    backend.process.terminate()
    worker.join()
    assert answers[0].status_code == 503, (answers[0].text, backend.output)
    assert answers[0].json()["error"] == STOPPING
    assert answers[0].json()["usage"]["prompt_tokens"] == 3501
    assert backend.finish() == 0
    assert backend.output == ""


STOPPING = {
    "message": "the model is being stopped", "type": "server_error", "param": None, "code": "model_stopping"
}  # fmt: skip


def test_how_far_the_load_is_stands_beside_the_socket_until_it_is_ready(start):
    backend = start(SMOLLM2)
    file, seen = backend.socket.with_name("loading"), []
    while not any("READY=1" in message for message in backend.messages):
        assert backend.process.poll() is None, backend.output
        with contextlib.suppress(FileNotFoundError):
            seen.append(file.read_text())
    assert not file.exists()
    assert "0 Loading smollm2.gguf\n" in seen
    assert "100 Testing smollm2.gguf\n" in seen


def test_sigterm_while_loading_ends_at_once(start):
    backend = start(SMOLLM2)
    backend.wait_for("STATUS=Loading")
    backend.process.terminate()
    assert backend.finish() == 0
    assert backend.output == "m: stopped while it was loading\n"
    assert not any("READY=1" in message for message in backend.messages)


def test_the_watchdog_is_fed(smollm2):
    smollm2.messages.clear()
    smollm2.wait_for("WATCHDOG=1")


def test_a_stray_environment_changes_nothing(start):
    stray = {
        "N_CTX": "64",
        "HOST": "127.0.0.9",
        "VERBOSE": "1",
        "CONFIG_FILE": "/x",
        "EMBEDDING": "1",
        "API_KEY": "k",
    }
    backend = start(SMOLLM2 + "N_CTX=512\n", env=stray)
    backend.wait_for("READY=1")
    assert backend.client.get("/health").json()["n_ctx"] == 512
    assert backend.chat(max_tokens=1).status_code == 200
    assert backend.output == ""


def truncated(models, root):
    shutil.copyfile(models / "smollm2.gguf", root / "x.gguf")
    os.truncate(root / "x.gguf", 50_000_000)
    return "is truncated"


def text(models, root):
    (root / "x.gguf").write_text("hello, I am no model\n" * 10)
    return "is not a GGUF file"


def missing(models, root):
    return "cannot be read: No such file"


def random_bytes(models, root):
    (root / "x.gguf").write_bytes(b"GGUF" + bytes(range(256)) * 1000)
    return "is GGUF version"


def directory(models, root):
    (root / "x.gguf").mkdir()
    return "Is a directory"


def unknown_architecture(models, root):
    data = (models / "smollm2.gguf").read_bytes()
    assert data.count(b"general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0llama") == 1
    (root / "x.gguf").write_bytes(data.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0lhama", 1))
    return "unknown model architecture"


def spoiled_template(models, root, loop):
    data = (models / "smollm2.gguf").read_bytes()
    assert data.count(b"{% for message in messages %}") == 1 and len(loop) == 29
    (root / "x.gguf").write_bytes(data.replace(b"{% for message in messages %}", loop))


def failing_template(models, root):
    spoiled_template(models, root, b"{% for message in nothing()%}")
    return "its chat template fails: "


def broken_template(models, root):
    spoiled_template(models, root, b"{% for message in [0]|nope %}")
    return "its chat template "


@pytest.mark.parametrize(
    "spoil",
    [
        truncated,
        text,
        random_bytes,
        missing,
        directory,
        unknown_architecture,
        failing_template,
        broken_template,
    ],
    ids=lambda f: f.__name__,
)
def test_a_model_that_cannot_be_mended_ends_with_78_and_one_line(start, models, tmp_path, spoil):
    reason = spoil(models, tmp_path)
    backend = start(f"MODEL={tmp_path}/x.gguf\nN_THREADS=1\n")
    assert backend.finish() == 78
    assert backend.output.count("\n") == 1, backend.output
    assert backend.output.startswith("m: ")
    assert f"{tmp_path}/x.gguf" in backend.output
    assert reason in backend.output
    assert not any("READY" in message for message in backend.messages)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ("MODEL={models}/smollm2.gguf\nN_CTX=many\n", "m.env:2: N_CTX: must be a whole number"),
        ("MODEL={models}/smollm2.gguf\n\nCHAT_FORMAT=chatlm\n", "m.env:3: CHAT_FORMAT: must be "),
        ("MODEL={models}/smollm2.gguf\nCHAT_FORMAT=chat_template.x\n", "CHAT_FORMAT: "),
        ("MODEL={models}/smollm2.gguf\nCACHE=1\n", "m.env:2: CACHE: is not allowed"),
        ("MODEL={models}/smollm2.gguf\nTYPE_V=q8_0\n", "m.env:2: TYPE_V: a quantized value cache needs"),
        ("N_CTX=1\n", "MODEL: must name a GGUF file"),
    ],
)  # fmt: skip
def test_a_bad_setting_ends_with_78_and_one_line(start, settings, reason):
    backend = start(settings)
    assert backend.finish() == 78
    assert backend.output.count("\n") == 1, backend.output
    assert reason in backend.output


def test_a_missing_settings_file_ends_with_78_and_one_line(start):
    backend = start(SMOLLM2, name="a")
    backend.process.kill()
    backend.process.wait()
    backend.file.unlink()
    again = subprocess.run([*backend.process.args], capture_output=True, text=True)
    assert again.returncode == 78
    assert again.stderr.startswith(f"a: {backend.file}: there is no such file (hint: ")
    assert again.stderr.count("\n") == 1


def test_a_want_of_memory_is_told_in_one_line(start):
    backend = start(SMOLLM2 + "N_CTX=16777216\n")
    assert backend.finish() == 78
    assert backend.output.count("\n") == 1, backend.output
    assert "memory" in backend.output


def test_a_required_gpu_that_is_not_there_is_told_and_left_for_the_alert(start):
    backend = start(SMOLLM2 + "REQUIRE_GPU=1\n")
    assert backend.finish() == 78
    assert backend.output == "m: no layer got onto a GPU: llama.cpp found none\n"
    assert backend.socket.with_name("gpu-lost").read_text() == "llama.cpp found none\n"
    assert not backend.socket.with_name("loading").exists()


def test_health_answers_while_the_model_generates(smollm2, engine):
    idle = smollm2.client.get("/health").json()
    assert idle["busy_since"] is None
    assert idle["load_seconds"] > 0
    speed = idle.pop("tokens_per_second")
    assert speed is None or 1 < speed < 10000
    assert {**idle, "busy_since": 0, "load_seconds": 0} == {
        "status": "ok", "model": "smollm2", "model_file": "smollm2.gguf", "engine": engine,
        "engine_version": VERSIONS[engine], "slots": SLOTS[engine], "running": 0,
        "n_ctx": 4096, "n_ctx_train": 8192, "device": "cpu",
        "n_gpu_layers": 0, "n_layers": 30, "busy_since": 0, "load_seconds": 0, "embedding": False,
        "capabilities": ["chat", "completions", "json_schema", "logprobs", *ONLY[engine]],
    }  # fmt: skip
    body = {"prompt": "word " * 400, "max_tokens": 1}
    worker = threading.Thread(target=smollm2.post, args=("/v1/completions", body))
    worker.start()
    deadline = time.monotonic() + 60
    while not (busy := smollm2.client.get("/health").json())["busy_since"]:
        assert time.monotonic() < deadline
    assert busy["running"] == 1
    # still at the same: it has not waited for its end
    assert smollm2.client.get("/health").json()["busy_since"] == busy["busy_since"]
    worker.join()


def test_gemma3_works_too(gemma3):
    body = {"prompt": "Once upon a time", "max_tokens": 5, "stream": True}
    assert gemma3.events(gemma3.post("/v1/completions", body))[-1]["usage"] == {
        "prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10
    }  # fmt: skip
    assert gemma3.client.get("/health").json()["n_ctx"] == 4096


@pytest.mark.engine("llama-cpp-python")  # the other one tells, and has, what it rounds up to
def test_a_context_that_llama_cpp_rounds_up_ends_where_the_settings_say(start):
    backend = start("MODEL={models}/smollm2.gguf\nN_THREADS=1\nN_CTX=300\nN_BATCH=64\n")
    backend.wait_for("READY=1")
    assert backend.client.get("/health").json()["n_ctx"] == 300
    answer = backend.post("/v1/completions", {"prompt": " a" * 299, "max_tokens": 9, "min_tokens": 1}).json()
    assert answer["usage"] == {"prompt_tokens": 299, "completion_tokens": 1, "total_tokens": 300}
    assert answer["choices"][0]["finish_reason"] == "length"
    assert backend.post("/v1/completions", {"prompt": " a" * 300}).status_code == 400
    assert backend.output == ""
