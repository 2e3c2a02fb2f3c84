"""LeCun, Glorot (Xavier) and He (Kaiming): named cases of the variance law."""

from __future__ import annotations

from typing import Unpack

from jaxinit._fans import Layout
from jaxinit._initializer import alias, initializer
from jaxinit._types import Axis, Distribution, Draw, DType, Mode, Numeric
from jaxinit.initializers.variance import squared_gain, variance_law
from jaxinit.meanfield import Activation


@initializer
def lecun_normal(
    in_axis: Axis = -2,
    out_axis: Axis = -1,
    batch_axis: Axis = (),
    dtype: DType = None,
    *,
    gain: Numeric | None = None,
    activation: Activation | None = None,
    distribution: Distribution = "truncated_normal",
    **layout: Unpack[Layout],
) -> Draw:
    r"""LeCun normal: variance gain squared over fan-in.

    $\mathrm{Var}[w] = \text{gain}^2 / \text{fan\_in}$: a linear layer keeps the mean
    square of its input. Self-normalizing networks (SELU) are built on gain 1.

    Args:
        in_axis: axis or axes of the inputs.
        out_axis: axis or axes of the outputs.
        batch_axis: axis or axes over which independent kernels are stacked.
        dtype: dtype of the array; JAX's default float if None.
        gain: deviation multiplier, dimensionless; 1 if None.
        activation: what feeds the layer, by name or as a function, in place of `gain`.
        distribution: the law; "normal" for the untruncated one.
        **layout: the keywords of `jaxinit.Layout`.

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
    return variance_law(
        "lecun_normal",
        squared_gain("lecun_normal", gain, activation, 1.0),
        "fan_in",
        distribution,
        (in_axis, out_axis, batch_axis),
        layout,
    )


@initializer
def lecun_uniform(
    in_axis: Axis = -2,
    out_axis: Axis = -1,
    batch_axis: Axis = (),
    dtype: DType = None,
    *,
    gain: Numeric | None = None,
    activation: Activation | None = None,
    **layout: Unpack[Layout],
) -> Draw:
    r"""LeCun uniform: variance gain squared over fan-in.

    $w \sim U(-a, a)$ with $a = \text{gain} \sqrt{3 / \text{fan\_in}}$.

    Args:
        in_axis: axis or axes of the inputs.
        out_axis: axis or axes of the outputs.
        batch_axis: axis or axes over which independent kernels are stacked.
        dtype: dtype of the array; JAX's default float if None.
        gain: deviation multiplier, dimensionless; 1 if None.
        activation: what feeds the layer, by name or as a function, in place of `gain`.
        **layout: the keywords of `jaxinit.Layout`.

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
    return variance_law(
        "lecun_uniform",
        squared_gain("lecun_uniform", gain, activation, 1.0),
        "fan_in",
        "uniform",
        (in_axis, out_axis, batch_axis),
        layout,
    )


@initializer
def glorot_normal(
    in_axis: Axis = -2,
    out_axis: Axis = -1,
    batch_axis: Axis = (),
    dtype: DType = None,
    *,
    gain: Numeric | None = None,
    activation: Activation | None = None,
    distribution: Distribution = "truncated_normal",
    **layout: Unpack[Layout],
) -> Draw:
    r"""Glorot (Xavier) normal: variance 2 gain squared over fan-in plus fan-out.

    $\mathrm{Var}[w] = 2\,\text{gain}^2 / (\text{fan\_in} + \text{fan\_out})$: a
    compromise between keeping the forward and the backward signal, for activations
    that are linear around 0.

    Args:
        in_axis: axis or axes of the inputs.
        out_axis: axis or axes of the outputs.
        batch_axis: axis or axes over which independent kernels are stacked.
        dtype: dtype of the array; JAX's default float if None.
        gain: deviation multiplier, dimensionless; 1 if None.
        activation: what feeds the layer, by name or as a function, in place of `gain`.
        distribution: the law; "normal" for the untruncated one.
        **layout: the keywords of `jaxinit.Layout`.

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
        feedforward neural networks, equation 12 (with a uniform law, equation 16).
    """
    return variance_law(
        "glorot_normal",
        squared_gain("glorot_normal", gain, activation, 1.0),
        "fan_avg",
        distribution,
        (in_axis, out_axis, batch_axis),
        layout,
    )


@initializer
def glorot_uniform(
    in_axis: Axis = -2,
    out_axis: Axis = -1,
    batch_axis: Axis = (),
    dtype: DType = None,
    *,
    gain: Numeric | None = None,
    activation: Activation | None = None,
    **layout: Unpack[Layout],
) -> Draw:
    r"""Glorot (Xavier) uniform: variance 2 gain squared over fan-in plus fan-out.

    $w \sim U(-a, a)$ with
    $a = \text{gain} \sqrt{6 / (\text{fan\_in} + \text{fan\_out})}$.

    Args:
        in_axis: axis or axes of the inputs.
        out_axis: axis or axes of the outputs.
        batch_axis: axis or axes over which independent kernels are stacked.
        dtype: dtype of the array; JAX's default float if None.
        gain: deviation multiplier, dimensionless; 1 if None.
        activation: what feeds the layer, by name or as a function, in place of `gain`.
        **layout: the keywords of `jaxinit.Layout`.

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
    return variance_law(
        "glorot_uniform",
        squared_gain("glorot_uniform", gain, activation, 1.0),
        "fan_avg",
        "uniform",
        (in_axis, out_axis, batch_axis),
        layout,
    )


@initializer
def he_normal(
    in_axis: Axis = -2,
    out_axis: Axis = -1,
    batch_axis: Axis = (),
    dtype: DType = None,
    *,
    gain: Numeric | None = None,
    activation: Activation | None = None,
    mode: Mode = "fan_in",
    distribution: Distribution = "truncated_normal",
    **layout: Unpack[Layout],
) -> Draw:
    r"""He (Kaiming) normal: variance 2 over the fan, for ReLU.

    $\mathrm{Var}[w] = \text{gain}^2 / n$ with gain $\sqrt 2$, the gain of ReLU, by
    default: $\mathbb{E}[\mathrm{relu}(z)^2] = \mathbb{E}[z^2] / 2$ for symmetric $z$.
    $n$ is the fan-in (forward signal kept) or the fan-out (gradient kept).

    Args:
        in_axis: axis or axes of the inputs.
        out_axis: axis or axes of the outputs.
        batch_axis: axis or axes over which independent kernels are stacked.
        dtype: dtype of the array; JAX's default float if None.
        gain: deviation multiplier, dimensionless; sqrt(2) exactly if None.
        activation: what feeds the layer, by name or as a function, in place of `gain`.
        mode: the fan, as in `variance_scaling`.
        distribution: the law; "normal" for the untruncated one.
        **layout: the keywords of `jaxinit.Layout`.

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
    return variance_law(
        "he_normal",
        squared_gain("he_normal", gain, activation, 2.0),
        mode,
        distribution,
        (in_axis, out_axis, batch_axis),
        layout,
    )


@initializer
def he_uniform(
    in_axis: Axis = -2,
    out_axis: Axis = -1,
    batch_axis: Axis = (),
    dtype: DType = None,
    *,
    gain: Numeric | None = None,
    activation: Activation | None = None,
    mode: Mode = "fan_in",
    **layout: Unpack[Layout],
) -> Draw:
    r"""He (Kaiming) uniform: variance 2 over the fan, for ReLU.

    $w \sim U(-a, a)$ with $a = \text{gain} \sqrt{3 / n}$ and gain $\sqrt 2$, the gain
    of ReLU, by default; $n$ is the fan-in or the fan-out.

    Args:
        in_axis: axis or axes of the inputs.
        out_axis: axis or axes of the outputs.
        batch_axis: axis or axes over which independent kernels are stacked.
        dtype: dtype of the array; JAX's default float if None.
        gain: deviation multiplier, dimensionless; sqrt(2) exactly if None.
        activation: what feeds the layer, by name or as a function, in place of `gain`.
        mode: the fan, as in `variance_scaling`.
        **layout: the keywords of `jaxinit.Layout`.

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
    return variance_law(
        "he_uniform",
        squared_gain("he_uniform", gain, activation, 2.0),
        mode,
        "uniform",
        (in_axis, out_axis, batch_axis),
        layout,
    )


xavier_normal = alias("xavier_normal", glorot_normal)
xavier_uniform = alias("xavier_uniform", glorot_uniform)
kaiming_normal = alias("kaiming_normal", he_normal)
kaiming_uniform = alias("kaiming_uniform", he_uniform)
