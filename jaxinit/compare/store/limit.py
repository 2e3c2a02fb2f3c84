"""How far runs are trained: to a multiple of the time of the fastest scheme.

Whoever is not at the target by then has lost, and training on shows only by how much.
The fastest time is the first step by which all seeds that tune are at the target, of
some scheme at some learning rate, none of them diverged by the multiple of it. It is
the same whichever runs are made first, and a run that is made early, while nothing is
known, is only longer than it is read.

Misses at the end are censored like those at the budget. Pairs of schemes that are never
seen at the target then count in Holm's number all the same: left out, as they are where
runs have the whole budget, two leaders that are alike would be told apart in 6 to 10 %
of sweeps. In simulated sweeps of six schemes like the default one
(`benchmarks/inference.py`), of which two lead, false calls are 1.5 to 3.2 % at 1.5 to
3 times, rates chosen as by default, and a factor of 1.27 is shown in 63 to 69 %, where
77 to 82 % without an end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxinit.compare.store.settings import Settings
from jaxinit.compare.train.trainer import Run


class Limit:
    """What the runs that tune have shown of how far others are trained."""

    def __init__(self, settings: Settings) -> None:
        """Of a sweep, before any of its runs is known."""
        self._settings = settings
        self._reached: dict[Run, int] = {}
        self._gone: dict[Run, int] = {}

    def saw(
        self,
        step: int,
        runs: Sequence[Run],
        reached: Iterable[bool],
        diverged: Iterable[bool],
    ) -> None:
        """Take an evaluation of some runs; those after a run's first say nothing new.

        Args:
            step: of the evaluation; later ones of a run come later.
            runs: those that are evaluated.
            reached: (runs,), whether they are at the target.
            diverged: (runs,), whether they have diverged.
        """
        if self._settings.stop_at is None:
            return
        for run, hit, dead in zip(runs, reached, diverged, strict=True):
            if run.seed < self._settings.tuning_seeds:
                if dead:
                    self._gone.setdefault(run, step)
                elif hit:
                    self._reached.setdefault(run, step)

    def steps(self, optimizer: str) -> int:
        """How far the runs of an optimizer are trained, a multiple of `eval_every`.

        All steps while no scheme has reached the target at one rate on all seeds.
        """
        settings = self._settings
        if settings.stop_at is None:
            return settings.steps
        seeds: dict[tuple[str, float], list[Run]] = {}
        for run in self._reached:
            if run.optimizer == optimizer:
                seeds.setdefault((run.scheme, run.learning_rate), []).append(run)
        limit = settings.steps
        for runs in seeds.values():
            if len(runs) == settings.tuning_seeds:
                own = self._multiple(max(self._reached[run] for run in runs))
                alive = all(self._gone.get(run, math.inf) > own for run in runs)
                limit = min(limit, own) if alive else limit
        return limit

    def _multiple(self, time: int) -> int:
        """A multiple of a time, up to the next evaluation."""
        every, factor = self._settings.eval_every, self._settings.stop_at or 1.0
        return every * math.ceil(factor * max(time, every) / every - 1e-9)


def limit_of(settings: Settings, rows: Sequence[dict[str, Any]]) -> Limit:
    """What finished runs show.

    Args:
        settings: of the sweep, for the target that it was made for.
        rows: of the runs, with the columns of their curves.
    """
    found = Limit(settings)
    made_for = settings.target if settings.made_for is None else settings.made_for
    for row in rows:
        run = Run.of(row)
        metric = np.array(row["valid_metric"], float)
        sign = 1 if settings.direction == "max" else -1
        hits: list[bool] = np.greater_equal(sign * metric, sign * made_for).tolist()
        losses = np.array([row["train_loss"], row["valid_loss"]], float)
        alives: list[bool] = np.all(np.isfinite(losses), axis=0).tolist()
        for step, reached, alive in zip(row["eval_steps"], hits, alives, strict=True):
            found.saw(step, [run], [reached], [not alive])
    return found
