"""Runs that are not finished, on disk: `DIR/checkpoints`, an Orbax checkpoint a chunk.

Finished runs are the store's matter; what is here may be lost at the price of time.
"""

from __future__ import annotations

import functools
import importlib
import logging
import pathlib
import shutil
import uuid
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxinit.compare import cluster
from jaxinit.compare.train.engine import Snapshot
from jaxinit.compare.train.trainer import Metrics

LOG = logging.getLogger("jaxinit")


class Unfinished(NamedTuple):
    """Runs between two segments.

    Attributes:
        names: their names, (runs,).
        points: their curves so far, (points, runs) each.
        snapshot: where they are.
    """

    names: Sequence[str]
    points: Metrics
    snapshot: Snapshot

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
        return Unfinished([self.names[i] for i in kept], points, snapshot)


class Checkpoints:
    """The checkpoints of a store; of several processes, the first writes them."""

    def __init__(self, out: pathlib.Path) -> None:
        """Of the store `out`; a folder appears with the first checkpoint."""
        self._folder = out.resolve() / "checkpoints"

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
        """What saves another chunk."""
        return functools.partial(self._save, uuid.uuid4().hex[:16])

    def _save(self, chunk: str, runs: Unfinished) -> None:
        """Write a checkpoint of the chunk, and only then remove the one before."""
        if cluster.index() > 0:
            return
        before = list(self._folder.glob(f"{chunk}-*"))
        path = self._folder / f"{chunk}-{runs.snapshot.step}"
        arrays: dict[str, Any] = {
            "step": np.int64(runs.snapshot.step),
            "metrics": runs.snapshot.metrics._asdict(),
            "points": runs.points._asdict(),
        }
        if len(runs.snapshot.runs):  # Orbax refuses empty arrays
            state = runs.snapshot.state
            arrays["runs"] = runs.snapshot.runs
            arrays["state"] = {f"{i:06}": leaf for i, leaf in enumerate(state)}
        self._disk.save(
            path,
            self._ocp.args.Composite(
                arrays=self._ocp.args.PyTreeSave(arrays),
                runs=self._ocp.args.JsonSave({"names": list(runs.names)}),
            ),
            force=True,
        )
        for old in before:
            if old != path:
                shutil.rmtree(old, ignore_errors=True)

    def found(self) -> list[Unfinished]:
        """All that can be read, the most advanced first, and none that cannot."""
        checkpoints = []
        for path in sorted(self._folder.glob("*-*")):
            if "orbax-checkpoint-tmp" in path.name:
                continue
            try:
                checkpoints.append(self._read(path))
            except Exception as error:  # whatever Orbax says of damaged files
                reason = type(error).__name__
                LOG.warning("%s cannot be read (%s); its runs begin anew", path, reason)
                shutil.rmtree(path, ignore_errors=True)
        return sorted(checkpoints, key=lambda each: -each.snapshot.step)

    def clear(self) -> None:
        """Remove all, for no run is unfinished."""
        if cluster.index() == 0:
            shutil.rmtree(self._folder, ignore_errors=True)

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
        )
