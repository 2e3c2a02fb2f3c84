"""Several sweeps: schemes side by side on one task, a profile over several tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from jaxinit.compare.stats import summary as stats
from jaxinit.compare.stats.verdict import number

DECIDING = (
    "task_fingerprint",
    "loss_name",
    "metric_name",
    "direction",
    "target",
    "steps",
    "eval_every",
    "batch_size",
    "optimizer",
)
"""Settings that two sweeps over one task must share to be compared."""


class Part(NamedTuple):
    """A sweep among several.

    Attributes:
        name: tells it from the others, such as its folder's name.
        runs: a row a run. settings: as in `sweep.json`.
    """

    name: str
    runs: pa.Table
    settings: Mapping[str, Any]


def joined(parts: Sequence[Part]) -> tuple[pa.Table, dict[str, Any]]:
    """Sweeps over one task as one, their schemes side by side.

    A run that several sweeps have counts once. Where they have one scheme at the same
    rate and seed with other numbers, as of another version, the scheme is named once
    for each sweep, as in `he_normal() [NAME]`.

    Args:
        parts: the sweeps, in the order in which their schemes are listed.

    Returns:
        Runs and settings.

    Raises:
        ValueError: a setting that decides the numbers differs.
    """
    first = parts[0]
    for other in parts[1:]:
        for key in DECIDING:
            a, b = first.settings.get(key), other.settings.get(key)
            if a != b:
                raise ValueError(
                    f"report: {first.name} and {other.name} are of the task "
                    f"{first.settings['task']} but differ in {key}, {a} and {b}, so "
                    "that their steps cannot be compared; run one of them again with "
                    "the other's settings."
                )
    owners: dict[str, str] = {}
    seen: dict[tuple[str, float, int], str] = {}
    clashing = set()
    for part in parts:
        for row in part.runs.select(
            ["run_id", "scheme", "learning_rate", "seed"]
        ).to_pylist():
            owners.setdefault(row["run_id"], part.name)
            place = (row["scheme"], row["learning_rate"], row["seed"])
            if seen.setdefault(place, row["run_id"]) != row["run_id"]:
                clashing.add(row["scheme"])
    tables = []
    for part in parts:
        ids, names = part.runs["run_id"].to_pylist(), part.runs["scheme"].to_pylist()
        kept = [
            owners[run] == part.name or name in clashing
            for run, name in zip(ids, names, strict=True)
        ]
        named = [f"{n} [{part.name}]" if n in clashing else n for n in names]
        column = part.runs.schema.get_field_index("scheme")
        tables.append(
            part.runs.set_column(column, "scheme", pa.array(named)).filter(
                pa.array(kept, pa.bool_())
            )
        )
    runs = pa.concat_tables(tables)
    settings = dict(first.settings)
    settings["schemes"] = list(dict.fromkeys(runs["scheme"].to_pylist()))
    settings["learning_rates"] = sorted(set(runs["learning_rate"].to_pylist()))
    settings["seeds"] = len(set(runs["seed"].to_pylist()))
    for key in ("device", "versions"):
        values = [part.settings.get(key) for part in parts]
        if any(value != values[0] for value in values):
            settings[key] = _apart(key, parts)
            if key == "device":  # seconds of two machines are not to be compared
                runs = _without_seconds(runs)
    return runs, settings


def _without_seconds(runs: pa.Table) -> pa.Table:
    nothing = pa.nulls(runs.num_rows, pa.float64())
    for name in ("init_seconds", "step_seconds"):
        column = runs.schema.get_field_index(name)
        runs = runs.set_column(column, name, nothing)
    return runs


def profile_times(
    rankings: Sequence[Sequence[stats.SchemeSummary]],
) -> dict[str, np.ndarray]:
    """Median steps to target of the schemes that all tasks have.

    Args:
        rankings: a task each.

    Returns:
        Scheme to (tasks,) median steps at its best rate on each; infinity a miss.

    Raises:
        ValueError: no two schemes are common to all tasks.
    """
    medians = [
        {each.scheme: max(each.steps_to_target.median, 1.0) for each in ranking}
        for ranking in rankings
    ]
    common = [name for name in medians[0] if all(name in each for each in medians)]
    if len(common) < 2:
        raise ValueError(
            f"report: the tasks have {len(common)} scheme in common; a profile over "
            "tasks needs two or more."
        )
    return {name: np.array([each[name] for each in medians]) for name in common}


def profile_sentence(times: Mapping[str, np.ndarray]) -> str:
    """What a performance profile says, in plain words."""
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


def _apart(key: str, parts: Sequence[Part]) -> Any:
    """What the sweeps have under a key in which they differ."""
    if key == "device":
        return "; ".join(dict.fromkeys(str(p.settings.get(key)) for p in parts))
    names = dict.fromkeys(n for p in parts for n in p.settings.get(key, {}))
    return {
        name: " or ".join(
            dict.fromkeys(str(p.settings.get(key, {}).get(name)) for p in parts)
        )
        for name in names
    }
