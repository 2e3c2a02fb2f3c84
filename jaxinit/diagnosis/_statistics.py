r"""Statistics of arrays, reduced where they arise.

An array is summed over the examples first, and what is left, an array as small as one
example, over the rest: on a CPU one reduction to a number takes up to twice as long.
Entries are divided by the largest of a sample, so that no power of them overflows or
vanishes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from jaxinit._types import Array

_SAMPLE = 8  # slices of which the largest entry is the unit


class Place(NamedTuple):
    """What the axes of an array are.

    Attributes:
        examples: the axis of the examples; None where they are not told apart.
        features: the axes of a kernel's outputs.
        exact: whether entries are taken as they are, with no unit.
    """

    examples: int | None
    features: tuple[int, ...]
    exact: bool = False


class Forward(NamedTuple):
    r"""Sums over the entries $z$ of an array, in units of `unit`.

    Attributes:
        count: how many entries.
        unit: what they are divided by.
        total: $\sum z$.
        square: $\sum z^2$.
        fourth: $\sum z^4$.
        pairs: $\sum_{a \ne b} z_a \cdot z_b$ over pairs of examples.
        among: what `pairs` is if all examples are equal: $(B - 1) \sum z^2$.
        features: how many features there are.
    """

    count: Array
    unit: Array
    total: Array
    square: Array
    fourth: Array
    pairs: Array
    among: Array
    features: Array


class Backward(NamedTuple):
    r"""Sums over the entries $g$ of a gradient, in units of `unit`.

    They are zero where nothing comes back.

    Attributes:
        unit: what the entries are divided by.
        square: $\sum g^2$.
        active: how many are not zero.
        alive: through how many features some example sends a gradient.
    """

    unit: Array
    square: Array
    active: Array
    alive: Array


class Weights(NamedTuple):
    """Sums over the rows of a softmax.

    Attributes:
        count: how many rows have more than one entry to choose from.
        entropy: of the weights, over that of equal ones, summed over rows.
        spread: the variance of the logits of a row, summed over rows.
        rows: how many rows there are.
    """

    count: Array
    entropy: Array
    spread: Array
    rows: Array


class Bounded(NamedTuple):
    """Counts of a nonlinearity with bounds.

    Attributes:
        count: how many entries.
        saturated: how many lie within a hundredth of the range from a bound.
    """

    count: Array
    saturated: Array


Sums = TypeVar("Sums", Forward, Backward, Weights, Bounded)

SQUARES = {"total": 1, "square": 2, "fourth": 4, "pairs": 2, "among": 2}
"""The power of the unit that a sum is in."""


def forward(z: Array, place: Place) -> Forward:
    """The sums of an array."""
    z = _real(z)
    unit = _unit(z, place)
    z = z / unit
    square = jnp.square(z)
    axis = _first(z, place)
    firsts = [z.sum(axis), square.sum(axis), jnp.square(square).sum(axis)]
    # XLA would make one reduction of two.
    first, second, fourth = jax.lax.optimization_barrier(firsts)
    total, square = first.sum(), second.sum()
    if place.examples is None:
        pairs = among = jnp.zeros_like(square)
    else:
        pairs = jnp.square(first).sum() - square
        among = (z.shape[place.examples] - 1) * square
    number = lambda x: jnp.asarray(x, z.dtype)  # noqa: E731
    features = number(math.prod(z.shape[k] for k in place.features))
    sums = (total, square, fourth.sum(), pairs, among)
    return Forward(number(z.size), unit, *sums, features)


def backward(g: Array, place: Place) -> Backward:
    """The sums of a gradient."""
    g = _real(g)
    unit = _unit(g, place)
    axis = _first(g, place)
    firsts = [jnp.square(g / unit).sum(axis), (g != 0).sum(axis, dtype=g.dtype)]
    square, active = jax.lax.optimization_barrier(firsts)
    shift = [k - (isinstance(axis, int) and k > axis) for k in place.features]
    others = tuple(k for k in range(active.ndim) if k not in shift)
    by_feature = active.sum(others)
    alive = (by_feature > 0).sum(dtype=g.dtype)
    return Backward(unit, square.sum(), by_feature.sum(), alive)


def weights(logits: Array, numerators: Array, axis: int) -> Weights:
    """The sums of a softmax, from its logits and its numerators or its results.

    Logits that are lower than the largest of their row by 5,000 are masked.
    """
    logits, numerators = _real(logits), _real(numerators)
    far = logits > logits.max(axis, keepdims=True) - 5000
    seen = far & (logits > -jnp.inf)
    held = seen.sum(axis, dtype=logits.dtype)
    some = jnp.maximum(held, 1)
    kept = jnp.where(seen, logits, 0)
    mean = jnp.expand_dims(kept.sum(axis) / some, axis)
    spread = jnp.where(seen, jnp.square(kept - mean), 0).sum(axis) / some
    shares = numerators / numerators.sum(axis, keepdims=True)
    information = jnp.where(
        shares > 0, -shares * jnp.log(jnp.maximum(shares, 1e-37)), 0
    )
    entropy = information.sum(axis) / jnp.log(jnp.maximum(held, 2))
    more = held > 1
    total = lambda x: jnp.where(more, x, 0).sum()  # noqa: E731
    return Weights(
        more.sum(dtype=logits.dtype),
        total(entropy),
        total(spread),
        jnp.asarray(more.size, logits.dtype),
    )


def bounded(y: Array, kind: str) -> Bounded:
    """The counts of a tanh, or of a sigmoid."""
    y = _real(y)
    out = jnp.abs(y) if kind == "tanh" else jnp.abs(2 * y - 1)
    return Bounded(jnp.asarray(y.size, y.dtype), (out > 0.98).sum(dtype=y.dtype))


def moments(x: Array) -> tuple[Array, Array]:
    """Root mean square and standard deviation of the rows of an array."""
    x = _real(x).reshape(len(x), -1)
    if not x.shape[1]:
        return (jnp.full(len(x), jnp.nan),) * 2
    most = jnp.abs(x[:, :: min(_SAMPLE, -(-x.shape[1] // _SAMPLE))]).max(1)
    unit = jnp.where(jnp.isfinite(most) & (most > 0), most, 1)
    scaled = x / unit[:, None]
    mean, square = scaled.mean(axis=1), jnp.mean(jnp.square(scaled), axis=1)
    variance = jnp.maximum(square - jnp.square(mean), 0)
    return unit * jnp.sqrt(square), unit * jnp.sqrt(variance)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def probe(z: Array, dummy: Sequence[Backward], spots: Any) -> Array:
    """An array as it is; the cotangents of the dummies are sums of its own cotangent.

    Args:
        z: the array.
        dummy: for each spot zeros as `backward` returns numbers.
        spots: pairs of a `Place` and a span (axis, start, stop), None for all of it.
    """
    return z


def _probe_forward(
    z: Array, dummy: Sequence[Backward], spots: Any
) -> tuple[Array, Sequence[Backward]]:
    return z, dummy


def _probe_backward(
    spots: Any, dummy: Sequence[Backward], g: Array
) -> tuple[Array, Sequence[Backward]]:
    found = [backward(cut(g, span), place) for place, span in spots]
    # As varied over the devices of a mesh as the dummy is.
    same = lambda x, d: x.astype(d.dtype) + 0 * d  # noqa: E731
    return g, jax.tree.map(same, type(dummy)(found), dummy)


probe.defvjp(_probe_forward, _probe_backward)


def cut(x: Array, span: tuple[int, int, int] | None) -> Array:
    """The part of an array from a start to a stop along an axis."""
    if span is None:
        return x
    axis, start, stop = span
    return jax.lax.slice_in_dim(x, start, stop, axis=axis)


def pooled(sums: Sums, axes: Sequence[int]) -> Sums:
    """Sums that lie along axes added up. What did not run is NaN, or counts nothing."""
    axes = tuple(axes)
    ran = jnp.isfinite(sums[0])
    kept = {n: jnp.where(ran, x, 0) for n, x in sums._asdict().items()}
    if "unit" in kept:
        unit = kept["unit"].max(axes, keepdims=True)
        unit = jnp.where(unit > 0, unit, 1)
        ratio = kept["unit"] / unit
        for name, power in SQUARES.items():
            if name in kept:
                kept[name] = kept[name] * ratio**power
    added = {name: value.sum(axes) for name, value in kept.items()}
    if "unit" in kept:
        added["unit"] = unit.squeeze(axes)
    return type(sums)(**added)


def _real(x: Array) -> Array:
    """The array in float32 or wider; real and imaginary parts count apart."""
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        x = jnp.stack([x.real, x.imag], axis=-1)
    wide = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize > 4
    return x if wide else x.astype(jnp.float32)


def _first(x: Array, place: Place) -> int | tuple[int, ...]:
    """The axis to sum over first, none if all are features."""
    if place.examples is not None:
        return place.examples
    others = [k for k in range(x.ndim) if k not in place.features]
    return max(others, key=lambda k: x.shape[k]) if others else ()


def _unit(x: Array, place: Place) -> Array:
    """The largest of a sample of the entries, 1 if that is zero or not finite."""
    one = jnp.ones((), x.dtype)
    if place.exact or x.size == 0:
        return one
    axis = _first(x, place)
    if isinstance(axis, int):
        size = x.shape[axis]
        x = jax.lax.slice_in_dim(x, 0, size, -(-size // _SAMPLE), axis)
    most = jnp.abs(x).max()
    return jnp.where(jnp.isfinite(most) & (most > 0), most, one)
