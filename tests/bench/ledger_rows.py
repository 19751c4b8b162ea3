"""What a ledger of ten million requests costs on a real PostgreSQL: reports, new rows, retention, erasing.

    python -m tests.bench.ledger_rows [--rows 10000000] [--days 90] [--users 200] [--end-users 2000]

Makes a throwaway cluster in /tmp (about 330 bytes a row) and runs the commands as an admin does, each as a
process of its own. Wanted: `llmsvc usage` over 30 days in at most 1 s. Wall times tell something on a quiet
machine only.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psycopg

from llmsvc import paths
from llmsvc.accounts import keys, usage
from llmsvc.database import schema
from llmsvc.proxy import ledger
from tests.postgres.conftest import Cluster, run_cluster

Connection = psycopg.Connection[Any]

PEPPER = bytes(32)
FRONT_END_SHARE = 0.3
CHUNK = 200_000

USERS = """
INSERT INTO llama_users (username) SELECT 'user-' || i FROM generate_series(1, %s) i
"""
KEYS = """
INSERT INTO llama_api_keys (user_id, name, prefix, digest, on_behalf_of)
SELECT u.id, 'key-' || n, 'sk-llm-' || substr(md5(u.id || '-' || n), 1, 6),
       sha256(convert_to(u.id || '-' || n, 'UTF8')), CASE WHEN u.id = 1 THEN 'x-openwebui-user-email' END
  FROM llama_users u, generate_series(1, 2) n ORDER BY n, u.id
"""

ROWS = """
INSERT INTO llama_requests (request_id, username, user_id, key_id, end_user, client_addr, path, model, state,
       status_code, duration_ms, queue_ms, first_token_ms, request_bytes, response_bytes, prompt_tokens,
       completion_tokens, created_at)
SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(md5(i::text), 1, 3)
           || 'b' || substr(md5(i::text), 4, 15))::uuid,
       'user-' || u, u, u + CASE WHEN dice < 0.2 THEN %(users)s ELSE 0 END,
       CASE WHEN u = 1 THEN 'person' || e || '@example.org' END,
       ('192.0.2.' || 1 + u %% 200)::inet, '/v1/chat/completions',
       (ARRAY['smollm2', 'gemma3', 'mistral', 'mistral'])
           [1 + (extract(day FROM at)::int + (dice > 0.9)::int) %% 4],
       CASE WHEN dice < 0.96 THEN 'ok' WHEN dice < 0.97 THEN 'client_gone' WHEN dice < 0.98 THEN 'error'
            ELSE 'rejected_limit' END,
       CASE WHEN dice < 0.96 THEN 200 WHEN dice < 0.97 THEN 499 WHEN dice < 0.98 THEN 500 ELSE 429 END,
       (300 - 4000 * ln(1 - length))::int, (-800 * ln(1 - wait))::int, (200 - 300 * ln(1 - length))::int,
       (800 - 2000 * ln(1 - length))::int, (900 - 3000 * ln(1 - length))::int,
       (20 - 400 * ln(1 - length))::int, (1 - 180 * ln(1 - wait))::int, at
  FROM (SELECT i, random() AS dice, random() AS length, random() AS wait,
               now() - make_interval(secs => %(seconds)s * (1 - (i + random()) / %(rows)s)) AS at,
               CASE WHEN random() < %(share)s THEN 1
                    ELSE 2 + floor((%(users)s - 1) * random() ^ 2)::int END AS u,
               1 + floor(%(end_users)s * random() ^ 2)::int AS e
          FROM generate_series(%(start)s::int, %(end)s::int) i) d
"""
"""Some people ask much more than others; a part of all requests comes through a front end."""

COMMAND = (
    "import sys; from pathlib import Path\n"
    "from llmsvc import config, paths; from llmsvc.cli.main import main\n"
    "paths.CONFIG_ENV, paths.PEPPER, paths.PROXY_USER = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]\n"
    "raise SystemExit(main(sys.argv[4:]))"
)

COMMANDS: Sequence[Sequence[str]] = (
    ["usage"],
    ["usage", "--by", "end-user"],
    ["usage", "--by", "model"],
    ["usage", "--by", "day"],
    ["usage", "--by", "key"],
    ["usage", "--user", "user-7", "--by", "day"],
    ["usage", "--end-user", "person7@example.org", "--by", "day"],
    ["usage", "--since", "30d", "--until", "12h"],
    ["usage", "--since", "90d"],
    ["requests"],
    ["requests", "--user", "user-150"],
    ["requests", "--end-user", "person1999@example.org"],
    ["requests", "--model", "smollm2"],
    ["requests", "--model", "none"],
    ["requests", "--state", "rejected"],
    ["requests", "--state", "timeout"],
    ["user", "list"],
    ["key", "list"],
    ["audit"],
    ["db", "prune", "--dry-run"],
)


class Machine:
    """The commands of `llmsvc`, run against one database."""

    def __init__(self, folder: Path, cluster: Cluster, database: str) -> None:
        self.config = folder / "config.env"
        self.config.write_text(
            f"POSTGRES_AUTH_HOST={cluster.socket_dir}\nPOSTGRES_AUTH_PORT={cluster.port}\n"
            f"POSTGRES_AUTH_DB={database}\n"
        )
        self.pepper = folder / "pepper"
        self.pepper.write_text(keys.generate_pepper())
        folder.chmod(0o755)

    def run(self, *arguments: str, stdin: str = "") -> str:
        user = "nobody" if os.geteuid() == 0 else os.environ["USER"]
        argv = [sys.executable, "-c", COMMAND, str(self.config), str(self.pepper), user, *arguments]
        return subprocess.run(argv, input=stdin, check=True, capture_output=True, text=True).stdout


def fill(connection: Connection, args: argparse.Namespace) -> float:
    """Writes the rows and returns seconds."""
    begin = time.monotonic()
    connection.execute(USERS, [args.users])
    connection.execute(KEYS)
    about = {
        "rows": args.rows,
        "users": args.users,
        "end_users": args.end_users,
        "seconds": args.days * 86400.0,
        "share": FRONT_END_SHARE,
    }
    for start in range(0, args.rows, CHUNK):
        connection.execute(ROWS, about | {"start": start, "end": min(start + CHUNK, args.rows) - 1})
        done = min(start + CHUNK, args.rows)
        print(f"\r{done:,} of {args.rows:,} rows, {time.monotonic() - begin:.0f} s", end="", flush=True)
    print()
    connection.execute("VACUUM ANALYZE")
    return time.monotonic() - begin


def batches(connection: Connection, args: argparse.Namespace, number: int, size: int) -> list[float]:
    """Seconds of each of some batches of new rows, sent as the ledger does."""
    took = []
    for _ in range(number):
        rows = [_row(args) for _ in range(size)]
        text = json.dumps(rows)
        begin = time.monotonic()
        connection.execute(ledger._INSERT, [text])
        took.append(time.monotonic() - begin)
    return took


def _row(args: argparse.Namespace) -> dict[str, object]:
    user = 1 if secrets.randbelow(10) < 10 * FRONT_END_SHARE else 2 + secrets.randbelow(args.users - 1)
    return {
        "request_id": str(ledger.new_request_id()), "username": f"user-{user}", "user_id": user,
        "key_id": user, "client_addr": "192.0.2.1", "path": "/v1/chat/completions", "model": "mistral",
        "end_user": f"person{1 + secrets.randbelow(args.end_users)}@example.org" if user == 1 else None,
        "state": "ok", "status_code": 200, "duration_ms": 1200, "queue_ms": 200, "first_token_ms": 300,
        "request_bytes": 100, "response_bytes": 1000, "prompt_tokens": 10, "completion_tokens": 20,
        "created_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }  # fmt: skip


def show(what: str, seconds: Sequence[float], more: str = "") -> None:
    """One line of the result: median and worst."""
    ordered = sorted(seconds)
    print(f"{what:<58} {statistics.median(ordered):9.3f} {ordered[-1]:9.3f}  {more}", flush=True)


def timed(action: Callable[[], object], rounds: int) -> list[float]:
    took = []
    for _ in range(rounds):
        begin = time.monotonic()
        action()
        took.append(time.monotonic() - begin)
    return took


def measure(machine: Machine, connection: Connection, args: argparse.Namespace) -> None:
    print(f"\n{'seconds':<58} {'median':>9} {'worst':>9}")
    for command in COMMANDS:
        show("llmsvc " + " ".join(command), timed(lambda c=command: machine.run(*c), args.rounds))  # type: ignore[misc]
    key = keys.generate()
    connection.execute(
        "UPDATE llama_api_keys SET digest = %s WHERE id = 150",
        [keys.digest(keys.read_pepper(machine.pepper), key)],
    )
    show("llmsvc key whois -", timed(lambda: machine.run("key", "whois", "-", stdin=key), args.rounds))
    today = usage.own_days(30)
    for name, end_user in (("user-150", None), ("user-1", None), ("user-1", "person7@example.org")):
        wanted = {"username": name, "end_user": end_user, **today}
        show(
            f"GET /v1/usage of {end_user or name}: its query",
            timed(lambda w=wanted: connection.execute(usage.OWN_USAGE_QUERY, w).fetchall(), args.rounds),  # type: ignore[misc]
        )

    for size in (1, 100, 500):
        took = batches(connection, args, 100, size)
        show(f"a batch of {size} new rows", took, f"{size * len(took) / sum(took):,.0f} rows/s")

    with machine.config.open("a") as file:
        file.write(f"LLAMA_LEDGER_RETENTION_DAYS={args.days - 1}\n")
    due = json.loads(machine.run("db", "prune", "--dry-run", "--json"))["rows"]
    took = timed(lambda: machine.run("db", "prune"), 1)
    show(f"llmsvc db prune, {due:,} of {args.rows:,} rows", took, f"{due / took[0]:,.0f} rows/s")
    show(
        "llmsvc user erase-end-user person7@example.org --yes",
        timed(lambda: machine.run("user", "erase-end-user", "person7@example.org", "--yes"), 1),
    )
    show(
        "llmsvc user remove user-9 --erase --yes",
        timed(lambda: machine.run("user", "remove", "user-9", "--erase", "--yes"), 1),
    )
    took = batches(connection, args, 100, 500)
    show("a batch of 500 new rows, after erasing", took, f"{500 * len(took) / sum(took):,.0f} rows/s")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--days", type=int, default=90)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--end-users", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    name = f"bench{uuid.uuid4().hex[:8]}"
    with run_cluster("UTF8") as cluster, tempfile.TemporaryDirectory() as folder:
        cluster.run("psql", "-qc", f'CREATE ROLE "{paths.PROXY_USER}" LOGIN', "postgres")
        cluster.run("psql", "-qc", f'CREATE DATABASE {name} OWNER "{paths.PROXY_USER}"', "postgres")
        machine = Machine(Path(folder), cluster, name)
        with psycopg.connect(cluster.conninfo(name, paths.PROXY_USER), autocommit=True) as connection:
            schema.migrate(connection)
            print(f"filled in {fill(connection, args):.0f} s")
            for table in ("llama_requests", "llama_usage_daily"):
                text = f"SELECT count(*), pg_size_pretty(pg_total_relation_size('{table}')) FROM {table}"
                rows, size = connection.execute(text.encode()).fetchone() or (0, "")
                print(f"{table}: {rows:,} rows, {size}")
            measure(machine, connection, args)


if __name__ == "__main__":
    main()
