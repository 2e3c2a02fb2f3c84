"""What made a sweep: devices, versions, and the state of the code."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from types import MappingProxyType

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
    Nothing that the repository's own configuration names is run: no monitor of files,
    no hook, no filter of contents, nothing of a submodule's, and nothing is fetched.
    A file that a filter would have changed counts as a change, once it is written.

    Args:
        folder: any folder of a working tree; by default the current one.

    Returns:
        Such as "commit 1a2b3c4d5e6f" or "commit 1a2b3c4d5e6f, with uncommitted
        changes"; None where there is no repository, no commit yet, or no git.
    """
    try:
        commit = _git(folder, "rev-parse", "--short=12", "HEAD").strip()
        idle = _without_filters(folder)
        changes = _git(folder, *_STATUS, settings=idle)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return f"commit {commit}{', with uncommitted changes' if changes else ''}"


_STATUS = (
    "status --porcelain --untracked-files=no --no-renames --ignore-submodules=dirty"
).split()
"""Of a submodule, its commit alone is looked at, and not what is in its folder."""

_NONE: Mapping[str, str] = MappingProxyType({})

_IDLE = {"core.fsmonitor": "false", "core.hooksPath": os.devnull}
"""Settings with which git runs nothing but itself, filters apart."""


def _without_filters(folder: str | os.PathLike[str]) -> dict[str, str]:
    """Settings by which no filter that the repository knows has a command.

    Raises:
        ValueError: git takes no settings from its environment, being of before 2021.
    """
    names = _config(folder, "--name-only", "--get-regexp", r"^filter\.")
    idle = {n: "false" if n.endswith(".required") else "" for n in names}
    if idle:
        named = r"^filter\..*\.(clean|process)$"
        listed = _config(folder, "--get-regexp", named, settings=idle)
        last: dict[str, str] = {}
        for each in listed:
            name, _, value = each.partition("\n")
            last[name] = value
        if any(last.values()):
            raise ValueError("git takes no settings from its environment.")
    return idle


def _config(
    folder: str | os.PathLike[str], *words: str, settings: Mapping[str, str] = _NONE
) -> list[str]:
    """What git says of its settings, those that are given included."""
    try:
        said = _git(folder, "config", "--null", *words, settings=settings)
    except subprocess.CalledProcessError as error:
        if error.returncode == 1:  # there are none of the name
            return []
        raise
    return list(filter(None, said.split("\0")))


def _git(
    folder: str | os.PathLike[str], *words: str, settings: Mapping[str, str] = _NONE
) -> str:
    """What git says, which runs nothing but itself.

    Args:
        folder: where.
        words: the command.
        settings: further ones that override the repository's.
    """
    fixed = [
        word for name, value in _IDLE.items() for word in ("-c", f"{name}={value}")
    ]
    given = int(os.environ.get("GIT_CONFIG_COUNT", 0))
    environment = {
        **os.environ,
        "GIT_ALLOW_PROTOCOL": "none",  # no object that is missing is fetched
        "GIT_CONFIG_COUNT": str(given + len(settings)),
    }
    for place, (name, value) in enumerate(settings.items(), given):
        environment[f"GIT_CONFIG_KEY_{place}"] = name
        environment[f"GIT_CONFIG_VALUE_{place}"] = value
    done = subprocess.run(
        ["git", "--no-optional-locks", "-C", os.fspath(folder), *fixed, *words],
        capture_output=True,
        check=True,
        env=environment,
        timeout=PATIENCE,
    )
    return done.stdout.decode(errors="replace")
