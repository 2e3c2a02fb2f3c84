"""One program that measures a function's signal, forward and backward."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit._types import Array, Key, is_array
from jaxinit.diagnosis import _rows, _statistics
from jaxinit.diagnosis._numbers import COLUMNS, POINT_COLUMNS, Label, PointLabel
from jaxinit.diagnosis._rows import Rows
from jaxinit.diagnosis._statistics import Spot, Sums
from jaxinit.trace import (
    Loop,
    Part,
    Point,
    Product,
    Site,
    arrays_of,
    points,
    program,
    replay,
)
from jaxinit.trace._products import enclosing
from jaxinit.trace._walk import shape_of
from jaxinit.tree._leaves import leaves_of

Way: TypeAlias = tuple[int, tuple[int, ...]]
"""The number of a leaf, and the axes along which its rows are."""


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
        attended: paths of the kernels whose output alone an attention's logits are of.
        kernels: for each place of a kernel its path, its part, the loops around it and
            how many rows it has.
        order: of the rows of all of them, one after the other, that of execution.
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
        self.output_shape = shape_of(outs[0]) if len(outs) == 1 else None
        self._made = made
        found = points(made)
        self._seen = {at: x for at, x in found.items() if at not in made.products}
        at = {site: point.product for site, point in self._seen.items()}
        self._visited = made._replace(products={**at, **made.products})
        self._spots = {site: self._spot(each) for site, each in made.products.items()}
        self._sites: list[tuple[Product, int, Rows]] = []
        self.kernels: list[tuple[str, Part, tuple[Loop, ...], int]] = []
        labels: list[tuple[tuple[int, ...], Label]] = []
        after = {layer.path: layer.activation_after for layer in self.layers}
        for product in made.products.values():
            for place, part in enumerate(product.parts):
                path, use = self.paths[part.path], part.use
                name = f"{path} ({part.number})" if part.number > 1 else path
                rows = _rows.of_layers(name, product.site, product.loops, part)
                self._sites.append((product, place, rows))
                one = (path, part, product.loops, len(rows.names))
                self.kernels.append(one)
                says = (use.kind, use.fan_in, use.fan_out, use.activation_before)
                rest = (path, *says, after[part.path], product.unseen)
                labels += [
                    (order, Label(text, *rest))
                    for text, order in zip(rows.names, rows.order, strict=True)
                ]
        self.order, self.labels = _sorted(labels)
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
        logits = [
            each.after for each in self._seen.values() if each.kind == "attention"
        ]
        self.attended = {self.paths[path] for path, *more in logits if not more}

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
            arrays = arrays_of(own, *others)
            out, found = replay(self._visited, self._visit, arrays, dummies)
            if loss is None:
                return noised(out, key), (found, jnp.asarray(jnp.nan))
            value = jnp.mean(loss(out))
            return value, (found, value)

        floats = [leaves[k] for k in moved]
        back: Mapping[Site, Any] = {}
        grads: list[Any] = [None] * len(leaves)
        if backward:
            by_both = jax.grad(total, (0, 1), has_aux=True)
            (of_leaves, back), aux = by_both(floats, self._dummies())
            for k, grad in zip(moved, of_leaves, strict=True):
                grads[k] = grad
        else:
            _, aux = total(floats, {})
        found, value = aux
        changes: list[Any] = [None] * len(leaves)
        if update is not None and backward:
            own = [leaf if _is_inexact(leaf) else None for leaf in leaves]
            made = update(tree.unflatten(grads), tree.unflatten(own))
            for k, change in zip(moved, jax.tree.leaves(made), strict=True):
                changes[k] = change
        scale = 1 if loss is None else self.examples
        arrays = [k for k, leaf in enumerate(leaves) if is_array(leaf)]
        columns, norms = self._of_leaves(
            [leaves[k] for k in arrays],
            [grads[k] for k in arrays],
            [changes[k] for k in arrays],
        )
        columns |= self._of_outputs(found, back, scale)
        order, marks = np.array(self.order, int), np.array(self._mark_order, int)
        return Numbers(
            {name: columns[name][order] for name in COLUMNS if name in columns},
            {name: x[marks] for name, x in self._of_points(found).items()},
            norms,
            value,
        )

    def _spot(self, product: Product) -> tuple[Spot, ...]:
        """What is measured of a product, for each of its parts."""
        *_, (_, eqn) = enclosing(self._made.jaxpr, product.site)
        aval: Any = eqn.outvars[0].aval
        devices = [x.length or 1 for x in product.loops if x.kind == "shard_map"]
        sizes = {self.examples, self.examples // math.prod(devices)}
        exact = any(loop.kind == "while" for loop in product.loops)
        spots: list[Spot] = []
        for part in product.parts:
            shape = list(aval.shape)
            if part.span is not None:
                axis, start, stop = part.span
                shape[axis] = stop - start
            own = [k for k in range(len(shape)) if k not in product.features]
            axes = (k for k in own if shape[k] in sizes and shape[k] > 1)
            if jnp.issubdtype(aval.dtype, jnp.complexfloating):
                shape.append(2)
            rest = (part.span, next(axes, None), product.features, exact)
            spots.append(Spot(tuple(shape), *rest))
        return tuple(spots)

    def _visit(
        self, product: Product, operands: Any, result: Array, given: Any, found: Any
    ) -> tuple[Array, Any]:
        seen = jax.lax.stop_gradient(result)
        point = self._seen.get(product.site)
        if point is not None:
            operands = jax.lax.stop_gradient(operands)
            return result, _at_point(point, operands, seen, self.examples)
        spots = self._spots[product.site]
        sums = tuple(
            _statistics.forward(_statistics.cut(seen, spot.span), spot)
            for spot in spots
        )
        if given is not None:
            result = _statistics.probe(result, given, spots)
        return result, sums

    def _dummies(self) -> dict[Site, Any]:
        """Zeros, whose cotangents are what is seen on the way back."""
        return {
            site: tuple(
                _statistics.nothing(spot, _lengths(product.loops))
                for spot in self._spots[site]
            )
            for site, product in self._made.products.items()
            if not product.unseen
        }

    def _of_outputs(
        self, found: Mapping[Site, Any], back: Mapping[Site, Any], scale: float
    ) -> dict[str, Array]:
        """The columns that outputs tell."""
        outs: list[tuple[Sums, Rows]] = []
        grads: list[tuple[Sums, Rows]] = []
        numbers: list[tuple[float, float, float]] = []
        for product, place, rows in self._sites:
            spot = self._spots[product.site][place]
            outs.append((found[product.site][place], rows))
            if product.site in back:
                grads.append((back[product.site][place], rows))
            else:
                nan = jnp.full(_lengths(product.loops), jnp.nan)
                grads.append((Sums(nan, nan, alive=nan), rows))
            examples = math.nan  # without which there are no pairs
            if spot.examples is not None:
                examples = float(spot.shape[spot.examples])
            one = (float(spot.entries), float(spot.channels), examples)
            numbers += [one] * len(rows.names)
        count, channels, examples = np.array(numbers).T
        of, ran = _rows.added_up(outs)
        by, returned = _rows.added_up(grads)
        assert of.total is not None and of.fourth is not None and of.joint is not None
        assert by.alive is not None
        count = count * ran
        mean, square = of.total / count, of.square / count
        unseen = jnp.where((returned > 0) & (ran > 0), 0, jnp.nan)
        alive = by.alive / (channels * ran)
        return {
            "mean": of.unit * mean,
            "std": of.unit * jnp.sqrt(jnp.maximum(square - mean**2, 0)),
            "rms": of.unit * jnp.sqrt(square),
            "kurtosis": of.fourth / count / square**2,
            "cosine": (of.joint - of.square) / ((examples - 1) * of.square),
            "gradient": scale * by.unit * jnp.sqrt(by.square / count) + unseen,
            # No unit is dead where all are cut off.
            "dead": jnp.where(by.square > 0, 1 - alive, jnp.nan) + unseen,
        }

    def _of_leaves(
        self, leaves: Sequence[Any], grads: Sequence[Any], changes: Sequence[Any]
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """The columns that leaves tell, and the norm of the gradient of each."""
        number = {name: k for k, name in enumerate(self._made.names)}
        uses: list[tuple[Way, int]] = []
        for product, place, rows in self._sites:
            part = product.parts[place]
            k = number[part.path]
            axes = _rows.leaf_axes(leaves[k].shape, part, product.loops)
            uses.append(((k, axes), len(rows.names)))
        kernels = dict.fromkeys(way for way, _ in uses)
        known = {k for k, _ in kernels}
        others = [
            (k, ())
            for k, leaf in enumerate(leaves)
            if k not in known and _is_inexact(leaf) and leaf.size
        ]

        def sums(of: Sequence[Any], ways: Iterable[Way], full: bool) -> _OfLeaves:
            entries: list[tuple[Sums, None]] = []
            at: dict[Way, slice] = {}
            start = 0
            for k, axes in ways:
                if of[k] is not None:
                    one = _rows.of_leaf(of[k], axes)
                    entries.append((_statistics.of_rows(one, full), None))
                    at[k, axes] = slice(start, start + len(one))
                    start += len(one)
            return _OfLeaves(_rows.added_up(entries)[0] if entries else None, at)

        def column(values: Array, at: Mapping[Way, slice]) -> Array:
            missing = lambda n: jnp.full(n, jnp.nan)  # noqa: E731
            return jnp.concatenate(
                [
                    jnp.broadcast_to(values[at[way]], n) if way in at else missing(n)
                    for way, n in uses
                ]
            )

        def size(found: _OfLeaves) -> Array:
            if found.sums is None:
                return jnp.full(sum(n for _, n in uses), jnp.nan)
            unit, square = found.sums.unit, found.sums.square
            return column(unit * jnp.sqrt(square), found.at)

        entries = np.concatenate(
            [
                np.full(n, leaves[k].size / math.prod(leaves[k].shape[a] for a in axes))
                for (k, axes), n in uses
            ]
        )
        of = sums(leaves, kernels, True)
        assert of.sums is not None and of.sums.total is not None
        unit, square, total = (
            column(x, of.at) for x in (of.sums.unit, of.sums.square, of.sums.total)
        )
        variance = square / entries - (total / entries) ** 2
        by = sums(grads, [*kernels, *others], False)
        norms: dict[str, Array] = {}
        if by.sums is not None:
            sizes = by.sums.unit * jnp.sqrt(by.sums.square)
            for (k, _), place in by.at.items():
                own = sizes[place]
                if len(own) > 1:
                    most = jnp.where(own.max() > 0, own.max(), 1)
                    own = most * jnp.sqrt(jnp.sum(jnp.square(own / most)))[None]
                norms.setdefault(self.paths[self._made.names[k]], own[0])
        told = {
            "kernel_std": unit * jnp.sqrt(jnp.maximum(variance, 0)),
            "kernel_gradient": size(by),
            "update": size(sums(changes, kernels, False)) / size(of),
        }
        return told, norms

    def _of_points(self, found: Mapping[Site, Any]) -> dict[str, Array]:
        """The columns of the points."""
        parts: dict[str, list[Array]] = {name: [jnp.zeros(0)] for name in POINT_COLUMNS}
        for point, rows in self._marks:
            told = _point_row(found[point.site], rows, point)
            for name in POINT_COLUMNS:
                one = told.get(name, jnp.full((), jnp.nan))
                parts[name].append(jnp.broadcast_to(one, len(rows.names)))
        return {name: jnp.concatenate(each) for name, each in parts.items()}


class _OfLeaves(NamedTuple):
    """Sums of the rows of leaves, and where those of each are."""

    sums: Sums | None
    at: dict[Way, slice]


def _lengths(loops: Sequence[Loop]) -> tuple[int, ...]:
    return tuple(loop.length for loop in loops if loop.length is not None)


def _sorted(
    entries: Sequence[tuple[tuple[int, ...], Any]],
) -> tuple[list[int], tuple[Any, ...]]:
    """The order of execution, and what is in it."""
    order = sorted(range(len(entries)), key=lambda k: entries[k][0])
    return order, tuple(entries[k][1] for k in order)


def _at_point(
    point: Point, operands: Sequence[Any], result: Array, examples: int
) -> Any:
    if point.kind == "stream":
        exact = any(loop.kind == "while" for loop in point.loops)
        spot = Spot(result.shape, None, None, (), exact)
        sums = _statistics.squares(result, spot)
        return sums, jnp.asarray(result.size, float)
    few = [_statistics.a_few(x, examples) for x in (operands[0], result)]
    if point.axis is None:
        return _statistics.bounded(few[1], point.kind)
    return _statistics.attention(few[0], few[1], point.axis)


def _point_row(found: Any, rows: Rows, point: Point) -> dict[str, Array]:
    if point.kind == "stream":
        sums, count = found
        of, _ = _rows.added_up([(sums, rows)])
        counts = _rows.by_row(count, rows)
        counts = jnp.nansum(counts, axis=tuple(range(1, counts.ndim)))
        return {"rms": of.unit * jnp.sqrt(of.square / counts)}
    by_row = [_rows.by_row(x, rows) for x in found]
    count, first, second = (
        jnp.nansum(x, axis=tuple(range(1, x.ndim))) if x.ndim > 1 else x for x in by_row
    )
    if point.axis is None:
        return {"saturated": first / count}
    return {"logit_std": jnp.sqrt(second / count), "entropy": first / count}


def noised(out: Any, key: Key) -> Array:
    """The product of all outputs with normal noise."""
    arrays = [x for x in jax.tree.leaves(out) if _is_inexact(x)]
    keys = jax.random.split(key, max(1, len(arrays)))
    total = jnp.zeros(())
    for k, x in zip(keys, arrays, strict=False):
        noise = jax.random.normal(k, x.shape, x.dtype)
        total = total + jnp.real(jnp.sum(x * noise)).astype(float)
    return total


def _is_inexact(leaf: Any) -> bool:
    return is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)
