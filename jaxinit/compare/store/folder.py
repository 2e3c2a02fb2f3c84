"""A sweep on disk: `DIR/runs/*.parquet`, a row for each run, and `DIR/sweep.json`.

A run has a name made of all that decides its numbers, so that a folder grows by runs
that it lacks: more seeds, schemes and learning rates of the same task and settings.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import pathlib
import warnings
from collections.abc import Collection, Sequence
from typing import Any

import pyarrow as pa

from jaxinit.compare import files
from jaxinit.compare.store import run_file
from jaxinit.compare.store.agreement import difference
from jaxinit.compare.store.identity import run_id
from jaxinit.compare.store.run_file import RunFile
from jaxinit.compare.store.settings import Settings
from jaxinit.compare.store.signal_file import read_signals, write_signals
from jaxinit.compare.store.sweep import Sweep
from jaxinit.compare.train.trainer import Run


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
        settings = _rebuilt(out, settings)
    out.mkdir(parents=True, exist_ok=True)
    _write(marker, settings)
    return settings


def _rebuilt(out: pathlib.Path, settings: Settings) -> Settings:
    """The settings of a folder whose sweep.json is gone, if its runs are of the sweep.

    A run's name says so, which is made of all that decides its numbers.

    Raises:
        FileExistsError: the folder holds no run, or one of another sweep.
    """
    rows: list[dict[str, Any]] = []
    try:
        for file in _paths(out):
            rows += run_file.read(file).runs.to_pylist()
    except (OSError, ValueError):
        rows.clear()  # whatever it is, it is left as it is
    runs = [Run.of(row) for row in rows]
    names = [run_id(settings, *run) for run in runs]
    if not rows or names != [row["run_id"] for row in rows]:
        raise FileExistsError(
            f"{out} exists and holds no sweep of jaxinit; choose a new or empty folder "
            "with --out."
        )
    schemes, optimizers, _, seeds = map(dict.fromkeys, zip(*runs, strict=True))
    there = dataclasses.replace(
        settings,
        schemes=tuple(schemes),
        optimizers=tuple(optimizers),
        seeds=max(0, max(seeds) + 1 - settings.tuning_seeds),
        rounds=1,
    )
    grids = {
        each: tuple(sorted({r.learning_rate for r in runs if r.optimizer == each}))
        for each in optimizers
    }
    return there.with_grids(grids).union(settings)


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
    except (OSError, ValueError, RecursionError) as error:
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
    optimizers = [] if changed else old.changed_optimizers(new)
    runs = 0
    if changed or schemes or optimizers:
        runs = _count(out, schemes, optimizers, every=bool(changed))
    if runs:
        raise FileExistsError(
            f"{out} holds {runs} {'run' if runs == 1 else 'runs'} of other code or "
            f"data: {differing(changed, schemes, optimizers)}; choose another folder "
            "with out= (--out), or set them aside and make them again with redo=True "
            "(--redo)."
        )
    return dataclasses.replace(old, parts=new.parts).union(new)


def differing(
    parts: Sequence[str], schemes: Sequence[str] = (), optimizers: Sequence[str] = ()
) -> str:
    """The end of a sentence: which parts of code and data differ."""
    named = [part if part == "jaxinit" else f"the {part}" for part in parts]
    named += [f"the scheme {scheme}" for scheme in schemes]
    named += [f"the optimizer {optimizer}" for optimizer in optimizers]
    several = len(named) > 1 or named == ["the data"]
    listed = " and ".join(filter(None, (", ".join(named[:-1]), named[-1])))
    return f"{listed} {'differ' if several else 'differs'}"


def _count(
    out: str | os.PathLike[str],
    schemes: Collection[str],
    optimizers: Collection[str],
    every: bool,
) -> int:
    """How many runs a folder holds, of some schemes and optimizers, or every one."""
    names = {
        row["run_id"]
        for each in _files(out)
        for row in each.runs.select(["run_id", "scheme", "optimizer"]).to_pylist()
        if every or row["scheme"] in schemes or row["optimizer"] in optimizers
    }
    return len(names)


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
    files.write(aside / marker.name, marker.read_bytes())
    for name in ("runs", "checkpoints", "signal.json", "summary.json"):
        if (out / name).exists():
            (out / name).replace(aside / name)
    _write(marker, settings)


def _write(marker: pathlib.Path, settings: Settings) -> None:
    files.write(marker, json.dumps(settings.to_json(), indent=2))


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
    runs = read_runs(folder)
    if not runs.num_rows:
        raise FileNotFoundError(f"{folder} holds no finished runs; run the sweep.")
    for column, known in (
        ("scheme", settings.schemes),
        ("optimizer", settings.optimizers),
    ):
        strange = set(runs[column].to_pylist()) - set(known)
        if strange:
            raise ValueError(
                f"{folder} holds runs of {', '.join(sorted(strange))}, which its "
                "sweep.json does not list; they are of another sweep."
            )
    return Sweep(runs, settings, seconds(folder), read_signals(folder))


def seconds(out: str | os.PathLike[str]) -> float:
    """Wall-clock seconds that the runs of a folder took, in however many sessions.

    NaN where that is not known of all of them, as of runs that were merged.
    """
    return sum(each.seconds for each in _files(out)) or math.nan


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".")


def write_runs(out: pathlib.Path, runs: pa.Table, seconds: float = math.nan) -> None:
    """Add the runs that the folder lacks, which took so many seconds together."""
    known = finished(out)
    fresh = [name not in known for name in runs["run_id"].to_pylist()]
    if any(fresh):
        took = seconds if all(fresh) else math.nan
        append_runs(out, runs.filter(pa.array(fresh)), took)


def append_runs(out: pathlib.Path, runs: pa.Table, seconds: float = math.nan) -> None:
    """Add runs, in a file of their own, whole or not at all.

    Two processes may do so at once: a run that two files have counts once.

    Args:
        out: the folder.
        runs: a row for each run.
        seconds: wall-clock that they took together; NaN if it is not known.
    """
    folder = out / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    run_file.write(folder, RunFile(runs, seconds))


def finished(out: str | os.PathLike[str]) -> frozenset[str]:
    """The names of the runs in a folder, none if it has none.

    Raises:
        ValueError: as `read_runs` does.
    """
    every = _files(out)
    return frozenset(n for each in every for n in each.runs["run_id"].to_pylist())


def read_runs(out: str | os.PathLike[str]) -> pa.Table:
    """Every finished run in a folder of results, by scheme, learning rate and seed.

    Raises:
        FileNotFoundError: the folder holds no runs.
        ValueError: one of its files is damaged, or holds no runs.
        OSError: one of them cannot be read now.
    """
    every = _files(out)
    if not every:
        raise FileNotFoundError(f"{out} holds no finished runs under {out}/runs.")
    runs = pa.concat_tables([each.runs for each in every])
    return sorted_runs(runs, read_settings(out))


def mend(out: str | os.PathLike[str]) -> None:
    """Set aside the damaged files of runs, with a warning, so that they are made again.

    Only a file that we wrote and whose bytes have changed since is damaged. One that
    cannot be read now, or that somebody else has put there, is left alone.

    Args:
        out: the folder of a sweep that is about to be made or added to.
    """
    for file in _paths(out):
        try:
            _read(file)
        except run_file.Damaged as error:
            aside = files.set_aside(file)
            if aside is not None:
                warnings.warn(
                    f"{error}; it is set aside as {aside.name}, and its runs count as "
                    "not made.",
                    stacklevel=2,
                )
        except (ValueError, FileNotFoundError):
            continue  # whoever reads it says so


def sorted_runs(runs: pa.Table, settings: Settings) -> pa.Table:
    """The runs, each once, by scheme and optimizer as listed, rate and seed."""
    schemes, optimizers = (
        {name: k for k, name in enumerate(names)}
        for names in (settings.schemes, settings.optimizers)
    )
    first: dict[str, tuple[Any, int]] = {}
    columns = ["run_id", "scheme", "optimizer", "learning_rate", "seed"]
    for index, row in enumerate(runs.select(columns).to_pylist()):
        name, scheme, optimizer, *rest = row.values()
        place = (
            schemes.get(scheme, len(schemes)),
            optimizers.get(optimizer, len(optimizers)),
        )
        first.setdefault(name, ((*place, *rest), index))
    return runs.take(pa.array([k for _, k in sorted(first.values())], pa.int64()))


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
        FileNotFoundError: a folder is of no sweep, or none of them has a run.
        FileExistsError: the folders are of different sweeps.
        ValueError: a run is in two of them with different numbers.
    """
    out = pathlib.Path(out)
    whole = read_settings(sources[0])
    tables = [each.runs for source in sources for each in _files(source)]
    if not tables:
        listed = ", ".join(map(str, sources))
        raise FileNotFoundError(f"merge: there is no finished run in {listed}.")
    for source in sources[1:]:
        whole = _joined(source, whole, read_settings(source))
    if (out / "sweep.json").is_file() and finished(out):
        tables.append(read_runs(out))
    together = pa.concat_tables(tables)
    _check_agreement(together)
    signals = {}
    for folder in (out, *sources):
        signals = {**read_signals(folder), **signals}
    whole = claim(out, whole)
    write_runs(out, sorted_runs(together, whole))
    signals = {name: signals[name] for name in whole.schemes if name in signals}
    if signals:
        write_signals(out, signals)
    return Sweep(read_runs(out), whole, seconds(out), signals)


def _check_agreement(runs: pa.Table) -> None:
    seen: dict[str, Any] = {}
    for row in runs.to_pylist():
        found = difference(seen.setdefault(row["run_id"], row), row)
        if found is not None:
            raise ValueError(
                f"run {row['run_id']} ({row['scheme']}, {row['optimizer']}, learning "
                f"rate {row['learning_rate']:g}, seed {row['seed']}) is there twice "
                f"with different {found}; the folders come from different code or "
                "data, or one was altered."
            )


def _paths(out: str | os.PathLike[str]) -> list[pathlib.Path]:
    folder = pathlib.Path(out) / "runs"
    try:
        names = os.listdir(folder)  # which says so where it may not, as glob does not
    except FileNotFoundError:
        return []
    return sorted(folder / name for name in names if name.endswith(".parquet"))


def _files(out: str | os.PathLike[str]) -> list[RunFile]:
    """All files of runs, or none.

    Raises:
        ValueError: one is damaged, or holds something else.
        OSError: one cannot be read now.
    """
    found = []
    for file in _paths(out):
        try:
            found.append(_read(file))
        except FileNotFoundError:
            if not os.path.lexists(file):
                continue  # another process has just set it aside
            raise ValueError(f"{file} is a link to nothing; move it away.") from None
        except run_file.Damaged as error:
            raise ValueError(
                f"{error}; jaxinit compare with this folder sets it aside and makes "
                "its runs again, or move it away to see the others."
            ) from error
        except ValueError as error:
            raise ValueError(f"{error}; move it away.") from error
    return found


def _read(file: pathlib.Path) -> RunFile:
    """A file of runs; what keeps it from being read now is said with its name."""
    try:
        return run_file.read(file)
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = error.strerror or _reason(error)
        raise OSError(
            f"{file} cannot be read now ({reason}), and without it the runs would not "
            "be whole; mend that, and do the same again."
        ) from error
    except MemoryError as error:
        raise MemoryError(f"{file} does not fit in memory; free some.") from error
