"""What the intervals, p-values and the sequential rule promise, against known truth.

Run from the root of the repository: `python benchmarks/inference.py`. It simulates
2,000 sweeps a setting with lognormal times to target that share a part by seed, cuts
them at a budget, lets runs diverge, and counts how often each statement is false. The
standard error of a share near 95 % is 0.5 %. No accelerator is used.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import math
import pathlib
import platform
import time
from typing import Any, NamedTuple

import numpy as np
import timing
from scipy import stats as scipy_stats

from jaxinit.compare.stats import comparisons, inference, measures
from jaxinit.compare.stats import race as races

RESULTS = pathlib.Path(__file__).parent / "results"
RESAMPLES = 999
NAMES = "abcdefgh"


class Setting(NamedTuple):
    """A world that sweeps are drawn from.

    Attributes:
        name: in words.
        medians: (schemes,), median times to target without a budget, in steps.
        shared: standard deviation of the log time that runs of one seed share.
        own: (schemes,) or one, that of each run's own part.
        missed: share of the last scheme's runs that the budget cuts.
        diverged: (schemes,) or one, share of runs that diverge, whatever their time.
        every: steps between evaluations; times are rounded up to them.
    """

    name: str
    medians: tuple[float, ...]
    shared: float = 0.25
    own: float | tuple[float, ...] = 0.25
    missed: float = 0.0
    diverged: float | tuple[float, ...] = 0.0
    every: int = 1

    @property
    def budget(self) -> float:
        """Steps that cut `missed` of the last scheme's times; at 0, four medians."""
        if not self.missed:
            return 4 * max(self.medians)
        own = np.broadcast_to(self.own, len(self.medians))[-1]
        spread = math.hypot(self.shared, own) * scipy_stats.norm.isf(self.missed)
        return round(self.medians[-1] * math.exp(spread))

    def draw(self, rng: np.random.Generator, sweeps: int, seeds: int) -> np.ndarray:
        """(sweeps, schemes, seeds) times to target; infinity where missed."""
        shape = sweeps, len(self.medians), seeds

        def column(values: Any) -> np.ndarray:
            return np.broadcast_to(values, shape[1])[:, None]

        logs = np.log(column(self.medians))
        logs = logs + self.shared * rng.normal(size=(sweeps, 1, seeds))
        logs = logs + column(self.own) * rng.normal(size=shape)
        times = np.ceil(np.exp(logs) / self.every) * self.every
        lost = (rng.random(shape) < column(self.diverged)) | (times > self.budget)
        return np.where(lost, math.inf, times)

    @functools.cache  # noqa: B019
    def truth(self) -> np.ndarray:
        """(schemes,) mean log times within the budget, from 4 million runs each."""
        times = self.draw(np.random.default_rng(0), 1, 4_000_000)[0]
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


def main() -> None:
    """Print a row a setting, and write the results."""
    sweeps = timing.sized(2000, 10)
    began = time.perf_counter()
    covered = [show(coverage(s, n, sweeps)) for s in RATIOS for n in (5, 10, 20, 30)]
    content: dict[str, Any] = {
        "sweeps": sweeps,
        "coverage of the 95 % interval of the ratio": covered,
        "settings covered outside 93 to 97 %": [
            show({name: row[name] for name in ("setting", "seeds", "covered")})
            for row in covered
            if not 93 <= row["covered"] <= 97
        ],
        "false calls of 'A is faster' at 5 %, four schemes": [
            show(false_calls(s, n, sweeps)) for s in FAMILIES for n in (5, 10, 20)
        ],
        "sequential rule at 5 %, looks at 5, 10, 15, 20, 25 seeds": [
            show(race(s, sweeps))
            for s in [*FAMILIES, Setting("one ahead", (200, 300, 300, 400))]
        ],
        "what few seeds cannot see: false calls": [
            show(false_calls(s, n, sweeps)) for s in UNSEEN for n in (5, 10, 20)
        ],
        "greatest difference from scipy": show(agreement()),
    }
    content["versions"] = {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("numpy", "scipy")},
    }
    if not timing.SMOKE:
        path = RESULTS / "inference.json"
        path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{time.perf_counter() - began:.0f} s")


def coverage(setting: Setting, seeds: int, sweeps: int) -> dict[str, Any]:
    """How often the interval of the ratio holds the truth, and a bootstrap's does.

    Where all pairs show one ratio there is no interval; the shares are of the others.
    """
    rng = np.random.default_rng([seeds, *setting.name.encode()])
    budget = setting.budget
    first, second = setting.truth()
    truth = float(second - first)
    times = setting.draw(rng, sweeps, seeds)
    found = [inference.ratio_to_target(b, a, budget) for a, b in times]
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
    """How often anything false is called faster, by several rules, and what is found.

    The rank intervals hold every true rank where nothing false is called.
    """
    rng = np.random.default_rng([seeds, *setting.name.encode()])
    truth = setting.truth()
    counts = dict.fromkeys(("holm", "ranks", "unadjusted", "sign-flip", "found"), 0.0)
    real = {(i, j) for i in range(4) for j in range(4) if truth[i] < truth[j] - 0.01}
    signs = flips(seeds, rng)
    for times in setting.draw(rng, sweeps, seeds):
        named = dict(zip(NAMES, times, strict=False))
        pairs = comparisons.pairwise(named, setting.budget)
        order = [(NAMES.index(p.faster), NAMES.index(p.slower)) for p in pairs]
        false = np.array([pair not in real for pair in order])
        shown = np.array([p.p_value <= 0.05 for p in pairs])
        alone = np.array([p.ratio.p_value <= 0.05 for p in pairs])
        flipped = comparisons.holm(
            [sign_flip(times[j], times[i], setting.budget, signs) for i, j in order]
        )
        counts["holm"] += (false & shown).any()
        counts["unadjusted"] += (false & alone).any()
        counts["sign-flip"] += (false & (flipped <= 0.05)).any()
        counts["found"] += (~false & shown).sum() / max(len(real), 1)
        ranks = comparisons.rank_intervals(named, setting.budget)
        counts["ranks"] += all(
            ranks[NAMES[i]].low <= 1 + sum((j, i) in real for j in range(4))
            and ranks[NAMES[i]].high >= 4 - sum((i, j) in real for j in range(4))
            for i in range(4)
        )
    shares = {name: percent(count / sweeps) for name, count in counts.items()}
    return {
        "setting": setting.name,
        "seeds": seeds,
        "false": shares["holm"],
        "false without Holm": shares["unadjusted"],
        "false by sign flips": shares["sign-flip"],
        "all ranks covered": shares["ranks"],
        "true differences found": shares["found"] if real else None,
    }


def flips(seeds: int, rng: np.random.Generator) -> np.ndarray:
    """(flips, seeds) signs: all of them up to 10 seeds, 1,023 at random beyond."""
    if seeds <= 10:
        return 1 - 2.0 * (np.arange(2**seeds)[:, None] >> np.arange(seeds) & 1)
    return np.concatenate([np.ones((1, seeds)), rng.choice([-1.0, 1.0], (1023, seeds))])


def sign_flip(a: np.ndarray, b: np.ndarray, budget: float, signs: np.ndarray) -> float:
    """P-value of the paired permutation test of log times."""
    differences = np.log(np.minimum(a, budget)) - np.log(np.minimum(b, budget))
    sums = np.abs(signs @ differences)
    return float(np.mean(sums >= abs(differences.sum()) - 1e-9))


def race(setting: Setting, sweeps: int) -> dict[str, Any]:
    """How often `--until-sure` shows anything false, and what it saves."""
    rng = np.random.default_rng([25, *setting.name.encode()])
    truth = setting.truth()
    looks, step = 5, 5
    false = naive = settled = right = 0
    used = []
    for times in setting.draw(rng, sweeps, looks * step):
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
            now = races.look_at(so_far, setting.budget, look, looks, shown=shown)
            careless |= {
                (pair.faster, pair.slower)
                for pair in comparisons.pairwise(so_far, setting.budget)
                if pair.p_value <= 0.05
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
        "runs used of 100": round(float(np.mean(used)), 1),
    }


def wrong(pair: tuple[str, str], truth: np.ndarray) -> bool:
    """Whether the first is not faster; a difference below 1 % is none."""
    faster, slower = (truth[NAMES.index(name)] for name in pair)
    return not faster < slower - 0.01


def agreement() -> dict[str, float]:
    """Greatest differences from what scipy computes, over 200 sweeps of 12 seeds."""
    rng = np.random.default_rng(0)
    setting = Setting(
        "20 % missed, 10 % diverged", (200, 300), missed=0.2, diverged=0.1
    )
    budget = setting.budget
    worst = dict.fromkeys(
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
