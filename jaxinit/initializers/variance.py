"""The variance schemes' formula: mean 0, and a scale over a fan as the variance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Unpack

import jax.numpy as jnp

from jaxinit import _checks, _samplers, meanfield
from jaxinit._fans import compute_fans
from jaxinit._initializer import initializer
from jaxinit._layout import Layout, check_layout
from jaxinit._types import Array, Axis, Distribution, Draw, DType, Key, Mode, Numeric
from jaxinit.meanfield import Activation

_MODES = {
    "fan_in": lambda fan_in, fan_out: fan_in,
    "fan_out": lambda fan_in, fan_out: fan_out,
    "fan_avg": lambda fan_in, fan_out: (fan_in + fan_out) / 2,
    "fan_geo_avg": lambda fan_in, fan_out: (fan_in * fan_out) ** 0.5,
}
_AXES = ("in_axis", "out_axis", "batch_axis")


def over_fan(
    owner: str,
    scale: Numeric,
    mode: str | Callable[[float, float], float],
    distribution: str,
    kernel: Mapping[str, Any],
) -> Draw:
    """The formula of every scheme here: mean 0, variance scale / fan.

    A `mode` beyond the four is a function of fan-in and fan-out; a given `fan` of one
    number stands for both of them. `kernel` has the keywords of `_layout.Kernel`.
    """
    combine: Callable[[Any, Any], Any]
    if callable(mode):
        combine = mode
    else:
        _checks.choice(owner, "mode", mode, _MODES)
        combine = _MODES[mode]
    _checks.choice(owner, "distribution", distribution, _samplers.DISTRIBUTIONS)
    axes = {name: kernel[name] for name in _AXES}
    layout = {name: kernel[name] for name in Layout.__annotations__}
    _checks.axes(owner, **axes)
    _checks.number(owner, scale=scale, minimum=0)
    check_layout(owner, layout)
    sample = _samplers.DISTRIBUTIONS[distribution]
    fan = layout.pop("fan")

    def draw(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
        if fan is None:
            fans = compute_fans(shape, **axes, **layout, owner=owner)
            denominator = combine(*fans)
        elif isinstance(fan, tuple):
            denominator = combine(*fan)
        else:  # of two equal fans each named mode is that fan
            denominator = combine(fan, fan) if callable(mode) else fan
        variance = jnp.asarray(scale / denominator, _samplers.real_dtype(dtype))
        return sample(key, shape, dtype, variance)

    return draw


def squared_gain(owner: str, options: Mapping[str, Any], own: float) -> Numeric:
    """The variance multiplier that a scheme's `gain` or `activation` asks for."""
    gain, activation = options["gain"], options["activation"]
    if activation is None:
        return own if gain is None else gain**2
    if gain is not None:
        raise ValueError(
            f"{owner}: gain={gain!r} and activation={activation!r} are both given; "
            "give one of them."
        )
    return meanfield.gain(activation) ** 2


@initializer(cites=("lecun1998", "glorot2010", "he2015"))
def variance_scaling(
    scale: Numeric,
    mode: Mode,
    distribution: Distribution,
    in_axis: Axis = -2,
    out_axis: Axis = -1,
    batch_axis: Axis = (),
    dtype: DType = None,
    *,
    activation: Activation | None = None,
    **layout: Unpack[Layout],
) -> Draw:
    r"""Mean 0 and a variance that is a scale over a fan.

    $\mathbb{E}[w] = 0$, $\mathrm{Var}[w] = \text{scale} / n$, where $n$ is fan-in,
    fan-out, their arithmetic or their geometric mean. Inputs of mean square 1 that are
    independent of the weights give outputs of mean square scale (`mode="fan_in"`).
    Axes that are neither input, output nor batch are the receptive field of a
    convolution and count in both fans.

    Args:
        scale: variance multiplier, dimensionless, not negative.
        mode: the fan: "fan_in", "fan_out", "fan_avg" or "fan_geo_avg".
        distribution: "truncated_normal" (cut at two standard deviations, then scaled
            to the variance above), "normal", or "uniform". Complex draws: modulus cut
            at 2, circular normal, uniform on a disk.
        in_axis: axis or axes of the inputs.
        out_axis: axis or axes of the outputs.
        batch_axis: axis or axes over which independent kernels are stacked.
        dtype: dtype of the array; JAX's default float if None.
        activation: what feeds the layer, a name or a function: the variance is also
            multiplied by the square of `jaxinit.gain(activation)`.
        **layout: the keywords of `jaxinit.Layout`: `fan` gives the number $n$ itself,
            `groups`, `fused`, `transpose` and `strides` say what the layer is.

    Returns:
        An initializer.

    Raises:
        ValueError: an unknown mode or distribution, a negative scale, axes out of
            range, groups that do not divide the outputs, or a shape of rank below two
            without `fan`.

    Example:
        >>> import jax
        >>> init = variance_scaling(1 / 3, "fan_in", "uniform")
        >>> w = init(jax.random.key(0), (256, 512))
        >>> round(float(w.std() * (3 * 256) ** 0.5), 2)
        1.0

    References:
        LeCun et al. 1998; Glorot and Bengio 2010; He et al. 2015. Values as in
        `jax.nn.initializers.variance_scaling`, save complex truncated draws, whose
        standard deviation JAX divides by 0.9531 where it should be 0.9620.
    """
    multiplier = 1.0 if activation is None else meanfield.gain(activation) ** 2
    axes = {"in_axis": in_axis, "out_axis": out_axis, "batch_axis": batch_axis}
    return over_fan(
        "variance_scaling", scale * multiplier, mode, distribution, {**axes, **layout}
    )
