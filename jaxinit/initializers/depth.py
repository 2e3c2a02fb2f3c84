"""Variance schemes that know more than a fan: depth, width, what the network is for."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Unpack

import jax.numpy as jnp

from jaxinit import _checks, meanfield
from jaxinit._initializer import Initializer, initializer
from jaxinit._layout import GainedKernel, Kernel
from jaxinit._quadrature import BY_NAME
from jaxinit._types import Draw, Numeric
from jaxinit.initializers.basic import normal, zeros
from jaxinit.initializers.variance import over_fan, squared_gain, variance_scaling
from jaxinit.meanfield import Activation


@initializer(cites=("sussillo2014",))
def random_walk(
    activation: Annotated[Literal["linear", "relu"], BY_NAME] = "relu",
    **kernel: Unpack[Kernel],
) -> Draw:
    r"""Normal with the gain at which a gradient's expected *log* norm is constant.

    $\mathrm{Var}[w] = g^2 / n$, n the fan-in, with $g = e^{1/(2 n)}$ for linear
    networks and $g = \sqrt 2\, e^{1.2 / (\max(n, 6) - 2.4)}$ for ReLU: over the
    depth the norm is a random walk without drift, where He's gain makes it shrink in
    narrow networks.

    Args:
        activation: "linear" or "relu", for which the gain is known.
        **kernel: axes, dtype and layout.

    Returns:
        An initializer.

    Raises:
        ValueError: another activation, or as `variance_scaling`.

    Example:
        >>> import jax
        >>> w = random_walk("linear")(jax.random.key(0), (4, 2**16))
        >>> round(float(w.std()) * 2, 2), round(float(jax.numpy.exp(1 / 8)), 2)
        (1.13, 1.13)

    References:
        Sussillo and Abbott 2014, arXiv:1412.6558, equations 8 and 17.
    """
    _checks.choice("random_walk", "activation", activation, ("linear", "relu"))

    def growth(n: Numeric) -> Any:
        traced = _checks.is_traced(n)
        exp, larger = (jnp.exp, jnp.maximum) if traced else (math.exp, max)
        if activation == "linear":
            return exp(1 / n)
        return 2 * exp(2.4 / (larger(n, 6) - 2.4))

    return over_fan(
        "random_walk",
        1.0,
        lambda fan_in, fan_out: fan_in / growth(fan_in),
        "normal",
        kernel,
    )


@initializer(defaults={"distribution": "normal"}, cites=("yang2023spectral",))
def spectral(**kernel: Unpack[GainedKernel]) -> Draw:
    r"""The standard deviation at which the spectral norm is of order $\sqrt{o / i}$.

    $\sigma = \frac{\text{gain}}{\sqrt i} \min(1, \sqrt{o / i})$: the condition under
    which features move by order one at every width, the muP of plain SGD.

    Args:
        **kernel: axes, dtype, gain, distribution and layout.

    Returns:
        An initializer.

    Raises:
        ValueError: as `variance_scaling`; both gain and activation are given; or
            `fan` is one number, where two are needed.

    Example:
        >>> import jax
        >>> w = spectral()(jax.random.key(0), (1024, 256))
        >>> round(float(w.std()) * 64, 2)
        1.0

    References:
        Yang, Simon and Bernstein 2023, arXiv:2310.17813, parametrization 1.
    """
    fan = kernel.get("fan")
    if fan is not None and not isinstance(fan, tuple):
        raise ValueError(
            f"spectral: fan={fan!r} is one number, but two are needed, "
            "fan=(fan_in, fan_out)."
        )
    return over_fan(
        "spectral",
        squared_gain("spectral", kernel, 1.0),
        lambda fan_in, fan_out: fan_in * max(1.0, fan_in / fan_out),
        str(kernel.get("distribution")),
        kernel,
    )


@initializer(cites=("nguyen2019",))
def small_init(**kernel: Unpack[Kernel]) -> Draw:
    r"""Small initialization of transformers, with $\sigma = \sqrt{2 / (5 d)}$.

    $w \sim N(0, \sigma^2)$. d is the width of the model, here the fan-in; a layer that
    reads something else says `fan=d`.

    Args:
        **kernel: axes, dtype and layout.

    Returns:
        An initializer.

    Raises:
        ValueError: as `variance_scaling`.

    Example:
        >>> import jax
        >>> w = small_init()(jax.random.key(0), (640, 256))
        >>> round(float(w.std()) * 40, 2)
        1.0

    References:
        Nguyen and Salazar 2019, arXiv:1910.05895, section 2.2; the name is GPT-NeoX's.
    """
    return over_fan("small_init", 2 / 5, "fan_in", "normal", kernel)


@initializer(cites=("wang2021gptj", "black2022"))
def wang_init(layers: int, **kernel: Unpack[Kernel]) -> Draw:
    r"""Output projections of a deep transformer, with $\sigma = 2 / (N \sqrt d)$.

    $w \sim N(0, \sigma^2)$. N is the number of layers, d the width of the model: the
    fan-in of an attention's output projection; a feed-forward layer's says `fan=d`.

    Args:
        layers: N.
        **kernel: axes, dtype and layout.

    Returns:
        An initializer.

    Raises:
        ValueError: no layers, or as `variance_scaling`.

    Example:
        >>> import jax
        >>> w = wang_init(8)(jax.random.key(0), (256, 256))
        >>> round(float(w.std()) * 64, 2)
        1.0

    References:
        Wang and Komatsuzaki 2021, GPT-J-6B, whose code has it; Black et al. 2022,
        arXiv:2204.06745, section 2.1, for the name, GPT-NeoX's.
    """
    _checks.integer("wang_init", layers=layers)
    return over_fan("wang_init", 4 / layers**2, "fan_in", "normal", kernel)


@initializer(defaults={"distribution": "uniform"}, cites=("chang2020",))
def hyperfan(
    main_fan: Numeric,
    embedding_variance: Numeric = 1.0,
    biases: bool = False,
    **kernel: Unpack[GainedKernel],
) -> Draw:
    r"""The last layer of a hypernetwork, for the variance of the weights it generates.

    A generated weight $w = \sum_k H_k e_k$ has variance
    $d_k\,\mathrm{Var}[H]\,\mathrm{Var}[e]$; it should be $\text{gain}^2 / d_j$ in a
    main network of fan $d_j$, so
    $\mathrm{Var}[H] = \text{gain}^2 / (d_j\, d_k\, \mathrm{Var}[e])$, half of it where
    generated biases add the other half.

    Args:
        main_fan: $d_j$, fan-in of the generated kernel (fan-out to keep gradients); of
            a layer that generates biases, 1.
        embedding_variance: Var[e], the mean square of this layer's inputs.
        biases: whether the main layer has generated biases too.
        **kernel: axes, dtype, gain and activation (of the main network), distribution
            and layout.

    Returns:
        An initializer.

    Raises:
        ValueError: as `variance_scaling`; or both gain and activation are given.

    Example:
        >>> import jax
        >>> w = hyperfan(64)(jax.random.key(0), (16, 4096))
        >>> round(float(w.std()) * 32, 2)
        1.0

    References:
        Chang, Flokas and Lipson 2020, Principled weight initialization for
        hypernetworks, ICLR, table 1.
    """
    _checks.number(
        "hyperfan",
        positive=True,
        main_fan=main_fan,
        embedding_variance=embedding_variance,
    )
    scale = squared_gain("hyperfan", kernel, 1.0)
    return over_fan(
        "hyperfan",
        scale / (main_fan * embedding_variance * (2 if biases else 1)),
        "fan_in",
        str(kernel.get("distribution")),
        kernel,
    )


@initializer(cites=("sitzmann2020",))
def siren(
    frequency: Numeric = 30.0, first: bool = False, **kernel: Unpack[Kernel]
) -> Draw:
    r"""Kernels of a network of sines, $x \mapsto \sin(\omega_0 (x W + b))$.

    Hidden layers $U(\pm \sqrt{6 / i} / \omega_0)$, after which $\omega_0 x W$ is normal
    of variance 1 for inputs spread over whole periods, and settles at $v = 1 - e^{-2 v}
    = 0.797$ in the depth; the first layer $U(\pm 1 / i)$, i the number of coordinates,
    whose inputs lie in [-1, 1].

    Args:
        frequency: $\omega_0$, dimensionless.
        first: whether it is the first layer.
        **kernel: axes, dtype and layout.

    Returns:
        An initializer; `siren_bias` is the bias that goes with it.

    Raises:
        ValueError: a frequency that is not positive, or as `variance_scaling`.

    Example:
        >>> import jax
        >>> w = siren()(jax.random.key(0), (256, 256))
        >>> round(float(abs(w).max()) * 30 * (256 / 6) ** 0.5, 2)
        1.0

    References:
        Sitzmann et al. 2020, arXiv:2006.09661, section 3.2.
    """
    _checks.number("siren", positive=True, frequency=frequency)
    return over_fan(
        "siren",
        1 / 3 if first else 2 / frequency**2,
        (lambda fan_in, fan_out: fan_in**2) if first else "fan_in",
        "uniform",
        kernel,
    )


def siren_bias(fan: Numeric) -> Initializer:
    r"""Biases of a network of sines: $U(\pm 1 / \sqrt i)$.

    $\omega_0$ multiplies them: they add $\omega_0^2 / (3 i)$ to the variance of the
    sines' arguments, 1.2 at $\omega_0 = 30$ and i = 256.

    Args:
        fan: i, the number of the layer's inputs.

    Returns:
        An initializer of shapes of any rank.

    Example:
        >>> import jax
        >>> b = siren_bias(64)(jax.random.key(0), (4096,))
        >>> round(float(abs(b).max()), 3)
        0.125

    References:
        Sitzmann et al. 2020, arXiv:2006.09661, whose code leaves torch's default.
    """
    return variance_scaling(1 / 3, "fan_in", "uniform", fan=fan)


def edge_of_chaos(
    activation: Activation, bias_variance: float = 0.0
) -> tuple[Initializer, Initializer]:
    r"""Kernel and bias of a network on the edge of chaos.

    $w \sim N(0, \sigma_w^2 / \text{fan\_in})$ and $b \sim N(0, \sigma_b^2)$ with
    $\chi = \sigma_w^2\,\mathbb{E}[\phi'(\sqrt{q^*} z)^2] = 1$: gradients neither vanish
    nor explode; see `jaxinit.meanfield.edge_of_chaos`.

    Args:
        activation: a name, or an elementwise function.
        bias_variance: $\sigma_b^2$.

    Returns:
        Two initializers, for the kernel and for the bias; the pair is itself a scheme
        for a whole model. `jaxinit.tree.edge_of_chaos` reads the activations from it.

    Raises:
        ValueError: there is no such point, or the variance of the signal leaves it and
            grows: gelu, silu and mish with small biases.

    Example:
        >>> kernel, bias = edge_of_chaos("relu")
        >>> round(kernel.arguments["scale"], 6), bias
        (2.0, zeros())

    References:
        Schoenholz, Gilmer, Ganguli and Sohl-Dickstein 2017, arXiv:1611.01232,
        section 3.
    """
    point = meanfield.held_point("edge_of_chaos", activation, bias_variance)
    kernel = variance_scaling(point.weight_variance, "fan_in", "normal")
    return kernel, normal(math.sqrt(bias_variance)) if bias_variance else zeros
