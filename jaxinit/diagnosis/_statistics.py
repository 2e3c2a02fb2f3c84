r"""Statistics of arrays, reduced where they arise.

An array is summed over the examples first, and what is left, as small as one example,
over the rest: on a CPU one reduction to a number takes up to twice as long. Each column
of the first sum is in units of its largest entry, so that no power of an entry
overflows or vanishes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxinit._types import Array

FEW = 8
"""Examples on which attention and saturation are measured."""

_SMALL = 20
"""How many times smaller than an array its statistics by feature are, to be kept."""


_LEAST = 1e-37


class Spot(NamedTuple):
    """What is measured of an array, and what its axes are.

    Attributes:
        shape: of the array, or of the span of it.
        span: axis, start and stop of the part that is measured; None for all.
        examples: the axis of the examples; None where they are not told apart.
        features: the axes of a kernel's outputs.
        exact: whether entries are taken in units of 1.
    """

    shape: tuple[int, ...]
    span: tuple[int, int, int] | None
    examples: int | None
    features: tuple[int, ...]
    exact: bool = False

    @property
    def entries(self) -> int:
        """How many entries there are."""
        return math.prod(self.shape)

    @property
    def channels(self) -> int:
        """How many features there are."""
        return math.prod(self.shape[axis] for axis in self.features)

    @property
    def kept(self) -> tuple[int, ...]:
        """The shape of its statistics: by feature, or numbers where that is not small.

        A loop keeps them for each turn; they are added up after it, for all at once.
        """
        small = _SMALL * self.channels <= self.entries
        return (self.channels,) if small else ()


class Sums(NamedTuple):
    r"""Sums over entries $z$, each in units of a power of `unit`.

    Attributes:
        unit: the largest size of an entry, 0 if all are zero. NaN for what did not run.
        square: $\sum z^2$.
        total: $\sum z$.
        fourth: $\sum z^4$.
        joint: $\sum_f (\sum_b z_{bf})^2$ over examples b and all else f.
        alive: how many features have an entry that is not zero.
    """

    unit: Array
    square: Array
    total: Array | None = None
    fourth: Array | None = None
    joint: Array | None = None
    alive: Array | None = None


_POWERS = {"square": 2, "total": 1, "fourth": 4, "joint": 2, "alive": 0}


def forward(z: Array, spot: Spot) -> Sums:
    """The sums of an array, in the shape `spot.kept`."""
    z = _real(z)
    axis = _first(z, spot)
    unit, by = _unit(z, axis, spot.exact)
    # One after the other: XLA would keep the products that several of them read.
    total, by = jax.lax.optimization_barrier(((z * by).sum(axis), by))
    square, by = jax.lax.optimization_barrier((jnp.square(z * by).sum(axis), by))
    fourth = jnp.square(jnp.square(z * by)).sum(axis)
    return _kept(Sums(unit, square, total, fourth, jnp.square(total)), z, spot, axis)


def squares(z: Array, spot: Spot) -> Sums:
    """The sum of the squares alone."""
    z = _real(z)
    axis = _first(z, spot)
    unit, by = _unit(z, axis, spot.exact)
    return _kept(Sums(unit, jnp.square(z * by).sum(axis)), z, spot, axis)


def backward(g: Array, spot: Spot) -> Sums:
    """The sums of a gradient: of squares, and of what some example reaches."""
    g = _real(g)
    axis = _first(g, spot)
    unit, by = _unit(g, axis, spot.exact)
    return _kept(Sums(unit, jnp.square(g * by).sum(axis)), g, spot, axis, reach=True)


def nothing(spot: Spot, leading: Sequence[int]) -> Sums:
    """Zeros in the form of what `backward` returns, with leading axes."""
    zeros = lambda shape: jnp.zeros((*leading, *shape), float)  # noqa: E731
    alive = zeros(spot.kept)
    return Sums(zeros(spot.kept), zeros(spot.kept), alive=alive)


def of_rows(x: Array, full: bool) -> Sums:
    """The sums of the rows of a leaf (rows, entries, columns), by column.

    The unit of a row is the largest size in a sample of it: a leaf may be larger than
    all activations, and each way through it counts.
    """
    x = _real(x).reshape(*x.shape[:2], -1)
    entries = x.shape[1]
    sample = x[:, :: -(-entries // min(entries, max(8, entries // 8)))]
    unit, _ = _unit(sample.reshape(len(x), -1), 1, exact=False)
    unit = jnp.where(unit > 0, unit, 1)
    units = jnp.broadcast_to(unit[:, None], (len(x), x.shape[2]))
    by = (1 / unit)[:, None, None]
    # Apart from the squares: XLA would keep a product that both of them read.
    total = x.sum(1) * by[:, 0] if full else None
    return Sums(units, jnp.square(x * by).sum(1), total)


def merged(sums: Sums, axes: Sequence[int]) -> Sums:
    """Sums that lie along axes added up; what did not run counts nothing."""
    axes = tuple(axes)
    ran = ~jnp.isnan(sums.unit)
    unit = jnp.where(ran, sums.unit, 0)
    most = unit.max(axes, keepdims=True)
    ratio = unit / jnp.where(most > 0, most, 1)
    added = {
        name: jnp.where(ran, x * ratio ** _POWERS[name], 0).sum(axes)
        for name, x in sums._asdict().items()
        if name != "unit" and x is not None
    }
    return Sums(unit=most.squeeze(axes), **added)


def _kept(
    sums: Sums, z: Array, spot: Spot, axis: int | tuple[int, ...], reach: bool = False
) -> Sums:
    """The sums by feature, or as numbers."""
    gone = () if axis == () else (axis,)
    left = [k for k in range(z.ndim) if k not in gone]
    features = [left.index(k) for k in spot.features]
    rest = [k for k in range(len(left)) if k not in features]
    if rest and z.size:
        # XLA would make one reduction of two.
        sums = merged(jax.lax.optimization_barrier(sums), rest)
    sums = jax.tree.map(jnp.ravel, sums)
    if reach:
        sums = sums._replace(alive=(sums.square > 0).astype(z.dtype))
    if not spot.kept:
        return merged(jax.lax.optimization_barrier(sums), (0,))
    return sums


class Few(NamedTuple):
    """Sums over a few examples, of an attention or a nonlinearity with bounds.

    Attributes:
        number: rows of an attention with more than one entry to choose from, or entries
            of a nonlinearity. NaN for what did not run.
        first: of an attention the entropies over those of equal weights, summed; how
            many entries of a nonlinearity lie within a hundredth of its range from a
            bound.
        second: the variances of the logits of a row, summed; 0 otherwise.
    """

    number: Array
    first: Array
    second: Array


def attention(logits: Array, numerators: Array, axis: int) -> Few:
    """The sums of a softmax, from its logits and its numerators or its results.

    Logits that are lower than the largest of their row by 5,000 are masked.
    """
    logits, numerators = _real(logits), _real(numerators)
    shifted = logits - logits.max(axis, keepdims=True)
    seen = shifted > -5000
    shifted = jnp.where(seen, shifted, 0)
    held = seen.sum(axis, dtype=shifted.dtype)
    mean = shifted.sum(axis) / held
    spread = jnp.square(shifted).sum(axis) / held - jnp.square(mean)
    all_of = numerators.sum(axis)
    # The largest has logit 0, so its weight tells the normalization.
    largest = numerators.max(axis) / all_of
    entropy = -(numerators * shifted).sum(axis) / all_of - jnp.log(largest)
    more = held > 1
    share = entropy / jnp.log(jnp.maximum(held, 2))
    total = lambda x: jnp.where(more, x, 0).sum()  # noqa: E731
    return Few(more.sum(dtype=shifted.dtype), total(share), total(spread))


def bounded(y: Array, kind: str) -> Few:
    """The counts of a tanh, or of a sigmoid."""
    y = _real(y)
    out = jnp.abs(y) if kind == "tanh" else jnp.abs(2 * y - 1)
    count = jnp.asarray(y.size, y.dtype)
    return Few(count, (out > 0.98).sum(dtype=y.dtype), jnp.zeros_like(count))


def a_few(x: Array, examples: int) -> Array:
    """The first few examples, if an axis is as long as there are examples."""
    axis = next((k for k, n in enumerate(x.shape) if n == examples), None)
    if axis is None or examples <= FEW:
        return x
    return jax.lax.slice_in_dim(x, 0, FEW, axis=axis)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def probe(z: Array, dummy: Sequence[Sums], spots: Sequence[Spot]) -> Array:
    """An array as it is; the cotangents of the dummies are sums of its own cotangent.

    Args:
        z: the array.
        dummy: for each spot what `nothing` returns.
        spots: what is measured.
    """
    return z


def _probe_forward(
    z: Array, dummy: Sequence[Sums], spots: Sequence[Spot]
) -> tuple[Array, Sequence[Sums]]:
    return z, dummy


def _probe_backward(
    spots: Sequence[Spot], dummy: Sequence[Sums], g: Array
) -> tuple[Array, Sequence[Sums]]:
    found = tuple(backward(cut(g, spot.span), spot) for spot in spots)
    # As varied over the devices of a mesh as the dummy is.
    same = lambda x, d: x.astype(d.dtype) + 0 * d  # noqa: E731
    return g, jax.tree.map(same, found, dummy)


probe.defvjp(_probe_forward, _probe_backward)


def cut(x: Array, span: tuple[int, int, int] | None) -> Array:
    """The part of an array from a start to a stop along an axis."""
    if span is None:
        return x
    axis, start, stop = span
    return jax.lax.slice_in_dim(x, start, stop, axis=axis)


def _real(x: Array) -> Array:
    """The array in float32 or wider; real and imaginary parts count apart."""
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        x = jnp.stack([x.real, x.imag], axis=-1)
    wide = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize > 4
    return x if wide else x.astype(jnp.float32)


def _first(x: Array, spot: Spot) -> int | tuple[int, ...]:
    """The axis to sum over first, none if all are features."""
    if spot.examples is not None:
        return spot.examples
    others = [k for k in range(x.ndim) if k not in spot.features]
    return max(others, key=lambda k: x.shape[k]) if others else ()


def _unit(x: Array, axis: int | tuple[int, ...], exact: bool) -> tuple[Array, Array]:
    """The largest size along an axis, and its reciprocal, to be broadcast."""
    sizes = jnp.abs(x) if x.size else jnp.zeros_like(x)
    most = sizes.max(axis, initial=0)
    # Both it and its reciprocal are normal numbers.
    unit = jnp.where(jnp.isfinite(most), jnp.clip(most, _LEAST, 1 / _LEAST), 1)
    unit = jnp.where(most == 0, 0, jnp.ones_like(unit) if exact else unit)
    by = 1 / jnp.where(unit > 0, unit, 1)
    return unit, jnp.expand_dims(by, axis) if axis != () else by
