"""Where the signal of a deep network settles: fixed points and the edge of chaos."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxinit._quadrature import Activation, evaluate, name_of
from jaxinit.meanfield._maps import (
    check_variances,
    mixed_moment,
    second_moment,
    slope,
    variance_map,
)


class FixedPoint(NamedTuple):
    r"""Where a deep network's signal settles, and how fast.

    Attributes:
        weight_variance: $\sigma_w^2$.
        bias_variance: $\sigma_b^2$.
        variance: $q^*$, the fixed point of the variance map.
        slope: $\chi$ there.
        variance_depth: layers over which $|q - q^*|$ falls by e; infinite if it does
            not.
        correlation_depth: layers over which the correlation of two inputs approaches
            $c^*$ by e; networks train up to about six times this depth.
        correlation: $c^*$, what the correlation of any two inputs settles at: 1 in the
            ordered phase, less in the chaotic one.
    """

    weight_variance: float
    bias_variance: float
    variance: float
    slope: float
    variance_depth: float
    correlation_depth: float
    correlation: float = 1.0


def fixed_point(
    activation: Activation, *, weight_variance: float, bias_variance: float = 0.0
) -> FixedPoint:
    r"""The fixed point $q^*$ of the variance map, its slope and its depth scales.

    The depth scale of the variance is $-1 / \ln |dq'/dq|$, that of the correlation
    $-1 / \ln (\sigma_w^2\, \mathbb{E}[\phi'(u_1)\, \phi'(u_2)])$ with $u_1, u_2$ of
    variance $q^*$ and correlation $c^*$: $-1 / \ln \chi$ in the ordered phase, where
    $c^* = 1$.

    Args:
        activation: a name, or an elementwise function.
        weight_variance: $\sigma_w^2$, fan-in times the variance of a weight.
        bias_variance: $\sigma_b^2$, the variance of a bias.

    Returns:
        The `FixedPoint`.

    Raises:
        ValueError: the variance grows without bound, or every variance is fixed (ReLU
            at $\sigma_w^2 = 2$, $\sigma_b = 0$).

    Example:
        >>> point = fixed_point("tanh", weight_variance=1.5, bias_variance=0.1)
        >>> round(point.variance, 3), round(point.slope, 3)
        (0.52, 0.878)

    References:
        Schoenholz, Gilmer, Ganguli and Sohl-Dickstein 2017, arXiv:1611.01232,
        equations 6 to 9.
    """
    check_variances("fixed_point", weight_variance, bias_variance)

    def excess(q: float) -> float:
        return (
            variance_map(
                activation,
                q,
                weight_variance=weight_variance,
                bias_variance=bias_variance,
            )
            - q
        )

    q = _stable_root(excess)
    if q is None:
        raise ValueError(
            f"fixed_point: with activation {name_of(activation)}, weight_variance="
            f"{weight_variance:g} and bias_variance={bias_variance:g} the variance "
            "reaches no single fixed point; choose a smaller weight_variance."
        )
    chi = slope(activation, q, weight_variance=weight_variance)
    correlation, rate = 1.0, chi
    if chi > 1 + 1e-9 and q > 0:
        correlation, rate = _chaotic_correlation(
            activation, q, weight_variance, bias_variance
        )
    return FixedPoint(
        weight_variance,
        bias_variance,
        q,
        chi,
        _settling_depth(excess, q),
        _depth(rate),
        correlation,
    )


def edge_of_chaos(activation: Activation, bias_variance: float = 0.0) -> FixedPoint:
    r"""The weight variance at which $\chi = 1$, for a given bias variance.

    On the curve $q = \sigma_w^2\, \mathbb{E}[\phi^2] + \sigma_b^2$,
    $\sigma_w^2\, \mathbb{E}[\phi'^2] = 1$, gradients neither vanish nor explode, and
    the correlation of two inputs converges slower than exponentially.

    Args:
        activation: a name, or an elementwise function.
        bias_variance: $\sigma_b^2$, the variance of a bias.

    Returns:
        The `FixedPoint`, of slope 1 and infinite correlation depth. For an activation
        that is homogeneous of degree one (ReLU, linear) every variance is fixed
        without a bias, and `variance` is 1. Where `variance_depth` is infinite the
        variance settles slower than exponentially (tanh without a bias), or not at
        all: that of gelu and silu, with small biases, drifts away.

    Raises:
        ValueError: there is no such point: the activation saturates nowhere enough.

    Example:
        >>> point = edge_of_chaos("tanh", 0.05)
        >>> round(point.weight_variance, 3), round(point.variance, 3)
        (1.761, 0.57)
        >>> round(edge_of_chaos("relu").weight_variance, 6)
        2.0

    References:
        Schoenholz, Gilmer, Ganguli and Sohl-Dickstein 2017, arXiv:1611.01232,
        section 3.
    """
    check_variances("edge_of_chaos", 1.0, bias_variance)

    def excess(q: float) -> float:
        square = second_moment(activation, q)
        slopes = second_moment(activation, q, derivative=True)
        return square / slopes - q if 0 < slopes < math.inf else math.inf

    def balance(q: float) -> float:
        return excess(q) + bias_variance

    if bias_variance == 0:
        # At q = 0 for an odd smooth activation; anywhere for a homogeneous one.
        if abs(excess(1.0)) < 1e-9 and abs(excess(4.0)) < 1e-9:
            q = 1.0
        elif evaluate(activation, np.zeros(1), derivative=False)[0] == 0:
            q = 0.0
        else:
            q = _stable_root(balance)
    else:
        q = _stable_root(balance)
    if q is None:
        raise ValueError(
            f"edge_of_chaos: activation {name_of(activation)} has no critical point "
            f"with bias_variance={bias_variance:g}; try "
            f"{'bias_variance=0' if bias_variance else 'a positive bias_variance'}."
        )
    slopes = second_moment(activation, q, derivative=True)
    if not 0 < slopes < math.inf:
        raise ValueError(
            f"edge_of_chaos: activation {name_of(activation)} has no finite slope for "
            "a gradient, so no weight variance is critical; use another activation."
        )

    def drift(q: float) -> float:
        return second_moment(activation, q) / slopes + bias_variance - q

    depth = _settling_depth(drift, q) if q else math.inf  # the slope there is chi
    return FixedPoint(1 / slopes, bias_variance, q, 1.0, depth, math.inf)


def critical_gain(activation: Activation, bias_variance: float = 0.0) -> float:
    r"""The gain that keeps gradients: that of the edge of chaos.

    $g = \sigma_w = \mathbb{E}[\phi'(\sqrt{q^*}\, z)^2]^{-1/2}$ at the fixed point
    $q^*$ of the signal's variance, so that $\chi = 1$. It is that of `gain` for ReLU
    and its kin, whose variance never settles. A smooth activation compresses its
    inputs, and the gain of `gain`, which makes up for it at variance 1, has
    $\chi > 1$: over a few layers the two differ little, over a hundred tanh layers
    the critical one trains and the other does not.

    Args:
        activation: a name, or an elementwise function.
        bias_variance: $\sigma_b^2$, the variance of a bias.

    Returns:
        The gain, dimensionless.

    Raises:
        ValueError: there is no such point, or the variance of the signal leaves it and
            grows: gelu, silu and mish with small biases.

    Example:
        >>> from jaxinit.meanfield import gain
        >>> round(critical_gain("tanh"), 6), round(critical_gain("tanh", 2.01e-5), 3)
        (1.0, 1.025)
        >>> round(critical_gain("relu"), 6) == round(gain("relu"), 6)
        True
        >>> round(slope("tanh", 1.0, weight_variance=gain("tanh") ** 2), 3)
        1.178

    References:
        Schoenholz, Gilmer, Ganguli and Sohl-Dickstein 2017, arXiv:1611.01232,
        section 3; Xiao et al. 2018, arXiv:1806.05393, for tanh at 1.025.
    """
    return math.sqrt(held_point("critical_gain", activation, bias_variance)[0])


def held_point(owner: str, activation: Activation, bias_variance: float) -> FixedPoint:
    """The edge of chaos, or one sentence where a signal's variance leaves it."""
    point = edge_of_chaos(activation, bias_variance)
    nearby = 1.01 * max(point.variance, 1e-3)
    further = variance_map(
        activation,
        nearby,
        weight_variance=point.weight_variance,
        bias_variance=bias_variance,
    )
    if further > nearby * (1 + 1e-7):
        raise ValueError(
            f"{owner}: with activation {name_of(activation)} and bias_variance="
            f"{bias_variance:g} the variance of a signal leaves the critical point and "
            "grows without bound; choose a larger bias_variance, or another activation."
        )
    return point


def _stable_root(excess: Callable[[float], float]) -> float | None:
    """The root of a function that falls through zero, searched from 0 to 1e6."""
    grid = np.concatenate([[0.0], np.logspace(-9, 6, 151)])
    values = np.array([excess(float(q)) for q in grid])
    values[np.abs(values) <= 1e-11 * grid] = 0.0  # a fixed line falls by rounding only
    falls = np.flatnonzero((values[:-1] >= 0) & (values[1:] < 0))
    if not len(falls):
        return None
    low, high = float(grid[falls[0]]), float(grid[falls[0] + 1])
    if low == 0 and values[0] == 0:
        return 0.0  # nothing in, nothing out
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
        if high - low <= 1e-14 * high:
            break
    return (low + high) / 2


def _settling_depth(excess: Callable[[float], float], q: float) -> float:
    """Layers over which a small deviation of the variance from q falls by e."""
    step = 1e-4 * max(q, 1e-8)
    low, high = max(q - step, 0.0), q + step
    factor = 1 + (excess(high) - excess(low)) / (high - low)
    return _depth(factor) if abs(factor) < 1 else math.inf


def _chaotic_correlation(
    activation: Activation, q: float, weight: float, bias: float
) -> tuple[float, float]:
    """The stable correlation below 1, and the slope of the correlation map there.

    The map is a power series of c without negative terms: convex, so that Newton's
    method rises from 0 to the root and never passes it.
    """
    c = rate = 0.0
    for _ in range(50):
        excess = (weight * mixed_moment(activation, c, q) + bias) / q - c
        rate = weight * mixed_moment(activation, c, q, derivative=True)
        if excess < 1e-12 or rate >= 1:
            break
        c = min(c + excess / (1 - rate), 1.0)
    return c, rate


def _depth(factor: float) -> float:
    size = abs(factor)
    if size == 0:
        return 0.0
    return math.inf if abs(size - 1) < 1e-9 else 1 / abs(math.log(size))
