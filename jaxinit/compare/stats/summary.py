"""From runs to schemes, each at its best learning rate, the fastest first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from jaxinit.compare.stats import inference
from jaxinit.compare.stats.measures import Quartiles, quartiles
from jaxinit.compare.store.sweep import Sweep


class SchemeSummary(NamedTuple):
    """A scheme at its best learning rate.

    Attributes:
        scheme: the scheme's text.
        learning_rate: the best rate, as `best_first` has it.
        at_edge: whether that is the grid's least or greatest rate of several, so that
            a better one may lie outside; never where the rate was fixed beforehand.
        steps_to_target: optimizer steps; infinity where the target was missed.
        reached: runs that reached the target, of `seeds`.
        seeds: runs at the best rate that are scored.
        final_train_loss: nats, mean over the last segment; infinity where diverged.
        final_valid_loss: nats; infinity where diverged.
        final_valid_metric: the task's metric; as bad as can be where diverged.
        diverged: diverged runs at all learning rates, of `runs`.
        runs: runs of the scheme.
        seconds_to_target: as `Cost` says; None where it is not known.
    """

    scheme: str
    learning_rate: float
    at_edge: bool
    steps_to_target: Quartiles
    reached: int
    seeds: int
    final_train_loss: Quartiles
    final_valid_loss: Quartiles
    final_valid_metric: Quartiles
    diverged: int
    runs: int
    seconds_to_target: Quartiles | None = None


class Cost(NamedTuple):
    """What the steps of a scheme cost: `init + steps * step` seconds to the target.

    Attributes:
        init: seconds to draw an initialization, median over the scheme's runs.
        step: seconds of a step, median over the runs of all schemes with the
            optimizer, so that a slow moment of the machine is no scheme's own.
    """

    init: float
    step: float


def ranking(sweep: Sweep, learning_rate: float | None = None) -> list[SchemeSummary]:
    """The schemes at their learning rates, the fastest first.

    By median steps to target, then by median final training loss.

    Args:
        sweep: over one task.
        learning_rate: see all schemes at this rate, instead of each at its best.

    Returns:
        As `rank` gives them; as `tuned` where seeds of their own choose the rates; as
        `fixed` at a learning rate.

    Raises:
        ValueError: there is no run, tasks are mixed, or a scheme has no run at
            `learning_rate`.
    """
    if not sweep.runs.num_rows:
        raise ValueError("report: the sweep has no finished run yet; let it end.")
    tasks = sorted(set(sweep.runs["task"].to_pylist()))
    if len(tasks) > 1:
        raise ValueError(
            f"report: the runs are of the tasks {', '.join(tasks)}; a table is of one, "
            "so keep them in a folder each and pass all folders to jaxinit report."
        )
    if learning_rate is not None:
        return fixed(sweep, learning_rate)
    return tuned(sweep) if sweep.settings.tuning_seeds else rank(sweep)


def rank(sweep: Sweep) -> list[SchemeSummary]:
    """Every scheme at its best learning rate, the fastest first.

    The runs that choose a rate also score it, which flatters every scheme; `tuned`
    does not.
    """
    summaries = []
    for scheme in sweep.schemes:
        mine = sweep.of([scheme])
        rate = best_first(mine)[0]
        at_edge = _at_edge(rate, mine.learning_rates)
        summaries.append(_summary(mine, scheme, rate, at_edge))
    return _fastest_first(sweep, summaries)


def tuned(sweep: Sweep) -> list[SchemeSummary]:
    """Tune, then test: each scheme's rate chosen on some seeds, scored on the others.

    The rate is the best of those that were scored, as `best_first` has it, on the seeds
    that they have in common: those that tune and, where a run-off was held between two
    rates, those of the run-off. The comparison is fair where every scheme has the same
    grid (`missing_rates` is empty) or at least a best rate inside its own: where a
    summary says `at_edge`, a better rate may lie outside.

    Args:
        sweep: over one task, with `tuning_seeds`.

    A rate that is chosen too poorly makes a scheme slower than it is, and two schemes
    that are alike then differ. In simulated sweeps (`benchmarks/inference.py`) with a
    grid of factors 3, two seeds choose rates that take 4 to 5 % longer than the best,
    and 18 seeds that score call one of two alike schemes faster in 8 to 23 % of sweeps.
    With a run-off of six of the 18 the rates take 1 to 2 % longer and the calls are 3
    to 7 %; a factor of 1.27 is shown in 77 to 82 %.

    Returns:
        The schemes with their steps and losses on the scoring seeds, the fastest
        first; divergence counts all of a scheme's runs.

    Raises:
        ValueError: as `Sweep.scoring` does, or a scheme has no run on the tuning seeds,
            or none to score at its best rate.

    References:
        Schmidt, Schneider and Hennig 2021, arXiv:2007.01547 (conclusions turn on
        tuning); Dahl et al. 2023, arXiv:2306.07179, section 4 (tuning budgets).
    """
    tuning, scoring = sweep.tuning, sweep.scoring
    choosing = range(sweep.settings.tuning_seeds + sweep.settings.runoff_seeds)
    summaries = []
    for scheme in sweep.schemes:
        mine = tuning.of([scheme])
        if not mine.runs.num_rows:
            raise ValueError(
                f"tuned: {scheme} has no run on the tuning seeds, so that no rate can "
                "be chosen; run it there too."
            )
        scored = scoring.of([scheme]).learning_rates
        rate = best_first(_common(sweep.of([scheme], scored, choosing)) or mine)[0]
        at_edge = _at_edge(rate, mine.learning_rates)
        summaries.append(_scored("tuned", sweep, scoring, scheme, rate, at_edge))
    return _fastest_first(sweep, summaries)


def fixed(sweep: Sweep, learning_rate: float) -> list[SchemeSummary]:
    """The other view: all schemes at one learning rate, none tuned, the fastest first.

    It answers what happens when the initialization alone is exchanged in a given
    recipe, and favours the schemes that the rate happens to suit.

    Args:
        sweep: over one task.
        learning_rate: one of the grid.

    Raises:
        ValueError: a scheme has no run at the rate.
    """
    return _fastest_first(
        sweep,
        [
            _scored("fixed", sweep, sweep, scheme, learning_rate, at_edge=False)
            for scheme in sweep.schemes
        ],
    )


def best_first(mine: Sweep) -> list[float]:
    """The learning rates of a scheme, the best first.

    By the geometric mean of the steps to target, a miss counted as the budget, which is
    what ratios compare; then by the median final training loss.

    Args:
        mine: the runs of one scheme.
    """
    budget, first = float(mine.settings.budget), mine.settings.eval_every

    def quality(rate: float) -> tuple[float, float]:
        at = mine.at(learning_rate=rate)
        steps = np.maximum(at.column("steps_to_target"), first)
        loss = quartiles(at.column("final_train_loss")).median
        return round(inference.geometric_mean(steps, budget), 9), loss

    return sorted(mine.learning_rates, key=quality)


def finalists(mine: Sweep) -> list[float]:
    """The best learning rate of a scheme and the better of its neighbours in the grid.

    Only the best where no run at either reaches the target, so that steps cannot tell
    them apart.

    Args:
        mine: the runs of one scheme that tune.
    """
    rates, ordered = mine.learning_rates, best_first(mine)
    place = rates.index(ordered[0])
    beside = rates[max(place - 1, 0) : place + 2]
    chosen = [rate for rate in ordered if rate in beside][:2]
    reach = np.isfinite(mine.of(learning_rates=chosen).column("steps_to_target"))
    return chosen if reach.any() else chosen[:1]


def missing_rates(sweep: Sweep) -> dict[str, list[float]]:
    """Learning rates that some scheme ran at and this one did not, by optimizer.

    Args:
        sweep: over one task.

    Returns:
        Scheme to its missing rates, ascending; schemes that lack none are left out.
        What is here was not tuned with equal budget.
    """
    missing = {}
    for scheme in sweep.schemes:
        mine = sweep.of([scheme])
        grid = set(sweep.of(optimizers=mine.optimizers).learning_rates)
        missing[scheme] = sorted(grid - set(mine.learning_rates))
    return {scheme: rates for scheme, rates in missing.items() if rates}


def costs(sweep: Sweep) -> dict[str, Cost]:
    """What each scheme's steps cost on the machine that ran them.

    Args:
        sweep: all runs.

    Returns:
        Scheme to cost, without the schemes whose runs do not know it; none where the
        runs are of several machines.
    """
    if sweep.settings.of_several_machines:
        return {}
    step = {
        each: _median_known(sweep.of(optimizers=[each]), "step_seconds")
        for each in sweep.optimizers
    }
    known = {}
    for scheme in sweep.schemes:
        mine = sweep.of([scheme])
        init = _median_known(mine, "init_seconds")
        known[scheme] = Cost(init, step[mine.optimizers[0]])
    return {scheme: cost for scheme, cost in known.items() if not np.isnan(sum(cost))}


def times(sweep: Sweep, summaries: Sequence[SchemeSummary]) -> dict[str, np.ndarray]:
    """Times to target, paired by seed, as `inference` takes them.

    Args:
        sweep: over one task; `Sweep.scoring` where rates were tuned.
        summaries: schemes and their learning rates.

    Returns:
        Scheme to (seeds,) steps to target, one order of seeds for all, ascending:
        infinity where the target was missed, NaN where there is no run. A target met
        before the first step counts as reached at the first evaluation after it, for
        nothing finer is measured, and ratios exist.

    Raises:
        ValueError: a scheme has two runs at one rate and seed.
    """
    seeds = sorted(set(sweep.runs["seed"].to_pylist()))
    result = {}
    for summary in summaries:
        at = sweep.at(summary.scheme, summary.learning_rate)
        if len(set(at.runs["seed"].to_pylist())) < at.runs.num_rows:
            raise ValueError(
                f"times: {summary.scheme} has two runs at the learning rate "
                f"{summary.learning_rate:g} and one seed; pass each run once."
            )
        steps, first = np.full(len(seeds), np.nan), sweep.settings.eval_every
        place = np.searchsorted(seeds, at.runs["seed"].to_numpy())
        steps[place] = np.maximum(at.column("steps_to_target"), first)
        result[summary.scheme] = steps
    return result


def by_rate(sweep: Sweep, scheme: str, column: str) -> dict[float, Quartiles]:
    """Learning rate to the quartiles of a column, at the rates that a scheme ran at."""
    mine = sweep.of([scheme])
    return {
        rate: quartiles(mine.at(learning_rate=rate).column(column))
        for rate in mine.learning_rates
    }


def _fastest_first(
    sweep: Sweep, summaries: Iterable[SchemeSummary]
) -> list[SchemeSummary]:
    """The summaries in order, and what their steps cost by all runs of the sweep."""
    known = costs(sweep)

    def timed(summary: SchemeSummary) -> SchemeSummary:
        if summary.scheme not in known:
            return summary
        init, step = known[summary.scheme]
        seconds = Quartiles(*(init + step * each for each in summary.steps_to_target))
        return summary._replace(seconds_to_target=seconds)

    return sorted(
        map(timed, summaries),
        key=lambda s: (s.steps_to_target.median, s.final_train_loss.median),
    )


def _median_known(sweep: Sweep, column: str) -> float:
    """The median of the finite values of a column; NaN where there is none."""
    values = np.array(sweep.runs[column].to_pylist(), dtype=float)
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else math.nan


def _at_edge(rate: float, rates: Sequence[float]) -> bool:
    """Whether a rate is at the end of a grid of several."""
    return len(rates) > 1 and rate in (rates[0], rates[-1])


def _common(mine: Sweep) -> Sweep | None:
    """The runs at the seeds that all of a scheme's learning rates have, if any."""
    rates = mine.learning_rates
    seeds = [set(mine.of(learning_rates=[r]).runs["seed"].to_pylist()) for r in rates]
    found = mine.of(seeds=set.intersection(*seeds) if seeds else ())
    return found if found.runs.num_rows else None


def _scored(
    owner: str, sweep: Sweep, scoring: Sweep, scheme: str, rate: float, at_edge: bool
) -> SchemeSummary:
    """A scheme scored on some of its runs, its divergence counted on all of them."""
    at = scoring.at(scheme, rate)
    if not at.runs.num_rows:
        raise ValueError(
            f"{owner}: {scheme} has no run to score at the learning rate {rate:g}."
        )
    return _summary(at, scheme, rate, at_edge, sweep.of([scheme]))


def _summary(
    scoring: Sweep, scheme: str, rate: float, at_edge: bool, every: Sweep | None = None
) -> SchemeSummary:
    """A scheme at a rate; divergence is counted on every run."""
    at = scoring.at(scheme, rate)
    every = scoring if every is None else every
    steps = at.column("steps_to_target")
    return SchemeSummary(
        scheme=scheme,
        learning_rate=rate,
        at_edge=at_edge,
        steps_to_target=quartiles(steps),
        reached=int(np.isfinite(steps).sum()),
        seeds=at.runs.num_rows,
        final_train_loss=quartiles(at.column("final_train_loss")),
        final_valid_loss=quartiles(at.column("final_valid_loss")),
        final_valid_metric=quartiles(at.column("final_valid_metric")),
        diverged=int(every.diverged.sum()),
        runs=every.runs.num_rows,
    )
