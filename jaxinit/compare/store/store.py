"""Finished runs on disk: `DIR/runs/*.parquet`, a row a run, and `DIR/sweep.json`.

A run has a name made of all that decides its numbers, so that a store grows by runs
that it lacks: more seeds, schemes and learning rates of the same task and settings.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import uuid
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    [
        ("run_id", pa.string()),
        ("task", pa.string()),
        ("scheme", pa.string()),
        ("learning_rate", pa.float64()),
        ("seed", pa.int64()),
        (
            "status",
            pa.string(),
        ),  # "finished", "diverged", or "reached" if it stops then
        ("steps_to_target", pa.int64()),  # null when censored
        ("final_train_loss", pa.float64()),
        ("final_valid_loss", pa.float64()),
        ("final_valid_metric", pa.float64()),
        ("best_valid_metric", pa.float64()),
        ("eval_steps", pa.list_(pa.int64())),
        ("train_loss", pa.list_(pa.float64())),
        ("valid_loss", pa.list_(pa.float64())),
        ("valid_metric", pa.list_(pa.float64())),
        ("init_seconds", pa.float64()),  # null in older stores
        ("step_seconds", pa.float64()),
    ]
)
"""A run's columns; steps count from 0.

The three columns named after accuracy hold the task's validation metric, whatever it
is: an accuracy as a fraction, or what `metric_name` in `sweep.json` says. The best is
the greatest or the least, as `direction` says. Losses by cross-entropy are in nats.

`init_seconds` is what drawing one start by the scheme takes, `step_seconds` a run's
share of a step of all runs that were trained with it: wall-clock of the machine that
`sweep.json` names, without compilation.
"""


GROWING = ("schemes", "learning_rates", "seeds")
"""Settings that a store may have more of later."""

NOTED = ("device", "strategy", "code", "targets", "looks", "settled")
"""Settings that decide no run."""


def claim(out: pathlib.Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Make `out` the folder of the sweep with these settings, or add to it.

    Args:
        out: the folder, new, empty, or of a sweep that differs in schemes, learning
            rates and seeds alone.
        settings: what decides the runs.

    Returns:
        The settings of all that the folder then is for.

    Raises:
        FileExistsError: it holds anything else already; nothing is touched then.
    """
    marker = out / "sweep.json"
    taken = out.exists() and (not out.is_dir() or any(map(_shown, out.iterdir())))
    if marker.is_file():  # asked last, for another process may have just made it
        settings = joined(out, read_settings(out), settings)
    elif taken:
        raise FileExistsError(
            f"{out} exists and holds no sweep of jaxinit; choose a new or empty folder "
            "with --out."
        )
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(marker, json.dumps(settings, indent=2).encode())
    return settings


def _shown(path: pathlib.Path) -> bool:
    """Whether it is no file in the making."""
    return not path.name.startswith(".")


def read_settings(out: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings of a folder of results.

    Raises:
        FileNotFoundError: the folder is no store.
    """
    try:
        return json.loads((pathlib.Path(out) / "sweep.json").read_text())
    except (OSError, ValueError):
        raise FileNotFoundError(
            f"{out} is no folder of a sweep: it has no readable sweep.json."
        ) from None


def joined(
    out: str | os.PathLike[str], old: dict[str, Any], new: dict[str, Any]
) -> dict[str, Any]:
    """The settings of two sweeps that may share a folder."""
    for name in old.keys() | new.keys():
        there, here = old.get(name, new.get(name)), new.get(name, old.get(name))
        if name not in (*GROWING, *NOTED) and there != here:
            raise FileExistsError(
                f"{out} holds the results of another sweep: {name} is {there!r} there "
                f"and {here!r} here; choose another folder with --out."
            )
    return {
        **new,
        **old,
        **{name: new[name] for name in NOTED if name in new},
        "schemes": list(dict.fromkeys([*old["schemes"], *new["schemes"]])),
        "learning_rates": sorted({*old["learning_rates"], *new["learning_rates"]}),
        "seeds": max(old["seeds"], new["seeds"]),
    }


def write_runs(out: pathlib.Path, runs: pa.Table) -> None:
    """Add the runs that the store lacks."""
    known = finished(out)
    fresh = [name not in known for name in runs["run_id"].to_pylist()]
    if any(fresh):
        append_runs(out, runs.filter(pa.array(fresh)))


def append_runs(out: pathlib.Path, runs: pa.Table) -> None:
    """Add runs, in a file of their own, whole or not at all.

    Two processes may do so at once: files of equal names hold the same runs, and a run
    that two files have counts once.
    """
    folder = out / "runs"
    folder.mkdir(exist_ok=True)
    table = runs.cast(SCHEMA)
    names = "".join(sorted(table["run_id"].to_pylist()))
    name = hashlib.sha256(names.encode()).hexdigest()[:16]
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_atomically(folder / f"{name}.parquet", sink.getvalue().to_pybytes())


def finished(out: str | os.PathLike[str]) -> frozenset[str]:
    """The names of the runs in a folder, none if it has none."""
    tables = _readable(out, ["run_id"])
    return frozenset(n for table in tables for n in table["run_id"].to_pylist())


def read_runs(out: str | os.PathLike[str]) -> pa.Table:
    """Every finished run in a folder of results, by scheme, learning rate and seed.

    A file that cannot be read is set aside under another name, with a warning; its
    runs count as not made.

    Raises:
        FileNotFoundError: the folder holds no runs.
    """
    tables = _readable(out)
    if not tables:
        raise FileNotFoundError(f"{out} holds no finished runs under {out}/runs.")
    listed = read_settings(out).get("schemes", ())
    return sorted_runs(pa.concat_tables(tables), listed)


def sorted_runs(runs: pa.Table, schemes: Sequence[str]) -> pa.Table:
    """The runs, each once, by scheme as listed, learning rate and seed."""
    place = {scheme: k for k, scheme in enumerate(schemes)}
    rows = zip(
        *(runs[n].to_pylist() for n in ("run_id", "scheme", "learning_rate", "seed")),
        strict=True,
    )
    first: dict[str, tuple[Any, int]] = {}
    for index, (name, scheme, rate, seed) in enumerate(rows):
        first.setdefault(name, ((place.get(scheme, len(place)), rate, seed), index))
    return runs.take([index for _, index in sorted(first.values())])


def merge(
    sources: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]
) -> pa.Table:
    """Join the runs of several folders, made on several machines, in one.

    Args:
        sources: folders of the same sweep, or of parts of it.
        out: where the runs go; may be one of them, or hold some of them already.

    Returns:
        All runs.

    Raises:
        FileExistsError: the folders are of different sweeps.
        ValueError: a run is in two of them with different numbers.
    """
    out = pathlib.Path(out)
    tables = [read_runs(source) for source in sources]
    settings = [read_settings(source) for source in sources]
    whole = settings[0]
    for source, each in zip(sources[1:], settings[1:], strict=True):
        whole = joined(source, whole, each)
    if (out / "sweep.json").is_file() and finished(out):
        tables.append(read_runs(out))
    together = pa.concat_tables(tables)
    _check_agreement(together)
    claim(out, whole)
    write_runs(out, sorted_runs(together, whole["schemes"]))
    return read_runs(out)


def _check_agreement(runs: pa.Table) -> None:
    seen: dict[str, np.ndarray] = {}
    for row in runs.to_pylist():
        curve = np.array(row["train_loss"], float)
        known = seen.setdefault(row["run_id"], curve)
        if not np.allclose(known, curve, rtol=1e-2, atol=1e-4, equal_nan=True):
            raise ValueError(
                f"run {row['run_id']} ({row['scheme']}, learning rate "
                f"{row['learning_rate']:g}, seed {row['seed']}) is there twice with "
                "different losses; the folders come from different code or data."
            )


def _readable(
    out: str | os.PathLike[str], columns: list[str] | None = None
) -> list[pa.Table]:
    tables = []
    for file in sorted((pathlib.Path(out) / "runs").glob("*.parquet")):
        try:
            schema = SCHEMA if columns is None else None
            tables.append(pq.read_table(file, columns=columns, schema=schema))
        except (pa.ArrowException, OSError) as error:
            if not file.exists():
                continue  # another process has just set it aside
            aside = file.with_suffix(".corrupt")
            file.replace(aside)
            warnings.warn(
                f"{file} cannot be read ({type(error).__name__}); it is set aside as "
                f"{aside.name}, and its runs count as not made.",
                stacklevel=3,
            )
    return tables


def write_atomically(path: pathlib.Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, readable as any other."""
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(unfinished, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
