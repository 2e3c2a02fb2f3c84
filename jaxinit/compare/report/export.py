"""Runs as tables and arrays of other libraries, each of them optional."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
import pyarrow as pa

from jaxinit.compare.store.sweep import Sweep

FINALS = (
    "final_train_loss",
    "final_valid_loss",
    "final_valid_metric",
    "best_valid_metric",
)
CURVES = ("train_loss", "valid_loss", "valid_metric")


def to_pandas(runs: pa.Table) -> Any:
    """A `pandas.DataFrame`, a row for each run; curves are arrays in its cells.

    Raises:
        ModuleNotFoundError: pandas is not installed.
    """
    _library("pandas")
    return runs.to_pandas()


def to_polars(runs: pa.Table) -> Any:
    """A `polars.DataFrame`, a row for each run; curves are lists in its cells.

    Raises:
        ModuleNotFoundError: polars is not installed.
    """
    return _library("polars").from_arrow(runs)


def to_xarray(sweep: Sweep) -> Any:
    """An `xarray.Dataset` by scheme, optimizer, learning_rate, seed and step.

    Variables over all of these are the curves; over all but the step `steps_to_target`
    (infinity a miss), the finals and `diverged`. A run that was not made is NaN, and
    not diverged. The attributes are the settings that are numbers or texts.

    Args:
        sweep: over one task.

    Raises:
        ModuleNotFoundError: xarray is not installed.
    """
    xarray = _library("xarray")
    settings = sweep.settings.to_json()
    rows = sweep.runs.to_pylist()
    axes = {
        "scheme": list(dict.fromkeys(row["scheme"] for row in rows)),
        "optimizer": list(dict.fromkeys(row["optimizer"] for row in rows)),
        "learning_rate": sorted({row["learning_rate"] for row in rows}),
        "seed": sorted({row["seed"] for row in rows}),
        "step": sorted({step for row in rows for step in row["eval_steps"]}),
    }
    names, shape = list(axes), tuple(map(len, axes.values()))
    place = {name: {v: i for i, v in enumerate(axis)} for name, axis in axes.items()}
    steps = sweep.column("steps_to_target")
    curves = {name: np.full(shape, np.nan) for name in CURVES}
    finals = {
        name: np.full(shape[:-1], np.nan) for name in ("steps_to_target", *FINALS)
    }
    diverged = np.zeros(shape[:-1], bool)
    for row, reached in zip(rows, steps, strict=True):
        at = tuple(place[name][row[name]] for name in names[:-1])
        when = [place["step"][step] for step in row["eval_steps"]]
        for name in CURVES:
            curves[name][(*at, when)] = row[name]
        for name in FINALS:
            finals[name][at] = math.nan if row[name] is None else row[name]
        finals["steps_to_target"][at] = reached
        diverged[at] = row["status"] == "diverged"
    return xarray.Dataset(
        {
            **{name: (names, values) for name, values in curves.items()},
            **{name: (names[:-1], values) for name, values in finals.items()},
            "diverged": (names[:-1], diverged),
        },
        coords=axes,
        attrs={
            name: int(value) if isinstance(value, bool) else value  # as netCDF needs
            for name, value in settings.items()
            if isinstance(value, (str, int, float))
        },
    )


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"report: to_{name} needs {name}; run: pip install {name}", name=name
        ) from error
