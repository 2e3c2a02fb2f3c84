"""Orthogonal kernels beyond one matrix: convolutions, and scaled rectangles."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxinit import _checks
from jaxinit._haar import haar, matmul
from jaxinit._initializer import initializer
from jaxinit._types import Array, Draw, DType, Key, Numeric


@initializer
def convolution_orthogonal(gain: Numeric = 1.0, dtype: DType = None) -> Draw:
    r"""A convolution in 1, 2 or 3 dimensions that keeps the norm of every signal.

    A kernel of size k is the matrix convolution of k - 1 blocks of size 2 whose taps
    are products of projections, $P$ or $I - P$ an axis, with P onto a uniformly random
    half of the channels, followed by a Haar matrix. Unlike `delta_orthogonal` it mixes
    pixels: with stride 1 and circular padding it is an isometry (in <= out) or its
    transpose (in > out).

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
        # The taps of a block are products of one factor an axis: an axis at a time.
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


@initializer
def scaled_orthogonal(gain: Numeric = 1.0, dtype: DType = None) -> Draw:
    r"""Scaled uniform orthogonal: a Haar matrix that keeps the mean square.

    $W = \text{gain}\,\max(\sqrt{o / i}, 1)\, Q$ with Q Haar (semi-)orthogonal of shape
    (i, o): where there are more outputs than inputs the mean square of the outputs, not
    their norm, is that of the inputs.

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
        matrix = haar(key, rows, columns, (), dtype)
        return jnp.asarray(factor, dtype) * matrix.reshape(shape)

    return draw
