"""The small parts of the backend: environment, vocabulary, jobs, the watch over a load."""

import os
import time

import pytest

from llmsvc.backend import environment, llamalog, loading
from llmsvc.backend.jobs import REMEMBERED, Job, JobCancelledError, Jobs
from llmsvc.backend.llama_cpp_python.engine import Engine
from llmsvc.backend.loading import Progress, Watch
from llmsvc.backend.problem import ApiError
from llmsvc.backend.vocabulary import MARK, Vocabulary, tokenizer


def test_only_what_systemd_and_gpus_need_is_left():
    environ = {
        "HOST": "x",
        "SEED": "1",
        "MODEL": "y",
        "NOTIFY_SOCKET": "n",
        "PATH": "p",
        "CUDA_CACHE_PATH": "c",
    }
    environment.clean("all", environ)
    assert environ == {
        "NOTIFY_SOCKET": "n", "PATH": "p", "CUDA_CACHE_PATH": "c", "GGML_NO_BACKTRACE": "1",
        "GOMP_SPINCOUNT": "500", "OMP_WAIT_POLICY": "active",
    }  # fmt: skip


UUID = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"


@pytest.mark.parametrize(
    ("gpu", "amd", "seen"),
    [
        ("none", False, {"CUDA": "-1", "HIP": "-1", "GGML_VK": ""}),
        ("1,0", False, {"CUDA": "1,0", "HIP": "1,0", "GGML_VK": "1,0"}),
        (UUID, False, {"CUDA": UUID}),
        (UUID, True, {"CUDA": "7", "ROCR": UUID}),
    ],
)
def test_the_gpu_setting_selects(monkeypatch, tmp_path, gpu, amd, seen):
    monkeypatch.setattr(environment, "_AMD", tmp_path if amd else tmp_path / "absent")
    environ = {"CUDA_VISIBLE_DEVICES": "7"}
    environment.clean(gpu, environ)
    assert {key: value for key, value in environ.items() if "VISIBLE" in key} == {
        f"{kind}_VISIBLE_DEVICES": value for kind, value in seen.items()
    }


VOCABULARY = Vocabulary(
    [(b"<s>", True), (b"<|end|>", True), (b"[X]", True), (b"plain", False), (b"a" * 16, False)]
)


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ("nothing < here [", "nothing < here ["),
        ("a<|end|>b", f"a<{MARK}|end|>b"),
        ("<s><s>", f"<{MARK}s><{MARK}s>"),
        ("<<s>s>[X]", f"<<{MARK}s>s>[{MARK}X]"),
        (f"<{MARK}s>", f"<{MARK}s>"),
        ("plain", "plain"),
    ],
)
def test_control_tokens_are_cut_in_two(text, marked):
    assert VOCABULARY.protect([{"content": text, "n": 1}]) == [{"content": marked, "n": 1}]


def test_a_marked_text_is_made_into_tokens_piece_by_piece():
    calls = []

    def original(text, add_bos, special):
        calls.append((text, add_bos, special))
        return [len(text)]

    assert tokenizer(original)(f"ab{MARK}c".encode(), True, True) == [2, 1]
    assert calls == [(b"ab", True, True), (b"c", False, True)]


def test_the_longest_token_bounds_how_few_there_can_be():
    assert VOCABULARY.fewest_tokens(160) == 10


def test_texts_in_which_many_control_tokens_could_begin_are_costly():
    many = Vocabulary((b"<unused%d>" % at, True) for at in range(6000))
    assert not many.is_costly(["<" * 20_000, "x" * 1_000_000])
    assert many.is_costly(["<" * 30_000, "<" * 30_000])
    assert not VOCABULARY.is_costly(["<" * 1_000_000])


async def test_a_job_is_found_while_open_and_for_a_while_after():
    jobs = Jobs()
    job = jobs.add("one")
    with pytest.raises(ApiError):
        jobs.add("one")
    assert jobs.find("one") is job
    jobs.finish(job)
    assert jobs.find("one") is job
    for number in range(REMEMBERED):
        jobs.finish(jobs.add(str(number)))
    assert jobs.find("one") is None


async def test_the_first_reason_to_cancel_counts_and_a_finished_job_has_none():
    job = Job("x")
    job.check()
    job.cancel("stopping")
    job.cancel("left")
    with pytest.raises(JobCancelledError, match="stopping"):
        job.check()
    done = Job("y")
    done.done.set()
    done.cancel("left")
    assert done.cancelled is None


async def test_an_idle_engine_is_alive_and_one_that_does_not_move_is_not():
    engine = object.__new__(Engine)
    engine._job, engine.moved = None, time.monotonic() - 100
    assert engine.alive(60)
    engine._job = Job("x")
    assert not engine.alive(60)
    assert engine._abort_wanted(None) is False
    assert engine.alive(60)
    engine._job.cancel("left")
    assert engine._abort_wanted(None) is True


def test_a_load_that_does_nothing_is_noticed(tmp_path):
    stalled = []
    with Watch(Progress("x", tmp_path / "loading"), lambda: stalled.append(1), seconds=0.2):
        deadline = time.monotonic() + 10
        while not stalled and time.monotonic() < deadline:
            time.sleep(0.01)
    assert stalled


def test_a_load_that_moves_is_left_alone(tmp_path):
    progress, stalled = Progress("x", tmp_path / "loading"), []
    with Watch(progress, lambda: stalled.append(1), seconds=0.8):
        end = time.monotonic() + 2
        while time.monotonic() < end:
            progress(0.1)
            time.sleep(0.02)
    assert not stalled


def test_a_load_that_computes_is_left_alone(tmp_path, monkeypatch):
    # so much of so short a time, also beside others that compute
    monkeypatch.setattr(loading, "_CPU_SECONDS", 0.002)
    stalled = []
    with Watch(Progress("x", tmp_path / "loading"), lambda: stalled.append(1), seconds=0.8):
        end = time.monotonic() + 2
        while time.monotonic() < end:
            pass
    assert not stalled


def test_the_speed_is_that_of_the_tokens_after_the_first():
    job = Job("x")
    job.completion_tokens = 3
    assert job.speed() is None
    job.first_token, job.last_token, job.completion_tokens = 10.0, 12.0, 11
    assert job.speed() == 5.0


def test_how_far_a_load_is_stands_in_a_file_that_goes_with_it(tmp_path):
    file = tmp_path / "loading"
    progress = Progress("x.gguf", file)
    assert file.read_text() == "0 Loading x.gguf\n"
    with Watch(progress, lambda: None, seconds=100):
        progress._told = 0.0
        progress(0.374)
        assert file.read_text() == "37 Loading x.gguf\n"
        progress.testing()
        assert file.read_text() == "100 Testing x.gguf\n"
    assert not file.exists()


def test_a_load_that_moves_without_saying_so_touches_the_file(tmp_path):
    file = tmp_path / "loading"
    progress = Progress("x", file)
    os.utime(file, (1, 1))
    with Watch(progress, lambda: None, seconds=4):
        deadline = time.monotonic() + 60
        while file.stat().st_mtime == 1 and time.monotonic() < deadline:
            pass
        assert file.stat().st_mtime > 1


def test_a_file_that_cannot_be_written_does_not_fail_the_load(tmp_path):
    progress = Progress("x", tmp_path / "absent" / "loading")
    progress(0.5)
    progress.touch()
    progress.end()


@pytest.fixture
def log():
    lost = []
    made = llamalog.Log(lost.append)
    made.told = lost
    return made


def test_a_lost_gpu_is_told_once_with_the_drivers_words_also_while_serving(log):
    log.receive(4, "CUDA error: unspecified launch failure\n")
    log.receive(4, "CUDA error: again\n")
    assert log.told == ["CUDA error: unspecified launch failure"]
    assert log.lost


@pytest.mark.parametrize("while_loading", [True, False])
def test_words_that_do_not_mean_a_lost_gpu(log, while_loading):
    if while_loading:
        log.start()
    log.receive(4, "CUDA error: out of memory\n")
    log.receive(2, "CUDA error: only mentioned\n")
    log.receive(4, "failed to decode the batch\n")
    assert not log.told
