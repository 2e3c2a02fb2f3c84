"""From a sweep to its verdict: who is faster, by how much, and how sure; as data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxinit.compare.stats import comparisons, inference, measures, power, summary
from jaxinit.compare.store.settings import scheme_named
from jaxinit.compare.store.sweep import Sweep

LEVEL = 0.05
"""Probability of a false "faster" or "slower" anywhere in a sweep."""


class Row(NamedTuple):
    """A scheme's line in the table.

    Attributes:
        summary: the scheme at its learning rate.
        times: (seeds,), steps to target, paired by seed; infinity a miss, NaN not run.
        rank: its rank with the interval; None where two schemes share no seed.
        mean: restricted mean steps to target, a miss counted as the budget.
        ratio: the baseline's time over this scheme's; None for the baseline itself,
            and where there is none to compare with.
        against: the baseline this scheme is "faster", "slower", or "" where no
            difference is shown, at `LEVEL` over all pairs of the sweep (Holm).
        reached: runs that reach the target, as a share with its interval.
        gone: diverged runs at this rate, as a share with its interval.
        at_first: runs at the target by the first evaluation after step 0, whose times
            are not resolved.
        before: of these, the runs that are there before the first step.
        logrank: p-value of the log-rank test against the baseline, which does not pair
            seeds; NaN for the baseline itself and where there is none.
        area: median over seeds of the area under the curve of the validation metric,
            divided by its length in steps; as bad as can be where a run diverged.
        works: the learning rates around the best at which the median steps to target
            are at most twice those there, of the runs that choose the rate.
    """

    summary: summary.SchemeSummary
    times: np.ndarray
    rank: comparisons.RankInterval | None
    mean: float
    ratio: inference.Ratio | None
    against: str
    reached: measures.Share
    gone: measures.Share
    at_first: int
    before: int
    logrank: float
    area: float
    works: measures.Sensitivity


class Verdict(NamedTuple):
    """What a sweep shows.

    Attributes:
        rows: the schemes, the fastest first.
        baseline: the scheme that ratios compare with, or None.
        pairs: all comparisons of two schemes; none where two share no seed.
        intervals: whether there are two seeds or more, so that intervals exist.
        power: what the comparison of the first scheme with the first that it is not
            shown to beat could have shown; None where it beats all or nothing is known.
        learning_rate: the rate at which all schemes are seen; None for each at its
            best.
        missing: learning rates that a scheme did not run at and others did.
        tuning_runs: finished runs that choose rates.
        planned: how many of these there would be.
    """

    rows: tuple[Row, ...]
    baseline: str | None
    pairs: tuple[comparisons.Comparison, ...]
    intervals: bool
    power: power.Power | None
    learning_rate: float | None
    missing: Mapping[str, list[float]]
    tuning_runs: int
    planned: int

    @property
    def ranking(self) -> list[summary.SchemeSummary]:
        """The schemes at their learning rates, the fastest first."""
        return [row.summary for row in self.rows]

    @property
    def order(self) -> list[str]:
        """The schemes, the fastest first."""
        return [row.summary.scheme for row in self.rows]

    def pair(self, a: str, b: str) -> comparisons.Comparison:
        """The comparison of two schemes."""
        return next(each for each in self.pairs if {each.faster, each.slower} == {a, b})

    @property
    def level_with_first(self) -> list[str]:
        """The schemes that the first is not shown to beat, the fastest first."""
        first, *others = self.order
        return [name for name in others if not self.is_shown(first, name)]

    def is_shown(self, faster: str, slower: str) -> bool:
        """Whether one scheme is shown to be faster than another."""
        shown = {(p.faster, p.slower) for p in self.pairs if p.p_value <= LEVEL}
        return (faster, slower) in shown


def judge(
    sweep: Sweep, baseline: str | None = None, learning_rate: float | None = None
) -> Verdict:
    """Ranks, ratios and the verdict of a sweep over one task.

    Args:
        sweep: its runs; of several optimizers each scheme under each of them counts
            as a scheme, as `Sweep.contestants` has it.
        baseline: the scheme that ratios compare with; by default the first of the
            sweep's that reaches the target in most of its runs, or else the one with
            the most runs that do.
        learning_rate: see all schemes at this rate, instead of each at its best.

    Returns:
        The verdict.

    Raises:
        ValueError: there is no run, tasks are mixed, the baseline is unknown, or a
            scheme has no run at `learning_rate`.
    """
    seeds = sweep.settings.tuning_seeds or sweep.settings.all_seeds
    planned = sweep.settings.cells * seeds
    sweep = sweep.contestants()
    settings = sweep.settings
    found = summary.ranking(sweep, learning_rate)
    scoring = sweep if learning_rate is not None else sweep.scoring
    times = summary.times(scoring, found)
    budget, every = float(settings.budget), settings.eval_every
    paired = len(times) > 1 and _paired(times)
    pairs: list[comparisons.Comparison] = []
    ranks: dict[str, comparisons.RankInterval] = {}
    if paired:
        counted = settings.stop_at is not None
        pairs = comparisons.pairwise(times, budget, every=every, counted=counted)
        ranks = comparisons.ranks_of(times, budget, pairs, LEVEL)
    if len(times) == 1:
        ranks = {scheme: comparisons.RankInterval(1, 1, 1) for scheme in times}
    verdict = Verdict(
        rows=(),
        baseline=_baseline(baseline, sweep, found),
        pairs=tuple(pairs),
        intervals=any((~np.isnan(each)).sum() > 1 for each in times.values()),
        power=None,
        learning_rate=learning_rate,
        missing=summary.missing_rates(sweep.tuning),
        tuning_runs=sweep.tuning.runs.num_rows,
        planned=planned,
    )
    rows = [
        _row(each, ranks.get(each.scheme), times, scoring, sweep.tuning, verdict)
        for each in found
    ]
    if ranks:  # among equal ranks by final loss, as in `found`
        rows.sort(key=lambda each: ranks[each.summary.scheme].rank)
    verdict = verdict._replace(rows=tuple(rows))
    return verdict._replace(power=_power(verdict))


def _row(
    found: summary.SchemeSummary,
    rank: comparisons.RankInterval | None,
    times: Mapping[str, np.ndarray],
    scoring: Sweep,
    tuning: Sweep,
    verdict: Verdict,
) -> Row:
    """A scheme's line; of the verdict, baseline and pairs are known."""
    name, baseline = found.scheme, verdict.baseline
    budget, every = float(scoring.settings.budget), scoring.settings.eval_every
    at = scoring.at(name, found.learning_rate)
    steps = at.column("steps_to_target")
    ratio, against, logrank = None, "", math.nan
    if baseline is not None and name != baseline:
        logrank = inference.logrank(times[name], times[baseline], budget)
        if verdict.pairs:
            ratio = inference.ratio_to_target(
                times[baseline], times[name], budget, every=every
            )
            against = "faster" if verdict.is_shown(name, baseline) else ""
            against = "slower" if verdict.is_shown(baseline, name) else against
    return Row(
        summary=found,
        times=times[name],
        rank=rank,
        mean=inference.restricted_mean(times[name], budget),
        ratio=ratio,
        against=against,
        reached=measures.share_of(np.isfinite(steps)),
        gone=measures.share_of(at.diverged),
        at_first=int((steps <= every).sum()),
        before=int((steps == 0).sum()),
        logrank=logrank,
        area=_area(at),
        works=_works(tuning, name),
    )


def _baseline(
    asked: str | None, sweep: Sweep, found: list[summary.SchemeSummary]
) -> str | None:
    if asked is not None:
        return scheme_named("baseline", asked, [each.scheme for each in found])
    reached = {each.scheme: each.reached / each.seeds for each in found}
    schemes = [each for each in sweep.settings.schemes if reached.get(each)]
    usual = (each for each in schemes if reached[each] > 0.5)
    return next(usual, max(schemes, key=reached.__getitem__, default=None))


def _power(verdict: Verdict) -> power.Power | None:
    """Of the first scheme against the first that it is not shown to beat."""
    if not verdict.pairs or not verdict.level_with_first:
        return None
    ratio = verdict.pair(verdict.order[0], verdict.level_with_first[0]).ratio
    # Holm tests what is not shown yet at the level divided by their number.
    left = sum(LEVEL < pair.p_value for pair in verdict.pairs if pair.could_show)
    return power.of_pair(ratio.spread, ratio.pairs, LEVEL / max(left, 1))


def _area(at: Sweep) -> float:
    """The median over runs of the area under the curve of the metric."""
    settings, areas = at.settings, []
    curves = (at.runs[name].to_pylist() for name in ("eval_steps", "valid_metric"))
    for steps, values in zip(*curves, strict=True):
        if steps[-1] < settings.budget:  # cut short, for it diverged
            steps, values = [*steps, settings.budget], [*values, math.nan]
        area = measures.area_under_curve(steps, values, settings.worst_metric)
        areas.append(area)
    return float(np.median(areas))


def _works(tuning: Sweep, scheme: str) -> measures.Sensitivity:
    """The range of learning rates at which a scheme is within twice its best."""
    mine = tuning.of([scheme])
    rates = mine.learning_rates
    medians = [
        np.median(mine.at(learning_rate=rate).column("steps_to_target"))
        for rate in rates
    ]
    return measures.learning_rate_sensitivity(rates, medians)


def _paired(times: Mapping[str, np.ndarray]) -> bool:
    """Whether every two schemes have a seed in common."""
    ran = [~np.isnan(each) for each in times.values()]
    return all((a & b).any() for a, b in itertools.combinations(ran, 2))
