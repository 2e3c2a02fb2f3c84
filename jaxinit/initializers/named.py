"""LeCun, Glorot (Xavier) and He (Kaiming): named cases of the variance law."""

from __future__ import annotations

from jaxinit._initializer import alias, initializer
from jaxinit._types import Axis, Distribution, Draw, DType, Mode, Numeric
from jaxinit.initializers.variance import variance_law


@initializer
def lecun_normal(
    in_axis: Axis = -2,
    out_axis: Axis = -1,
    batch_axis: Axis = (),
    dtype: DType = None,
    *,
    gain: Numeric = 1.0,
    distribution: Distribution = "truncated_normal",
    fan: Numeric | None = None,
    groups: int = 1,
) -> Draw:
    r"""LeCun normal: variance gain squared over fan-in.

    $\mathrm{Var}[w] = \text{gain}^2 / \text{fan\_in}$: a linear layer keeps the mean
    square of its input. Self-normalizing networks (SELU) are built on gain 1.

    Args:
        in_axis: axis or axes of the inputs.
        out_axis: axis or axes of the outputs.
        batch_axis: axis or axes over which independent kernels are stacked.
        dtype: dtype of the array; JAX's default float if None.
        gain: deviation multiplier, dimensionless.
        distribution: the law; "normal" for the untruncated one.
        fan: the number of connections itself, in place of the shape's.
        groups: groups of a grouped convolution.

    Returns:
        An initializer.

    Raises:
        ValueError: as `variance_scaling`.

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
        gain**2,
        "fan_in",
        distribution,
        (in_axis, out_axis, batch_axis),
        fan,
        groups,
    )


@initializer
def lecun_uniform(
    in_axis: Axis = -2,
    out_axis: Axis = -1,
    batch_axis: Axis = (),
    dtype: DType = None,
    *,
    gain: Numeric = 1.0,
    fan: Numeric | None = None,
    groups: int = 1,
) -> Draw:
    r"""LeCun uniform: variance gain squared over fan-in.

    $w \sim U(-a, a)$ with $a = \text{gain} \sqrt{3 / \text{fan\_in}}$.

    Args:
        in_axis: axis or axes of the inputs.
        out_axis: axis or axes of the outputs.
        batch_axis: axis or axes over which independent kernels are stacked.
        dtype: dtype of the array; JAX's default float if None.
        gain: deviation multiplier, dimensionless.
        fan: the number of connections itself, in place of the shape's.
        groups: groups of a grouped convolution.

    Returns:
        An initializer.

    Raises:
        ValueError: as `variance_scaling`.

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
        gain**2,
        "fan_in",
        "uniform",
        (in_axis, out_axis, batch_axis),
        fan,
        groups,
    )


@initializer
def glorot_normal(
    in_axis: Axis = -2,
    out_axis: Axis = -1,
    batch_axis: Axis = (),
    dtype: DType = None,
    *,
    gain: Numeric = 1.0,
    distribution: Distribution = "truncated_normal",
    fan: Numeric | None = None,
    groups: int = 1,
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
        gain: deviation multiplier, dimensionless.
        distribution: the law; "normal" for the untruncated one.
        fan: the number of connections itself, in place of the shape's.
        groups: groups of a grouped convolution.

    Returns:
        An initializer.

    Raises:
        ValueError: as `variance_scaling`.

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
        gain**2,
        "fan_avg",
        distribution,
        (in_axis, out_axis, batch_axis),
        fan,
        groups,
    )


@initializer
def glorot_uniform(
    in_axis: Axis = -2,
    out_axis: Axis = -1,
    batch_axis: Axis = (),
    dtype: DType = None,
    *,
    gain: Numeric = 1.0,
    fan: Numeric | None = None,
    groups: int = 1,
) -> Draw:
    r"""Glorot (Xavier) uniform: variance 2 gain squared over fan-in plus fan-out.

    $w \sim U(-a, a)$ with
    $a = \text{gain} \sqrt{6 / (\text{fan\_in} + \text{fan\_out})}$.

    Args:
        in_axis: axis or axes of the inputs.
        out_axis: axis or axes of the outputs.
        batch_axis: axis or axes over which independent kernels are stacked.
        dtype: dtype of the array; JAX's default float if None.
        gain: deviation multiplier, dimensionless.
        fan: the number of connections itself, in place of the shape's.
        groups: groups of a grouped convolution.

    Returns:
        An initializer.

    Raises:
        ValueError: as `variance_scaling`.

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
        gain**2,
        "fan_avg",
        "uniform",
        (in_axis, out_axis, batch_axis),
        fan,
        groups,
    )


@initializer
def he_normal(
    in_axis: Axis = -2,
    out_axis: Axis = -1,
    batch_axis: Axis = (),
    dtype: DType = None,
    *,
    gain: Numeric | None = None,
    mode: Mode = "fan_in",
    distribution: Distribution = "truncated_normal",
    fan: Numeric | None = None,
    groups: int = 1,
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
        mode: the fan, as in `variance_scaling`.
        distribution: the law; "normal" for the untruncated one.
        fan: the number of connections itself, in place of the shape's.
        groups: groups of a grouped convolution.

    Returns:
        An initializer.

    Raises:
        ValueError: as `variance_scaling`.

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
        2.0 if gain is None else gain**2,
        mode,
        distribution,
        (in_axis, out_axis, batch_axis),
        fan,
        groups,
    )


@initializer
def he_uniform(
    in_axis: Axis = -2,
    out_axis: Axis = -1,
    batch_axis: Axis = (),
    dtype: DType = None,
    *,
    gain: Numeric | None = None,
    mode: Mode = "fan_in",
    fan: Numeric | None = None,
    groups: int = 1,
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
        mode: the fan, as in `variance_scaling`.
        fan: the number of connections itself, in place of the shape's.
        groups: groups of a grouped convolution.

    Returns:
        An initializer.

    Raises:
        ValueError: as `variance_scaling`.

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
        2.0 if gain is None else gain**2,
        mode,
        "uniform",
        (in_axis, out_axis, batch_axis),
        fan,
        groups,
    )


xavier_normal = alias("xavier_normal", glorot_normal)
xavier_uniform = alias("xavier_uniform", glorot_uniform)
kaiming_normal = alias("kaiming_normal", he_normal)
kaiming_uniform = alias("kaiming_uniform", he_uniform)
