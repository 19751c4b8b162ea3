"""What the service keeps of its requests: sums for ever, rows for a while, the last use of each key."""

from __future__ import annotations

import json
import time


def shown(machine, *command: str):
    return json.loads(machine.out("llmsvc", *command, "--json"))


def test_the_night_removes_old_rows_and_no_sum(machine):
    assert machine.states("llmsvc-prune.timer") == ["active"]
    assert machine.out("systemctl", "is-enabled", "llmsvc-prune.timer") == "enabled"
    psql = ("runuser", "-u", "postgres", "--", "psql", "-d", "llmsvc", "-Xqc")
    machine.exec(
        *psql,
        "insert into llama_requests (request_id, username, user_id, key_id, path, state, request_bytes,"
        " created_at) select gen_random_uuid(), 'somebody', 0, 0, '/', 'ok', 1, now() - interval '100 days'"
        " from generate_series(1, 12345)",
    )
    machine.exec("systemctl", "start", "llmsvc-prune.service")
    (entry,) = [
        entry["MESSAGE"]
        for entry in machine.journal("-u", "llmsvc-prune")
        if str(entry["MESSAGE"]).startswith("removed 12345 ")
    ]
    assert entry.endswith(", 90 days ago")
    assert machine.sql("select count(*) from llama_requests where username = 'somebody'") == [{"count": 0}]
    assert shown(machine, "usage", "--since", "120d", "--user", "somebody")["total"]["requests"] == 12345
    assert shown(machine, "audit", "--since", "1h", "--actor", "llmsvc-proxy")[-1]["verb"] == "db prune"
    machine.exec(*psql, "delete from llama_usage_daily where username = 'somebody'")


def test_a_key_that_was_found_tells_where_it_was_used(machine):
    key = machine.add_user("found", "--expires", "1d")
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    assert machine.post("/v1/chat/completions", body, key).status_code == 200
    deadline = time.monotonic() + 10
    while not (known := shown(machine, "key", "list", "found")[0])["last_used_at"]:
        assert time.monotonic() < deadline
    machine.shell(
        f"umask 077; printf %s {key} > /root/found; llmsvc key whois - --json < /root/found > /root/out"
    )
    owner = json.loads(machine.out("cat", "/root/out"))
    assert (owner["username"], owner["state"], owner["last_used_at"]) == (
        "found",
        "active",
        known["last_used_at"],
    )
    assert [address["address"] for address in owner["addresses"]] == ["127.0.0.1"]
    machine.shell("rm /root/found /root/out; llmsvc user remove found --erase --yes")
    assert shown(machine, "requests", "--user", "found") == []
