"""The system's users and groups of the services: which are missing, and which are ours."""

from __future__ import annotations

import grp
import pwd
import shlex

from installer import putback, render
from installer.manifest import Manifest
from installer.undo import Undo
from llmsvc import paths
from llmsvc.process import run

USERS = (paths.PROXY_USER, paths.BACKEND_USER)
GROUPS = (*USERS, paths.ADMIN_GROUP)
SYSUSERS = paths.SYSUSERS / "llmsvc.conf"


def missing() -> bool:
    """Whether one of them is not there."""
    return not (
        all(putback.known(pwd.getpwnam, name) for name in USERS)
        and putback.known(grp.getgrnam, paths.ADMIN_GROUP)
    )


def make(manifest: Manifest, undo: Undo) -> None:
    """Makes those that are missing, and notes which these are."""
    made = undo.users(USERS, GROUPS)
    run(["systemd-sysusers", SYSUSERS])
    _note(manifest, made)


def forgotten(manifest: Manifest) -> dict[str, list[str]]:
    """`users` and `groups` that the manifest knows no more, and that are ours by their description."""
    lines = [shlex.split(line, comments=True) for line in render.ours("llmsvc.sysusers").splitlines()]
    described = {words[1]: words[3] for words in lines if words[:1] == ["u"]}
    users, groups = [], []
    for name, text in described.items():
        if name in manifest.made.get("users", ()) or not putback.known(pwd.getpwnam, name):
            continue
        entry = pwd.getpwnam(name)
        if entry.pw_gecos == text:
            users.append(name)
            groups += [name] if grp.getgrgid(entry.pw_gid).gr_name == name else []
    return {"users": users, "groups": groups} if users else {}


def remember(manifest: Manifest) -> None:
    """Notes what forgotten() found."""
    _note(manifest, forgotten(manifest))


def _note(manifest: Manifest, found: dict[str, list[str]]) -> None:
    for kind, names in found.items():
        manifest.made[kind] = sorted({*manifest.made.get(kind, ()), *names})
    manifest.save()
