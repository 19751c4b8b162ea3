"""Whatever fails an installation, an upgrade, a change of mode or an uninstallation, and at whichever step:
the host is as it was before, or the next run completes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.machine.conftest import SUITES

PLACE = "/var/tmp/faults"
PYTHON = f"{PLACE}/other/bin/python"
WITH = "-c 'import sys; from llmsvc.cli.main import main; sys.exit(main())'"
PREPARE = f"""
mkdir -p {PLACE}; cp -a $(readlink /opt/llmsvc/venv) {PLACE}/other
cp -a {PLACE}/other {PLACE}/newer
for release in other newer; do
    sed -i "1s|.*|#!/opt/llmsvc/releases/$release/bin/python|" {PLACE}/$release/bin/llmsvc
done
cd {PLACE}/newer/lib/python3*/site-packages
sed -i 's/^__version__ = .*/__version__ = "9.9.9"/' llmsvc/__init__.py
echo 'CREATE TABLE new9001 (a int); ALTER TABLE llama_requests ADD COLUMN new9001 int;' \\
    >llmsvc/database/migrations/9001_new.sql
cd {PLACE}/newer/share/llmsvc
sed -i '2i # newer' templates/auth-proxy.service.j2 templates/llama-server@.service.j2 \\
    units/llmsvc-prune.timer units/llmsvc-generator
"""
"""The release that runs, and one that is newer."""
BARE = f"""
cd /; {PYTHON} {WITH} uninstall --purge --yes
mkdir -p /opt/llmsvc/releases; cp -a {PLACE}/other {PLACE}/newer /opt/llmsvc/releases/
"""
INSTALLED = f"""{BARE}
/opt/llmsvc/releases/other/bin/python {WITH} install --wheelhouse WHEELHOUSE
llmsvc model add gemma3 --wheelhouse WHEELHOUSE
sed -i 's/^OOMScoreAdjust=.*/OOMScoreAdjust=-50/' /etc/systemd/system/auth-proxy.service
echo '# mine' >>/etc/llmsvc/config.env
"""
ONE_KEY = f"{INSTALLED}\nllmsvc install --no-proxy\n"
TASKS: dict[str, dict[str, Any]] = {
    "a first installation": {
        "release": "other",
        "command": "install",
        "back": BARE,
        "sample": {
            "bookworm": [["kill", "line", 0.3], ["no-room", "line", 0.5], ["program-fails", "call", 0.6]],
            "trixie": [["kill", "line", 1.0], ["no-database", "line", 0.3], ["kill", "undo", 0.6]],
        },
    },
    "an upgrade and another model": {
        "release": "newer",
        "command": "install --model gemma3 --listen 127.0.0.1:8001 --listen /run/llmsvc.sock",
        "back": INSTALLED,
        "sample": {
            "bookworm": [
                *(["systemctl-once", "line", 0.9], ["program-outlives", "call", 0.05]),
                ["no-room-for-ever", "undo", 0.9],
            ]
        },
    },
    "to single-key mode": {
        "release": "other",
        "command": "install --no-proxy",
        "back": INSTALLED,
        "sample": {"trixie": [["program-outlives", "call", 0.7]]},
    },
    "back from single-key mode": {
        "release": "other",
        "command": "install --proxy",
        "back": ONE_KEY,
        "sample": {},
    },
    "an uninstallation": {
        "release": "",
        "command": "uninstall",
        "back": INSTALLED,
        "sample": {},
    },
    "a purge": {
        "release": "",
        "command": "uninstall --purge --yes",
        "back": INSTALLED,
        "sample": {"trixie": ["program-fails", 7]},
    },
}
"""What is done, on which machine; the faults of a normal run."""


@pytest.fixture(scope="module")
def wheelhouse(machine):
    return f"/var/cache/llmsvc/wheelhouse/{machine.suite}"


@pytest.fixture(scope="module", autouse=True)
def as_before(machine, wheelhouse):
    """The release of the checkout with both models and a first user, whatever the tests here did."""
    machine.shell(PREPARE)
    yield
    machine.shell(f"cd /; {PYTHON} {WITH} uninstall --purge --yes || :\nrm -rf {PLACE} /opt/llmsvc")
    machine.shell(
        f"/src/packaging/install.sh --wheelhouse {wheelhouse} --key-file /root/llmsvc.key\n"
        f"llmsvc model add gemma3 --wheelhouse {wheelhouse}"
    )


@pytest.mark.parametrize("name", TASKS)
def test_whatever_fails_at_whichever_step_the_host_is_as_before_or_the_next_run_completes(
    machine, wheelhouse, long, name, measured
):
    task = TASKS[name]
    sample = task["sample"].get(machine.suite)
    if not long and not sample:
        pytest.skip("with --long")
    # both suites do the first half of it, one of them all
    every = 1 if machine.suite == SUITES[0] else 5
    given: dict[str, Any] = {
        "command": task["command"].split(),
        "installed": task["back"] != BARE,
        "faults": every,
        "skip": 0,
        "kinds": [],
    }
    if not long:
        uninstalls = not task["release"]
        given |= {"kinds": [sample[0]], "faults": sample[1]} if uninstalls else {"faults": sample}
    if task["command"].startswith("install"):
        given["command"] += ["--wheelhouse", wheelhouse]
    python = f"/opt/llmsvc/releases/{task['release']}/bin/python" if task["release"] else PYTHON
    machine.shell(task["back"].replace("WHEELHOUSE", wheelhouse))
    done = machine.exec(
        *(python, "/src/tests/machine/fault_runner.py"),
        stdin=json.dumps(given),
        seconds=4 * 3600 if long else 600,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    if not long:
        assert len(answers) == (1 + len(sample) if task["release"] else 1)
    for answer in answers:
        check(answer)
    seconds = sum(answer.get("seconds", 0) for answer in answers)
    measured(f"{machine.suite}: {len(answers)} faults in {name}", seconds)


def check(answer: dict[str, Any]) -> None:
    """As before, or completed by the next run; and told in words."""
    assert "Traceback" not in answer["said"], answer
    assert answer.get("recovered", 0) == 0, answer
    if "uninstalling" in answer["fault"] or "putting back" in answer["fault"]:
        assert not answer["differs"], answer
        assert answer["faults"], answer
        assert answer["status"] == 0 or "putting back" in answer["fault"], answer
    elif answer["differs"]:
        assert answer.get("completed") == 0, (answer["differs"], answer)
        assert not answer["lacks"], answer
        assert not answer["back"], answer  # or what follows is compared with another machine
    else:
        assert answer["status"] != 0, answer
