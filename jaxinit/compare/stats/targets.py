"""A target by a rule: what a scheme reaches in the sweep itself."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np

from jaxinit.compare.store.settings import scheme_named
from jaxinit.compare.store.sweep import Sweep


def with_target_of(sweep: Sweep, scheme: str) -> Sweep:
    """The sweep with the target that a scheme reaches by the rule of `target_of`."""
    scheme = scheme_named("target_of", scheme, sweep.settings.schemes)
    found = sweep.with_target(target_of(sweep, scheme))
    settings = dataclasses.replace(found.settings, target_of=scheme)
    return dataclasses.replace(found, settings=settings)


def target_of(sweep: Sweep, scheme: str) -> float:
    """The target by a rule: what a scheme reaches at its best rate and optimizer.

    Of a rate, the value that half of its runs or more reach: the median over seeds,
    and the easier of the two in the middle, of a run's best value of the metric, a
    diverged run the worst. The target is the best such value over all rates and
    optimizers. Where seeds tune, it is of these alone, so that it does not depend on
    the runs it scores.

    Args:
        sweep: over one task.
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
    scheme = scheme_named("target_of", scheme, sweep.settings.schemes)
    sign = 1 if sweep.settings.direction == "max" else -1
    mine = sweep.tuning.of([scheme])
    best = first = -math.inf
    pairs = itertools.product(mine.optimizers, mine.learning_rates)
    for optimizer, rate in pairs:
        at = mine.of(learning_rates=[rate], optimizers=[optimizer])
        if not at.runs.num_rows:
            continue
        values = sign * at.column("best_valid_metric")
        curves = at.runs["valid_metric"].to_pylist()
        first = max(first, float(np.median([sign * curve[0] for curve in curves])))
        best = max(best, float(np.quantile(values, 0.5, method="lower")))
    if not best > first:
        raise ValueError(
            f"report: the median run of {scheme} learns nothing at any learning rate; "
            "take the target of another scheme."
        )
    return sign * best
