r"""Mean-field theory of wide random networks: gains, critical points, depth scales.

In the limit of infinite width, the pre-activations of a fully connected layer with
weights of variance $\sigma_w^2 / \text{fan\_in}$ and biases of variance $\sigma_b^2$
are Gaussian, and their variance $q$ and correlation $c$ over two inputs follow

$q' = \sigma_w^2\, \mathbb{E}[\phi(\sqrt q\, z)^2] + \sigma_b^2$ and
$q' c' = \sigma_w^2\, \mathbb{E}[\phi(\sqrt q\, z_1)\,
\phi(\sqrt q\, (c z_1 + \sqrt{1 - c^2}\, z_2))] + \sigma_b^2$

with independent standard normal $z, z_1, z_2$. Every expectation is a quadrature in
float64 on the host; kinks and jumps of the activation are found and integrated between.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from jaxinit import _checks
from jaxinit._quadrature import ACTIVATIONS as ACTIVATIONS
from jaxinit._quadrature import (
    Activation,
    Floats,
    edges_of,
    evaluate,
    expectation,
    name_of,
    nodes,
    not_finite,
)

_TORCH = {
    "linear": 1.0,
    "conv": 1.0,
    "sigmoid": 1.0,
    "tanh": 5 / 3,
    "relu": math.sqrt(2),
    "leaky_relu": math.sqrt(2 / (1 + 0.01**2)),
    "selu": 0.75,
}


def gain(
    activation: Activation,
    *,
    direction: Literal["forward", "backward"] = "forward",
    convention: Literal["exact", "torch"] = "exact",
) -> float:
    r"""The gain that keeps the second moment of a signal through an activation.

    Forward $g = \mathbb{E}[\phi(z)^2]^{-1/2}$, backward
    $g = \mathbb{E}[\phi'(z)^2]^{-1/2}$, with $z \sim N(0, 1)$. A layer that *follows*
    the activation and draws its weights with variance $g^2 / \text{fan\_in}$ has
    pre-activations of variance 1 if those before the activation had. In a deep network
    of a smooth activation its gradients grow with every layer, by 1.178 for tanh; see
    `critical_gain`.

    Args:
        activation: a name, or an elementwise function.
        direction: "forward" keeps activations, "backward" gradients.
        convention: "exact" is the integral; "torch" the table of
            `torch.nn.init.calculate_gain`, whose 5/3 for tanh and 3/4 for selu are no
            integrals.

    Returns:
        The gain, dimensionless, exact to 1e-6.

    Raises:
        ValueError: an unknown name, or an activation whose integral is zero or not
            finite.

    Example:
        >>> import jax
        >>> round(gain("relu"), 6), round(gain("tanh"), 6)
        (1.414214, 1.592537)
        >>> round(gain(lambda x: x * jax.nn.sigmoid(1.702 * x)), 3)
        1.539

    References:
        He, Zhang, Ren and Sun 2015, arXiv:1502.01852, equation 10.
    """
    _checks.choice("gain", "direction", direction, ("forward", "backward"))
    _checks.choice("gain", "convention", convention, ("exact", "torch"))
    if convention == "torch":
        if not isinstance(activation, str) or activation not in _TORCH:
            raise ValueError(
                f"gain: torch's table has no {name_of(activation)}; it has "
                f"{', '.join(_TORCH)}."
            )
        return _TORCH[str(activation)]
    moment = second_moment(activation, 1.0, derivative=direction == "backward")
    if not 0 < moment < math.inf:
        raise ValueError(
            f"gain: the mean square of activation {name_of(activation)} under N(0, 1) "
            f"is {moment}; no gain keeps a signal through it."
        )
    return moment**-0.5


def second_moment(
    activation: Activation, variance: float = 1.0, *, derivative: bool = False
) -> float:
    r"""$\mathbb{E}[\phi(\sqrt q\, z)^2]$, or the same of the derivative $\phi'$.

    Args:
        activation: a name, or an elementwise function.
        variance: q, of the pre-activations; at least zero.
        derivative: whether to take the derivative instead. Kinks are no trouble;
            jumps of the activation itself are not differentiated. At q = 0 it is the
            limit, half of each side's square where there is a kink.

    Returns:
        The expectation; infinite if it overflows.

    Raises:
        ValueError: the activation is not a number somewhere, or the integral does not
            converge.

    Example:
        >>> round(second_moment("relu", 4.0), 6)
        2.0
        >>> round(second_moment("erf", derivative=True), 4)
        0.5694

    References:
        Poole, Lahiri, Raghu, Sohl-Dickstein and Ganguli 2016, arXiv:1606.05340,
        equations 3 and 5.
    """
    _checks.number("second_moment", minimum=0.0, variance=variance)
    # At 0 itself a kink has no derivative.
    root = math.sqrt(max(variance, 1e-16) if derivative else variance)

    def square(z: Floats) -> Floats:
        with np.errstate(over="ignore"):
            return evaluate(activation, root * z, derivative) ** 2

    return expectation(square, edges_of(activation, root), activation)


def variance_map(
    activation: Activation,
    variance: float,
    *,
    weight_variance: float,
    bias_variance: float = 0.0,
) -> float:
    r"""Variance of the pre-activations a layer further on.

    $q' = \sigma_w^2\, \mathbb{E}[\phi(\sqrt q\, z)^2] + \sigma_b^2$.

    Args:
        activation: a name, or an elementwise function.
        variance: q, of this layer's pre-activations.
        weight_variance: $\sigma_w^2$, fan-in times the variance of a weight.
        bias_variance: $\sigma_b^2$, the variance of a bias.

    Returns:
        q'.

    Example:
        >>> round(variance_map("relu", 3.0, weight_variance=2.0), 6)
        3.0

    References:
        Poole, Lahiri, Raghu, Sohl-Dickstein and Ganguli 2016, arXiv:1606.05340,
        equation 3.
    """
    _check_variances("variance_map", weight_variance, bias_variance)
    return weight_variance * second_moment(activation, variance) + bias_variance


def correlation_map(
    activation: Activation,
    correlation: float,
    variance: float,
    *,
    weight_variance: float,
    bias_variance: float = 0.0,
) -> float:
    r"""Correlation of two inputs' pre-activations a layer further on.

    $c' = (\sigma_w^2\, \mathbb{E}[\phi(\sqrt q z_1)\, \phi(\sqrt q (c z_1 +
    \sqrt{1 - c^2} z_2))] + \sigma_b^2) / q'$, both inputs of variance q.

    Args:
        activation: a name, or an elementwise function.
        correlation: c, from -1 to 1.
        variance: q, of this layer's pre-activations.
        weight_variance: $\sigma_w^2$, fan-in times the variance of a weight.
        bias_variance: $\sigma_b^2$, the variance of a bias.

    Returns:
        c'.

    Raises:
        ValueError: a correlation outside [-1, 1], or a next variance of zero.

    Example:
        >>> round(correlation_map("relu", 0.0, 1.0, weight_variance=2.0), 6)
        0.31831

    References:
        Poole, Lahiri, Raghu, Sohl-Dickstein and Ganguli 2016, arXiv:1606.05340,
        equation 4; Cho and Saul 2009, Kernel methods for deep learning, for ReLU.
    """
    owner = "correlation_map"
    _check_variances(owner, weight_variance, bias_variance)
    _checks.number(owner, minimum=0.0, variance=variance)
    if not -1 <= correlation <= 1:
        raise ValueError(f"{owner}: correlation={correlation!r} must lie in [-1, 1].")
    after = variance_map(
        activation,
        variance,
        weight_variance=weight_variance,
        bias_variance=bias_variance,
    )
    if after == 0:
        raise ValueError(
            f"{owner}: the next layer's variance is zero, so it has no correlation; "
            "give a positive weight_variance or bias_variance."
        )
    mixed = _mixed_moment(activation, correlation, variance)
    return (weight_variance * mixed + bias_variance) / after


def _mixed_moment(
    activation: Activation,
    correlation: float,
    variance: float,
    derivative: bool = False,
) -> float:
    """E[phi(u1) phi(u2)] of two normals of that correlation, or of the derivatives."""
    root = math.sqrt(variance)
    z, weights = nodes(activation, float(variance))
    first = evaluate(activation, root * z, derivative)
    other = math.sqrt(max(0.0, 1 - correlation**2))
    # The kinks of phi(c z1 + ... z2) in z2 move with z1, and so do the inner points.
    inner = [nodes(activation, float(variance), correlation * z1, other) for z1 in z]
    points = np.concatenate(
        [correlation * z1 + other * z2 for z1, (z2, _) in zip(z, inner, strict=True)]
    )
    values = evaluate(activation, root * points, derivative)
    masses = np.concatenate([mass for _, mass in inner])
    starts = np.cumsum([0, *(len(mass) for _, mass in inner[:-1])])
    second = np.add.reduceat(masses * values, starts)
    mixed = float(weights @ (first * second))
    if math.isnan(mixed):
        raise ValueError(not_finite(activation))
    return mixed


def slope(activation: Activation, variance: float, *, weight_variance: float) -> float:
    r"""$\chi = \sigma_w^2\, \mathbb{E}[\phi'(\sqrt q\, z)^2]$: growth of a gradient.

    The mean squared gradient grows by $\chi$ a layer backwards; it is the slope of the
    correlation map at c = 1, so $\chi < 1$ is the ordered and $\chi > 1$ the chaotic
    phase.

    Args:
        activation: a name, or an elementwise function.
        variance: q, of the pre-activations.
        weight_variance: $\sigma_w^2$, fan-in times the variance of a weight.

    Returns:
        $\chi$, dimensionless.

    Example:
        >>> round(slope("relu", 1.0, weight_variance=2.0), 6)
        1.0

    References:
        Poole, Lahiri, Raghu, Sohl-Dickstein and Ganguli 2016, arXiv:1606.05340,
        equation 5.
    """
    return weight_variance * second_moment(activation, variance, derivative=True)


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
    _check_variances("fixed_point", weight_variance, bias_variance)

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
    _check_variances("edge_of_chaos", 1.0, bias_variance)

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
        excess = (weight * _mixed_moment(activation, c, q) + bias) / q - c
        rate = weight * _mixed_moment(activation, c, q, derivative=True)
        if excess < 1e-12 or rate >= 1:
            break
        c = min(c + excess / (1 - rate), 1.0)
    return c, rate


def _depth(factor: float) -> float:
    size = abs(factor)
    if size == 0:
        return 0.0
    return math.inf if abs(size - 1) < 1e-9 else 1 / abs(math.log(size))


def _check_variances(owner: str, weight: float, bias: float) -> None:
    _checks.number(owner, minimum=0.0, weight_variance=weight, bias_variance=bias)
