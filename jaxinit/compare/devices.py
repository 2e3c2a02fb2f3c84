"""The devices of this machine."""

from __future__ import annotations

import os

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
