"""Convolutions that keep the norm of a signal."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from jaxinit import _checks
from jaxinit._haar import haar, matmul
from jaxinit._initializer import initializer
from jaxinit._types import Array, Draw, DType, Key, Numeric
from jaxinit.initializers.orthogonal import METHODS, matrices
from jaxinit.initializers.structured import same_tap


@initializer(cites=("xiao2018", "kautsky1994"))
def convolution_orthogonal(gain: Numeric = 1.0, dtype: DType = None) -> Draw:
    r"""A convolution in 1, 2 or 3 dimensions that keeps the norm of every signal.

    A kernel of size k is the matrix convolution of k - 1 blocks of size 2 whose taps
    are products of projections, $P$ or $I - P$ per axis, with P onto a uniformly random
    half of the channels, followed by a Haar matrix. Unlike `delta_orthogonal` it mixes
    pixels: with stride 1 and circular padding it is an isometry (in <= out) or its
    transpose (in > out). Bits hold as those of `orthogonal` do.

    Args:
        gain: multiplier, dimensionless: the gain of the activation.
        dtype: dtype of the array; JAX's default float if None.

    Returns:
        An initializer of kernels (*spatial, in, out) of one to three equal spatial
        sizes.

    Raises:
        ValueError: a rank other than 3, 4 or 5, or spatial sizes that differ.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> w = convolution_orthogonal()(jax.random.key(0), (3, 3, 4, 8))
        >>> at_frequency_0 = w.sum(axis=(0, 1))
        >>> bool(jnp.allclose(at_frequency_0 @ at_frequency_0.T, jnp.eye(4), atol=1e-5))
        True

    References:
        Xiao et al. 2018, arXiv:1806.05393, algorithm 1; Kautsky and Turcajova 1994, A
        matrix approach to discrete wavelets. In more outputs than inputs as there; the
        transpose for fewer is an extension.
    """
    _checks.number("convolution_orthogonal", gain=gain)

    def draw(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
        *spatial, inputs, outputs = shape
        dimensions = len(spatial)
        if not 1 <= dimensions <= 3 or len(set(spatial)) > 1:
            raise ValueError(
                f"convolution_orthogonal: shape {shape} is no kernel (*spatial, in, "
                "out) of one to three equal spatial sizes."
            )
        if inputs > outputs:
            kernel = draw(key, (*spatial, outputs, inputs), dtype)
            flipped = jnp.flip(kernel, axis=range(dimensions))
            return flipped.conj().mT if dtype.kind == "c" else flipped.mT
        matrix_key, block_key = jax.random.split(key)
        kernel = haar(matrix_key, inputs, outputs, (), dtype)
        kernel = kernel.reshape(*[1] * dimensions, inputs, outputs)
        blocks = spatial[0] - 1
        halves = haar(
            block_key, outputs, max(outputs // 2, 1), (blocks, dimensions), dtype
        )
        # The taps of a block are products of one factor per axis: axis by axis.
        for block in halves:
            for axis, half in enumerate(block):
                kernel = _grown(kernel, half, axis)
        return jnp.asarray(gain, dtype) * kernel

    return draw


def _grown(kernel: Array, half: Array, axis: int) -> Array:
    """Convolve along an axis with the taps P and I - P, P onto the columns of half."""
    projected = matmul(matmul(kernel, half), half.conj().mT)
    before, after = ([(0, 0)] * kernel.ndim for _ in range(2))
    before[axis], after[axis] = (1, 0), (0, 1)
    return jnp.pad(projected, after) + jnp.pad(kernel - projected, before)


@initializer(compiled=False, gain="scale", cites=("xiao2018",))
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
    frequency alike. Plain networks of 10,000 convolutions can be trained from it. Bits
    hold as those of `orthogonal` do.

    Args:
        scale: multiplier, dimensionless: the gain of the activation.
        column_axis: axis of the matrix that holds the columns, -1 or -2 (of a square
            or wide matrix, the distribution is the same).
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
    _checks.choice("delta_orthogonal", "method", method, METHODS)
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
        matrix = matrices(key, (), (rows,), columns, dtype, method)
        matrix = matrix.T if column_axis == -2 else matrix
        kernel = jnp.zeros(shape, dtype)
        return kernel.at[same_tap(shape)].set(jnp.asarray(scale, dtype) * matrix)

    return draw
