"""`llmsvc doctor` finds each of many faults, planted one after the other, and none on a healthy machine.

Those of its fixes that are commands are followed, and mend what they are for.
"""

from __future__ import annotations

import json

from tests.machine.conftest import SUITES

CONFIG = "/etc/llmsvc/config.env"
CREDENTIALS = "/etc/llmsvc/credentials"
GEMMA = "/etc/llmsvc/models.d/gemma3.env"
MODELS = "/var/lib/llmsvc/models"
FILE = f"{MODELS}/gemma-3-270m-q4_k_m.gguf"
UNITS = "/etc/systemd/system"
GENERATED = "/run/systemd/generator"
VENV = "/opt/llmsvc/venv"
RELOAD = "systemctl daemon-reload"


def append(line: str, file: str = CONFIG) -> tuple[str, str]:
    return f"cp -p {file} /root/kept; echo '{line}' >>{file}", f"mv /root/kept {file}"


def move(file: str) -> tuple[str, str]:
    return f"mv {file} /root/kept", f"mv /root/kept {file}"


def mode(wrong: str, file: str) -> tuple[str, str]:
    return f"stat -c %a {file} >/root/kept; chmod {wrong} {file}", f"chmod $(cat /root/kept) {file}"


def sql(do: str, undo: str) -> tuple[str, str]:
    return tuple(f'runuser -u postgres -- psql -qd llmsvc -c "{text}"' for text in (do, undo))  # type: ignore[return-value]


def drop_in(unit: str, text: str, then: str, undo: str) -> tuple[str, str]:
    """An admin's own, with what makes it count."""
    folder = f"{UNITS}/{unit}.d"
    return (
        f"mkdir {folder}; printf '[Service]\\n{text}\\n' >{folder}/mine.conf; {RELOAD}; {then}",
        f"rm -r {folder}; {RELOAD}; {undo}",
    )


PROXY_AGAIN = "systemctl reset-failed auth-proxy.service auth-proxy.socket; systemctl restart auth-proxy"

FAULTS: dict[str, tuple[str, str]] = {
    "file-edited": (
        f"sed -i '1i # mine' {UNITS}/auth-proxy.service",
        f"sed -i 1d {UNITS}/auth-proxy.service; {RELOAD}",
    ),
    "file-missing": move(f"{UNITS}/llmsvc-prune.timer"),
    "manifest": move("/var/lib/llmsvc/manifest.json"),
    "reload-pending": (f"{RELOAD}; sleep 0.01; touch {UNITS}/auth-proxy.service", RELOAD),
    "unit-disabled": ("systemctl disable auth-proxy.socket", "systemctl enable auth-proxy.socket"),
    "unit-stopped": ("systemctl stop llmsvc-models.path", "systemctl start llmsvc-models.path"),
    "port-taken": (
        "systemctl stop auth-proxy.socket auth-proxy; systemd-run -q --unit=squatter --collect "
        "python3 -m http.server 8001 --bind 127.0.0.1; until ss -Hltn | grep -q :8001; do sleep 0.05; done",
        "systemctl stop squatter; systemctl start auth-proxy.socket auth-proxy",
    ),
    "program-missing": drop_in(
        "auth-proxy.service", "ExecStart=\\nExecStart=/nowhere/llmsvc proxy", "true", "true"
    ),
    "unit-broken": drop_in("auth-proxy.service", "Type=nonsense\\nExecStart=relative", "true", "true"),
    "unit-failed": drop_in(
        "auth-proxy.service",
        "InaccessiblePaths=/opt/llmsvc",
        "! systemctl restart auth-proxy",
        PROXY_AGAIN,
    ),
    "no-model": ("systemctl stop llama-server@smollm2", "systemctl start llama-server@smollm2"),
    "generator": mode("644", "/etc/systemd/system-generators/llmsvc-generator"),
    "exclusion-missing": (f"rm -r {GENERATED}/llama-server@gemma3.service.d", RELOAD),
    "exclusion-broken": (
        f"sed -i /Conflicts/d {GENERATED}/llama-server@*.service.d/50-llmsvc-exclusive.conf",
        RELOAD,
    ),
    "boot": (f"rm {GENERATED}/multi-user.target.wants/llama-server@smollm2.service", RELOAD),
    "config": append("LLAMA_PROXY_RATE_LIMIT=many"),
    "config-unreadable": mode("600", CONFIG),
    "settings-writable": ("chown nobody /etc/llmsvc", "chown root /etc/llmsvc"),
    "listen": append("LLAMA_PROXY_PORT=8009"),
    "no-tls": append("LLAMA_PROXY_HOST=0.0.0.0"),
    "credential-open": mode("644", f"{CREDENTIALS}/pepper"),
    "pepper": move(f"{CREDENTIALS}/pepper"),
    "pepper-wrong": (
        f"cp -p {CREDENTIALS}/pepper /root/kept; printf '%064d\\n' 7 >{CREDENTIALS}/pepper",
        f"mv /root/kept {CREDENTIALS}/pepper",
    ),
    "local-key": move(f"{CREDENTIALS}/local-key"),
    "local-key-wrong": sql(
        "update llama_users set enabled = false where hidden",
        "update llama_users set enabled = true where hidden",
    ),
    "database": (
        "systemctl stop postgresql; until pg_lsclusters -h | grep -q down; do sleep 0.05; done",
        "systemctl start postgresql",
    ),
    "database-proxy": drop_in(
        "auth-proxy.service",
        "InaccessiblePaths=/run/postgresql",
        "systemctl restart auth-proxy; until grep -q '\"database\": false' /run/llmsvc-proxy/status.json; "
        "do sleep 0.1; done",
        PROXY_AGAIN,
    ),
    "database-cluster": (
        "v=$(ls /usr/lib/postgresql); pg_createcluster $v other -p 5433 --start >/dev/null; "
        + append("POSTGRES_AUTH_PORT=5433")[0],
        "pg_dropcluster --stop $(ls /usr/lib/postgresql) other; " + append("")[1],
    ),
    "database-encoding": (
        "cd /; runuser -u postgres -- createdb -O llmsvc-proxy -E SQL_ASCII -T template0 --locale=C plain; "
        "runuser -u postgres -- pg_dump llmsvc | runuser -u postgres -- psql -q plain; "
        + append("POSTGRES_AUTH_DB=plain")[0],
        append("")[1] + "; systemctl restart auth-proxy; cd /; rm -f /root/plain-not-utf8.tar; "
        "for d in plain plain_not_utf8; do runuser -u postgres -- dropdb --if-exists --force $d; done",
    ),
    "migrations": sql(
        # one that can be applied to a database that has it
        "delete from llama_migrations where name = '0006_states'",
        "insert into llama_migrations values ('0006_states') on conflict do nothing",
    ),
    "database-newer": sql(
        "insert into llama_migrations values ('9999_later')",
        "delete from llama_migrations where name = '9999_later'",
    ),
    "default-missing": (
        "ln -sfn models.d/none.env /etc/llmsvc/default-model",
        f"ln -sfn models.d/smollm2.env /etc/llmsvc/default-model; {RELOAD}",
    ),
    "model-setting": append("N_CTX=much", GEMMA),
    "model-missing": move(FILE),
    "mount-missing": (
        f"mv {MODELS} /root/disk; mkdir {MODELS}; "
        f"echo '/root/disk {MODELS} none bind,noauto 0 0' >>/etc/fstab",
        f"umount {MODELS} || true; sed -i '\\#^/root/disk#d' /etc/fstab; "
        f"rmdir {MODELS}; mv /root/disk {MODELS}",
    ),
    "model-unreadable": mode("600", FILE),
    "model-damaged": (
        f"cp -p {FILE} /root/kept; printf x | dd of={FILE} bs=1 seek=100000000 conv=notrunc status=none",
        f"mv /root/kept {FILE}",
    ),
    "memory": append("N_CTX=16000000", GEMMA),
    "gpu-gone": (
        f"touch {VENV}/lib/python3.*/site-packages/llama_cpp/lib/libggml-base.so && cd {VENV}/lib/python3.*/"
        "site-packages/llama_cpp/lib && touch libggml-cuda.so",
        f"rm {VENV}/lib/python3.*/site-packages/llama_cpp/lib/libggml-cuda.so",
    ),
    "gpu-engine": append("REQUIRE_GPU=1", GEMMA),
    "interpreter-hidden": (
        f"mkdir /home/dev; cp /usr/bin/python3 /home/dev/; ln -sfn /home/dev/python3 {VENV}/bin/python",
        f"ln -sfn /usr/bin/python3 {VENV}/bin/python; rm -r /home/dev",
    ),
    "interpreter-missing": (
        f"ln -sfn /usr/bin/python3.99 {VENV}/bin/python",
        f"ln -sfn /usr/bin/python3 {VENV}/bin/python",
    ),
    "interpreter-old": (
        f"cp /usr/bin/python3 /usr/bin/python3.9; ln -sfn /usr/bin/python3.9 {VENV}/bin/python",
        f"ln -sfn /usr/bin/python3 {VENV}/bin/python; rm /usr/bin/python3.9",
    ),
    "code-writable": mode("777", f"{VENV}/bin/."),
    "clock": ("touch -d '+2 days' /var/lib/llmsvc/good-models", "touch /var/lib/llmsvc/good-models"),
    "disk": (
        "mount -t tmpfs -o size=4m,mode=750,uid=llmsvc-proxy,gid=llmsvc-proxy tmpfs /var/lib/llmsvc/proxy",
        "umount /var/lib/llmsvc/proxy",
    ),
    "state-owner": (
        "chown nobody /var/lib/llmsvc/proxy/keys.json",
        "chown llmsvc-proxy /var/lib/llmsvc/proxy/keys.json",
    ),
    "journal": (
        "mkdir -p /etc/systemd/journald.conf.d; "
        "printf '[Journal]\\nStorage=none\\n' >/etc/systemd/journald.conf.d/x.conf",
        "rm -r /etc/systemd/journald.conf.d",
    ),
    "polkit-rule": move("/etc/polkit-1/rules.d/50-llmsvc.rules"),
}
"""What doctor is to call it; how it is planted and undone."""

DEAR = {
    *("file-missing", "manifest", "exclusion-broken", "listen", "local-key", "polkit-rule"),
    *("database-cluster", "database-encoding", "model-missing", "model-damaged"),
    *("interpreter-hidden", "interpreter-missing", "interpreter-old"),
    # as cheap as others that are followed, and of the same kind
    *("exclusion-missing", "boot", "unit-stopped", "config-unreadable", "settings-writable", "code-writable"),
}
"""Whose fix is followed with --long alone: most of them install, or fetch a model."""

# Runs in the machine, with the distribution's Python: one of the faults takes that of `llmsvc` itself away.
# The sudo is for machines that have none, its --wheelhouse for what an admin's machine has a network for.
DRIVER = """
import glob, json, os, subprocess, sys
site, = glob.glob("/opt/llmsvc/venv/lib/python3.*/site-packages")
start = f"import sys; sys.path.insert(0, {site!r}); from llmsvc.cli.main import main; sys.exit(main())"
SUDO = '''#!/bin/sh
if [ "$1" = -u ]; then user=$2; shift 2; exec runuser -u "$user" -- "$@"; fi
case $* in "llmsvc model add"* | */packaging/install.sh*) set -- "$@" --wheelhouse "$HOUSE" ;; esac
exec "$@"
'''

def examine(*command):
    done = subprocess.run([*command, "doctor", "--json"], capture_output=True, text=True)
    try:
        return {"code": done.returncode, **json.loads(done.stdout)}
    except ValueError:
        return {"code": done.returncode, "said": done.stdout + done.stderr}

def shell(script):
    subprocess.run(["bash", "-euc", script], check=True, stdout=subprocess.DEVNULL)

def follow(commands):
    environment = {**os.environ, "PATH": "/root/followed:" + os.environ["PATH"], "HOUSE": house}
    for command in dict.fromkeys(commands):
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment)
        if done.returncode:
            return {"code": done.returncode, "said": f"{command}: {done.stdout}{done.stderr}"}
    # which also looks whether a model runs and the port answers
    return examine("llmsvc")

told = json.load(sys.stdin)
house = told["wheelhouse"]
os.mkdir("/root/followed")
with open("/root/followed/sudo", "w") as file:
    file.write(SUDO)
os.chmod("/root/followed/sudo", 0o755)
subprocess.run(["systemctl", "reset-failed"], check=True)
found, followed = {"healthy before": examine("llmsvc")}, {}
for name, (plant, undo) in told["faults"].items():
    shell(plant)
    try:
        command = [sys.executable, "-c", start] if name.startswith("interpreter") else ["llmsvc"]
        found[name] = examine(*command)
        fixes = [finding["command"] for finding in found[name].get("findings", ())]
        if name not in told["dear"] and fixes and all(fixes):
            followed[name] = follow(fixes)
    finally:
        shell(undo)
    if name in followed and any("llmsvc install" in fix for fix in fixes):
        # it was for what is undone now
        shell("llmsvc install")
found["healthy after"] = examine("llmsvc")
json.dump({"found": found, "followed": followed}, sys.stdout)
"""


def test_every_planted_fault_is_found_and_its_fix_mends_it(machine, measured, long):
    driver = "/root/driver.py"
    machine.exec("tee", driver, stdin=DRIVER)
    # each of them on one of the suites at least
    half = list(FAULTS)[SUITES.index(machine.suite) :: len(SUITES)]
    faults = {name: FAULTS[name] for name in (FAULTS if long else half)}
    house = f"/var/cache/llmsvc/wheelhouse/{machine.suite}"
    given = {"faults": faults, "dear": [] if long else sorted(DEAR), "wheelhouse": house}
    done = machine.exec("python3", driver, stdin=json.dumps(given), seconds=1800 if long else 600)
    found, followed = (json.loads(done.stdout)[what] for what in ("found", "followed"))
    for name in ("healthy before", "healthy after"):
        assert (found[name]["code"], found[name]["findings"]) == (0, []), name
    missed = {name: found[name] for name in faults if name not in names(found[name])}
    assert missed == {}
    for name in faults:
        levels = {finding["level"] for finding in found[name]["findings"]}
        assert found[name]["code"] == ("error" in levels), name
        assert all(finding["why"] and finding["fix"] for finding in found[name]["findings"])
    # a fault is found where it is, and does not hide behind others
    assert [name for name in faults if len(found[name]["findings"]) > 3] == []
    for name, after in followed.items():
        assert (after["code"], after.get("findings")) == (0, []), (name, after)
    assert len(followed) >= len(faults) // 4
    measured(f"doctor, {machine.suite}", found["healthy after"]["seconds"])
    assert "nothing to do" in machine.out("llmsvc", "install")
    machine.exec("rm", "-r", driver, "/root/followed")


def names(report):
    return [finding["name"] for finding in report.get("findings", ())]


def test_for_people_each_finding_has_three_lines(machine):
    machine.shell("chmod 644 /etc/llmsvc/credentials/pepper")
    try:
        done = machine.exec("llmsvc", "doctor", check=False)
    finally:
        machine.shell("chmod 600 /etc/llmsvc/credentials/pepper")
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert lines[0].startswith("error: /etc/llmsvc/credentials/pepper is not for root alone")
    assert [line[:7] for line in lines[1:3]] == ["  why: ", "  fix: "]
    assert lines[-1].startswith("1 error; ")
    refused = machine.exec("runuser", "-u", "nobody", "--", "llmsvc", "doctor", check=False)
    assert refused.returncode == 4 and "sudo" in refused.stderr
