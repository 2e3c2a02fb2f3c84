"""This machine: its devices, their memory, the user's cache."""

from __future__ import annotations

import os
import pathlib
import platform

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
    return _free_on_host() // (2 * len(jax.local_devices()))


def _free_on_host() -> int:
    """Bytes of memory that programs may still get, of all if that is not known."""
    try:
        with open("/proc/meminfo") as file:
            found = dict(line.split(":") for line in file)
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


def cache_folder() -> pathlib.Path:
    """The user's folder for what may be lost: compiled programs, choices."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "jaxinit"
