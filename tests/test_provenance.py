"""What is noted of the code that made a sweep."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest

from jaxinit.compare.store import provenance


def git(folder, *words):
    who = "-c user.name=n -c user.email=e -c commit.gpgsign=false".split()
    subprocess.run(
        ["git", "-C", folder, *who, *words], check=True, capture_output=True,
        env={**os.environ, "GIT_CONFIG_GLOBAL": os.devnull},
    )  # fmt: skip


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_code_is_a_commit_and_whether_it_was_changed(tmp_path, monkeypatch):
    assert provenance.code_state(tmp_path) is None  # no repository
    assert provenance.code_state(tmp_path / "nowhere") is None
    git(tmp_path, "init")
    assert provenance.code_state(tmp_path) is None  # no commit yet
    (tmp_path / "sub").mkdir()
    file = tmp_path / "sub" / "file.py"
    file.write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "m")
    git(tmp_path, "tag", "v1")
    monkeypatch.chdir(tmp_path / "sub")
    clean = provenance.code_state()
    assert clean is not None and re.fullmatch(r"commit [0-9a-f]{12}", clean)
    (tmp_path / "results.csv").write_text("2")  # not tracked, so no change of code
    assert provenance.code_state() == clean
    file.write_text("3")
    assert provenance.code_state() == f"{clean}, with uncommitted changes"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.code_state() is None  # no git


def test_git_that_takes_too_long_is_not_waited_for(tmp_path, monkeypatch):
    slow = tmp_path / "git"
    slow.write_text("#!/bin/sh\nexec sleep 9\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(provenance, "PATIENCE", 0.1)
    assert provenance.code_state(tmp_path) is None
