"""The command `llmsvc proxy`: settings and pepper in, one running server out."""

from __future__ import annotations

import dataclasses
import os
import socket
from pathlib import Path

import uvloop

from llmsvc import config, database, paths
from llmsvc.accounts import keys
from llmsvc.config import Config
from llmsvc.errors import UnavailableError
from llmsvc.proxy import tls
from llmsvc.proxy.alerts import Alerts
from llmsvc.proxy.auth import KeyDirectory
from llmsvc.proxy.counts import Counts
from llmsvc.proxy.errors import KEY_REVOKED
from llmsvc.proxy.exchange import Exchange
from llmsvc.proxy.fair_queue import FairQueue
from llmsvc.proxy.incidents import Incidents
from llmsvc.proxy.installed import Installed
from llmsvc.proxy.ledger import Ledger
from llmsvc.proxy.limits import Limits
from llmsvc.proxy.metrics import Metrics
from llmsvc.proxy.participants import Participants
from llmsvc.proxy.poison import Poison
from llmsvc.proxy.refusals import Refusals
from llmsvc.proxy.server import Server
from llmsvc.proxy.services import Services
from llmsvc.proxy.starting import Systemd
from llmsvc.proxy.status import Speed, Status
from llmsvc.proxy.switcher import Manager, Switcher
from llmsvc.proxy.unloaded import Memory
from llmsvc.proxy.upstream import Upstream
from llmsvc.proxy.usage import UsageReader
from llmsvc.systemd import activation, journal


@dataclasses.dataclass(frozen=True)
class Places:
    """Where the proxy finds and leaves its files.

    :param state: directory for ledger spool, key snapshot and windows
    :param instances: directory in which the backends have their sockets
    :param incidents: directory in which the units' hooks tell of crashes and rollbacks
    :param status: file that tells what the proxy is doing
    :param models_d: directory with the settings of the installed models
    """

    state: Path
    instances: Path = paths.RUN_INSTANCES
    incidents: Path = paths.RUN
    status: Path = paths.PROXY_STATUS
    models_d: Path = paths.MODELS_D


def main() -> int:
    """Runs the proxy until SIGTERM, with what systemd and config.env say. Returns the exit status.

    :raises SettingError: a bad value in config.env, or no pepper
    :raises UnavailableError: started by hand, and the port is taken
    """
    settings = config.load()
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    pepper = keys.read_pepper(Path(credentials, "pepper") if credentials else paths.PEPPER)
    state = Path(os.environ.get("STATE_DIRECTORY", paths.PROXY_STATE))
    sockets = activation.listen_sockets() or [listen(settings)]
    return run(settings, pepper, Places(state), sockets)


def run(
    settings: Config,
    pepper: bytes,
    places: Places,
    sockets: list[socket.socket],
    manager: Manager | None = None,
) -> int:
    """Runs the proxy on these sockets until SIGTERM. Returns the exit status.

    :param manager: who starts and stops models; systemd by default
    :raises SettingError: no HTTPS can be served with the certificate and the key
    """
    log = journal.setup("auth-proxy")
    tls_context = tls.context(settings, os.environ.get("CREDENTIALS_DIRECTORY"))
    running: set[Exchange] = set()

    def cut(removed: frozenset[int]) -> None:
        for exchange in list(running):
            if exchange.who.record.key_id in removed:
                exchange.abort(KEY_REVOKED)

    async def serve() -> int:
        conninfo = database.conninfo(settings)
        queue = FairQueue(
            settings.llama_proxy_queue_per_user,
            settings.llama_proxy_queue_total,
            settings.llama_proxy_hold_seconds,
        )
        memory = Memory(places.state / "unloaded.json")
        incidents = Incidents(places.incidents)
        poison = Poison(incidents)
        services = Services(
            config=settings,
            journal=log,
            keys=KeyDirectory(pepper, conninfo, places.state / "keys.json", cut),
            participants=Participants(settings.llama_proxy_end_users),
            limits=Limits(settings),
            refusals=Refusals(),
            queue=queue,
            counts=Counts(settings.llama_proxy_queue_per_user),
            upstream=Upstream(places.instances, queue, incidents, poison),
            switcher=Switcher(
                settings,
                queue,
                Installed(places.models_d),
                memory,
                manager or Systemd(),
                log,
            ),
            poison=poison,
            speed=Speed(),
            ledger=Ledger(places.state / "ledger.spool", conninfo),
            metrics=Metrics(),
            usage=UsageReader(conninfo),
            running=running,
        )
        status = Status(services.keys, queue, services.upstream, services.ledger, services.speed, memory)
        services.metrics.watch(status)
        alerts = Alerts(services.keys, services.ledger)
        server = Server(services, status, alerts, places.state / "limits.json", places.status, tls_context)
        await server.serve(sockets)
        return 1 if server.failed else 0

    return uvloop.run(serve())


def listen(settings: Config) -> socket.socket:
    """A listening socket on the configured address, for a proxy that was started by hand.

    :raises UnavailableError: the address or port is not free
    """
    host, port = settings.llama_proxy_host, settings.llama_proxy_port
    try:
        # the unit allows unix sockets alone: its listening socket must come from systemd
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError:
        raise UnavailableError(
            "systemd passed no listening socket", hint="systemctl restart auth-proxy.socket auth-proxy"
        ) from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise UnavailableError(
            f"cannot listen on {host} port {port}: {error.strerror}",
            hint="see who has the port with 'ss -ltnp'; systemd has it while auth-proxy.socket is active",
        ) from None
    sock.setblocking(False)
    return sock
