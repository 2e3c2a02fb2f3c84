"""From runs to what one says of a scheme."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pyarrow as pa


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
            a better one may lie outside.
        steps_to_target: optimizer steps; infinity where the target was missed.
        reached: runs that reached the target, of `seeds`.
        seeds: runs at the best rate.
        final_train_loss: nats, mean over the last segment; infinity where diverged.
        final_valid_loss: nats; infinity where diverged.
        final_valid_accuracy: fraction; 0 where diverged.
        diverged: diverged runs at all learning rates, of `runs`.
        runs: runs of the scheme.
    """

    scheme: str
    learning_rate: float
    at_edge: bool
    steps_to_target: Quartiles
    reached: int
    seeds: int
    final_train_loss: Quartiles
    final_valid_loss: Quartiles
    final_valid_accuracy: Quartiles
    diverged: int
    runs: int


def rank(runs: pa.Table) -> list[SchemeSummary]:
    """Every scheme at its best learning rate, the fastest first.

    By median steps to target, then by median final training loss.
    """
    schemes = dict.fromkeys(runs["scheme"].to_pylist())
    summaries = [_summary(runs, scheme) for scheme in schemes]
    return sorted(
        summaries, key=lambda s: (s.steps_to_target.median, s.final_train_loss.median)
    )


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


def _summary(runs: pa.Table, scheme: str) -> SchemeSummary:
    mine = runs.filter(pa.array(np.array(runs["scheme"].to_pylist()) == scheme))
    rates = sorted(set(mine["learning_rate"].to_pylist()))
    candidates = [(_at(mine, scheme, rate), rate) for rate in rates]
    (steps, train_loss, at), best = min(
        candidates, key=lambda c: (c[0][0].median, c[0][1].median)
    )
    reached = finite_column(at, "steps_to_target", math.inf) < math.inf
    return SchemeSummary(
        scheme=scheme,
        learning_rate=best,
        at_edge=len(rates) > 1 and best in (rates[0], rates[-1]),
        steps_to_target=steps,
        reached=int(reached.sum()),
        seeds=at.num_rows,
        final_train_loss=train_loss,
        final_valid_loss=quartiles(finite_column(at, "final_valid_loss", math.inf)),
        final_valid_accuracy=quartiles(finite_column(at, "final_valid_accuracy", 0.0)),
        diverged=mine["status"].to_pylist().count("diverged"),
        runs=mine.num_rows,
    )


def _at(
    runs: pa.Table, scheme: str, rate: float
) -> tuple[Quartiles, Quartiles, pa.Table]:
    at = at_rate(runs, scheme, rate)
    return (
        quartiles(finite_column(at, "steps_to_target", math.inf)),
        quartiles(finite_column(at, "final_train_loss", math.inf)),
        at,
    )
