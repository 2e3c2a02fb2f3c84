"""Where and how the runs of a sweep execute.

Runs share nothing, so they are spread over all local devices. What a device does with
its runs is a strategy, for none is right everywhere: a CPU's caches hold one run better
than many, an accelerator wants all at once, and a convolution inside a compiled loop is
many times slower on a CPU than outside of one.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import pathlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxinit.compare.train import (
    Config,
    Data,
    Hparams,
    Metrics,
    RunState,
    Trainer,
    diverged,
)

LOG = logging.getLogger("jaxinit")

RUNS = "runs"
"""Name of the mesh axis over which runs are spread."""

Strategy: TypeAlias = Literal["map", "vmap", "loop"]

STRATEGIES: tuple[Strategy, ...] = ("map", "vmap", "loop")
"""What a device does with its runs.

- "map": one run after another, each segment a compiled loop over steps; runs that have
  diverged cost nothing.
- "vmap": all runs at once, each segment a compiled loop over steps.
- "loop": a compiled step, called from Python; on a CPU one run after another, with a
  thread a device, elsewhere all at once. Runs that have diverged cost nothing on a CPU.
"""


class Engine:
    """Runs many trainings side by side."""

    def __init__(
        self, trainer: Trainer, config: Config, data: Data, strategy: Strategy = "map"
    ) -> None:
        """Place the data on the devices, and make the programs."""
        self._devices = len(jax.local_devices())
        on_cpu = jax.local_devices()[0].platform == "cpu"
        if strategy == "loop" and on_cpu:
            self._runner: _Threads | _Mesh = _Threads(trainer, config, data)
        else:
            self._runner = _Mesh(trainer, config, data, strategy)

    def train(
        self, params: Any, model_state: Any, keys: Any, hparams: Hparams, width: int = 1
    ) -> Iterator[tuple[int, Metrics]]:
        """Train all runs; every argument has a leading axis of one length.

        Args:
            params: initial parameters.
            model_state: initial model state.
            keys: one key a run.
            hparams: hyperparameters.
            width: runs that the compiled program has room for, at least; calls of
                one width share it.

        Yields:
            After each segment the steps done and the runs' newest metrics, NumPy
            arrays of shape (runs,). A run whose loss is not finite is trained no
            further where that saves time; its metrics then stay as they are.
        """
        runs = len(hparams.learning_rate)
        # Neighbours in the grid, which diverge together, go to different devices.
        padded = -(-max(runs, width) // self._devices) * self._devices
        place = np.arange(padded).reshape(-1, self._devices).T.ravel()
        back = np.argsort(place)[:runs]
        take = np.minimum(place, runs - 1)
        arguments = (params, model_state, keys, hparams)
        arguments = jax.tree.map(lambda leaf: leaf[take], arguments)
        active = place < runs
        for step, metrics in self._runner.train(arguments, active):
            yield step, jax.tree.map(lambda x: np.asarray(x)[back], metrics)


class _Mesh:
    """All devices in one program, the run axis sharded over them."""

    def __init__(
        self, trainer: Trainer, config: Config, data: Data, strategy: Strategy
    ) -> None:
        self.config = config
        devices = jax.local_devices()
        kinds = (jax.sharding.AxisType.Auto,)
        self.mesh = jax.make_mesh((len(devices),), (RUNS,), kinds, devices=devices)
        self._runs = NamedSharding(self.mesh, PartitionSpec(RUNS))
        self._data = jax.device_put(data, NamedSharding(self.mesh, PartitionSpec()))
        each = _one_by_one if strategy == "map" else _at_once
        self._start = self._over_devices(functools.partial(each, trainer.start))
        if strategy == "loop":
            self._segment = self._stepwise(trainer)
        else:
            runs = _active_ones if strategy == "map" else _all
            segment = functools.partial(runs, trainer.segment)
            self._segment = self._over_devices(segment, donate=(1, 2))

    def _over_devices(self, function: Any, donate: tuple[int, ...] = ()) -> Any:
        """`function(data, *runs)` on each device's runs."""

        def program(data: Data, *runs: Any) -> Any:
            specs = (PartitionSpec(), *(PartitionSpec(RUNS) for _ in runs))
            return jax.shard_map(
                function,
                mesh=self.mesh,
                in_specs=specs,
                out_specs=PartitionSpec(RUNS),
                check_vma=False,
            )(data, *runs)

        return jax.jit(program, donate_argnums=donate)

    def _stepwise(self, trainer: Trainer) -> Any:
        """A segment as a loop of Python over a compiled step of all runs."""

        def stepped(data: Data, state: RunState, batches: Any, i: Any) -> RunState:
            each = lambda state, batches: trainer.step(data, state, batches, i[0])  # noqa: E731
            return jax.vmap(each)(state, batches)

        plan = self._over_devices(functools.partial(_at_once, trainer.plan))
        step = self._over_devices(stepped, donate=(1,))
        finish = self._over_devices(functools.partial(_at_once, trainer.finish))
        count = self.mesh.size
        indices = [
            jax.device_put(jnp.full(count, i), self._runs)
            for i in range(self.config.eval_every)
        ]

        def segment(data: Data, state: RunState, metrics: Any, *_: Any) -> Any:
            batches = plan(data, state)
            for i in indices:
                state = step(data, state, batches, i)
            return finish(data, state)

        return segment

    def train(
        self, arguments: Any, active: np.ndarray
    ) -> Iterator[tuple[int, Metrics]]:
        placed = jax.tree.map(lambda x: jax.device_put(x, self._runs), arguments)
        state, metrics = self._start(self._data, *placed)
        seen = jax.tree.map(np.asarray, metrics)
        yield 0, seen
        per_device = len(active) // self.mesh.size
        for step in range(
            self.config.eval_every, self.config.steps + 1, self.config.eval_every
        ):
            going = (active & ~diverged(seen)).reshape(-1, per_device)
            order = np.argsort(~going, axis=1, kind="stable").astype(np.int32)
            counts = going.sum(axis=1).astype(np.int32)
            state, metrics = self._segment(
                self._data,
                state,
                metrics,
                jax.device_put(order.ravel(), self._runs),
                jax.device_put(counts, self._runs),
            )
            seen = jax.tree.map(np.asarray, metrics)
            yield step, seen


def _one_by_one(function: Any, data: Data, *runs: Any) -> Any:
    return lax.map(lambda run: function(data, *run), runs)


def _at_once(function: Any, data: Data, *runs: Any) -> Any:
    return jax.vmap(functools.partial(function, data))(*runs)


def _all(segment: Any, data: Data, state: RunState, metrics: Any, *_: Any) -> Any:
    return jax.vmap(functools.partial(segment, data))(state)


def _active_ones(
    segment: Any, data: Data, state: RunState, metrics: Metrics, order: Any, count: Any
) -> tuple[RunState, Metrics]:
    """A segment of the first `count` runs in `order`; the others stay as they are."""

    def body(i: Any, carry: tuple[Any, Metrics]) -> tuple[Any, Metrics]:
        states, metrics = carry
        run = order[i]
        one = jax.tree.map(lambda x: x[run], state._replace(**states))
        after, measured = segment(data, one)
        changed = {name: getattr(after, name) for name in states}
        put = lambda old, new: old.at[run].set(new)  # noqa: E731
        return jax.tree.map(put, states, changed), jax.tree.map(put, metrics, measured)

    # Keys and hyperparameters never change, and keys cannot be written in place.
    states = {
        name: value
        for name, value in state._asdict().items()
        if name not in ("key", "hparams")
    }
    states, metrics = lax.fori_loop(0, count[0], body, (states, metrics))
    return state._replace(**states), metrics


class _Threads:
    """A compiled step called from Python, one run after another, a thread a device."""

    def __init__(self, trainer: Trainer, config: Config, data: Data) -> None:
        self.config = config
        self._devices = jax.local_devices()
        self._data = [jax.device_put(data, device) for device in self._devices]
        self._start = jax.jit(trainer.start)
        self._plan = jax.jit(trainer.plan)
        self._step = jax.jit(trainer.step, donate_argnums=1)
        self._finish = jax.jit(trainer.finish)

    def train(
        self, arguments: Any, active: np.ndarray
    ) -> Iterator[tuple[int, Metrics]]:
        count = len(self._devices)
        per_device = len(active) // count
        states: list[Any] = [None] * len(active)
        metrics: list[Any] = [None] * len(active)
        alive = active.copy()

        def begin(run: int) -> None:
            device = run // per_device
            own = jax.tree.map(lambda x: x[run], arguments)
            own = jax.device_put(own, self._devices[device])
            states[run], measured = self._start(self._data[device], *own)
            metrics[run] = jax.tree.map(np.asarray, measured)

        def go_on(run: int) -> None:
            data, state = self._data[run // per_device], states[run]
            batches = self._plan(data, state)
            for i in range(self.config.eval_every):
                state = self._step(data, state, batches, i)
            states[run], measured = self._finish(data, state)
            metrics[run] = jax.tree.map(np.asarray, measured)

        def on_each_device(work: Any) -> Metrics:
            def queue(device: int) -> None:
                for run in range(device * per_device, (device + 1) * per_device):
                    if alive[run] or metrics[run] is None:
                        work(run)

            for done in [pool.submit(queue, device) for device in range(count)]:
                done.result()
            return jax.tree.map(lambda *each: np.stack(each), *metrics)

        with ThreadPoolExecutor(count) as pool:
            seen = on_each_device(begin)
            yield 0, seen
            for step in range(
                self.config.eval_every, self.config.steps + 1, self.config.eval_every
            ):
                alive &= ~diverged(seen)
                seen = on_each_device(go_on)
                yield step, seen


def choose_strategy(
    trainer_of: Any, config: Config, data: Data, example: Any, name: str
) -> Strategy:
    """The fastest strategy for a task here, by a short measurement.

    Args:
        trainer_of: `trainer_of(config) -> Trainer`.
        config: what all runs share.
        data: the task's arrays.
        example: the arguments of `Engine.train` for one run, without a run axis.
        name: what decides the choice beside the machine; it is remembered under it.

    Returns:
        The strategy.
    """
    remembered = _Remembered(name)
    if remembered.strategy is not None:
        LOG.info("%s: %s, as measured before", name, remembered.strategy)
        return remembered.strategy
    on_cpu = jax.local_devices()[0].platform == "cpu"
    short = config._replace(steps=4, eval_every=2)
    runs = len(jax.local_devices()) * (2 if on_cpu else 16)
    batch = jax.tree.map(lambda x: jnp.stack([x] * runs), example)
    spent: dict[Strategy, float] = {}
    for strategy in ("loop", "map", "vmap") if on_cpu else ("vmap", "loop"):
        if strategy == "vmap" and on_cpu and spent["map"] > 3 * spent["loop"]:
            continue  # a loop in the program is what costs here
        engine = Engine(trainer_of(short), short, data, strategy)
        times = []
        for _ in range(2):  # the first compiles
            for _ in engine.train(*batch):
                times.append(time.perf_counter())
        spent[strategy] = min(b - a for a, b in zip(times, times[1:], strict=False))
    best = min(spent, key=lambda strategy: spent[strategy])
    LOG.info(
        "%s: %s, of %s",
        name,
        best,
        ", ".join(f"{s} {1e3 * t / 2 / runs:.2f} ms a step" for s, t in spent.items()),
    )
    remembered.write(best)
    return best


def cache_folder() -> pathlib.Path:
    """The user's folder for what may be lost: compiled programs, choices."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "jaxinit"


class _Remembered:
    """A choice on disk, of this task on this machine with these versions."""

    def __init__(self, name: str) -> None:
        device = jax.local_devices()[0]
        machine = (device.device_kind, len(jax.local_devices()), jax.__version__)
        digest = hashlib.sha256(repr((name, machine)).encode()).hexdigest()[:16]
        self._file = cache_folder() / "strategies" / f"{digest}.json"
        try:
            found = json.loads(self._file.read_text())["strategy"]
        except (OSError, ValueError, KeyError):
            found = None
        self.strategy: Strategy | None = found if found in STRATEGIES else None

    def write(self, strategy: Strategy) -> None:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(json.dumps({"strategy": strategy}))
        except OSError:
            pass  # it is measured again next time
