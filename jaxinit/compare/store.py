"""Finished runs on disk: `DIR/runs/*.parquet`, a row a run, and `DIR/sweep.json`."""

from __future__ import annotations

import json
import os
import pathlib
import tempfile
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    [
        ("run_id", pa.string()),
        ("task", pa.string()),
        ("scheme", pa.string()),
        ("learning_rate", pa.float64()),
        ("seed", pa.int64()),
        ("status", pa.string()),  # "finished" or "diverged"
        ("steps_to_target", pa.int64()),  # null when censored
        ("final_train_loss", pa.float64()),
        ("final_valid_loss", pa.float64()),
        ("final_valid_accuracy", pa.float64()),
        ("best_valid_accuracy", pa.float64()),
        ("eval_steps", pa.list_(pa.int64())),
        ("train_loss", pa.list_(pa.float64())),
        ("valid_loss", pa.list_(pa.float64())),
        ("valid_accuracy", pa.list_(pa.float64())),
    ]
)
"""A run's columns; steps count from 0.

The three columns named after accuracy hold the task's validation metric, whatever it
is: an accuracy as a fraction, or what `metric_name` in `sweep.json` says. The best is
the greatest or the least, as `direction` says. Losses by cross-entropy are in nats.
"""


def claim(out: pathlib.Path, settings: dict[str, Any]) -> None:
    """Make `out` the folder of the sweep with these settings.

    Raises:
        FileExistsError: it holds anything else already; nothing is touched then.
    """
    marker = out / "sweep.json"
    text = json.dumps(settings, indent=2)
    if marker.is_file():
        if marker.read_text() == text:
            return
        raise FileExistsError(
            f"{out} holds the results of another sweep; choose another folder with "
            "--out."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(
            f"{out} exists and holds no sweep of jaxinit; choose a new or empty folder "
            "with --out."
        )
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(marker, text.encode())


def write_runs(out: pathlib.Path, runs: pa.Table) -> None:
    """Write the sweep's finished runs."""
    (out / "runs").mkdir(exist_ok=True)
    sink = pa.BufferOutputStream()
    pq.write_table(runs.cast(SCHEMA), sink)
    write_atomically(out / "runs" / "runs.parquet", sink.getvalue().to_pybytes())


def read_runs(out: str | os.PathLike[str]) -> pa.Table:
    """Every finished run in a folder of results.

    Raises:
        FileNotFoundError: the folder holds no runs.
    """
    files = sorted((pathlib.Path(out) / "runs").glob("*.parquet"))
    if not files:
        raise FileNotFoundError(f"{out} holds no finished runs under {out}/runs.")
    return pa.concat_tables(pq.read_table(file, schema=SCHEMA) for file in files)


def write_atomically(path: pathlib.Path, content: bytes) -> None:
    """Write a file that is there whole or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
