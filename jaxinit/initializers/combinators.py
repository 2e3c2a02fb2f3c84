"""Schemes made of schemes; each is an initializer like any other."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit import _checks, _samplers
from jaxinit._initializer import Initializer, base_draw, initializer
from jaxinit._types import Array, Draw, DType, Key, Numeric


def _check_axis(owner: str, axis: Any) -> None:
    if isinstance(axis, bool) or not isinstance(axis, int):
        raise TypeError(f"{owner}: axis={axis!r} must be one integer.")


def _draw_apart(
    draw: Draw, key: Key | None, count: int, shape: tuple[int, ...], dtype: DType
) -> Array:
    """Independent draws, stacked; equal ones of a scheme without randomness."""
    if key is None:
        return jnp.broadcast_to(draw(key, shape, dtype), (count, *shape))
    return jax.vmap(lambda k: draw(k, shape, dtype))(jax.random.split(key, count))


@initializer(entrywise=True, cites=("radford2019",))
def scaled(
    scheme: Initializer, factor: Numeric | tuple[Numeric, ...], dtype: DType = None
) -> Draw:
    r"""Another scheme's draw times a factor.

    $w = \text{factor} \cdot w_0$: what residual branches ask for, with a factor such as
    $1 / \sqrt{2 L}$ for L layers.

    Args:
        scheme: the other scheme.
        factor: multiplier, dimensionless; or an array of them that broadcasts to the
            shape, such as one per layer along a scanned axis.
        dtype: dtype of the array; JAX's default float if None.

    Returns:
        An initializer.

    Raises:
        TypeError: `scheme` is no initializer. ValueError: a factor that is not finite,
            or does not broadcast to the shape.

    Example:
        >>> import jax, jaxinit
        >>> w = scaled(jaxinit.lecun_normal(), 0.5)(jax.random.key(0), (256, 512))
        >>> round(float(w.std()) * 2 * 16, 2)
        1.0

    References:
        Radford et al. 2019, Language models are unsupervised multitask learners,
        section 2.3, for its use.
    """
    draw = base_draw(scheme)
    numbers = factor.flat if isinstance(factor, np.ndarray) else factor
    for number in numbers if np.iterable(numbers) else (factor,):
        _checks.number("scaled", factor=number)

    def draw_scaled(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
        multiplier = jnp.asarray(factor, dtype)
        _checks.broadcasts("scaled", "factor", multiplier.shape, shape)
        return jnp.broadcast_to(multiplier, shape) * draw(key, shape, dtype)

    return draw_scaled


@initializer(cites=("heek2020",))
def stacked(scheme: Initializer, axis: int = 0, dtype: DType = None) -> Draw:
    r"""An independent draw for each place along an axis.

    $w[l] = w_0$ drawn from the l-th of `split(key, layers)`: for the parameters of a
    scan over layers, or of experts, whose stacked axis is no part of the layer.

    Args:
        scheme: the scheme of one layer, which sees the shape without the axis.
        axis: the stacked axis.
        dtype: dtype of the array; JAX's default float if None.

    Returns:
        An initializer.

    Raises:
        TypeError: `scheme` is no initializer. ValueError: the axis is out of range.

    Example:
        >>> import jax, jax.numpy as jnp, jaxinit
        >>> w = stacked(jaxinit.orthogonal())(jax.random.key(0), (3, 8, 8))
        >>> bool(jnp.allclose(w.mT @ w, jnp.eye(8), atol=1e-5))
        True

    References:
        The need: google/flax issue 2754.
    """
    draw = base_draw(scheme)
    _check_axis("stacked", axis)

    def draw_stack(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
        ((at,),) = _checks.normalized_axes("stacked", shape, axis=axis)
        one = (*shape[:at], *shape[at + 1 :])
        stack = _draw_apart(draw, key, shape[at], one, dtype)
        return jnp.moveaxis(stack, 0, at)

    return draw_stack


@initializer(cites=("heek2020",))
def per_gate(
    scheme: Initializer, gates: int = 4, axis: int = -1, dtype: DType = None
) -> Draw:
    r"""An independent draw for each of several kernels packed along an axis.

    The axis holds `gates` blocks of equal size side by side, as an LSTM's packed
    kernel (in, 4 hidden) or a packed query-key-value projection does; each block is
    drawn by itself, with its own fans, its own orthogonality.

    Args:
        scheme: the scheme of one block.
        gates: number of blocks.
        axis: the axis along which they lie.
        dtype: dtype of the array; JAX's default float if None.

    Returns:
        An initializer.

    Raises:
        TypeError: `scheme` is no initializer. ValueError: `gates` does not divide the
            axis, or the axis is out of range.

    Example:
        >>> import jax, jax.numpy as jnp, jaxinit
        >>> w = per_gate(jaxinit.orthogonal())(jax.random.key(0), (8, 32))
        >>> bool(jnp.allclose(w[:, 8:16].T @ w[:, 8:16], jnp.eye(8), atol=1e-5))
        True

    References:
        The practice of drawing gates apart is Flax's; drawn as one, (H, 4H) has only
        orthonormal rows.
    """
    draw = base_draw(scheme)
    _checks.integer("per_gate", gates=gates)
    _check_axis("per_gate", axis)

    def draw_gates(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
        ((at,),) = _checks.normalized_axes("per_gate", shape, axis=axis)
        if shape[at] % gates:
            raise ValueError(
                f"per_gate: gates={gates} does not divide axis {axis} of shape {shape}."
            )
        one = (*shape[:at], shape[at] // gates, *shape[at + 1 :])
        blocks = _draw_apart(draw, key, gates, one, dtype)
        return jnp.moveaxis(blocks, 0, at).reshape(shape)

    return draw_gates


@initializer(entrywise=True, cites=("paszke2019",))
def sum_of(scheme: Initializer, count: int = 2, dtype: DType = None) -> Draw:
    r"""The sum of independent draws of another scheme.

    $w = \sum_i w_i$ with $w_i$ drawn from the i-th of `split(key, count)`: the
    distribution of one bias in place of several that are added up, as torch's recurrent
    layers have.

    Args:
        scheme: the other scheme.
        count: number of draws.
        dtype: dtype of the array; JAX's default float if None.

    Returns:
        An initializer.

    Raises:
        TypeError: `scheme` is no initializer.

    Example:
        >>> import jax, jaxinit
        >>> b = sum_of(jaxinit.normal(0.5), 4)(jax.random.key(0), (2**16,))
        >>> round(float(b.std()), 1)
        1.0

    References:
        The bias pair: torch's `LSTM`, whose two biases are added.
    """
    draw = base_draw(scheme)
    _checks.integer("sum_of", count=count)

    def draw_sum(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
        keys = None if key is None else jax.random.split(key, count)

        def add(total: Array, own: Key | None) -> tuple[Array, None]:
            return total + _samplers.rounded(draw(own, shape, dtype)), None

        # One after another: a sum over an axis has another order on other devices.
        return jax.lax.scan(add, jnp.zeros(shape, dtype), keys, count)[0]

    return draw_sum


@initializer(entrywise=True, cites=("frankle2019",))
def masked(scheme: Initializer, mask: Any, dtype: DType = None) -> Draw:
    r"""Another scheme's draw where a mask is true, zero elsewhere.

    $w = m \odot w_0$. The fans are those of the whole shape.

    Args:
        scheme: the other scheme.
        mask: array of truth values that broadcasts to the shape.
        dtype: dtype of the array; JAX's default float if None.

    Returns:
        An initializer.

    Raises:
        TypeError: `scheme` is no initializer. ValueError: the mask does not broadcast
            to the shape.

    Example:
        >>> import jax, jax.numpy as jnp, jaxinit
        >>> init = masked(jaxinit.normal(1.0), [[True, False], [True, True]])
        >>> jnp.count_nonzero(init(jax.random.key(0), (2, 2))).item()
        3

    References:
        Frankle and Carbin 2019, arXiv:1803.03635, for masks over an initialization.
    """
    draw = base_draw(scheme)
    if _checks.is_traced(mask) or np.asarray(mask).dtype.kind not in "biuf":
        raise TypeError(
            f"masked: mask={mask!r} must be an array of truth values that is known "
            "when the program is traced."
        )
    keep = np.asarray(mask).astype(bool)

    def draw_masked(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
        _checks.broadcasts("masked", "mask", keep.shape, shape)
        kept = jnp.broadcast_to(keep, shape)
        return jnp.where(kept, draw(key, shape, dtype), jnp.zeros((), dtype))

    return draw_masked
