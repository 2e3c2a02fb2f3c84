"""From a kernel's shape and the meaning of its axes to fan-in and fan-out."""

from __future__ import annotations

import math

from jaxinit import _checks
from jaxinit._types import Axis, Shape


def compute_fans(
    shape: Shape,
    in_axis: Axis = -2,
    out_axis: Axis = -1,
    batch_axis: Axis = (),
    groups: int = 1,
    *,
    owner: str = "compute_fans",
) -> tuple[float, float]:
    r"""Fan-in and fan-out of a dense or convolution kernel.

    With $i$, $o$, $b$ the products of the sizes of the input, output and batch axes
    and $r = \prod(\text{shape}) / (i\,o\,b)$ the receptive field,
    $\text{fan\_in} = i\,r$ and $\text{fan\_out} = o\,r / \text{groups}$.

    A kernel of `groups` groups has shape `(..., in / groups, out)`: its input axis
    already holds the inputs of one group alone, its output axis those of all groups.
    Axes may overlap, as in Flax's embedding (`in_axis=-2, out_axis=0`), where the
    axis that is left over becomes the fan.

    Args:
        shape: shape of the kernel; no size may be zero.
        in_axis: axis or axes of the inputs.
        out_axis: axis or axes of the outputs.
        batch_axis: axis or axes over which independent kernels are stacked.
        groups: number of feature groups of a grouped convolution; dimensionless.
        owner: name that error messages begin with.

    Returns:
        `(fan_in, fan_out)`, two floats, numbers of connections.

    Raises:
        ValueError: an axis is out of range, the shape has fewer than two axes, or
            `groups` does not divide the outputs.

    Example:
        >>> compute_fans((3, 3, 64, 128))
        (576.0, 1152.0)
        >>> compute_fans((3, 3, 1, 512), groups=512)
        (9.0, 9.0)

    References:
        Glorot and Bengio 2010; the rule of the receptive field is the one of
        `jax.nn.initializers`, the division by `groups` is not.
    """
    shape = tuple(shape)
    if in_axis == -2 and len(shape) < 2:
        raise ValueError(
            f"{owner}: a shape of rank {len(shape)}, {shape}, has no fan-in and "
            "fan-out; pass a kernel of rank two or more, or the number itself as "
            "fan=."
        )
    ins, outs, batch = _checks.normalized_axes(
        owner, shape, in_axis=in_axis, out_axis=out_axis, batch_axis=batch_axis
    )

    def size(axes: tuple[int, ...]) -> int:
        return math.prod(shape[axis] for axis in axes)

    if size(outs) % groups:
        raise ValueError(
            f"{owner}: groups={groups} does not divide the {size(outs)} outputs of a "
            f"kernel of shape {shape}."
        )
    receptive_field = math.prod(shape) / size(ins) / size(outs) / size(batch)
    return size(ins) * receptive_field, size(outs) * receptive_field / groups
