"""`llmsvc doctor`: what is wrong, why that matters, and what mends it."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING

from llmsvc.cli import output
from llmsvc.cli.output import Result

if TYPE_CHECKING:
    from installer.doctor.examine import Report
    from installer.doctor.finding import Finding

_COLOURS = {"error": "\x1b[1;31m", "warning": "\x1b[1;33m"}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds it to the command line."""
    parser = subparsers.add_parser(
        "doctor",
        help="find what is wrong with this installation, and what mends it",
        description="Looks at all that llmsvc needs on this machine: units and what systemd made of them,\n"
        "settings, credentials, the database and its pepper, model files and memory, the GPU, the\n"
        "port, clock, disk, journal and polkit. Changes nothing. Model files are read whole only if\n"
        "they changed since their sum was last found right.",
        epilog="A fix that begins with 'sudo' is a command to be pasted as it stands, 'command' in --json.\n"
        "Where you have to decide or to fill in, that is null, and 'fix' says what to do.\n\n"
        "examples:\n"
        "  sudo llmsvc doctor\n"
        "  sudo llmsvc doctor --json | jq -r '.findings[] | .name, .command'\n\n"
        "exit status: 0 nothing is wrong, or warnings only; 1 at least one error",
    )
    parser.set_defaults(command=_doctor)


def _doctor(args: argparse.Namespace) -> Result:
    from llmsvc.process import require_root

    require_root("'llmsvc doctor'")
    from installer.doctor.examine import examine

    report = examine()
    errors = sum(finding.level == "error" for finding in report.findings)
    data = {
        "healthy": not errors,
        "checks": report.checks,
        "seconds": round(report.seconds, 3),
        "findings": [
            {**dataclasses.asdict(finding), "command": finding.command} for finding in report.findings
        ],
    }
    return Result(data, _text(report, errors), exit_code=1 if errors else 0)


def _text(report: Report, errors: int) -> str:
    colour = output.has_colour(sys.stdout)
    lines = [line for finding in report.findings for line in (*_lines(finding, colour), "")]
    warnings = len(report.findings) - errors
    counted = [
        f"{count} {word}{'' if count == 1 else 's'}"
        for count, word in ((errors, "error"), (warnings, "warning"))
        if count
    ]
    said = " and ".join(counted) or "nothing is wrong"
    return "\n".join([*lines, f"{said}; {report.checks} checks in {output.duration(report.seconds)}"])


def _lines(finding: Finding, colour: bool) -> list[str]:
    level = f"{_COLOURS[finding.level]}{finding.level}\x1b[0m" if colour else finding.level
    return [
        f"{level}: {output.printable(finding.what)}",
        f"  why: {output.printable(finding.why)}",
        f"  fix: {output.printable(finding.fix)}",
    ]
