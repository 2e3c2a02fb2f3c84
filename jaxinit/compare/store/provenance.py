"""What made a sweep: devices, versions, and the state of the code."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess

import jax

PACKAGES = ("jaxinit", "jax", "jaxlib", "flax", "optax", "numpy")
"""Whose versions may change a run's numbers."""

PATIENCE = 5.0
"""Seconds that git may take."""


@functools.cache
def versions() -> dict[str, str]:
    """The versions of Python and of `PACKAGES`."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "uninstalled"
    return found


def device() -> str:
    """How many devices of which kind there are, over all processes."""
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


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
