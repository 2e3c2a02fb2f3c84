r"""Theory of deep networks: spectra of Jacobians, finite width, kernels of depth.

What goes beyond one layer's map: how far singular values of a deep network's Jacobian
spread, how far a network of finite width strays from its limit, and the kernels of the
Gaussian process and of gradient descent that a network of infinite width is.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from jaxinit import _checks
from jaxinit._quadrature import Activation, Floats, edges_of, evaluate, expectation
from jaxinit.meanfield._critical import fixed_point
from jaxinit.meanfield._maps import mixed_moment, second_moment, variance_map


def _fourth_moment(activation: Activation, variance: float, derivative: bool) -> float:
    r"""$\mathbb{E}[\phi(\sqrt q z)^4]$, or the same of the derivative."""
    root = math.sqrt(max(variance, 1e-16) if derivative else variance)

    def fourth(z: Floats) -> Floats:
        with np.errstate(over="ignore"):
            return evaluate(activation, root * z, derivative) ** 4

    return expectation(fourth, edges_of(activation, root), activation)


class Spectrum(NamedTuple):
    r"""Squared singular values of a deep network's Jacobian, in the infinite width.

    Attributes:
        mean: of the squared singular values, $\chi^L$; 1 at the edge of chaos.
        variance: of the squared singular values. Near 0, all directions of a signal
            pass alike: dynamical isometry.
    """

    mean: float
    variance: float


def jacobian_spectrum(
    activation: Activation,
    depth: int,
    *,
    weight_variance: float,
    variance: float = 1.0,
    orthogonal: bool = False,
) -> Spectrum:
    r"""Mean and variance of the squared singular values of a network's Jacobian.

    For $J = \prod_{l=1}^L D_l W_l$ at a fixed variance q, with $D_l$ the activation's
    slopes and $\mu_k = \mathbb{E}[\phi'(\sqrt q z)^{2k}]$,
    $m = (\sigma_w^2 \mu_1)^L$ and
    $\sigma^2 = m^2 L\, (\mu_2 / \mu_1^2 - 1 - s)$, where $s = -1$ for Gaussian weights
    and 0 for orthogonal ones.

    Args:
        activation: a name, or an elementwise function.
        depth: L, number of layers.
        weight_variance: $\sigma_w^2$, fan-in times the variance of a weight.
        variance: q, of the pre-activations; `fixed_point` has the one where it settles.
        orthogonal: whether weights are orthogonal times $\sigma_w$, not Gaussian.

    Returns:
        The `Spectrum`.

    Raises:
        ValueError: the activation has no slope anywhere.

    Example:
        >>> jacobian_spectrum("linear", 10, weight_variance=1.0, orthogonal=True)
        Spectrum(mean=1.0, variance=0.0)
        >>> relu = jacobian_spectrum("relu", 10, weight_variance=2.0, orthogonal=True)
        >>> round(relu.mean, 6), round(relu.variance, 6)
        (1.0, 10.0)

    References:
        Pennington, Schoenholz and Ganguli 2018, arXiv:1802.09979, equations 22 to 24.
    """
    owner = "jacobian_spectrum"
    _checks.number(
        owner, minimum=0.0, weight_variance=weight_variance, variance=variance
    )
    _checks.integer(owner, depth=depth)
    first = second_moment(activation, variance, derivative=True)
    if first == 0:
        raise ValueError(
            f"{owner}: the activation has no slope, so that no gradient goes through "
            "it; use another."
        )
    spread = _fourth_moment(activation, variance, True) / first**2 - 1
    mean = (weight_variance * first) ** depth
    return Spectrum(mean, mean**2 * depth * (spread + (0 if orthogonal else 1)))


def trainable_depth(
    activation: Activation, *, weight_variance: float, bias_variance: float = 0.0
) -> float:
    r"""The depth up to which a network trains, six correlation depths.

    Further on, two inputs come out equal, or unrelated, to within $e^{-6}$: nothing of
    what tells them apart is left to learn from.

    Args:
        activation: a name, or an elementwise function.
        weight_variance: $\sigma_w^2$, fan-in times the variance of a weight.
        bias_variance: $\sigma_b^2$, the variance of a bias.

    Returns:
        A number of layers; infinite at the edge of chaos.

    Raises:
        ValueError: as `fixed_point`.

    Example:
        >>> round(trainable_depth("tanh", weight_variance=1.5, bias_variance=0.1))
        46

    References:
        Schoenholz, Gilmer, Ganguli and Sohl-Dickstein 2017, arXiv:1611.01232,
        section 5.
    """
    point = fixed_point(
        activation, weight_variance=weight_variance, bias_variance=bias_variance
    )
    return 6 * point.correlation_depth


def width_fluctuation(
    activation: Activation,
    depth: int,
    width: int,
    *,
    weight_variance: float,
    variance: float = 1.0,
) -> float:
    r"""How far the size of a signal strays in a network of finite width.

    The relative variance, over draws, of the mean square $q_L$ of a layer's
    pre-activations, to first order in depth over width:

    $\frac{\mathrm{Var}\, q_L}{q^2} = \frac{\sigma_w^4\, \mathrm{Var}\, \phi^2}{n q^2}
    \sum_{l=0}^{L-1} \lambda^{2 l}$ with $\lambda = dq'/dq$ at the fixed point q. For
    ReLU, $\lambda = 1$ and it is $5 L / n$.

    Args:
        activation: a name, or an elementwise function.
        depth: L, number of layers after the first.
        width: n, units of a layer.
        weight_variance: $\sigma_w^2$, fan-in times the variance of a weight.
        variance: q, of the pre-activations, a fixed point of the variance map.

    Returns:
        The relative variance; the formula holds while it is small.

    Example:
        >>> round(width_fluctuation("relu", 10, 100, weight_variance=2.0), 6)
        0.5

    References:
        Hanin and Nica 2019, arXiv:1812.05994, for ReLU; Roberts, Yaida and Hanin 2021,
        arXiv:2106.10165, section 5.4, for the recursion.
    """
    owner = "width_fluctuation"
    _checks.number(owner, minimum=0.0, weight_variance=weight_variance)
    _checks.number(owner, minimum=1e-30, variance=variance)
    _checks.integer(owner, depth=depth, width=width)
    square = second_moment(activation, variance)
    excess = _fourth_moment(activation, variance, False) - square**2
    step = 1e-4 * variance
    sides = [
        variance_map(activation, variance + s, weight_variance=weight_variance)
        for s in (step, -step)
    ]
    factor = ((sides[0] - sides[1]) / (2 * step)) ** 2
    turns = depth if abs(factor - 1) < 1e-6 else (1 - factor**depth) / (1 - factor)
    return weight_variance**2 * excess * turns / (width * variance**2)


class Kernels(NamedTuple):
    """Kernels of a wide network over some inputs.

    Attributes:
        nngp: (inputs, inputs) covariances of its outputs at initialization.
        ntk: (inputs, inputs) products of its outputs' gradients by all parameters, with
            weights and biases as standard normal draws times their deviations.
    """

    nngp: np.ndarray
    ntk: np.ndarray


def kernels(
    activation: Activation,
    inputs: np.ndarray,
    depth: int,
    *,
    weight_variance: float,
    bias_variance: float = 0.0,
) -> Kernels:
    r"""The Gaussian process and the tangent kernel of a fully connected network.

    $K^0 = \Theta^0 = \sigma_w^2 X X^\top / d + \sigma_b^2$, and for each hidden layer
    $K' = \sigma_w^2\, \mathbb{E}[\phi(u)\, \phi(v)] + \sigma_b^2$ and
    $\Theta' = K' + \sigma_w^2\, \Theta\, \mathbb{E}[\phi'(u)\, \phi'(v)]$ with
    $(u, v) \sim N(0, K)$.

    Args:
        activation: a name, or an elementwise function.
        inputs: X, (inputs, d) numbers.
        depth: number of hidden layers; with 0 the network is linear.
        weight_variance: $\sigma_w^2$, fan-in times the variance of a weight.
        bias_variance: $\sigma_b^2$, the variance of a bias.

    Returns:
        The `Kernels`, float64.

    Raises:
        ValueError: inputs have another rank than 2.

    Example:
        >>> import numpy as np
        >>> both = kernels("relu", np.eye(2), 1, weight_variance=2.0)
        >>> np.round(both.nngp * np.pi, 3).tolist()
        [[3.142, 1.0], [1.0, 3.142]]

    References:
        Lee et al. 2018, arXiv:1711.00165, equation 5; Jacot, Gabriel and Hongler 2018,
        arXiv:1806.07572, theorem 1; Cho and Saul 2009 for ReLU's closed form.
    """
    owner = "kernels"
    _checks.number(
        owner, minimum=0.0, weight_variance=weight_variance, bias_variance=bias_variance
    )
    _checks.integer(owner, minimum=0, depth=depth)
    points = np.asarray(inputs, np.float64)
    if points.ndim != 2:
        raise ValueError(
            f"{owner}: inputs of shape {points.shape} must be (inputs, numbers)."
        )
    nngp = weight_variance * points @ points.T / points.shape[1] + bias_variance
    ntk = nngp.copy()
    for _ in range(depth):
        value, slope = np.zeros_like(nngp), np.zeros_like(nngp)
        for a in range(len(nngp)):
            for b in range(a + 1):
                size = math.sqrt(nngp[a, a] * nngp[b, b])
                cosine = min(1.0, max(-1.0, nngp[a, b] / size)) if size > 0 else 1.0
                pair = (cosine, nngp[a, a], nngp[b, b])
                value[a, b] = value[b, a] = mixed_moment(activation, *pair)
                slope[a, b] = slope[b, a] = mixed_moment(
                    activation, *pair, derivative=True
                )
        nngp = weight_variance * value + bias_variance
        ntk = nngp + weight_variance * ntk * slope
    return Kernels(nngp, ntk)
