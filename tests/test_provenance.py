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


def hostile(folder, ran):
    """A repository whose own settings run a program wherever git lets them."""
    script = folder / "run.sh"
    script.write_text(f"#!/bin/sh\ntouch '{ran}'\ncat\n")
    script.chmod(0o755)
    git(folder, "init")
    (folder / "a.txt").write_text("1\n")
    (folder / "b.txt").write_text("1\n")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "m")
    hooks = folder / "hooks"
    hooks.mkdir()
    for name in ("post-index-change", "fsmonitor-watchman", "reference-transaction"):
        (hooks / name).write_text(script.read_text())
        (hooks / name).chmod(0o755)
    return script


SETTINGS = {
    "monitor": ("core.fsmonitor", "RUN"),
    "hooks": ("core.hooksPath", "HOOKS"),
    "hooks here": ("core.hooksPath", "hooks"),
    "external diff": ("diff.external", "RUN"),
    "textconv": ("diff.evil.textconv", "RUN"),
    "a driver's command": ("diff.evil.command", "RUN"),
    "clean": ("filter.evil.clean", "RUN"),
    "smudge": ("filter.evil.smudge", "RUN"),
    "process": ("filter.evil.process", "RUN"),
    "required": ("filter.evil.required", "true"),
    "a name of its own": ("filter.e v=i.l.clean", "RUN"),
    "pager": ("core.pager", "RUN"),
    "pager of status": ("pager.status", "RUN"),
    "editor": ("core.editor", "RUN"),
    "alias": ("alias.status", "!RUN"),
    "ssh": ("core.sshCommand", "RUN"),
    "gpg": ("gpg.program", "RUN"),
    "signatures": ("log.showSignature", "true"),
}


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize("kinds", [*([kind] for kind in SETTINGS), list(SETTINGS)])
@pytest.mark.parametrize("included", [False, True])
def test_nothing_of_a_hostile_folder_is_run(kinds, included, tmp_path):
    ran, folder = tmp_path / "ran", tmp_path / "folder"
    folder.mkdir()
    script = hostile(folder, ran)
    where = ["--file", str(folder / "more")] if included else []
    for kind in kinds:
        name, value = SETTINGS[kind]
        value = value.replace("RUN", str(script)).replace("HOOKS", f"{folder}/hooks")
        git(folder, "config", *where, name, value)
    if included:
        git(folder, "config", "include.path", str(folder / "more"))
    attributes = '*.txt diff=evil\na.txt filter=evil\nb.txt filter="e v=i.l"\n'
    (folder / ".git" / "info" / "attributes").write_text(attributes)
    (folder / ".gitattributes").write_text(attributes)
    os.utime(folder / "a.txt", (1, 1))  # so that git looks into it
    (folder / "b.txt").write_text("2\n")
    ran.unlink(missing_ok=True)
    found = provenance.code_state(folder)
    assert not ran.exists()
    assert found is not None and found.endswith(", with uncommitted changes")


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_filter_does_run_where_nobody_prevents_it(tmp_path):
    # What the test above rests on: that git would run these programs.
    ran, folder = tmp_path / "ran", tmp_path / "folder"
    folder.mkdir()
    script = hostile(folder, ran)
    for name in ("filter.evil.clean", "core.fsmonitor"):
        ran.unlink(missing_ok=True)
        git(folder, "config", name, str(script))
        (folder / ".git" / "info" / "attributes").write_text("*.txt filter=evil\n")
        os.utime(folder / "a.txt", (1, 1))
        git(folder, "status", "--porcelain")
        assert ran.exists()
        git(folder, "config", "--unset", name)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_nothing_of_a_hostile_submodule_is_run_and_its_commit_counts(tmp_path):
    ran, outer, inner = tmp_path / "ran", tmp_path / "outer", tmp_path / "inner"
    for folder in (outer, inner):
        folder.mkdir()
        hostile(folder, ran)
    allowed = ["-c", "protocol.file.allow=always"]
    git(outer, *allowed, "submodule", "add", str(inner), "sub")
    git(outer, "commit", "-m", "with it")
    clean = provenance.code_state(outer)
    assert clean is not None and re.fullmatch(r"commit [0-9a-f]{12}", clean)
    for folder in (outer, outer / "sub"):
        git(folder, "config", "core.fsmonitor", str(outer / "run.sh"))
    (outer / "sub" / "a.txt").write_text("9\n")
    ran.unlink(missing_ok=True)
    assert provenance.code_state(outer) == clean  # of a submodule, commits count
    assert not ran.exists()
    git(outer / "sub", "-c", "core.fsmonitor=false", "commit", "-a", "-m", "moved")
    ran.unlink(missing_ok=True)
    assert provenance.code_state(outer) == f"{clean}, with uncommitted changes"
    assert not ran.exists()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize("missing", ["commit", "tree", "blob"])
def test_no_object_that_is_missing_is_fetched(missing, tmp_path):
    ran, folder = tmp_path / "ran", tmp_path / "folder"
    folder.mkdir()
    script = hostile(folder, ran)
    git(folder, "config", "core.repositoryFormatVersion", "1")
    git(folder, "config", "extensions.partialClone", "origin")
    git(folder, "config", "remote.origin.promisor", "true")
    git(folder, "config", "remote.origin.url", f"ext::{script} %S")
    git(folder, "config", "protocol.ext.allow", "always")
    git(folder, "config", "core.sshCommand", str(script))
    named = {"commit": "HEAD", "tree": "HEAD^{tree}", "blob": "HEAD:a.txt"}[missing]
    words = ["git", "-C", folder, "rev-parse", named]
    name = subprocess.run(words, capture_output=True, text=True).stdout.strip()
    (folder / ".git" / "objects" / name[:2] / name[2:]).unlink()
    (folder / "a.txt").write_text("2\n")
    ran.unlink(missing_ok=True)
    provenance.code_state(folder)
    assert not ran.exists()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_git_that_takes_no_settings_is_not_asked_for_changes(tmp_path, monkeypatch):
    ran, folder = tmp_path / "ran", tmp_path / "folder"
    folder.mkdir()
    script = hostile(folder, ran)
    git(folder, "config", "filter.evil.clean", str(script))
    (folder / ".gitattributes").write_text("*.txt filter=evil\n")
    os.utime(folder / "a.txt", (1, 1))
    real = shutil.which("git")
    old = tmp_path / "git"
    old.write_text(f"#!/bin/sh\nunset GIT_CONFIG_COUNT\nexec '{real}' \"$@\"\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    ran.unlink(missing_ok=True)
    assert provenance.code_state(folder) is None
    assert not ran.exists()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_settings_from_the_environment_stay(tmp_path, monkeypatch):
    git(tmp_path, "init")
    (tmp_path / "file.txt").write_text("1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "m")
    git(tmp_path, "config", "filter.evil.clean", "false")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.abbrev")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "7")
    found = provenance.code_state(tmp_path)
    assert found is not None and re.fullmatch(r"commit [0-9a-f]{12}", found)
