"""Expectations over normal variables by quadrature, in float64 on the host.

Kinks and jumps of an activation are found and integrated between.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit import _checks
from jaxinit._canonical import As

Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "linear": lambda x: x,
    "sin": jnp.sin,
    "cos": jnp.cos,
    "abs": jnp.abs,
    "exp": jnp.exp,
    "erf": jax.scipy.special.erf,
    "squared_relu": lambda x: jnp.square(jax.nn.relu(x)),
    **{
        name: getattr(jax.nn, name)
        for name in (
            "relu",
            "relu6",
            "leaky_relu",
            "elu",
            "celu",
            "selu",
            "gelu",
            "silu",
            "mish",
            "softplus",
            "squareplus",
            "sparse_plus",
            "sigmoid",
            "log_sigmoid",
            "soft_sign",
            "hard_tanh",
            "hard_sigmoid",
            "hard_silu",
            "tanh",
        )
    },
}
"""Activations by name, with the defaults of `jax.nn`."""

_NAMES = {function: name for name, function in ACTIVATIONS.items()}


def _named(owner: str, name: str, activation: Any) -> Any:
    """The name of a function of `ACTIVATIONS`; any other one as it is."""
    return _NAMES.get(activation, activation)


BY_NAME = As(_named)
"""The mark of a parameter that is an activation."""

Activation: TypeAlias = Annotated[str | Callable[[Any], Any], BY_NAME]
"""A name of `ACTIVATIONS`, or an elementwise function that JAX can trace."""

_REACH = 12.0  # the normal density there is 2e-32 of its peak
_PANELS = 24
_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(24)
_LEVELS = 60
_TOLERANCE = 1e-12


def name_of(activation: Activation) -> str:
    if isinstance(activation, str):
        return repr(activation)
    return getattr(activation, "__name__", repr(activation))


def function_of(activation: Activation) -> Callable[[Any], Any]:
    if callable(activation):
        return activation
    _checks.choice("gain", "activation", activation, ACTIVATIONS)
    return ACTIVATIONS[activation]


def evaluate(activation: Activation, x: Floats, derivative: bool) -> Floats:
    """The activation, or its derivative, in float64 whatever JAX's settings."""
    function = function_of(activation)
    # One of few sizes, since JAX compiles an activation anew for each.
    padded = np.full(1 << max(x.size - 1, 255).bit_length(), x.flat[-1])
    padded[: x.size] = x
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        array = jnp.asarray(padded, jnp.float64)
        try:
            if derivative:
                _, result = jax.jvp(function, (array,), (jnp.ones_like(array),))
            else:
                result = function(array)
        except jax.errors.TracerArrayConversionError:
            raise TypeError(
                f"activation {name_of(activation)} is not a function that JAX can "
                "differentiate; write it with jax.numpy in place of numpy."
            ) from None
        if _checks.is_traced(result):
            raise TypeError(
                f"activation {name_of(activation)} depends on a traced value, but its "
                "gain is an integral made before the program runs; give it numbers, or "
                "trace gain= itself."
            )
        result = np.asarray(result, np.float64)
    if result.shape != padded.shape:
        raise ValueError(
            f"activation {name_of(activation)} maps shape {padded.shape} to "
            f"{result.shape}; it must work elementwise."
        )
    return result[: x.size]


def not_finite(activation: Activation) -> str:
    return (
        f"meanfield: activation {name_of(activation)} has no finite mean square under "
        "a normal distribution, or is not a number somewhere; use one that is defined "
        "on all real numbers."
    )


def expectation(
    function: Callable[[Floats], Floats], edges: Floats, activation: Activation
) -> float:
    """E[f(z)] of a function that is not negative, z normal, by bisection of panels.

    A panel is split until Gauss-Legendre agrees with itself on its two halves.
    """
    low, high = edges[:-1], edges[1:]
    total = 0.0
    for _ in range(_LEVELS):
        middle = (low + high) / 2
        starts, ends = np.r_[low, low, middle], np.r_[high, middle, high]
        half = (ends - starts)[:, None] / 2
        z = starts[:, None] + half + half * _POINTS
        density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
        values = function(z.ravel()).reshape(z.shape)
        coarse, left, right = (half * _WEIGHTS * density * values).sum(1).reshape(3, -1)
        fine = left + right
        if not np.isfinite(fine).all():
            if np.isnan(fine).any():
                raise ValueError(not_finite(activation))
            return math.inf
        rough = np.abs(fine - coarse) > _TOLERANCE * (total + fine.sum())
        total += float(fine[~rough].sum())
        if not rough.any():
            return total
        low, high = (
            np.r_[low[rough], middle[rough]],
            np.r_[middle[rough], high[rough]],
        )
    raise ValueError(not_finite(activation))


def nodes(
    activation: Activation, variance: float, shift: float = 0.0, scale: float = 1.0
) -> tuple[Floats, Floats]:
    """Points z and weights of E[f(sqrt(variance) * (shift + scale * z))], z normal.

    Gauss-Legendre in panels that end where the activation has a kink, fine enough for
    the normal's density and for the activation near 0, where it bends.
    """
    edges = edges_of(activation, math.sqrt(variance), shift, scale)
    half = np.diff(edges)[:, None] / 2
    z = (edges[:-1, None] + half + half * _POINTS).ravel()
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return z, (half * _WEIGHTS).ravel() * density


def edges_of(
    activation: Activation, root: float, shift: float = 0.0, scale: float = 1.0
) -> Floats:
    edges = np.linspace(-_REACH, _REACH, _PANELS + 1)
    if root * scale > 0:
        bends = np.concatenate([np.arange(-16.0, 17.0), kinks(activation)])
        bends = (bends / root - shift) / scale
        edges = np.unique(np.concatenate([edges, bends[np.abs(bends) < _REACH]]))
    return edges


def kinks(activation: Activation) -> Sequence[float]:
    """Where the activation or its derivative jumps, by bisection to the last bit."""
    try:
        return _cached_kinks(activation)
    except TypeError:  # an unhashable callable
        return _cached_kinks.__wrapped__(activation)


@functools.lru_cache(maxsize=256)
def _cached_kinks(activation: Activation) -> tuple[float, ...]:
    # Offset, so that no grid point falls on a kink at a round number.
    grid = np.linspace(-40, 40, 8001) + 1 / 3000
    found = []
    for derivative in (False, True):
        values = evaluate(activation, grid, derivative)
        jump = np.abs(np.diff(values))
        # Halving an interval halves a smooth difference, but leaves a jump whole.
        near = np.maximum(np.r_[jump[1:], 0], np.r_[0, jump[:-1]])
        suspects = np.flatnonzero(jump > 2 * near + 1e-3 * (1 + np.abs(values[:-1])))
        for index in suspects:
            low, high = grid[index], grid[index + 1]
            f_low, f_high = values[index], values[index + 1]
            size = abs(f_high - f_low)
            for _ in range(60):
                middle = (low + high) / 2
                f = evaluate(activation, np.array([middle]), derivative)[0]
                if abs(f - f_low) > abs(f_high - f):
                    high, f_high = middle, f
                else:
                    low, f_low = middle, f
            if abs(f_high - f_low) > size / 3:  # a tie may halve the jump
                found.append(float((low + high) / 2))
    return tuple(sorted(set(found)))
