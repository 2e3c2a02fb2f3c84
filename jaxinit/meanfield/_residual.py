"""Residual networks without normalization: what passes over their branches."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from jaxinit import _checks
from jaxinit._quadrature import Activation, Floats
from jaxinit.meanfield._maps import mixed_moment, second_moment


class ResidualSignal(NamedTuple):
    """The signal in a residual stream, from the input on, after each branch.

    Attributes:
        variance: (depth + 1,) mean squares of the stream's entries.
        correlation: (depth + 1,) correlations of the streams of two inputs.
        gradient: (depth + 1,) mean squared gradients there, of that at the end.
    """

    variance: Floats
    correlation: Floats
    gradient: Floats


def residual_signal(
    activation: Activation,
    depth: int,
    *,
    weight_variance: float,
    branch_variance: float,
    bias_variance: float = 0.0,
    variance: float = 1.0,
    correlation: float = 0.0,
) -> ResidualSignal:
    r"""The signal in a residual network $x' = x + V \phi(W x + b)$ of wide branches.

    With weights W of variance $\sigma_w^2 / n$, V of $\sigma_v^2 / n$ and biases of
    $\sigma_b^2$, the mean square p of the stream and the correlation c of two inputs
    follow $q = \sigma_w^2 p + \sigma_b^2$,
    $p' = p + \sigma_v^2\, \mathbb{E}[\phi(u)^2]$ and
    $p' c' = p c + \sigma_v^2\, \mathbb{E}[\phi(u)\, \phi(v)]$ with normal u, v of
    variance q and covariance $\sigma_w^2 p c + \sigma_b^2$; a gradient grows backwards
    by $1 + \sigma_v^2 \sigma_w^2\, \mathbb{E}[\phi'(u)^2]$. A bounded activation lets
    the stream grow with the depth, ReLU at $\sigma_w^2 \sigma_v^2 = 2$ doubles it with
    every branch, and $\sigma_v^2 \sim 1 / L$ keeps both within a factor at any depth.

    Args:
        activation: a name, or an elementwise function.
        depth: L, number of branches.
        weight_variance: $\sigma_w^2$, fan-in times the variance of a branch's first
            weight.
        branch_variance: $\sigma_v^2$, that of its last one.
        bias_variance: $\sigma_b^2$, the variance of a bias.
        variance: of the input's entries.
        correlation: of two inputs, from -1 to 1.

    Returns:
        The `ResidualSignal`, float64.

    Raises:
        ValueError: a variance is negative, or the correlation outside [-1, 1].

    Example:
        >>> found = residual_signal(
        ...     "relu", 10, weight_variance=2.0, branch_variance=1.0
        ... )
        >>> round(found.variance[-1]), round(found.gradient[0])
        (1024, 1024)
        >>> calm = residual_signal(
        ...     "relu", 20, weight_variance=2.0, branch_variance=1 / 20
        ... )
        >>> round(float(calm.variance[-1]), 2)
        2.65

    References:
        Yang and Schoenholz 2017, arXiv:1712.08969, section 4.
    """
    owner = "residual_signal"
    _checks.integer(owner, depth=depth)
    _checks.number(
        owner,
        minimum=0.0,
        weight_variance=weight_variance,
        branch_variance=branch_variance,
        bias_variance=bias_variance,
    )
    _checks.number(owner, minimum=1e-30, variance=variance)
    if not -1 <= correlation <= 1:
        raise ValueError(f"{owner}: correlation={correlation!r} must lie in [-1, 1].")
    sizes, products = [variance], [variance * correlation]
    growth: list[float] = []
    for _ in range(depth):
        p, mixed = sizes[-1], products[-1]
        q = weight_variance * p + bias_variance
        cosine = (weight_variance * mixed + bias_variance) / q if q > 0 else 1.0
        cosine = min(1.0, max(-1.0, cosine))
        sizes.append(p + branch_variance * second_moment(activation, q))
        products.append(mixed + branch_variance * mixed_moment(activation, cosine, q))
        slopes = second_moment(activation, q, derivative=True)
        growth.append(1 + branch_variance * weight_variance * slopes)
    if not math.isfinite(sizes[-1]):
        raise ValueError(
            f"{owner}: the stream overflows within {depth} branches; choose a smaller "
            "branch_variance."
        )
    variances = np.array(sizes)
    back = np.array([math.prod(growth[k:]) for k in range(depth + 1)])
    return ResidualSignal(variances, np.array(products) / variances, back)
