"""Schemes x learning rates x seeds -> runs."""

from __future__ import annotations

import contextlib
import functools
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import pyarrow as pa

from jaxinit import _checks
from jaxinit._initializer import Initializer
from jaxinit._parse import parse
from jaxinit.compare import cluster
from jaxinit.compare.machine import use_all_cores
from jaxinit.compare.report import result as report
from jaxinit.compare.stats import race as sequential
from jaxinit.compare.stats import summary as stats
from jaxinit.compare.store import provenance, store
from jaxinit.compare.sweep import live
from jaxinit.compare.sweep.checkpoints import Checkpoints, Unfinished
from jaxinit.compare.sweep.chunks import Runs, run_id, versions
from jaxinit.compare.task.builtin import parse_task
from jaxinit.compare.task.task import Task
from jaxinit.compare.train import signal
from jaxinit.compare.train.engine import STRATEGIES, Strategy
from jaxinit.compare.train.starts import Scheme
from jaxinit.compare.train.trainer import Config, Metrics, Run, diverged
from jaxinit.tree import TreeScheme, rules

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


EXTENSIONS = 4
"""How often a grid grows."""


def compare(
    task: Task | str = "digits-mlp",
    schemes: Sequence[Scheme | str] = DEFAULT_SCHEMES,
    learning_rates: Sequence[float] = DEFAULT_LEARNING_RATES,
    seeds: int = DEFAULT_SEEDS,
    *,
    steps: int = 500,
    eval_every: int = 25,
    batch_size: int | None = None,
    optimizer: str = "momentum",
    dtype: str = "float32",
    matmul_precision: str = "highest",
    targets: Sequence[float] = (),
    stop_at_target: bool = False,
    tuning_seeds: int = 0,
    extend_grid: bool = False,
    until_sure: int = 0,
    strategy: Strategy | None = None,
    shard: tuple[int, int] | None = None,
    out: str | pathlib.Path | None = None,
    tensorboard: str | pathlib.Path | None = None,
    wandb: str | None = None,
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
        batch_size: examples in a step; None for 64, or for those of a stream's batches.
        optimizer: "sgd", "momentum" (0.9), "adam" or "adamw".
        dtype: in what the model computes, "float32" or "bfloat16"; parameters, updates
            and losses are float32.
        matmul_precision: of float32 products, "highest", "high" or "default"; faster
            and coarser below "highest" on an accelerator, all one on a CPU.
        targets: further values of the metric at which the schemes are compared; the
            task's own decides what is run.
        stop_at_target: whether a run ends when it reaches the target.
        tuning_seeds: if not 0, each scheme's rate is chosen on so many seeds of their
            own, and only that rate is run on the `seeds` further ones that score it.
        extend_grid: whether the grid grows, by its own steps and four times at most, at
            an end where a scheme is best.
        until_sure: if not 0, the most rounds of `seeds` seeds each that are run until
            the winner is settled at 95 % confidence over all looks; schemes that are
            shown slower leave the race.
        strategy: how a device trains its runs, of `engine.STRATEGIES`. If None, what a
            sweep in `out` had on such devices; for a large sweep, what is measured to
            be fastest; else what mostly is.
        shard: (i, n): only the i-th of n parts of the sweep, counted from 0; the parts
            may be made on different machines and joined by `merge`.
        out: folder for the results; None writes nothing. In a folder that holds some
            of the runs already, only the others are made; unfinished ones go on from
            their last checkpoint, of which there is one a minute. Processes of a
            cluster share the folder.
        tensorboard: folder for event files that TensorBoard shows while it trains.
        wandb: project of Weights & Biases for the same.
        quiet: neither progress nor table on the screen.

    Returns:
        The `Result`.

    Raises:
        ValueError: a setting is out of range.
        TypeError: a scheme is no scheme.
        FileExistsError: `out` holds something else, or runs of other settings.
        ModuleNotFoundError: tensorboardX or wandb is not installed.
        ConnectionError: another process of a cluster is gone.

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
    config = Config(
        steps,
        eval_every,
        _batch_size(task, batch_size),
        optimizer,
        dtype,
        matmul_precision,
        stop_at_target,
    )
    config.check(task)
    named = _named_schemes(schemes)
    rates = _checked_rates(learning_rates)
    _checks.integer("compare", seeds=seeds)
    if strategy is not None:
        _checks.choice("compare", "strategy", strategy, STRATEGIES)
    _checks.integer("compare", minimum=0, tuning_seeds=tuning_seeds)
    _checks.integer("compare", minimum=0, until_sure=until_sure)
    part = _checked_part(shard)
    if part[1] > 1 and (tuning_seeds or until_sure or extend_grid):
        raise ValueError(
            "compare: tuning_seeds, extend_grid and until_sure decide by results what "
            "is run next, which a part alone has not; leave shard= out."
        )
    if until_sure and not tuning_seeds:
        raise ValueError(
            "compare: until_sure compares schemes at rates chosen on other seeds; give "
            "tuning_seeds=."
        )
    settings = _settings(task, config, list(named), rates, tuning_seeds + seeds)
    settings["tuning_seeds"] = tuning_seeds
    if targets:
        empty = report.Result(store.SCHEMA.empty_table(), settings, 0.0)
        settings = empty.with_targets(targets).settings
    if strategy is None:
        strategy = _recorded(out)
    began = time.perf_counter()
    # One start a seed for all phases, known before the first.
    most = tuning_seeds + seeds * max(1, until_sure)
    make_runs = functools.partial(Runs, task, config, named, most)
    quiet = quiet or cluster.index() > 0  # the first process speaks for all
    with _live(tensorboard, wandb, settings) as writers:
        sweep = _Sweep(task, config, make_runs, strategy, part, out, writers, quiet)
        tuning = range(tuning_seeds or seeds)
        table, rates = _tuned(sweep, settings, tuning, extend_grid)
        if tuning_seeds:
            ranking = stats.rank(_of(table, named, rates, tuning))
            best = {summary.scheme: summary.learning_rate for summary in ranking}
            table = _scored(sweep, settings, best, seeds, max(1, until_sure))
        signals = {} if out is None else report.load_signals(out)
        signals |= sweep.signals()
    result = report.Result(table, settings, time.perf_counter() - began, signals)
    if part[1] > 1:
        return result  # a part alone makes no ranking
    if out is not None and cluster.index() == 0:
        result.save(out)
    if not quiet:
        result.show()
    return result


def _tuned(
    sweep: _Sweep, settings: dict[str, Any], seeds: range, extend_grid: bool
) -> tuple[pa.Table, list[float]]:
    """All schemes at all rates of the grid, which may grow, and the grid."""
    schemes, rates = list(settings["schemes"]), list(settings["learning_rates"])
    table = sweep.make(settings, _grid(schemes, rates, seeds))
    for _ in range(EXTENSIONS if extend_grid else 0):
        grown = _extended(_of(table, schemes, rates, seeds), rates)
        if grown == rates:
            break
        rates = settings["learning_rates"] = grown
        table = sweep.make(settings, _grid(schemes, rates, seeds))
    return table, rates


def _grid(schemes: Iterable[str], rates: Sequence[float], seeds: range) -> list[Run]:
    """By seeds first: what is finished early can be compared."""
    return [(s, r, k) for k in seeds for s in schemes for r in rates]


def _of(
    table: pa.Table, schemes: Iterable[str], rates: Iterable[float], seeds: range
) -> pa.Table:
    """The runs of a grid, of all that a store holds."""
    rows = zip(
        *(table[name].to_pylist() for name in ("scheme", "learning_rate", "seed")),
        strict=True,
    )
    schemes, rates = set(schemes), set(rates)
    return table.filter(
        pa.array([s in schemes and r in rates and k in seeds for s, r, k in rows])
    )


def _extended(table: pa.Table, rates: list[float]) -> list[float]:
    """The grid with a rate more at each end at which a scheme is best."""
    if len(rates) < 2:
        return rates
    best = {summary.learning_rate for summary in stats.rank(table)}
    low = [rates[0] ** 2 / rates[1]] if rates[0] in best else []
    high = [rates[-1] ** 2 / rates[-2]] if rates[-1] in best else []
    return [*low, *rates, *high]


def _scored(
    sweep: _Sweep,
    settings: dict[str, Any],
    best: dict[str, float],
    seeds: int,
    looks: int,
) -> pa.Table:
    """Fresh seeds at each scheme's best rate, in rounds until the winner is settled."""
    shown: frozenset[tuple[str, str]] = frozenset()
    race: Sequence[str] = list(best)
    first = settings["tuning_seeds"]
    table = store.SCHEMA.empty_table()
    for look in range(1, looks + 1):
        fresh = range(first + seeds * (look - 1), first + seeds * look)
        settings["seeds"] = fresh.stop
        runs = [(s, best[s], k) for k in fresh for s in race]
        table = sweep.make(settings, runs)
        if looks == 1:
            break
        scoring = _of(table, best, best.values(), range(first, fresh.stop))
        at_best = [
            summary._replace(learning_rate=best[summary.scheme])
            for summary in stats.rank(scoring)
        ]
        times = stats.times(scoring, at_best)
        standing = sequential.standing(
            times, settings["steps"], look, looks, shown=shown
        )
        shown, race = standing.shown, standing.in_race
        settings.update(looks=look, settled=standing.settled)
        if standing.settled:
            break
    return table


class _Sweep:
    """The runs of a sweep, made where they are missing, and kept."""

    def __init__(
        self,
        task: Task,
        config: Config,
        make_runs: Callable[[Strategy | None, int], Runs],
        strategy: Strategy | None,
        part: tuple[int, int],
        out: str | pathlib.Path | None,
        writers: Sequence[live.Live],
        quiet: bool,
    ) -> None:
        self._task, self._config, self._part = task, config, part
        self._writers = writers
        self._out = None if out is None else pathlib.Path(out)
        self._quiet = quiet
        self._strategy: Strategy | None = strategy
        self._make_runs = make_runs
        self._runs: Runs | None = None  # once there are any to make
        self._table = store.SCHEMA.empty_table()

    def signals(self) -> dict[str, list[signal.Row]]:
        """The signal at step 0 of the schemes, if any were run here."""
        if self._runs is None or cluster.index() > 0:
            return {}
        return self._runs.signals()

    def make(self, settings: dict[str, Any], wanted: Sequence[Run]) -> pa.Table:
        """Make the runs that are wanted and missing, and return all that there are.

        The settings become those of all runs of the folder.

        Raises:
            FileExistsError: the folder holds runs of other settings.
            ConnectionError: another process is gone.
        """
        done = frozenset(self._table["run_id"].to_pylist())
        if self._out is not None:
            self._claim(settings)
            done = store.finished(self._out)
        pending = {
            name: run
            for run in wanted
            if (name := run_id(self._task, self._config, *run)) not in done
            and _in_part(name, self._part)
        }
        cluster.wait()  # until all have seen what is done, before there is more
        if pending:
            self._train(settings, pending)
        if self._out is None or not (done or pending):
            return store.sorted_runs(self._table, settings["schemes"])
        return store.read_runs(self._out)

    def _claim(self, settings: dict[str, Any]) -> None:
        """Make the folder the sweep's, and its settings those of all its runs."""
        assert self._out is not None
        if cluster.index() == 0:
            settings.update(store.claim(self._out, settings))
        cluster.wait()
        if cluster.index() > 0:
            settings.update(store.read_settings(self._out))

    def _train(self, settings: dict[str, Any], pending: dict[str, Run]) -> None:
        if self._runs is None:
            self._runs = self._make_runs(self._strategy, len(pending))
            settings["strategy"] = self._runs.strategy
            if self._out is not None:
                self._claim(settings)
        checkpoints = None if self._out is None else Checkpoints(self._out)
        unfinished = [] if checkpoints is None else checkpoints.found()
        with report.Progress(len(pending), self._quiet) as bar:

            def show(step: int, runs: Sequence[Run], metrics: Metrics) -> None:
                share = step / self._config.steps * len(runs)
                bar.show(share, int(diverged(metrics).sum()))
                for writer in self._writers:
                    writer.log(step, runs, metrics)

            while pending:
                names, at = _next_chunk(pending, unfinished, self._runs.width)
                chunk = [pending.pop(name) for name in names]
                save = None if checkpoints is None else checkpoints.begin()
                table = self._runs.train(chunk, show, save, at)
                bar.made(len(chunk), table["status"].to_pylist().count("diverged"))
                self._keep(table)
        if checkpoints is not None:
            checkpoints.clear()

    def _keep(self, table: pa.Table) -> None:
        self._table = pa.concat_tables([self._table, table])
        if self._out is not None:
            if cluster.index() == 0:
                store.append_runs(self._out, table)
            cluster.wait()


def _next_chunk(
    pending: Mapping[str, Run], unfinished: Sequence[Unfinished], width: int
) -> tuple[list[str], Unfinished | None]:
    """Which runs come next: those that have come farthest, and where they are."""
    for each in unfinished:
        names = [name for name in each.names if name in pending][:width]
        if names:
            return names, each.of(names)
    return list(pending)[:width], None


def _recorded(out: str | pathlib.Path | None) -> Strategy | None:
    """The strategy that made the runs of a folder, on devices like these."""
    if out is None or not pathlib.Path(out, "sweep.json").is_file():
        return None
    settings = store.read_settings(out)
    return settings.get("strategy") if settings.get("device") == _device() else None


def _checked_part(shard: tuple[int, int] | None) -> tuple[int, int]:
    part = (0, 1) if shard is None else tuple(shard)
    if len(part) != 2 or not all(isinstance(n, int) for n in part):
        raise TypeError(f"compare: shard={shard!r} must be two integers, i and n.")
    if not 0 <= part[0] < part[1]:
        raise ValueError(
            f"compare: shard={shard!r} must be (i, n) with i from 0 to n - 1."
        )
    return part[0], part[1]


def _in_part(name: str, part: tuple[int, int]) -> bool:
    """Whether a run belongs to a part of the sweep: by its name, so for ever."""
    return int(name, 16) % part[1] == part[0]


@contextlib.contextmanager
def _live(
    tensorboard: str | pathlib.Path | None,
    wandb: str | None,
    settings: Mapping[str, Any],
) -> Iterator[list[live.Live]]:
    """What takes the curves as they come; in a cluster, of the first process."""
    writers: list[live.Live] = []
    if tensorboard is not None and cluster.index() == 0:
        writers.append(live.tensorboard(tensorboard))
    if wandb is not None and cluster.index() == 0:
        writers.append(live.wandb(wandb, settings))
    try:
        yield writers
    finally:
        for writer in writers:
            writer.close()


def _batch_size(task: Task, batch_size: int | None) -> int:
    if task.batches is None:
        return 64 if batch_size is None else batch_size
    given = len(task.x_train)
    if batch_size not in (None, given):
        raise ValueError(
            f"compare: batch_size={batch_size}, but the batches of task {task.name} "
            f"have {given} examples; leave it out."
        )
    return given


def _named_schemes(schemes: Sequence[Scheme | str]) -> dict[str, Scheme]:
    if isinstance(schemes, (str, Initializer, TreeScheme)) or callable(schemes):
        schemes = [schemes]  # type: ignore[list-item]
    named: dict[str, Scheme] = {}
    for scheme in schemes:
        if isinstance(scheme, str):
            scheme = parse(scheme)
        if isinstance(scheme, list):
            scheme = rules(scheme)
        if not callable(scheme) and not isinstance(scheme, TreeScheme):
            raise TypeError(
                f"compare: scheme {scheme!r} must be an initializer, its text, rules, "
                "or a function (key, params, apply, batch) -> params."
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
        "versions": versions(),
        "device": _device(),
        **({} if (code := provenance.code_state()) is None else {"code": code}),
    }


def _device() -> str:
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"
