"""Schemes that keep the norm of a signal: orthogonal kernels, dense and convolved."""

from __future__ import annotations

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
from jaxinit._initializer import initializer
from jaxinit._types import Array, Axis, Draw, DType, Key, Numeric
from jaxinit.initializers.structured import same_tap

_METHODS = ("products", "qr")


def _matrices(
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


@initializer(sharded=True, compiled=False)
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
    $W W^\top = \text{scale}^2 I$ otherwise; its law is the one that no rotation
    changes. The norm of any signal is kept, not only its mean. Complex kernels are
    unitary. A convolution kernel flattened so is *not* an orthogonal convolution: see
    `delta_orthogonal`.

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
        arXiv:math-ph/0609050, for the law; Stewart 1980, SIAM J. Numer. Anal. 17, for
        the product of reflections.
    """
    _checks.number("orthogonal", scale=scale)
    _checks.axes("orthogonal", column_axis=column_axis, batch_axis=batch_axis)
    _checks.choice("orthogonal", "method", method, _METHODS)

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
        kernel = _matrices(
            key,
            tuple(shape[a] for a in batch),
            tuple(shape[a] for a in rows),
            shape[column],
            dtype,
            method,
            _permuted(sharding, order, shape),
        )
        return jnp.asarray(scale, dtype) * kernel.transpose(np.argsort(order))

    return draw


@initializer(compiled=False)
def delta_orthogonal(
    scale: Numeric = 1.0,
    column_axis: int = -1,
    dtype: DType = None,
    *,
    method: Literal["products", "qr"] = "products",
) -> Draw:
    r"""An orthogonal matrix at the centre of a convolution kernel, zeros elsewhere.

    $K[c, :, :] = \text{scale} \cdot Q$ at the centre tap $c$ and 0 at all others, with
    $Q$ Haar (semi-)orthogonal of shape (in, out): with SAME padding and stride 1 the
    convolution keeps (in <= out) or projects (in > out) every pixel's signal, at every
    frequency alike. Vanilla networks of 10,000 convolutions train from it.

    Args:
        scale: multiplier, dimensionless: the gain of the activation.
        column_axis: axis of the matrix that holds the columns, -1 or -2 (of a square
            or wide matrix, the law is the same).
        dtype: dtype of the array; JAX's default float if None.
        method: as in `orthogonal`.

    Returns:
        An initializer of kernels of shape (*spatial, in, out) with one to three odd
        spatial sizes.

    Raises:
        ValueError: a rank other than 3, 4 or 5, or an even spatial size, which has no
            centre.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> w = delta_orthogonal()(jax.random.key(0), (3, 3, 8, 16))
        >>> bool(jnp.allclose(w[1, 1] @ w[1, 1].T, jnp.eye(8), atol=1e-5))
        True
        >>> float(jnp.abs(w).sum(axis=(2, 3)).at[1, 1].set(0).sum())
        0.0

    References:
        Xiao et al. 2018, arXiv:1806.05393, algorithm 2.
    """
    _checks.number("delta_orthogonal", scale=scale)
    _checks.choice("delta_orthogonal", "method", method, _METHODS)
    if column_axis not in (-1, -2):
        raise ValueError(
            f"delta_orthogonal: column_axis={column_axis!r} must be -1 or -2, an axis "
            "of the centre matrix."
        )

    def draw(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
        *spatial, rows, columns = shape
        if not 1 <= len(spatial) <= 3:
            raise ValueError(
                f"delta_orthogonal: shape {shape} has rank {len(shape)}; a convolution "
                "kernel (*spatial, in, out) of rank 3, 4 or 5 is needed."
            )
        if any(size % 2 == 0 for size in spatial):
            raise ValueError(
                f"delta_orthogonal: spatial sizes {tuple(spatial)} must be odd, for an "
                "even kernel has no centre."
            )
        if column_axis == -2:
            rows, columns = columns, rows
        matrix = _matrices(key, (), (rows,), columns, dtype, method)
        matrix = matrix.T if column_axis == -2 else matrix
        kernel = jnp.zeros(shape, dtype)
        return kernel.at[same_tap(shape)].set(jnp.asarray(scale, dtype) * matrix)

    return draw


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
