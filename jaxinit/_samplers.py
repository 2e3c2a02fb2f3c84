"""Draws of mean 0 and a given variance, in float32 or wider.

Every sampler takes `(key, shape, dtype, ...)` with a real or complex work dtype and
uses the random bits as `jax.random` does, so that a scheme shared with
`jax.nn.initializers` gives the same values for the same key. What is multiplied is
multiplied in the order of the JAX at hand, for the same last bit.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxinit import _compat
from jaxinit._types import Array, DType, Key, Numeric

CUT = 2.0
"""Where the truncated schemes cut, in standard deviations before truncation."""

TAIL = 3.0
"""Beyond it the distribution function is too near 0 or 1 to be inverted in float32."""

REACH = 6.0
"""No float32 normal of `jax.random` lies further out: the stand-in for infinity."""


def is_complex(dtype: DType) -> bool:
    """Whether `dtype` is complex."""
    return jnp.issubdtype(dtype, jnp.complexfloating)


def real_dtype(dtype: DType) -> np.dtype:
    """The dtype of the real part of `dtype`."""
    return jnp.finfo(dtype).dtype


def rounded(x: Array) -> Array:
    """Return `x`, rounded to its dtype here and now.

    XLA folds `(x * c) * stddev` into `x * (c * stddev)` and contracts `x * s + m`,
    so that a jitted draw would differ from an eager one in its last bit. A clamp that
    never binds stands in the way of both, and costs nothing in a fused loop.
    """
    if is_complex(x.dtype):
        return lax.complex(rounded(x.real), rounded(x.imag))
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    limit = np.asarray(jnp.finfo(x.dtype).max, x.dtype)
    return lax.clamp(-limit, x, limit)


def scaled(x: Array, stddev: Numeric, mean: Numeric = 0.0) -> Array:
    """`x * stddev + mean` for real or complex `x` and real `stddev`, rounded twice."""
    if is_complex(x.dtype):
        stddev = jnp.asarray(stddev, real_dtype(x.dtype))
        return lax.complex(
            scaled(x.real, stddev, jnp.real(mean)),
            scaled(x.imag, stddev, jnp.imag(mean)),
        )
    return shifted(x * jnp.asarray(stddev, x.dtype), mean)


def shifted(x: Array, mean: Numeric) -> Array:
    """`x + mean` for real `x`, which is rounded before."""
    if isinstance(mean, float) and mean == 0.0:
        return x
    return rounded(x) + jnp.asarray(mean, x.dtype)


def interval(
    key: Key, shape: tuple[int, ...], dtype: DType, lower: Numeric, upper: Numeric
) -> Array:
    """Uniform on [lower, upper); if complex, so are both parts, independently."""
    if is_complex(dtype):
        real = real_dtype(dtype)
        keys = jax.random.split(key)
        return lax.complex(*(interval(k, shape, real, lower, upper) for k in keys))
    return jax.random.uniform(key, shape, dtype, lower, upper)


def uniform(key: Key, shape: tuple[int, ...], dtype: DType, variance: Array) -> Array:
    """Uniform on +-sqrt(3 variance); if complex, on the disk of that variance."""
    if is_complex(dtype):
        key_modulus, key_angle = jax.random.split(key)
        real = real_dtype(dtype)
        modulus = jnp.sqrt(2 * jax.random.uniform(key_modulus, shape, real))
        angle = jax.random.uniform(key_angle, shape, real)
        return scaled(_polar(modulus, angle), jnp.sqrt(variance))
    return jax.random.uniform(key, shape, dtype, -1) * jnp.sqrt(3 * variance)


def standard_normal(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
    """N(0, 1); if complex, independent parts of variance 1/2."""
    if is_complex(dtype):
        real = real_dtype(dtype)
        half = np.asarray(math.sqrt(2), real)
        keys = jax.random.split(key)
        return lax.complex(
            *(rounded(standard_normal(k, shape, real) / half) for k in keys)
        )
    return rounded(jax.random.normal(key, shape, dtype))


def scaled_normal(
    key: Key, shape: tuple[int, ...], dtype: DType, stddev: Numeric, mean: Numeric = 0.0
) -> Array:
    """N(mean, stddev^2), untruncated; if complex, of that variance in all."""
    if is_complex(dtype) or not _compat.NORMALS_ROUND_ONCE:
        return scaled(standard_normal(key, shape, dtype), stddev, mean)
    root = jnp.asarray(math.sqrt(2), dtype) * jnp.asarray(stddev, dtype)
    return shifted(root * _half_variance_normal(key, shape, np.dtype(dtype)), mean)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _half_variance_normal(key: Key, shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """N(0, 1/2), always in one program, for apart its steps round otherwise."""
    lowest = np.nextafter(np.asarray(-1, dtype), np.asarray(0, dtype))
    return rounded(lax.erf_inv(jax.random.uniform(key, shape, dtype, lowest, 1)))


def normal(key: Key, shape: tuple[int, ...], dtype: DType, variance: Array) -> Array:
    """N(0, variance), untruncated."""
    return scaled_normal(key, shape, dtype, jnp.sqrt(variance))


def standard_truncated_normal(
    key: Key, shape: tuple[int, ...], dtype: DType, lower: Numeric, upper: Numeric
) -> Array:
    """N(0, 1) given lower < x < upper; if complex, given a modulus below `upper`.

    The variance before truncation is 1; `truncated_moments` says what is left of it.
    """
    if is_complex(dtype):
        key_modulus, key_angle = jax.random.split(key)
        real = real_dtype(dtype)
        mass = -jnp.expm1(jnp.asarray(-(upper**2), real))
        squared = -jnp.log1p(-mass * jax.random.uniform(key_modulus, shape, real))
        return _polar(jnp.sqrt(squared), jax.random.uniform(key_angle, shape, real))
    if not isinstance(lower, float) or not isinstance(upper, float):
        lower, upper = jnp.asarray(lower, dtype), jnp.asarray(upper, dtype)
        mirrored = upper < -TAIL
        beyond = mirrored | (lower > TAIL)

        def bounds(used: Array, low: Array, high: Array, other: float) -> list[Array]:
            # A draw that is not taken is one of its kind, so that gradients are finite.
            return [jnp.where(used, low, other), jnp.where(used, high, other + 1)]

        near = jnp.where(mirrored, -upper, lower)
        far = jnp.where(mirrored, -lower, upper)
        tail = _tail(key, shape, dtype, *bounds(beyond, near, far, TAIL))
        tail = jnp.where(mirrored, -tail, tail)
        low, high = jnp.maximum(lower, -REACH), jnp.minimum(upper, REACH)
        body = _body(key, shape, np.dtype(dtype), *bounds(~beyond, low, high, 0.0))
        return jnp.where(beyond, tail, body)
    if lower > TAIL:
        return _tail(key, shape, dtype, lower, upper)
    if upper < -TAIL:
        return -_tail(key, shape, dtype, -upper, -lower)
    lower, upper = max(lower, -REACH), min(upper, REACH)
    return jax.random.truncated_normal(key, lower, upper, shape, dtype)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _body(
    key: Key, shape: tuple[int, ...], dtype: np.dtype, lower: Array, upper: Array
) -> Array:
    """`jax.random.truncated_normal`, which has no gradient by its bounds."""
    root = np.asarray(math.sqrt(2), dtype)
    low, high = lax.erf(lower / root), lax.erf(upper / root)
    x = root * lax.erf_inv(jax.random.uniform(key, shape, dtype, low, high))
    return jnp.clip(x, _next(lower, math.inf), _next(upper, -math.inf))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _next(x: Array, towards: float) -> Array:
    """The number beside x, which moves with x."""
    return lax.nextafter(x, jnp.full_like(x, towards))


@_next.defjvp
def _(towards: float, primals: tuple[Array], tangents: tuple[Array]) -> Any:
    return _next(*primals, towards), tangents[0]


def _tail(
    key: Key, shape: tuple[int, ...], dtype: DType, lower: Numeric, upper: Numeric
) -> Array:
    r"""N(0, 1) given lower < x < upper, both far above 0, by inversion of its hazard.

    With the Mills ratio $r(x) = Q(x) / \varphi(x)$, the exponent
    $E(d) = -\log (Q(a + d) / Q(a)) = d (2 a + d) / 2 - \log (r(a + d) / r(a))$ cancels
    nothing, unlike a distribution function near 1; a draw of E is exponential, cut at
    E(b - a), and Newton's method solves for d.
    """
    a = jnp.asarray(lower, dtype)

    def exponent(d: Array) -> Array:
        return d * (2 * a + d) / 2 - jnp.log(_mills_ratio(a + d) / _mills_ratio(a))

    b = jnp.asarray(upper, dtype)
    cut = jnp.isfinite(b)  # without a cut, exponent has no gradient
    mass = jnp.where(cut, -jnp.expm1(-exponent(jnp.where(cut, b, a + 1) - a)), 1)
    target = -jnp.log1p(-mass * jax.random.uniform(key, shape, dtype))
    d = 2 * target / (jnp.sqrt(a**2 + 2 * target) + a)
    for _ in range(3):
        d = d - (exponent(d) - target) * _mills_ratio(a + d)
    return jnp.clip(a + d, _next(a, math.inf), _next(b, 0.0))


def _mills_ratio(x: Array) -> Array:
    """Q(x) / phi(x) of N(0, 1) for x of 3 or more, by Laplace's fraction."""
    denominator = x
    for k in range(24, 0, -1):
        denominator = x + k / denominator
    return 1 / denominator


def truncated_normal(
    key: Key, shape: tuple[int, ...], dtype: DType, variance: Array
) -> Array:
    """Normal cut at two standard deviations, then scaled to the variance."""
    stddev = truncated_moments(-CUT, CUT, modulus=is_complex(dtype))[1]
    x = standard_truncated_normal(key, shape, dtype, -CUT, CUT)
    return scaled(x, jnp.sqrt(variance) / jnp.asarray(stddev, variance.dtype))


DISTRIBUTIONS = {
    "truncated_normal": truncated_normal,
    "normal": normal,
    "uniform": uniform,
}
"""What a variance scheme may draw from: `(key, shape, dtype, variance) -> Array`."""


def truncated_moments(
    lower: Numeric, upper: Numeric, *, modulus: bool = False
) -> tuple[Numeric, Numeric]:
    r"""Mean and standard deviation of N(0, 1) given lower < x < upper.

    By Gauss-Legendre quadrature of $e^{-(x^2 - c^2)/2}$, where $c$ is the point of the
    interval nearest to 0, over the part of the interval where that is above
    $e^{-45}$: no term cancels, so it holds in the far tail, and for traced bounds.
    A complex normal given a `modulus` $|z| < b$ has $|z|^2$ exponential given
    $|z|^2 < b^2$: mean 0 and variance $1 - b^2 / (e^{b^2} - 1)$.
    """
    np_or_jnp = jnp if isinstance(lower + upper, jax.Array) else np
    if modulus:
        squared = upper**2
        return 0.0, np_or_jnp.sqrt(1 - squared / np_or_jnp.expm1(squared))
    near = np_or_jnp.clip(0.0, lower, upper)
    reach = np_or_jnp.sqrt(near**2 + 90)
    start = np_or_jnp.clip(lower, -reach, None)
    length = np_or_jnp.clip(upper, None, reach) - start
    nodes, weights = _legendre()
    x = start + length * nodes
    mass = weights * np_or_jnp.exp((near - x) * (near + x) / 2)
    total = mass.sum()
    mean = (mass * x).sum() / total
    return mean, np_or_jnp.sqrt((mass * (x - mean) ** 2).sum() / total)


@functools.cache
def _legendre() -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(128)
    return (nodes + 1) / 2, weights / 2


def _polar(modulus: Array, turns: Array) -> Array:
    angle = 2 * np.pi * turns
    return lax.complex(modulus * jnp.cos(angle), modulus * jnp.sin(angle))
