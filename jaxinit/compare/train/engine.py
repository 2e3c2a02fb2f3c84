"""Where and how the runs of a sweep execute.

Runs share nothing, so they are spread over all local devices. What a device does with
its runs is a strategy, for none is right everywhere: a CPU's caches hold one run better
than many, an accelerator wants all at once, and a convolution inside a compiled loop is
many times slower on a CPU than outside of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxinit.compare.train.runners import (
    Runner,
    Strategy,
    at_once,
    bytes_made,
    runner_of,
)
from jaxinit.compare.train.trainer import (
    Config,
    Data,
    Hparams,
    Metrics,
    Source,
    Trainer,
    diverged,
)

WORK = 2**30
"""Bytes made in a step beyond which more runs at once take longer in proportion."""


class Snapshot(NamedTuple):
    """A training between two segments, by whatever strategy and devices.

    Attributes:
        step: steps done.
        runs: (k,), the places of the runs that go on, among all.
        state: the leaves of their states but keys and hyperparameters, NumPy arrays
            with a leading axis (k,); random keys of the model's own as their data.
        metrics: the newest metrics of all runs.
    """

    step: int
    runs: np.ndarray
    state: list[np.ndarray]
    metrics: Metrics


class Engine:
    """Runs many trainings side by side."""

    def __init__(
        self,
        trainer: Trainer,
        config: Config,
        source: Source,
        strategy: Strategy = "map",
        over: Callable[[Metrics], np.ndarray] = diverged,
        block: int | None = None,
    ) -> None:
        """Make the programs.

        Args:
            trainer: of the task.
            config: what all runs share.
            source: the data, segment by segment; see `train.source_of`.
            strategy: of `STRATEGIES`.
            over: `over(metrics) -> (runs,)`, which runs need no further training.
            block: runs that a device trains at once, if the strategy is one that does;
                by default the most, `runners.at_once`.
        """
        self._config, self._source, self._over = config, source, over
        self._trainer = trainer
        self._strategy: Strategy = strategy
        self._devices = len(jax.local_devices())
        block = at_once(strategy) if block is None else block
        self._runner = runner_of(trainer, config, strategy, block)

    def train(
        self,
        params: Any,
        model_state: Any,
        keys: Any,
        hparams: Hparams,
        width: int = 1,
        snapshot: Snapshot | None = None,
    ) -> Training:
        """Train all runs; every argument has a leading axis of one length.

        A run's numbers depend on neither the others nor its place among them.

        Args:
            params: initial parameters.
            model_state: initial model state.
            keys: one key a run.
            hparams: hyperparameters.
            width: runs that the compiled program has room for, at least, where it
                trains one after another; calls of one width share it.
            snapshot: where a training of the same runs goes on from.

        Returns:
            The training, which iterates.
        """
        runs = len(hparams.learning_rate)
        # Neighbours in the grid, which diverge together, go to different devices.
        block = self._runner.block
        # An array of one run is compiled to other rounding than one of several.
        least = runs if block > 1 else max(runs, width, 2 * self._devices)
        padded = -(-least // (self._devices * block)) * self._devices * block
        slots = np.arange(padded).reshape(-1, self._devices).T.ravel()
        slots = np.where(slots < runs, slots, -1)
        arguments = (params, model_state, keys, hparams)
        return Training(
            self._runner,
            self._config,
            self._source,
            self._over,
            arguments,
            slots,
            snapshot,
        )

    def block(self, run: tuple[Any, Any, Any, Hparams]) -> int:
        """How many runs a device trains at once for the best, memory aside.

        Args:
            run: the arguments of `train` of one run, without a run axis.

        Returns:
            A power of two that depends on the program and the kind of device alone.
        """
        most = at_once(self._strategy)
        if most == 1:
            return 1
        made = bytes_made(self._trainer, next(self._source(0)), run)
        return power_of_two(min(most, WORK // made))

    def width(self, run: tuple[Any, Any, Any, Hparams], most: int, room: int) -> int:
        """How many runs fit on a device.

        What a run takes is bounded by all arrays that its program makes. Where too few
        fit by that, the program is compiled for one run and for two, and what it then
        takes is split in what is fixed and what each run adds.

        Args:
            run: the arguments of `train` of one run, without a run axis.
            most: more are not wanted.
            room: bytes of a device that may be taken.

        Returns:
            From 1 to `most`.
        """
        data = next(self._source(0))
        fixed, each = self._runner.bytes_of(data, run, most, room)
        return int(np.clip((room - fixed) // max(1, each), 1, most))


def power_of_two(number: int) -> int:
    """The greatest that is no more; 1 at least."""
    return 1 << max(0, int(number).bit_length() - 1)


class Training:
    """Runs in training.

    Iterating gives, at step 0 and after each segment, the steps done and the runs'
    newest metrics, NumPy arrays of shape (runs,). The metrics of a run that is over
    stay as they were then.

    Attributes:
        going: (runs,), which runs were trained in the last segment.
    """

    def __init__(
        self,
        runner: Runner,
        config: Config,
        source: Source,
        over: Callable[[Metrics], np.ndarray],
        arguments: tuple[Any, Any, Any, Hparams],
        slots: np.ndarray,
        snapshot: Snapshot | None,
    ) -> None:
        """Of an `Engine`; slot i trains run `slots[i]`, or none if that is -1."""
        self._runner, self._config, self._source = runner, config, source
        self._over, self._arguments, self._slots = over, arguments, slots
        self._from = snapshot
        self._step = 0
        self._state: Any = None  # until it is started
        self._metrics: Any = None
        self.going = np.ones(slots.max() + 1, bool)

    def __iter__(self) -> Iterator[tuple[int, Metrics]]:
        """Train; once."""
        every, steps = self._config.eval_every, self._config.steps
        first = 0 if self._from is None else self._from.step
        with _Ahead(self._source(first // every), self._runner.place) as ahead:
            data = next(ahead)
            if self._from is None:
                self._state, placed = self._runner.start(
                    data, self._in_slots(self._arguments)
                )
                back = np.argsort(self._slots)[-len(self.going) :]
                self._metrics = jax.tree.map(lambda x: x[back], placed)
                yield 0, self._metrics
            else:
                self._go_on(data, self._from)
            for step in range(first + every, steps + 1, every):
                self.going = ~self._over(self._metrics)
                if self.going.any():
                    self._advance(data)
                    if step < steps:
                        data = next(ahead)
                self._step = step
                yield step, self._metrics

    def snapshot(self) -> Snapshot:
        """All that is needed to go on from here, between two segments."""
        at = np.flatnonzero(self._live(~self._over(self._metrics)))
        state = self._runner.fetch(self._state, at)
        return Snapshot(self._step, self._slots[at], state, self._metrics)

    def _advance(self, data: Any) -> None:
        """Train the runs that go on for a segment."""
        live = self._live(self.going)
        self._state, measured = self._runner.segment(data, self._state, live)

        def newest(old: np.ndarray, new: np.ndarray) -> np.ndarray:
            values = old.copy()
            values[self._slots[live]] = new[live]
            return values

        self._metrics = jax.tree.map(newest, self._metrics, measured)

    def _live(self, going: np.ndarray) -> np.ndarray:
        """Which slots train a run that goes on, each run once."""
        return (self._slots >= 0) & going[self._slots]

    def _in_slots(self, runs: Any) -> Any:
        """What belongs to runs, where they are trained; free slots repeat a run."""
        take = np.maximum(self._slots, 0)
        return jax.tree.map(lambda leaf: leaf[take], runs)

    def _go_on(self, data: Any, snapshot: Snapshot) -> None:
        """Be where the snapshot was."""
        self._step, self._metrics = snapshot.step, snapshot.metrics
        arguments = self._in_slots(self._arguments)
        if not len(snapshot.runs):
            self._state, _ = self._runner.start(data, arguments)
            return
        row = np.zeros(len(self.going), int)  # a run that is over repeats another
        row[snapshot.runs] = np.arange(len(snapshot.runs))
        every = [leaf[row] for leaf in snapshot.state]
        self._state = self._runner.resumed(data, arguments, self._in_slots(every))


class _Ahead:
    """The data of the next segments on the devices, one segment ahead."""

    def __init__(self, segments: Iterator[Data], place: Callable[[Data], Any]) -> None:
        self._segments, self._place = segments, place
        self._last: tuple[Data | None, Any] = (None, None)

    def __enter__(self) -> _Ahead:
        self._pool = ThreadPoolExecutor(1)
        self._next: Future[Any] = self._pool.submit(self._fetched)
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __next__(self) -> Any:
        placed = self._next.result()
        self._next = self._pool.submit(self._fetched)
        return placed

    def _fetched(self) -> Any:
        data = next(self._segments)
        before, placed = self._last
        if data is not before:  # data that stay are placed once
            placed = self._place(data)
            self._last = data, placed
        return placed
