"""From a kernel's shape and the meaning of its axes to fan-in and fan-out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

from jaxinit import _checks
from jaxinit._types import Axis, Shape


def compute_fans(
    shape: Shape,
    in_axis: Axis = -2,
    out_axis: Axis = -1,
    batch_axis: Axis = (),
    groups: int = 1,
    *,
    fused: int = 1,
    transpose: bool = False,
    strides: int | Sequence[int] = 1,
    owner: str = "compute_fans",
) -> tuple[float, float]:
    r"""Fan-in and fan-out of a dense or convolution kernel.

    With $i$, $o$, $b$ the products of the sizes of the input, output and batch axes
    and $r = \prod(\text{shape}) / (i\,o\,b)$ the receptive field,
    $\text{fan\_in} = i\,r$ and
    $\text{fan\_out} = o\,r / (\text{groups} \cdot \text{fused})$.

    A kernel of `groups` groups has shape `(..., in / groups, out)`: its input axis
    already holds the inputs of one group alone, its output axis those of all groups.
    A stride $s$ an axis leaves an input $r / \prod s$ outputs on average, so fan-out is
    divided by $\prod s$; in a transposed convolution an output has $r / \prod s$
    inputs, and fan-in is divided. Axes may overlap, as in Flax's embedding
    (`in_axis=-2, out_axis=0`), where the axis that is left over becomes the fan.

    Args:
        shape: shape of the kernel; no size may be zero.
        in_axis: axis or axes of the inputs.
        out_axis: axis or axes of the outputs.
        batch_axis: axis or axes over which independent kernels are stacked.
        groups: number of feature groups of a grouped convolution; dimensionless.
        fused: number of kernels side by side along the outputs; dimensionless.
        transpose: whether the convolution is transposed.
        strides: stride of the convolution, one number or one per receptive axis.
        owner: name that error messages begin with.

    Returns:
        `(fan_in, fan_out)`, two floats, numbers of connections.

    Raises:
        ValueError: an axis is out of range, the shape has fewer than two axes,
            `groups` times `fused` does not divide the outputs, or there are more or
            fewer strides than receptive axes.

    Example:
        >>> compute_fans((3, 3, 64, 128))
        (576.0, 1152.0)
        >>> compute_fans((3, 3, 1, 512), groups=512)
        (9.0, 9.0)
        >>> compute_fans((4, 4, 512, 8), transpose=True, strides=2)
        (2048.0, 128.0)

    References:
        Glorot and Bengio 2010; the rule of the receptive field is the one of
        `jax.nn.initializers`, the divisions are not.
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

    def size(axes: Sequence[int]) -> int:
        return math.prod(shape[axis] for axis in axes)

    if size(outs) % (groups * fused):
        named = f"groups={groups}" + (f" times fused={fused}" if fused > 1 else "")
        raise ValueError(
            f"{owner}: {named} does not divide the {size(outs)} outputs of a kernel "
            f"of shape {shape}."
        )
    receptive = len(shape) - len({*ins, *outs, *batch})
    if isinstance(strides, int):
        strides = (strides,) * receptive
    if len(strides) != receptive:
        raise ValueError(
            f"{owner}: strides={tuple(strides)} must be one number, or one for each of "
            f"the {receptive} receptive axes of a kernel of shape {shape}."
        )
    field = math.prod(shape) / size(ins) / size(outs) / size(batch)
    fan_in = size(ins) * field
    fan_out = size(outs) * field / (groups * fused)
    if transpose:
        return fan_in / math.prod(strides), fan_out
    return fan_in, fan_out / math.prod(strides)


class EinsumAxes(TypedDict):
    """The axes of a kernel in an einsum, as keywords of a scheme."""

    in_axis: tuple[int, ...]
    out_axis: tuple[int, ...]
    batch_axis: tuple[int, ...]


def einsum_axes(spec: str) -> EinsumAxes:
    """The axes of the kernel of `einsum(spec, inputs, kernel)`.

    An axis of the kernel that the sum contracts is an input, one that only kernel and
    output have is an output, and one that all three have is a batch axis.

    Args:
        spec: such as "bsd,dhk->bshk": inputs, kernel, output. An ellipsis may stand
            for axes of the inputs.

    Returns:
        `in_axis`, `out_axis` and `batch_axis`, keywords of every variance scheme.

    Raises:
        ValueError: another form, a letter of the output that no operand has, or a
            letter twice in the kernel.

    Example:
        >>> einsum_axes("bsd,dhk->bshk")
        {'in_axis': (0,), 'out_axis': (1, 2), 'batch_axis': ()}
        >>> import jaxinit
        >>> jaxinit.lecun_normal(**einsum_axes("becd,edf->becf"))
        lecun_normal(in_axis=(1,), out_axis=(2,), batch_axis=(0,))
    """
    text = spec.replace(" ", "")
    operands, arrow, output = text.partition("->")
    inputs, comma, kernel = operands.partition(",")
    if not arrow or not comma or not kernel.isalpha():
        raise ValueError(
            f"einsum_axes: {spec!r} must read 'inputs,kernel->output', such as "
            "'bsd,dhk->bshk', with letters alone for the kernel."
        )
    inputs, output = inputs.replace("...", ""), output.replace("...", "")
    unknown = sorted(set(output) - set(inputs) - set(kernel))
    if unknown or not (inputs + output).isalpha() or len(set(kernel)) < len(kernel):
        raise ValueError(
            f"einsum_axes: {spec!r} is no einsum of two operands: each letter of the "
            "output must stand in an operand, and none twice in the kernel."
        )
    roles: EinsumAxes = {"in_axis": (), "out_axis": (), "batch_axis": ()}
    for axis, letter in enumerate(kernel):
        if letter not in output:
            roles["in_axis"] += (axis,)
        elif letter in inputs:
            roles["batch_axis"] += (axis,)
        else:
            roles["out_axis"] += (axis,)
    return roles
