"""The record of a layer: what one parameter leaf is to the computation."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jaxinit._layout import KERNELS as KERNELS


@dataclass(frozen=True)
class Use:
    """One use of a parameter leaf.

    Attributes:
        kind: what the leaf is there:

            - "dense": contracted with activations (`dot_general`);
            - "conv": convolved with activations;
            - "embedding": its entries become activations as they are, looked up or
              placed among them (a class token);
            - "scale": multiplies activations entry by entry (a division too);
            - "bias": added to activations entry by entry (a subtraction too);
            - "unknown": the use cannot be told; `reason` says why.
        in_axes: leaf axes summed over against the activations; for an embedding, the
            axes looked up.
        out_axes: leaf axes that the output keeps; for a scale or a bias, those that
            run along features.
        batch_axes: leaf axes along which there are separate, equal layers: scanned or
            stacked layers, experts, ensembles (whether their members share an input
            or not), `batch_dims`. A vmapped scale or bias meets other entries one by
            one as any does: all its axes are `out_axes`.
        layer_axes: those of `batch_axes` whose places the program uses one after the
            other: the layers of a scan, or of a stack that is sliced.
        place_axes: for a bias those of its axes that run along places of the input, not
            along features: a learned position embedding has one, or two.
        receptive_axes: a convolution's window axes. For "dense" and "conv" the four
            tuples hold every axis of the leaf once, each in ascending order.
        fan_in: how many terms each output sums, dimensionless: entries summed over,
            receptive field included, in one group. A convolution with stride `s`
            over dilated inputs (a transposed one) meets a nonzero input at one place
            in `s`, so that its window counts `max(1, k / s)` for `k`. 1 for an
            embedding, a scale and a bias, which sum nothing; nan if unknown.
        fan_out: how many outputs each input reaches, dimensionless: the same count
            of the backward pass. A window of `k` moved by strides of `s` counts
            `max(1, k / s)`; the convention of He et al. ignores strides, and is this
            times `prod(stride)`.
        groups: the number of separate, equal parts that share one leaf axis: the
            groups of a convolution, or of a block-diagonal product. 1 otherwise.
        stride: a convolution's window strides, () otherwise.
        upsample: a convolution's input dilation: the stride of a transposed one.
        dilation: a convolution's kernel dilation.
        acts_on: for a scale or a bias, the paths of the kernels and embeddings whose
            outputs it meets.
        multiplier: the number that the program multiplies the output of a kernel or an
            embedding with, be it by its own entries or what goes in, before another
            kernel; 1 if there is none or it is not known. It is the gain over
            `sqrt(fan_in)` where learning rates are equalised, `sqrt(features)` for a
            transformer's table.
        activation_before: the last nonlinearity on the input's way here ("relu",
            "tanh", "gelu", "silu", "softmax", ...), None if there is none.
        reason: why the kind is "unknown", a sentence; empty otherwise.
    """

    kind: str
    in_axes: tuple[int, ...] = ()
    out_axes: tuple[int, ...] = ()
    batch_axes: tuple[int, ...] = ()
    layer_axes: tuple[int, ...] = ()
    place_axes: tuple[int, ...] = ()
    receptive_axes: tuple[int, ...] = ()
    fan_in: float = float("nan")
    fan_out: float = float("nan")
    groups: int = 1
    stride: tuple[int, ...] = ()
    upsample: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    acts_on: tuple[str, ...] = ()
    multiplier: float = 1.0
    activation_before: str | None = None
    reason: str = ""


@dataclass(frozen=True)
class Layer(Use):
    """One parameter leaf: its first use, and all that the others add.

    The fields of `Use` are those of the first use whose kind is known.

    Attributes:
        path: `jax.tree_util.keystr(path, simple=True, separator="/")`.
        shape: the leaf's shape.
        dtype: the leaf's dtype.
        uses: how often the leaf is used, 0 if never. Uses of parts, such as the
            slices of a packed kernel, count as the part they are; a use in a loop
            counts once.
        feeds: paths of the kernels that the output reaches with no other kernel on
            the way, in order of execution; over a residual stream there are many. A
            recurrent kernel feeds itself.
        activation_after: the first nonlinearity that the output meets before a
            further kernel, None if there is none.
        normalized_after: whether its output is divided by a statistic of itself alone,
            as by a normalization right behind it: its size then makes no difference.
        residual: whether its output ends a residual branch: it is added to what the
            branch began from, on its own or along with other branches' outputs.
        additions: how many additions to the residual stream it makes, 0 if it ends no
            branch. Every use counts, and every turn of a loop that carries the
            stream; kernels that a gate or a condition chooses among share one.
        uncounted: whether some of these additions are made by a while loop whose number
            of turns nobody knows; they are then counted as of one turn.
        ends: paths of the last kernels of the residual branches that it is inside of,
            its own included.
        other_uses: the uses after the first: a tied embedding's product with the
            output, a packed kernel's other slices.
    """

    path: str = ""
    shape: tuple[int, ...] = ()
    dtype: Any = None
    uses: int = 0
    feeds: tuple[str, ...] = ()
    activation_after: str | None = None
    normalized_after: bool = False
    residual: bool = False
    additions: float = 0.0
    uncounted: bool = False
    ends: tuple[str, ...] = ()
    other_uses: tuple[Use, ...] = ()


def kernels(layers: Iterable[Layer]) -> list[Layer]:
    """The layers that a weight scheme draws: those of kind "dense" or "conv".

    Args:
        layers: what `jaxinit.trace.layers` returned.

    Returns:
        The kernels among them, in the same order.
    """
    return [layer for layer in layers if layer.kind in KERNELS]
