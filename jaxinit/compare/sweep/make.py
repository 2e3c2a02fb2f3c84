"""Runs that are wanted and missing are made, and kept."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import pyarrow as pa

from jaxinit.compare import cluster
from jaxinit.compare.store import folder
from jaxinit.compare.store.identity import run_id
from jaxinit.compare.store.settings import Settings
from jaxinit.compare.store.sweep import SCHEMA, Sweep
from jaxinit.compare.sweep.checkpoints import Checkpoints, Unfinished
from jaxinit.compare.sweep.chunks import Runs
from jaxinit.compare.sweep.live import Live
from jaxinit.compare.sweep.plan import Plan
from jaxinit.compare.sweep.progress import Progress
from jaxinit.compare.train.runners import Strategy
from jaxinit.compare.train.signal import Signals
from jaxinit.compare.train.trainer import Metrics, Run, diverged


class Maker:
    """Makes the runs of a plan with the same compiled programs, and keeps them."""

    def __init__(
        self,
        plan: Plan,
        out: pathlib.Path | None,
        writers: Sequence[Live] = (),
        quiet: bool = False,
    ) -> None:
        """Prepare; programs are made with the first run that is missing.

        Args:
            plan: what is asked for.
            out: folder for runs and settings; None keeps runs here.
            writers: what takes the curves as they come.
            quiet: no progress on the screen.
        """
        self._plan, self._out = plan, out
        self._writers, self._quiet = writers, quiet
        self._programs: Runs | None = None
        self._kept = SCHEMA.empty_table()

    def make(self, asked: Settings, wanted: Sequence[Run]) -> Sweep:
        """Make the runs that are wanted and missing.

        Args:
            asked: the plan's settings, or what has grown from them.
            wanted: runs.

        Returns:
            All runs that there are, those of the folder included, with their settings.

        Raises:
            FileExistsError: the folder holds runs of other settings.
            ConnectionError: another process is gone.
        """
        settings = self._claimed(asked)
        done = frozenset(self._kept["run_id"].to_pylist())
        if self._out is not None:
            done = folder.finished(self._out)
        pending = {
            name: run
            for run in wanted
            if (name := run_id(asked, *run)) not in done
            and self._plan.is_ours(name, run)
        }
        cluster.wait()  # until all have seen what is done, before there is more
        if pending:
            if self._programs is None:
                self._programs = self._made(asked, len(pending))
            strategy = self._programs.strategy
            settings = self._claimed(dataclasses.replace(asked, strategy=strategy))
            self._train(self._programs, settings, pending)
        if self._out is None or not (done or pending):
            runs = folder.sorted_runs(self._kept, settings.schemes)
        else:
            runs = folder.read_runs(self._out)
        return Sweep(runs, settings)

    def signals(self) -> Signals:
        """The signal at step 0 of all schemes: what the folder has, and what is new."""
        found = {} if self._out is None else folder.read_signals(self._out)
        if self._programs is None or cluster.index() > 0:
            return found
        return {**found, **self._programs.signals()}

    def _made(self, asked: Settings, pending: int) -> Runs:
        plan = self._plan
        if asked.strategy is None:
            asked = dataclasses.replace(asked, strategy=self._recorded(asked.device))
        return Runs(plan.task, plan.schemes, asked, plan.most_seeds, pending)

    def _recorded(self, device: str) -> Strategy | None:
        """The strategy that made the runs of the folder, on devices like these."""
        if self._out is None:
            return None
        settings = folder.read_settings(self._out)
        return settings.strategy if settings.device == device else None

    def _claimed(self, settings: Settings) -> Settings:
        """The settings of all that the folder is for, which is made the sweep's."""
        if self._out is None:
            return settings
        if cluster.index() == 0:
            settings = folder.claim(self._out, settings)
        cluster.wait()
        return folder.read_settings(self._out)

    def _train(
        self, programs: Runs, settings: Settings, pending: dict[str, Run]
    ) -> None:
        checkpoints = None if self._out is None else Checkpoints(self._out)
        unfinished = [] if checkpoints is None else checkpoints.found()
        with Progress(len(pending), self._quiet) as bar:

            def show(step: int, runs: Sequence[Run], metrics: Metrics) -> None:
                share = step / settings.steps * len(runs)
                bar.show(share, int(diverged(metrics).sum()))
                for writer in self._writers:
                    writer.log(step, runs, metrics)

            while pending:
                names, at = _next_chunk(pending, unfinished, programs.width)
                chunk = [pending.pop(name) for name in names]
                save = None if checkpoints is None else checkpoints.begin()
                table = programs.train(chunk, show, save, at)
                bar.made(len(chunk), table["status"].to_pylist().count("diverged"))
                self._keep(table)
        if checkpoints is not None:
            checkpoints.clear()

    def _keep(self, table: pa.Table) -> None:
        self._kept = pa.concat_tables([self._kept, table])
        if self._out is not None:
            if cluster.index() == 0:
                folder.append_runs(self._out, table)
            cluster.wait()


def _next_chunk(
    pending: Mapping[str, Run], unfinished: Sequence[Unfinished], width: int
) -> tuple[list[str], Unfinished | None]:
    """Which runs come next: those that have come farthest, and where they are."""
    for each in unfinished:
        names = [name for name in each.names if name in pending][:width]
        if names:
            return names, each.of(names)
    return list(pending)[:width], None
