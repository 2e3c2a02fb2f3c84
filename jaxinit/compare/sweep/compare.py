"""Which initialization converges fastest: plan, make, judge."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import pathlib
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from jaxinit.compare import cluster
from jaxinit.compare.machine import use_all_cores
from jaxinit.compare.options import (
    DEFAULT_OPTIMIZERS,
    DEFAULT_SCHEMES,
    Dtype,
    Options,
    Precision,
    Strategy,
)
from jaxinit.compare.stats import race, summary
from jaxinit.compare.store import folder
from jaxinit.compare.store.settings import Settings
from jaxinit.compare.store.sweep import Sweep
from jaxinit.compare.sweep import live
from jaxinit.compare.sweep.make import Maker
from jaxinit.compare.sweep.plan import Plan, grid, grown, named, named_optimizers, plan
from jaxinit.compare.task.builtin import parse_task
from jaxinit.compare.task.task import Task
from jaxinit.compare.train import initial
from jaxinit.compare.train.optimizers import Given
from jaxinit.compare.train.trainer import Run

if TYPE_CHECKING:
    from jaxinit.compare.report.result import Result

EXTENSIONS = 4
"""How often a grid grows."""

_REPORT = "jaxinit.compare.report.result"


def compare(
    task: Task | str = "digits-mlp",
    schemes: initial.Given | Sequence[initial.Given] = DEFAULT_SCHEMES,
    learning_rates: Sequence[float] | None = None,
    seeds: int = 18,
    *,
    optimizers: Given | Sequence[Given] = DEFAULT_OPTIMIZERS,
    steps: int = 500,
    eval_every: int | None = None,
    batch_size: int | None = None,
    dtype: Dtype = "float32",
    matmul_precision: Precision = "highest",
    targets: Sequence[float] = (),
    stop_at_target: bool = False,
    stop_at: float | None = None,
    tuning_seeds: int = 2,
    runoff_seeds: int = 6,
    extend_grid: bool = False,
    until_sure: int = 0,
    strategy: Strategy | None = None,
    shard: tuple[int, int] | None = None,
    out: str | pathlib.Path | None = None,
    redo: bool = False,
    tensorboard: str | pathlib.Path | None = None,
    wandb: str | None = None,
    quiet: bool = False,
) -> Result:
    """Train a task from every scheme at every learning rate and seed, side by side.

    Seed k has the same initialization key and the same data order in every scheme, with
    every optimizer and at every learning rate, so that differences between schemes are
    paired. A run's numbers do not depend on which other runs there are.

    Args:
        task: a task from `make_task`, or the text of a built-in one, such as
            "digits-cnn" or "digits-mlp(depth=8, width=128)".
        schemes: initializers, drawn for every kernel of the model as the model's use
            of it says; schemes of `jaxinit.tree`; lists of rules, such as
            `[("*/query/*", small_init()), ("*", he_normal())]`; the text of any of
            these; or functions `(key, params, apply, batch) -> params`, where
            `apply(params, x)` gives outputs and `batch` is (inputs, labels), named by
            their `__name__`. One of them, or several.
        learning_rates: the grid, each positive, for all optimizers; None for each
            optimizer's own, from 0.001 to 0.3 or, for those that normalize gradients,
            less.
        seeds: runs of each scheme that score it; without `tuning_seeds`, at each
            learning rate. They are numbered from 0, those that tune first.
        optimizers: those of `jaxinit.compare.optimizers`, their texts, such as
            "adamw(weight_decay=0.1, schedule='cosine', warmup=0.1)", or functions from
            a learning rate, which may be traced, to an `optax.GradientTransformation`,
            named by their `__name__`. One of them, or several: each scheme is then run
            with each, every pair tuned at rates of its own, schemes are ranked within
            each optimizer and pairs among all.
        steps: optimizer steps of each run.
        eval_every: steps between two evaluations on the validation data; None for the
            task's own, or the next smaller number that divides `steps`.
        batch_size: examples in a step; None for 64, or for those of a stream's batches.
        dtype: in what the model computes, "float32" or "bfloat16"; parameters, updates
            and losses are float32.
        matmul_precision: of float32 products, "highest", "high" or "default"; below
            "highest" an accelerator is faster and less exact, and a CPU the same.
        targets: further values of the metric at which the schemes are compared; the
            task's own decides what is run.
        stop_at_target: whether a run ends when it reaches the target.
        stop_at: no run is trained beyond so many times the fastest scheme's time to
            the target, say 3, which spares the work for those that have lost; what is
            not there by then counts as a miss. The fastest time is the first step by
            which all seeds that tune are at the target, of some scheme at some rate,
            for each optimizer.
        tuning_seeds: each scheme's rate is chosen on so many seeds of their own, and
            only that rate is run on the `seeds` further ones that score it. With 0 all
            seeds are run at every rate, and those that choose a rate also score it,
            which flatters every scheme.
        runoff_seeds: the first so many of the seeds that score are run at a scheme's
            best rate and at the better of its neighbours, and decide between the two
            together with those that tune: a rate that is chosen too poorly makes a
            scheme slower than it is. With 0 there is no run-off.
        extend_grid: whether the grid grows, by its own steps and four times at most, at
            an end where a scheme is best.
        until_sure: if not 0, the most rounds of `seeds` seeds each that are run until
            the winner is settled at 95 % confidence over all rounds; schemes that are
            shown to be slower get no further seeds.
        strategy: how a device trains its runs, of `runners.STRATEGIES`. If None, what
            made the runs in `out` on such devices; or for a large sweep what is
            measured to be fastest; or else what usually is.
        shard: (i, n): only the i-th of n parts of the sweep, counted from 0; the parts
            may be made on different machines and joined by `merge`. With
            `tuning_seeds` a part has whole schemes.
        out: folder for the results; None writes nothing. In a folder that holds some
            of the runs already, only the others are made; unfinished ones go on from
            their last checkpoint, of which there is one a minute. Processes of a
            cluster share the folder.
        redo: set the runs that `out` holds aside, in a folder within, and make all
            anew: the way on for runs of other code.
        tensorboard: folder for event files that TensorBoard shows while it trains.
        wandb: project of Weights & Biases for the same.
        quiet: neither progress nor table on the screen.

    Returns:
        The `Result`.

    Raises:
        ValueError: a setting is out of range.
        TypeError: a scheme is no scheme, or an optimizer none.
        FileExistsError: `out` holds something else, or runs of other settings, code
            or data.
        ModuleNotFoundError: tensorboardX or wandb is not installed.
        ConnectionError: another process of a cluster is gone.

    Example:
        >>> from jaxinit.compare import compare, digits_mlp
        >>> result = compare(
        ...     digits_mlp(depth=2, width=16), ["he_normal", "normal"], [0.1, 0.01],
        ...     seeds=3, steps=50, quiet=True,
        ... )
        >>> result.ranking()[0].scheme
        'he_normal()'
    """
    use_all_cores()
    if not isinstance(task, Task):
        task = parse_task(task)
    known, with_each = named(schemes), named_optimizers(optimizers)
    options = Options(
        schemes=tuple(known),
        optimizers=tuple(with_each),
        learning_rates=None if learning_rates is None else tuple(learning_rates),
        seeds=seeds,
        steps=steps,
        eval_every=eval_every,
        batch_size=batch_size,
        dtype=dtype,
        matmul_precision=matmul_precision,
        targets=tuple(targets),
        stop_at_target=stop_at_target,
        stop_at=stop_at,
        tuning_seeds=tuning_seeds,
        runoff_seeds=runoff_seeds,
        extend_grid=extend_grid,
        until_sure=until_sure,
        strategy=strategy,
    )
    planned = plan(task, known, with_each, options, shard)
    # What makes the report takes a second to import, and XLA compiles meanwhile.
    reporting = threading.Thread(target=importlib.import_module, args=[_REPORT])
    reporting.start()
    out = None if out is None else pathlib.Path(out)
    if redo:
        _redo(out, planned)
    quiet = quiet or cluster.index() > 0  # the first process speaks for all
    with _live(tensorboard, wandb, planned.settings) as writers:
        sweep = _made(Maker(planned, out, writers, quiet), planned.settings)
    reporting.join()
    result = importlib.import_module(_REPORT).Result(sweep)
    if planned.part[1] == 1:  # a part alone makes no ranking
        _report(result, out, quiet)
    return result


def _report(result: Result, out: pathlib.Path | None, quiet: bool) -> None:
    """Write what follows from the runs, and print the table."""
    if out is not None and cluster.index() == 0:
        result.save(out)
    if not quiet:
        result.show()


def _redo(out: pathlib.Path | None, planned: Plan) -> None:
    """Set aside what the folder holds, so that it is made again."""
    if out is None or planned.part[1] > 1:
        raise ValueError(
            "compare: redo=True sets aside all runs of the folder out=, which it needs "
            "and which no other part of the sweep may share; leave redo= or shard= out."
        )
    if cluster.index() == 0:
        folder.set_aside(out, planned.settings)
    cluster.wait()


def _made(maker: Maker, asked: Settings) -> Sweep:
    """The whole sweep, and the signal at step 0."""
    sweep = _runs(maker, asked)
    return dataclasses.replace(sweep, signals=maker.signals())


def _runs(maker: Maker, asked: Settings) -> Sweep:
    """The runs of the grid, and with `tuning_seeds` then the best rates alone."""
    seeds = range(asked.tuning_seeds or asked.seeds)
    sweep = maker.make(asked, grid(asked, seeds))
    for _ in range(EXTENSIONS if asked.extend_grid else 0):
        before, asked = asked, grown(_part(sweep, asked, seeds), asked)
        if asked == before:
            break
        sweep = maker.make(asked, grid(asked, seeds))
    if not asked.tuning_seeds:
        return sweep
    best = _chosen(maker, asked, _part(sweep, asked, seeds))
    if asked.until_sure:
        return _raced(maker, asked, best)
    fresh = range(asked.tuning_seeds, asked.all_seeds)
    return maker.make(asked, _at_best(asked, best, best, fresh))


def _part(
    sweep: Sweep, asked: Settings, seeds: Collection[int], rates: Any = None
) -> Sweep:
    """The runs of the pairs that are asked for, as contestants.

    Args:
        sweep: all runs that there are.
        asked: schemes, optimizers and grids.
        seeds: of the runs.
        rates: of the runs; None for all of a grid.
    """
    whole = dataclasses.replace(sweep, settings=asked)
    under = {each: whole.under(each) for each in asked.optimizers}
    parts = [
        part.of(asked.schemes, rates or asked.rates(each), seeds).runs
        for each, part in under.items()
    ]
    if asked.stop_at is not None:  # each pair is tuned as far as its optimizer went
        budget = max(part.settings.budget for part in under.values())
        asked = dataclasses.replace(asked, stopped=budget)
    runs = pa.concat_tables(parts)
    return dataclasses.replace(sweep, runs=runs, settings=asked).contestants()


def _chosen(maker: Maker, asked: Settings, tried: Sweep) -> dict[str, float]:
    """Contestant to its learning rate, after a run-off between the best two."""
    rates = {s: summary.finalists(tried.of([s])) for s in tried.schemes}
    first = asked.tuning_seeds
    seeds = range(first, first + min(asked.runoff_seeds, asked.seeds))
    wanted = [
        Run(*asked.contestants[scheme], rate, seed)
        for seed in seeds
        for scheme, several in rates.items()
        for rate in several
        if len(several) > 1
    ]
    if wanted:
        sweep = maker.make(asked, wanted)
        for scheme, several in rates.items():
            every = _part(sweep, asked, range(first + len(seeds)), several)
            both = every.of([scheme])
            rates[scheme] = summary.best_first(both)
    return {scheme: several[0] for scheme, several in rates.items()}


def _raced(maker: Maker, asked: Settings, best: dict[str, float]) -> Sweep:
    """Fresh seeds at each scheme's best rate, in rounds until the winner is settled."""
    shown: frozenset[tuple[str, str]] = frozenset()
    running: Sequence[str] = list(best)
    first, looks = asked.tuning_seeds, asked.until_sure
    look = 0
    while True:
        look += 1
        asked = dataclasses.replace(asked, rounds=look)
        fresh = range(asked.all_seeds - asked.seeds, asked.all_seeds)
        sweep = maker.make(asked, _at_best(asked, best, running, fresh))
        seeds = range(first, asked.all_seeds)
        cut = dataclasses.replace(sweep, settings=asked).cut()
        scoring = cut.of(
            asked.schemes, set(best.values()), seeds, asked.optimizers
        ).contestants()
        at_best = [
            each._replace(learning_rate=best[each.scheme])
            for each in summary.rank(scoring)
        ]
        times = summary.times(scoring, at_best)
        found = race.look_at(
            times, cut.settings.budget, look, looks, shown=shown,
            every=asked.eval_every, counted=asked.stop_at is not None,
        )  # fmt: skip
        shown, running = found.shown, found.in_race
        if found.settled or look == looks:
            said = dataclasses.replace(asked, settled=found.settled)
            settings = sweep.settings.union(said)
            return dataclasses.replace(sweep, settings=settings)


def _at_best(
    asked: Settings, best: dict[str, float], names: Iterable[str], seeds: range
) -> list[Run]:
    """The runs of contestants at their best rates."""
    pairs = asked.contestants
    return [Run(*pairs[name], best[name], seed) for seed in seeds for name in names]


@contextlib.contextmanager
def _live(
    tensorboard: str | pathlib.Path | None, wandb: str | None, settings: Settings
) -> Iterator[list[live.Live]]:
    """What takes the curves as they come; in a cluster, of the first process."""
    writers: list[live.Live] = []
    if tensorboard is not None and cluster.index() == 0:
        writers.append(live.tensorboard(tensorboard))
    if wandb is not None and cluster.index() == 0:
        writers.append(live.wandb(wandb, settings.to_json()))
    try:
        yield writers
    finally:
        for writer in writers:
            writer.close()
