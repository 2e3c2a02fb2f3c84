"""Inputs sampled in place of data, in the form of those that a model takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, Var

from jaxinit import _compat
from jaxinit._types import Array, Key, is_array
from jaxinit.trace import Program, Site, program
from jaxinit.trace._products import within


class Sampler:
    """How the inputs of a function are sampled.

    Attributes:
        shapes: the inputs that come of it, arrays as shapes.
        program: the function on them.
    """

    def __init__(
        self,
        owner: str,
        apply: Callable[..., Any],
        params: Any,
        inputs: Sequence[Any],
        examples: int | None,
    ) -> None:
        """Find how many examples it takes, and what its integers look up.

        Raises:
            ValueError: there is no telling what integers stand for.
        """
        self._owner = owner
        flat, self._tree = jax.tree.flatten(tuple(inputs))
        arrays = [k for k, x in enumerate(flat) if is_array(x)]
        shapes = {k: jax.ShapeDtypeStruct(flat[k].shape, flat[k].dtype) for k in arrays}
        sizes = [flat[k].shape[0] for k in arrays if flat[k].shape]
        count = sizes[0] if sizes else 0
        self._taken = shapes
        made = None
        if examples is None:
            examples = _enough(shapes[arrays[0]] if arrays else None)
        if 0 < count < examples:
            more = {
                k: jax.ShapeDtypeStruct((examples, *x.shape[1:]), x.dtype)
                if x.shape[:1] == (count,)
                else x
                for k, x in shapes.items()
            }
            made = _taken(apply, params, self._filled(flat, more))
            self._taken = more if made is not None else shapes
        self.shapes = self._filled(flat, self._taken)
        self.program = made or program(apply, params, *self.shapes)
        self._rows: dict[int, tuple[int, int]] = {}
        integers = [k for k in arrays if jnp.issubdtype(shapes[k].dtype, jnp.integer)]
        if integers:
            rows = looked_up(self.program)
            for k in integers:
                self._rows[k] = self._range(flat[k], rows.get(arrays.index(k)))

    def __call__(
        self,
        key: Key,
        inputs: Sequence[Any],
        mean: Any = 0.0,
        covariance: Any = 1.0,
        like: str | None = None,
    ) -> tuple[Any, ...]:
        """Inputs of the same form, sampled.

        Args:
            key: one PRNG key.
            inputs: the inputs that came, concrete where `like` is "data".
            mean: of real entries, a number or one for each entry of an example.
            covariance: a variance, or a matrix over the entries of an example.
            like: "data" for the first two moments of the inputs that came.
        """
        flat = jax.tree.leaves(tuple(inputs))
        made: dict[int, Any] = {}
        for k, shape in self._taken.items():
            own = jax.random.fold_in(jax.random.fold_in(key, 0x696E70), k)
            made[k] = self._sampled(own, k, shape, flat[k], mean, covariance, like)
        return self._filled(flat, made)

    def _sampled(
        self,
        key: Key,
        k: int,
        to: Any,
        given: Any,
        mean: Any,
        covariance: Any,
        like: Any,
    ) -> Any:
        if jnp.issubdtype(to.dtype, jax.dtypes.prng_key):
            return given if is_concrete(given) else jax.random.split(key, to.shape)
        if to.dtype == bool:
            return jnp.ones(to.shape, bool)
        if like == "data" and to.shape and is_concrete(given):
            given = jnp.asarray(given)
            if not jnp.issubdtype(to.dtype, jnp.inexact):
                chosen = jax.random.randint(key, to.shape[:1], 0, len(given))
                return given[chosen]
            # As many normal numbers as there are examples, mixed as these lie.
            middle = given.mean(0, keepdims=True)
            apart = (given - middle).reshape(len(given), -1)
            normal = jax.random.normal(key, (to.shape[0], len(given)), to.dtype)
            mixed = normal @ apart / max(1, len(given) - 1) ** 0.5
            return middle + mixed.reshape(to.shape)
        if jnp.issubdtype(to.dtype, jnp.integer):
            low, high = self._rows[k]
            return jax.random.randint(key, to.shape, low, high, to.dtype)
        return self._normal(key, to, mean, covariance)

    def _normal(self, key: Key, to: Any, mean: Any, covariance: Any) -> Array:
        example = to.shape[1:]
        size = int(np.prod(example))
        middle, spread = np.asarray(mean, float), np.asarray(covariance, float)
        if middle.size not in (1, size) or spread.shape not in ((), (size, size)):
            raise ValueError(
                f"{self._owner}: an example has {size} entries, but mean has "
                f"{middle.size} and covariance the shape {spread.shape}; give numbers, "
                f"or a mean of {size} entries and a covariance of ({size}, {size})."
            )
        normal = jax.random.normal(key, to.shape, to.dtype)
        if spread.ndim:
            values, vectors = np.linalg.eigh(spread)
            if values.min() < -1e-6 * abs(values).max():
                raise ValueError(
                    f"{self._owner}: covariance has a negative eigenvalue, "
                    f"{values.min():.3g}; a covariance has none."
                )
            root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
            mixed = normal.reshape(len(normal), -1) @ jnp.asarray(root, to.dtype)
            normal = mixed.reshape(to.shape)
        else:
            normal = normal * jnp.asarray(np.sqrt(spread), to.dtype)
        shape = (1, *example) if middle.size == size and example else ()
        middle = middle.reshape(shape)
        return normal + jnp.asarray(middle, to.dtype)

    def _range(self, given: Any, rows: int | None) -> tuple[int, int]:
        """From where to where integers go, the end excluded."""
        if rows is not None:
            return 0, rows
        if given.dtype == jnp.uint8:
            return 0, 255
        if is_concrete(given) and given.size:
            return int(np.min(given)), int(np.max(given)) + 1
        raise ValueError(
            f"{self._owner}: the integers of an input of shape {tuple(given.shape)} "
            "look up no table, so that nobody knows their range; pass an array of "
            "some in place of its shape."
        )

    def _filled(self, flat: Sequence[Any], arrays: Any) -> tuple[Any, ...]:
        leaves = [arrays.get(k, x) for k, x in enumerate(flat)]
        return jax.tree.unflatten(self._tree, leaves)


def is_concrete(x: Any) -> bool:
    """Whether there is an array, and not its shape alone."""
    return not isinstance(x, jax.ShapeDtypeStruct)


def _enough(x: Any) -> int:
    """How many examples tell a deviation: more where each has few entries."""
    if x is None:
        return 32
    entries = max(1, math.prod(x.shape[1:]))
    if jnp.issubdtype(x.dtype, jnp.integer):
        entries *= 64  # what a row of a table is to a model, at least
    return min(1024, max(32, 2**16 // entries))


def _taken(
    apply: Callable[..., Any], params: Any, inputs: Sequence[Any]
) -> Program | None:
    """A function on inputs of this form; None if it does not take them."""
    try:
        return program(apply, params, *inputs)
    except Exception:  # whatever a model says of a batch that it does not take
        return None


def looked_up(made: Program) -> dict[int, int]:
    """For inputs, by number, how many rows the smallest table has that they look up."""
    rows: dict[Site, int] = {}
    for (site, leaf), record in made.trace.records.items():
        if record.use.kind == "embedding" and record.use.in_axes:
            shape = made.trace.shapes[leaf]
            rows[site] = int(np.prod([shape[axis] for axis in record.use.in_axes]))
    found: dict[int, int] = {}
    _Lookups(rows, found).run(
        made.jaxpr,
        [
            frozenset({k - len(made.names)} if k >= len(made.names) else ())
            for k in range(len(made.jaxpr.invars))
        ],
        (),
    )
    return found


class _Lookups:
    """A walk that follows inputs to the tables that they index."""

    def __init__(self, rows: dict[Site, int], found: dict[int, int]) -> None:
        self.rows = rows
        self.found = found

    def run(
        self, jaxpr: Jaxpr, values: Sequence[frozenset[int]], outer: Site
    ) -> list[frozenset[int]]:
        env: dict[Any, frozenset[int]] = dict(zip(jaxpr.invars, values, strict=True))
        none: frozenset[int] = frozenset()

        def read(atom: Any) -> frozenset[int]:
            return env.get(atom, none) if isinstance(atom, Var) else none

        for number, eqn in enumerate(jaxpr.eqns):
            site = (*outer, number)
            operands = [read(atom) for atom in eqn.invars]
            every = none.union(*operands)
            if site in self.rows:
                for k in every:
                    rows = self.rows[site]
                    self.found[k] = min(rows, self.found.get(k, rows))
            outs = [every] * len(eqn.outvars)
            for prefix, inner in within(eqn).items():
                body = _compat.body(inner)
                own = operands[len(operands) - len(body.invars) :]
                results = self.run(body, own, (*site, *prefix))
                if len(results) == len(outs) and eqn.primitive.name in _compat.CALLS:
                    outs = results
            env.update(zip(eqn.outvars, outs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]
