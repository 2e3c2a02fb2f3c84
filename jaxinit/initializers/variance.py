"""The law of the variance schemes: a scale over a fan."""

from __future__ import annotations

import jax.numpy as jnp

from jaxinit import _checks, _samplers
from jaxinit._fans import compute_fans
from jaxinit._initializer import initializer
from jaxinit._types import Array, Axis, Distribution, Draw, DType, Key, Mode, Numeric

_MODES = {
    "fan_in": lambda fan_in, fan_out: fan_in,
    "fan_out": lambda fan_in, fan_out: fan_out,
    "fan_avg": lambda fan_in, fan_out: (fan_in + fan_out) / 2,
    "fan_geo_avg": lambda fan_in, fan_out: (fan_in * fan_out) ** 0.5,
}


def variance_law(
    owner: str,
    scale: Numeric,
    mode: str,
    distribution: str,
    axes: tuple[Axis, Axis, Axis],
    fan: Numeric | None,
    groups: int,
) -> Draw:
    """The law of every scheme here: mean 0, variance scale / fan."""
    _checks.choice(owner, "mode", mode, _MODES)
    _checks.choice(owner, "distribution", distribution, _samplers.DISTRIBUTIONS)
    in_axis, out_axis, batch_axis = axes
    _checks.axes(owner, in_axis=in_axis, out_axis=out_axis, batch_axis=batch_axis)
    _checks.integer(owner, groups=groups)
    _checks.number(owner, scale=scale, minimum=0)
    _checks.number(owner, fan=fan, positive=True)
    sample = _samplers.DISTRIBUTIONS[distribution]

    def draw(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
        denominator = fan
        if fan is None:
            denominator = _MODES[mode](
                *compute_fans(shape, in_axis, out_axis, batch_axis, groups, owner=owner)
            )
        variance = jnp.asarray(scale / denominator, _samplers.real_dtype(dtype))
        return sample(key, shape, dtype, variance)

    return draw


@initializer
def variance_scaling(
    scale: Numeric,
    mode: Mode,
    distribution: Distribution,
    in_axis: Axis = -2,
    out_axis: Axis = -1,
    batch_axis: Axis = (),
    dtype: DType = None,
    *,
    fan: Numeric | None = None,
    groups: int = 1,
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
        fan: the number $n$ itself, in place of what mode and shape would give; the
            shape may then have any rank, as a bias has.
        groups: groups of a grouped convolution, whose fan-out is that of one group.

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
        deviation JAX divides by 0.9531 where the law has 0.9620.
    """
    return variance_law(
        "variance_scaling",
        scale,
        mode,
        distribution,
        (in_axis, out_axis, batch_axis),
        fan,
        groups,
    )
