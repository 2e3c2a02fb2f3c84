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
from jaxinit.compare.task.task import Task
from jaxinit.trace import Loop, Part, Product, Site, arrays_of, program, replay
from jaxinit.tree._leaves import leaves_of

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
    function that brings its own derivative, `backward` is NaN.

    Args:
        task: what is learned; the examples are the first `EXAMPLES` for training.
        initial: by scheme the initial parameters and state.

    Returns:
        By scheme a row for each layer, in order of execution. What overflows is inf or
        NaN.
    """
    if not initial:
        return {}
    x, y = jnp.asarray(task.x_train[:EXAMPLES]), jnp.asarray(task.y_train[:EXAMPLES])
    measure, paths = _measure(task, *next(iter(initial.values())), x, y)
    found: dict[str, list[LayerSignal]] = {}
    for scheme, (params, state) in initial.items():
        measured = np.asarray(measure(params, state), float)
        found[scheme] = [
            LayerSignal(path, float(out), float(back))
            for path, (out, back) in zip(paths, measured, strict=True)
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
    task: Task, params: Params, state: State, x: Array, y: Array
) -> tuple[Callable[[Params, State], Any], list[str]]:
    """`(params, state) -> (layers, 2)` as a program, and the paths of the layers."""

    def total(params: Params, state: State, x: Array, y: Array, key: Any) -> Array:
        outputs, _ = task.model.apply(params, state, x, key, True)
        return task.loss(outputs, y).mean() * len(x)

    given = (x, y, jax.random.key(0))
    with jax.default_matmul_precision("highest"):
        made = program(total, params, state, *given)
    leaves, _ = leaves_of(params)
    paths = dict(zip(made.names, (leaf.path for leaf in leaves), strict=True))
    firsts = [
        (product, part)
        for product in made.products.values()
        for part in product.parts
        if part.number == 1
    ]
    wanted = {product.site for product, _ in firsts}

    def visit(
        product: Product, operands: Any, result: Array, tap: Any, found: Any
    ) -> tuple[Array, Array | None]:
        result = result if tap is None else result + tap
        return result, result if product.site in wanted else None

    def losses(taps: Mapping[Site, Array], *arrays: Any) -> tuple[Array, Any]:
        return replay(made, visit, arrays, taps)

    shapes = jax.eval_shape(losses, {}, *made.arrays)[1]

    @jax.jit
    def measure(params: Params, state: State) -> Array:
        zeros = {
            site: jnp.zeros(out.shape, out.dtype)
            for site, out in shapes.items()
            if not made.products[site].unseen
        }
        arrays = arrays_of(params, state, *given)
        grads, outputs = jax.grad(losses, has_aux=True)(zeros, *arrays)
        columns: list[Array] = []
        for product, part in firsts:
            forward = _sizes(outputs[product.site], product, part)
            if product.unseen:
                backward = jnp.full(forward.shape, jnp.nan)
            else:
                backward = _sizes(grads[product.site], product, part)
            columns.append(jnp.stack([forward.ravel(), backward.ravel()], axis=1))
        pairs = jnp.concatenate(columns) if columns else jnp.zeros((0, 2))
        return pairs[np.array(order, int)]

    rows = [
        row
        for product, part in firsts
        for row in _rows(paths[part.path], product, part)
    ]
    order = sorted(range(len(rows)), key=lambda k: rows[k][1])
    return measure, [rows[k][0] for k in order]


def _sizes(x: Array, product: Product, part: Part) -> Array:
    """The root mean square of a leaf's share of a product, for each of its layers."""
    stacked = [loop for loop in product.loops if loop.length is not None]
    if part.span is not None:
        dim, start, stop = part.span
        x = jax.lax.slice_in_dim(x, start, stop, axis=len(stacked) + dim)
    axes = [axis for axis, _ in _layer_axes(product, part)]
    x = jnp.moveaxis(x, axes, range(len(axes)))
    size = _rms
    for _ in axes:
        size = jax.vmap(size)
    return size(x)


def _layer_axes(product: Product, part: Part) -> list[tuple[int, Loop]]:
    """The leading axes along which a loop goes through layers, and the loops."""
    pairs = zip(product.loops, part.axes, strict=True)
    stacked = [(loop, axis) for loop, axis in pairs if loop.length is not None]
    return [(k, loop) for k, (loop, axis) in enumerate(stacked) if axis is not None]


def _rows(path: str, product: Product, part: Part) -> list[tuple[str, tuple[int, ...]]]:
    """For each layer of a leaf its name, and what sorts layers by execution."""
    loops = [loop for _, loop in _layer_axes(product, part)]
    rows: list[tuple[str, tuple[int, ...]]] = []
    for place in np.ndindex(*(loop.length or 0 for loop in loops)):
        turns = dict(zip((loop.site for loop in loops), place, strict=True))
        order: list[int] = []
        for k, number in enumerate(product.site, 1):
            order.append(number)
            around = next(
                (x for x in product.loops if x.site == product.site[:k]), None
            )
            if around is not None:
                turn = turns.get(around.site, 0)
                order.append(-turn if around.reverse else turn)
        name = f"{path}[{', '.join(map(str, place))}]" if place else path
        rows.append((name, tuple(order)))
    return rows


def _rms(x: Array) -> Array:
    """sqrt(mean(x^2)) without squares that overflow or vanish."""
    most = jnp.abs(x).max()
    unit = jnp.where(jnp.isfinite(most) & (most > 0), most, 1)
    return unit * jnp.sqrt(jnp.mean(jnp.square(x / unit)))
