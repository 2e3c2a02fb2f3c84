"""Which code made a sweep, as far as its folder's history says."""

from __future__ import annotations

import os
import subprocess

PATIENCE = 5.0
"""Seconds that git may take."""


def code_state(folder: str | os.PathLike[str] = ".") -> str | None:
    """The commit of a folder's git repository, and whether files differ from it.

    Files that git does not track count as no change, for results are such files.

    Args:
        folder: any folder of a working tree; by default the current one.

    Returns:
        Such as "commit 1a2b3c4d5e6f" or "commit 1a2b3c4d5e6f, with uncommitted
        changes"; None where there is no repository, no commit yet, or no git.
    """
    describe = "describe --always --dirty --abbrev=12 --exclude=*"
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", os.fspath(folder), *describe.split()],
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    commit, dirty, _ = done.stdout.strip().partition("-dirty")
    return f"commit {commit}{', with uncommitted changes' if dirty else ''}"
