"""This machine: its devices, their memory, the user's cache."""

from __future__ import annotations

import math
import os
import pathlib
import platform
from collections.abc import Iterator
from typing import Any

import jax


def use_all_cores() -> None:
    """Make each core a JAX device, if JAX runs on the CPU and has not started yet.

    `compare` and `make_task` call it themselves; a script that uses JAX before them
    calls it first, or its sweeps run on one device, and slower.
    """
    try:
        if jax.config.jax_num_cpu_devices <= 0:  # pyright: ignore
            jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    except RuntimeError:
        pass  # JAX has started: its devices are what there is.


def free_memory() -> int:
    """Bytes of a local device that a sweep may take, about."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(0.9 * (stats["bytes_limit"] - stats.get("bytes_in_use", 0)))
    return free_on_host() // (2 * len(jax.local_devices()))


def free_on_host() -> int:
    """Bytes that this process may still get: of the machine, its group, its limits."""
    found = [_free_of_machine(), *_free_of_groups(), *_free_of_limits()]
    return max(0, min(found))


def size(count: float) -> str:
    """So many bytes as one reads them, such as "1.5 GiB"."""
    units = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
    power = min(max(0, int(math.log(max(count, 1), 1024))), len(units) - 1)
    return f"{count / 1024**power:.3g} {units[power]}"


def bytes_of(tree: Any) -> int:
    """Bytes of a tree of arrays, or of their shapes and dtypes."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def check_room(what: str, needed: float, advice: str) -> None:
    """Raise where so much memory is not to be had, before any of it is taken.

    Args:
        what: that needs it, such as "show: an array of shape (9, 9)".
        needed: bytes.
        advice: what to do, such as "take a smaller shape".

    Raises:
        ValueError: there is less.
    """
    room = free_on_host()
    if needed > room:
        raise ValueError(
            f"{what} needs at least {size(needed)} of memory, and {size(room)} are "
            f"free; {advice}."
        )


ADDRESSES, OF_CORE = 2 * 2**30, 2**29
"""Bytes of addresses that XLA reserves beyond what it uses, and for each core more."""


def check_addresses() -> None:
    """Raise where `ulimit -v` leaves so few addresses that XLA would end the process.

    Raises:
        ValueError: it does.
    """
    needed = ADDRESSES + OF_CORE * (os.cpu_count() or 1)
    left = min(_free_of_limits(), default=needed)
    if left < needed:
        raise ValueError(
            f"ulimit leaves {size(max(0, left))} of addresses to this process, and XLA "
            f"reserves more of them than it uses; allow it {size(needed - left)} more."
        )


def _free_of_machine() -> int:
    """Bytes of memory that programs may still get, of all if that is not known."""
    try:
        found = dict(line.split(":") for line in _read(_PROC / "meminfo").splitlines())
        return 1024 * int(found["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def processor() -> str:
    """The kind of processor, such as "AMD EPYC 7B13"."""
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name.strip() == "model name" and value.strip():
                    return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


_PROC, _GROUPS = pathlib.Path("/proc"), pathlib.Path("/sys/fs/cgroup")

_OF_GROUP = {  # limit, use, and what of that is a cache of files that gives way
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""The files of a group of processes, by the controller that names it: version 2 of
Linux's control groups has one for all, version 1 one for memory."""


def _free_of_groups() -> Iterator[int]:
    """Bytes left of each group that this process is in; containers are such groups."""
    try:
        lines = _read(_PROC / "self" / "cgroup").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        named = "memory" if "memory" in controllers.split(",") else controllers
        if named not in _OF_GROUP or not path:
            continue
        # Within a container its own group is the root, whatever it is outside.
        own = pathlib.PurePosixPath(path.lstrip("/"))
        for each in (own, *own.parents):
            if (left := _left(_GROUPS / named / each, *_OF_GROUP[named])) is not None:
                yield left


def _left(group: pathlib.Path, limit: str, used: str, cache: str) -> int | None:
    """Bytes left of one group; None where it has no limit."""
    try:
        most, taken = int(_read(group / limit)), int(_read(group / used))
    except (OSError, ValueError):  # no such group, or "max"
        return None
    try:
        rows = dict(line.split() for line in _read(group / "memory.stat").splitlines())
        taken -= int(rows[cache])
    except (OSError, ValueError, KeyError):
        pass
    return most - taken


def _free_of_limits() -> Iterator[int]:
    """Bytes left of this process's own limits, those of `ulimit`."""
    try:
        import resource

        total, *_, data, _ = map(int, _read(_PROC / "self" / "statm").split())
    except (ImportError, OSError, ValueError):
        return
    for kind, taken in ((resource.RLIMIT_AS, total), (resource.RLIMIT_DATA, data)):
        most = resource.getrlimit(kind)[0]
        if most != resource.RLIM_INFINITY:
            yield most - taken * resource.getpagesize()


def _read(path: pathlib.Path) -> str:
    return path.read_text()


def cache_folder() -> pathlib.Path:
    """The user's folder for what may be lost: compiled programs, choices."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "jaxinit"


def programs_folder() -> pathlib.Path:
    """Where the command keeps compiled programs from one run of it to the next."""
    return cache_folder() / "programs"


KEPT = 2**30
"""Bytes of compiled programs that the command keeps."""


def keep_programs() -> None:
    """Keep each compiled program for the next run of the command.

    JAX by itself keeps what took a second to compile; a sweep has dozens of programs
    that take less each and many seconds together. The oldest go where they are too
    many. Where the user has set `JAX_COMPILATION_CACHE_DIR`, all is as JAX has it.
    """
    if jax.config.jax_compilation_cache_dir is not None:  # pyright: ignore
        return
    folder = programs_folder()
    entries = [(entry.stat(), entry) for entry in folder.glob("*-cache")]
    kept = 0
    for about, entry in sorted(entries, key=lambda each: -each[0].st_mtime):
        kept += about.st_size
        if kept > KEPT:
            entry.unlink(missing_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def forget_programs() -> bool:
    """Remove the compiled programs that the command keeps, if JAX reads those.

    JAX leaves an entry that it cannot read where it is, and never writes it anew.
    """
    folder = programs_folder()
    if jax.config.jax_compilation_cache_dir != str(folder):  # pyright: ignore
        return False
    for entry in folder.glob("*-cache"):
        entry.unlink(missing_ok=True)
    return True
