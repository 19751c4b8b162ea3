"""`llmsvc backend NAME`: the main program of llama-server@NAME.service."""

from __future__ import annotations

import contextlib
import gc
import time
import traceback
from collections.abc import Callable

from llmsvc import atomic, config, paths
from llmsvc.backend import environment, loading, single_key
from llmsvc.errors import EX_CONFIG, Error
from llmsvc.library import gguf, settings
from llmsvc.systemd import activation, journal, notify


def main(name: str) -> int:
    """Loads the model NAME and serves it until SIGTERM.

    :returns: the exit status: 0 stopped; 78 it could not be loaded, and another model is to run instead; 1 it
        failed later, and is to be started again
    """
    log = journal.setup("llama-server")

    def stop() -> None:
        log.send(f"{name}: stopped while it was loading")
        # whatever stands there instead, we end
        with contextlib.suppress(OSError):
            paths.instance_loading(name).unlink()
        loading.exit_now(0)

    loading.on_sigterm(stop)
    status = EX_CONFIG
    try:
        serve = _load(name, log)
        status = 1
        serve()
    except Error as error:
        hint = f" (hint: {error.hint})" if error.hint else ""
        _failed(log, name, f"{error.message}{hint}")
        return status
    except MemoryError:
        _failed(log, name, "not enough memory")
        return status
    except Exception as error:  # the journal gets one line whatever it is
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{place.filename.rpartition('/')[2]}:{place.lineno}"
        said = " ".join(str(error).split())[:200]
        _failed(log, name, f"unexpected {type(error).__name__} in {where}: {said}")
        return status
    return 0


def _failed(log: journal.Journal, name: str, message: str) -> None:
    log.send(f"{name}: {message}", priority=3)
    notify.status(f"Failed: {message}")


def _load(name: str, log: journal.Journal) -> Callable[[], None]:
    """Loads and tests the model; the function that it returns serves it, until SIGTERM."""
    begun = time.monotonic()
    model = settings.load(name)
    max_body, drain = config.values("LLAMA_PROXY_MAX_BODY_BYTES", "LLAMA_PROXY_DRAIN_SECONDS")
    header = gguf.read_header(model.model)
    # of single-key mode; both are in the environment, which is cleaned
    public = activation.listen_sockets()
    key = single_key.read_key() if public else None
    environment.clean(model["GPU"])

    def stalled() -> None:
        idle = f"nothing read and nothing computed for {loading.STALL_SECONDS:g} s"
        _failed(log, name, f"loading does not move: {idle}")
        loading.exit_now(EX_CONFIG)

    progress = loading.Progress(model.model.name, paths.instance_loading(name))
    with loading.Watch(progress, stalled):
        # llama_cpp, numpy and FastAPI read the environment and take most of a second to import
        from llmsvc.backend import engines
        from llmsvc.backend.adapter import Adapter
        from llmsvc.backend.server import Server, bind

        listener = bind(paths.instance_socket(name))
        directory = paths.instance_socket(name).parent
        engine = engines.load(model, header, progress, _gpu_lost(name), directory)
        progress.testing()
        try:
            engine.self_test()
        except Error:
            engine.close()
            raise
    gc.collect()
    gc.freeze()
    # the proxy has checked the limit already, and may have added a field
    load_seconds = time.monotonic() - begun
    adapter = Adapter(engine, max_body_bytes=max_body + 4096, load_seconds=load_seconds)
    each = f"{engine.slots} slots of " if engine.slots > 1 else ""
    context = f"{each}{engine.facts.n_ctx} tokens"
    status = f"Serving {name} ({model.model.name}, {context}, {engine.facts.device})"
    app = single_key.SingleKey(adapter, key) if key else adapter
    server = Server(app, adapter, engine, drain_seconds=drain, status=status)

    def serve() -> None:
        server.run(sockets=[listener, *public])
        paths.instance_socket(name).unlink(missing_ok=True)
        if adapter.jobs.busy_since():
            # the drain is over and the model still computes: neither wait for that thread nor free its memory
            loading.exit_now(0)
        engine.close()

    return serve


def _gpu_lost(name: str) -> Callable[[str], None]:
    """Leaves word that the GPU is lost, for instance-hook to alert with: the process is about to end."""
    file = paths.instance_gpu_lost(name)
    with contextlib.suppress(OSError):
        file.unlink()

    def lost(words: str) -> None:
        with contextlib.suppress(OSError):
            atomic.write(file, f"{words}\n", 0o644, sync=False)

    return lost
