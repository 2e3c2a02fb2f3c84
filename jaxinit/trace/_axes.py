"""Which leaf axes the dimensions of activations run along, and what that tells.

A kernel's output axis is a dimension of its output, and stays one through whatever
moves entries about. So activations have a layout of the same `Dim`s as views have,
whose factors run along labels: one for each axis of a leaf, and `DATA` for the inputs'
own. What later happens to a label tells two cases apart that the product cannot: a
later kernel sums over the heads of an attention, while the members of an ensemble stay
separate to the end.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

from ._roles import OUT
from ._view import Dim, Factor, View, only_repeats, repeated

Layout: TypeAlias = tuple[Dim, ...]

DATA = 0
"""The label of the inputs' axes."""


def of_input(shape: Sequence[int]) -> Layout:
    """The layout of an input."""
    return tuple(Dim((Factor((DATA,), size),), size) for size in shape)


def moved(
    layout: Layout | None, change: Callable[[View], View | None]
) -> Layout | None:
    """The layout after what moves views; None where it cannot be told."""
    if layout is None:
        return None
    view = change(View(-1, layout))
    return None if view is None or view.reason else view.dims


def merged(dim: Dim, size: int) -> Dim:
    """A dimension whose entries come from anywhere along another."""
    labels = sorted(labels_of(dim))
    return Dim((Factor(tuple(labels), size),), size)


def resized(layout: Layout | None, shape: Sequence[int]) -> Layout | None:
    """The layout of as many dimensions of other sizes; None if they are not as many."""
    if layout is None or len(layout) != len(shape):
        return None
    pairs = zip(layout, shape, strict=True)
    return tuple(dim if dim.size == n else merged(dim, n) for dim, n in pairs)


def overlay(layouts: Iterable[Layout | None]) -> Layout | None:
    """The layout of a function, entry by entry, of arrays of one shape."""
    known: list[Layout] = []
    for layout in layouts:
        if layout is None:
            return None
        known.append(layout)
    if not known or any(len(layout) != len(known[0]) for layout in known):
        return None
    return tuple(_overlaid(dims) for dims in zip(*known, strict=True))


def _overlaid(dims: Sequence[Dim]) -> Dim:
    own = [dim for dim in dict.fromkeys(dims) if not only_repeats([dim])]
    if not own:
        return repeated(dims[0].size)
    sizes = {tuple(f.size for f in dim.factors if f.size > 1) for dim in own}
    if len(own) == 1 or len(sizes) > 1:
        labels = set[int]().union(*map(labels_of, own))
        return own[0] if len(own) == 1 else _dim([labels], [own[0].size])
    columns = zip(*([f for f in d.factors if f.size > 1] for d in own), strict=True)
    labels = [{a for factor in column for a in factor.axes} for column in columns]
    if not labels:
        return _dim([set[int]().union(*map(labels_of, own))], [own[0].size])
    return _dim(labels, sizes.pop())


def _dim(labels: Sequence[set[int]], sizes: Sequence[int]) -> Dim:
    factors = (Factor(tuple(sorted(a)), n) for a, n in zip(labels, sizes, strict=True))
    dim = Dim(tuple(factors), 1)
    return dim._replace(size=dim.length)


def places(view: View, data: Layout | None) -> tuple[int, ...]:
    """The axes of a bias along which the examples' own axes run: positions.

    None where all of its axes do, since they may as well be the input's features.
    """
    own = [(k, dim) for k, dim in enumerate(view.dims) if dim.own > 1]
    found = [dim for k, dim in own if data and labels_of(data[k]) <= {DATA}]
    axes = (axis for dim in found for f in dim.factors for axis in f.axes)
    return tuple(sorted(axes)) if len(found) < len(own) else ()


def is_narrower(one: Layout | None, other: Layout | None) -> bool:
    """Whether an array repeats its entries where another of its shape does not."""
    pairs = [
        (only_repeats([mine]), only_repeats([its]))
        for mine, its in zip(one or (), other or (), strict=False)
        if mine.size > 1
    ]
    return any(a and not b for a, b in pairs) and not any(b > a for a, b in pairs)


def labels_of(dim: Dim) -> set[int]:
    """The labels along a dimension; one place of an axis is none of a longer one."""
    return {
        label
        for factor in dim.factors
        if factor.size > 1 or dim.size == 1
        for label in factor.axes
    }


class Label(NamedTuple):
    """An axis of a leaf.

    Attributes:
        leaf: the leaf's number.
        axis: the axis.
    """

    leaf: int
    axis: int


class Labels:
    """The labels of one trace, and what has happened to them.

    Attributes:
        stacked: those along which there are separate layers, if nothing sums over them:
            a later kernel has one for each place, or they stand before the examples.
        summed: those that a later kernel sums over, or convolves.
        averaged: those along which weights stand that mix kernels.
    """

    def __init__(self) -> None:
        self._number: dict[Label, int] = {}
        self._label: list[Label] = [Label(-1, -1)]
        self.stacked: set[int] = set()
        self.summed: set[int] = set()
        self.averaged: set[int] = set()

    def number(self, leaf: int, axis: int) -> int:
        """The label of an axis."""
        label = Label(leaf, axis)
        if label not in self._number:
            self._number[label] = len(self._label)
            self._label.append(label)
        return self._number[label]

    def named(self, dim: Dim, leaf: int) -> Dim:
        """A dimension of a leaf's view with the axes' labels."""
        factors = tuple(
            Factor(tuple(self.number(leaf, axis) for axis in f.axes), f.size)
            for f in dim.factors
        )
        if dim.whole:
            return Dim(factors, dim.size)
        return merged(Dim(factors, dim.length), dim.size)

    def leaves_of(self, layout: Layout) -> set[int]:
        """The leaves that a layout runs along."""
        return {self._label[a].leaf for dim in layout for a in labels_of(dim)}

    def judge(self, layout: Layout | None) -> None:
        """Notes the axes of kernels that stand before the examples.

        An ensemble whose members see one input puts the members first, then the
        examples, then the members' own outputs. So do heads, which a later kernel sums
        over.
        """
        dims = [dim for dim in layout or () if dim.size > 1]
        of_dims = [{self._label[a] for a in labels_of(dim)} for dim in dims]
        for k, found in enumerate(of_dims):
            for leaf in {label.leaf for label in found if label.leaf >= 0}:
                inside = [any(x.leaf == leaf for x in y) for y in of_dims[k + 1 :]]
                other = inside.index(False) if False in inside else len(inside)
                if any(inside[other:]):
                    self.stacked |= {
                        self._number[label] for label in found if label.leaf == leaf
                    }

    def weigh(self, weights: Layout | None, others: Sequence[Layout | None]) -> None:
        """Notes the axes of weights along which all that they weigh is repeated."""
        for k, dim in enumerate(weights or ()):
            if all(layout and only_repeats([layout[k]]) for layout in others):
                self.averaged |= labels_of(dim) - {DATA}

    def is_average(self, data: Layout | None, place: int) -> bool:
        """Whether a sum over a dimension is an average by weights."""
        labels = labels_of(data[place]) if data else set[int]()
        return DATA not in labels and bool(labels & self.averaged)

    def meet(
        self,
        data: Layout | None,
        kernel: Sequence[View],
        summed: Sequence[tuple[int, int]],
        kept: Sequence[tuple[int, int]],
    ) -> None:
        """Notes what a kernel does to the axes of the activations it meets.

        Args:
            data: the activations' layout.
            kernel: views of the kernel.
            summed: dimensions of the activations, and the kernel's, that are summed.
            kept: those that go along with each other.
        """
        if data is None:
            return
        for k, _ in summed:
            self.summed |= labels_of(data[k])
        for k, place in kept:
            if any(view.dims[place].own > 1 for view in kernel if not view.reason):
                self.stacked |= labels_of(data[k])

    def vmapped(self, kernel: Layout | None, roles: Sequence[str], count: int) -> None:
        """Notes the first output axes of a kernel on fewer axes than `vmap`s.

        What the activations have not, `vmap` took from the kernel.
        """
        pairs = zip(kernel or (), roles, strict=False)
        free = [dim for dim, role in pairs if role == OUT]
        for dim in free[: max(0, count)]:
            self.stacked |= labels_of(dim)

    def convolve(self, groups: Dim, channels: Dim) -> None:
        """Notes the same of a convolution's groups, and of the channels in each."""
        if channels.length > 1:
            self.stacked |= labels_of(groups)
            self.summed |= labels_of(channels)

    def separate(self, leaf: int, axes: Sequence[int]) -> tuple[int, ...]:
        """Those of a kernel's output axes along which there are separate kernels."""
        found = tuple(
            axis
            for axis in axes
            if self._number.get(Label(leaf, axis), DATA) in self.stacked - self.summed
        )
        return found if len(found) < len(axes) else ()
