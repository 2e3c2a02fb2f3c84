"""Other targets than a sweep was made for, read from the curves that it stored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from jaxinit import _checks
from jaxinit.compare.stats import summary as stats
from jaxinit.compare.stats import verdict

_OF_ONE_TARGET = ("looks", "settled", "target_of")
"""Settings that say nothing about another target."""


def at_target(
    runs: pa.Table, settings: Mapping[str, Any], target: float
) -> tuple[pa.Table, dict[str, Any]]:
    """A sweep as it would be with another target.

    A run reaches the target at its first evaluation with the metric at the target or
    better; a diverged run never does. That is the rule by which a sweep is made, so
    that the target it was made for gives its own steps again.

    Args:
        runs: a row a run, of one task; the columns are those of `store.SCHEMA`.
        settings: of the sweep.
        target: of the task's metric.

    Returns:
        Runs and settings. The setting `made_for_target` keeps the sweep's own.

    Raises:
        ValueError: the target is no value of the metric, or harder than that at which
            the runs stopped.
    """
    _check(runs, settings, target)
    if target == settings["target"]:
        return runs, dict(settings)
    columns = ("valid_metric", "eval_steps", "status")
    rows = zip(*(runs[name].to_pylist() for name in columns), strict=True)
    steps = [
        None if status == "diverged" else _first(curve, when, settings, target)
        for curve, when, status in rows
    ]
    place = runs.schema.get_field_index("steps_to_target")
    made_for = _made_for(settings)
    kept = {k: v for k, v in settings.items() if k not in _OF_ONE_TARGET}
    return (
        runs.set_column(place, "steps_to_target", pa.array(steps, pa.int64())),
        kept | {"target": target, "made_for_target": made_for},
    )


def target_of(runs: pa.Table, settings: Mapping[str, Any], scheme: str) -> float:
    """The target by a rule: what a scheme reaches at its best learning rate.

    Of a rate, the value that half of its runs or more reach: the median over seeds,
    and the easier of the two in the middle, of a run's best value of the metric, a
    diverged run the worst. The target is the best such value over all rates. Where
    seeds tune, it is of these alone, so that it does not lean on the runs it scores.

    Args:
        runs: a row a run, of one task; the columns are those of `store.SCHEMA`.
        settings: of the sweep.
        scheme: one of the sweep.

    Returns:
        The target, in the unit of the metric.

    Raises:
        ValueError: the scheme is unknown, or half of its runs or more diverge or
            learn nothing at every rate.

    References:
        Dahl et al. 2023, arXiv:2306.07179, section 4 (targets from the best tuned
        baseline's median).
    """
    scheme = verdict.scheme_named("target_of", scheme, settings["schemes"])
    tuning, _ = verdict.parts(runs, settings)
    sign = 1 if settings["direction"] == "max" else -1
    mine = tuning.filter(pa.array(np.array(tuning["scheme"].to_pylist()) == scheme))
    best = start = -math.inf
    for rate in sorted(set(mine["learning_rate"].to_pylist())):
        at = stats.at_rate(mine, scheme, rate)
        values = sign * stats.finite_column(at, "best_valid_metric", -sign * math.inf)
        starts = [sign * curve[0] for curve in at["valid_metric"].to_pylist()]
        start = max(start, float(np.median(starts)))
        best = max(best, float(np.quantile(values, 0.5, method="lower")))
    if not best > start:
        raise ValueError(
            f"report: the median run of {scheme} learns nothing at any learning rate; "
            "take the target of another scheme."
        )
    return sign * best


def _check(runs: pa.Table, settings: Mapping[str, Any], target: float) -> None:
    _checks.number("report", target=target)
    if settings["metric_name"] == "accuracy" and not 0 < target <= 1:
        raise ValueError(
            f"report: target={target!r} must be an accuracy, above 0 and at most 1."
        )
    stopped = settings.get("stop_at_target") or "reached" in runs["status"].to_pylist()
    made_for = _made_for(settings)
    sign = 1 if settings["direction"] == "max" else -1
    if stopped and sign * target > sign * made_for:
        raise ValueError(
            f"report: the runs stopped at the target {made_for:g}, so that nothing is "
            f"known of the harder {target:g}; run the sweep without stopping."
        )


def _made_for(settings: Mapping[str, Any]) -> float:
    return settings.get("made_for_target", settings["target"])


def _first(
    curve: list[float], when: list[int], settings: Mapping[str, Any], target: float
) -> int | None:
    """The first step at which a curve is at the target, which NaN never is."""
    values = np.array(curve, dtype=float)
    up = settings["direction"] == "max"
    reached = values >= target if up else values <= target
    return when[int(reached.argmax())] if reached.any() else None
