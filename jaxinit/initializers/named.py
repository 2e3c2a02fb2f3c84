"""LeCun, Glorot (Xavier) and He (Kaiming): named cases of `variance_scaling`."""

from __future__ import annotations

from typing import Any, Unpack

from jaxinit._initializer import alias, initializer
from jaxinit._layout import NormalOptions, UniformOptions
from jaxinit._types import Axis, Draw, DType
from jaxinit.initializers.variance import over_fan, squared_gain


def _uniform(
    in_axis: Axis = -2,
    out_axis: Axis = -1,
    batch_axis: Axis = (),
    dtype: DType = None,
    **options: Unpack[UniformOptions],
) -> Any:
    """The parameters of the uniform schemes, positions as in `jax.nn.initializers`."""


def _normal(
    in_axis: Axis = -2,
    out_axis: Axis = -1,
    batch_axis: Axis = (),
    dtype: DType = None,
    **options: Unpack[NormalOptions],
) -> Any:
    """The parameters of the normal schemes, positions as in `jax.nn.initializers`."""


_LECUN = {"mode": "fan_in", "distribution": "truncated_normal"}
_GLOROT = {"mode": "fan_avg", "distribution": "truncated_normal"}
_HE = {"mode": "fan_in", "distribution": "truncated_normal"}


def _over_fan(owner: str, scale: float, options: dict[str, Any]) -> Draw:
    """Variance over the fan, `scale` where neither gain nor activation is given."""
    scale = squared_gain(owner, options, scale)
    distribution = options.get("distribution", "uniform")
    return over_fan(owner, scale, options["mode"], distribution, options)


@initializer(like=_normal, defaults=_LECUN, cites=("lecun1998", "klambauer2017"))
def lecun_normal(**options: Any) -> Draw:
    r"""LeCun normal: variance gain squared over fan-in.

    $\mathrm{Var}[w] = \text{gain}^2 / \text{fan\_in}$: a linear layer keeps the mean
    square of its input. Self-normalizing networks (SELU) are built on gain 1, which is
    the default.

    Args:
        **options: axes, dtype, gain, mode, distribution and layout.

    Returns:
        An initializer.

    Raises:
        ValueError: as `variance_scaling`; or both gain and activation are given.

    Example:
        >>> import jax
        >>> w = lecun_normal()(jax.random.key(0), (256, 512))
        >>> round(float(w.std() / (1 / 256) ** 0.5), 2)
        1.0

    References:
        LeCun, Bottou, Orr and Mueller 1998, Efficient BackProp, section 4.6;
        Klambauer et al. 2017, arXiv:1706.02515.
    """
    return _over_fan("lecun_normal", 1.0, options)


@initializer(like=_uniform, defaults=_LECUN, cites=("lecun1998",))
def lecun_uniform(**options: Any) -> Draw:
    r"""LeCun uniform: variance gain squared over fan-in.

    $w \sim U(-a, a)$ with $a = \text{gain} \sqrt{3 / \text{fan\_in}}$ and gain 1 by
    default.

    Args:
        **options: axes, dtype, gain, mode and layout.

    Returns:
        An initializer.

    Raises:
        ValueError: as `variance_scaling`; or both gain and activation are given.

    Example:
        >>> import jax
        >>> w = lecun_uniform()(jax.random.key(0), (256, 512))
        >>> round(float(w.std() / (1 / 256) ** 0.5), 2)
        1.0

    References:
        LeCun, Bottou, Orr and Mueller 1998, Efficient BackProp, section 4.6.
    """
    return _over_fan("lecun_uniform", 1.0, options)


@initializer(like=_normal, defaults=_GLOROT, cites=("glorot2010",))
def glorot_normal(**options: Any) -> Draw:
    r"""Glorot (Xavier) normal: variance 2 gain squared over fan-in plus fan-out.

    $\mathrm{Var}[w] = 2\,\text{gain}^2 / (\text{fan\_in} + \text{fan\_out})$ with gain
    1 by default: a compromise between keeping the forward and the backward signal, for
    activations that are linear around 0.

    Args:
        **options: axes, dtype, gain, mode, distribution and layout.

    Returns:
        An initializer.

    Raises:
        ValueError: as `variance_scaling`; or both gain and activation are given.

    Example:
        >>> import jax
        >>> w = glorot_normal()(jax.random.key(0), (256, 512))
        >>> round(float(w.std() / (2 / (256 + 512)) ** 0.5), 2)
        1.0

    References:
        Glorot and Bengio 2010, Understanding the difficulty of training deep
        feedforward neural networks, equation 12 (uniform there, equation 16).
    """
    return _over_fan("glorot_normal", 1.0, options)


@initializer(like=_uniform, defaults=_GLOROT, cites=("glorot2010",))
def glorot_uniform(**options: Any) -> Draw:
    r"""Glorot (Xavier) uniform: variance 2 gain squared over fan-in plus fan-out.

    $w \sim U(-a, a)$ with
    $a = \text{gain} \sqrt{6 / (\text{fan\_in} + \text{fan\_out})}$ and gain 1 by
    default.

    Args:
        **options: axes, dtype, gain, mode and layout.

    Returns:
        An initializer.

    Raises:
        ValueError: as `variance_scaling`; or both gain and activation are given.

    Example:
        >>> import jax
        >>> w = glorot_uniform()(jax.random.key(0), (256, 512))
        >>> round(float(w.std() / (2 / (256 + 512)) ** 0.5), 2)
        1.0

    References:
        Glorot and Bengio 2010, Understanding the difficulty of training deep
        feedforward neural networks, equation 16.
    """
    return _over_fan("glorot_uniform", 1.0, options)


@initializer(like=_normal, defaults=_HE, cites=("he2015",))
def he_normal(**options: Any) -> Draw:
    r"""He (Kaiming) normal: variance 2 over the fan, for ReLU.

    $\mathrm{Var}[w] = \text{gain}^2 / n$ with gain $\sqrt 2$, the gain of ReLU, by
    default: $\mathbb{E}[\mathrm{relu}(z)^2] = \mathbb{E}[z^2] / 2$ for symmetric $z$.
    $n$ is the fan-in (forward signal kept) or the fan-out (gradient kept).

    Args:
        **options: axes, dtype, gain, mode, distribution and layout.

    Returns:
        An initializer.

    Raises:
        ValueError: as `variance_scaling`; or both gain and activation are given.

    Example:
        >>> import jax
        >>> w = he_normal()(jax.random.key(0), (256, 512))
        >>> round(float(w.std() / (2 / 256) ** 0.5), 2)
        1.0

    References:
        He, Zhang, Ren and Sun 2015, arXiv:1502.01852, equations 10 and 14.
    """
    return _over_fan("he_normal", 2.0, options)


@initializer(like=_uniform, defaults=_HE, cites=("he2015",))
def he_uniform(**options: Any) -> Draw:
    r"""He (Kaiming) uniform: variance 2 over the fan, for ReLU.

    $w \sim U(-a, a)$ with $a = \text{gain} \sqrt{3 / n}$ and gain $\sqrt 2$, the gain
    of ReLU, by default; $n$ is the fan-in or the fan-out.

    Args:
        **options: axes, dtype, gain, mode and layout.

    Returns:
        An initializer.

    Raises:
        ValueError: as `variance_scaling`; or both gain and activation are given.

    Example:
        >>> import jax
        >>> w = he_uniform()(jax.random.key(0), (256, 512))
        >>> round(float(w.std() / (2 / 256) ** 0.5), 2)
        1.0

    References:
        He, Zhang, Ren and Sun 2015, arXiv:1502.01852, equations 10 and 14.
    """
    return _over_fan("he_uniform", 2.0, options)


xavier_normal = alias("xavier_normal", glorot_normal)
xavier_uniform = alias("xavier_uniform", glorot_uniform)
kaiming_normal = alias("kaiming_normal", he_normal)
kaiming_uniform = alias("kaiming_uniform", he_uniform)
