"""Starts llama.cpp's server in its own process, hears its log, and ends it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from llmsvc.backend import llamalog
from llmsvc.backend.llamalog import Log
from llmsvc.backend.loading import Progress, exit_now

log = logging.getLogger(__name__)

_LINE = re.compile(rb"\d+\.\d+\.\d+\.\d+ ([A-Z]) (?:\w{3}  ?[^:]{0,14}: )?(.*)", re.S)
_LEVELS = {b"W": llamalog.WARN, b"E": llamalog.ERROR}
_INFO = 2
_ABORT = b"GGML_ASSERT("
_NO_KEY = b"no API key is set"
"""That its socket is open to all, which it is not: see LlamaServer."""
_LOOK_SECONDS = 0.05


class LlamaServer:
    """One server process; `address` is its unix socket."""

    def __init__(self, directory: Path, said: Log) -> None:
        """:param directory: where its socket goes, in a directory that only we can open"""
        self._said = said
        self._folder = directory / "engine"
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._folder.chmod(0o700)
        self.address = self._folder / "http.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self._ending = False
        self.ended = ""
        """How it ended where it did not become ready, as `signal 6`."""

    def start(self, params: dict[str, Any], size: int, progress: Progress | None) -> bool:
        """Starts it and waits until the model is loaded; false: it could not be, and the log says why.

        :param params: values of xllamacpp's CommonParams by name
        :param size: bytes of the model's file
        :param progress: told how far it is, if somebody is to be
        """
        self.address.unlink(missing_ok=True)
        self._ending = False
        command = [sys.executable, "-I", "-B", "-m", "llmsvc.backend.native.child"]
        pipe = subprocess.PIPE
        process = self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd="/")
        assert process.stdin and process.stdout
        listener = threading.Thread(target=self._listen, args=(process,), name="llama-log", daemon=True)
        listener.start()
        given = {"parent": os.getpid(), "params": {**params, "hostnames": [str(self.address)], "port": 0}}
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(given).encode() + b"\n")
            process.stdin.flush()
        if progress is not None:
            progress.process = process.pid
            told = (process, params["model.path"], size, progress)
            threading.Thread(target=_show, args=told, daemon=True).start()
        ready = process.stdout.readline() == b"ready\n"
        if not ready:
            self.ended = _how(process.wait())
            listener.join()
            with contextlib.suppress(BrokenPipeError), process:
                pass  # its pipes are closed
        else:
            threading.Thread(target=self._watch, args=(process,), name="llama-watch", daemon=True).start()
        if progress is not None:
            progress.process = None
        return ready

    def stop(self) -> None:
        """Ends it at once."""
        self._ending = True
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        how = _how(process.wait())
        if not self._ending:
            log.error("llama.cpp's server ended by itself, with %s", how)
            exit_now(1)

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        """Takes the log, so that nothing of it is written: it quotes prompts."""
        assert process.stderr
        level = _INFO
        for line in process.stderr:
            text = line
            if match := _LINE.match(line):
                level, text = _LEVELS.get(match[1], _INFO), match[2]
            elif _ABORT in line:
                level = llamalog.ERROR
            if _NO_KEY in line:
                continue
            self._said.receive(level, text.decode("utf-8", "replace"))
            if self._said.lost and not self._ending:
                # some drivers do not end the process, and every request would fail
                exit_now(1)


def _how(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"status {status}"


def _show(process: subprocess.Popen[bytes], model: str, size: int, progress: Progress) -> None:
    """Tells how much of the model is in memory, which xllamacpp does not."""
    while progress.process == process.pid and process.poll() is None:
        progress(min(max(_read(process.pid), _mapped(process.pid, model)) / size, 1.0))
        time.sleep(_LOOK_SECONDS)


def _read(pid: int) -> int:
    """Bytes it has read from files."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("rchar:"))
    return 0


def _mapped(pid: int, file: str) -> int:
    """Bytes of the file that it has mapped and in memory."""
    found = 0
    with contextlib.suppress(OSError, ValueError):
        inside = False
        for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
            if "-" in line.partition(" ")[0]:
                inside = line.endswith(file)
            elif inside and line.startswith("Rss:"):
                found += int(line.split()[1]) * 1024
    return found
