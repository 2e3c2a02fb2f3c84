"""What a verdict says, in sentences; and numbers as one reads them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from jaxinit.compare.stats.across_optimizers import AcrossOptimizers
from jaxinit.compare.stats.across_tasks import Standing
from jaxinit.compare.stats.comparisons import Comparison
from jaxinit.compare.stats.summary import SchemeSummary
from jaxinit.compare.stats.verdict import LEVEL, Verdict
from jaxinit.compare.store.settings import Settings


def number(value: float) -> str:
    """A ratio as text, with as many digits as one reads."""
    digits = 2 if value < 10 else 1 if value < 100 else 0
    if not math.isfinite(value):
        return "∞"
    return f"{value:.{digits}f}" if value < 1e6 else f"{value:.3g}"


def loss(value: float) -> str:
    """A loss as text: three decimals, or three digits where it is large."""
    return f"{value:.3f}" if abs(value) < 1e4 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Seconds as text, with three digits, below a second in smaller units."""
    units = ((1, "s"), (1e-3, "ms"), (1e-6, "us"))
    size, unit = next((u for u in units if seconds >= 0.9995 * u[0]), units[-1])
    value = seconds / size
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    text = f"{value:.{digits}f}" if value < 1e7 else f"{value:.3g}"
    return f"{text} {unit}"


def goal(settings: Settings) -> str:
    """The target in words."""
    target = as_metric(settings, settings.target)
    if settings.is_accuracy:
        return f"{target} validation accuracy"
    sign = ">=" if settings.direction == "max" else "<="
    return f"validation {settings.metric_name} {sign} {target}"


def as_metric(settings: Settings, value: float) -> str:
    """A value of the metric."""
    return f"{100 * value:.4g}%" if settings.is_accuracy else f"{value:g}"


def unit(settings: Settings) -> str:
    """The unit of the loss, as text after its name."""
    return " (nats)" if settings.loss_name == "cross_entropy" else ""


def optimizers(settings: Settings) -> str:
    """The optimizers in words."""
    return listed([optimizer(each) for each in settings.optimizers])


def optimizer(text: str) -> str:
    """An optimizer's text, without empty brackets."""
    return text.removesuffix("()")


def grid_sizes(settings: Settings) -> str:
    """How many learning rates there are, of each optimizer where that differs."""
    sizes = {len(settings.rates(each)) for each in settings.optimizers}
    return " or ".join(map(str, sorted(sizes)))


def listed(names: Sequence[str], last: str = "and") -> str:
    """Names as in "a, b and c"."""
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])} {last} {names[-1]}"


def sentence(verdict: Verdict, settings: Settings) -> str:
    """The verdict on the leader."""
    budget = settings.budget
    hits = {
        row.summary.scheme: int(np.isfinite(row.times).sum()) for row in verdict.rows
    }
    first, *others = verdict.order
    ran = int((~np.isnan(verdict.rows[0].times)).sum())
    if not any(hits.values()):
        return f"On this task no scheme reaches the target within {budget} steps."
    if not others:
        return (
            f"On this task {first} reaches the target in {hits[first]} of {ran} "
            "runs; there is no other scheme to compare with."
        )
    if not verdict.pairs:
        return (
            "Two schemes have no seed in common, so that no comparison is possible; "
            "run them at the same seeds."
        )
    if not verdict.intervals:
        return (
            "One seed: no interval is possible, and a difference of single runs, here "
            f"{first} before {others[0]}, shows nothing."
        )
    level = verdict.level_with_first
    if not any(hits[name] for name in others):
        alone = (
            f"On this task {first} alone reaches the target within {budget} steps, in "
            f"{hits[first]} of {ran} runs"
        )
        doubt = f", which shows no difference yet.{_power(verdict)}" if level else "."
        return f"{alone}{doubt}"
    if level:
        pair = verdict.pair(first, level[0])
        return (
            f"No difference is shown between {first} and {_any_of(level, others)}"
            f"{interval(pair, in_full=True)}{_beaten(others, level)}.{_power(verdict)}"
        )
    pair = verdict.pair(first, others[0])
    sooner = number(pair.ratio.ratio)
    return (
        f"On this task {first} reaches the target {sooner} times sooner than "
        f"{others[0]}{interval(pair)}{_rest(others)}."
    )


def notes(verdict: Verdict, settings: Settings) -> list[str]:
    """Sentences on what limits the verdict."""
    found = []
    if verdict.learning_rate is not None:
        found.append(
            f"All schemes are seen at the learning rate {verdict.learning_rate:g}, "
            "which favours those that it happens to suit."
        )
    edge = [s.scheme for s in verdict.ranking if s.at_edge and s.reached]
    if edge:
        found.append(
            f"The best rate of {listed(edge)} lies at the edge of the grid, so that a "
            "better one may lie outside."
        )
    for scheme, rates in verdict.missing.items():
        found.append(
            f"{scheme} was not tuned with equal budget: it has no run at "
            f"{', '.join(f'{rate:g}' for rate in rates)}."
        )
    if verdict.tuning_runs < verdict.planned:
        found.append(
            f"Only {verdict.tuning_runs} of {verdict.planned} planned runs are "
            "finished."
        )
    if settings.stopped is not None and settings.stopped < settings.steps:
        found.append(
            f"No run is seen beyond step {settings.stopped}, {settings.stop_at:g} "
            "times the fastest time on the seeds that tune, where what is slower "
            "counts as a miss."
        )
    if settings.settled is not None:
        rounds = "1 round" if settings.rounds == 1 else f"{settings.rounds} rounds"
        found.append(
            f"After {rounds} of seeds the winner is "
            f"{'' if settings.settled else 'not '}settled at 95 % confidence over all "
            "rounds."
        )
    several = [f"{k} {v}" for k, v in settings.versions.items() if " or " in v]
    if several:
        found.append(f"Runs were made by several versions: {listed(several)}.")
    found += _unresolved(verdict, settings)
    found += _rarely_reached(verdict)
    found += _other_order(verdict.ranking)
    first = verdict.rows[0]
    if len(verdict.rows) > 1 and first.summary.reached:
        count = round(first.gone.share * first.summary.seeds)
        found.append(
            f"{first.summary.scheme} diverged in {count} of {first.summary.seeds} runs "
            f"at its rate, where up to {first.gone.high:.0%} remain possible (95 %)."
        )
    return found


def profile(times: Mapping[str, np.ndarray]) -> str:
    """What a performance profile says.

    Args:
        times: scheme to (tasks,) steps to target; infinity a miss.
    """
    table = np.array(list(times.values()))
    tasks = table.shape[1]
    best = table.min(axis=0)
    fastest = ((table == best) & np.isfinite(table)).sum(axis=1)
    if not fastest.any():
        return f"No scheme reaches the target on any of {tasks} tasks."
    leader = int(fastest.argmax())
    name = list(times)[leader]
    tied = ((table == best).sum(axis=0) > 1) & (table[leader] == best)
    ties = ", ties counted" if (tied & np.isfinite(best)).any() else ""
    first = f"{name} is the fastest on {fastest[leader]} of {tasks} tasks{ties}"
    worst = float(np.max(table[leader] / np.where(np.isinf(best), 1, best)))
    if math.isinf(worst):
        missed = int(np.isinf(table[leader]).sum())
        return f"{first}, and misses the target on {missed}."
    return (
        f"{first}, and takes at most {number(worst)} times as long as the fastest on "
        "any of them."
    )


def across_optimizers(across: AcrossOptimizers) -> str:
    """Whether the winner changes from one optimizer to another."""
    parts = [
        f"under {optimizer(each)} {_winner(verdict)}"
        for each, verdict in across.verdicts.items()
    ]
    found = "; ".join(parts)
    winners = set(across.winners.values())
    if across.turned:
        turns = [
            f"{t.first} is faster than {t.second} under {optimizer(t.under)} and "
            f"slower under {optimizer(t.against)}"
            for t in across.turned
        ]
        said = f"The order changes: {'; '.join(turns)}."
    elif len(winners) == 1 and None not in winners:
        said = "The winner is the same under each of them."
    else:
        said = "No two schemes are shown to change their order."
    return f"{found[0].upper()}{found[1:]}. {said}"


def _winner(verdict: Verdict) -> str:
    """Who wins under an optimizer, as the end of a sentence."""
    first, *others = verdict.order
    if not any(row.summary.reached for row in verdict.rows):
        return "no scheme reaches the target"
    if not others:
        return f"{first} reaches it and is alone"
    if verdict.level_with_first or not verdict.pairs:
        level = verdict.level_with_first or others
        return f"no difference is shown between {first} and {_any_of(level, others)}"
    ratio = number(verdict.pair(first, others[0]).ratio.ratio)
    return f"{first} wins, {ratio} times sooner at the target than {others[0]}"


def over_tasks(standings: Sequence[Standing], tasks: int) -> str:
    """What stands below a table of standings."""
    baseline = next(each.scheme for each in standings if each.sooner is None)
    return (
        f"Over {tasks} tasks, each scheme at its best rate on each. Speed: the median "
        f"steps of {baseline} over a run's, a miss 0, as the interquartile mean of all "
        "runs. Sooner: how often a run is sooner at the target than one of "
        f"{baseline}, ties counted half, mean over tasks. In brackets, 95 % intervals "
        "by resampling runs within tasks: they hold for these tasks, and are too "
        "narrow where runs are few."
    )


def _beaten(others: Sequence[str], level: Sequence[str]) -> str:
    beaten = len(others) - len(level)
    return f"; the other {beaten} are shown to be slower" if beaten > 1 else ""


def _rest(others: Sequence[str]) -> str:
    if len(others) == 1:
        return ""
    return f", the next of {len(others)} that it is shown to beat"


def interval(pair: Comparison, in_full: bool = False) -> str:
    """The interval of a pair, in brackets; in full, also the ratio's meaning."""
    ratio = pair.ratio
    if math.isnan(ratio.low):
        return f" ({_seeds(ratio.pairs)} in common: no interval)"
    bounds = f"95 % interval {number(ratio.low)} to {number(ratio.high)}"
    if not in_full:
        return f" ({bounds})"
    times = f"{pair.faster} {number(ratio.ratio)} times sooner than {pair.slower}"
    if pair.p_value > LEVEL and not ratio.low <= 1 <= ratio.high:
        bounds += f" for this pair alone, p = {pair.p_value:.2f} among all pairs"
    return f" ({times}, {bounds})"


def _power(verdict: Verdict) -> str:
    """What the seeds could have shown, as a sentence after another."""
    power = verdict.power
    if power is None:
        return ""
    also = (
        f" and {power.larger:g} times in {power.larger_chance:.0%}"
        if power.larger is not None
        else ""
    )
    return (
        f" By the spread seen here, {power.seeds} seeds show a difference of "
        f"{power.factor:g} times in {power.chance:.0%} of sweeps{also}; about "
        f"{power.needed} seeds show {power.factor:g} times in 80%."
    )


def _unresolved(verdict: Verdict, settings: Settings) -> list[str]:
    """Where the target is too easy for the clock."""
    found, every = [], settings.eval_every
    before = [row.summary.scheme for row in verdict.rows if row.before]
    if before:
        found.append(
            f"{listed(before)} met the target before the first step, which counts as "
            f"step {every}; a harder target tells more."
        )
    at_first = [
        row.summary.scheme
        for row in verdict.rows
        if 2 * row.at_first > row.summary.seeds and row.summary.scheme not in before
    ]
    if at_first:
        found.append(
            f"Most runs of {listed(at_first)} are at the target at the first "
            f"evaluation, step {every}, so that times below it are not told apart; "
            "evaluate more often (eval_every) or set a harder target."
        )
    return found


def _rarely_reached(verdict: Verdict) -> list[str]:
    """Where a scheme reaches the target in some of its runs only."""
    some = [row for row in verdict.rows if 0 < row.reached.share < 1]
    shares = [
        f"{row.summary.scheme} in {row.summary.reached} of {row.summary.seeds} "
        f"({row.reached.low:.0%} to {row.reached.high:.0%})"
        for row in some
    ]
    if not shares:
        return []
    return [
        f"Not every run reaches the target: {listed(shares)}. The others count as the "
        "budget, so that a ratio says less than a longer budget would."
    ]


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"


def _any_of(names: Sequence[str], others: Sequence[str]) -> str:
    if len(names) > 3:
        which = "the" if len(names) == len(others) else f"{len(names)} of the"
        return f"any of {which} {len(others)} others"
    return listed(names, "or")


def _other_order(ranking: Sequence[SchemeSummary]) -> list[str]:
    """A sentence where the order in seconds is not that in steps."""
    timed = [
        (each.steps_to_target.median, each.seconds_to_target.median, each.scheme)
        for each in ranking
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
        f"With the time to draw the initialization counted, {ahead} reaches the target "
        f"after {duration(sooner)} and {behind} after {duration(later)} (medians), "
        "which is not their order in steps."
    ]
