"""What is told of a layer, a point, and of growth from layer to layer."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

COLUMNS = (
    "kernel_std",
    "spectral_norm",
    "mean",
    "std",
    "rms",
    "kurtosis",
    "cosine",
    "gradient",
    "dead",
    "kernel_gradient",
    "update",
)
"""The numbers of a layer; see `Row`."""

POINT_COLUMNS = ("rms", "logit_std", "entropy", "saturated")
"""The numbers of a point; see `PointRow`."""


class Label(NamedTuple):
    """What is said of a layer before anything is measured.

    Attributes:
        name: the path of its kernel, `path[3]` in a loop, `path (2)` for a second use.
        path: the path of the leaf.
        kind: "dense" or "conv".
        fan_in: terms that an output sums.
        fan_out: outputs that an input reaches.
        before: the last nonlinearity on its input's way, None if there is none.
        after: the first nonlinearity that its output meets, None if there is none.
        reason: why no gradient is seen there; empty where one is.
    """

    name: str
    path: str
    kind: str
    fan_in: float
    fan_out: float
    before: str | None
    after: str | None
    reason: str


class PointLabel(NamedTuple):
    """What is said of a point before anything is measured.

    Attributes:
        name: the kernel whose output it holds, with its place in a loop.
        kind: "stream", "attention", "tanh" or "sigmoid"; see `jaxinit.trace.Point`.
    """

    name: str
    kind: str


class Row(NamedTuple):
    r"""One layer: a kernel's product, in one iteration of the scans around it.

    Numbers that are not known are NaN.

    Attributes:
        name: the path of its kernel, `path[3]` in a scan, `path (2)` for a second use.
        kind: "dense" or "conv".
        fan_in: terms that an output sums.
        fan_out: outputs that an input reaches.
        before: the last nonlinearity on its input's way, None if there is none.
        after: the first nonlinearity that its output meets, None if there is none.
        kernel_std: standard deviation of the kernel's entries.
        spectral_norm: the kernel's largest singular value, on request: of a convolution
            that of the matrix from a window to the outputs there, of experts, heads of
            a batch or groups the largest. Exact up to 1,024 rows or columns, whichever
            are fewer; above, from below and to 1 %, by 32 steps of bidiagonalization.
        mean: of its output, before a bias.
        std: standard deviation of the output.
        rms: root mean square of the output, $(\mathbb{E} z^2)^{1/2}$.
        kurtosis: $\mathbb{E} z^4 / (\mathbb{E} z^2)^2$; 3 for a normal distribution.
        cosine: $\langle z_a \cdot z_b \rangle / \langle z_a \cdot z_a \rangle$ over
            pairs of different examples; 1 if all are alike. NaN where no axis of the
            output is as long as the batch.
        gradient: root mean square of the gradient of an example's loss by the output;
            without a loss, of the outputs' product with normal noise.
        dead: share of the output's features that no example sends a gradient through,
            as units of a ReLU that are never active.
        kernel_gradient: norm of the mean loss's gradient by the kernel.
        update: root mean square of the first update over that of the kernel; a step of
            plain gradient descent unless an optimizer was given.
        reason: why no gradient is seen there; empty where one is.
    """

    name: str
    kind: str
    fan_in: float
    fan_out: float
    before: str | None
    after: str | None
    kernel_std: float
    spectral_norm: float
    mean: float
    std: float
    rms: float
    kurtosis: float
    cosine: float
    gradient: float
    dead: float
    kernel_gradient: float
    update: float
    reason: str


class PointRow(NamedTuple):
    """A place that shows something of the signal besides the layers.

    Attention and saturation are those of the first few examples.

    Attributes:
        name: the kernel whose output it holds.
        kind: "stream" for a residual stream after an addition, "attention" for a
            softmax of products of activations, "tanh" or "sigmoid".
        rms: root mean square of a stream.
        logit_std: standard deviation of an attention's logits, each row's own.
        entropy: of an attention's weights, over that of equal ones: 1 where all that
            is seen has one weight, 0 where one entry has it all.
        saturated: share of entries within a hundredth of the range from a bound.
    """

    name: str
    kind: str
    rms: float
    logit_std: float
    entropy: float
    saturated: float


class Growth(NamedTuple):
    r"""Growth from layer to layer.

    The slope of $\ln y$ over the number of a layer among those of its kind, whose
    paths differ in numbers alone; each kind has its own level.

    Attributes:
        factor: by which a layer multiplies; NaN with fewer than three of a kind.
        error: its standard error, by the scatter around the line.
        layers: how many layers the longest kind has.
    """

    factor: float
    error: float
    layers: int

    @property
    def total(self) -> float:
        """The factor over all layers."""
        return self.factor ** max(0, self.layers - 1)


def kind_of(name: str) -> str:
    """What the names of layers of one kind have in common: all but numbers."""
    return re.sub(r"\d+", "#", name)


def growth(pairs: Iterable[tuple[str, float]]) -> Growth:
    """The growth of numbers along layers, given by name in order."""
    kinds: dict[str, list[float]] = {}
    for name, value in pairs:
        kinds.setdefault(kind_of(name), []).append(value)
    x: list[float] = []
    y: list[float] = []
    groups = layers = 0
    for values in kinds.values():
        shown = [(k, math.log(v)) for k, v in enumerate(values) if 0 < v < math.inf]
        if len(shown) < 3:
            continue
        places, logs = np.array(shown).T
        x.extend(places - places.mean())
        y.extend(logs - logs.mean())
        groups, layers = groups + 1, max(layers, len(values))
    if not groups:
        return Growth(math.nan, math.nan, layers)
    xs, ys = np.array(x), np.array(y)
    slope = float(xs @ ys / (xs @ xs))
    free = len(xs) - groups - 1
    rest = float(np.sum((ys - slope * xs) ** 2))
    error = math.sqrt(rest / free / float(xs @ xs)) if free > 0 else math.nan
    factor = math.exp(max(-700.0, min(700.0, slope)))
    return Growth(factor, factor * error, layers)
