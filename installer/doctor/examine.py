"""All checks, in the order in which things depend on each other."""

from __future__ import annotations

import dataclasses
import importlib
import time

from installer.doctor.finding import Check, Finding, error
from installer.doctor.host import Host
from llmsvc.errors import Error

CHECKS = (
    "machine.systemd",
    "code.check",
    "settings.check",
    "credentials.users",
    "credentials.check",
    "units.written",
    "units.current",
    "units.states",
    "code.services",
    "exclusion.check",
    "network.check",
    "firewall.check",
    "tls.check",
    "database.check",
    "models.default",
    "models.check",
    "gpu.check",
    "serving.models",
    "serving.answer",
    "machine.clock",
    "machine.disk",
    "machine.state",
    "machine.journal",
    "machine.polkit",
    "machine.denials",
)
"""MODULE.FUNCTION in here. By name: a module that cannot be imported, as one that needs psycopg in a broken
environment, is a finding of its own and hides nothing else."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What was found; the gravest first. `seconds`: how long it took."""

    findings: list[Finding]
    checks: int
    seconds: float


def examine() -> Report:
    """Runs every check on this machine. Changes nothing. Needs root."""
    begun = time.monotonic()
    host = Host()
    findings = []
    for name in CHECKS:
        findings += _run(name, host)
    findings.sort(key=lambda finding: finding.level != "error")
    return Report(findings, len(CHECKS), time.monotonic() - begun)


def _run(name: str, host: Host) -> list[Finding]:
    module, _, function = name.partition(".")
    found: list[Finding] = []
    try:
        check: Check = getattr(importlib.import_module(f"installer.doctor.{module}"), function)
        found.extend(check(host))
    except Exception as problem:  # whatever it is, it hides nothing else
        hint = problem.hint if isinstance(problem, Error) else None
        said = problem if isinstance(problem, (Error, OSError, ImportError)) else repr(problem)
        found.append(
            error(
                "unknown",
                f"{name} could not be checked: {said}",
                "nobody knows whether it is in order",
                hint or "mend what the message names, and run llmsvc doctor again",
            )
        )
    return found
