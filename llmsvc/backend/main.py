"""`llmsvc backend NAME`: the main program of llama-server@NAME.service."""

from __future__ import annotations

import gc

from llmsvc import config, paths
from llmsvc.backend import environment, loading
from llmsvc.errors import Error
from llmsvc.library import gguf, settings
from llmsvc.systemd import journal, notify


def main(name: str) -> int:
    """Loads the model NAME and serves it until SIGTERM.

    :returns: the exit status: 0 stopped, 1 a failure that may pass, 78 one that no restart can mend
    """
    log = journal.setup("llama-server")
    try:
        _serve(name, log)
    except Error as error:
        hint = f" (hint: {error.hint})" if error.hint else ""
        log.send(f"{name}: {error.message}{hint}", priority=3)
        notify.status(f"Failed: {error.message}")
        # 2 to 6 mean something on the command line only
        return error.exit_code if error.exit_code == 78 else 1
    return 0


def _serve(name: str, log: journal.Journal) -> None:
    model = settings.load(name)
    max_body, drain = config.values("LLAMA_PROXY_MAX_BODY_BYTES", "LLAMA_PROXY_DRAIN_SECONDS")
    header = gguf.read_header(model.model)
    environment.clean(model["GPU"])

    def stalled() -> None:
        message = f"loading does not move: nothing read and nothing computed for {loading.STALL_SECONDS:g} s"
        log.send(f"{name}: {message}", priority=3)
        notify.status(f"Failed: {message}")
        loading.exit_now(1)

    progress = loading.Progress(model.model.name)
    with loading.Watch(progress, stalled):
        # llama_cpp, numpy and FastAPI read the environment and take most of a second to import
        from llmsvc.backend.adapter import Adapter
        from llmsvc.backend.engine import Engine
        from llmsvc.backend.server import Server, bind

        listener = bind(paths.instance_socket(name))
        engine = Engine(model, header, progress)
        notify.status(f"Testing {model.model.name}")
        try:
            engine.self_test()
        except Error:
            engine.close()
            raise
    gc.collect()
    gc.freeze()
    # the proxy has checked the limit already, and may have added a field
    adapter = Adapter(engine, max_body_bytes=max_body + 4096)
    status = f"Serving {name} ({model.model.name}, {engine.n_ctx} tokens, {engine.device})"
    server = Server(adapter, engine, drain_seconds=drain, status=status)
    server.run(sockets=[listener])
    paths.instance_socket(name).unlink(missing_ok=True)
    if adapter.jobs.busy_since():
        # the drain is over and the model still computes: neither wait for that thread nor free its memory
        loading.exit_now(0)
    engine.close()
