r"""Schemes over several tasks: middle speed and chance of being sooner, with intervals.

The measures are those of rliable (Agarwal et al. 2021, arXiv:2108.13264). A run's
normalised score is its speed against a baseline,

$s = \min(m, B) / t$

for its steps to the target $t$, the baseline's median $m$ on the same task and the
budget $B$; a miss has the score 0. It is in units of the baseline, so that 2 is twice
as fast, and no scheme's scores depend on what else is compared.

Intervals are rliable's: the runs of each task are drawn again with replacement, task by
task (a stratified bootstrap), and the bounds are percentiles. So they hold for these
tasks, and say nothing of others; the baseline's medians are taken as known; and with
few runs they are too narrow. Of 600 simulated sweeps over three tasks, with lognormal
times that spread by 0.35, 95 % intervals of the speed cover the truth in 88, 94 and
92 % with 5, 10 and 20 runs a task, those of the chance in 93, 94 and 96 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike

from jaxinit.compare.stats import measures
from jaxinit.compare.stats.summary import SchemeSummary
from jaxinit.compare.store.settings import scheme_named

REPEATS = 10_000
"""Resamples of an interval."""


class Estimate(NamedTuple):
    """A number with its 95 % interval.

    Attributes:
        value: from all runs.
        low: lower bound; NaN where no task has two runs.
        high: upper bound.
    """

    value: float
    low: float
    high: float


class Standing(NamedTuple):
    """A scheme over all tasks.

    Attributes:
        scheme: its text.
        speed: interquartile mean of its speeds against the baseline.
        sooner: probability that a run of it is sooner than one of the baseline,
            averaged over tasks; None for the baseline.
    """

    scheme: str
    speed: Estimate
    sooner: Estimate | None


def standings(
    times: Sequence[Mapping[str, ArrayLike]],
    budgets: Sequence[float],
    baseline: str | None = None,
) -> list[Standing]:
    """The schemes that all tasks have, the fastest first.

    Args:
        times: for each task, scheme to (seeds,) steps to the target; infinity a miss,
            NaN a run not made. Seeds may differ in number, and tasks with more weigh
            more in the speed.
        budgets: for each task, the steps that a run has.
        baseline: the scheme that speeds are measured by; by default the first that
            reaches the target in most of its runs on every task, else the first.

    Returns:
        The standings.

    Raises:
        ValueError: the baseline is none of the schemes that all tasks have.
    """
    common = [name for name in times[0] if all(name in each for each in times)]
    runs = {name: [_made(task[name]) for task in times] for name in common}
    if baseline is None:
        usual = (
            name
            for name in common
            if all(np.isfinite(task).mean() > 0.5 for task in runs[name])
        )
        baseline = next(usual, common[0])
    baseline = scheme_named("baseline", baseline, common)
    units = [
        min(measures.quartiles(task).median, budget)
        for task, budget in zip(runs[baseline], budgets, strict=True)
    ]
    found = [
        Standing(
            scheme=name,
            speed=interquartile_mean([u / t for u, t in zip(units, mine, strict=True)]),
            sooner=None if name == baseline else chance(mine, runs[baseline]),
        )
        for name, mine in runs.items()
    ]
    return sorted(found, key=lambda each: -each.speed.value)


def interquartile_mean(scores: Sequence[ArrayLike]) -> Estimate:
    """Interquartile mean over runs and tasks, with a stratified bootstrap's interval.

    A quarter of all scores, rounded down, is cut at each end, over both axes at once,
    as in rliable's `aggregate_iqm`.

    Args:
        scores: for each task, (runs,) scores.

    Returns:
        The mean, and percentiles of the means of resampled runs.

    Example:
        >>> interquartile_mean([[1, 2, 3, 4], [5, 6, 7, 8]]).value
        4.5
    """
    tasks = [np.asarray(each, float) for each in scores]
    draws = np.random.default_rng(0)
    again = [
        task[draws.integers(len(task), size=(REPEATS, len(task)))] for task in tasks
    ]
    means = scipy.stats.trim_mean(np.concatenate(again, axis=1), 0.25, axis=1)
    return _estimate(measures.iqm(np.concatenate(tasks)), means, tasks)


def chance(a: Sequence[ArrayLike], b: Sequence[ArrayLike]) -> Estimate:
    """Probability that scheme a is sooner than scheme b, averaged over tasks.

    On each task that of `measures.probability_of_improvement`, over all pairs of runs;
    runs of both schemes are resampled independently, as in rliable, and not by seed.

    Args:
        a: for each task, (runs,) times to target; infinity a miss.
        b: for each task, (other runs,), those of the other scheme.

    Returns:
        The mean over tasks, and percentiles of the means of resampled runs.

    Example:
        >>> chance([[10, 20], [30, 30]], [[20, 40], [30, 10]]).value
        0.5625
    """
    pairs = [
        (np.asarray(x, float), np.asarray(y, float)) for x, y in zip(a, b, strict=True)
    ]
    draws = np.random.default_rng(0)
    values, again = [], np.zeros(REPEATS)
    for x, y in pairs:
        values.append(measures.probability_of_improvement(x, y))
        wins = (x[:, None] < y) + (x[:, None] == y) / 2
        # How often each run is drawn says all of a resample.
        of_x, of_y = (
            draws.multinomial(n, np.full(n, 1 / n), REPEATS) for n in wins.shape
        )
        again += np.einsum("rx,xy,ry->r", of_x, wins, of_y) / wins.size
    return _estimate(float(np.mean(values)), again / len(pairs), [x for x, _ in pairs])


def profile_times(rankings: Sequence[Sequence[SchemeSummary]]) -> dict[str, np.ndarray]:
    """Median steps to target of the schemes that all tasks have.

    Args:
        rankings: a task each.

    Returns:
        Scheme to (tasks,) median steps at its best rate on each; infinity a miss.

    Raises:
        ValueError: no two schemes are common to all tasks.
    """
    medians = [
        {each.scheme: max(each.steps_to_target.median, 1.0) for each in ranking}
        for ranking in rankings
    ]
    common = [name for name in medians[0] if all(name in each for each in medians)]
    if len(common) < 2:
        raise ValueError(
            f"report: the tasks have {len(common)} scheme in common; a profile over "
            "tasks needs two or more."
        )
    return {name: np.array([each[name] for each in medians]) for name in common}


def _made(times: ArrayLike) -> np.ndarray:
    """The times of the runs that were made."""
    values = np.asarray(times, float)
    return values[~np.isnan(values)]


def _estimate(value: float, again: np.ndarray, tasks: Sequence[np.ndarray]) -> Estimate:
    if max(map(len, tasks)) < 2:
        return Estimate(value, math.nan, math.nan)
    low, high = np.quantile(again, [0.025, 0.975])
    return Estimate(value, float(low), float(high))
