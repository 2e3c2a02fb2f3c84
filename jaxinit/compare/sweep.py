"""Schemes x learning rates x seeds -> runs."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import pathlib
import platform
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa

from jaxinit import _checks
from jaxinit._initializer import Initializer
from jaxinit._parse import parse
from jaxinit._types import Key
from jaxinit.compare import report, store
from jaxinit.compare.devices import use_all_cores
from jaxinit.compare.engine import Engine
from jaxinit.compare.task import Task
from jaxinit.compare.tasks import parse_task
from jaxinit.compare.train import Config, Hparams, Metrics, make_trainer, task_data
from jaxinit.trace import Layer, kernels
from jaxinit.tree import MuP, TreeScheme, choose, draw, layers_of, leaves_of

Scheme: TypeAlias = Initializer | Callable[[Key, Any, Any, Any], Any]
"""An initializer for every kernel, a scheme of `jaxinit.tree`, or any function
`(key, params, apply, batch) -> params`."""

DEFAULT_SCHEMES = (
    "normal(stddev=0.01)",
    "normal(stddev=1.0)",
    "lecun_normal()",
    "glorot_normal()",
    "he_normal()",
    "orthogonal(scale=1.4142)",
)
DEFAULT_LEARNING_RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
DEFAULT_SEEDS = 5

_PACKAGES = ("jaxinit", "jax", "jaxlib", "flax", "optax", "numpy")


def compare(
    task: Task | str = "digits-mlp",
    schemes: Sequence[Scheme | str] = DEFAULT_SCHEMES,
    learning_rates: Sequence[float] = DEFAULT_LEARNING_RATES,
    seeds: int = DEFAULT_SEEDS,
    *,
    steps: int = 500,
    eval_every: int = 25,
    batch_size: int = 64,
    optimizer: str = "momentum",
    out: str | pathlib.Path | None = None,
    quiet: bool = False,
) -> report.Result:
    """Train a task from every scheme at every learning rate and seed, side by side.

    Seed k has the same initialization key and the same data order in every scheme and
    at every learning rate, so that differences between schemes are paired. A run's
    numbers do not depend on which other runs there are.

    Args:
        task: a task from `make_task`, or the text of a built-in one, such as
            "digits-cnn" or "digits-mlp(depth=8, width=128)".
        schemes: initializers, drawn for every kernel of the model as the model's use
            of it says; or their texts; or functions
            `(key, params, apply, batch) -> params` where `apply(params, x)` gives
            outputs and `batch` is (inputs, labels), named by their `__name__`.
        learning_rates: the grid, each positive.
        seeds: runs for each scheme and rate, numbered from 0.
        steps: optimizer steps of each run.
        eval_every: steps between two evaluations on the validation data.
        batch_size: examples in a step.
        optimizer: "sgd", "momentum" (0.9), "adam" or "adamw".
        out: folder for the results; None writes nothing.
        quiet: neither progress nor table on the screen.

    Returns:
        The `Result`.

    Raises:
        ValueError: a setting is out of range.
        TypeError: a scheme is no scheme.
        FileExistsError: `out` holds something else.

    Example:
        >>> from jaxinit.compare import compare, digits_mlp
        >>> result = compare(
        ...     digits_mlp(depth=2, width=16), ["he_normal", "normal"], [0.1], seeds=2,
        ...     steps=50, quiet=True,
        ... )
        >>> result.ranking()[0].scheme
        'he_normal()'
    """
    use_all_cores()
    if isinstance(task, str):
        task = parse_task(task)
    config = Config(steps, eval_every, batch_size, optimizer)
    config.check(task)
    named = _named_schemes(schemes)
    rates = _checked_rates(learning_rates)
    _checks.integer("compare", seeds=seeds)
    settings = _settings(task, config, list(named), rates, seeds)
    if out is not None:
        out = pathlib.Path(out)
        store.claim(out, settings)

    began = time.perf_counter()
    grid = [(s, r, k) for s in named for r in rates for k in range(seeds)]
    init_keys, train_keys = seed_keys(seeds)
    starts, states, scales = _starts(task, named.values(), config, init_keys)
    scheme_of_run, _, seed_of_run = np.indices((len(named), len(rates), seeds))
    seed_of_run = seed_of_run.ravel()
    start_of_run = scheme_of_run.ravel() * seeds + seed_of_run
    curves: list[Metrics] = []
    dead = np.zeros(len(grid), bool)
    with report.Progress(len(grid), config.steps, quiet) as progress:
        engine = Engine(make_trainer(task, config), config, task_data(task))
        training = engine.train(
            jax.tree.map(lambda leaf: leaf[start_of_run], starts),
            jax.tree.map(lambda leaf: leaf[seed_of_run], states),
            train_keys[seed_of_run],
            Hparams(
                jnp.array([rate for _, rate, _ in grid], jnp.float32),
                jax.tree.map(lambda leaf: leaf[scheme_of_run.ravel()], scales),
            ),
        )
        try:
            for step, point in training:
                curves.append(point)
                dead |= _diverged(point)
                progress.update(step, int(dead.sum()))
        except KeyboardInterrupt:
            if out is not None and curves:
                # A diverged run is a result whatever the remaining steps would be.
                table = _table(task, config, grid, curves, dead)
                store.write_runs(out, table.filter(pa.array(dead)))
            raise
    result = report.Result(
        _table(task, config, grid, curves, dead), settings, time.perf_counter() - began
    )
    if out is not None:
        result.save(out)
    if not quiet:
        result.show()
    return result


def seed_keys(seeds: int) -> tuple[Key, Key]:
    """Initialization keys and training keys of seeds 0, 1, ..., each (seeds,)."""
    keys = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed)))(
        jnp.arange(seeds)
    )
    return keys[:, 0], keys[:, 1]


def _named_schemes(schemes: Sequence[Scheme | str]) -> dict[str, Scheme]:
    if isinstance(schemes, (str, Initializer)) or callable(schemes):
        schemes = [schemes]  # type: ignore[list-item]
    named: dict[str, Scheme] = {}
    for scheme in schemes:
        if isinstance(scheme, str):
            scheme = parse(scheme)
        if not callable(scheme):
            raise TypeError(
                f"compare: scheme {scheme!r} must be an initializer, its text, or a "
                "function (key, params, apply, batch) -> params."
            )
        name = (
            repr(scheme)
            if isinstance(scheme, (Initializer, TreeScheme))
            else getattr(scheme, "__name__", repr(scheme))
        )
        if name in named:
            raise ValueError(f"compare: scheme {name} is given twice.")
        named[name] = scheme
    if not named:
        raise ValueError("compare: no scheme is given; name at least one.")
    return named


def _checked_rates(learning_rates: Sequence[float]) -> list[float]:
    rates = sorted(map(float, learning_rates))
    if not rates or len(set(rates)) < len(rates):
        raise ValueError(
            f"compare: learning_rates={learning_rates!r} must be one or more different "
            "numbers."
        )
    for rate in rates:
        _checks.number("compare", positive=True, learning_rate=rate)
    return rates


def _settings(
    task: Task, config: Config, schemes: list[str], rates: list[float], seeds: int
) -> dict[str, Any]:
    """All that decides the runs, and where they were made."""
    return {
        "task": task.name,
        "task_fingerprint": task.fingerprint,
        "loss_name": task.loss_name,
        "metric_name": task.metric_name,
        "direction": task.direction,
        "target": task.target,
        "schemes": schemes,
        "learning_rates": rates,
        "seeds": seeds,
        **config._asdict(),
        "versions": _versions(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


@functools.cache
def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "uninstalled"
    return versions


def _run_id(task: Task, config: Config, scheme: str, rate: float, seed: int) -> str:
    """The name of a run, made from all that decides its numbers, and nothing else."""
    content = {
        "task": task.fingerprint,
        "target": task.target,
        "scheme": scheme,
        "learning_rate": rate,
        "seed": seed,
        **config._asdict(),
        "versions": _versions(),
    }
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _starts(
    task: Task, schemes: Collection[Scheme], config: Config, keys: Key
) -> tuple[Any, Any, Any]:
    """Initial parameters, (scheme x seed) leading; model states, seed leading; scales.

    The scales of updates are a tree like the parameters with arrays (scheme,), or None
    where no scheme has its own.
    """
    x, y = task.x_train[: config.batch_size], task.y_train[: config.batch_size]
    model = task.model
    abstract = jax.eval_shape(model.init, jax.random.key(0), x)

    def outputs(params: Any, state: Any, x: Any) -> Any:
        return model.apply(params, state, x, jax.random.key(0), False)[0]

    leaves, _ = leaves_of(abstract[0])
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
                values, rebuild = leaves_of(params)
                return rebuild(draw(key, values, choices, scheme))

            return jax.vmap(by_rules)(keys, own)

        def by_function(key: Key, params: Any, state: Any) -> Any:
            return jax.jit(scheme, static_argnums=2)(
                key, params, lambda p, x: outputs(p, state, x), (x, y)
            )

        return jax.vmap(by_function)(keys, own, states)

    drawn = [start(scheme) for scheme in schemes]
    starts = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *drawn)
    if not any(isinstance(scheme, MuP) for scheme in schemes):
        return starts, states, None

    def scales_of(path: str) -> Any:
        return jnp.array([_scale(scheme, path, found, config) for scheme in schemes])

    _, rebuild = leaves_of(abstract[0])
    return starts, states, rebuild([scales_of(leaf.path) for leaf in leaves])


def _scale(scheme: Scheme, path: str, found: Sequence[Layer], config: Config) -> float:
    """What the updates of a leaf are multiplied with under a scheme."""
    if not isinstance(scheme, MuP):
        return 1.0
    wanted = scheme.arguments["optimizer"]
    if (wanted == "sgd") != (config.optimizer in ("sgd", "momentum")):
        raise ValueError(
            f"compare: tree.mup has the learning rates of {wanted}, but the optimizer "
            f"is {config.optimizer}; give it the optimizer= that is trained with."
        )
    return scheme.by_path(found)[path].learning_rate


def _diverged(point: Metrics) -> np.ndarray:
    """Which runs have a loss that is not finite."""
    return ~(np.isfinite(point.train_loss) & np.isfinite(point.valid_loss))


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
            "run_id": [_run_id(task, config, *run) for run in grid],
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
