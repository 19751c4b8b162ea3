"""The firewalls that distributions come with: whether they let clients through to the port."""

from __future__ import annotations

import ipaddress
import shutil
from collections.abc import Iterator

from installer.doctor.finding import Finding, warning
from installer.doctor.host import Host
from llmsvc.process import run


def check(host: Host) -> Iterator[Finding]:
    """Whether ufw or firewalld, if one of them runs, closes a port that is for other machines."""
    for port in sorted({int(place.rpartition(":")[2]) for place in host.config.listen if for_others(place)}):
        if _ufw_closes(port):
            yield _closed(port, "ufw", f"sudo ufw allow {port}/tcp")
        elif _firewalld_closes(port):
            rule = f"--add-port={port}/tcp"
            fix = f"sudo firewall-cmd --permanent {rule} && sudo firewall-cmd {rule}"
            yield _closed(port, "firewalld", fix)


def for_others(place: str) -> bool:
    """Whether other machines can be meant by a place where the service listens."""
    return (
        not place.startswith("/")
        and not ipaddress.ip_address(place.rpartition(":")[0].strip("[]")).is_loopback
    )


def _closed(port: int, who: str, fix: str) -> Finding:
    return warning(
        "firewall",
        f"{who} has no rule that opens port {port}, on which other machines are to reach the service",
        "their requests get no answer",
        fix,
    )


def _ufw_closes(port: int) -> bool:
    if not shutil.which("ufw"):
        return False
    shown = run(["ufw", "status", "verbose"], check=False).stdout
    if "Status: active" not in shown or "allow (incoming)" in shown:
        return False
    rules = [line.split()[0] for line in shown.splitlines() if " ALLOW" in line or " LIMIT" in line]
    return not any(_covers(rule, port) for rule in rules)


def _covers(rule: str, port: int) -> bool:
    """Whether a rule of ufw is for the port: `8001/tcp`, `8000:8010`; one with a name might be."""
    ports, _, protocol = rule.partition("/")
    if protocol == "udp" or rule == "OpenSSH":
        return False
    for part in ports.split(","):
        first, _, last = part.partition(":")
        if not first.isdigit() or int(first) <= port <= int(last or first):
            return True
    return False


def _firewalld_closes(port: int) -> bool:
    if not shutil.which("firewall-cmd"):
        return False
    if run(["firewall-cmd", "--state"], check=False).stdout.strip() != "running":
        return False
    return run(["firewall-cmd", f"--query-port={port}/tcp"], check=False).stdout.strip() == "no"
