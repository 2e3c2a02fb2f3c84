"""The runs of an optimizer: how they are trained, what they are named, what is kept."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa

from jaxinit.compare import cluster
from jaxinit.compare.machine import free_memory
from jaxinit.compare.options import Strategy
from jaxinit.compare.store.identity import run_id
from jaxinit.compare.store.limit import Limit
from jaxinit.compare.store.settings import Settings
from jaxinit.compare.store.sweep import SCHEMA
from jaxinit.compare.sweep.checkpoints import Unfinished
from jaxinit.compare.task.task import Task
from jaxinit.compare.train.engine import Engine, Snapshot, power_of_two
from jaxinit.compare.train.initial import InitialParams, Scheme
from jaxinit.compare.train.optimizer import Optimizer, Own, text_of
from jaxinit.compare.train.runners import STRATEGIES, stacked
from jaxinit.compare.train.strategy import choose_strategy, usual_strategy
from jaxinit.compare.train.trainer import (
    Hparams,
    Metrics,
    Run,
    diverged,
    make_trainer,
    source_of,
)

LOG = logging.getLogger("jaxinit")

WORTH_MEASURING = 100_000
"""Optimizer steps of all runs above which strategies are measured first."""

SAVE_EVERY = 60.0
"""Seconds between two checkpoints of a chunk."""

SAVE_SHARE = 0.05
"""The part of the time that checkpoints may take; slow ones are rarer."""


class Runs:
    """The runs of an optimizer, trained a chunk at a time by the same programs.

    Attributes:
        initial: the initial parameters.
        strategy: how a device trains its runs.
        block: runs that a device trains at once.
        width: the most runs of a chunk.
    """

    def __init__(
        self,
        task: Task,
        schemes: Mapping[str, Scheme],
        settings: Settings,
        optimizer: Optimizer | Own,
        initial: InitialParams,
        pending: int,
    ) -> None:
        """Choose the strategy, see what fits.

        Args:
            task: what is learned.
            schemes: text to scheme.
            settings: of the sweep; the strategy is theirs, if they have one.
            optimizer: that of these runs.
            initial: the initial parameters.
            pending: runs to train.
        """
        self._task = task
        self._settings, self._config = settings, settings.config(optimizer)
        config, strategy = self._config, settings.strategy
        self.initial, self._scales = initial, initial.scales(optimizer)
        first = [Run(next(iter(schemes)), text_of(optimizer), 0.0, 0)]
        example = jax.tree.map(lambda x: x[0], self._arguments(first))
        self.strategy = self._agreed(strategy or self._chosen(pending, example))
        trainer, source = make_trainer(task, config), source_of(task, config)
        self._made = functools.partial(
            Engine, trainer, config, source, self.strategy, self._over
        )
        best = self._made().block(example)
        devices = len(jax.local_devices()) * cluster.count()
        most = 32 if jax.default_backend() == "cpu" else 1024
        wanted = min(most, max(best, -(-pending // devices)))
        fit = self._made().width(example, wanted, free_memory())
        self.block = min(best, settings.block or power_of_two(fit))
        self._engine = self._made(self.block)
        whole = max(1, fit // self.block) * self.block
        self.width = min(pending, whole * devices)

    def _chosen(self, pending: int, example: Any) -> Strategy:
        """The strategy: measured where that pays."""
        convolved = self.initial.convolved
        if pending * self._config.steps < WORTH_MEASURING:
            return usual_strategy(convolved)
        return choose_strategy(self._task, self._config, example, convolved)

    @staticmethod
    def _agreed(strategy: Strategy) -> Strategy:
        """The first process's choice."""
        return STRATEGIES[int(cluster.gathered(STRATEGIES.index(strategy))[0])]

    def _seen(
        self, limit: Limit, step: int, runs: Sequence[Run], metrics: Metrics
    ) -> None:
        reached = np.asarray(self._task.reached(metrics.valid_metric))
        limit.saw(step, runs, reached, diverged(metrics))

    def _over(self, metrics: Metrics) -> np.ndarray:
        """Which runs need no further training."""
        dead = diverged(metrics)
        if self._config.stop_at_target:
            dead |= self._task.reached(metrics.valid_metric)
        return dead

    def _arguments(self, runs: Sequence[Run]) -> Any:
        """The arguments of `Engine.train`."""
        params, states = self.initial.of([(run.scheme, run.seed) for run in runs])
        rates = jnp.array([run.learning_rate for run in runs], jnp.float32)
        seeds = np.array([run.seed for run in runs])
        scales = None
        if self._scales is not None:
            scales = stacked([self._scales[run.scheme] for run in runs])
        return (
            params,
            states,
            self.initial.training_keys[seeds],
            Hparams(rates, scales),
        )

    def train(
        self,
        chunk: Sequence[Run],
        show: Callable[[int, Sequence[Run], Metrics], None],
        limit: Limit,
        save: Callable[[Unfinished], None] | None = None,
        unfinished: Unfinished | None = None,
    ) -> pa.Table:
        """Train a chunk.

        Args:
            chunk: the runs.
            show: is called after each segment with steps done, the runs in training,
                and their newest metrics.
            limit: says how far, and sees the metrics.
            save: is called from time to time with what a later call may go on from.
            unfinished: where these runs go on from.

        Returns:
            A row for each run.

        Raises:
            ConnectionError: another process is gone.
        """
        tables: list[pa.Table] = []
        rest = chunk
        while rest:
            part = rest[: self.width]
            names = [run_id(self._settings, *run) for run in part]
            at = None if unfinished is None else unfinished.of(names)
            try:
                tables.append(self._trained(part, show, limit, save, at))
                rest = rest[len(part) :]
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                self._narrow(len(part), error)
        return pa.concat_tables(tables)

    def _narrow(self, runs: int, error: Exception) -> None:
        """So many runs did not fit: take half of them.

        Raises:
            ValueError: there is no half, or other processes wait for this one.
        """
        if cluster.count() > 1 or runs <= len(jax.local_devices()):
            raise ValueError(
                f"compare: {runs} runs of task {self._task.name} do not fit in the "
                "memory of the devices; take a smaller model or batch."
            ) from error
        self.width = -(-runs // 2)
        LOG.warning("out of memory: on with chunks of %d runs", self.width)
        block = power_of_two(self.width // len(jax.local_devices()))
        if block < self.block:
            LOG.warning("they go %d at once, which rounds differently", block)
            self.block, self._engine = block, self._made(block)

    def _trained(
        self,
        chunk: Sequence[Run],
        show: Callable[[int, Sequence[Run], Metrics], None],
        limit: Limit,
        save: Callable[[Unfinished], None] | None,
        unfinished: Unfinished | None,
    ) -> pa.Table:
        share = cluster.Share(len(chunk))
        training = self._engine.train(
            *self._arguments([chunk[i] for i in share.own]),
            width=-(-self.width // cluster.count()),
            snapshot=None if unfinished is None else _own(unfinished.snapshot, share),
        )
        points = [] if unfinished is None else _unstacked(unfinished.points)
        before = 0.0 if unfinished is None else unfinished.seconds
        clock = _Clock(self._config.eval_every)
        for i, point in enumerate(points):
            self._seen(limit, i * self._config.eval_every, chunk, point)
        for step, own in training:
            clock.tick(int(training.going.sum()))
            point, due = share.of_all((own, np.full(len(share.own), clock.is_due())))
            points.append(point)
            show(step, chunk, point)
            self._seen(limit, step, chunk, point)
            if step >= limit.steps(chunk[0].optimizer):
                break
            if save is not None and due[0] and step < self._config.steps:
                names = [run_id(self._settings, *run) for run in chunk]
                snapshot = _of_all(training.snapshot(), share, point)
                curves = jax.tree.map(lambda *each: np.stack(each), *points)
                save(Unfinished(names, curves, snapshot, before + clock.seconds()))
                clock.saved()
        seconds = self.initial.seconds
        own_costs = np.array([seconds[chunk[i].scheme] for i in share.own])
        init_seconds = share.of_all(own_costs)
        step_seconds = np.full(len(chunk), clock.step_seconds())
        costs = init_seconds, step_seconds
        return _table(self._task, self._settings, chunk, points, *costs)


class _Clock:
    """When segments ended: what a run's step takes, and when to save."""

    def __init__(self, eval_every: int) -> None:
        self._every = eval_every
        self._ended, self._next = time.perf_counter(), SAVE_EVERY
        self._began = self._ended
        self._spent: list[float] = []

    def tick(self, runs: int) -> None:
        """A segment of so many runs has ended."""
        now = time.perf_counter()
        if runs:
            self._spent.append((now - self._ended) / runs / self._every)
        self._ended = now

    def seconds(self) -> float:
        """Since the beginning."""
        return time.perf_counter() - self._began

    def is_due(self) -> bool:
        """Whether it is time to save."""
        return self._ended - self._began > self._next

    def saved(self) -> None:
        """It is saved; a save that takes long is rarer."""
        now = time.perf_counter()
        took = now - self._ended
        self._next = now - self._began + max(SAVE_EVERY, took / SAVE_SHARE)
        self._ended = now

    def step_seconds(self) -> float:
        """A run's share of a step, as the median over segments; NaN if none is left.

        The first two are left out: step 0, and the segment that compiles.
        """
        return float(np.median(self._spent[2:])) if self._spent[2:] else np.nan


def _unstacked(points: Metrics) -> list[Metrics]:
    count = len(points.train_loss)
    return [jax.tree.map(lambda x: x[k], points) for k in range(count)]  # noqa: B023


def _own(snapshot: Snapshot, share: cluster.Share) -> Snapshot:
    """A process's part of a snapshot of all runs of a chunk."""
    place = {run: at for at, run in enumerate(share.own)}
    mine = [at for at, run in enumerate(snapshot.runs) if run in place]
    return Snapshot(
        snapshot.step,
        np.array([place[snapshot.runs[at]] for at in mine], int),
        [leaf[mine] for leaf in snapshot.state],
        jax.tree.map(lambda x: x[share.own], snapshot.metrics),
    )


def _of_all(snapshot: Snapshot, share: cluster.Share, metrics: Metrics) -> Snapshot:
    """The snapshot of all runs of a chunk, of each process's."""

    def spread(rows: np.ndarray) -> np.ndarray:
        whole = np.zeros((len(share.own), *rows.shape[1:]), rows.dtype)
        whole[snapshot.runs] = rows
        return whole

    goes_on = spread(np.ones(len(snapshot.runs), bool))
    goes_on, state = share.of_all((goes_on, [spread(x) for x in snapshot.state]))
    runs = np.flatnonzero(goes_on)
    return Snapshot(snapshot.step, runs, [leaf[runs] for leaf in state], metrics)


def _table(
    task: Task,
    settings: Settings,
    grid: Sequence[Run],
    points: list[Metrics],
    init_seconds: np.ndarray,
    step_seconds: np.ndarray,
) -> pa.Table:
    curves = jax.tree.map(lambda *x: np.stack(x, axis=1).astype(float), *points)
    train_loss, valid_loss, metric, others = curves
    dead: Any = diverged(curves).any(axis=1)
    eval_steps = [settings.eval_every * i for i in range(len(points))]
    reached = np.asarray(task.reached(metric))
    best = metric.max(axis=1) if task.direction == "max" else metric.min(axis=1)
    hit = reached.any(axis=1) & ~dead
    ends = "reached" if settings.stop_at_target else "finished"
    first = np.array(eval_steps)[reached.argmax(axis=1)]
    return pa.table(
        {
            "run_id": [run_id(settings, *run) for run in grid],
            "task": [task.name] * len(grid),
            **{name: [getattr(run, name) for run in grid] for name in Run._fields},
            "status": [
                "diverged" if d else ends if h else "finished"
                for d, h in zip(dead, hit, strict=True)
            ],
            "steps_to_target": [
                int(s) if h else None for s, h in zip(first, hit, strict=True)
            ],
            "final_train_loss": train_loss[:, -1],
            "final_valid_loss": valid_loss[:, -1],
            "final_valid_metric": metric[:, -1],
            "best_valid_metric": best,
            "eval_steps": [eval_steps] * len(grid),
            "train_loss": list(train_loss),
            "valid_loss": list(valid_loss),
            "valid_metric": list(metric),
            "init_seconds": init_seconds,
            "step_seconds": step_seconds,
            "other_metrics": [
                [(name, curve[i]) for name, curve in others.items()]
                for i in range(len(grid))
            ],
        },
        schema=SCHEMA,
    )
