"""Rows: one for each layer that a program runs, those of a loop one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit._types import Array
from jaxinit.diagnosis._statistics import Sums, merged
from jaxinit.trace import Loop, Part, Site


class Rows(NamedTuple):
    """The rows of one place of a program.

    Attributes:
        names: the text of each, such as `path[3]`.
        order: what sorts each among the rows of all places by execution.
        kept: the leading axes of what `replay` finds that lead from row to row.
        pooled: the other leading axes: a kernel that every iteration uses has one row.
    """

    names: tuple[str, ...]
    order: tuple[tuple[int, ...], ...]
    kept: tuple[int, ...]
    pooled: tuple[int, ...]


def of_layers(name: str, site: Site, loops: Sequence[Loop], part: Part) -> Rows:
    """The rows of a kernel: one for each of its layers that loops go through."""
    through = [axis is not None for axis in part.axes]
    return _rows(name, site, loops, through)


def of_places(name: str, site: Site, loops: Sequence[Loop]) -> Rows:
    """The rows of anything else: one for each iteration of the scans around."""
    return _rows(name, site, loops, [loop.kind == "scan" for loop in loops])


def by_row(x: Array, rows: Rows) -> Array:
    """An array with a leading axis for each loop as one with the rows' axes first.

    What is pooled comes after, then the array's own.
    """
    axes = (*rows.kept, *rows.pooled)
    rest = [k for k in range(x.ndim) if k not in axes]
    x = jnp.transpose(x, (*axes, *rest))
    shape = [x.shape[k] for k in range(len(rows.kept), len(axes))]
    return x.reshape(len(rows.names), *shape, *x.shape[len(axes) :])


def leaf_axes(
    shape: Sequence[int], part: Part, loops: Sequence[Loop]
) -> tuple[int, ...]:
    """The axes of a leaf whose places are its rows; none where all rows share it.

    Loops that share an axis of the leaf share its places, the outer the major part.
    """
    pairs = [
        (axis, loop.length)
        for axis, loop in zip(part.axes, loops, strict=True)
        if axis is not None and loop.length is not None
    ]
    axes = [axis for axis, _ in pairs]
    distinct = tuple(dict.fromkeys(axes))
    lengths = [math.prod(n for a, n in pairs if a == axis) for axis in distinct]
    # Loops whose axes alternate would need the places put in another order.
    in_turn = axes == sorted(axes, key=distinct.index)
    return distinct if in_turn and lengths == [shape[a] for a in distinct] else ()


def of_leaf(x: Array, axes: Sequence[int]) -> Array:
    """A leaf as an array (rows, entries, columns), with rows along some axes."""
    rest = [k for k in range(x.ndim) if k not in axes]
    rows = math.prod(x.shape[k] for k in axes)
    columns = x.shape[rest[-1]] if rest else 1
    return jnp.transpose(x, (*axes, *rest)).reshape(rows, -1, columns)


def added_up(entries: Sequence[tuple[Sums, Rows | None]]) -> tuple[Sums, Array]:
    """Sums of many places as those of each row, one after the other.

    Places of one form are added up together, which compiles to less.

    Returns:
        The sums, and over how many calls each was added up.
    """
    groups: dict[Any, list[int]] = {}
    ready: list[Sums] = []
    for k, (sums, rows) in enumerate(entries):
        by_feature = sums.fourth is not None and sums.joint is None
        if by_feature and sums.total is not None:
            sums = sums._replace(joint=jnp.square(sums.total))
        pooled = 0
        if rows is not None:
            sums = jax.tree.map(lambda x, rows=rows: by_row(x, rows), sums)
            pooled = len(rows.pooled)
        ready.append(sums)
        key = (pooled, sums.unit.shape, sums.unit.dtype)
        groups.setdefault(key, []).append(k)
    found: list[Any] = []
    place: dict[tuple[int, int], int] = {}
    for (pooled, shape, _), members in groups.items():
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *(ready[k] for k in members))
        stacked = jax.lax.optimization_barrier(stacked)
        ran = ~jnp.isnan(stacked.unit)
        ran = ran[..., 0] if len(shape) > 1 + pooled else ran
        ran = ran.sum(tuple(range(2, 2 + pooled)), dtype=float)
        one = merged(stacked, range(2, 1 + len(shape)))
        for k in members:
            for row in range(shape[0]):
                place[k, row] = len(place)
        found.append(jax.tree.map(jnp.ravel, (one, ran)))
    order = [place[pair] for pair in sorted(place)]
    join = lambda *x: jnp.concatenate([y.astype(float) for y in x])  # noqa: E731
    whole = jax.tree.map(join, *found)
    return jax.tree.map(lambda x: x[np.array(order, int)], whole)


def _rows(
    name: str, site: Site, loops: Sequence[Loop], through: Sequence[bool]
) -> Rows:
    stacked = [
        (loop, leads)
        for loop, leads in zip(loops, through, strict=True)
        if loop.length is not None
    ]
    kept = tuple(k for k, (_, leads) in enumerate(stacked) if leads)
    pooled = tuple(k for k, (_, leads) in enumerate(stacked) if not leads)
    leading = [loop for loop, leads in stacked if leads]
    around = {loop.site: loop for loop in loops}
    names: list[str] = []
    order: list[tuple[int, ...]] = []
    for place in np.ndindex(*(loop.length or 0 for loop in leading)):
        turns = dict(zip((loop.site for loop in leading), place, strict=True))
        key: list[int] = []
        for k, number in enumerate(site, 1):
            key.append(number)
            loop = around.get(site[:k])
            if loop is not None:
                turn = turns.get(loop.site, 0)
                key.append(-turn if loop.reverse else turn)
        names.append(f"{name}[{', '.join(map(str, place))}]" if place else name)
        order.append(tuple(key))
    return Rows(tuple(names), tuple(order), kept, pooled)
