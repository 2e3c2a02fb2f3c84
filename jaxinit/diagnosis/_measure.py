"""One program that measures a function's signal, forward and backward."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit._types import Array, Key, is_array
from jaxinit.diagnosis import _rows, _statistics
from jaxinit.diagnosis._rows import Rows
from jaxinit.diagnosis._statistics import Backward, Place
from jaxinit.trace import Part, Point, Product, Site, arrays_of, points, program, replay
from jaxinit.tree._leaves import leaves_of

COLUMNS = (
    "kernel_std",
    "mean",
    "std",
    "rms",
    "kurtosis",
    "cosine",
    "gradient",
    "dead",
    "inactive",
    "kernel_gradient",
    "update",
)
"""The numbers of a layer; see `Row`."""

POINT_COLUMNS = ("rms", "logit_std", "entropy", "saturated")
"""The numbers of a point; see `PointRow`."""


class Label(NamedTuple):
    """What is said of a layer before anything is measured.

    Attributes:
        name: the path of its kernel, `path[3]` in a loop, `path (2)` for a second use.
        path: the path of the leaf.
        kind: "dense" or "conv".
        fan_in: terms that an output sums.
        fan_out: outputs that an input reaches.
        before: the last nonlinearity on its input's way, None if there is none.
        after: the first nonlinearity that its output meets, None if there is none.
        reason: why no gradient is seen there; empty where one is.
    """

    name: str
    path: str
    kind: str
    fan_in: float
    fan_out: float
    before: str | None
    after: str | None
    reason: str


class PointLabel(NamedTuple):
    """What is said of a point before anything is measured.

    Attributes:
        name: the kernel whose output it holds, with its place in a loop.
        kind: "stream", "attention", "tanh" or "sigmoid"; see `jaxinit.trace.Point`.
    """

    name: str
    kind: str


class Numbers(NamedTuple):
    """What one call of the program measures.

    Attributes:
        layers: by column (rows,) numbers.
        points: by column (points,) numbers.
        leaves: by path the norm of a leaf's gradient.
        loss: the mean loss, NaN without one.
    """

    layers: dict[str, Array]
    points: dict[str, Array]
    leaves: dict[str, Array]
    loss: Array


class Measurement:
    """A function that is ready to be measured.

    Attributes:
        labels: of the layers, in order of execution.
        points: labels of the points, in order of execution.
        layers: what each leaf is, as `jaxinit.trace.layers`.
        paths: the path of each leaf by the name that the layers give it.
        missed: kernels that are not measured, by path, and what hides them.
        examples: how many there are.
        output_shape: of what `apply` returns, None if that is not one array.
    """

    def __init__(
        self,
        apply: Callable[..., Any],
        params: Any,
        others: Sequence[Any],
        examples: int,
    ) -> None:
        """Trace `apply(params, *others)`; nothing is computed."""
        made = program(apply, params, *others)
        leaves, _ = leaves_of(params)
        named = zip(made.names, (leaf.path for leaf in leaves), strict=True)
        self.paths = dict(named)
        self.layers = made.layers()
        self.missed = {self.paths[path]: why for path, why in made.missed.items()}
        self.examples = examples
        outs = made.jaxpr.outvars
        self.output_shape = tuple(outs[0].aval.shape) if len(outs) == 1 else None
        self._made = made
        self._seen = points(made)
        at = {site: point.product for site, point in self._seen.items()}
        self._visited = made._replace(products={**at, **made.products})
        after = {layer.path: layer.activation_after for layer in self.layers}
        sites: list[tuple[Product, Part, Rows]] = []
        labels: list[tuple[tuple[int, ...], Label]] = []
        for product in made.products.values():
            for part in product.parts:
                path, use = self.paths[part.path], part.use
                name = f"{path} ({part.number})" if part.number > 1 else path
                rows = _rows.of_layers(name, product.site, product.loops, part)
                sites.append((product, part, rows))
                says = (use.kind, use.fan_in, use.fan_out, use.activation_before)
                rest = (path, *says, after[part.path], product.unseen)
                labels += [
                    (order, Label(text, *rest))
                    for text, order in zip(rows.names, rows.order, strict=True)
                ]
        self._sites = sites
        self._order, self.labels = _sorted(labels)
        self._marks: list[tuple[Point, Rows]] = []
        marks: list[tuple[tuple[int, ...], PointLabel]] = []
        for site, point in self._seen.items():
            name = self.paths[point.after[-1]] if point.after else "inputs"
            rows = _rows.of_places(name, site, point.loops)
            self._marks.append((point, rows))
            marks += [
                (order, PointLabel(text, point.kind))
                for text, order in zip(rows.names, rows.order, strict=True)
            ]
        self._mark_order, self.points = _sorted(marks)

    def __call__(
        self,
        params: Any,
        others: Sequence[Any],
        loss: Callable[[Any], Any] | None,
        key: Key,
        update: Callable[[Any, Any], Any] | None = None,
        *,
        backward: bool = True,
    ) -> Numbers:
        """Measure; a pure function, to be compiled.

        Args:
            params: parameters, of the shapes that were traced.
            others: the other arguments.
            loss: from what `apply` returns to a loss an example, or their mean. With
                none, the gradient is that of the outputs' product with normal noise.
            key: of that noise.
            update: `update(gradients, params)`, the first one, for trees in which None
                stands for what has no gradient.
            backward: whether to go back at all.
        """
        leaves, tree = jax.tree.flatten(params)
        moved = [k for k, leaf in enumerate(leaves) if _is_inexact(leaf)]

        def total(floats: Sequence[Array], dummies: Mapping[Site, Any]) -> Any:
            own = list(leaves)
            for k, leaf in zip(moved, floats, strict=True):
                own[k] = leaf
            out, found = replay(
                self._visited, self._visit, arrays_of(own, *others), dummies
            )
            if loss is None:
                return _noised(out, key), (found, jnp.asarray(jnp.nan))
            value = jnp.mean(loss(out))
            return value, (found, value)

        floats = [leaves[k] for k in moved]
        back: Mapping[Site, Any] = {}
        grads: list[Any] = [None] * len(leaves)
        if backward:
            (found_grads, back), aux = jax.grad(total, (0, 1), has_aux=True)(
                floats, self._dummies()
            )
            for k, grad in zip(moved, found_grads, strict=True):
                grads[k] = grad
        else:
            _, aux = total(floats, {})
        found, value = aux
        changes = [None] * len(leaves)
        if update is not None and backward:
            own = [leaf if _is_inexact(leaf) else None for leaf in leaves]
            made = update(tree.unflatten(grads), tree.unflatten(own))
            for k, change in zip(moved, jax.tree.leaves(made), strict=True):
                changes[k] = change
        arrays = [k for k, leaf in enumerate(leaves) if is_array(leaf)]
        at = dict(zip(self._made.names, arrays, strict=True))
        scale = 1 if loss is None else self.examples
        columns: dict[str, list[Array]] = {name: [] for name in COLUMNS}
        for product, part, rows in self._sites:
            place = product.parts.index(part)
            seen = back[product.site][place] if product.site in back else None
            k = at[part.path]
            one = self._row(product, part, rows, leaves[k], grads[k], changes[k])
            one |= _forward_row(found[product.site][place], rows)
            one |= _backward_row(seen, found[product.site][place], rows, scale)
            for name, values in one.items():
                columns[name].append(jnp.broadcast_to(values, len(rows.names)))
        marks: dict[str, list[Array]] = {name: [] for name in POINT_COLUMNS}
        for point, rows in self._marks:
            for name, values in _point_row(point, found[point.site], rows).items():
                marks[name].append(jnp.broadcast_to(values, len(rows.names)))
        return Numbers(
            _joined(columns, self._order),
            _joined(marks, self._mark_order),
            {
                self.paths[name]: jnp.nan if grads[k] is None else _norm(grads[k])
                for name, k in at.items()
            },
            value,
        )

    def _visit(
        self, product: Product, operands: Any, result: Array, given: Any, found: Any
    ) -> tuple[Array, Any]:
        seen = jax.lax.stop_gradient(result)
        point = self._seen.get(product.site)
        if point is not None:
            return result, _at_point(point, jax.lax.stop_gradient(operands), seen)
        spots = self._spots(product, result.shape)
        sums = tuple(
            _statistics.forward(_statistics.cut(seen, span), place)
            for place, span in spots
        )
        if given is not None:
            result = _statistics.probe(result, given, spots)
        return result, sums

    def _spots(self, product: Product, shape: Sequence[int]) -> tuple[Any, ...]:
        """For each part of a product its `Place` and span."""
        devices = [x.length for x in product.loops if x.kind == "shard_map"]
        sizes = {self.examples, self.examples // math.prod(n or 1 for n in devices)}
        own = [k for k in range(len(shape)) if k not in product.features]
        examples = next((k for k in own if shape[k] in sizes and shape[k] > 1), None)
        exact = any(loop.kind == "while" for loop in product.loops)
        place = Place(examples, product.features, exact)
        return tuple((place, part.span) for part in product.parts)

    def _dummies(self) -> dict[Site, Any]:
        """Zeros, whose cotangents are what is seen on the way back."""
        zeros: dict[Site, Any] = {}
        for product in self._made.products.values():
            if not product.unseen:
                shape = [x.length for x in product.loops if x.length is not None]
                one = Backward(*(jnp.zeros(shape, float) for _ in Backward._fields))
                zeros[product.site] = (one,) * len(product.parts)
        return zeros

    def _row(
        self,
        product: Product,
        part: Part,
        rows: Rows,
        leaf: Any,
        grad: Any,
        change: Any,
    ) -> dict[str, Any]:
        """What the leaf itself tells."""
        own = _rows.of_leaf(leaf, part, product.loops, rows)
        size, spread = _statistics.moments(own)
        nothing = jnp.full((), jnp.nan)
        told = {"kernel_std": spread}
        told |= {"kernel_gradient": nothing, "update": nothing}
        if grad is not None:
            grad = _rows.of_leaf(grad, part, product.loops, rows)
            told["kernel_gradient"] = _statistics.moments(grad)[0] * math.sqrt(
                grad.shape[1]
            )
        if change is not None:
            change = _rows.of_leaf(change, part, product.loops, rows)
            told["update"] = _statistics.moments(change)[0] / size
        return told


def _sorted(
    entries: Sequence[tuple[tuple[int, ...], Any]],
) -> tuple[list[int], tuple[Any, ...]]:
    """The order of execution, and what is in it."""
    order = sorted(range(len(entries)), key=lambda k: entries[k][0])
    return order, tuple(entries[k][1] for k in order)


def _joined(
    columns: Mapping[str, list[Array]], order: Sequence[int]
) -> dict[str, Array]:
    places = np.array(order, int)
    return {
        name: jnp.concatenate([x.astype(float) for x in parts])[places]
        if parts
        else jnp.zeros(0)
        for name, parts in columns.items()
    }


def _pooled(sums: Any, rows: Rows) -> Any:
    """Sums with a leading axis for each loop as those of each row."""
    by_row = type(sums)(*(_rows.by_row(x, rows) for x in sums))
    return _statistics.pooled(by_row, range(1, by_row[0].ndim))


def _forward_row(sums: Any, rows: Rows) -> dict[str, Array]:
    of = _pooled(sums, rows)
    mean, square = of.total / of.count, of.square / of.count
    return {
        "mean": of.unit * mean,
        "std": of.unit * jnp.sqrt(jnp.maximum(square - mean**2, 0)),
        "rms": of.unit * jnp.sqrt(square),
        "kurtosis": of.fourth / of.count / square**2,
        "cosine": of.pairs / of.among,
    }


def _backward_row(
    sums: Any, forward: Any, rows: Rows, scale: float
) -> dict[str, Array]:
    if sums is None:
        return dict.fromkeys(("gradient", "dead", "inactive"), jnp.full((), jnp.nan))
    of, ran = _pooled(sums, rows), _pooled(forward, rows)
    # NaN where a branch was not taken, and no unit is dead where all are cut off.
    dead = jnp.where(of.active > 0, 1 - of.alive / ran.features, jnp.nan)
    return {
        "gradient": scale * of.unit * jnp.sqrt(of.square / ran.count),
        "dead": dead,
        "inactive": 1 - of.active / ran.count,
    }


def _at_point(point: Point, operands: Sequence[Any], result: Array) -> Any:
    if point.axis is not None:
        return _statistics.weights(operands[0], result, point.axis)
    if point.kind == "stream":
        exact = any(loop.kind == "while" for loop in point.loops)
        return _statistics.forward(result, Place(None, (), exact))
    return _statistics.bounded(result, point.kind)


def _point_row(point: Point, sums: Any, rows: Rows) -> dict[str, Array]:
    told = dict.fromkeys(POINT_COLUMNS, jnp.full((), jnp.nan))
    if point.kind == "stream":
        return told | {"rms": _forward_row(sums, rows)["rms"]}
    of = _pooled(sums, rows)
    if point.axis is None:
        return told | {"saturated": of.saturated / of.count}
    return told | {
        "logit_std": jnp.sqrt(of.spread / of.count),
        "entropy": of.entropy / of.count,
    }


def _noised(out: Any, key: Key) -> Array:
    """The product of all outputs with normal noise."""
    arrays = [x for x in jax.tree.leaves(out) if _is_inexact(x)]
    keys = jax.random.split(key, max(1, len(arrays)))
    total = jnp.zeros(())
    for k, x in zip(keys, arrays, strict=False):
        noise = jax.random.normal(k, x.shape, x.dtype)
        total = total + jnp.real(jnp.sum(x * noise)).astype(float)
    return total


def _norm(grad: Array) -> Array:
    size, _ = _statistics.moments(grad.reshape(1, -1))
    return size[0] * math.sqrt(grad.size)


def _is_inexact(leaf: Any) -> bool:
    return is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)
