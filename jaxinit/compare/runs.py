"""The runs of a sweep: how they start, what they are named, what is kept of them."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa

from jaxinit.compare import store
from jaxinit.compare.engine import Engine, Strategy, choose_strategy
from jaxinit.compare.starts import Scheme, Starts
from jaxinit.compare.task import Task
from jaxinit.compare.train import (
    Config,
    Hparams,
    Metrics,
    diverged,
    make_trainer,
    task_data,
)

MEMORY = 2**31
"""Bytes that the runs of a chunk may take, about."""


WORTH_MEASURING = 30_000
"""Optimizer steps of all runs above which strategies are measured first."""


_PACKAGES = ("jaxinit", "jax", "jaxlib", "flax", "optax", "numpy")


class Runs:
    """The runs of a sweep, trained a chunk at a time by the same programs."""

    def __init__(
        self,
        task: Task,
        config: Config,
        schemes: dict[str, Scheme],
        seeds: int,
        strategy: Strategy | None,
        pending: int,
    ) -> None:
        """Make the starts' programs, and choose the engine."""
        self._task, self._config = task, config
        self._starts = Starts(task, config, schemes, seeds)
        if strategy is None:
            strategy = self._chosen(pending, next(iter(schemes)))
        self.strategy = strategy
        self._engine = Engine(
            make_trainer(task, config), config, task_data(task), strategy
        )
        leaves = jax.tree.leaves(self._starts.shapes)
        each = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
        devices = len(jax.local_devices())
        on_cpu = jax.default_backend() == "cpu"
        most = (32 if on_cpu else 1024) * devices
        self.width = min(pending, most, max(devices, MEMORY // (4 * each)))

    def _chosen(self, pending: int, scheme: str) -> Strategy:
        """The strategy: measured where that pays, else by the rule that it follows."""
        if pending * self._config.steps < WORTH_MEASURING:
            if jax.default_backend() != "cpu":
                return "vmap"
            return "loop" if self._starts.convolved else "map"
        config = self._config
        example = jax.tree.map(lambda x: x[0], self._arguments([(scheme, 0.0, 0)]))
        return choose_strategy(
            lambda config: make_trainer(self._task, config),
            config,
            task_data(self._task),
            example,
            f"{self._task.fingerprint} {config.batch_size} {config.optimizer}",
        )

    def _arguments(self, runs: Sequence[tuple[str, float, int]]) -> Any:
        """The arguments of `Engine.train` for runs (scheme, rate, seed)."""
        params, states, scales = self._starts.of([(s, seed) for s, _, seed in runs])
        rates = jnp.array([rate for _, rate, _ in runs], jnp.float32)
        seeds = np.array([seed for _, _, seed in runs])
        return params, states, self._starts.training_keys[seeds], Hparams(rates, scales)

    def train(
        self,
        chunk: Sequence[tuple[str, float, int]],
        show: Callable[[int, int], None],
        keep: Callable[[pa.Table], None],
    ) -> None:
        """Train a chunk and keep its table; interrupted, what has diverged by then."""
        arguments = self._arguments(chunk)
        points: list[Metrics] = []
        moments: list[float] = []
        dead = np.zeros(len(chunk), bool)

        def table() -> pa.Table:
            init_seconds = [self._starts.seconds[scheme] for scheme, _, _ in chunk]
            spent = _step_seconds(moments, self._config) / len(chunk)
            costs = init_seconds, [spent] * len(chunk)
            return _table(self._task, self._config, chunk, points, dead, *costs)

        try:
            for step, point in self._engine.train(*arguments, width=self.width):
                moments.append(time.perf_counter())
                points.append(point)
                dead |= diverged(point)
                show(step, int(dead.sum()))
        except KeyboardInterrupt:
            if dead.any():
                # A diverged run is a result whatever the remaining steps would be.
                keep(table().filter(pa.array(dead)))
            raise
        keep(table())


def _step_seconds(moments: Sequence[float], config: Config) -> float:
    """Median seconds of a step of all runs, of the segments that compiled nothing."""
    segments = np.diff(moments)[1:]
    return float(np.median(segments)) / config.eval_every if len(segments) else np.nan


@functools.cache
def versions() -> dict[str, str]:
    """The versions of what may change a run's numbers."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "uninstalled"
    return found


def run_id(task: Task, config: Config, scheme: str, rate: float, seed: int) -> str:
    """The name of a run, made from all that decides its numbers, and nothing else."""
    content = {
        "task": task.fingerprint,
        "target": task.target,
        "scheme": scheme,
        "learning_rate": rate,
        "seed": seed,
        **config._asdict(),
        "versions": versions(),
    }
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _table(
    task: Task,
    config: Config,
    grid: Sequence[tuple[str, float, int]],
    points: list[Metrics],
    dead: np.ndarray,
    init_seconds: list[float],
    step_seconds: list[float],
) -> pa.Table:
    train_loss, valid_loss, metric = (
        np.stack(column, axis=1).astype(float) for column in zip(*points, strict=True)
    )
    eval_steps = [config.eval_every * i for i in range(len(points))]
    reached = task.reached(metric)
    best = metric.max(axis=1) if task.direction == "max" else metric.min(axis=1)
    hit = reached.any(axis=1) & ~dead
    first = np.array(eval_steps)[reached.argmax(axis=1)]
    return pa.table(
        {
            "run_id": [run_id(task, config, *run) for run in grid],
            "task": [task.name] * len(grid),
            "scheme": [scheme for scheme, _, _ in grid],
            "learning_rate": [rate for _, rate, _ in grid],
            "seed": [seed for _, _, seed in grid],
            "status": ["diverged" if d else "finished" for d in dead],
            "steps_to_target": [
                int(s) if h else None for s, h in zip(first, hit, strict=True)
            ],
            "final_train_loss": train_loss[:, -1],
            "final_valid_loss": valid_loss[:, -1],
            "final_valid_accuracy": metric[:, -1],
            "best_valid_accuracy": best,
            "eval_steps": [eval_steps] * len(grid),
            "train_loss": list(train_loss),
            "valid_loss": list(valid_loss),
            "valid_accuracy": list(metric),
            "init_seconds": init_seconds,
            "step_seconds": step_seconds,
        },
        schema=store.SCHEMA,
    )
