"""What a scheme may be told of the layer whose kernel it draws."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from jaxinit import _checks
from jaxinit._types import Axis, Distribution, DType, Mode, Numeric
from jaxinit.meanfield import Activation

KERNELS = ("dense", "conv")
"""The kinds of layers whose leaf is summed against activations."""


class Spot(NamedTuple):
    """What of a layer decides its draw; equal ones share a compiled program.

    Attributes:
        shape: shape of the leaf.
        dtype: its dtype.
        batch_axes: axes over which separate kernels are stacked.
        receptive_axes: axes of a convolution's window.
        in_axes: axes of the inputs.
        out_axes: axes of the outputs.
        groups: groups that share the output axis.
        fans: fan-in and fan-out; None where nothing is summed.
    """

    shape: tuple[int, ...]
    dtype: Any
    batch_axes: tuple[int, ...]
    receptive_axes: tuple[int, ...]
    in_axes: tuple[int, ...]
    out_axes: tuple[int, ...]
    groups: int
    fans: tuple[float, float] | None


class Axes(TypedDict, total=False):
    """The axes of a kernel.

    Attributes:
        in_axis: axis or axes of the inputs.
        out_axis: axis or axes of the outputs.
        batch_axis: axis or axes over which independent kernels are stacked.
        dtype: dtype of the array; JAX's default float if None.
    """

    in_axis: Axis
    out_axis: Axis
    batch_axis: Axis
    dtype: DType


class Gain(TypedDict, total=False):
    """What the variance is multiplied with.

    Attributes:
        gain: multiplier of the standard deviation, dimensionless; the scheme's own if
            None.
        activation: what feeds the layer, by name or as a function, in place of `gain`.
    """

    gain: Numeric | None
    activation: Activation | None


class _Mode(TypedDict, total=False):
    """The fan.

    Attributes:
        mode: which fan the variance is divided by, as in `variance_scaling`.
    """

    mode: Mode


class _Distribution(TypedDict, total=False):
    """The shape of the distribution.

    Attributes:
        distribution: "truncated_normal", at two standard deviations; "normal" for the
            untruncated one; or "uniform".
    """

    distribution: Distribution


class Layout(TypedDict, total=False):
    """What a scheme may be told of the layer, beside its axes: keywords of each.

    Attributes:
        fan: the number of connections itself, in place of what mode and shape would
            give, or a pair, fan-in and fan-out, for the mode to choose from; the shape
            may then have any rank, as a bias has.
        groups: feature groups of a convolution with kernel (..., in / groups, out).
        fused: kernels that lie side by side along the outputs and are used apart:
            3 of a packed query-key-value projection, 4 of an LSTM's packed gates.
        transpose: whether the kernel is one of a transposed convolution. With shape
            (..., out, in), as by Flax's `transpose_kernel=True`, say `in_axis=-1,
            out_axis=-2`.
        strides: strides of the convolution, one number or one per spatial axis.
    """

    fan: Numeric | tuple[Numeric, Numeric] | None
    groups: int
    fused: int
    transpose: bool
    strides: int | Sequence[int]


class Kernel(Axes, Layout):
    """All that is said of a kernel by keywords."""


class GainedKernel(Axes, Gain, _Distribution, Layout):
    """The same, with a gain and a choice of the distribution."""


class UniformOptions(Gain, _Mode, Layout):
    """Keywords of the named uniform schemes, whose axes may stand by position."""


class NormalOptions(Gain, _Mode, _Distribution, Layout):
    """Keywords of the named normal schemes, whose axes may stand by position."""


DEFAULTS: dict[str, Any] = {
    "in_axis": -2,
    "out_axis": -1,
    "batch_axis": (),
    "dtype": None,
    "gain": None,
    "activation": None,
    "fan": None,
    "groups": 1,
    "fused": 1,
    "transpose": False,
    "strides": 1,
}
"""The defaults of these keywords: a plain dense layer or convolution."""


def _attributes(record: type) -> dict[str, str]:
    """What a record's docstring says of each attribute."""
    section = inspect.cleandoc(record.__doc__ or "").partition("Attributes:\n")[2]
    joined = section.replace("\n        ", " ")  # a line an attribute
    said = (line.strip().partition(": ") for line in joined.splitlines())
    return {name: text for name, _, text in said}


MEANINGS: Mapping[str, str] = {
    name: text
    for record in (Axes, Gain, _Mode, _Distribution, Layout)
    for name, text in _attributes(record).items()
}
"""What each of these keywords means, for the docstring of every scheme that has it."""


def check_layout(owner: str, layout: Mapping[str, Any]) -> None:
    """Raise unless each value could be right for some shape."""
    fan = layout.get("fan")
    fans = fan if isinstance(fan, tuple) else (fan,)
    if len(fans) > 2:
        raise ValueError(
            f"{owner}: fan={fan!r} must be one number, or the two of fan-in and "
            "fan-out."
        )
    for each in fans:
        _checks.number(owner, fan=each, positive=True)
    for name in ("groups", "fused"):
        _checks.integer(owner, **{name: layout.get(name, 1)})
    strides = layout.get("strides", 1)
    for stride in (strides,) if isinstance(strides, int) else strides:
        _checks.integer(owner, strides=stride)
    if not isinstance(layout.get("transpose", False), bool):
        raise TypeError(
            f"{owner}: transpose={layout.get('transpose')!r} must be True or False."
        )
