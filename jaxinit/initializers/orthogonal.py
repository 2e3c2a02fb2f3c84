"""Orthogonal matrices, as they are and scaled to keep the mean square."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxinit import _checks
from jaxinit._haar import haar
from jaxinit._initializer import Initializer, initializer
from jaxinit._layout import Spot
from jaxinit._types import Array, Axis, Draw, DType, Key, Numeric

METHODS = ("products", "qr")


def matrices(
    key: Key,
    batch: tuple[int, ...],
    rows: tuple[int, ...],
    columns: int,
    dtype: DType,
    method: str,
    sharding: NamedSharding | None = None,
) -> Array:
    """Haar (semi-)orthogonal matrices, shape (*batch, *rows, columns)."""
    if method == "products":
        return haar(key, rows, columns, batch, dtype, sharding)
    if _checks.is_traced(key) and jax.default_backend() == "cpu":
        warnings.warn(
            "orthogonal(method='qr') inside jit or vmap on a CPU: a program of about a "
            "dozen batched QR calls never ends; use method='products'.",
            RuntimeWarning,
            stacklevel=2,
        )
    matrices = jax.random.orthogonal(key, math.prod(rows), batch, dtype, columns)
    return matrices.reshape(*batch, *rows, columns)


def _columns(init: Initializer, spot: Spot) -> Initializer | None:
    """The draw of a leaf that has its outputs, or its inputs, along one axis."""
    single = [axes[0] for axes in (spot.out_axes, spot.in_axes) if len(axes) == 1]
    if not single or not spot.fans or spot.groups > 1:
        return None
    return init.replace(column_axis=single[0], batch_axis=spot.batch_axes)


@initializer(
    sharded=True,
    compiled=False,
    fit=_columns,
    gain="scale",
    cites=("saxe2014", "mezzadri2007", "stewart1980"),
)
def orthogonal(
    scale: Numeric = 1.0,
    column_axis: int = -1,
    dtype: DType = None,
    *,
    batch_axis: Axis = (),
    method: Literal["products", "qr"] = "products",
) -> Draw:
    r"""Haar-distributed orthogonal matrices.

    The kernel is flattened to a matrix $W$ whose columns lie along `column_axis`, with
    $W^\top W = \text{scale}^2 I$ when there are at least as many rows as columns, and
    $W W^\top = \text{scale}^2 I$ otherwise; its distribution is the one that no
    rotation changes. The norm of any signal is kept, not only its mean. Complex kernels
    are unitary. A convolution kernel flattened so is *not* an orthogonal convolution:
    see `delta_orthogonal`.

    Eager and under `jit` the same key gives the same bits; under `vmap` and in shards
    products round otherwise, by up to 1e-6 of `scale`.

    Args:
        scale: multiplier of the matrix, dimensionless: the gain of the activation.
        column_axis: axis that holds the columns.
        dtype: dtype of the array; JAX's default float if None.
        batch_axis: axis or axes over which independent kernels are stacked.
        method: "products", a product of Householder reflections without any
            factorisation; or "qr", the values of `jax.nn.initializers.orthogonal`,
            which on a CPU can hang for ever inside `jit(vmap(init))`.

    Returns:
        An initializer; it needs a shape of rank two or more besides the batch axes.

    Raises:
        ValueError: an unknown method, or a shape of rank below two.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> w = orthogonal()(jax.random.key(0), (64, 32))
        >>> bool(jnp.allclose(w.T @ w, jnp.eye(32), atol=1e-5))
        True

    References:
        Saxe, McClelland and Ganguli 2014, arXiv:1312.6120; Mezzadri 2007,
        arXiv:math-ph/0609050, for the distribution; Stewart 1980, SIAM J. Numer. Anal.
        17, for the product of reflections.
    """
    _checks.number("orthogonal", scale=scale)
    _checks.axes("orthogonal", column_axis=column_axis, batch_axis=batch_axis)
    _checks.choice("orthogonal", "method", method, METHODS)

    def draw(
        key: Key,
        shape: tuple[int, ...],
        dtype: DType,
        sharding: NamedSharding | None = None,
    ) -> Array:
        batch, (column,) = _checks.normalized_axes(
            "orthogonal", shape, batch_axis=batch_axis, column_axis=column_axis
        )
        if column in batch:
            raise ValueError(
                f"orthogonal: column_axis={column_axis} is also in "
                f"batch_axis={batch_axis!r} for shape {shape}."
            )
        rows = [a for a in range(len(shape)) if a not in batch and a != column]
        if not rows:
            raise ValueError(
                f"orthogonal: shape {shape} has no axis left for rows; it needs two "
                "axes besides batch_axis."
            )
        order = (*batch, *rows, column)
        kernel = matrices(
            key,
            tuple(shape[a] for a in batch),
            tuple(shape[a] for a in rows),
            shape[column],
            dtype,
            method,
            _permuted(sharding, order, shape),
        )
        return _times(scale, kernel, tuple(np.argsort(order).tolist()))

    return draw


@initializer(cites=("martens2021",))
def scaled_orthogonal(gain: Numeric = 1.0, dtype: DType = None) -> Draw:
    r"""Scaled uniform orthogonal: a Haar matrix that keeps the mean square.

    $W = \text{gain}\,\max(\sqrt{o / i}, 1)\, Q$ with Q Haar (semi-)orthogonal of shape
    (i, o): where there are more outputs than inputs the mean square of the outputs, not
    their norm, is that of the inputs. Its bits are those of `orthogonal`.

    Args:
        gain: multiplier, dimensionless: the gain of the activation.
        dtype: dtype of the array; JAX's default float if None.

    Returns:
        An initializer of shapes (..., out), i = the product of all but the last.

    Raises:
        ValueError: a rank below two.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> w = scaled_orthogonal()(jax.random.key(0), (8, 32))
        >>> bool(jnp.allclose(w @ w.T, 4 * jnp.eye(8), atol=1e-5))
        True

    References:
        Martens et al. 2021, arXiv:2110.01765, section on initialization.
    """
    _checks.number("scaled_orthogonal", gain=gain)

    def draw(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
        _checks.rank("scaled_orthogonal", shape, minimum=2)
        rows, columns = math.prod(shape[:-1]), shape[-1]
        factor = gain * max(math.sqrt(columns / rows), 1.0)
        matrix = haar(key, rows, columns, (), dtype).reshape(shape)
        return _times(factor, matrix, tuple(range(len(shape))))

    return draw


def _times(scale: Numeric, kernel: Array, order: tuple[int, ...]) -> Array:
    """The kernel with its axes in order, times a scale: one program where eager."""
    as_it_is = order == tuple(range(kernel.ndim))
    if as_it_is and not _checks.is_traced(scale) and scale == 1:
        return kernel
    return _transposed(scale, kernel, order)


@functools.partial(jax.jit, static_argnums=2)
def _transposed(scale: Numeric, kernel: Array, order: tuple[int, ...]) -> Array:
    return jnp.asarray(scale, kernel.dtype) * kernel.transpose(order)


def _permuted(
    sharding: NamedSharding | None, order: Sequence[int], shape: tuple[int, ...]
) -> NamedSharding | None:
    """The sharding of an array whose axes are taken in another order, if even."""
    if sharding is None:
        return None
    spec = (*sharding.spec, *(None,) * len(shape))
    permuted = NamedSharding(sharding.mesh, PartitionSpec(*(spec[a] for a in order)))
    try:
        permuted.shard_shape(tuple(shape[a] for a in order))
    except ValueError:  # parts of unequal size: left to the compiler
        return None
    return permuted
