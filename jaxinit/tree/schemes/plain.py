"""Schemes for plain deep networks, without branches or normalization."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit import _checks, initializers, meanfield
from jaxinit._initializer import Initializer
from jaxinit.trace import Layer
from jaxinit.tree._gain import Gain, check_gain, gain_of
from jaxinit.tree._scheme import tree_scheme
from jaxinit.tree._structure import Structure


@tree_scheme(cites=("xiao2018", "schoenholz2017"))
def delta_conv(gain: Gain = "critical", bias_variance: float = 0.0):
    r"""Delta-orthogonal convolutions and orthogonal dense layers, at a critical gain.

    Each kernel has the gain of the activation that feeds it, 1 if there is none. With
    $\phi = \tanh$ this trains plain convolutional networks of 10,000 layers, at the
    paper's $\sigma_b^2 = 2.01 \times 10^{-5}$, whose gain is 1.025.

    Args:
        gain: "critical" is `jaxinit.meanfield.critical_gain`, under which gradients
            neither vanish nor explode; "auto" is `jaxinit.meanfield.gain`, which keeps
            the signal, and under which the gradients of smooth activations explode:
            1.5925 for tanh, by 1.178 a layer. For ReLU they are one.
        bias_variance: $\sigma_b^2$, for which the gain is critical; biases are drawn
            from $N(0, \sigma_b^2)$, and stay as they are if it is 0.

    Returns:
        A `TreeScheme`.

    Raises:
        ValueError: a convolution has a window of even size, or is grouped; an
            activation has no critical gain; or "auto" is given a bias variance.

    Example:
        >>> delta_conv(bias_variance=2.01e-5)
        tree.delta_conv(bias_variance=2.01e-05)

    References:
        Xiao et al. 2018, arXiv:1806.05393, section 3; Schoenholz et al. 2017,
        arXiv:1611.01232, section 3, for the gain.
    """
    owner = "tree.delta_conv"
    check_gain(owner, gain)
    _checks.number(owner, minimum=0.0, bias_variance=bias_variance)
    if gain != "critical" and bias_variance:
        raise ValueError(
            f"{owner}: bias_variance={bias_variance!r} goes with gain='critical' alone."
        )

    def assign(model: Structure) -> Mapping[str, Initializer]:
        chosen = {
            kernel.path: _orthogonal(
                owner, kernel, gain_of(owner, kernel, gain, bias_variance)
            )
            for kernel in model.kernels
        }
        if bias_variance:
            bias = initializers.normal(math.sqrt(bias_variance))
            chosen.update((layer.path, bias) for layer in model.biases)
        return chosen

    return assign


def _orthogonal(owner: str, kernel: Layer, gain: float) -> Initializer:
    """An isometry times a gain, of a convolution on its centre tap."""
    if kernel.kind == "dense":
        return initializers.orthogonal(gain)
    window = [kernel.shape[axis] for axis in kernel.receptive_axes]
    if any(size % 2 == 0 for size in window) or kernel.groups > 1:
        raise ValueError(
            f"{owner}: the convolution {kernel.path} of shape {kernel.shape} "
            "has a window of even size or is grouped, and no centre tap holds an "
            "orthogonal matrix; give it another scheme by rules."
        )
    return initializers.delta_orthogonal(gain)


def _first(model: Structure) -> set[str]:
    """Paths of the kernels that no other kernel feeds."""
    fed = {path for kernel in model.kernels for path in kernel.feeds}
    return {kernel.path for kernel in model.kernels} - fed


@tree_scheme(cites=("schoenholz2017",))
def edge_of_chaos(bias_variance: float = 0.0):
    r"""Kernels and biases on the edge of chaos, each at its own activation.

    $w \sim N(0, \sigma_w^2 / \text{fan\_in})$ and $b \sim N(0, \sigma_b^2)$, where
    $\sigma_w$ is `jaxinit.meanfield.critical_gain` of the activation that feeds the
    kernel, 1 if there is none.

    Args:
        bias_variance: $\sigma_b^2$.

    Returns:
        A `TreeScheme`; `jaxinit.edge_of_chaos` has the pair for one activation.

    Raises:
        ValueError: an activation has no critical point at this bias variance, such as
            gelu at 0 or ReLU beyond.

    Example:
        >>> edge_of_chaos(0.05)
        tree.edge_of_chaos(bias_variance=0.05)

    References:
        Schoenholz et al. 2017, arXiv:1611.01232, section 3.
    """
    owner = "tree.edge_of_chaos"
    _checks.number(owner, minimum=0.0, bias_variance=bias_variance)
    bias = (
        initializers.normal(math.sqrt(bias_variance))
        if bias_variance
        else initializers.zeros
    )

    def assign(model: Structure) -> Mapping[str, Initializer]:
        chosen: dict[str, Initializer] = {b.path: bias for b in model.biases}
        for kernel in model.kernels:
            gain = gain_of(owner, kernel, "critical", bias_variance)
            chosen[kernel.path] = initializers.lecun_normal(
                gain=gain, distribution="normal"
            )
        return chosen

    return assign


@tree_scheme(cites=("balduzzi2017", "burkholz2019"))
def looks_linear():
    r"""A deep network of ReLUs that is linear and an isometry at initialization.

    Kernels are mirrored, $[U, -U]$ where the model begins, $[U; -U]$ where it ends and
    $[[U, -U], [-U, U]]$ between, as in `jaxinit.looks_linear`, with U orthogonal, on
    the centre tap of a convolution; biases 0. Since $\phi(a) - \phi(-a) = c a$, with
    c = 1 for ReLU, gelu and silu, the network computes the product of all U; where c is
    another number, U is divided by it.

    Returns:
        A `TreeScheme`.

    Raises:
        ValueError: another activation, such as tanh; an odd side that is to be
            mirrored; a flattened convolution; or a convolution as in `delta_conv`.

    Example:
        >>> looks_linear()
        tree.looks_linear()

    References:
        Balduzzi et al. 2017, arXiv:1702.08591, section 4; Burkholz and Dubatovka 2019,
        arXiv:1806.06362.
    """

    def assign(model: Structure) -> Mapping[str, Initializer]:
        first, last = _first(model), {head.path for head in model.heads}
        chosen: dict[str, Initializer] = {
            layer.path: initializers.zeros for layer in model.biases
        }
        for kernel in model.kernels:
            chosen[kernel.path] = _mirrored(
                model, kernel, kernel.path in first, kernel.path in last
            )
        return chosen

    return assign


def _mirrored(model: Structure, kernel: Layer, first: bool, last: bool) -> Initializer:
    """The kernel of a network that looks linear, by its place."""
    owner = "tree.looks_linear"
    slope = 1.0 if first else _mirror_slope(kernel)
    inputs, outputs = (
        math.prod(kernel.shape[axis] for axis in axes)
        for axes in (kernel.in_axes, kernel.out_axes)
    )
    for other in model.kernels:
        if other.kind == "conv" and kernel.kind == "dense" and not first:
            channels = math.prod(other.shape[axis] for axis in other.out_axes)
            if kernel.path in other.feeds and channels != inputs:
                raise ValueError(
                    f"{owner}: {kernel.path} reads the flattened outputs of the "
                    f"convolution {other.path}, whose mirrored halves lie apart there; "
                    "take a mean over space in place of it, or give it another scheme."
                )
    if (not first and inputs % 2) or (not last and outputs % 2):
        raise ValueError(
            f"{owner}: {kernel.path} of shape {kernel.shape} has an odd side that is "
            "to be mirrored; make its width even."
        )
    base = _orthogonal(owner, kernel, 1 / slope)
    if first and last:
        return base
    part = "first" if first else "last" if last else "hidden"
    return initializers.looks_linear(base, part)


def _mirror_slope(kernel: Layer) -> float:
    """The number c of phi(a) - phi(-a) = c a, or one sentence if there is none."""
    name = kernel.activation_before or "linear"
    slope = _slope(name) if name in meanfield.ACTIVATIONS else None
    if slope is None:
        raise ValueError(
            f"tree.looks_linear: {name}, which feeds {kernel.path}, has no straight "
            "line in phi(a) - phi(-a); use relu, leaky_relu, gelu, silu or their kin."
        )
    return slope


@functools.cache
def _slope(name: str) -> float | None:
    points = np.linspace(-4.0, 4.0, 8)
    with jax.ensure_compile_time_eval():
        values = np.asarray(meanfield.ACTIVATIONS[name](jnp.asarray(points)))
    slopes = (values - values[::-1]) / points
    slope = float(slopes[0])
    return slope if np.allclose(slopes, slope, rtol=1e-4) and slope > 0 else None


@tree_scheme(cites=("sitzmann2020",))
def siren(frequency: float = 30.0):
    r"""A network of sines, $x \mapsto \sin(\omega_0 (x W + b))$.

    Kernels by `jaxinit.siren`, the first ones $U(\pm 1 / i)$ and all others, the last
    one included, $U(\pm \sqrt{6 / i} / \omega_0)$; biases $U(\pm 1 / \sqrt i)$, with i
    the fan-in of their kernel.

    Args:
        frequency: $\omega_0$, dimensionless, which the model multiplies with.

    Returns:
        A `TreeScheme`.

    Raises:
        ValueError: no kernel is fed by a sine.

    Example:
        >>> siren()
        tree.siren()

    References:
        Sitzmann et al. 2020, arXiv:2006.09661, section 3.2; biases as in its code.
    """
    _checks.number("tree.siren", positive=True, frequency=frequency)
    bias = initializers.variance_scaling(1 / 3, "fan_in", "uniform")

    def assign(model: Structure) -> Mapping[str, Initializer]:
        if all(kernel.activation_before != "sin" for kernel in model.kernels):
            raise ValueError(
                "tree.siren: no kernel is fed by a sine; it is for networks such as "
                "jnp.sin(30 * (x @ w + b)) @ v."
            )
        first = _first(model)
        chosen = {layer.path: bias for layer in model.biases}
        for kernel in model.kernels:
            chosen[kernel.path] = initializers.siren(
                frequency, first=kernel.path in first
            )
        return chosen

    return assign
