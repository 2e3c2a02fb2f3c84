"""From a sweep's runs to its verdict: who is faster, by how much, and how sure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from jaxinit import _checks
from jaxinit._parse import parse
from jaxinit.compare.stats import inference
from jaxinit.compare.stats import summary as stats


class Row(NamedTuple):
    """A scheme's line in the table.

    Attributes:
        summary: the scheme at its learning rate.
        times: (seeds,), steps to target, paired by seed; infinity a miss, NaN not run.
        rank: its rank with the interval; None where two schemes share no seed.
        mean: restricted mean steps to target, a miss counted as the budget.
        ratio: the baseline's time over this scheme's; None for the baseline itself,
            and where there is none to compare with.
        standing: against the baseline: "faster", "slower", or "" where no difference
            is shown, at 5 % over all pairs of the sweep (Holm).
        gone: diverged runs at this rate, as a share with its interval.
        logrank: p-value of the log-rank test against the baseline, which does not pair
            seeds; NaN for the baseline itself and where there is none.
        area: median over seeds of the area under the curve of the validation metric,
            by the length of its steps; as bad as can be where a run diverged.
        works: the learning rates around the best at which the median steps to target
            are at most twice those there, of the runs that choose the rate.
    """

    summary: stats.SchemeSummary
    times: np.ndarray
    rank: inference.RankInterval | None
    mean: float
    ratio: inference.Ratio | None
    standing: str
    gone: stats.Share
    logrank: float
    area: float
    works: stats.Sensitivity


class Verdict(NamedTuple):
    """What a sweep says.

    Attributes:
        rows: the schemes, the fastest first.
        baseline: the scheme that ratios compare with, or None.
        sentence: the verdict in one sentence.
        notes: sentences on what limits it.
        intervals: whether there are two seeds or more, so that intervals exist.
        learning_rate: the rate at which all schemes are seen; None for each at its
            best.
    """

    rows: tuple[Row, ...]
    baseline: str | None
    sentence: str
    notes: tuple[str, ...]
    intervals: bool
    learning_rate: float | None


def ranking(
    runs: pa.Table, settings: Mapping[str, Any], learning_rate: float | None = None
) -> list[stats.SchemeSummary]:
    """The schemes at their best learning rates, the fastest first by median steps.

    Args:
        runs: a row a run, of one task; the columns are those of `store.SCHEMA`.
        settings: of the sweep; `metric_name` and `direction` are read.
        learning_rate: see all schemes at this rate instead.

    Returns:
        The summaries; `final_valid_metric` is the task's metric, whatever it is, and
        as bad as can be where a run diverged.

    Raises:
        ValueError: there is no run, tasks are mixed, or a scheme has no run at
            `learning_rate`.
    """
    if not runs.num_rows:
        raise ValueError("report: the sweep has no finished run yet; let it end.")
    tasks = sorted(set(runs["task"].to_pylist()))
    if len(tasks) > 1:
        raise ValueError(
            f"report: the runs are of the tasks {', '.join(tasks)}; a table is of one, "
            "so keep them in a folder each and pass all folders to jaxinit report."
        )
    scoring = runs
    if learning_rate is not None:
        found = stats.fixed(runs, learning_rate)
    elif settings.get("tuning_seeds"):
        _, scoring = parts(runs, settings)
        found = stats.tuned(runs, range(settings["tuning_seeds"]))
    else:
        found = stats.rank(runs)
    if settings["metric_name"] == "accuracy":
        return found
    # Where 0 is not the worst there is, a diverged run has infinitely bad values.
    worst = -math.inf if settings["direction"] == "max" else math.inf

    def corrected(each: stats.SchemeSummary) -> stats.SchemeSummary:
        at = stats.at_rate(scoring, each.scheme, each.learning_rate)
        final = stats.finite_column(at, "final_valid_metric", worst)
        return each._replace(final_valid_metric=stats.quartiles(final))

    return [corrected(each) for each in found]


def parts(runs: pa.Table, settings: Mapping[str, Any]) -> tuple[pa.Table, pa.Table]:
    """The runs that choose rates, and those that score: all, without `tuning_seeds`."""
    count = settings.get("tuning_seeds", 0)
    return stats.split(runs, range(count)) if count else (runs, runs)


def judge(
    runs: pa.Table,
    settings: Mapping[str, Any],
    baseline: str | None = None,
    learning_rate: float | None = None,
) -> Verdict:
    """Ranks, ratios and the verdict of a sweep over one task.

    Args:
        runs: a row a run; the columns are those of `store.SCHEMA`.
        settings: of the sweep, as in `sweep.json`.
        baseline: the scheme that ratios compare with; by default the first in
            `settings["schemes"]` that reaches the target in any run seen here.
        learning_rate: see all schemes at this rate, instead of each at its best.

    Returns:
        The verdict.

    Raises:
        ValueError: there is no run, tasks are mixed, the baseline is unknown, or a
            scheme has no run at `learning_rate`.
    """
    found = ranking(runs, settings, learning_rate)
    choosing, scoring = parts(runs, settings)
    scoring = runs if learning_rate is not None else scoring
    times = stats.times(scoring, found)
    budget = float(settings["steps"])
    if baseline is None:
        reaching = {each.scheme for each in found if each.reached}
        baseline = next((s for s in settings["schemes"] if s in reaching), None)
    else:
        baseline = scheme_named("baseline", baseline, times)
    paired = len(times) > 1 and _paired(times)
    pairs = inference.pairwise(times, budget) if paired else []
    ranks = inference.rank_intervals(times, budget) if paired else {}
    if len(times) == 1:
        ranks = {scheme: inference.RankInterval(1, 1, 1) for scheme in times}
    shown = {(pair.faster, pair.slower) for pair in pairs if pair.p_value <= 0.05}

    def row(summary: stats.SchemeSummary) -> Row:
        name = summary.scheme
        ratio, standing = None, ""
        if baseline is not None and name != baseline and paired:
            ratio = inference.ratio_to_target(times[baseline], times[name], budget)
            standing = "faster" if (name, baseline) in shown else ""
            standing = "slower" if (baseline, name) in shown else standing
        at = stats.at_rate(scoring, name, summary.learning_rate)
        gone = [status == "diverged" for status in at["status"].to_pylist()]
        return Row(
            summary=summary,
            times=times[name],
            rank=ranks.get(name),
            mean=inference.restricted_mean(times[name], budget),
            ratio=ratio,
            standing=standing,
            gone=stats.divergence_rate(gone),
            logrank=(
                math.nan
                if baseline is None or name == baseline
                else inference.logrank(times[name], times[baseline], budget)
            ),
            area=_area(at, settings),
            works=_works(choosing, name),
        )

    rows = [row(each) for each in found]
    if ranks:  # among equal ranks by final loss, as in `found`
        rows.sort(key=lambda each: ranks[each.summary.scheme].rank)
    order = [each.summary.scheme for each in rows]
    intervals = any((~np.isnan(each)).sum() > 1 for each in times.values())
    return Verdict(
        rows=tuple(rows),
        baseline=baseline,
        sentence=_sentence(order, times, pairs, shown, settings, intervals),
        notes=tuple(_notes(runs, settings, rows, learning_rate)),
        intervals=intervals,
        learning_rate=learning_rate,
    )


def _area(runs: pa.Table, settings: Mapping[str, Any]) -> float:
    """The median over runs of the area under the curve of the metric."""
    falls = settings["direction"] == "min"
    worst = (
        math.inf
        if falls
        else 0.0
        if settings["metric_name"] == "accuracy"
        else -math.inf
    )
    areas = []
    curves = (runs[name].to_pylist() for name in ("eval_steps", "valid_metric"))
    for steps, values in zip(*curves, strict=True):
        if steps[-1] < settings["steps"]:  # cut short, for it diverged
            steps, values = [*steps, settings["steps"]], [*values, math.nan]
        areas.append(stats.area_under_curve(steps, values, worst))
    return float(np.median(areas))


def _works(runs: pa.Table, scheme: str) -> stats.Sensitivity:
    """The range of learning rates at which a scheme is within twice its best."""
    columns = (runs[name].to_pylist() for name in ("scheme", "learning_rate"))
    rates = sorted({r for name, r in zip(*columns, strict=True) if name == scheme})
    medians = [
        np.median(stats.finite_column(at, "steps_to_target", math.inf))
        for at in (stats.at_rate(runs, scheme, rate) for rate in rates)
    ]
    return stats.learning_rate_sensitivity(rates, medians)


def scheme_named(name: str, text: str, schemes: Iterable[str]) -> str:
    """The scheme that a text means, as in "he_normal" for "he_normal()".

    Args:
        name: of the option that the text is of.
        text: a scheme's own text, or one that `parse` reads as the scheme.
        schemes: those of the sweep.

    Raises:
        ValueError: there is no such scheme.
    """
    schemes = tuple(schemes)
    if text not in schemes:
        try:
            written = repr(parse(text))
        except (ValueError, TypeError):
            written = text
        if written in schemes:
            return written
        _checks.choice("report", name, text, schemes)
    return text


def number(value: float) -> str:
    """A ratio as text, with as many digits as one reads."""
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f}" if math.isfinite(value) else "∞"


def duration(seconds: float) -> str:
    """Seconds as text, with three digits, below a second in smaller units."""
    units = ((1, "s"), (1e-3, "ms"), (1e-6, "us"))
    size, unit = next((u for u in units if seconds >= 0.9995 * u[0]), units[-1])
    value = seconds / size
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {unit}"


def _paired(times: Mapping[str, np.ndarray]) -> bool:
    """Whether every two schemes have a seed in common."""
    ran = [~np.isnan(each) for each in times.values()]
    return all((a & b).any() for a, b in itertools.combinations(ran, 2))


def _sentence(
    order: Sequence[str],
    times: Mapping[str, np.ndarray],
    pairs: Sequence[inference.Comparison],
    shown: set[tuple[str, str]],
    settings: Mapping[str, Any],
    intervals: bool,
) -> str:
    """The verdict on the leader, in plain words."""
    budget = settings["steps"]
    hits = {name: int(np.isfinite(times[name]).sum()) for name in order}
    ran = {name: int((~np.isnan(times[name])).sum()) for name in order}
    first, *others = order
    if not any(hits.values()):
        return f"On this task no scheme reaches the target within {budget} steps."
    if not others:
        return (
            f"On this task {first} reaches the target in {hits[first]} of {ran[first]} "
            "runs; there is no other scheme to compare with."
        )
    if not pairs:
        return (
            "Two schemes have no seed in common, so that no comparison is possible; "
            "run them at the same seeds."
        )
    if not intervals:
        return (
            "One seed: no interval is possible, and a difference of single runs, here "
            f"{first} before {others[0]}, shows nothing."
        )
    level = [name for name in others if (first, name) not in shown]
    if not any(hits[name] for name in others):
        alone = (
            f"On this task {first} alone reaches the target within {budget} steps, in "
            f"{hits[first]} of {ran[first]} runs"
        )
        return f"{alone}{', which shows no difference yet' if level else ''}."
    if level:
        pair = _pair(pairs, first, level[0])
        return (
            f"No difference is shown between {first} and {_listed(level, others)}"
            f"{_interval(pair, first, level[0])}{_beaten(others, level)}."
        )
    pair = _pair(pairs, first, others[0])
    sooner = number(pair.ratio.ratio)
    return (
        f"On this task {first} reaches the target {sooner} times sooner than "
        f"{others[0]}{_interval(pair)}{_rest(others)}."
    )


def _beaten(others: Sequence[str], level: Sequence[str]) -> str:
    beaten = len(others) - len(level)
    return f"; the other {beaten} are shown to be slower" if beaten > 1 else ""


def _pair(
    pairs: Sequence[inference.Comparison], a: str, b: str
) -> inference.Comparison:
    return next(pair for pair in pairs if {pair.faster, pair.slower} == {a, b})


def _rest(others: Sequence[str]) -> str:
    if len(others) == 1:
        return ""
    return f", the next of {len(others)} that it is shown to beat"


def _interval(pair: inference.Comparison, first: str = "", second: str = "") -> str:
    """The interval of a pair, in brackets; with names, also the ratio's meaning."""
    ratio = pair.ratio
    if math.isnan(ratio.low):
        if abs(ratio.ratio - 1) < 1e-9:
            both = " and ".join(sorted((pair.faster, pair.slower)))
            return f" ({both} take equally long at every seed)"
        return f" (the same ratio at each of {ratio.pairs} seeds: no interval)"
    bounds = f"95 % interval {number(ratio.low)} to {number(ratio.high)}"
    if not first:
        return f" ({bounds})"
    times = f"{pair.faster} {number(ratio.ratio)} times sooner than {pair.slower}"
    if pair.p_value > 0.05 and not ratio.low <= 1 <= ratio.high:
        bounds += f" for this pair alone, p = {pair.p_value:.2f} among all pairs"
    return f" ({times}, {bounds})"


def _listed(names: Sequence[str], others: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    if len(names) > 3:
        which = "the" if len(names) == len(others) else f"{len(names)} of the"
        return f"any of {which} {len(others)} others"
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _notes(
    runs: pa.Table,
    settings: Mapping[str, Any],
    rows: Sequence[Row],
    learning_rate: float | None,
) -> list[str]:
    """Sentences on what limits the verdict."""
    notes = []
    if learning_rate is not None:
        notes.append(
            f"All schemes are seen at the learning rate {learning_rate:g}, which "
            "favours those that it happens to suit."
        )
    edge = [r.summary.scheme for r in rows if r.summary.at_edge and r.summary.reached]
    if edge:
        notes.append(
            f"The best rate of {_and(edge)} lies at the edge of the grid, so that a "
            "better one may lie outside."
        )
    grid, _ = parts(runs, settings)
    for scheme, rates in stats.missing_rates(grid).items():
        listed = ", ".join(f"{rate:g}" for rate in rates)
        notes.append(
            f"{scheme} was not tuned with equal budget: it has no run at {listed}."
        )
    seeds = settings.get("tuning_seeds", 0) or settings["seeds"]
    planned = len(settings["schemes"]) * len(settings["learning_rates"]) * seeds
    if grid.num_rows < planned:
        notes.append(f"Only {grid.num_rows} of {planned} planned runs are finished.")
    if "looks" in settings:
        settled = "" if settings["settled"] else "not "
        notes.append(
            f"After {settings['looks']} rounds of seeds the winner is {settled}settled "
            "at 95 % confidence over all rounds."
        )
    notes += _other_order([row.summary for row in rows])
    first = rows[0]
    if len(rows) > 1 and first.summary.reached:
        count = round(first.gone.share * first.summary.seeds)
        notes.append(
            f"{first.summary.scheme} diverged in {count} of {first.summary.seeds} runs "
            f"at its rate, where up to {first.gone.high:.0%} remain possible (95 %)."
        )
    return notes


def _other_order(summaries: Sequence[stats.SchemeSummary]) -> list[str]:
    """A sentence where the order in seconds is not that in steps."""
    timed = [
        (each.steps_to_target.median, each.seconds_to_target.median, each.scheme)
        for each in summaries
        if each.seconds_to_target and math.isfinite(each.steps_to_target.median)
    ]
    turned = [
        (a, b)
        for a, b in itertools.permutations(sorted(timed), 2)
        if a[0] < b[0] and a[1] > b[1]
    ]
    if not turned:
        return []
    (_, later, behind), (_, sooner, ahead) = turned[0]
    return [
        f"With the drawing of the start counted in, {ahead} reaches the target after "
        f"{duration(sooner)} and {behind} after {duration(later)} (medians), the other "
        "way round than in steps."
    ]


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
