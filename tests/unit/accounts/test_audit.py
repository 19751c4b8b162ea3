"""Whose name stands in the audit."""

from __future__ import annotations

import os
import pwd

import pytest

from llmsvc.accounts import audit

NOBODY = pwd.getpwnam("nobody")


@pytest.fixture
def loginuid(tmp_path, monkeypatch):
    file = tmp_path / "loginuid"
    monkeypatch.setattr(audit, "_LOGINUID", file)
    monkeypatch.delenv("SUDO_USER", raising=False)
    return file


def test_the_person_behind_sudo(loginuid, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setenv("SUDO_USER", "carol")
    assert audit.actor() == "carol"


def test_sudo_user_counts_for_root_alone(loginuid, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: NOBODY.pw_uid)
    monkeypatch.setenv("SUDO_USER", "carol")
    assert audit.actor() == "nobody"


def test_the_person_who_logged_in(loginuid, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 0)
    loginuid.write_text(str(NOBODY.pw_uid))
    assert audit.actor() == "nobody"


@pytest.mark.parametrize("text", [None, str(2**32 - 1), ""])
def test_without_a_login_the_user_of_the_process(loginuid, monkeypatch, text):
    monkeypatch.setattr(os, "getuid", lambda: 0)
    if text is not None:
        loginuid.write_text(text)
    assert audit.actor() == "root"
