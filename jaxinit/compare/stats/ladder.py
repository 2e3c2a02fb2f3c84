"""Whether what is found at a small size holds at a larger one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxinit.compare.stats import inference
from jaxinit.compare.stats.verdict import Verdict, judge
from jaxinit.compare.store.sweep import Sweep

RESAMPLES = 2000


class Correlation(NamedTuple):
    """Kendall's rank correlation of the schemes between two sizes.

    The interval is of percentiles, with the seeds of each size drawn anew. It says how
    sure the order of these schemes is, not what others would do, and is too narrow
    where seeds are few.

    Attributes:
        value: tau-b, 1 for one order and -1 for the opposite; NaN where all schemes
            are level at a size.
        low: lower 95 % bound, NaN where there are fewer than three seeds.
        high: upper.
    """

    value: float
    low: float
    high: float


class Step(NamedTuple):
    """From a size to a larger one.

    Attributes:
        small: the size. large: the other.
        winner: the first scheme at the small size.
        ahead: the first scheme at the large one.
        correlation: of the schemes' times at the two sizes.
        regret: the time at the large size of the small one's winner, over that of the
            fastest there; at least 1. Its interval holds for whichever is the fastest.
        kept: whether the small size's winner is shown to be slower than none at the
            large size, and shown to be faster than all others at both; None where
            neither this nor the opposite is shown, for want of seeds.
    """

    small: int
    large: int
    winner: str
    ahead: str
    correlation: Correlation
    regret: inference.Ratio
    kept: bool | None


class Drift(NamedTuple):
    """How a scheme's best learning rate goes with the size.

    Attributes:
        rates: the best rate at each size, NaN where the scheme never reaches the
            target.
        factor: what the rate is multiplied with when the size doubles, by least
            squares on logarithms; NaN with fewer than two known rates.
        moves: whether it moves by more than one step of the grid, which is what a
            grid tells apart; None where it is not known.
    """

    rates: tuple[float, ...]
    factor: float
    moves: bool | None


class Rungs(NamedTuple):
    """What a ladder of sizes shows.

    Attributes:
        sizes: ascending.
        verdicts: of each size.
        times: scheme to geometric mean steps at each size.
        budgets: of each size; a time at the budget is a miss of all runs.
        steps: from each size to the next, and from the first to the last.
        drifts: by scheme.
    """

    sizes: tuple[int, ...]
    verdicts: tuple[Verdict, ...]
    times: Mapping[str, tuple[float, ...]]
    budgets: tuple[float, ...]
    steps: tuple[Step, ...]
    drifts: Mapping[str, Drift]


def climb(sweeps: Mapping[int, Sweep]) -> Rungs:
    """What sweeps of one kind of model at several sizes show.

    Args:
        sweeps: size to sweep.

    Returns:
        Correlations, regrets and drifts.

    Raises:
        ValueError: there are fewer than two sizes, or schemes that all have in common.

    References:
        Kendall 1945, Biometrika 33:239 (tau-b).
    """
    sizes = tuple(sorted(sweeps))
    cut = [sweeps[size].contestants() for size in sizes]
    verdicts = tuple(map(judge, (sweeps[size] for size in sizes)))
    common = [s for s in cut[0].schemes if all(s in each.schemes for each in cut)]
    if len(sizes) < 2 or len(common) < 2:
        raise ValueError(
            f"ladder: {len(sizes)} sizes with {len(common)} schemes in common; it "
            "takes two or more of each."
        )
    budgets = tuple(float(each.settings.budget) for each in cut)
    found = [
        {row.summary.scheme: row.times for row in verdict.rows} for verdict in verdicts
    ]
    tables = [np.array([times[s] for s in common]) for times in found]
    rungs = [(i, i + 1) for i in range(len(sizes) - 1)]
    if len(sizes) > 2:
        rungs.append((0, len(sizes) - 1))
    steps = []
    for i, j in rungs:
        winner, ahead = (_first(verdicts[k], common) for k in (i, j))
        common_times = {s: found[j][s] for s in common}
        every = cut[j].settings.eval_every
        steps.append(
            Step(
                sizes[i],
                sizes[j],
                winner,
                ahead,
                _correlation(tables[i], tables[j], budgets[i], budgets[j]),
                _regret(winner, common_times, budgets[j], every),
                _kept(verdicts[i], verdicts[j], winner, ahead),
            )
        )
    means = {
        s: tuple(
            inference.geometric_mean(times[s], budget)
            for times, budget in zip(found, budgets, strict=True)
        )
        for s in common
    }
    drifts = {s: _drift(s, sizes, verdicts, cut) for s in common}
    return Rungs(sizes, verdicts, means, budgets, tuple(steps), drifts)


def tau(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    r"""Kendall's $\tau_b$ along the last axis, NaN where all values of one are equal.

    Args:
        a: (..., schemes).
        b: (..., schemes).

    Returns:
        (...,), in [-1, 1].

    Example:
        >>> tau(np.array([1, 2, 3, 3]), np.array([1, 3, 2, 2])).round(3)
        np.float64(0.2)
    """
    i, j = np.triu_indices(a.shape[-1], 1)
    x, y = (np.sign(np.round(v[..., i] - v[..., j], 9)) for v in (a, b))
    known = np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known > 0, (x * y).sum(axis=-1) / known, math.nan)


def _correlation(
    small: np.ndarray, large: np.ndarray, first: float, second: float
) -> Correlation:
    """Of (schemes, seeds) times at two sizes; seeds are drawn anew for the interval."""
    logs = [np.log(np.minimum(t, b)) for t, b in ((small, first), (large, second))]
    value = float(tau(*(np.nanmean(each, axis=1) for each in logs)))
    if min(each.shape[1] for each in logs) < 3 or math.isnan(value):
        return Correlation(value, math.nan, math.nan)
    rng = np.random.default_rng(0)
    means = []
    for each in logs:
        drawn = rng.integers(each.shape[1], size=(RESAMPLES, each.shape[1]))
        counts = np.apply_along_axis(np.bincount, 1, drawn, minlength=each.shape[1])
        ran = ~np.isnan(each)
        weights = counts @ ran.T
        sums = counts @ np.where(ran, each, 0).T
        with np.errstate(invalid="ignore"):
            means.append(sums / weights)
    drawn = tau(*means)
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Correlation(value, float(low), float(high))


def _first(verdict: Verdict, common: Sequence[str]) -> str:
    """The first of the schemes that all sizes have."""
    return next(name for name in verdict.order if name in common)


def _regret(
    winner: str, times: Mapping[str, np.ndarray], budget: float, every: float
) -> inference.Ratio:
    """How many times as long a scheme takes as the fastest of all, whichever it is.

    The bounds are the greatest over all schemes, each of its own pair, and at least 1.
    """
    ratios = [
        inference.ratio_to_target(times[winner], other, budget, every=every)
        for name, other in times.items()
        if name != winner
    ]
    worst = max(ratios, key=lambda each: each.ratio)
    low, high = (max(bounds) for bounds in zip(*(r[1:3] for r in ratios), strict=True))
    return worst._replace(
        ratio=max(worst.ratio, 1.0), low=max(low, 1.0), high=max(high, 1.0)
    )


def _kept(small: Verdict, large: Verdict, winner: str, ahead: str) -> bool | None:
    """Whether the winner stays; None where that is not shown."""
    if winner != ahead:
        return False if large.is_shown(ahead, winner) else None
    alone = [not verdict.level_with_first for verdict in (small, large)]
    return True if all(alone) and small.pairs and large.pairs else None


def _drift(
    scheme: str,
    sizes: Sequence[int],
    verdicts: Sequence[Verdict],
    sweeps: Sequence[Sweep],
) -> Drift:
    rates, grid = [], 1.0
    for verdict, sweep in zip(verdicts, sweeps, strict=True):
        row = next(s for s in verdict.ranking if s.scheme == scheme)
        rates.append(row.learning_rate if row.reached else math.nan)
        tried = sweep.of([scheme]).learning_rates
        widest = max((b / a for a, b in itertools.pairwise(tried)), default=1.0)
        grid = max(grid, widest)
    logs, at = np.log(rates), np.log2(sizes)
    known = np.isfinite(logs)
    if known.sum() < 2:
        return Drift(tuple(rates), math.nan, None)
    slope = np.polyfit(at[known], logs[known], 1)[0]
    reach = logs[known][-1] - logs[known][0]
    moves = bool(abs(reach) > 1.001 * math.log(grid)) if grid > 1 else None
    return Drift(tuple(rates), float(np.exp(slope)), moves)
