"""Whose name stands in the audit and in the journal."""

from __future__ import annotations

import os
import pwd

import pytest

from llmsvc import actor

NOBODY = pwd.getpwnam("nobody")


@pytest.fixture
def loginuid(tmp_path, monkeypatch):
    file = tmp_path / "loginuid"
    monkeypatch.setattr(actor, "_LOGINUID", file)
    monkeypatch.delenv("SUDO_USER", raising=False)
    return file


def test_the_person_behind_sudo(loginuid, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setenv("SUDO_USER", "carol")
    assert actor.actor().name == "carol"


def test_sudo_user_counts_for_root_alone(loginuid, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: NOBODY.pw_uid)
    monkeypatch.setenv("SUDO_USER", "carol")
    assert actor.actor().name == "nobody"


def test_the_person_who_logged_in(loginuid, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 0)
    loginuid.write_text(str(NOBODY.pw_uid))
    assert actor.actor().name == "nobody"


@pytest.mark.parametrize("text", [None, str(2**32 - 1), ""])
def test_without_a_login_the_user_of_the_process(loginuid, monkeypatch, text):
    monkeypatch.setattr(os, "getuid", lambda: 0)
    if text is not None:
        loginuid.write_text(text)
    assert actor.actor().name == "root"


def test_an_actor_is_told_with_its_uid(loginuid, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: NOBODY.pw_uid)
    assert str(actor.actor()) == f"nobody (uid {NOBODY.pw_uid})"


def test_roots_own_sudo_hides_nobody(loginuid, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setenv("SUDO_USER", "root")
    loginuid.write_text(str(NOBODY.pw_uid))
    assert actor.actor().name == "nobody"
