"""Residual branches, depth and roles, read from the layers of a model."""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Iterable, Sequence

import numpy as np

from jaxinit.trace import KERNELS, Layer, kernels


@dataclasses.dataclass(frozen=True)
class Branch:
    """One residual branch: what is computed from a trunk and added back to it.

    Attributes:
        end: its last kernel.
        kernels: its kernels, the last one included, in order of execution.
        scalars: parameters that multiply what it adds, as they stand between its last
            kernel and the sum.
        depth: kernels on its longest way.
        attention: whether a softmax weighs what it adds.
        index: its place among the branches of its sort, from 0; of the first of them,
            where one leaf holds several layers.
    """

    end: Layer
    kernels: tuple[Layer, ...]
    scalars: tuple[Layer, ...]
    depth: int
    attention: bool
    index: int

    @property
    def queries_and_keys(self) -> tuple[Layer, ...]:
        """Kernels whose outputs meet in a softmax."""
        return tuple(k for k in self.kernels if k.activation_after == "softmax")


class Structure:
    """What a scheme for a whole model asks of it.

    Attributes:
        layers: all layers, in order of execution.
        kernels: those that enter a product or a convolution.
        branches: the residual branches, in order.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        """Find the branches."""
        self.layers = tuple(layers)
        self.kernels = tuple(kernels(layers))
        self.by_path = {layer.path: layer for layer in layers}
        ends = [layer for layer in self.kernels if layer.residual]
        members: dict[str, list[Layer]] = {end.path: [] for end in ends}
        for kernel in self.kernels:
            if len(kernel.ends) == 1 and not kernel.residual:
                members[kernel.ends[0]].append(kernel)
        inside = {end.path: (*members[end.path], end) for end in ends}
        attends = {
            path: any(kernel.activation_after == "softmax" for kernel in own)
            for path, own in inside.items()
        }
        found: list[Branch] = []
        places, before = {False: 0.0, True: 0.0}, False
        for end in ends:
            attention = attends[end.path]
            if attention and before and not all(attends.values()):
                # Self- and cross-attention are of one block.
                index = found[-1].index
            else:
                index = int(places[attention] + 1e-6)
                places[attention] += end.additions
            before = attention
            own = inside[end.path]
            sizes = self._scalars(end), self._depth(end, own)
            found.append(Branch(end, own, *sizes, attention, index))
        self.branches = tuple(found)

    def _scalars(self, end: Layer) -> tuple[Layer, ...]:
        return tuple(
            layer
            for layer in self.layers
            if layer.kind == "scale" and layer.acts_on == (end.path,)
        )

    def _depth(self, end: Layer, inside: Iterable[Layer]) -> int:
        paths = {layer.path for layer in inside}

        @functools.cache
        def longest(path: str) -> int:
            after = [p for p in self.by_path[path].feeds if p in paths and p != path]
            if path == end.path:
                return 1
            return 1 + max(map(longest, after), default=0)

        return max(map(longest, paths))

    @functools.cached_property
    def ends(self) -> frozenset[str]:
        """Paths of the last kernels of branches."""
        return frozenset(branch.end.path for branch in self.branches)

    @functools.cached_property
    def inside(self) -> frozenset[str]:
        """Paths of the kernels within branches."""
        return frozenset(k.path for branch in self.branches for k in branch.kernels)

    @functools.cached_property
    def depth(self) -> int:
        """Additions to the residual stream, each of a scanned stack counted."""
        return additions(self.branches)

    @functools.cached_property
    def biases(self) -> tuple[Layer, ...]:
        """What is added to the outputs of kernels; by name where no use tells."""
        return tuple(
            layer
            for layer in self.layers
            if layer.kind == "bias"
            and (
                not layer.acts_on
                or any(self.by_path[path].kind in KERNELS for path in layer.acts_on)
            )
        )

    @functools.cached_property
    def heads(self) -> tuple[Layer, ...]:
        """The last kernels: outside of the branches, feeding no further kernel."""
        return tuple(
            k
            for k in self.kernels
            if not k.residual
            and not any(self.by_path[p].kind in KERNELS for p in k.feeds)
        )


def additions(branches: Iterable[Branch]) -> int:
    """How many additions to the residual stream branches make."""
    ends = [branch.end for branch in branches]
    uncounted = [end.path for end in ends if end.uncounted]
    if uncounted:
        warnings.warn(
            f"{', '.join(uncounted)}: a while loop whose number of turns nobody knows "
            "adds to the residual stream, and is counted as one turn; loop by scan, or "
            "by fori_loop between numbers, if the depth shall count.",
            stacklevel=3,
        )
    return round(sum(end.additions for end in ends))


def copies(layer: Layer) -> int:
    """How many layers, one after the other, the leaf holds."""
    return math.prod(layer.shape[axis] for axis in layer.layer_axes)


def over_layers(layer: Layer, values: Sequence[float] | np.ndarray) -> np.ndarray:
    """A value for each of the layers of a leaf, as an array that multiplies it."""
    shape = [1] * len(layer.shape)
    for axis in layer.layer_axes:
        shape[axis] = layer.shape[axis]
    return np.asarray(values, float).reshape(shape)
