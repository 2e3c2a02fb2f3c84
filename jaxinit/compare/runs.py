"""The runs of a sweep: how they start, what they are named, what is kept of them."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa

from jaxinit._initializer import Initializer
from jaxinit._types import Key
from jaxinit.compare import store
from jaxinit.compare.engine import Engine, Strategy, choose_strategy
from jaxinit.compare.task import Task
from jaxinit.compare.train import (
    Config,
    Hparams,
    Metrics,
    diverged,
    make_trainer,
    task_data,
)
from jaxinit.trace import Layer, kernels
from jaxinit.tree import MuP, TreeScheme, choose, draw, layers_of, leaves_of

Scheme: TypeAlias = Initializer | Callable[[Key, Any, Any, Any], Any]
"""An initializer for every kernel, a scheme of `jaxinit.tree`, or any function
`(key, params, apply, batch) -> params`."""


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
        """Draw the starts of all schemes and seeds, and choose the engine."""
        self._task, self._config = task, config
        self._scheme = {name: k for k, name in enumerate(schemes)}
        self._seeds = seeds
        init_keys, self._train_keys = seed_keys(seeds)
        self._starts, self._states, self._scales, convolved = _starts(
            task, schemes.values(), config, init_keys
        )
        if strategy is None:
            strategy = self._chosen(pending, convolved)
        self._engine = Engine(
            make_trainer(task, config), config, task_data(task), strategy
        )
        sizes = [leaf.nbytes for leaf in jax.tree.leaves(self._starts)]
        each = max(1, sum(sizes) // (len(schemes) * seeds))
        devices = len(jax.local_devices())
        on_cpu = jax.default_backend() == "cpu"
        most = (32 if on_cpu else 1024) * devices
        self.width = min(pending, most, max(devices, MEMORY // (4 * each)))

    def _chosen(self, pending: int, convolved: bool) -> Strategy:
        """The strategy: measured where that pays, else by the rule that it follows."""
        if pending * self._config.steps < WORTH_MEASURING:
            if jax.default_backend() != "cpu":
                return "vmap"
            return "loop" if convolved else "map"
        config = self._config
        example = jax.tree.map(lambda x: x[0], self._arguments([(0, 0.0, 0)]))
        return choose_strategy(
            lambda config: make_trainer(self._task, config),
            config,
            task_data(self._task),
            example,
            f"{self._task.fingerprint} {config.batch_size} {config.optimizer}",
        )

    def _arguments(self, runs: Sequence[tuple[int, float, int]]) -> Any:
        """The arguments of `Engine.train` for runs (scheme's number, rate, seed)."""
        scheme, rate, seed = (np.array(column) for column in zip(*runs, strict=True))
        start = scheme * self._seeds + seed
        return (
            jax.tree.map(lambda leaf: leaf[start], self._starts),
            jax.tree.map(lambda leaf: leaf[seed], self._states),
            self._train_keys[seed],
            Hparams(
                jnp.array(rate, jnp.float32),
                jax.tree.map(lambda leaf: leaf[scheme], self._scales),
            ),
        )

    def train(
        self,
        chunk: Sequence[tuple[str, float, int]],
        show: Callable[[int, int], None],
        keep: Callable[[pa.Table], None],
    ) -> None:
        """Train a chunk and keep its table; interrupted, what has diverged by then."""
        arguments = self._arguments([(self._scheme[s], r, k) for s, r, k in chunk])
        curves: list[Metrics] = []
        dead = np.zeros(len(chunk), bool)
        try:
            for step, point in self._engine.train(*arguments, width=self.width):
                curves.append(point)
                dead |= diverged(point)
                show(step, int(dead.sum()))
        except KeyboardInterrupt:
            if dead.any():
                # A diverged run is a result whatever the remaining steps would be.
                table = _table(self._task, self._config, list(chunk), curves, dead)
                keep(table.filter(pa.array(dead)))
            raise
        keep(_table(self._task, self._config, list(chunk), curves, dead))


def seed_keys(seeds: int) -> tuple[Key, Key]:
    """Initialization keys and training keys of seeds 0, 1, ..., each (seeds,)."""
    keys = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed)))(
        jnp.arange(seeds)
    )
    return keys[:, 0], keys[:, 1]


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


def _starts(
    task: Task, schemes: Collection[Scheme], config: Config, keys: Key
) -> tuple[Any, Any, Any, bool]:
    """Initial parameters, (scheme x seed) leading; model states, seed leading; scales.

    And whether the model has convolutions.

    The scales of updates are a tree like the parameters with arrays (scheme,), or None
    where no scheme has its own.
    """
    x, y = task.x_train[: config.batch_size], task.y_train[: config.batch_size]
    model = task.model
    abstract = jax.eval_shape(model.init, jax.random.key(0), x)

    def outputs(params: Any, state: Any, x: Any) -> Any:
        return model.apply(params, state, x, jax.random.key(0), False)[0]

    leaves, rebuild = leaves_of(abstract[0])
    found = layers_of(leaves, abstract[0], outputs, (abstract[1], x))
    if not kernels(found):
        raise ValueError(
            f"compare: the model of task {task.name} has no kernel: no parameter "
            "enters a product or a convolution with its inputs."
        )

    # Not under one jit: op by op, the schemes share what JAX has compiled already.
    own, states = jax.vmap(lambda key: model.init(key, x))(keys)

    def start(scheme: Scheme) -> Any:
        if isinstance(scheme, (Initializer, TreeScheme)):
            choices = choose(leaves, found, scheme, abstract=False)

            def by_rules(key: Key, params: Any) -> Any:
                values, _ = leaves_of(params)
                return rebuild(draw(key, values, choices, scheme))

            return jax.vmap(by_rules)(keys, own)

        def by_function(key: Key, params: Any, state: Any) -> Any:
            return jax.jit(scheme, static_argnums=2)(
                key, params, lambda p, x: outputs(p, state, x), (x, y)
            )

        return jax.vmap(by_function)(keys, own, states)

    drawn = [start(scheme) for scheme in schemes]
    starts = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *drawn)
    convolved = any(layer.kind == "conv" for layer in found)
    if not any(isinstance(scheme, MuP) for scheme in schemes):
        return starts, states, None, convolved

    rates = [_rates(scheme, found, config) for scheme in schemes]
    scales = [jnp.array([rate[leaf.path] for rate in rates]) for leaf in leaves]
    return starts, states, rebuild(scales), convolved


def _rates(scheme: Scheme, found: Sequence[Layer], config: Config) -> dict[str, float]:
    """What the updates of each leaf are multiplied with under a scheme, by its path."""
    if not isinstance(scheme, MuP):
        return {layer.path: 1.0 for layer in found}
    wanted = scheme.arguments["optimizer"]
    if (wanted == "sgd") != (config.optimizer in ("sgd", "momentum")):
        raise ValueError(
            f"compare: tree.mup has the learning rates of {wanted}, but the optimizer "
            f"is {config.optimizer}; give it the optimizer= that is trained with."
        )
    return {path: m.learning_rate for path, m in scheme.by_path(found).items()}


def _table(
    task: Task,
    config: Config,
    grid: list[tuple[str, float, int]],
    curves: list[Metrics],
    dead: np.ndarray,
) -> pa.Table:
    train_loss, valid_loss, metric = (
        np.stack(column, axis=1).astype(float) for column in zip(*curves, strict=True)
    )
    eval_steps = [config.eval_every * i for i in range(len(curves))]
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
        },
        schema=store.SCHEMA,
    )
