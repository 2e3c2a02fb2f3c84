"""The signal at step 0: how large each layer's output is, and the gradient there."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit._models import Params, State
from jaxinit._types import Array
from jaxinit.compare.task import trees
from jaxinit.compare.task.task import Task
from jaxinit.diagnosis._measure import Measurement

EXAMPLES = 64
"""Of the training data, that the signal is measured on."""


class LayerSignal(NamedTuple):
    """The signal at one layer.

    Attributes:
        path: of the layer's kernel.
        forward: root mean square of what the kernel puts out, before a bias.
        backward: root mean square of the gradient of an example's loss by it.
    """

    path: str
    forward: float
    backward: float


Signals: TypeAlias = Mapping[str, Sequence[LayerSignal]]
"""By scheme the layers in order of execution, the same ones for all."""


def signal(task: Task, params: Params, state: State) -> list[LayerSignal]:
    """The signal of one initialization; see `signals`.

    Args:
        task: what is learned.
        params: parameters of its model.
        state: what else the model carries, as `task.model.init` gives it.

    Returns:
        A row for each layer, in order of execution.

    Example:
        >>> import jax
        >>> from jaxinit.compare import digits_mlp
        >>> task = digits_mlp(depth=1, width=16)
        >>> params, state = task.model.init(jax.random.key(0), task.x_train[:1])
        >>> [row.path for row in signal(task, params, state)]
        ['Dense_0/kernel', 'Dense_1/kernel']
    """
    return signals(task, {"": (params, state)})[""]


def signals(
    task: Task, initial: Mapping[str, tuple[Params, State]]
) -> dict[str, list[LayerSignal]]:
    """The signal of several initializations, forward and backward, by one program.

    For layer l with output z_l, a product with its kernel, of B training examples of
    losses L_1, ..., L_B: sqrt(mean(z_l^2)) and sqrt(mean((d(L_1 + ... + L_B)/dz_l)^2)),
    so that the latter does not depend on B. The model is as in training, with dropout
    and the batch's statistics, and computes in float32.

    A kernel that is used more than once counts where it is used first. Layers that a
    scan goes through have a row each, such as `path[3]`; a kernel that every iteration
    of a loop uses has one for all. Where no gradient comes back, as from within a
    function that brings its own derivative, `backward` is NaN. Of an objective the
    layers are those that it uses, and B times it is the sum of the losses; of a
    training of one's own, those of `apply`, without a gradient.

    Args:
        task: what is learned; the examples are the first `EXAMPLES` for training.
            There is no row where nothing is known of the layers.
        initial: by scheme the initial parameters and state.

    Returns:
        By scheme a row for each layer, in order of execution. What overflows is inf or
        NaN.
    """
    if not initial:
        return {}
    if task.x_train is None:
        return {scheme: [] for scheme in initial}
    measure, paths = _measure(task, *next(iter(initial.values())))
    found: dict[str, list[LayerSignal]] = {}
    for scheme, (params, state) in initial.items():
        measured = [np.asarray(x, float).tolist() for x in measure(params, state)]
        found[scheme] = [
            LayerSignal(*row) for row in zip(paths, *measured, strict=True)
        ]
    return found


def to_json(signals: Signals) -> dict[str, Any]:
    """The signals as what JSON can hold; a number that is not finite is None.

    Returns:
        `{"paths": [path, ...], "forward": {scheme: [number, ...]}, "backward": ...}`.
    """
    rows = next(iter(signals.values()), ())

    def column(way: str) -> dict[str, list[float | None]]:
        values = {s: [getattr(r, way) for r in rows] for s, rows in signals.items()}
        return {
            scheme: [value if math.isfinite(value) else None for value in column]
            for scheme, column in values.items()
        }

    return {
        "paths": [row.path for row in rows],
        "forward": column("forward"),
        "backward": column("backward"),
    }


def from_json(content: Mapping[str, Any]) -> dict[str, list[LayerSignal]]:
    """The signals that `to_json` wrote; what was not finite is NaN.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it is something else.
    """
    number = lambda value: math.nan if value is None else float(value)  # noqa: E731
    return {
        scheme: [
            LayerSignal(str(path), number(out), number(back))
            for path, out, back in zip(
                content["paths"], forward, content["backward"][scheme], strict=True
            )
        ]
        for scheme, forward in content["forward"].items()
    }


def _measure(
    task: Task, params: Params, state: State
) -> tuple[Callable[[Params, State], tuple[Array, Array]], list[str]]:
    """`(params, state) -> (forward, backward)` as a program, and the layers' paths."""
    x, y = trees.on_device((task.x_train, task.y_train), EXAMPLES)
    key, objective, loss = jax.random.key(0), task.objective, task.loss
    batch = x if objective is None else trees.batch_of(x, y)

    def apply(params: Params, batch: Any, state: State, key: Any) -> Any:
        of = task.model.apply if objective is None else objective
        return of(params, state, batch, key, True)[0]

    def score(out: Any) -> Any:
        return out if loss is None else loss(out, y)  # an objective is the loss

    with jax.default_matmul_precision("highest"):
        measurement = Measurement(apply, params, (batch, state, key), trees.count(x))
    places = [
        (k, label.name)
        for k, label in enumerate(measurement.labels)
        if not label.name.removeprefix(label.path).startswith(" (")
    ]
    if not places:
        return lambda params, state: (jnp.zeros(0), jnp.zeros(0)), []
    chosen = np.array([k for k, _ in places], int)
    backward = task.training is None  # else there is no loss of outputs

    @jax.jit
    def measure(params: Params, state: State) -> tuple[Array, Array]:
        columns = measurement(
            params, (batch, state, key), score, key, backward=backward
        ).layers
        gradient = columns["gradient"][chosen]
        return columns["rms"][chosen], gradient if backward else gradient * jnp.nan

    return measure, [name for _, name in places]
