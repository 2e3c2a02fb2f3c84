"""What is judged of the leaves, and whether their deviations fit their fans."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxinit import meanfield
from jaxinit.diagnosis._finding import Finding
from jaxinit.diagnosis._report import Report
from jaxinit.trace import KERNELS, Layer

MANY = 64
"""Entries from which on equal values are no chance."""

_FIXED = 32
"""Distinct values up to which a leaf is a pattern, such as an identity, and no draw."""


class Subject(NamedTuple):
    """What is judged.

    Attributes:
        layers: what each leaf is, in order of execution.
        values: the leaves by path.
        report: the signal.
        expected: by path the deviation that a scheme gives; empty without a scheme.
        uncut: by path the deviations at which a scheme cuts its draws, where these are
            so many that nothing is cut.
        joined: by path how many kernels a leaf packs, and what these are.
    """

    layers: Sequence[Layer]
    values: Mapping[str, np.ndarray]
    report: Report
    expected: Mapping[str, float]
    uncut: Mapping[str, float]
    joined: Mapping[str, tuple[int, str]]

    @property
    def drawn(self) -> Iterator[tuple[Layer, np.ndarray]]:
        """Leaves that are draws from a distribution, as far as their values tell."""
        for layer in self.layers:
            value = self.values[layer.path]
            if value.size >= MANY and np.isfinite(value).all():
                if len(np.unique(value.ravel()[:4096])) > _FIXED:
                    yield layer, value


Check = Callable[[Subject], Iterator[Finding]]


def wrong_fan(subject: Subject) -> Iterator[Finding]:
    """Kernels whose deviation is that of other fans than those of their use."""
    for layer, value in subject.drawn:
        if layer.kind not in KERNELS or value.size < 1024:
            continue
        variance = float(value.astype(float).var())
        error = 3 * math.sqrt(2 / value.size) + 0.01
        deviation = f"The deviation of {layer.path}, {math.sqrt(variance):.3g},"

        def held(fan_in: float, fan_out: float, layer: Layer = layer) -> bool:
            return _explains(variance, error, layer, fan_in, fan_out)  # noqa: B023

        said: tuple[str, str, str] | None = None
        joined = subject.joined.get(layer.path)
        if joined is not None:
            parts, what = joined
            if not held(layer.fan_in, layer.fan_out / parts) and held(
                layer.fan_in, layer.fan_out
            ):
                said = (
                    "drawn jointly",
                    f"counts all {layer.fan_out:g} outputs, but they are those of "
                    f"{parts} {what}, drawn jointly.",
                    f"Draw each apart: `fused={parts}` of any scheme with fans, or "
                    "`jaxinit.per_gate(scheme)` for gates.",
                )
        elif _swapped(layer) and not held(layer.fan_in, layer.fan_in):
            if held(layer.fan_out, layer.fan_out):
                said = (
                    "transposed",
                    f"is that of a fan-in of {layer.fan_out:g}, but each output sums "
                    f"{layer.fan_in:g} terms: the leaf's last axis is the one that is "
                    "summed over.",
                    f"Say so: `in_axis={layer.in_axes}, out_axis={layer.out_axes}`, "
                    "or draw by use: `jaxinit.reinit(key, params, scheme, apply, "
                    "inputs)`.",
                )
        if said is None and not held(layer.fan_in, layer.fan_out):
            for what, factor in _miscounts(layer):
                if held(layer.fan_in * factor, layer.fan_out * factor):
                    said = (
                        "wrong fan",
                        f"is that of a fan-in of {layer.fan_in * factor:g}, but each "
                        f"output sums {layer.fan_in:g} terms: {what} was counted in.",
                        f"Say which axes are which: `in_axis={layer.in_axes}, "
                        f"out_axis={layer.out_axes}, batch_axis={layer.batch_axes}`, "
                        "or draw by use: `jaxinit.reinit(key, params, scheme, apply, "
                        "inputs)`.",
                    )
                    break
        if said is not None:
            rule, sentence, remedy = said
            number = math.sqrt(variance)
            yield Finding(
                rule, False, layer.path, number, f"{deviation} {sentence}", remedy
            )


def _swapped(layer: Layer) -> bool:
    """Whether a leaf lies as (out, in), which a scheme has to be told."""
    if layer.kind != "dense" or not layer.in_axes or not layer.out_axes:
        return False
    unlike = not 0.75 < layer.fan_in / layer.fan_out < 4 / 3
    return unlike and max(layer.in_axes) > max(layer.out_axes)


def _explains(
    variance: float, error: float, layer: Layer, fan_in: float, fan_out: float
) -> bool:
    """Whether a common scheme gives this variance with these fans."""
    squares = {1.0, 2.0, 1 / 3}
    if layer.activation_before in meanfield.ACTIVATIONS:
        squares.add(_gain_of(layer.activation_before) ** 2)
    fans = (fan_in, fan_out, (fan_in + fan_out) / 2, max(fan_in, fan_out))
    return any(
        abs(variance * fan / square - 1) < error for fan in fans for square in squares
    )


@functools.cache
def _gain_of(name: str) -> float:
    try:
        return meanfield.gain(name)
    except ValueError:
        return 1.0


def _miscounts(layer: Layer) -> Iterator[tuple[str, float]]:
    """What is miscounted at times, and by how much the fan is then larger."""
    sizes = layer.shape
    stacked = [axis for axis in layer.batch_axes if axis in layer.layer_axes]
    apart = [axis for axis in layer.batch_axes if axis not in layer.layer_axes]
    yield from (
        (what, float(math.prod(sizes[axis] for axis in axes)))
        for what, axes in (
            ("the axis of layers", stacked),
            ("the axis of members, such as experts or heads,", apart),
            (
                "the axis of heads",
                layer.out_axes[:1] if len(layer.out_axes) > 1 else (),
            ),
        )
        if math.prod(sizes[axis] for axis in axes) > 1
    )
    if layer.groups > 1:
        yield "the number of groups", float(layer.groups)
