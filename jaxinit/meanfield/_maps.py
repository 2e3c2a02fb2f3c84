"""From layer to layer: gains, moments, maps of variance and correlation."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from jaxinit import _checks
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
    check_variances("variance_map", weight_variance, bias_variance)
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
    check_variances(owner, weight_variance, bias_variance)
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
    mixed = mixed_moment(activation, correlation, variance)
    return (weight_variance * mixed + bias_variance) / after


def mixed_moment(
    activation: Activation,
    correlation: float,
    variance: float,
    other_variance: float | None = None,
    *,
    derivative: bool = False,
) -> float:
    """E[phi(u) phi(v)] of two normals, or of the derivatives.

    The second has the variance of the first unless it is given its own.
    """
    other_variance = variance if other_variance is None else other_variance
    z, weights = nodes(activation, float(variance))
    first = evaluate(activation, math.sqrt(variance) * z, derivative)
    rest = math.sqrt(max(0.0, 1 - correlation**2))
    # The kinks of phi(c z1 + ... z2) in z2 move with z1, and so do the inner points.
    inner = [
        nodes(activation, float(other_variance), correlation * z1, rest) for z1 in z
    ]
    points = np.concatenate(
        [correlation * z1 + rest * z2 for z1, (z2, _) in zip(z, inner, strict=True)]
    )
    values = evaluate(activation, math.sqrt(other_variance) * points, derivative)
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


def check_variances(owner: str, weight: float, bias: float) -> None:
    _checks.number(owner, minimum=0.0, weight_variance=weight, bias_variance=bias)
