"""Statistics on small cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from jaxinit.compare import stats
from jaxinit.compare.store import SCHEMA

INF = math.inf


def runs(*rows):
    """Rows (scheme, rate, seed, steps or None, final loss), an inf loss diverged."""
    columns = {name: [] for name in SCHEMA.names}
    for scheme, rate, seed, steps, loss in rows:
        values = {
            "run_id": f"{scheme}{rate}{seed}",
            "task": "t",
            "scheme": scheme,
            "learning_rate": rate,
            "seed": seed,
            "status": "finished" if math.isfinite(loss) else "diverged",
            "steps_to_target": steps,
            "final_train_loss": loss,
            "final_valid_loss": loss + 1,
            "final_valid_accuracy": 0.5,
            "best_valid_accuracy": 0.6,
            **{name: [] for name in SCHEMA.names[11:]},
        }
        for name, value in values.items():
            columns[name].append(value)
    return pa.table(columns, schema=SCHEMA)


def test_rank_by_steps_then_by_loss():
    table = runs(
        *[("slow", 0.1, seed, steps, 0.1) for seed, steps in enumerate((50, 60, 90))],
        *[("slow", 0.3, seed, steps, 0.1) for seed, steps in enumerate((40, 80, 99))],
        *[("fast", 0.1, seed, steps, 0.2) for seed, steps in enumerate((30, 10, 20))],
        *[("never", 0.1, seed, None, 0.9) for seed in range(3)],
        *[("lower", 0.1, seed, None, 0.8) for seed in range(3)],
        *[("dead", 0.1, seed, None, INF) for seed in range(3)],
    )
    ranking = stats.rank(table)
    assert [s.scheme for s in ranking] == ["fast", "slow", "lower", "never", "dead"]
    fast, slow = ranking[:2]
    assert fast.steps_to_target == (20, 20, 30)
    assert (slow.learning_rate, slow.steps_to_target.median) == (0.1, 60)
    assert slow.at_edge and not fast.at_edge  # one rate has no edge
    assert ranking[3].steps_to_target.median == INF and ranking[3].reached == 0
    assert ranking[4].diverged == 3 and ranking[4].final_train_loss.median == INF


def test_a_miss_counts_as_never_and_a_diverged_run_as_worst():
    table = runs(
        ("a", 0.1, 0, 10, 0.1),
        ("a", 0.1, 1, None, 0.5),
        ("a", 0.1, 2, None, INF),
        ("a", 0.2, 0, 30, 0.2),
        ("a", 0.2, 1, 30, 0.2),
        ("a", 0.2, 2, None, 0.2),
        ("a", 0.4, 0, None, 9.0),
        ("a", 0.4, 1, None, 9.0),
        ("a", 0.4, 2, None, 9.0),
    )
    (a,) = stats.rank(table)
    assert a.learning_rate == 0.2 and not a.at_edge
    assert a.steps_to_target == (30, 30, INF)
    assert (a.reached, a.seeds, a.diverged, a.runs) == (2, 3, 1, 9)
    assert a.final_train_loss == (0.2, 0.2, 0.2)
    assert a.final_valid_loss.median == pytest.approx(1.2)


def test_quartiles_are_observed_values():
    assert stats.quartiles(np.array([4.0, 1.0, INF, 2.0, 3.0])) == (2.0, 3.0, 4.0)
    assert stats.quartiles(np.array([7.0])) == (7.0, 7.0, 7.0)
