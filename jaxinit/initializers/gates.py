"""Biases of the gates of recurrent networks, for a chosen memory."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from jaxinit import _checks
from jaxinit._initializer import initializer
from jaxinit._types import Array, Draw, DType, Key, Numeric

Part = Literal["forget", "input", "packed"]


@initializer(random=False, cites=("gers2000", "jozefowicz2015"))
def forget_bias(
    value: Numeric = 1.0, gates: int = 4, index: int = 1, dtype: DType = None
) -> Draw:
    """A constant for the forget gate of a packed bias, zeros for the others.

    Args:
        value: bias of the forget gate.
        gates: gates packed along the last axis.
        index: the forget gate's place among them: 1 in the order i, f, g, o of Keras,
            torch and Flax.
        dtype: dtype of the array; JAX's default float if None.

    Returns:
        An initializer of shapes (..., gates times hidden).

    Raises:
        ValueError: gates that do not divide the last axis, or an index beyond them.

    Example:
        >>> forget_bias()(None, (8,)).tolist()
        [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]

    References:
        Gers, Schmidhuber and Cummins 2000, Learning to forget; Jozefowicz, Zaremba and
        Sutskever 2015, An empirical exploration of recurrent network architectures.
    """
    _checks.number("forget_bias", value=value)
    _checks.integer("forget_bias", gates=gates)
    _checks.integer("forget_bias", minimum=0, index=index)
    if index >= gates:
        raise ValueError(f"forget_bias: index={index} is beyond the gates={gates}.")

    def draw(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
        size = _gate_size("forget_bias", shape, gates)
        gate = jnp.arange(shape[-1]) // size
        row = jnp.where(gate == index, jnp.asarray(value, dtype), 0)
        return jnp.broadcast_to(row, shape)

    return draw


@initializer(cites=("tallec2018",))
def chrono(max_length: Numeric, part: Part = "forget", dtype: DType = None) -> Draw:
    r"""Gate biases for dependencies of up to a given length.

    $b_f = \log u$, $u \sim U[1, T - 1]$, and $b_i = -b_f$: a cell of forget gate
    $\sigma(b_f)$ remembers for about u steps.

    Args:
        max_length: T, the longest dependency in steps, above 2.
        part: "forget" or "input", of one gate's bias (hidden,), equal and opposite for
            the same key; or "packed", of a bias (4 hidden,) in the order i, f, g, o,
            with zeros for g and o.
        dtype: dtype of the array; JAX's default float if None.

    Returns:
        An initializer.

    Raises:
        ValueError: T of at most 2, an unknown part, or a packed bias that four does
            not divide.

    Example:
        >>> import jax
        >>> b = chrono(100.0)(jax.random.key(0), (2**16,))
        >>> round(float(jax.numpy.exp(b).mean()))
        50

    References:
        Tallec and Ollivier 2018, arXiv:1804.11188, equation 16.
    """
    _checks.number("chrono", max_length=max_length)
    if not _checks.is_traced(max_length) and not max_length > 2:
        raise ValueError(
            f"chrono: max_length={max_length!r} must exceed 2, the shortest dependency."
        )

    def forget(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
        return jnp.log(jax.random.uniform(key, shape, dtype, 1.0, max_length - 1))

    return _gate_pair("chrono", part, forget)


@initializer(cites=("gu2020gating",))
def uniform_gate(part: Part = "forget", dtype: DType = None) -> Draw:
    r"""Gate biases that spread the gates' activations evenly over (0, 1).

    $b_f = -\log(1/u - 1)$, $u \sim U[1/n, 1 - 1/n]$ with n hidden units, so that
    $\sigma(b_f) = u$, and $b_i = -b_f$.

    Args:
        part: as in `chrono`.
        dtype: dtype of the array; JAX's default float if None.

    Returns:
        An initializer; n is the size of one gate's bias.

    Raises:
        ValueError: an unknown part, fewer than three units, or a packed bias that four
            does not divide.

    Example:
        >>> import jax
        >>> b = uniform_gate()(jax.random.key(0), (2**16,))
        >>> round(float(jax.nn.sigmoid(b).std() * 12**0.5), 2)
        1.0

    References:
        Gu et al. 2020, arXiv:1910.09890, section 3.3.
    """

    def forget(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
        edge = 1 / shape[-1]
        if edge >= 0.5:
            raise ValueError(
                f"uniform_gate: a gate of {shape[-1]} units has no range to spread "
                "over; it needs three or more."
            )
        u = jax.random.uniform(key, shape, dtype, edge, 1 - edge)
        return jnp.log(u) - jnp.log1p(-u)

    return _gate_pair("uniform_gate", part, forget)


def _gate_pair(owner: str, part: str, forget: Draw) -> Draw:
    """The bias of the forget gate, of the input gate opposite to it, or of all four."""
    _checks.choice(owner, "part", part, ("forget", "input", "packed"))

    def draw(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
        _checks.real_dtype(owner, dtype)
        if part == "packed":
            size = _gate_size(owner, shape, 4)
            bias = forget(key, (*shape[:-1], size), dtype)
            zeros = jnp.zeros_like(bias)
            return jnp.concatenate([-bias, bias, zeros, zeros], axis=-1)
        bias = forget(key, shape, dtype)
        return bias if part == "forget" else -bias

    return draw


def _gate_size(owner: str, shape: tuple[int, ...], gates: int) -> int:
    if not shape or shape[-1] % gates:
        raise ValueError(
            f"{owner}: the last axis of shape {shape} does not hold {gates} gates of "
            "equal size."
        )
    return shape[-1] // gates
