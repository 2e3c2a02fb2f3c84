"""Runs that are wanted and missing are made, and kept."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import time
from collections.abc import Mapping, Sequence

import pyarrow as pa

from jaxinit.compare import cluster
from jaxinit.compare.store import folder, signal_file
from jaxinit.compare.store.identity import run_id
from jaxinit.compare.store.limit import Limit, limit_of
from jaxinit.compare.store.settings import Settings
from jaxinit.compare.store.sweep import SCHEMA, Sweep
from jaxinit.compare.sweep.checkpoints import Checkpoints, Unfinished
from jaxinit.compare.sweep.chunks import Runs
from jaxinit.compare.sweep.live import Live
from jaxinit.compare.sweep.plan import Plan
from jaxinit.compare.sweep.progress import Progress
from jaxinit.compare.train import signal
from jaxinit.compare.train.initial import InitialParams, Scheme
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
        self._programs: dict[str, Runs] = {}
        self._checkpoints = None if out is None else Checkpoints(out)
        self._kept = SCHEMA.empty_table()
        self._since = time.perf_counter()
        self._took = 0.0
        self._is_claimed = False
        self._limit = Limit(plan.settings)

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
        settings = self._claimed(self._as_before(asked))
        done = frozenset(self._kept["run_id"].to_pylist())
        if self._out is not None:
            done = folder.finished(self._out)
        named = {run_id(asked, *run): run for run in wanted}
        ours = self._plan.ours(named)
        pending = {n: run for n, run in named.items() if n in ours and n not in done}
        cluster.wait()  # until all have seen what is done, before there is more
        if pending:
            self._limit = self._limited(asked)
            for optimizer in self._plan.optimizers:
                part = {n: r for n, r in pending.items() if r.optimizer == optimizer}
                if part:
                    settings = self._made_of(optimizer, asked, part)
            if self._checkpoints is not None:
                self._checkpoints.clear()
            settings = self._restored(settings)
        if self._out is None or not (done or pending):
            runs = folder.sorted_runs(self._kept, settings)
        else:
            runs = folder.read_runs(self._out)
        took = self._took if self._out is None else folder.seconds(self._out)
        return Sweep(runs, settings, took)

    def _limited(self, asked: Settings) -> Limit:
        """How far runs are trained, by what the finished ones show."""
        known = self._kept
        if asked.stop_at is None:
            return Limit(asked)
        if self._out is not None and folder.finished(self._out):
            known = folder.read_runs(self._out)
        tuning = Sweep(known, asked).of(seeds=range(asked.tuning_seeds))
        return limit_of(asked, tuning.runs.to_pylist())

    @functools.cached_property
    def _initial(self) -> InitialParams:
        """The initial parameters, drawn for all optimizers alike."""
        plan = self._plan
        config = plan.settings.config("sgd")
        found = InitialParams(plan.task, config, plan.schemes, plan.most_seeds)
        for optimizer in plan.optimizers.values():
            found.scales(optimizer)  # or say what does not go together
        return found

    def _made_of(
        self, optimizer: str, asked: Settings, pending: dict[str, Run]
    ) -> Settings:
        """Make the missing runs of an optimizer; the settings that they are kept by."""
        if optimizer not in self._programs:
            self._programs[optimizer] = self._made(optimizer, asked, len(pending))
        made = self._programs[optimizer]
        how = {"strategy": made.strategy, "block": made.block}
        settings = self._claimed(dataclasses.replace(asked, **how))
        self._train(made, settings, pending)
        return settings

    def _restored(self, settings: Settings) -> Settings:
        """The settings of the folder, in which is what somebody took away meanwhile."""
        if self._out is not None and cluster.index() == 0:
            folder.write_runs(self._out, self._kept, self._took)
        return self._claimed(settings)

    def signals(self) -> Signals:
        """The signal at step 0 of all schemes, of seed 0; see `signal.signals`.

        What the folder has is read, and what it lacks is made and written there.
        """
        found = {} if self._out is None else signal_file.read_signals(self._out)
        schemes = self._plan.schemes
        missing = {name: schemes[name] for name in schemes if name not in found}
        if not missing or cluster.index() > 0:
            return found
        initial = self._initial if self._programs else None
        found = {**found, **signal_of(self._plan, missing, initial)}
        if self._out is not None:
            signal_file.write_signals(self._out, found)
        return found

    def _made(self, optimizer: str, asked: Settings, pending: int) -> Runs:
        plan = self._plan
        before = self._before()
        if before is not None and before.device == asked.device:
            strategy = asked.strategy or before.strategy
            block = before.block if strategy == before.strategy else None
            asked = dataclasses.replace(asked, strategy=strategy, block=block)
        for made in self._programs.values():
            asked = dataclasses.replace(asked, strategy=made.strategy)
        how = plan.optimizers[optimizer]
        return Runs(plan.task, plan.schemes, asked, how, self._initial, pending)

    def _before(self) -> Settings | None:
        """The settings of the folder, if it is one of a sweep already."""
        if self._out is None or not (self._out / "sweep.json").is_file():
            return None
        return folder.read_settings(self._out)

    def _as_before(self, asked: Settings) -> Settings:
        """What is asked for, as if by what made the runs that are there."""
        before = self._before()
        if before is None:
            return asked
        makers = ("device", "machine", "versions", "code")
        said = {name: getattr(before, name) for name in makers}
        return dataclasses.replace(asked, **said)

    def _claimed(self, settings: Settings) -> Settings:
        """The settings of all that the folder is for, which is made the sweep's."""
        if self._out is None:
            return settings
        if cluster.index() == 0:
            settings = folder.claim(self._out, settings)
            if not self._is_claimed:
                folder.mend(self._out)
        self._is_claimed = True
        cluster.wait()
        return folder.read_settings(self._out)

    def _train(
        self, programs: Runs, settings: Settings, pending: dict[str, Run]
    ) -> None:
        checkpoints = self._checkpoints
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
                table = programs.train(chunk, show, self._limit, save, at)
                bar.made(len(chunk), table["status"].to_pylist().count("diverged"))
                self._keep(table, 0.0 if at is None else at.seconds)

    def _keep(self, table: pa.Table, before: float) -> None:
        """Keep runs that took so many seconds before this session."""
        now = time.perf_counter()
        spent = before + now - self._since
        self._since, self._took = now, self._took + spent
        self._kept = pa.concat_tables([self._kept, table])
        if self._out is not None:
            if cluster.index() == 0:
                folder.append_runs(self._out, table, spent)
            cluster.wait()


def signal_of(
    plan: Plan, schemes: Mapping[str, Scheme], initial: InitialParams | None
) -> Signals:
    """The signal at step 0 of some schemes."""
    if initial is None:
        initial = InitialParams(plan.task, plan.settings.config("sgd"), schemes, 1)
    found = {scheme: initial.one(scheme, 0) for scheme in schemes}
    return signal.signals(plan.task, found)


def _next_chunk(
    pending: Mapping[str, Run], unfinished: Sequence[Unfinished], width: int
) -> tuple[list[str], Unfinished | None]:
    """Which runs come next: those that have come farthest, and where they are."""
    for each in unfinished:
        names = [name for name in each.names if name in pending][:width]
        if names:
            return names, each.of(names)
    return list(pending)[:width], None
