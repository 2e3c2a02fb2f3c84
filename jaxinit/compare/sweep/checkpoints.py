"""Runs that are not finished, on disk: `DIR/checkpoints`, an Orbax checkpoint a chunk.

Finished runs are the store's matter; what is here may be lost at the price of time.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import logging
import os
import pathlib
import re
import shutil
import uuid
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxinit.compare import cluster, files
from jaxinit.compare.train.engine import Snapshot
from jaxinit.compare.train.trainer import Metrics

LOG = logging.getLogger("jaxinit")


class Unfinished(NamedTuple):
    """Runs between two segments.

    Attributes:
        names: their names, (runs,).
        points: their curves so far, (points, runs) each.
        snapshot: where they are.
        seconds: wall-clock that they took so far.
    """

    names: Sequence[str]
    points: Metrics
    snapshot: Snapshot
    seconds: float

    def of(self, names: Collection[str]) -> Unfinished:
        """Those runs alone."""
        kept = [place for place, name in enumerate(self.names) if name in names]
        place = np.full(len(self.names), -1)
        place[kept] = np.arange(len(kept))
        runs = place[self.snapshot.runs]
        cut = lambda x: x[..., kept]  # noqa: E731
        snapshot = Snapshot(
            self.snapshot.step,
            runs[runs >= 0],
            [leaf[runs >= 0] for leaf in self.snapshot.state],
            jax.tree.map(cut, self.snapshot.metrics),
        )
        points = jax.tree.map(cut, self.points)
        seconds = self.seconds * len(kept) / max(1, len(self.names))
        return Unfinished([self.names[i] for i in kept], points, snapshot, seconds)


_OURS = re.compile(r"[0-9a-f]{16}-[0-9]+")
"""The name of a checkpoint: its chunk, and the steps done."""

_DIGEST = "jaxinit.sha256"
"""In each checkpoint the digest of all else, written last."""

_BEGUN = re.compile(_OURS.pattern + r"\.orbax-checkpoint-tmp.*")
"""The name of one that was not written to its end."""


def _by_name(metrics: Metrics) -> dict[str, Any]:
    """As what Orbax writes, which has no empty mapping."""
    return {
        k: value for k, value in metrics._asdict().items() if k != "others" or value
    }


class Checkpoints:
    """The checkpoints of a store; of several processes, the first writes them.

    Whatever else is in their folder is left alone.
    """

    def __init__(self, out: pathlib.Path) -> None:
        """Of the store `out`; a folder appears with the first checkpoint."""
        self._folder = out.resolve() / "checkpoints"
        self._warned = False

    @functools.cached_property
    def _ocp(self) -> Any:
        """Orbax, which takes its time to import: short sweeps never need it."""
        return importlib.import_module("orbax.checkpoint")

    @functools.cached_property
    def _disk(self) -> Any:
        """What reads and writes; of several processes each for itself."""
        alone = self._ocp.options.MultiprocessingOptions(
            primary_host=cluster.index(),
            active_processes={cluster.index()},
            barrier_sync_key_prefix="jaxinit",
        )
        options = self._ocp.CompositeOptions(multiprocessing_options=alone)
        return self._ocp.Checkpointer(
            self._ocp.CompositeCheckpointHandler(composite_options=options),
            multiprocessing_options=alone,
        )

    def begin(self) -> Callable[[Unfinished], None]:
        """What saves another chunk, if that can be done: the sweep goes on anyway."""
        return functools.partial(self._tried, uuid.uuid4().hex[:16])

    def _tried(self, chunk: str, runs: Unfinished) -> None:
        try:
            self._save(chunk, runs)
        except Exception as error:  # whatever Orbax says of a disk that is full
            for left in self._folder.glob(f"{chunk}-*.orbax-checkpoint-tmp*"):
                shutil.rmtree(left, ignore_errors=True)
            if not self._warned:
                reason = str(error).partition("\n")[0][:200].rstrip(".")
                LOG.warning(
                    "no checkpoint can be written to %s (%s: %s); the sweep goes on, "
                    "and if it is stopped, unfinished runs begin anew.",
                    self._folder, type(error).__name__, reason,
                )  # fmt: skip
            self._warned = True

    def _save(self, chunk: str, runs: Unfinished) -> None:
        """Write a checkpoint of the chunk, and only then remove the one before."""
        if cluster.index() > 0:
            return
        before = [path for path in self._named(_OURS) if path.name.startswith(chunk)]
        path = self._folder / f"{chunk}-{runs.snapshot.step}"
        arrays: dict[str, Any] = {
            "step": np.int64(runs.snapshot.step),
            "metrics": _by_name(runs.snapshot.metrics),
            "points": _by_name(runs.points),
        }
        if len(runs.snapshot.runs):  # Orbax refuses empty arrays
            state = runs.snapshot.state
            arrays["runs"] = runs.snapshot.runs
            arrays["state"] = {f"{i:06}": leaf for i, leaf in enumerate(state)}
        self._disk.save(
            path,
            self._ocp.args.Composite(
                arrays=self._ocp.args.PyTreeSave(arrays),
                runs=self._ocp.args.JsonSave(
                    {"names": list(runs.names), "seconds": runs.seconds}
                ),
            ),
            force=True,
        )
        files.write(path / _DIGEST, _digest(path))
        for old in before:
            if old != path:
                shutil.rmtree(old, ignore_errors=True)

    def found(self) -> list[Unfinished]:
        """All that are whole, the most advanced first.

        Others are set aside, and their runs begin anew.

        Raises:
            OSError: one cannot be read now, as for want of a permission.
            MemoryError: one does not fit.
        """
        checkpoints = []
        for path in self._named(_OURS):
            try:
                written = (path / _DIGEST).read_text()
                whole = written == _digest(path)
            except (FileNotFoundError, ValueError):
                whole = False
            except OSError as error:
                raise OSError(
                    f"{path} cannot be read now ({error.strerror or error}); mend that "
                    "to go on from there, or remove it to begin its runs anew."
                ) from error
            if whole:
                checkpoints.append(self._read(path))
            elif cluster.index() == 0 and (aside := files.set_aside(path)) is not None:
                LOG.warning(
                    "%s is damaged or was not finished; it is set aside as %s, and its "
                    "runs begin anew",
                    path,
                    aside.name,
                )
        return sorted(checkpoints, key=lambda each: -each.snapshot.step)

    def _named(self, form: re.Pattern[str]) -> list[pathlib.Path]:
        """The folders, and no links to any, whose names are of a form of ours."""
        try:
            names = sorted(os.listdir(self._folder))
        except FileNotFoundError:
            return []
        paths = [self._folder / name for name in names if form.fullmatch(name)]
        return [path for path in paths if path.is_dir() and not path.is_symlink()]

    def clear(self) -> None:
        """Remove all checkpoints, for no run is unfinished."""
        if cluster.index() > 0:
            return
        for path in (*self._named(_OURS), *self._named(_BEGUN)):
            shutil.rmtree(path, ignore_errors=True)
        try:
            self._folder.rmdir()
        except OSError:
            pass  # there is none, or it holds something else

    def _read(self, path: pathlib.Path) -> Unfinished:
        found = self._disk.restore(
            path,
            self._ocp.args.Composite(
                arrays=self._ocp.args.PyTreeRestore(), runs=self._ocp.args.JsonRestore()
            ),
        )
        arrays = found["arrays"]
        state = arrays.get("state", {})
        return Unfinished(
            found["runs"]["names"],
            Metrics(**arrays["points"]),
            Snapshot(
                int(arrays["step"]),
                arrays.get("runs", np.zeros(0, int)),
                [state[name] for name in sorted(state)],
                Metrics(**arrays["metrics"]),
            ),
            found["runs"]["seconds"],
        )


def _digest(path: pathlib.Path) -> str:
    """Of the names and bytes of all files in a folder, that of the digest left out.

    Raises:
        OSError: one of them cannot be read.
    """

    def stop(error: OSError) -> None:
        raise error

    found = hashlib.sha256()
    for folder, inner, names in os.walk(path, onerror=stop):
        inner.sort()
        for name in sorted(names):
            file = pathlib.Path(folder, name)
            if file == path / _DIGEST:
                continue
            with open(file, "rb") as opened:
                each = hashlib.file_digest(opened, "sha256").hexdigest()
            found.update(f"{file.relative_to(path)} {each}\n".encode())
    return found.hexdigest()
