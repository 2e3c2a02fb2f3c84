"""From runs to what one says of a scheme: the protocol, and measures that describe.

Intervals, tests and ranks, which say how sure it is, are in `inference`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike
from scipy import stats as scipy_stats

from jaxinit.compare.stats import inference


class Quartiles(NamedTuple):
    """Quartiles over seeds; infinity where a run missed.

    Attributes:
        low: first quartile. median: second. high: third.
    """

    low: float
    median: float
    high: float


class SchemeSummary(NamedTuple):
    """A scheme at its best learning rate.

    Attributes:
        scheme: the scheme's text.
        learning_rate: the best rate: least median steps to target, then least median
            final training loss.
        at_edge: whether that is the grid's least or greatest rate of several, so that
            a better one may lie outside; never where the rate was fixed beforehand.
        steps_to_target: optimizer steps; infinity where the target was missed.
        reached: runs that reached the target, of `seeds`.
        seeds: runs at the best rate that are scored.
        final_train_loss: nats, mean over the last segment; infinity where diverged.
        final_valid_loss: nats; infinity where diverged.
        final_valid_metric: fraction; 0 where diverged.
        diverged: diverged runs at all learning rates, of `runs`.
        runs: runs of the scheme.
        seconds_to_target: as `Cost` says; None in stores that do not know.
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
        init: seconds to draw a start, median over the scheme's runs.
        step: seconds of a step, median over the runs of all schemes, so that a slow
            moment of the machine is no scheme's own.
    """

    init: float
    step: float


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


def rank(runs: pa.Table) -> list[SchemeSummary]:
    """Every scheme at its best learning rate, the fastest first.

    By median steps to target, then by median final training loss. The runs that
    choose a rate also score it, which flatters every scheme; `tuned` does not.
    """
    return _fastest_first(
        runs, [_summary(mine, *_best(mine)) for mine in _by_scheme(runs).values()]
    )


def split(runs: pa.Table, tuning_seeds: Iterable[int]) -> tuple[pa.Table, pa.Table]:
    """Runs that choose the learning rates, and runs that score them.

    Args:
        runs: of one task, with the columns of `store.SCHEMA`.
        tuning_seeds: seeds of the first part.

    Returns:
        The runs at the tuning seeds, and all others.

    Raises:
        ValueError: tasks are mixed, or either part is empty.
    """
    _one_task("split", runs)
    tuning = sorted(set(tuning_seeds))
    mask = np.isin(runs["seed"].to_numpy(), tuning)
    if mask.all() or not mask.any():
        which = "all" if mask.all() else "none"
        raise ValueError(
            f"split: {which} of the runs are at the tuning seeds {tuning}; rates are "
            "chosen on some seeds and scored on others."
        )
    return runs.filter(pa.array(mask)), runs.filter(pa.array(~mask))


def tuned(runs: pa.Table, tuning_seeds: Iterable[int]) -> list[SchemeSummary]:
    """Tune, then test: each scheme's rate chosen on some seeds, scored on the others.

    The rate is the one with the least median steps to target over the tuning seeds,
    then the least median final training loss, among the rates that were scored. The
    comparison is fair where every scheme has the same grid (`missing_rates` is empty)
    or at least a best rate inside its own: where a summary says `at_edge`, a better
    rate may lie outside.

    Args:
        runs: of one task, with the columns of `store.SCHEMA`.
        tuning_seeds: seeds that choose; all others score.

    Returns:
        The schemes with their steps and losses on the scoring seeds, the fastest
        first; divergence counts all of a scheme's runs.

    Raises:
        ValueError: as `split` does, or a scheme has no run on the tuning seeds, or
            none to score at its best rate.

    References:
        Schmidt, Schneider and Hennig 2021, arXiv:2007.01547 (conclusions turn on
        tuning); Dahl et al. 2023, arXiv:2306.07179, section 4 (tuning budgets).
    """
    tuning, scoring = split(runs, tuning_seeds)
    by_scheme = _by_scheme(tuning)
    summaries = []
    for scheme, mine in _by_scheme(runs).items():
        if scheme not in by_scheme:
            raise ValueError(
                f"tuned: {scheme} has no run on the tuning seeds, so that no rate can "
                "be chosen; run it there too."
            )
        rate, at_edge = _best(by_scheme[scheme], _rates(scoring, scheme))
        summaries.append(_scored("tuned", scoring, mine, scheme, rate, at_edge))
    return _fastest_first(runs, summaries)


def missing_rates(runs: pa.Table) -> dict[str, list[float]]:
    """Learning rates that some scheme ran at and this one did not.

    Args:
        runs: of one task, with the columns of `store.SCHEMA`.

    Returns:
        Scheme to its missing rates, ascending; schemes that lack none are left out.
        What is here was not tuned with equal budget.
    """
    grid = set(runs["learning_rate"].to_pylist())
    missing = {
        scheme: sorted(grid - set(mine["learning_rate"].to_pylist()))
        for scheme, mine in _by_scheme(runs).items()
    }
    return {scheme: rates for scheme, rates in missing.items() if rates}


def fixed(runs: pa.Table, learning_rate: float) -> list[SchemeSummary]:
    """The other view: all schemes at one learning rate, none tuned, the fastest first.

    It answers what happens when the start alone is exchanged in a given recipe, and
    favours the schemes that the rate happens to suit.

    Args:
        runs: of one task, with the columns of `store.SCHEMA`.
        learning_rate: one of the grid.

    Raises:
        ValueError: tasks are mixed, or a scheme has no run at the rate.
    """
    _one_task("fixed", runs)
    return _fastest_first(
        runs,
        [
            _scored("fixed", runs, mine, scheme, learning_rate, at_edge=False)
            for scheme, mine in _by_scheme(runs).items()
        ],
    )


def costs(runs: pa.Table) -> dict[str, Cost]:
    """What each scheme's steps cost on the machine that ran them.

    Args:
        runs: all of a sweep, with the columns of `store.SCHEMA`.

    Returns:
        Scheme to cost, without the schemes whose runs do not know it.
    """
    step = _median_known(runs, "step_seconds")
    inits = {
        scheme: _median_known(mine, "init_seconds")
        for scheme, mine in _by_scheme(runs).items()
    }
    known = {scheme: Cost(init, step) for scheme, init in inits.items()}
    return {scheme: cost for scheme, cost in known.items() if not np.isnan(sum(cost))}


def times(runs: pa.Table, summaries: Sequence[SchemeSummary]) -> dict[str, np.ndarray]:
    """Times to target, paired by seed, as `inference` takes them.

    Args:
        runs: of one task; the scoring part of `split` where rates were tuned.
        summaries: schemes and their learning rates.

    Returns:
        Scheme to (seeds,) steps to target, one order of seeds for all, ascending:
        infinity where the target was missed, NaN where there is no run. A target
        reached before the first step counts as one step, so that ratios exist.

    Raises:
        ValueError: tasks are mixed, or a scheme has two runs at one rate and seed.
    """
    _one_task("times", runs)
    seeds = sorted(set(runs["seed"].to_pylist()))
    result = {}
    for summary in summaries:
        at = at_rate(runs, summary.scheme, summary.learning_rate)
        if len(set(at["seed"].to_pylist())) < at.num_rows:
            raise ValueError(
                f"times: {summary.scheme} has two runs at the learning rate "
                f"{summary.learning_rate:g} and one seed; pass each run once."
            )
        steps = np.full(len(seeds), np.nan)
        steps[np.searchsorted(seeds, at["seed"].to_numpy())] = np.maximum(
            finite_column(at, "steps_to_target", math.inf), 1
        )
        result[summary.scheme] = steps
    return result


def at_rate(runs: pa.Table, scheme: str, learning_rate: float) -> pa.Table:
    """A scheme's runs at one learning rate, in the order of their seeds."""
    mask = (np.array(runs["scheme"].to_pylist()) == scheme) & (
        runs["learning_rate"].to_numpy() == learning_rate
    )
    return runs.filter(pa.array(mask)).sort_by("seed")


def finite_column(runs: pa.Table, column: str, worst: float) -> np.ndarray:
    """A column where null, NaN and a diverged run's value count as the worst."""
    values = np.array(runs[column].to_pylist(), dtype=float)  # null becomes NaN
    diverged = np.array(runs["status"].to_pylist()) == "diverged"
    return np.where(np.isnan(values) | diverged, worst, values)


def quartiles(values: np.ndarray) -> Quartiles:
    """Quartiles that are observed values, so that infinity needs no arithmetic."""
    return Quartiles(
        *(float(q) for q in np.quantile(values, [0.25, 0.5, 0.75], method="higher"))
    )


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
    return float(scipy_stats.trim_mean(values.ravel(), 0.25))


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
    wins = scipy_stats.mannwhitneyu(second, first, method="asymptotic").statistic
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


def divergence_rate(diverged: ArrayLike, confidence: float = 0.95) -> Share:
    """The share of runs that diverged.

    Args:
        diverged: (runs,), true where a run diverged.
        confidence: of Wilson's interval, which no count makes empty.

    Returns:
        Share and interval.

    Raises:
        ValueError: there is no run.

    Example:
        >>> share, low, high = divergence_rate([True, False, False, False])
        >>> share, round(low, 3), round(high, 3)
        (0.25, 0.046, 0.699)
    """
    gone = np.asarray(diverged, dtype=bool)
    if not gone.size:
        raise ValueError("divergence_rate: there is no run.")
    interval = inference.proportion(int(gone.sum()), gone.size, confidence)
    return Share(float(gone.mean()), *interval)


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


def _one_task(owner: str, runs: pa.Table) -> None:
    tasks = sorted(set(runs["task"].to_pylist()))
    if len(tasks) > 1:
        raise ValueError(
            f"{owner}: the runs are of the tasks {', '.join(tasks)}; pass one task's "
            "at a time."
        )


def _by_scheme(runs: pa.Table) -> dict[str, pa.Table]:
    names = np.array(runs["scheme"].to_pylist())
    return {
        name: runs.filter(pa.array(names == name))
        for name in dict.fromkeys(names.tolist())
    }


def _fastest_first(
    runs: pa.Table, summaries: Iterable[SchemeSummary]
) -> list[SchemeSummary]:
    """The summaries in order, and what their steps cost by all runs of the sweep."""
    known = costs(runs)

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


def _median_known(runs: pa.Table, column: str) -> float:
    """The median of the finite values of a column; NaN where there is none."""
    values = np.array(runs[column].to_pylist(), dtype=float)
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else math.nan


def _rates(runs: pa.Table, scheme: str) -> list[float]:
    """The rates that a scheme ran at, ascending."""
    mine = runs.filter(pa.array(np.array(runs["scheme"].to_pylist()) == scheme))
    return sorted(set(mine["learning_rate"].to_pylist()))


def _best(mine: pa.Table, among: Sequence[float] = ()) -> tuple[float, bool]:
    """A scheme's best learning rate, and whether it is at the edge of its grid."""
    scheme = mine["scheme"][0].as_py()
    rates = _rates(mine, scheme)

    def medians(rate: float) -> tuple[float, float]:
        at = at_rate(mine, scheme, rate)
        steps = quartiles(finite_column(at, "steps_to_target", math.inf))
        loss = quartiles(finite_column(at, "final_train_loss", math.inf))
        return steps.median, loss.median

    best = min([rate for rate in rates if rate in among] or rates, key=medians)
    return best, len(rates) > 1 and best in (rates[0], rates[-1])


def _scored(
    owner: str,
    scoring: pa.Table,
    mine: pa.Table,
    scheme: str,
    rate: float,
    at_edge: bool,
) -> SchemeSummary:
    """A scheme scored on some of its runs, its divergence counted on all of them."""
    at = at_rate(scoring, scheme, rate)
    if not at.num_rows:
        raise ValueError(
            f"{owner}: {scheme} has no run to score at the learning rate {rate:g}."
        )
    summary = _summary(at, rate, at_edge)
    return summary._replace(
        diverged=mine["status"].to_pylist().count("diverged"), runs=mine.num_rows
    )


def _summary(mine: pa.Table, rate: float, at_edge: bool) -> SchemeSummary:
    scheme = mine["scheme"][0].as_py()
    at = at_rate(mine, scheme, rate)
    steps = finite_column(at, "steps_to_target", math.inf)
    return SchemeSummary(
        scheme=scheme,
        learning_rate=rate,
        at_edge=at_edge,
        steps_to_target=quartiles(steps),
        reached=int(np.isfinite(steps).sum()),
        seeds=at.num_rows,
        final_train_loss=quartiles(finite_column(at, "final_train_loss", math.inf)),
        final_valid_loss=quartiles(finite_column(at, "final_valid_loss", math.inf)),
        final_valid_metric=quartiles(finite_column(at, "final_valid_metric", 0.0)),
        diverged=mine["status"].to_pylist().count("diverged"),
        runs=mine.num_rows,
    )


def _numbers(owner: str, name: str, values: ArrayLike) -> np.ndarray:
    numbers = np.asarray(values, dtype=float)
    if not numbers.size or np.isnan(numbers).any():
        raise ValueError(
            f"{owner}: {name}={values!r} must hold numbers, infinity for a miss, and "
            "no NaN."
        )
    return numbers
