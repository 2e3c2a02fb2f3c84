"""Measures that describe runs: quartiles, areas, shares, ranges of learning rates.

Intervals, tests and ranks, which say how sure a comparison is, are in `inference`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike

from jaxinit.compare.stats import inference


class Quartiles(NamedTuple):
    """Quartiles over seeds; infinity where a run missed.

    Attributes:
        low: first quartile. median: second. high: third.
    """

    low: float
    median: float
    high: float


class Sensitivity(NamedTuple):
    """How wide the range of learning rates that work is.

    Attributes:
        decades: log10 of `high / low`; NaN where no rate works.
        low: the least rate of the range; NaN where none works.
        high: the greatest.
        at_edge: whether the range ends at the grid's edge, so that it may be wider.
    """

    decades: float
    low: float
    high: float
    at_edge: bool


class Share(NamedTuple):
    """A share of runs, with Wilson's interval.

    Attributes:
        share: of the runs. low: lower bound. high: upper bound.
    """

    share: float
    low: float
    high: float


def quartiles(values: np.ndarray) -> Quartiles:
    """Quartiles: values, or midpoints of two where as many lie on either side.

    The midpoint with infinity is infinity, so that a median is finite only where more
    than half of the values are.

    Example:
        >>> quartiles(np.array([10, 20, 40, np.inf]))
        Quartiles(low=15.0, median=30.0, high=inf)
    """
    ordered = np.sort(np.asarray(values, float))
    places = np.array([0.25, 0.5, 0.75]) * len(ordered)
    below = np.ceil(places).astype(int) - 1
    above = np.minimum(np.floor(places).astype(int), len(ordered) - 1)
    return Quartiles(*((ordered[below] + ordered[above]) / 2).tolist())


def area_under_curve(
    steps: ArrayLike, values: ArrayLike, worst: float = math.inf
) -> np.ndarray:
    r"""Mean height of learning curves: the area under each by the length of its steps.

    $\frac{1}{t_m - t_0} \int_{t_0}^{t_m} v(t)\,dt$ by the trapezoidal rule.

    Args:
        steps: (evaluations,), ascending.
        values: (..., evaluations), losses or accuracies.
        worst: what NaN and infinity count as: a diverged run's loss (such as the log
            of the number of classes) or accuracy (0).

    Returns:
        (...,), in the unit of `values`.

    Raises:
        ValueError: the steps do not ascend or do not fit the values.

    Example:
        >>> area_under_curve([0, 10, 30], [[4, 2, 0], [4, 2, float("nan")]]).round(3)
        array([1.667,   inf])
    """
    x, y = np.asarray(steps, float), np.asarray(values, float)
    if x.ndim != 1 or y.shape[-1:] != x.shape or len(x) < 2 or np.any(np.diff(x) <= 0):
        raise ValueError(
            f"area_under_curve: steps of shape {x.shape} must ascend, two or more, one "
            f"for each of the values along the last axis of {y.shape}."
        )
    area = np.trapezoid(np.where(np.isfinite(y), y, worst), x, axis=-1)
    return np.asarray(area / (x[-1] - x[0]))


def iqm(scores: ArrayLike) -> float:
    """Interquartile mean: of the scores between the first and the third quartile.

    As rliable defines it: a quarter of the scores, rounded down, is cut at each end,
    over all axes at once.

    Args:
        scores: (runs,) or (runs, tasks); infinity where a run failed.

    Returns:
        The mean; infinity where too many failed.

    Raises:
        ValueError: there is no score, or a score is NaN.

    Example:
        >>> iqm([1, 2, 3, 4, 5, 6, 7, float("inf")])
        4.5

    References:
        Agarwal et al. 2021, arXiv:2108.13264, section 4.3.
    """
    values = _numbers("iqm", "scores", scores)
    return float(scipy.stats.trim_mean(values.ravel(), 0.25))


def probability_of_improvement(a: ArrayLike, b: ArrayLike) -> float:
    """Probability that a run of scheme a is sooner at the target than one of scheme b.

    Mann and Whitney's statistic over the number of pairs, as in rliable, where ties
    count one half; two misses are a tie. Less is better here, more is better there.

    Args:
        a: (runs,), times to target; infinity a miss.
        b: (other runs,), those of the other scheme.

    Returns:
        In [0, 1]; one half for schemes alike.

    Raises:
        ValueError: either is empty or holds NaN.

    Example:
        >>> probability_of_improvement([10, 20, float("inf")], [15, float("inf")])
        0.5833333333333334

    References:
        Agarwal et al. 2021, arXiv:2108.13264, section 4.3; Mann and Whitney 1947.
    """
    first = _numbers("probability_of_improvement", "a", a)
    second = _numbers("probability_of_improvement", "b", b)
    wins = scipy.stats.mannwhitneyu(second, first, method="asymptotic").statistic
    return float(wins) / (first.size * second.size)


def learning_rate_sensitivity(
    rates: ArrayLike, medians: ArrayLike, factor: float = 2.0
) -> Sensitivity:
    """How wide, in decades, the range of learning rates that work is.

    The range is the longest run of neighbours in the grid around the best rate whose
    median result is within `factor` of the best. It is as coarse as the grid: a scheme
    that works at one rate alone has width 0.

    Args:
        rates: (rates,), learning rates, in any order.
        medians: (rates,), results at each, less is better: steps to target or losses;
            infinity where the median run failed.
        factor: how much worse than the best still works; infinity asks for the range
            that reaches the target at all.

    Returns:
        The range.

    Raises:
        ValueError: the shapes differ, a rate is not positive or comes twice, or
            `factor` is less than 1.

    Example:
        >>> learning_rate_sensitivity([0.01, 0.1, 1.0], [150, 100, float("inf")])
        Sensitivity(decades=1.0, low=0.01, high=0.1, at_edge=True)
    """
    owner = "learning_rate_sensitivity"
    x, y = _numbers(owner, "rates", rates), _numbers(owner, "medians", medians)
    if x.shape != y.shape or x.ndim != 1 or np.any(x <= 0) or len(set(x)) < len(x):
        raise ValueError(
            f"{owner}: rates={rates!r} must be positive and distinct, one for each of "
            "the medians."
        )
    if not factor >= 1:
        raise ValueError(f"{owner}: factor={factor!r} must be at least 1.")
    order = np.argsort(x)
    x, y = x[order], y[order]
    best = int(np.argmin(y))
    if math.isinf(y[best]):
        return Sensitivity(math.nan, math.nan, math.nan, False)
    works = np.isfinite(y) if math.isinf(factor) else y <= factor * y[best]
    low = high = best
    while low > 0 and works[low - 1]:
        low -= 1
    while high + 1 < len(x) and works[high + 1]:
        high += 1
    return Sensitivity(
        decades=float(np.log10(x[high] / x[low])),
        low=float(x[low]),
        high=float(x[high]),
        at_edge=low == 0 or high == len(x) - 1,
    )


def share_of(happened: ArrayLike, confidence: float = 0.95) -> Share:
    """The share of runs that diverged, or reached the target.

    Args:
        happened: (runs,), true where a run did.
        confidence: of Wilson's interval, which no count makes empty.

    Returns:
        Share and interval.

    Raises:
        ValueError: there is no run.

    Example:
        >>> share, low, high = share_of([True, False, False, False])
        >>> share, round(low, 3), round(high, 3)
        (0.25, 0.046, 0.699)
    """
    counted = np.asarray(happened, dtype=bool)
    if not counted.size:
        raise ValueError("share_of: there is no run.")
    interval = inference.proportion(int(counted.sum()), counted.size, confidence)
    return Share(float(counted.mean()), *interval)


def performance_profile(times: ArrayLike, taus: ArrayLike) -> np.ndarray:
    r"""Dolan and More's performance profile over tasks.

    $\rho_s(\tau) = \frac{1}{|T|} |\{t \in T : x_{s,t} \le \tau \min_{s'}
    x_{s',t}\}|$: the share of tasks on which scheme $s$ takes at most $\tau$ times as
    long as the fastest. A miss is within no factor, and neither is anyone on a task
    that all miss.

    Args:
        times: (schemes, tasks), times to target; infinity a miss.
        taus: (factors,), each at least 1.

    Returns:
        (schemes, factors), shares in [0, 1].

    Raises:
        ValueError: a time is not positive, the shape is another, or a factor is less
            than 1.

    Example:
        >>> performance_profile([[10, 40], [30, 20], [20, float("inf")]], [1, 2, 3])
        array([[0.5, 1. , 1. ],
               [0.5, 0.5, 1. ],
               [0. , 0.5, 0.5]])

    References:
        Dolan and More 2002, Math. Program. 91:201; Dahl et al. 2023, arXiv:2306.07179
        (AlgoPerf).
    """
    x = _numbers("performance_profile", "times", times)
    factors = _numbers("performance_profile", "taus", taus)
    if x.ndim != 2 or np.any(x <= 0):
        raise ValueError(
            f"performance_profile: times of shape {x.shape} must be (schemes, tasks) "
            "and greater than zero, a miss infinity."
        )
    if np.any(factors < 1):
        raise ValueError(
            f"performance_profile: taus={taus!r} must be at least 1, the fastest."
        )
    limits = factors * x.min(axis=0)[:, None]
    within = (x[..., None] <= limits) & np.isfinite(x)[..., None]
    return within.mean(axis=1)


def _numbers(owner: str, name: str, values: ArrayLike) -> np.ndarray:
    numbers = np.asarray(values, dtype=float)
    if not numbers.size or np.isnan(numbers).any():
        raise ValueError(
            f"{owner}: {name}={values!r} must hold numbers, infinity for a miss, and "
            "no NaN."
        )
    return numbers
