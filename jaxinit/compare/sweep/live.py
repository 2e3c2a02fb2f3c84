"""Curves as they come, for TensorBoard or Weights & Biases, each of them optional."""

from __future__ import annotations

import hashlib
import importlib
import itertools
import os
import pathlib
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from jaxinit.compare.train.trainer import Metrics, Run, diverged

_COUNT = itertools.count()
"""Of the event files of this process, so that no two have one name."""


class Live(Protocol):
    """What takes the curves of a sweep while it trains."""

    def log(self, step: int, runs: Sequence[Run], metrics: Metrics) -> None:
        """Take one point of each run's curves.

        Args:
            step: optimizer steps done.
            runs: those that train together.
            metrics: NumPy arrays (runs,); what is not finite is left out.
        """
        ...

    def close(self) -> None:
        """Write what is not yet written; nothing is logged after."""
        ...


def tensorboard(folder: str | os.PathLike[str]) -> Live:
    """Event files for TensorBoard: `tensorboard --logdir FOLDER` while it trains.

    Each scheme at each learning rate is a run of TensorBoard,
    `SCHEME/OPTIMIZER/lr=RATE`, so that a word chooses what is drawn; each metric of
    each seed is a chart of it, `valid_loss/seed_0`, in which all schemes had the same
    data in the same order.

    Args:
        folder: where they are written, made if it is not there; of a sweep that is
            resumed the same one.

    Raises:
        ModuleNotFoundError: tensorboardX is not installed.
    """
    _library("tensorboardX", "tensorboard")
    return _TensorBoard(pathlib.Path(folder))


def wandb(project: str, settings: Mapping[str, Any]) -> Live:
    """Runs of Weights & Biases, one for each scheme, optimizer, rate and seed.

    A run's group is its scheme, optimizer and rate, so that W&B draws a sweep of 180
    runs as 36 means with bands over five seeds; its config has `scheme`, `optimizer`,
    `learning_rate` and `seed` beside the sweep's settings, by which one may group anew;
    its summary says whether it has `diverged`. Where and whether it is sent is W&B's to
    know, as by WANDB_MODE=offline and WANDB_DIR.

    Args:
        project: the name of the project.
        settings: of the sweep.

    Raises:
        ModuleNotFoundError: wandb is not installed.
    """
    return _WandB(_library("wandb", "wandb"), project, settings)


class _TensorBoard:
    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._writers: dict[pathlib.Path, Any] = {}

    def log(self, step: int, runs: Sequence[Run], metrics: Metrics) -> None:
        event_of = importlib.import_module("tensorboardX.proto.event_pb2").Event
        scalar = importlib.import_module("tensorboardX.summary").scalar
        now = time.time()
        written = set()
        for number, (scheme, optimizer, rate, seed) in enumerate(runs):
            which = _file_name(scheme), _file_name(optimizer), f"lr={rate:g}"
            writer = self._writer(self._folder.joinpath(*which))
            written.add(writer)
            for name, value in _finite(metrics, number):
                summary = scalar(f"{name}/seed_{seed}", value)
                event = event_of(wall_time=now, step=step, summary=summary)
                writer.write_event(event)
        for writer in written:
            writer.flush()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _writer(self, folder: pathlib.Path) -> Any:
        if folder not in self._writers:
            folder.mkdir(parents=True, exist_ok=True)
            files = importlib.import_module("tensorboardX.event_file_writer")
            suffix = f".{os.getpid()}.{next(_COUNT)}"
            self._writers[folder] = files.EventsWriter(str(folder / "events"), suffix)
        return self._writers[folder]


class _WandB:
    def __init__(self, wandb: Any, project: str, settings: Mapping[str, Any]) -> None:
        self._wandb, self._project, self._settings = wandb, project, dict(settings)
        self._runs: dict[Run, Any] = {}

    def log(self, step: int, runs: Sequence[Run], metrics: Metrics) -> None:
        for run in self._runs.keys() - set(runs):
            self._runs.pop(run).finish()
        dead = diverged(metrics)
        for number, run in enumerate(runs):
            if run not in self._runs:
                self._runs[run] = self._begun(run)
            self._runs[run].log(dict(_finite(metrics, number)), step=step)
            if dead[number]:
                self._runs[run].summary["diverged"] = True

    def close(self) -> None:
        while self._runs:
            self._runs.popitem()[1].finish()

    def _begun(self, run: Run) -> Any:
        group = f"{run.scheme} {run.optimizer} lr={run.learning_rate:g}"
        begun = self._wandb.init(
            project=self._project,
            group=group[:128],  # W&B takes no more
            name=f"{group} seed={run.seed}",
            config={**self._settings, **run._asdict()},
            reinit="create_new",  # a chunk of runs is open at once
            settings=self._wandb.Settings(console="off", quiet=True),
        )
        begun.summary["diverged"] = False
        return begun


def _finite(metrics: Metrics, number: int) -> Iterable[tuple[str, float]]:
    """Names and values of a run's metrics, those that a chart can show."""
    every = {**metrics._asdict(), **metrics.others}
    del every["others"]
    for name, values in every.items():
        if np.isfinite(values[number]):
            yield name, float(values[number])


def _file_name(scheme: str) -> str:
    """A scheme's text as the name of a folder, and no other scheme's."""
    name = re.sub(r"[^\w .,=()'+-]", "_", scheme)[:120]
    if name == scheme:
        return name
    return f"{name}-{hashlib.sha256(scheme.encode()).hexdigest()[:6]}"


def _library(name: str, extra: str) -> Any:
    try:
        library = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        library = None
    # A folder that W&B has written here is no package, though Python imports it.
    if library is None or getattr(library, "__file__", None) is None:
        raise ModuleNotFoundError(
            f"live: {extra} needs {name}; run: pip install 'jaxinit[{extra}]'",
            name=name,
        )
    return library
