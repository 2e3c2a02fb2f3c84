"""The initial parameters of runs: what each scheme draws of each seed."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit import tree
from jaxinit._checks import is_traced
from jaxinit._initializer import Initializer
from jaxinit._types import Key
from jaxinit.calibrate._scheme import CalibratedScheme, Made
from jaxinit.compare import machine
from jaxinit.compare.task import trees
from jaxinit.compare.task.check import program_of
from jaxinit.compare.task.task import Task
from jaxinit.compare.train.optimizer import Optimizer, Own
from jaxinit.compare.train.runners import is_key, stacked
from jaxinit.compare.train.trainer import Config
from jaxinit.trace import Layer, kernels
from jaxinit.tree import MuP
from jaxinit.tree._choice import choose
from jaxinit.tree._layers import layers_of
from jaxinit.tree._leaves import leaves_of
from jaxinit.tree._reinit import draw
from jaxinit.tree._rules import Rules

Scheme: TypeAlias = tree.Scheme | Callable[[Key, Any, Any, Any], Any]
"""An initializer for every kernel, a scheme of `jaxinit.tree`, or any function
`(key, params, apply, batch) -> params`."""

Given: TypeAlias = Scheme | str | list[Any] | tuple[Initializer, Initializer]
"""A scheme, its text, a list of rules for `jaxinit.tree.rules`, or a pair for kernels
and biases."""


Draw: TypeAlias = Callable[[Key, dict[str, Any], Any], Any]
"""`(key, own, state) -> params`: `own` has the model's own values by path."""


class Draws:
    """How schemes draw the parameters of a model; nothing is drawn yet.

    Attributes:
        params: the model's parameters as shapes and dtypes.
        state: whatever else the model carries, too.
        leaves: the parameters by path.
        layers: the layers that the parameters are of.
        of: by scheme how it draws.
        kept: by scheme the paths of the leaves that it leaves as the model itself
            initializes them, or wants to see.
    """

    def __init__(
        self, task: Task, config: Config, schemes: Mapping[str, Scheme]
    ) -> None:
        """Trace the model.

        Raises:
            ValueError: the model has no kernel, or a scheme does not fit it.
        """
        y = task.y_train if task.inputs is None else None
        x, y = trees.on_device((task.seen, y), config.batch_size)
        self._model, self._batch = task.model, (x, y)
        self._loss = None if (of := task.loss) is None else lambda out: of(out, y)
        abstract = jax.eval_shape(self._model.init, jax.random.key(0), x)
        self.params, self.state = abstract
        self.leaves, self.rebuild = leaves_of(self.params)
        apply = None if x is None else self._outputs  # else names and shapes tell
        self.layers = layers_of(self.leaves, self.params, apply, (abstract[1], x))
        if not kernels(self.layers):
            reason = (
                "no parameter enters a product or a convolution with its inputs"
                if apply is not None
                else "no parameter has a name such as kernel, w or weight; give "
                "training_task apply= and inputs=, that its use may tell"
            )
            raise ValueError(
                f"compare: the model of task {task.name} has no kernel: {reason}."
            )
        if task.training is not None:
            for name, scheme in schemes.items():
                _check_scheme(name, scheme, task.name, seen=apply is not None)
        self.of: dict[str, Draw] = {}
        self.kept: dict[str, set[str]] = {}
        for name, scheme in schemes.items():
            self.of[name], self.kept[name] = self._draw_of(scheme)

    def program(self, scheme: str) -> Any:
        """What a scheme computes, as a program."""
        own = {
            leaf.path: leaf.value
            for leaf in self.leaves
            if leaf.path in self.kept[scheme]
        }
        return program_of(self.of[scheme], jax.random.key(0), own, self.state)[0]

    @property
    def all_kept(self) -> set[str]:
        """The paths of the leaves that some scheme keeps."""
        return set().union(*self.kept.values())

    def own(self, key: Key) -> tuple[dict[str, Any], Any]:
        """The model's own values of the leaves that are kept, and the state."""
        params, state = self._model.init(key, self._batch[0])
        values = {leaf.path: leaf.value for leaf in leaves_of(params)[0]}
        return {path: values[path] for path in self.all_kept}, state

    def _draw_of(self, scheme: Scheme) -> tuple[Draw, set[str]]:
        """How a scheme draws, and of which leaves it needs the model's own values."""
        if isinstance(scheme, tree.Scheme):
            calibrate = self._calibration_of(scheme)
            choices = choose(self.leaves, self.layers, scheme, abstract=False)

            def by_rules(key: Key, own: dict[str, Any], state: Any) -> Any:
                leaves = [
                    leaf._replace(value=own.get(leaf.path, leaf.value))
                    for leaf in self.leaves
                ]
                drawn = self.rebuild(draw(key, leaves, choices, scheme))
                return calibrate(key, drawn, state) if calibrate else drawn

            return by_rules, {p for p, each in choices.items() if each.init is None}

        @jax.jit
        def by_function(key: Key, own: dict[str, Any], state: Any) -> Any:
            params = self.rebuild([own[leaf.path] for leaf in self.leaves])
            apply = lambda params, x: self._outputs(params, state, x)  # noqa: E731
            return scheme(key, params, apply, self._batch)

        return by_function, {leaf.path for leaf in self.leaves}

    def _calibration_of(self, scheme: tree.Scheme) -> Draw | None:
        """What a scheme makes of the drawn parameters; None if nothing."""
        if not isinstance(scheme, CalibratedScheme):
            return None
        x, _ = self._batch
        told: list[Made] = []

        @jax.jit
        def compiled(key: Key, params: Any, state: Any) -> Any:
            apply = lambda params, x: self._outputs(params, state, x)  # noqa: E731
            told.append(scheme.made(apply, params, (x,), self._loss))
            return told[-1](key, params, (x,))

        def calibrated(key: Key, params: Any, state: Any) -> Any:
            new, measured = compiled(key, params, state)
            if not any(map(is_traced, jax.tree.leaves(measured))):
                told[-1].tell(measured)
            return new

        return calibrated

    def _outputs(self, params: Any, state: Any, x: Any) -> Any:
        return self._model.apply(params, state, x, jax.random.key(0), False)[0]


def _check_scheme(name: str, scheme: Scheme, task: str, *, seen: bool) -> None:
    """Raise unless a scheme fits a training of one's own.

    Args:
        name: of the scheme.
        scheme: it.
        task: the name of the task.
        seen: whether the layers are known by their use.
    """
    if isinstance(scheme, MuP):
        raise ValueError(
            f"compare: scheme {name} has learning rates of its own for each leaf, but "
            f"the updates of task {task} are the training's own; leave it out."
        )
    if not seen and not _goes_by_shapes(scheme):
        raise ValueError(
            f"compare: scheme {name} needs to know what the layers of task {task} are "
            "used for; give training_task apply= and inputs=."
        )


def _goes_by_shapes(scheme: Any) -> bool:
    """Whether a scheme draws each leaf by its name, kind and shape alone."""
    if isinstance(scheme, (Initializer, Rules)):
        return True
    if getattr(scheme, "name", None) == "tree.combined":
        return all(map(_goes_by_shapes, scheme.arguments["schemes"]))
    return getattr(scheme, "name", None) == "tree.by_kind"


class InitialParams:
    """Initial parameters by scheme and seed, drawn when they are asked for.

    Attributes:
        shapes: the model's parameters as shapes and dtypes.
        convolved: whether the model has convolutions.
        seconds: for each scheme drawn so far, the wall-clock seconds that drawing
            takes once, when its programs are compiled.
    """

    def __init__(
        self, task: Task, config: Config, schemes: Mapping[str, Scheme], seeds: int
    ) -> None:
        """Trace the model, and initialize it itself with each seed.

        Raises:
            ValueError: the model has no kernel, a scheme does not fit it, or memory
                does not hold what the model itself draws.
        """
        draws = Draws(task, config, schemes)
        _check_size(task, draws, seeds)
        self.shapes = draws.params
        self.convolved = any(layer.kind == "conv" for layer in draws.layers)
        self.seconds: dict[str, float] = {}
        self._draws = draws.of
        self._schemes, self._layers = schemes, draws
        self._keys, self.training_keys = seed_keys(seeds)
        own = draws.own
        if any(leaf.path not in draws.all_kept for leaf in draws.leaves):
            own = jax.jit(own)  # leaves out what is not kept
        # Else op by op, as models and schemes then share what is compiled already. And
        # seed by seed: orthogonal matrices that are made together round differently.
        each = [own(key) for key in self._keys]
        self._own = [_on_host(values) for values, _ in each]
        states = [_on_host(state) for _, state in each]
        self._states = jax.tree.map(
            lambda *x: jnp.stack(x) if is_key(x[0]) else np.stack(x), *states
        )
        self._drawn: dict[tuple[str, int], Any] = {}

    def scales(self, optimizer: Optimizer | Own) -> dict[str, Any] | None:
        """What each scheme multiplies the updates of an optimizer with.

        A tree like the parameters by scheme, or None where no scheme has any.

        Raises:
            ValueError: a scheme is made for another optimizer.
        """
        return _scales(self._schemes, optimizer, self._layers)

    def of(self, runs: Sequence[tuple[str, int]]) -> tuple[Any, Any]:
        """Parameters and model states, each with a leading run axis.

        Nothing is kept but what these runs, (scheme, seed), share.
        """
        wanted = set(runs)
        self._drawn = {run: tree for run, tree in self._drawn.items() if run in wanted}
        missing = sorted(wanted - self._drawn.keys())
        self._compile({scheme: seed for scheme, seed in reversed(missing)})
        for run in missing:
            self._drawn[run] = self._draw(*run)
        params = stacked([self._drawn[run] for run in runs])
        seeds = [seed for _, seed in runs]
        states = jax.tree.map(lambda leaf: leaf[np.array(seeds)], self._states)
        return params, states

    def one(self, scheme: str, seed: int) -> tuple[Any, Any]:
        """Parameters and model state of one run."""
        params, states = self.of([(scheme, seed)])
        return jax.tree.map(lambda leaf: leaf[0], (params, states))

    def _compile(self, seeds: Mapping[str, int]) -> None:
        """Draw once with each scheme that is new, by its seed, side by side.

        XLA compiles outside of Python's lock, and draws are half of what a small sweep
        compiles. A context such as `jax.default_device` is of its own thread: what
        fails here is made, or raises, where it is asked for.
        """

        def warm(run: tuple[str, int]) -> None:
            with contextlib.suppress(Exception):
                self._drawn_by(*run)

        new = [run for run in seeds.items() if run[0] not in self.seconds]
        with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(warm, new))

    def _drawn_by(self, scheme: str, seed: int) -> Any:
        own = jax.tree.map(jnp.asarray, self._own[seed])
        state = jax.tree.map(lambda leaf: jnp.asarray(leaf[seed]), self._states)
        given = self._keys[seed], own, state
        return jax.block_until_ready(self._draws[scheme](*given))

    def _draw(self, scheme: str, seed: int) -> Any:
        """The parameters of a scheme and seed, as NumPy arrays."""
        began = time.perf_counter()
        params = self._drawn_by(scheme, seed)
        spent = time.perf_counter() - began
        self.seconds[scheme] = min(spent, self.seconds.get(scheme, spent))
        return _on_host(params)


def _check_size(task: Task, draws: Draws, seeds: int) -> None:
    """Raise where what the model itself draws of all seeds does not fit."""
    kept = [leaf.value for leaf in draws.leaves if leaf.path in draws.all_kept]
    machine.check_room(
        f"compare: what the model of task {task.name} itself draws of {seeds} seeds",
        seeds * machine.bytes_of((kept, draws.state)),
        "take fewer seeds",
    )


def seed_keys(seeds: int) -> tuple[Key, Key]:
    """Initialization keys and training keys of seeds 0, 1, ..., each (seeds,)."""
    keys = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed)))(
        jnp.arange(seeds)
    )
    return keys[:, 0], keys[:, 1]


def _scales(
    schemes: Mapping[str, Scheme], optimizer: Optimizer | Own, draws: Draws
) -> dict[str, Any] | None:
    """What a scheme multiplies the updates with; None where none does."""
    if not any(isinstance(scheme, MuP) for scheme in schemes.values()):
        return None
    every = {
        name: _rates(each, draws.layers, optimizer) for name, each in schemes.items()
    }
    return {
        name: draws.rebuild([np.float32(rates[leaf.path]) for leaf in draws.leaves])
        for name, rates in every.items()
    }


def _rates(
    scheme: Scheme, found: Sequence[Layer], optimizer: Optimizer | Own
) -> dict[str, float]:
    """What the updates of each leaf are multiplied with under a scheme, by its path."""
    if not isinstance(scheme, MuP):
        return {layer.path: 1.0 for layer in found}
    wanted = scheme.arguments["optimizer"]
    if isinstance(optimizer, Optimizer) and (wanted == "sgd") == optimizer.normalizes:
        raise ValueError(
            f"compare: tree.mup has the learning rates of {wanted}, but the optimizer "
            f"is {optimizer!r}; give it the optimizer= that is trained with."
        )
    return {path: m.learning_rate for path, m in scheme.by_path(found).items()}


def _on_host(tree: Any) -> Any:
    """Arrays as NumPy's, save keys, which only JAX has."""
    return jax.tree.map(lambda x: x if is_key(x) else np.asarray(x), tree)
