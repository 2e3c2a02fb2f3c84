"""All pairs of a sweep's schemes at once: ratios, adjusted p-values, ranks."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxinit import _checks
from jaxinit.compare.stats import inference


class Comparison(NamedTuple):
    """Two schemes against each other, one comparison of several.

    Attributes:
        faster: the scheme with the lesser geometric mean time.
        slower: the other.
        ratio: times of the slower over those of the faster, at least 1; the interval
            is of this pair alone.
        p_value: two-sided, adjusted by Holm for the comparisons that could show
            anything; 1 for the others.
        could_show: whether it is one of those: a run of either reached the target, or
            all pairs count.
    """

    faster: str
    slower: str
    ratio: inference.Ratio
    p_value: float
    could_show: bool


class RankInterval(NamedTuple):
    """A scheme's rank among all, 1 the fastest.

    Attributes:
        rank: by geometric mean time; equal times share the better rank.
        low: the best rank that the runs leave open.
        high: the worst.
    """

    rank: int
    low: int
    high: int


def holm(p_values: ArrayLike) -> inference.Floats:
    r"""Holm's adjustment of p-values for many tests.

    $\tilde p_{(i)} = \max_{j \le i} \min((m - j + 1)\, p_{(j)}, 1)$ over $m$ tests in
    ascending order of $p$. Calling what is at or below a level true makes one false
    call or more with at most that probability, however the tests depend.

    Args:
        p_values: (tests,), in [0, 1].

    Returns:
        (tests,), adjusted, in the order given.

    Raises:
        ValueError: a value is no probability.

    Example:
        >>> holm([0.01, 0.04, 0.03]).tolist()
        [0.03, 0.06, 0.06]

    References:
        Holm 1979, Scand. J. Stat. 6:65.
    """
    p = np.asarray(p_values, dtype=float)
    if p.ndim != 1 or not np.all((p >= 0) & (p <= 1)):
        raise ValueError(f"holm: p_values={p_values!r} must be probabilities in a row.")
    order = np.argsort(p)
    factors = np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1.0)
    return adjusted


def pairwise(
    times: Mapping[str, ArrayLike],
    budget: float,
    confidence: float = 0.95,
    baseline: str | None = None,
    every: float = 0.0,
    counted: bool = False,
) -> list[Comparison]:
    """All comparisons of two schemes, with p-values adjusted for their number.

    Two schemes of which no run reached the target cannot be told apart, whatever is
    true of them: their p-value is 1, and they are left out of the number that Holm's
    adjustment multiplies by (Tarone 1990).

    Saying "faster" wherever the adjusted p-value is at most a level is wrong anywhere
    in a sweep with about that probability at most; a single pair's interval has no such
    guard and may leave out 1 where the adjusted p-value shows nothing. Measured at 5 %
    with four schemes, of which two or four are alike, in 39 settings of
    `benchmarks/inference.py`: 0 to 5.2 %, the most where two of the schemes never
    reach the target. Counting pairs that never reach makes that 2.8 % there, and shows
    a leader of six schemes less often. A variance that all schemes share, seeds as
    blocks, would show more, and is wrong in up to 24 % where few runs reach: it is not
    used.

    The test is Student's on paired log times and not the permutation of signs, which
    with five seeds cannot fall below 1/16, and so shows nothing however large the
    difference. Neither knows of failures that the seeds did not show: between a scheme
    that is sooner but for a tenth of diverged runs and one that equals its mean by
    being steady, the test says "faster" in 7 to 10 % of sweeps, and in up to 72 % where
    the spread is small beside the difference. `measures.share_of` has the interval that
    warns of it.

    Args:
        times: scheme to (seeds,) times to target, all in one order of seeds; infinity
            a miss, NaN a run not made.
        budget: time at which misses are censored.
        confidence: of each pair's own interval.
        baseline: compare with this scheme alone: fewer comparisons, more power.
        every: steps between the evaluations that times are read at; 0 for times that
            are exact.
        counted: whether pairs that never reach count in Holm's number all the same, as
            they must where the fastest decides when runs end: a slow scheme then never
            reaches because another one is fast.

    Returns:
        A comparison a pair, in the order of `times`.

    Raises:
        ValueError: fewer than two schemes, an unknown baseline, or as
            `inference.ratio_to_target` does.

    Example:
        >>> times = {"a": [100, 90, 110, 100], "b": [200, 150, 180, 240]}
        >>> (only,) = pairwise(times, budget=500)
        >>> only.faster, only.slower, round(only.ratio.ratio, 2), round(only.p_value, 3)
        ('a', 'b', 1.9, 0.006)

    References:
        Holm 1979, Scand. J. Stat. 6:65; Tarone 1990, Biometrics 46:515 (hypotheses
        that no outcome could reject).
    """
    if len(times) < 2:
        raise ValueError(
            f"pairwise: times of {len(times)} scheme; a comparison needs two or more."
        )
    pairs = list(itertools.combinations(times, 2))
    if baseline is not None:
        _checks.choice("pairwise", "baseline", baseline, times)
        pairs = [pair for pair in pairs if baseline in pair]
    ratios = [
        inference.ratio_to_target(times[a], times[b], budget, confidence, every)
        for a, b in pairs
    ]
    reach = {
        name: bool((np.asarray(each, float) <= budget).any())
        for name, each in times.items()
    }
    could = np.array([counted or reach[a] or reach[b] for a, b in pairs])
    adjusted = np.ones(len(pairs))
    adjusted[could] = holm(np.array([ratio.p_value for ratio in ratios])[could])
    return [
        Comparison(b, a, ratio, float(p), bool(any_reached))
        if ratio.ratio >= 1
        else Comparison(a, b, _inverse(ratio), float(p), bool(any_reached))
        for (a, b), ratio, p, any_reached in zip(
            pairs, ratios, adjusted, could, strict=True
        )
    ]


def rank_intervals(
    times: Mapping[str, ArrayLike],
    budget: float,
    confidence: float = 0.95,
    every: float = 0.0,
    counted: bool = False,
) -> dict[str, RankInterval]:
    """Ranks of schemes by time to target, with simultaneous intervals.

    A scheme ranks behind every scheme shown faster than it and before every scheme
    shown slower, by `pairwise` at the level `1 - confidence`. All intervals hold the
    true ranks at once with the stated confidence.

    Args:
        times: scheme to (seeds,) times to target, all in one order of seeds; infinity
            a miss, NaN a run not made.
        budget: time at which misses are censored.
        confidence: of all intervals at once.
        every: as for `pairwise`.
        counted: likewise.

    Returns:
        Scheme to its rank and interval, the fastest first.

    Raises:
        ValueError: as `pairwise` does.

    Example:
        >>> times = {"b": [200, 150, 180, 240], "a": [100, 90, 110, 100]}
        >>> rank_intervals(times | {"c": [190, 160, 170, 260]}, budget=500)["a"]
        RankInterval(rank=1, low=1, high=1)

    References:
        Mogstad, Romano, Shaikh and Wilhelm 2024, Rev. Econ. Stud. 91:476, section 3
        (ranks from stepwise tests of all pairs; there one-sided, here two-sided).
    """
    pairs = pairwise(times, budget, confidence, every=every, counted=counted)
    return ranks_of(times, budget, pairs, 1 - confidence)


def ranks_of(
    times: Mapping[str, ArrayLike],
    budget: float,
    pairs: Iterable[Comparison],
    level: float,
) -> dict[str, RankInterval]:
    """As `rank_intervals`, of the comparisons of all pairs at a level."""
    shown = [pair for pair in pairs if pair.p_value <= level]
    means = {
        name: inference.geometric_mean(each, budget) for name, each in times.items()
    }
    return {
        name: RankInterval(
            rank=1 + sum(other < means[name] for other in means.values()),
            low=1 + sum(pair.slower == name for pair in shown),
            high=len(means) - sum(pair.faster == name for pair in shown),
        )
        for name in sorted(means, key=means.__getitem__)
    }


def _inverse(ratio: inference.Ratio) -> inference.Ratio:
    with np.errstate(divide="ignore"):
        low, high = 1 / np.array([ratio.high, ratio.low])
    return ratio._replace(ratio=1 / ratio.ratio, low=float(low), high=float(high))
