"""What intervals, verdicts and the sequential rule promise, and what they find.

Run from the root of the repository: `python benchmarks/inference.py`. It simulates
2,000 sweeps a setting with lognormal times to target that share a part by seed, cuts
them at a budget, lets runs diverge, and counts how often each statement is false, and
how often a true difference is shown. The same is done with sweeps that are drawn from
real runs: 60 seeds of the default task at each scheme and rate. The standard error of a
share near 95 % is 0.5 %. Results are `results/inference.json` and `results/power.png`.
"""

from __future__ import annotations

import functools
import importlib.metadata
import itertools
import json
import math
import pathlib
import platform
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import timing
from scipy import special
from scipy import stats as scipy_stats

from jaxinit.compare import compare
from jaxinit.compare.stats import comparisons, inference, measures
from jaxinit.compare.stats import race as races

RESULTS = pathlib.Path(__file__).parent / "results"
RESAMPLES = 999
NAMES = "abcdefgh"
LEVEL = 0.05


class Setting(NamedTuple):
    """A world that sweeps are drawn from.

    Attributes:
        name: in words.
        medians: (schemes,), median times to target without a budget, in steps;
            infinity for a scheme that never reaches it.
        shared: standard deviation of the log time that runs of one seed share.
        own: (schemes,) or one, that of each run's own part.
        missed: share of the last scheme's runs that the budget cuts.
        diverged: (schemes,) or one, share of runs that diverge, whatever their time.
        every: steps between evaluations; times are rounded up to them.
        patience: the budget, in medians of the slowest scheme, where `missed` is 0.
        rates: (rates,), how many times as long the schemes take at each learning rate
            of a grid; a run's own part is drawn for each.
    """

    name: str
    medians: tuple[float, ...]
    shared: float = 0.25
    own: float | tuple[float, ...] = 0.25
    missed: float = 0.0
    diverged: float | tuple[float, ...] = 0.0
    every: int = 1
    patience: float = 4.0
    rates: tuple[float, ...] = (1.0,)

    @property
    def budget(self) -> float:
        """Steps that cut `missed` of the last scheme's times."""
        if not self.missed:
            return self.patience * max(m for m in self.medians if m < math.inf)
        own = np.broadcast_to(self.own, len(self.medians))[-1]
        spread = math.hypot(self.shared, own) * scipy_stats.norm.isf(self.missed)
        return round(self.medians[-1] * math.exp(spread))

    def draw(self, rng: np.random.Generator, sweeps: int, seeds: int) -> np.ndarray:
        """(sweeps, schemes, seeds) times to target at the first of the rates."""
        return self._replace(rates=self.rates[:1]).draw_all(rng, sweeps, seeds)[:, :, 0]

    def draw_all(self, rng: np.random.Generator, sweeps: int, seeds: int) -> np.ndarray:
        """(sweeps, schemes, rates, seeds) times; infinity where missed."""
        shape = sweeps, len(self.medians), len(self.rates), seeds

        def column(values: Any) -> np.ndarray:
            return np.broadcast_to(values, shape[1])[:, None, None]

        logs = np.log(column(self.medians)) + np.log(self.rates)[:, None]
        logs = logs + self.shared * rng.normal(size=(sweeps, 1, 1, seeds))
        logs = logs + column(self.own) * rng.normal(size=shape)
        times = np.ceil(np.exp(logs) / self.every) * self.every
        lost = (rng.random(shape) < column(self.diverged)) | (times > self.budget)
        return np.where(lost, math.inf, times)

    @functools.cache  # noqa: B019
    def truth(self) -> np.ndarray:
        """(schemes,) mean log times within the budget, from 4 million runs each."""
        runs = timing.sized(4_000_000, 40_000)
        times = self.draw(np.random.default_rng(0), 1, runs)[0]
        return np.log(np.minimum(times, self.budget)).mean(axis=1)


RATIOS = [
    Setting("no misses", (200, 300)),
    Setting("no misses, schemes alike", (200, 200)),
    Setting("nearly all of the spread shared by seed", (200, 300), 0.35, 0.05),
    Setting("spread five times as large in one", (200, 300), 0.1, (0.1, 0.5)),
    Setting("20 % of the slower missed", (200, 300), missed=0.2),
    Setting("50 % of the slower missed", (200, 300), missed=0.5),
    Setting("20 % of both missed", (200, 200), missed=0.2),
    Setting("50 % of both missed", (200, 200), missed=0.5),
    Setting("10 % of both diverged", (200, 300), diverged=0.1),
    Setting("10 % of the slower diverged", (200, 300), diverged=(0.0, 0.1)),
    Setting("20 % missed, 10 % diverged", (200, 300), missed=0.2, diverged=0.1),
    Setting("50 % missed, 10 % diverged", (200, 300), missed=0.5, diverged=0.1),
    Setting(
        "10 % of the slower diverged, budget 20",
        (200, 300),
        patience=20,
        diverged=(0.0, 0.1),
    ),
    Setting(
        "10 % of the slower diverged, budget 30",
        (200, 300),
        patience=30,
        diverged=(0.0, 0.1),
    ),
    Setting("evaluated every 25 steps", (200, 300), every=25),
    Setting("every 100 steps, 20 % missed", (200, 300), missed=0.2, every=100),
]
"""Two schemes, for the interval of their ratio."""

FAMILIES = [
    Setting("four alike", (200,) * 4),
    Setting("four alike, unequal spread", (200,) * 4, 0.1, (0.1, 0.1, 0.5, 0.5)),
    Setting("four alike, 20 % missed", (200,) * 4, missed=0.2),
    Setting("four alike, 50 % missed", (200,) * 4, missed=0.5),
    Setting("four alike, 10 % diverged", (200,) * 4, diverged=0.1),
    Setting("four alike, every 100 steps", (200,) * 4, every=100),
    Setting(
        "four alike, small spread, every 50 steps", (200,) * 4, 0.03, 0.03, every=50
    ),
    Setting("two alike, two never", (200, 200, math.inf, math.inf)),
    Setting(
        "two alike at 20 % missed, two never",
        (200, 200, math.inf, math.inf),
        patience=1.3,
    ),
    Setting(
        "two alike at 90 % missed, two never",
        (200, 200, math.inf, math.inf),
        patience=0.65,
    ),
    Setting("two alike ahead, two behind", (200, 200, 300, 400)),
    Setting("two alike ahead, 20 % missed", (200, 200, 300, 400), missed=0.2),
    Setting(
        "two alike ahead, 20 % missed, 10 % diverged",
        (200, 200, 300, 400),
        missed=0.2,
        diverged=0.1,
    ),
]
"""Four schemes, of which some are alike, for "A is faster" and the sequential rule."""

UNSEEN = [
    Setting(
        f"alike in the mean alone, two diverge at 10 %, own spread {own}",
        (233.3, 233.3, 200, 200),
        own=own,
        diverged=(0.0, 0.0, 0.1, 0.1),
    )
    for own in (0.25, 0.05)
]
"""Two schemes are 14 % sooner but for rare divergence, which makes the means equal.

Sweeps that see no divergence cannot know of it, by whatever rule; here is how much a
verdict on the mean is worth then. The interval of the divergence rate says it.
"""


GRID = (2.5, 1.3, 1.0, 1.15, 2.0, math.inf)
"""How many times as long a scheme takes at each rate of a grid of six."""

GRIDS = {
    "a valley": GRID,
    "a flat valley": (1.6, 1.1, 1.0, 1.05, 1.4, math.inf),
    "a cliff": (2.6, 1.6, 1.2, 1.0, math.inf, math.inf),
}
"""Grids of several shapes."""

PROTOCOLS = {
    "5 seeds at each rate": (0, 0, 5),
    "2 seeds tune, 18 score": (2, 0, 18),
    "2 seeds tune, 6 of 18 run off": (2, 6, 18),
    "5 seeds tune, 18 score": (5, 0, 18),
}
"""Seeds that tune, that run off between the best two rates, and that score.

They are 30, 30, 36 and 48 runs of a scheme at six rates.
"""


def real(factor: float, every: int = 10, never: bool = True) -> Setting:
    """A world like the default sweep: two schemes lead, two are late, two never."""
    late = (600.0, 700.0)
    rest = (math.inf, math.inf) if never else (300.0, 320.0)
    return Setting(
        f"{factor:g} times, {'two of six never' if never else 'six that reach'}",
        (150, 150 * factor, *late, *rest),
        shared=0.12,
        own=0.2,
        every=every,
        patience=500 / 700 if never else 1.5,
        rates=GRID,
    )


class Rule(NamedTuple):
    """A way to say which of two schemes is faster.

    Attributes:
        floor: whether rounding bounds the variance from below.
        counted: whether pairs that never reach the target count as hypotheses.
        pooled: weight of the variance that all schemes share, seeds as blocks.
    """

    floor: bool = True
    counted: bool = False
    pooled: float = 0.0


RULES = {
    "now": Rule(),
    "before": Rule(floor=False, counted=True),
    "without the floor": Rule(floor=False),
    "all pairs counted": Rule(counted=True),
    "half pooled": Rule(pooled=0.5),
    "pooled": Rule(pooled=1.0),
}


def shown(
    times: np.ndarray, budget: Any, every: float, rule: Rule, level: float = LEVEL
) -> np.ndarray:
    """(sweeps, schemes, schemes) whether the first is called faster than the second.

    `comparisons.pairwise` for many sweeps at once, and the rules that it was chosen
    over.

    Args:
        times: (sweeps, schemes, seeds), times to target; infinity a miss.
        budget: time at which misses are censored, of each sweep (sweeps, 1, 1) or one.
        every: steps between evaluations.
        rule: the rule.
        level: after Holm's adjustment.
    """
    n, k = times.shape[2], times.shape[1]
    pairs = np.array(list(itertools.combinations(range(k), 2)))
    first, second = pairs.T
    logs = np.log(np.minimum(times, budget))
    reached: Any = times <= budget
    differences = logs[:, first] - logs[:, second]
    mean, variance = differences.mean(axis=2), differences.var(axis=2, ddof=1)
    steady = np.ptp(differences, axis=2) <= 1e-9
    degrees = float(n - 1)
    if rule.pooled:
        active = reached.any(axis=2)[..., None]
        count = active.sum(axis=1, keepdims=True)
        kept = np.where(active, logs, 0)
        residual = logs - logs.mean(axis=2, keepdims=True)
        of_seed = kept.sum(axis=1, keepdims=True) / np.maximum(count, 1)
        residual = residual - of_seed + of_seed.mean(axis=2, keepdims=True)
        freedom = np.maximum((count[:, 0] - 1) * (n - 1), 1)
        common = 2 * (np.where(active, residual, 0) ** 2).sum(axis=(1, 2))
        variance = (
            rule.pooled * common[:, None] / freedom + (1 - rule.pooled) * variance
        )
        degrees = freedom if rule.pooled == 1 else 2.0 * (n - 1)
    if rule.floor:
        rounding = np.where(reached, (every / times) ** 2 / 12, 0).mean(axis=2)
        variance = np.maximum(variance, rounding[:, first] + rounding[:, second])
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(mean) / np.sqrt(variance / n)
        p = 2 * special.stdtr(degrees, -t)
    still = np.where(np.abs(mean) > 1e-9, 2.0 ** (1 - n), 1.0)
    p = np.where(steady & (variance <= 1e-18), still, p)
    any_reached = reached.any(axis=2)
    could = any_reached[:, first] | any_reached[:, second] | rule.counted
    p = np.where(could, p, math.inf)
    order = np.argsort(p, axis=1)
    places = np.arange(len(pairs))
    ranked = np.take_along_axis(p, order, axis=1)
    factors = np.maximum(could.sum(axis=1, keepdims=True) - places, 1)
    adjusted = np.maximum.accumulate(factors * ranked, axis=1)
    true = np.zeros_like(could)
    np.put_along_axis(true, order, adjusted <= level, axis=1)
    result = np.zeros((len(times), k, k), bool)
    result[:, first, second] = true & (mean < 0)
    result[:, second, first] = true & (mean > 0)
    return result


def tuned(
    times: np.ndarray, tuning: int, runoff: int, scoring: int, budget: Any
) -> tuple[np.ndarray, np.ndarray]:
    """(sweeps, schemes, scoring) times at rates that the seeds choose, and the rates.

    Args:
        times: (sweeps, schemes, rates, seeds).
        tuning: seeds that choose; 0 if those that score choose too.
        runoff: seeds that also choose between the best rate and its better neighbour.
        scoring: seeds that score.
        budget: time at which misses are censored, (sweeps, 1, 1, 1) or one.
    """
    logs = np.log(np.minimum(times, budget))
    means = logs[..., : tuning or scoring].mean(axis=3)
    best = means.argmin(axis=2)[..., None]
    beside = np.abs(np.arange(means.shape[2]) - best) == 1
    second = np.where(beside, means, math.inf).argmin(axis=2)[..., None]
    both = np.concatenate([best, second], axis=2)
    if runoff:
        more = logs[..., : tuning + runoff].mean(axis=3)
        winner = np.take_along_axis(more, both, axis=2).argmin(axis=2)[..., None]
        best = np.take_along_axis(both, winner, axis=2)
    scored = times[..., tuning : tuning + scoring]
    return np.take_along_axis(scored, best[..., None], axis=2)[:, :, 0], best[..., 0]


def main() -> None:
    """Print a row a setting, and write the results."""
    sweeps = timing.sized(2000, 20)
    began = time.perf_counter()
    covered = [show(coverage(s, n, sweeps)) for s in RATIOS for n in (5, 10, 18, 30)]
    content: dict[str, Any] = {
        "sweeps": sweeps,
        "rules": {name: rule._asdict() for name, rule in RULES.items()},
        "coverage of the 95 % interval of the ratio": covered,
        "settings covered outside 93 to 97 %": [
            show({name: row[name] for name in ("setting", "seeds", "covered")})
            for row in covered
            if not 93 <= row["covered"] <= 97
        ],
        "false calls of 'A is faster' at 5 %, four schemes": [
            show(false_calls(s, n, sweeps)) for s in FAMILIES for n in (5, 10, 18)
        ],
        "always at one step against never": [
            show(always_against_never(n, reached, sweeps))
            for n in (3, 5, 10)
            for reached in (1.0, 0.8)
        ],
        "protocols: rates chosen from a grid, found and false": [
            show(row)
            for grid, shape in GRIDS.items()
            for factor in (1.0, 1.27, 1.5)
            for row in protocols(real(factor)._replace(rates=shape), grid, sweeps)
        ],
        "no work for a lost race: found, false, steps": [
            show(row)
            for grid, shape in GRIDS.items()
            for factor in (1.0, 1.27, 1.5)
            for row in stopped(real(factor)._replace(rates=shape), grid, sweeps)
        ],
        "sequential rule at 5 %, looks at 5, 10, 15, 20, 25 seeds": [
            show(race(s, timing.sized(1000, 5)))
            for s in [*FAMILIES, Setting("one ahead", (200, 300, 300, 400)), SIX]
        ],
        "what few seeds cannot see: false calls": [
            show(false_calls(s, n, sweeps)) for s in UNSEEN for n in (5, 10, 18)
        ],
        "sweeps drawn from real runs": [show(row) for row in real_runs(sweeps)],
        "power": power_curves(sweeps),
        "greatest difference from scipy and from the library": show(agreement()),
    }
    content["versions"] = {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("numpy", "scipy")},
    }
    if not timing.SMOKE:
        path = RESULTS / "inference.json"
        path.write_text(json.dumps(content, indent=1) + "\n")
        draw_power(content["power"])
    print(f"{time.perf_counter() - began:.0f} s")


def coverage(setting: Setting, seeds: int, sweeps: int) -> dict[str, Any]:
    """How often the interval of the ratio holds the truth, and a bootstrap's does.

    Where all pairs show one ratio there is no interval; the shares are of the others.
    """
    rng = rng_of(setting, seeds)
    budget = setting.budget
    first, second = setting.truth()
    truth = float(second - first)
    times = setting.draw(rng, sweeps, seeds)
    found = [
        inference.ratio_to_target(b, a, budget, every=setting.every) for a, b in times
    ]
    student = np.log([(each.low, each.high) for each in found]).T
    logs = np.log(np.minimum(times, budget))
    percentile, studentized = bootstraps(logs[:, 1] - logs[:, 0], rng)
    made = ~np.isnan(student[0])
    return {
        "setting": setting.name,
        "seeds": seeds,
        "true ratio": round(math.exp(truth), 3),
        "covered": percent(np.mean(covers(student, truth)[made])),
        "truth above": percent(np.mean(truth > student[1][made] + 1e-9)),
        "no interval": percent(np.mean(~made)),
        "times from low to high": width(student),
        "percentile bootstrap": percent(np.mean(covers(percentile, truth))),
        "bootstrap-t": percent(np.mean(covers(studentized, truth))),
        "bootstrap-t from low to high": width(studentized),
    }


def width(interval: np.ndarray) -> float:
    """How many times the lower bound the upper is, the median over sweeps."""
    return round(float(np.exp(np.nanmedian(interval[1] - interval[0]))), 2)


def covers(interval: np.ndarray, truth: float) -> np.ndarray:
    """(sweeps,) whether (2, sweeps) bounds hold the truth; rounding does not count."""
    low, high = interval
    return (low <= truth + 1e-9) & (truth <= high + 1e-9)


def bootstraps(
    differences: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile and bootstrap-t intervals of the mean of (sweeps, n) differences.

    Each is (2, sweeps). Sweeps share the resamples, which leaves each sweep's interval
    what it is alone.
    """
    n = differences.shape[1]
    weights = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n
    mean = differences.mean(axis=1, keepdims=True)
    error = differences.std(axis=1, ddof=1, keepdims=True) / math.sqrt(n)
    shift = (differences - mean) @ weights.T
    variance = (differences - mean) ** 2 @ weights.T - shift**2
    resampled = np.sqrt(np.maximum(variance, 0) / (n - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(resampled > 1e-9, shift / resampled, np.sign(shift) * math.inf)
    t = np.where(np.isnan(t), 0.0, t)
    low, high = np.quantile(shift, [0.025, 0.975], axis=1)
    t_low = np.quantile(t, 0.025, axis=1, method="lower")
    t_high = np.quantile(t, 0.975, axis=1, method="higher")
    mean, error = mean[:, 0], np.maximum(error[:, 0], 1e-12)
    return (
        np.array([mean + low, mean + high]),
        np.array([mean - t_high * error, mean - t_low * error]),
    )


def false_calls(setting: Setting, seeds: int, sweeps: int) -> dict[str, Any]:
    """How often anything false is called faster by each rule, and what is found."""
    times = setting.draw(rng_of(setting, seeds), sweeps, seeds)
    real = is_faster(setting.truth())
    row: dict[str, Any] = {"setting": setting.name, "seeds": seeds}
    for name, rule in RULES.items():
        calls = shown(times, setting.budget, setting.every, rule)
        row[f"false, {name}"] = percent((calls & ~real).any(axis=(1, 2)).mean())
        if real.any() and name in ("now", "before"):
            row[f"found, {name}"] = percent(calls[:, real].mean())
    return row


def is_faster(truth: np.ndarray) -> np.ndarray:
    """(schemes, schemes) whether the first is faster; below 1 % is no difference."""
    with np.errstate(invalid="ignore"):
        return truth[:, None] < truth - 0.01


def always_against_never(seeds: int, reached: float, sweeps: int) -> dict[str, Any]:
    """Two schemes of six reach the target, one at step 50, the other almost never."""
    rng = np.random.default_rng(seeds)
    times = np.full((sweeps, 6, seeds), math.inf)
    times[:, 0] = np.where(rng.random((sweeps, seeds)) < reached, 50, math.inf)
    row: dict[str, Any] = {"seeds": seeds, "share of its runs that reach": reached}
    for name in ("now", "before"):
        calls = shown(times, 500, 25, RULES[name])
        row[f"shown, {name}"] = percent(calls[:, 0, 1:].all(axis=1).mean())
    return row


def protocols(world: Setting, grid: str, sweeps: int) -> list[dict[str, Any]]:
    """What the default's runs show when spent in several ways."""
    rows = []
    alike = world.medians[0] == world.medians[1]
    for name, (tuning, runoff, scoring) in PROTOCOLS.items():
        times = world.draw_all(rng_of(world, scoring), sweeps, tuning + scoring)
        at, rates = tuned(times, tuning, runoff, scoring, world.budget)
        regret = np.array(world.rates)[rates[:, :2]]
        row: dict[str, Any] = {"world": world.name, "grid": grid, "protocol": name}
        row["regret of the rates, %"] = percent(regret.mean() - 1)
        for rule in ("now", "before"):
            calls = shown(at, world.budget, world.every, RULES[rule])
            right, wrong = calls[:, 0, 1], calls[:, 1, 0]
            if not alike:
                row[f"found, {rule}"] = percent(right.mean())
            row[f"false, {rule}"] = percent((wrong | (alike & right)).mean())
        rows.append(row)
    return rows


STOPS = (math.inf, 3.0, 2.0, 1.5, 1.25)
"""Multiples of the fastest time beyond which no run is trained."""


def stopped(world: Setting, grid: str, sweeps: int) -> list[dict[str, Any]]:
    """What the default protocol shows where no run goes on when the race is lost."""
    tuning, runoff, scoring = PROTOCOLS["2 seeds tune, 6 of 18 run off"]
    times = world.draw_all(rng_of(world, scoring), sweeps, tuning + scoring)
    fastest = times[..., :tuning].max(axis=3).min(axis=(1, 2))
    alike = world.medians[0] == world.medians[1]
    rows = []
    for multiple in STOPS:
        ends = np.ceil(multiple * fastest / world.every) * world.every
        budget = np.minimum(ends, world.budget)[:, None, None]
        cut = np.where(times > budget[..., None], math.inf, times)
        at, rates = tuned(cut, tuning, runoff, scoring, budget[..., None])
        rule = RULES["all pairs counted" if math.isfinite(multiple) else "now"]
        calls = shown(at, budget, world.every, rule)
        right, wrong = calls[:, 0, 1], calls[:, 1, 0]
        given = cut[:, :, int(np.argmin(world.rates)), tuning:]
        known = shown(given, budget, world.every, rule)
        row: dict[str, Any] = {"world": world.name, "grid": grid}
        row["stop_at"] = multiple if math.isfinite(multiple) else None
        regret = np.array(world.rates)[rates[:, :2]]
        row["regret of the rates, %"] = percent(regret.mean() - 1)
        if not alike:
            row["found"] = percent(right.mean())
        row["false"] = percent((wrong | (alike & right)).mean())
        both = known[:, 1, 0] | (alike & known[:, 0, 1])
        row["false, at the best rates"] = percent(both.mean())
        row["steps left"] = percent(budget.mean() / world.budget)
        rows.append(row)
    return rows


@functools.cache
def real_sweep() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], int]:
    """Steps to the target and curves of real runs, by scheme: (rates, seeds, ...)."""
    found = compare(
        "digits-mlp",
        learning_rates=timing.sized(
            (0.001, 0.003, 0.01, 0.03, 0.1, 0.3), (0.003, 0.01)
        ),
        seeds=timing.sized(60, 3),
        tuning_seeds=0,
        steps=timing.sized(500, 50),
        eval_every=5,
        quiet=True,
    )
    sweep, times, curves = found.sweep, {}, {}
    for scheme in sweep.schemes:
        at = [sweep.at(scheme, rate) for rate in sweep.learning_rates]
        times[scheme] = np.array([each.column("steps_to_target") for each in at])
        curves[scheme] = np.array(
            [_filled(each.runs["valid_metric"].to_pylist()) for each in at]
        )
    return times, curves, sweep.settings.steps


def _filled(curves: Sequence[Sequence[float]]) -> np.ndarray:
    """Curves of equal length, those of diverged runs filled with 0."""
    longest = max(map(len, curves))
    return np.array([[*each, *[0.0] * (longest - len(each))] for each in curves])


def crossings(curves: np.ndarray, every: int, between: bool) -> np.ndarray:
    """Times at which curves, taken every 5 steps, reach 90 % as seen every `every`.

    Args:
        curves: (..., evaluations).
        every: a multiple of 5.
        between: whether the crossing is interpolated between two evaluations.
    """
    seen = np.nan_to_num(curves[..., :: every // 5])
    at = seen >= 0.9
    first = at.argmax(axis=-1)
    high = np.take_along_axis(seen, first[..., None], axis=-1)[..., 0]
    low = np.take_along_axis(seen, np.maximum(first - 1, 0)[..., None], axis=-1)[..., 0]
    back = np.where(high > low, (high - 0.9) / np.maximum(high - low, 1e-9), 0)
    times = every * (first - (back if between else 0))
    return np.where(at.any(axis=-1), np.maximum(times, 1), math.inf)


def real_runs(sweeps: int) -> list[dict[str, Any]]:
    """Sweeps drawn from real runs: what protocols, rules and clocks show of them."""
    times, curves, steps = real_sweep()
    names, rng = list(times), np.random.default_rng(7)
    budget, seeds = float(steps), next(iter(times.values())).shape[1]
    clocks = {(5, False): "5", (25, False): "25", (25, True): "25, interpolated"}
    rows = []
    for (step, between), clock in clocks.items():
        table = np.array([crossings(curves[n], step, between) for n in names])
        truth = np.log(np.minimum(table, budget)).mean(axis=2).min(axis=1)
        lead, second = np.argsort(truth)[:2]
        real = is_faster(truth)
        for protocol, (tuning, runoff, scoring) in PROTOCOLS.items():
            draws = rng.integers(seeds, size=(2, sweeps, tuning + scoring))
            given = tuning, runoff, scoring, budget
            at, _ = tuned(np.moveaxis(table[:, :, draws[0]], 2, 0), *given)
            again, _ = tuned(np.moveaxis(table[:, :, draws[1]], 2, 0), *given)
            row: dict[str, Any] = {
                "evaluated every": clock,
                "protocol": protocol,
                "leader and second": f"{names[lead]}, {names[second]}",
                "true ratio": round(math.exp(truth[second] - truth[lead]), 3),
            }
            for name in ("now", "before"):
                calls = shown(at, budget, step, RULES[name])
                row[f"leader shown, {name}"] = percent(calls[:, lead, second].mean())
                false = (calls & ~real).any(axis=(1, 2))
                row[f"false, {name}"] = percent(false.mean())
                for what, scheme in (("leader", lead), ("second", second)):
                    # The second place is taken by the same scheme, at other seeds.
                    twin = at.copy()
                    twin[:, lead], twin[:, second] = at[:, scheme], again[:, scheme]
                    calls = shown(twin, budget, step, RULES[name])
                    either = calls[:, lead, second] | calls[:, second, lead]
                    row[f"{what} against itself, {name}"] = percent(either.mean())
            rows.append(row)
    return rows


def power_curves(sweeps: int) -> list[dict[str, Any]]:
    """How often the leader is shown to be faster, by seeds that score and by factor."""
    rows = []
    for factor, never in itertools.product((1.1, 1.25, 1.5, 2.0), (True, False)):
        for seeds in (3, 5, 8, 12, 18, 25, 40):
            world = real(factor, never=never)
            times = world._replace(rates=(1.0,)).draw(
                rng_of(world, seeds), sweeps, seeds
            )
            row = {"world": world.name, "factor": factor, "seeds": seeds}
            for name in ("now", "before", "pooled"):
                calls = shown(times, world.budget, world.every, RULES[name])
                row[f"shown, {name}"] = percent(calls[:, 0, 1].mean())
            rows.append(show(row))
    return rows


def draw_power(rows: Sequence[dict[str, Any]]) -> None:
    """The figure of power: share of sweeps that show the leader, by seeds."""
    fig, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
    factors = sorted({row["factor"] for row in rows})
    for color, factor in enumerate(factors):
        mine = [r for r in rows if r["factor"] == factor and "never" in r["world"]]
        seeds = [row["seeds"] for row in mine]
        for rule, line in (("now", "-"), ("before", ":")):
            ax.plot(
                seeds,
                [row[f"shown, {rule}"] for row in mine],
                line,
                color=f"C{color}",
                marker="o" if rule == "now" else None,
                label=f"{factor:g} times" if rule == "now" else None,
            )
    ax.plot([], [], ":", color="0.4", label="by the rules of before")
    ax.axvline(18, color="0.8", zorder=0)
    ax.set(
        xlabel="seeds that score",
        ylabel="sweeps that show it, %",
        ylim=(0, 101),
        title="Six schemes, of which two never reach the target",
    )
    ax.legend(title="the leader is faster by")
    fig.savefig(RESULTS / "power.png", dpi=150)
    plt.close(fig)


SIX = Setting("six, one ahead, two never", (200, 300, 300, 400, math.inf, math.inf))


def race(setting: Setting, sweeps: int) -> dict[str, Any]:
    """How often `--until-sure` shows anything false, and what it saves."""
    truth = setting.truth()
    looks, step = 5, 5
    false = naive = settled = right = 0
    used = []
    for times in setting.draw(rng_of(setting, 25), sweeps, looks * step):
        everything = dict(zip(NAMES, times, strict=False))
        ran = {name: np.full(looks * step, np.nan) for name in everything}
        in_race: tuple[str, ...] = tuple(everything)
        shown: frozenset[tuple[str, str]] = frozenset()
        careless: set[tuple[str, str]] = set()
        now = None
        for look in range(1, looks + 1):
            seeds = slice((look - 1) * step, look * step)
            for name in in_race:
                ran[name][seeds] = everything[name][seeds]
            so_far = {name: each[: look * step] for name, each in ran.items()}
            given = so_far, setting.budget
            now = races.look_at(*given, look, looks, shown=shown, every=setting.every)
            careless |= {
                (pair.faster, pair.slower)
                for pair in comparisons.pairwise(*given, every=setting.every)
                if pair.p_value <= LEVEL
            }
            in_race, shown = now.in_race, now.shown
            if now.settled:
                break
        assert now is not None
        false += any(wrong(pair, truth) for pair in shown)
        naive += any(wrong(pair, truth) for pair in careless)
        settled += now.settled
        right += now.settled and now.order[0] == NAMES[int(np.argmin(truth))]
        used.append(sum(int((~np.isnan(each)).sum()) for each in ran.values()))
    return {
        "setting": setting.name,
        "false": percent(false / sweeps),
        "false if each look spent 5 %": percent(naive / sweeps),
        "settled": percent(settled / sweeps),
        "settled on the fastest": percent(right / sweeps),
        "runs used": percent(np.mean(used) / (100 * len(truth) * looks * step / 100)),
    }


def wrong(pair: tuple[str, str], truth: np.ndarray) -> bool:
    """Whether the first is not faster; a difference below 1 % is none."""
    faster, slower = (NAMES.index(name) for name in pair)
    return not is_faster(truth)[faster, slower]


def rng_of(setting: Setting, seeds: int) -> np.random.Generator:
    """A generator of its own for each setting and number of seeds."""
    return np.random.default_rng([seeds, *setting.name.encode()])


def agreement() -> dict[str, float]:
    """Greatest differences from what scipy computes, over 200 sweeps of 12 seeds."""
    rng = np.random.default_rng(0)
    setting = Setting(
        "20 % missed, 10 % diverged", (200, 300), missed=0.2, diverged=0.1
    )
    budget = setting.budget
    worst: dict[str, float] = dict.fromkeys(
        (
            "interval of the ratio, against ttest_rel",
            "p-value, against ttest_rel",
            "survival, against ecdf",
            "restricted mean, against the area under ecdf",
            "probability of improvement, against all pairs",
            "interquartile mean, against the sorted middle",
        ),
        0.0,
    )
    for a, b in setting.draw(rng, 200, 12):
        ours = inference.ratio_to_target(a, b, budget)
        test = scipy_stats.ttest_rel(
            np.log(np.minimum(a, budget)), np.log(np.minimum(b, budget))
        )
        interval = test.confidence_interval()
        curve = inference.kaplan_meier(a, budget)
        hit = a < math.inf
        censored = scipy_stats.CensoredData(a[hit], right=np.full((~hit).sum(), budget))
        theirs = scipy_stats.ecdf(censored).sf
        ends = np.append(curve.steps[1:], budget)
        area = float(((ends - curve.steps) * curve.fraction).sum())
        wins = (a[:, None] < b) + ((a[:, None] == b) / 2)
        middle = np.sort(np.minimum(a, budget))[3:9].mean()
        differences = (
            np.abs(np.log([ours.low, ours.high]) - np.array(interval)).max(),
            abs(ours.p_value - test.pvalue),
            np.abs(curve.fraction - theirs.evaluate(curve.steps)).max(),
            abs(inference.restricted_mean(a, budget) - area),
            abs(measures.probability_of_improvement(a, b) - wins.mean()),
            abs(measures.iqm(np.minimum(a, budget)) - middle),
        )
        for name, difference in zip(worst, differences, strict=True):
            worst[name] = max(worst[name], float(difference))
    different = 0
    for setting in (*FAMILIES, SIX):
        times = setting.draw(rng, 20, 5)
        calls = shown(times, setting.budget, setting.every, RULES["now"])
        for sweep, called in zip(times, calls, strict=True):
            found = comparisons.pairwise(
                dict(zip(NAMES, sweep, strict=False)),
                setting.budget,
                every=setting.every,
            )
            theirs = np.zeros_like(called)
            for pair in found:
                faster, slower = NAMES.index(pair.faster), NAMES.index(pair.slower)
                theirs[faster, slower] = pair.p_value <= LEVEL
            different += int((theirs != called).sum())
    worst["calls that differ from those of pairwise"] = different
    return {name: float(f"{value:.1e}") for name, value in worst.items()}


def percent(share: float | np.floating[Any]) -> float:
    """A share in per cent, to one digit."""
    return round(100 * float(share), 1)


def show(row: dict[str, Any]) -> dict[str, Any]:
    """Print a row and hand it on."""
    print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    return row


if __name__ == "__main__":
    main()
