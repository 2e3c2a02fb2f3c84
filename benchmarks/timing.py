"""Timing by ratios: contenders take turns in one process, and the machine is named."""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import platform
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

RESULTS = pathlib.Path(__file__).parent / "results"

SMOKE = "--smoke" in sys.argv
"""Whether everything runs once at a small size, only to see that it works."""

Size = TypeVar("Size")


def sized(usual: Size, small: Size) -> Size:
    """The usual size of a benchmark, or with `--smoke` the small one."""
    return small if SMOKE else usual


def take_turns(
    contenders: Mapping[str, Callable[[], Any]], seconds: float = 1.0
) -> dict[str, np.ndarray]:
    """Seconds of each round of each contender, who run one after another each round.

    Noise that comes and goes hits all of them alike, so their ratio within a round
    means more than any time does.

    Args:
        contenders: functions that do their work to the end; each has run before.
        seconds: time to spend, about; at least five rounds are made.

    Returns:
        Arrays of equal length, a round an entry.
    """
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    began = time.perf_counter()
    least, seconds = sized((5, seconds), (1, 0.0))
    while (
        time.perf_counter() - began < seconds or len(next(iter(spent.values()))) < least
    ):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            spent[name].append(time.perf_counter() - start)
    return {name: np.array(times) for name, times in spent.items()}


def ratio(times: Mapping[str, np.ndarray], of: str, to: str) -> float:
    """Median over the rounds of one contender's time by another's."""
    return round(float(np.median(times[of] / times[to])), 2)


def times_as_fast(
    ours: Callable[[], Any], theirs: Callable[[], Any], seconds: float = 2.0
) -> float:
    """Median over rounds of their time by ours."""
    contenders = ready({"ours": ours, "theirs": theirs})
    return ratio(take_turns(contenders, seconds), "theirs", "ours")


def ready(contenders: Mapping[str, Callable[[], Any]]) -> dict[str, Callable[[], Any]]:
    """Contenders that wait for their results, each run once."""
    waiting = {
        name: lambda run=run: jax.block_until_ready(run())
        for name, run in contenders.items()
    }
    for run in waiting.values():
        run()
    return waiting


def compile_seconds(run: Callable[[], Any]) -> float:
    """Seconds to trace and compile, apart from running."""
    jax.clear_caches()
    start = time.perf_counter()
    jax.jit(lambda: run()).lower().compile()
    return round(time.perf_counter() - start, 2)


def write(name: str, rows: Any) -> None:
    """Write `results/NAME-PLATFORM.json`, with the machine and the versions."""
    if SMOKE:
        print(f"{name}: ran at a small size, nothing is written")
        return
    packages = ("jaxinit", "jax", "jaxlib", "flax", "optax", "torch", "keras", "numpy")
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    device = jax.devices()[0]
    content = {
        "device": device.device_kind,
        "devices": jax.device_count(),
        "cores": os.cpu_count(),
        "versions": versions,
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{device.platform}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
