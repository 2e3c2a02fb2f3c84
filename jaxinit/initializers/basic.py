"""Schemes that look at neither fan nor structure: the same for every shape."""

from __future__ import annotations

from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jaxinit import _checks, _samplers
from jaxinit._initializer import initializer, self_initializer
from jaxinit._types import Array, Draw, DType, Key, Numeric


@self_initializer
def zeros(dtype: DType = None) -> Draw:
    """All zeros.

    Usable as the initializer itself, as in `jax.nn.initializers`, and called without
    arguments: `zeros` and `zeros()` are the same object. Any dtype is accepted.

    Returns:
        An array of zeros.

    Example:
        >>> import jax
        >>> zeros(jax.random.key(0), (2,))
        Array([0., 0.], dtype=float32)
    """
    return lambda key, shape, dtype: jnp.zeros(shape, dtype)


@self_initializer
def ones(dtype: DType = None) -> Draw:
    """All ones.

    Usable as the initializer itself and called without arguments, like `zeros`.

    Returns:
        An array of ones.

    Example:
        >>> import jax
        >>> ones()(jax.random.key(0), (2,))
        Array([1., 1.], dtype=float32)
    """
    return lambda key, shape, dtype: jnp.ones(shape, dtype)


@initializer(shown=("value",), random=False, inexact=False, entrywise=True)
def constant(value: Any, dtype: DType = None) -> Draw:
    """All equal to a value, or the value itself, broadcast to the shape.

    Args:
        value: a number, or an array that broadcasts to the shape.
        dtype: dtype of the array, any; JAX's default float if None.

    Returns:
        An initializer.

    Raises:
        ValueError: the value does not broadcast to the shape.

    Example:
        >>> import jax
        >>> constant(0.5)(jax.random.key(0), (2,))
        Array([0.5, 0.5], dtype=float32)
    """
    if not _checks.is_traced(value):
        array = np.asarray(value)
        if not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool):
            raise TypeError(
                f"constant: value={value!r} must be a number or an array of numbers."
            )
        if jnp.issubdtype(array.dtype, jnp.inexact) and np.isnan(array).any():
            raise ValueError(
                f"constant: value={value!r} holds NaN; give it numbers alone."
            )

    def draw(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
        _checks.broadcasts("constant", "value", np.shape(value), shape)
        return jnp.broadcast_to(jnp.asarray(value, dtype), shape)

    return draw


@initializer(shown=("scale",), entrywise=True, cites=("bradbury2018",))
def uniform(
    scale: Numeric = 1e-2,
    dtype: DType = None,
    *,
    minval: Numeric | None = None,
    maxval: Numeric | None = None,
) -> Draw:
    r"""Uniform on an interval.

    $w \sim U[0, \text{scale})$ as in JAX, or $U[\text{minval}, \text{maxval})$ when
    either bound is given (the other is then 0). A complex draw has both parts
    independently uniform.

    Args:
        scale: upper end of the interval from 0, dimensionless; not used with bounds.
        dtype: dtype of the array; JAX's default float if None.
        minval: lower end, included.
        maxval: upper end, excluded.

    Returns:
        An initializer.

    Raises:
        ValueError: minval is not below maxval.

    Example:
        >>> import jax
        >>> x = uniform(minval=-1, maxval=3)(jax.random.key(0), (2**16,))
        >>> round(float(x.mean()), 1), round(float(x.std()), 1)
        (1.0, 1.2)

    References:
        The form with a scale is the one of `jax.nn.initializers.uniform`.
    """
    _checks.number("uniform", scale=scale, minval=minval, maxval=maxval)
    if minval is None and maxval is None:

        def draw(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
            return _samplers.scaled(
                _samplers.interval(key, shape, dtype, 0.0, 1.0), scale
            )

        return draw
    low = 0.0 if minval is None else minval
    high = 0.0 if maxval is None else maxval
    _checks.interval("uniform", low, high, ("minval", "maxval"))
    return lambda key, shape, dtype: _samplers.interval(key, shape, dtype, low, high)


@initializer(shown=("stddev",), entrywise=True)
def normal(stddev: Numeric = 1e-2, dtype: DType = None, *, mean: Numeric = 0.0) -> Draw:
    r"""Normal with a fixed standard deviation, whatever the fan.

    $w \sim \mathcal{N}(\text{mean}, \text{stddev}^2)$. A complex draw has
    $\mathbb{E}|w - \text{mean}|^2 = \text{stddev}^2$. The baseline: signals vanish or
    explode with depth unless stddev happens to fit the fan.

    Args:
        stddev: standard deviation, dimensionless, not negative; 0.01 as in JAX.
        dtype: dtype of the array; JAX's default float if None.
        mean: mean, dimensionless.

    Returns:
        An initializer.

    Raises:
        ValueError: stddev is negative.

    Example:
        >>> import jax
        >>> x = normal(0.5, mean=1)(jax.random.key(0), (2**16,))
        >>> round(float(x.mean()), 1), round(float(x.std()), 2)
        (1.0, 0.5)
    """
    _checks.number("normal", stddev=stddev, minimum=0)
    _checks.number("normal", mean=mean)

    def draw(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
        return _samplers.scaled_normal(key, shape, dtype, stddev, mean)

    return draw


@initializer(shown=("stddev",), entrywise=True, cites=("johnson1994",))
def truncated_normal(
    stddev: Numeric = 1e-2,
    dtype: DType = None,
    lower: Numeric = -2.0,
    upper: Numeric = 2.0,
    *,
    mean: Numeric = 0.0,
    bounds: Literal["stddev", "absolute"] = "stddev",
    corrected: bool = False,
) -> Draw:
    r"""Normal, given that it lies between two bounds.

    $w = \text{mean} + \text{stddev}\,z$ with $z \sim \mathcal{N}(0, 1)$ given
    $a < z < b$. With `bounds="stddev"`, $a, b$ are lower and upper (JAX, Haiku); with
    `bounds="absolute"`, lower and upper bound $w$ itself (PyTorch, timm), so
    $a = (\text{lower} - \text{mean}) / \text{stddev}$. Truncation narrows the
    distribution (to 0.8796 stddev at two standard deviations); `corrected=True` shifts
    and rescales $z$ by its own mean and standard deviation, so that mean and stddev are
    those of the draw. A draw has gradients by its bounds, as a quantile has.

    The float32 values are those of `jax.nn.initializers.truncated_normal` under
    `jax.jit`, unless both bounds lie beyond three standard deviations on one side; with
    bounds other than +-2, JAX's eager draws differ from its compiled ones, by up to
    8e-5 standard deviations.

    Args:
        stddev: standard deviation before truncation (of the draw if corrected),
            dimensionless, positive; 0.01 as in JAX.
        dtype: dtype of the array; JAX's default float if None.
        lower: lower bound, may be -inf.
        upper: upper bound, may be inf.
        mean: mean before truncation (of the draw if corrected).
        bounds: the unit of the bounds: standard deviations, or the draw's own.
        corrected: whether mean and stddev describe the draw after truncation.

    Returns:
        An initializer. A complex draw has its modulus truncated and needs
        lower = -upper.

    Raises:
        ValueError: lower is not below upper, stddev is not positive, or absolute
            bounds are combined with `corrected`, which would move them.

    Example:
        >>> import jax
        >>> x = truncated_normal(1.0, corrected=True)(jax.random.key(0), (2**16,))
        >>> round(float(x.std()), 2), round(float(x.max()), 2)
        (1.0, 2.27)

    References:
        Johnson, Kotz and Balakrishnan 1994, Continuous Univariate Distributions 1,
        section 13.10, for the moments.
    """
    owner = "truncated_normal"
    _checks.choice(owner, "bounds", bounds, ("stddev", "absolute"))
    _checks.number(owner, mean=mean)
    _checks.number(owner, stddev=stddev, minimum=0, positive=bounds == "absolute")
    _checks.interval(owner, lower, upper, ("lower", "upper"))
    if bounds == "absolute":
        if corrected:
            raise ValueError(
                "truncated_normal: corrected=True rescales the draw and so moves its "
                "bounds; use it with bounds='stddev'."
            )
        lower, upper = (lower - mean) / stddev, (upper - mean) / stddev

    def draw(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
        modulus = _samplers.is_complex(dtype)
        if modulus and not _checks.is_traced(lower + upper) and lower + upper != 0:
            raise ValueError(
                f"truncated_normal: a complex draw is truncated in its modulus and "
                f"needs lower=-upper, got {lower!r} and {upper!r}."
            )
        z = _samplers.standard_truncated_normal(key, shape, dtype, lower, upper)
        if not corrected:
            return _samplers.scaled(z, stddev, mean)
        center, width = _samplers.truncated_moments(lower, upper, modulus=modulus)
        return _samplers.scaled(z - center, stddev / width, mean)

    return draw
