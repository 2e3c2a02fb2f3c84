"""The strategies: what a device does with its runs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import jaxprs_in_params
from jax.sharding import NamedSharding, PartitionSpec

from jaxinit.compare import machine
from jaxinit.compare.options import Strategy
from jaxinit.compare.train.trainer import Config, Data, Metrics, RunState, Trainer

RUNS = "runs"
"""Name of the mesh axis over which runs are spread."""

STRATEGIES: tuple[Strategy, ...] = ("map", "vmap", "loop")
"""What a device does with its runs.

- "map": one run after another, each segment a compiled loop over steps.
- "vmap": all runs at once, each segment a compiled loop over steps.
- "loop": a compiled step, called from Python; on a CPU one run after another, with a
  thread per device, elsewhere all at once.

Where runs go all at once, they go in blocks of a fixed number, free places and all. A
program for another number rounds differently, so that a run's numbers would depend on
how many others there are. A run that is over costs nothing from then on where runs go
one after another; in blocks, those that go on are trained in as few as hold them.
"""


_KEPT = tuple(name for name in RunState._fields if name not in ("key", "hparams"))
"""What of a run's state changes in training."""


class Runner(Protocol):
    """A strategy: what it calls a state is its own.

    Attributes:
        block: runs that a device trains at once; it has a multiple of that many slots.
    """

    block: int

    def place(self, data: Data) -> Any:
        """The data on the devices."""
        ...

    def start(self, data: Any, arguments: Any) -> tuple[Any, Metrics]:
        """The state of all slots at step 0, and their metrics."""
        ...

    def resumed(self, data: Any, arguments: Any, kept: list[Any]) -> Any:
        """The state in which `fetch` gave `kept`."""
        ...

    def fetch(self, state: Any, at: np.ndarray) -> list[np.ndarray]:
        """Of some slots, what of a run's state changes in training, on the host."""
        ...

    def segment(self, data: Any, state: Any, live: np.ndarray) -> tuple[Any, Metrics]:
        """The state and the metrics a segment on; others than `live` may be wrong."""
        ...

    def bytes_of(self, data: Data, run: Any, most: int, room: int) -> tuple[int, int]:
        """Bytes of a device for whatever runs, and for each; see `Engine.width`."""
        ...


def at_once(strategy: Strategy) -> int:
    """The most runs that a device trains at once by a strategy here, a power of two.

    An accelerator takes about as long for a step of hundreds of small runs as for one.
    A CPU takes the longer the more there are, so that free places cost time: with a
    perceptron of four layers of 64 on two cores, blocks of 8 take 5.9 times as long as
    a program for just as many runs where there are 4, 1.4 times where there are 12, and
    0.84 and 0.66 times where there are 60 and 180.
    """
    on_cpu = jax.local_devices()[0].platform == "cpu"
    if strategy == "map" or strategy == "loop" and on_cpu:
        return 1
    return 8 if on_cpu else 256


def runner_of(
    trainer: Trainer, config: Config, strategy: Strategy, block: int
) -> Runner:
    """What runs a strategy here, in blocks of so many runs where it is all at once."""
    if strategy == "loop" and jax.local_devices()[0].platform == "cpu":
        return _Threads(trainer, config)
    return _Mesh(trainer, config, strategy, block)


class _Mesh:
    """All devices in one program, the run axis sharded over them."""

    def __init__(
        self, trainer: Trainer, config: Config, strategy: Strategy, block: int
    ) -> None:
        self._config, self._trainer = config, trainer
        devices = jax.local_devices()
        kinds = (jax.sharding.AxisType.Auto,)
        self._mesh = jax.make_mesh((len(devices),), (RUNS,), kinds, devices=devices)
        self._runs = NamedSharding(self._mesh, PartitionSpec(RUNS))
        self._at_once = strategy != "map"
        self.block = block if self._at_once else 1
        each = _all_at_once if self._at_once else _one_by_one
        self._start = self._over_devices(functools.partial(each, trainer.start))
        self._take = self._over_devices(_rows)
        self._put = self._over_devices(_put, donate=(2, 3))
        self._join = self._over_devices(_joined)
        if strategy == "loop":
            self._segment = self._stepwise(trainer)
        else:
            runs = _segments_at_once if self._at_once else _segments_of_live
            segment = functools.partial(runs, trainer.segment)
            self._segment = self._over_devices(segment, donate=(1, 2))

    def _over_devices(self, function: Any, donate: tuple[int, ...] = ()) -> Any:
        """`function(data, *runs)` on each device's runs."""

        def program(data: Any, *runs: Any) -> Any:
            specs = (PartitionSpec(), *(PartitionSpec(RUNS) for _ in runs))
            return jax.shard_map(
                function,
                mesh=self._mesh,
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

        plan = self._over_devices(functools.partial(_all_at_once, trainer.plan))
        step = self._over_devices(stepped, donate=(1,))
        finish = self._over_devices(functools.partial(_all_at_once, trainer.finish))
        count = self._mesh.size
        indices = [
            jax.device_put(jnp.full(count, i), self._runs)
            for i in range(self._config.eval_every)
        ]

        def segment(data: Data, state: RunState, metrics: Any, *_: Any) -> Any:
            batches = plan(data, state)
            for i in indices:
                state = step(data, state, batches, i)
            return finish(data, state)

        return segment

    def place(self, data: Data) -> Any:
        return jax.device_put(data, NamedSharding(self._mesh, PartitionSpec()))

    def _placed(self, runs: Any) -> Any:
        return jax.tree.map(lambda x: jax.device_put(x, self._runs), runs)

    def start(self, data: Any, arguments: Any) -> tuple[Any, Metrics]:
        slots = np.arange(len(arguments[-1].learning_rate))
        each = slots.reshape(self._mesh.size, -1)
        if not self._at_once:
            carry = self._start(data, *self._placed(arguments))
        else:
            parts = []
            for block in self._blocks(each):
                part = jax.tree.map(lambda x: x[block], arguments)  # noqa: B023
                parts.append(self._start(data, *self._placed(part)))
            carry = parts[0] if len(parts) == 1 else self._join((), *parts)
        return carry, jax.tree.map(np.asarray, carry[1])

    def _blocks(self, order: np.ndarray) -> list[np.ndarray]:
        """Blocks of slots, (devices, slots of a device) to (devices * block,) each."""
        count = order.shape[1] // self.block
        return [part.ravel() for part in np.split(order, count, axis=1)]

    def resumed(self, data: Any, arguments: Any, kept: list[Any]) -> Any:
        (state, metrics), _ = self.start(data, arguments)
        return state._replace(**self._placed(_as_before(state, kept))), metrics

    def fetch(self, state: Any, at: np.ndarray) -> list[np.ndarray]:
        return [leaf[at] for leaf in _kept(state[0])]

    def segment(self, data: Any, state: Any, live: np.ndarray) -> tuple[Any, Metrics]:
        each = live.reshape(self._mesh.size, -1)
        order = np.argsort(~each, axis=1, kind="stable").astype(np.int32)
        counts = each.sum(axis=1).astype(np.int32)
        carry = state
        if not self._at_once:
            carry = self._segment(data, *carry, *self._placed((order.ravel(), counts)))
        elif each.shape[1] == self.block:
            carry = self._segment(data, *carry)
        else:
            needed = -(-int(counts.max()) // self.block)
            for block in self._blocks(order)[:needed]:
                index = self._placed(block)
                part = self._segment(data, *self._take((), index, *carry))
                carry = self._put((), index, *carry, *part)
        return carry, jax.tree.map(np.asarray, carry[1])

    def bytes_of(self, data: Data, run: Any, most: int, room: int) -> tuple[int, int]:
        state, metrics = jax.eval_shape(self._trainer.start, data, *run)
        held = machine.bytes_of((state, metrics))
        if not self._at_once:
            return 0, held
        bound = bytes_made(self._trainer, data, run)
        if most * bound <= room:
            return 0, bound
        one, two = (self._compiled_bytes(data, (state, metrics), n) for n in (1, 2))
        return max(0, 2 * one - two), max(held, two - one)

    def _compiled_bytes(self, data: Data, carry: Any, width: int) -> int:
        """Bytes of a device that a compiled segment takes with so many runs."""

        def many(x: Any) -> Any:
            shape = (width * self._mesh.size, *x.shape)
            return jax.ShapeDtypeStruct(shape, x.dtype, sharding=self._runs)

        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), data)
        index = jax.ShapeDtypeStruct((), jnp.int32)
        segments = functools.partial(_segments_at_once, self._trainer.segment)
        program = self._over_devices(segments, donate=(1, 2))
        runs = jax.tree.map(many, (*carry, index, index))
        used = program.lower(abstract, *runs).compile().memory_analysis()
        return used.temp_size_in_bytes + used.argument_size_in_bytes


def bytes_made(trainer: Trainer, data: Data, run: Any) -> int:
    """Bytes of all arrays that a run makes in a step and an evaluation."""
    state, metrics = jax.eval_shape(trainer.start, data, *run)
    held = machine.bytes_of((state, metrics))
    return held + _bytes_made(trainer.segment, data, state)


def _one_by_one(function: Any, data: Data, *runs: Any) -> Any:
    return lax.map(lambda run: function(data, *run), runs)


def _all_at_once(function: Any, data: Data, *runs: Any) -> Any:
    return jax.vmap(functools.partial(function, data))(*runs)


def _rows(_: Any, index: Any, *runs: Any) -> Any:
    return jax.tree.map(lambda x: x[index], runs)


def _joined(_: Any, *parts: Any) -> Any:
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def _put(
    _: Any, index: Any, state: RunState, metrics: Metrics, new: RunState, seen: Metrics
) -> tuple[RunState, Metrics]:
    """The runs with some of them a segment on."""
    put = lambda old, new: old.at[index].set(new)  # noqa: E731
    # Keys and hyperparameters never change.
    changed = {n: jax.tree.map(put, getattr(state, n), getattr(new, n)) for n in _KEPT}
    return state._replace(**changed), jax.tree.map(put, metrics, seen)


def _segments_at_once(
    segment: Any, data: Data, state: RunState, metrics: Metrics, *_: Any
) -> tuple[RunState, Metrics]:
    return jax.vmap(functools.partial(segment, data))(state)


def _segments_of_live(
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
    states = {name: getattr(state, name) for name in _KEPT}
    states, metrics = lax.fori_loop(0, count[0], body, (states, metrics))
    return state._replace(**states), metrics


class _Threads:
    """A compiled step called from Python, run after run, a thread per device."""

    block = 1

    def __init__(self, trainer: Trainer, config: Config) -> None:
        self._config, self._trainer = config, trainer
        self._devices = jax.local_devices()
        self._start = jax.jit(trainer.start)
        self._plan = jax.jit(trainer.plan)
        self._step = jax.jit(trainer.step, donate_argnums=1)
        self._finish = jax.jit(trainer.finish)

    def place(self, data: Data) -> Any:
        return [jax.device_put(data, device) for device in self._devices]

    def start(self, data: Any, arguments: Any) -> tuple[Any, Metrics]:
        slots = len(arguments[-1].learning_rate)

        def begin(device: int, slot: int) -> tuple[RunState, Metrics]:
            own = jax.tree.map(lambda x: x[slot], arguments)
            own = jax.device_put(own, self._devices[device])
            return self._start(data[device], *own)

        done = self._on_each_device(begin, np.ones(slots, bool))
        return [state for state, _ in done], stacked([seen for _, seen in done])

    def resumed(self, data: Any, arguments: Any, kept: list[Any]) -> Any:
        states, _ = self.start(data, arguments)

        def back(device: int, slot: int) -> RunState:
            own = jax.tree.map(lambda x: x[slot], kept)
            own = _as_before(states[slot], own)
            return states[slot]._replace(**jax.device_put(own, self._devices[device]))

        return self._on_each_device(back, np.ones(len(states), bool))

    def fetch(self, state: Any, at: np.ndarray) -> list[np.ndarray]:
        return stacked([_kept(state[slot]) for slot in at])

    def segment(self, data: Any, state: Any, live: np.ndarray) -> tuple[Any, Metrics]:
        def go_on(device: int, slot: int) -> tuple[RunState, Metrics]:
            one = state[slot]
            batches = self._plan(data[device], one)
            for i in range(self._config.eval_every):
                one = self._step(data[device], one, batches, i)
            one, metrics = self._finish(data[device], one)
            return one, jax.tree.map(np.asarray, metrics)

        done = self._on_each_device(go_on, live)
        some = next(metrics for _, metrics in filter(None, done))
        states = [new[0] if new else old for new, old in zip(done, state, strict=True)]
        return states, stacked([new[1] if new else some for new in done])

    def _on_each_device(self, work: Any, live: np.ndarray) -> list[Any]:
        """`work(device, slot)` of the slots that live, in a thread per device."""
        count = len(self._devices)
        per_device = len(live) // count
        done: list[Any] = [None] * len(live)

        def queue(device: int) -> None:
            for slot in range(device * per_device, (device + 1) * per_device):
                if live[slot]:
                    done[slot] = work(device, slot)

        with ThreadPoolExecutor(count) as pool:
            for each in [pool.submit(queue, device) for device in range(count)]:
                each.result()
        return done

    def bytes_of(self, data: Data, run: Any, most: int, room: int) -> tuple[int, int]:
        return 0, machine.bytes_of(jax.eval_shape(self._trainer.start, data, *run))


def _kept(state: RunState) -> list[np.ndarray]:
    """The leaves of what changes in training, on the host, keys as their data."""
    leaves = jax.tree.leaves({name: getattr(state, name) for name in _KEPT})
    return [np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in leaves]


def _as_before(state: RunState, kept: list[Any]) -> dict[str, Any]:
    """What `_kept` was of, for a state like this one."""

    def typed(like: Any, x: Any) -> Any:
        if not is_key(like):
            return x
        return jax.random.wrap_key_data(jnp.asarray(x), impl=jax.random.key_impl(like))

    like = {name: getattr(state, name) for name in _KEPT}
    leaves, structure = jax.tree.flatten(like)
    return structure.unflatten(map(typed, leaves, kept))


def is_key(x: Any) -> bool:
    """Whether an array is of random keys, which NumPy has not."""
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def stacked(trees: Sequence[Any]) -> Any:
    """Trees of NumPy arrays as one, with a leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _bytes_made(function: Any, *arguments: Any) -> int:
    """Bytes of all arrays that a function makes, as if none were given back."""

    def made(jaxpr: Any) -> int:
        total = 0
        for equation in jaxpr.eqns:
            total += machine.bytes_of([variable.aval for variable in equation.outvars])
            for inner in jaxprs_in_params(equation.params):
                total += made(inner)
        return total

    return made(jax.make_jaxpr(function)(*arguments).jaxpr)
