"""A sweep on disk: `DIR/runs/*.parquet`, a row for each run, and `DIR/sweep.json`.

A run has a name made of all that decides its numbers, so that a folder grows by runs
that it lacks: more seeds, schemes and learning rates of the same task and settings.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import os
import pathlib
import uuid
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxinit.compare.store.settings import Settings
from jaxinit.compare.store.sweep import SCHEMA, Sweep
from jaxinit.compare.train import signal


def claim(out: pathlib.Path, settings: Settings) -> Settings:
    """Make `out` the folder of the sweep with these settings, or add to it.

    Args:
        out: the folder, new, empty, or of a sweep that agrees in what decides or reads.
        settings: of the sweep.

    Returns:
        The settings of all that the folder then is for.

    Raises:
        FileExistsError: it holds anything else already, such as runs of other code;
            nothing is touched then.
    """
    marker = out / "sweep.json"
    taken = out.exists() and (not out.is_dir() or any(map(_shown, out.iterdir())))
    if marker.is_file():  # asked last, for another process may have just made it
        settings = _joined(out, read_settings(out), settings)
    elif taken:
        raise FileExistsError(
            f"{out} exists and holds no sweep of jaxinit; choose a new or empty folder "
            "with --out."
        )
    out.mkdir(parents=True, exist_ok=True)
    _write(marker, settings)
    return settings


def _shown(path: pathlib.Path) -> bool:
    """Whether it is no file in the making."""
    return not path.name.startswith(".")


def read_settings(out: str | os.PathLike[str]) -> Settings:
    """The settings of a folder of results.

    Raises:
        FileNotFoundError: the folder holds no sweep.
        ValueError: its settings are damaged, or of another version.
    """
    marker = pathlib.Path(out) / "sweep.json"
    if not marker.is_file():
        raise FileNotFoundError(
            f"{out} is no folder of a sweep: it has no sweep.json; give the folder "
            "that jaxinit compare wrote."
        )
    try:
        content = json.loads(marker.read_text())
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
    except (OSError, ValueError) as error:
        raise ValueError(f"{marker} cannot be read: {_reason(error)}.") from error
    try:
        return Settings.from_json(content)
    except ValueError as error:
        raise ValueError(f"{marker} {error}") from None


def _joined(out: str | os.PathLike[str], old: Settings, new: Settings) -> Settings:
    """The settings of two sweeps that may share a folder."""
    for name, there, here in old.differences(new):
        raise FileExistsError(
            f"{out} holds the results of another sweep: {name} is {there!r} there "
            f"and {here!r} here; choose another folder with --out."
        )
    changed = old.changed(new)
    schemes = [] if changed else old.changed_schemes(new)
    runs = _count(out, schemes if schemes else None) if changed or schemes else 0
    if runs:
        raise FileExistsError(
            f"{out} holds {runs} {'run' if runs == 1 else 'runs'} of other code or "
            f"data: {differing(changed, schemes)}; choose another folder with out= "
            "(--out), or set them aside and make them again with redo=True (--redo)."
        )
    return dataclasses.replace(old, parts=new.parts).union(new)


def differing(parts: Sequence[str], schemes: Sequence[str] = ()) -> str:
    """The end of a sentence: which parts of code and data differ."""
    named = [part if part == "jaxinit" else f"the {part}" for part in parts]
    named += [f"the scheme {scheme}" for scheme in schemes]
    several = len(named) > 1 or named == ["the data"]
    listed = " and ".join(filter(None, (", ".join(named[:-1]), named[-1])))
    return f"{listed} {'differ' if several else 'differs'}"


def _count(out: str | os.PathLike[str], schemes: Collection[str] | None) -> int:
    """How many runs a folder holds, of some schemes or all."""
    rows = [row for t in _readable(out, ["run_id", "scheme"]) for row in t.to_pylist()]
    among = [row for row in rows if schemes is None or row["scheme"] in schemes]
    return len({row["run_id"] for row in among})


def set_aside(out: pathlib.Path, settings: Settings) -> None:
    """Move what a sweep has left to a folder within: `aside-1`, `aside-2`, and so on.

    There it can be reported as before, and nothing else looks at it.

    Args:
        out: the folder; one that holds no sweep is left as it is.
        settings: of the sweep that takes its place.
    """
    marker = out / "sweep.json"
    if not marker.is_file():
        return
    taken = {path.name for path in out.glob("aside-*")}
    number = next(n for n in itertools.count(1) if f"aside-{n}" not in taken)
    aside = out / f"aside-{number}"
    aside.mkdir()
    write_atomically(aside / marker.name, marker.read_bytes())
    for name in ("runs", "checkpoints", "signal.json", "summary.json"):
        if (out / name).exists():
            (out / name).replace(aside / name)
    _write(marker, settings)


def _write(marker: pathlib.Path, settings: Settings) -> None:
    write_atomically(marker, json.dumps(settings.to_json(), indent=2).encode())


def read_sweep(folder: str | os.PathLike[str]) -> Sweep:
    """The sweep in a folder.

    Args:
        folder: with `sweep.json` and `runs/`, as `compare` writes it.

    Raises:
        FileNotFoundError: it holds no sweep, or no finished run.
        ValueError: its files are damaged, or do not belong together.
    """
    folder = pathlib.Path(folder)
    settings = read_settings(folder)
    try:
        runs = read_runs(folder)
    except (ValueError, TypeError, pa.ArrowException) as error:
        raise ValueError(f"{folder} cannot be read: {_reason(error)}.") from error
    if not runs.num_rows:
        raise FileNotFoundError(f"{folder} holds no finished runs; run the sweep.")
    strange = set(runs["scheme"].to_pylist()) - set(settings.schemes)
    if strange:
        raise ValueError(
            f"{folder} holds runs of {', '.join(sorted(strange))}, which its "
            "sweep.json does not list; they are of another sweep."
        )
    return Sweep(runs, settings, _seconds(folder), read_signals(folder))


def read_signals(folder: str | os.PathLike[str]) -> dict[str, list[signal.LayerSignal]]:
    """The signals at step 0 that a sweep left in a folder, none where it did not."""
    try:
        text = (pathlib.Path(folder) / "signal.json").read_text()
        return signal.from_json(json.loads(text))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _seconds(folder: pathlib.Path) -> float:
    """How long the sweep took, as its summary says; NaN where it does not."""
    try:
        return float(json.loads((folder / "summary.json").read_text())["seconds"])
    except (OSError, ValueError, TypeError, KeyError):
        return math.nan


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".")


def write_runs(out: pathlib.Path, runs: pa.Table) -> None:
    """Add the runs that the folder lacks."""
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
    return sorted_runs(pa.concat_tables(tables), read_settings(out).schemes)


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
) -> Sweep:
    """Join the runs of several folders, made on several machines, in one.

    Args:
        sources: folders of the same sweep, or of parts of it.
        out: where the runs go; may be one of them, or hold some of them already.

    Returns:
        The whole sweep.

    Raises:
        FileExistsError: the folders are of different sweeps.
        ValueError: a run is in two of them with different numbers.
    """
    out = pathlib.Path(out)
    tables = [read_runs(source) for source in sources]
    whole = read_settings(sources[0])
    for source in sources[1:]:
        whole = _joined(source, whole, read_settings(source))
    if (out / "sweep.json").is_file() and finished(out):
        tables.append(read_runs(out))
    together = pa.concat_tables(tables)
    _check_agreement(together)
    whole = claim(out, whole)
    write_runs(out, sorted_runs(together, whole.schemes))
    return Sweep(read_runs(out), whole)


def _check_agreement(runs: pa.Table) -> None:
    seen: dict[str, Any] = {}
    for row in runs.to_pylist():
        if not same_numbers(seen.setdefault(row["run_id"], row), row):
            raise ValueError(
                f"run {row['run_id']} ({row['scheme']}, learning rate "
                f"{row['learning_rate']:g}, seed {row['seed']}) is there twice with "
                "different losses; the folders come from different code or data."
            )


def same_numbers(run: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two rows have one curve, but for the rounding of different devices."""
    curves = (np.array(row["train_loss"], float) for row in (run, other))
    return bool(np.allclose(*curves, rtol=1e-2, atol=1e-4, equal_nan=True))


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
