"""What a sweep is to run: everything is checked here, and nothing is computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from jaxinit import _checks, tree
from jaxinit._text import parse
from jaxinit.compare import machine
from jaxinit.compare.options import Options
from jaxinit.compare.stats import summary
from jaxinit.compare.store import provenance
from jaxinit.compare.store.identity import identity
from jaxinit.compare.store.settings import Settings
from jaxinit.compare.store.sweep import SCHEMA, Sweep
from jaxinit.compare.task.task import Task
from jaxinit.compare.task.values import name_of
from jaxinit.compare.train import initial
from jaxinit.compare.train.initial import Scheme
from jaxinit.compare.train.optimizer import (
    OWN,
    SGD_RATES,
    Optimizer,
    Own,
    in_training,
    of_training,
    text_of,
)
from jaxinit.compare.train.optimizers import Given, as_optimizer
from jaxinit.compare.train.runners import STRATEGIES
from jaxinit.compare.train.trainer import Run
from jaxinit.tree._combine import as_scheme, is_pair

BATCH_SIZE = 64
"""Examples in a step, where nobody says."""


class Plan(NamedTuple):
    """A sweep to be made.

    Attributes:
        task: what is learned.
        schemes: text to scheme.
        optimizers: text to optimizer.
        settings: what is asked for.
        part: (i, n): this is the i-th of n parts of the sweep, from 0.
    """

    task: Task
    schemes: Mapping[str, Scheme]
    optimizers: Mapping[str, Optimizer | Own]
    settings: Settings
    part: tuple[int, int]

    def ours(self, wanted: Mapping[str, Run]) -> set[str]:
        """The names of the runs that belong to this part: parts differ by one run.

        Seed after seed, each n-th by name is taken, which spreads rates and schemes
        over the parts, and leaves a part as it is when seeds are added. Where seeds
        tune, each n-th scheme is taken with all of its runs, for the rate that the
        others are run at is chosen by the part.
        """
        i, n = self.part
        if self.settings.tuning_seeds:
            own = list(self.schemes)[i::n]
            return {name for name, run in wanted.items() if run.scheme in own}
        return set(sorted(wanted, key=lambda name: (wanted[name].seed, name))[i::n])

    @property
    def most_seeds(self) -> int:
        """Seeds that the sweep may come to."""
        asked = self.settings
        return asked.tuning_seeds + asked.seeds * max(1, asked.until_sure)


def plan(
    task: Task,
    schemes: Mapping[str, Scheme],
    optimizers: Mapping[str, Optimizer | Own],
    options: Options,
    shard: tuple[int, int] | None = None,
) -> Plan:
    """Check what is asked for, and settle what is left open.

    Args:
        task: what is learned.
        schemes: text to scheme, as `named` gives it.
        optimizers: text to optimizer, as `named_optimizers` gives it.
        options: what is asked for.
        shard: the part of the sweep; None for all of it.

    Raises:
        ValueError: a setting is out of range, or two do not go together.
        TypeError: a setting is of another type.
    """
    optimizers = _optimizers(task, options, optimizers)
    settings = Settings(
        **{
            **dataclasses.asdict(options),
            "schemes": tuple(schemes),
            "optimizers": tuple(optimizers),
            "eval_every": _eval_every(task, options),
            "batch_size": _batch_size(task, options.batch_size),
        },
        task=task.name,
        parts={},
        loss_name=task.loss_name,
        metric_name=task.metric_name,
        direction=task.direction,
        target=task.target,
        versions=provenance.versions(),
        device=provenance.device(),
        machine=machine.processor(),
        code=provenance.code_state(),
    )
    settings = settings.with_grids(_grids(options.learning_rates, optimizers))
    for each in optimizers.values():
        settings.config(each).check(task)
    found = identity(task, settings.config("sgd"), schemes, optimizers)
    settings = dataclasses.replace(settings, **found._asdict())
    _checks.integer("compare", seeds=settings.seeds)
    if settings.strategy is not None:
        _checks.choice("compare", "strategy", settings.strategy, STRATEGIES)
    counts = ("tuning_seeds", "runoff_seeds", "until_sure")
    more = {name: getattr(settings, name) for name in counts}
    _checks.integer("compare", minimum=0, **more)
    _check_size(settings)
    for each in optimizers.values():
        _check_model(task, settings, each)
    part = _part(shard)
    alone = settings.until_sure or settings.extend_grid or settings.stop_at
    if part[1] > 1 and alone:
        raise ValueError(
            "compare: extend_grid, until_sure and stop_at decide by the results of all "
            "schemes what is run next, which a part alone has not; leave shard= out."
        )
    if settings.tuning_seeds and part[1] > len(schemes):
        raise ValueError(
            f"compare: shard={part} asks for {part[1]} parts, but where seeds tune a "
            f"part has whole schemes, of which there are {len(schemes)}; make fewer "
            "parts, or tuning_seeds=0."
        )
    if settings.stop_at is not None:
        _checks.number("compare", minimum=1.0, stop_at=settings.stop_at)
        if not settings.tuning_seeds:
            raise ValueError(
                "compare: stop_at is a multiple of the fastest time on the seeds that "
                "tune; give tuning_seeds=."
            )
    if settings.until_sure and not settings.tuning_seeds:
        raise ValueError(
            "compare: until_sure compares schemes at rates chosen on other seeds; give "
            "tuning_seeds=."
        )
    if settings.targets:
        settings = (
            Sweep(SCHEMA.empty_table(), settings)
            .with_targets(settings.targets)
            .settings
        )
    return Plan(task, schemes, optimizers, settings, part)


KEPT, KEPT_OF_POINT = 1000, 40
"""Bytes that are kept of each run, and of each point of its curves, about."""


def _check_size(settings: Settings) -> None:
    """Raise where so many runs, or batches at once, are no matter of patience.

    Raises:
        ValueError: memory would not hold what is kept of them.
    """
    seeds = settings.tuning_seeds or settings.seeds
    runs = settings.cells * seeds
    if settings.tuning_seeds:
        rounds = max(1, settings.until_sure)
        runs += len(settings.contestants) * rounds * settings.seeds
    points = settings.steps // settings.eval_every + 1
    machine.check_room(
        f"compare: a sweep of {runs} runs with {points} evaluations each",
        runs * (KEPT + KEPT_OF_POINT * points),
        "take fewer seeds, learning rates or schemes, or a greater eval_every",
    )
    machine.check_room(
        f"compare: the order of the examples in eval_every={settings.eval_every} steps",
        8 * settings.eval_every * settings.batch_size,
        "take a smaller eval_every",
    )


def _check_model(task: Task, settings: Settings, how: Optimizer | Own) -> None:
    """Raise where memory would not hold a single run.

    Raises:
        ValueError: it would not.
    """
    traced = task.traced(settings.batch_size)
    state = traced.state
    if task.training is None:
        optimizer = in_training(how, 0.1, None, settings.steps)
        state = jax.eval_shape(optimizer.init, traced.params), traced.state
    params = machine.bytes_of(traced.params)
    machine.check_room(
        f"compare: a run of task {task.name}, of {machine.size(params)} of parameters,",
        3 * params + machine.bytes_of(state),  # as drawn, as trained, and the gradient
        "take a smaller model",
    )


def named(schemes: initial.Given | Sequence[initial.Given]) -> dict[str, Scheme]:
    """Text to scheme, of one or several.

    Raises:
        ValueError: there is none, or one comes twice.
        TypeError: a scheme is no scheme.
    """
    found: dict[str, Scheme] = {}
    for given in _several(schemes):
        scheme = _scheme(given)
        own = not isinstance(scheme, tree.Scheme)
        name = name_of(scheme) if own else repr(scheme)
        if name in found:
            raise ValueError(f"compare: scheme {name} is given twice.")
        found[name] = scheme
    if not found:
        raise ValueError("compare: no scheme is given; name at least one.")
    return found


def named_optimizers(given: Given | Sequence[Given]) -> dict[str, Optimizer | Own]:
    """Text to optimizer, of one or several.

    Raises:
        ValueError: there is none, one comes twice, or a text names none.
        TypeError: one is no optimizer.
    """
    several: Any = [given] if isinstance(given, str) or callable(given) else given
    found: dict[str, Optimizer | Own] = {}
    for each in several:
        optimizer = as_optimizer(each)
        name = text_of(optimizer)
        if name in found:
            raise ValueError(f"compare: optimizer {name} is given twice.")
        found[name] = optimizer
    if not found:
        raise ValueError("compare: no optimizer is given; name at least one.")
    return found


def _several(schemes: Any) -> Sequence[Any]:
    if isinstance(schemes, (str, tree.Scheme)) or callable(schemes):
        return [schemes]
    if schemes and all(isinstance(x, tuple) and not is_pair(x) for x in schemes):
        return [list(schemes)]  # one list of rules
    return schemes


def _scheme(given: Any) -> Scheme:
    if isinstance(given, str):
        return parse(given)
    if isinstance(given, list) or is_pair(given):
        return as_scheme(given)
    if isinstance(given, tree.Scheme) or callable(given):
        return given
    raise TypeError(
        f"compare: scheme {given!r} must be an initializer, a scheme of jaxinit.tree, "
        "the text of one, a list of rules, a pair for kernels and biases, or a "
        "function (key, params, apply, batch) -> params."
    )


def grid(settings: Settings, seeds: Iterable[int]) -> list[Run]:
    """Every scheme at every rate; by seeds first: early runs can be compared."""
    return [
        Run(scheme, optimizer, rate, seed)
        for seed in seeds
        for scheme, optimizer in settings.contestants.values()
        for rate in settings.rates(optimizer)
    ]


def grown(sweep: Sweep, settings: Settings) -> Settings:
    """The settings with one more rate at each end at which a scheme is best.

    A grid that all optimizers share grows for all of them, and stays shared.
    """
    if settings.grids:
        grids = {
            each: _grown(sweep.under(each), rates)
            for each, rates in settings.grids.items()
        }
    else:
        rates = _grown(sweep.contestants(), settings.learning_rates or ())
        grids = dict.fromkeys(settings.optimizers, rates)
    return settings.with_grids(grids)


def _grown(sweep: Sweep, rates: tuple[float, ...]) -> tuple[float, ...]:
    if len(rates) < 2:
        return rates
    best = {each.learning_rate for each in summary.rank(sweep)}
    low = [rates[0] ** 2 / rates[1]] if rates[0] in best else []
    high = [rates[-1] ** 2 / rates[-2]] if rates[-1] in best else []
    return (*low, *rates, *high)


def _eval_every(task: Task, options: Options) -> int:
    """As asked for; or the task's own, or the next smaller that divides the steps."""
    steps = options.steps
    if options.eval_every is not None:
        return options.eval_every
    if not isinstance(steps, int) or steps < 1:
        return task.eval_every  # `Config.check` says what is wrong with the steps
    return max(n for n in range(1, task.eval_every + 1) if steps % n == 0)


def _optimizers(
    task: Task, options: Options, optimizers: Mapping[str, Optimizer | Own]
) -> Mapping[str, Optimizer | Own]:
    """Those that are asked for; a training of one's own has its own."""
    if task.training is None:
        return optimizers
    defaults = Options()
    for name in ("optimizers", "batch_size"):
        value = getattr(options, name)
        if value != getattr(defaults, name):
            raise ValueError(
                f"compare: {name}={value!r}, but the training of task {task.name} has "
                "its own; leave it out."
            )
    return {OWN: of_training}


def _batch_size(task: Task, batch_size: int | None) -> int:
    if task.batches is None:
        return BATCH_SIZE if batch_size is None else batch_size
    given = task.examples
    if batch_size not in (None, given):
        raise ValueError(
            f"compare: batch_size={batch_size}, but the batches of task {task.name} "
            f"have {given} examples; leave it out."
        )
    return given


def _grids(
    learning_rates: Iterable[float] | None, optimizers: Mapping[str, Optimizer | Own]
) -> dict[str, tuple[float, ...]]:
    """The grid of each optimizer: as asked for, or its own."""
    if learning_rates is not None:
        return dict.fromkeys(optimizers, _rates(learning_rates))
    return {
        name: each.rates if isinstance(each, Optimizer) else SGD_RATES
        for name, each in optimizers.items()
    }


def _rates(learning_rates: Iterable[float]) -> tuple[float, ...]:
    rates = sorted(map(float, learning_rates))
    if not rates or len(set(rates)) < len(rates):
        raise ValueError(
            f"compare: learning_rates={learning_rates!r} must be one or more different "
            "numbers."
        )
    for rate in rates:
        _checks.number("compare", positive=True, learning_rate=rate)
    return tuple(rates)


def _part(shard: tuple[int, int] | None) -> tuple[int, int]:
    part = (0, 1) if shard is None else tuple(shard)
    if len(part) != 2 or not all(isinstance(n, int) for n in part):
        raise TypeError(f"compare: shard={shard!r} must be two integers, i and n.")
    if not 0 <= part[0] < part[1]:
        raise ValueError(
            f"compare: shard={shard!r} must be (i, n) with i from 0 to n - 1."
        )
    return part[0], part[1]
