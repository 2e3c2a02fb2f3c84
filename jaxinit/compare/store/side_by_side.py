"""Several sweeps over one task as one, their schemes side by side."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from jaxinit.compare.store.agreement import difference
from jaxinit.compare.store.folder import differing
from jaxinit.compare.store.settings import Settings
from jaxinit.compare.store.sweep import Sweep


def side_by_side(sweeps: Mapping[str, Sweep]) -> Sweep:
    """Sweeps over one task as one.

    A run that several sweeps have counts once. Where they have one scheme at the same
    rate and seed with other numbers, the scheme is named once for each sweep, as in
    `he_normal() [NAME]`.

    Args:
        sweeps: name to sweep, in the order in which their schemes are listed. The name
            tells a sweep from the others, such as its folder's name.

    Returns:
        The sweep; seconds are unknown, as for each run where machines differ.

    Raises:
        ValueError: the sweeps differ in a setting that decides or reads the runs, or
            in their code or data.
    """
    _check(sweeps)
    apart = _apart(sweeps)
    owners: dict[str, str] = {}
    tables = []
    for name, sweep in sweeps.items():
        rows = sweep.runs.select(["run_id", "scheme"]).to_pylist()
        for row in rows:
            owners.setdefault(row["run_id"], name)
        kept = [owners[row["run_id"]] == name or row["scheme"] in apart for row in rows]
        named = [
            f"{row['scheme']} [{name}]" if row["scheme"] in apart else row["scheme"]
            for row in rows
        ]
        column = sweep.runs.schema.get_field_index("scheme")
        table = sweep.runs.set_column(column, "scheme", pa.array(named, pa.string()))
        tables.append(table.filter(pa.array(kept, pa.bool_())))
    runs = pa.concat_tables(tables)
    every = [sweep.settings for sweep in sweeps.values()]
    schemes = tuple(dict.fromkeys(runs["scheme"].to_pylist()))
    settings = functools.reduce(Settings.union, every)
    settings = dataclasses.replace(
        settings, schemes=schemes, settled=None if apart else settings.settled
    )
    return Sweep(runs, settings)


def _check(sweeps: Mapping[str, Sweep]) -> None:
    (first, one), *others = sweeps.items()
    for name, other in others:
        for setting, a, b in one.settings.differences(other.settings):
            raise ValueError(
                f"report: {first} and {name} are of the task {one.settings.task} but "
                f"differ in {setting}, {a} and {b}, so that their steps cannot be "
                "compared; run one of them again with the other's settings."
            )
        if changed := one.settings.changed(other.settings):
            raise ValueError(
                f"report: {first} and {name} are of the task {one.settings.task} but "
                f"of other code or data, for {differing(changed)}, so that their steps "
                "cannot be compared; run one of them again."
            )


def _apart(sweeps: Mapping[str, Sweep]) -> set[str]:
    """The schemes that two sweeps ran at one rate and seed with other numbers."""
    seen: dict[tuple[str, float, int], dict[str, Any]] = {}
    apart = set()
    for sweep in sweeps.values():
        for row in sweep.runs.to_pylist():
            names = ("scheme", "optimizer", "learning_rate", "seed")
            place = tuple(row[name] for name in names)
            first = seen.setdefault(place, row)
            if first["run_id"] != row["run_id"] or difference(first, row):
                apart.add(row["scheme"])
    return apart
