"""Views: which axes of a parameter leaf make up each dimension of an array.

A reshape, a transpose or a slice moves the entries of a parameter about but changes
none of them, so the array that comes out is described by where its dimensions come
from. Each dimension is an ordered product of factors, major to minor, like the digits
of its index; a factor is a piece of one leaf axis or, with no axes, a repetition by
broadcasting. Reshapes split and join factors, everything else only moves them.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

Site = tuple[int, ...]


class Factor(NamedTuple):
    """One digit of a dimension's index.

    Attributes:
        axes: the leaf axes it runs along: one as a rule, several where a reshape mixed
            axes in a way that no split can undo, none where broadcasting repeats.
        size: the number of values it takes.
    """

    axes: tuple[int, ...]
    size: int


class Dim(NamedTuple):
    """One dimension of an array, of which a leaf may fill only a window.

    Attributes:
        factors: the leaf's part, major to minor; their sizes' product is its length.
        size: the length of the whole dimension, that of the window as a rule, more
            after a concatenation or padding.
        start: where in the dimension the window begins.
    """

    factors: tuple[Factor, ...]
    size: int
    start: int = 0

    @property
    def length(self) -> int:
        """How many of the dimension's places the leaf fills."""
        return math.prod(factor.size for factor in self.factors)

    @property
    def whole(self) -> bool:
        """Whether the leaf fills the dimension."""
        return self.length == self.size

    @property
    def own(self) -> int:
        """How many distinct places of the leaf the dimension runs along."""
        return math.prod(factor.size for factor in self.factors if factor.axes)


class View(NamedTuple):
    """A leaf's entries inside an array.

    Attributes:
        leaf: the leaf's number.
        dims: one `Dim` for each dimension of the array.
        fraction: how much of the leaf is seen, 1 or less.
        reason: why the entries can no longer be told apart; empty while they can.
        statistic: whether that is because they were reduced, to a mean or a norm.
        pending: what the leaf has been to activations already ("scale", "bias",
            "embedding"), though the next operation may show it to be a kernel.
        site: where in the program it became so.
        acts_on: the layers whose outputs those activations were.
        before: the last nonlinearity that those activations went through.
        looked: leaf axes that an index out of the activations picked from.
        stacked: leaf axes along which `vmap` put separate tables.
        tied: leaf axes that a given index spread over several dimensions.
        places: leaf axes that run along the examples' own: positions.
        factor: the number that the program has multiplied it with.
        shards: pairs of a leaf axis and the number of devices that share it.
        multiplied: whether another leaf as large has multiplied it entry by entry.
        bent: whether it went through a nonlinearity since it met activations.
    """

    leaf: int
    dims: tuple[Dim, ...]
    fraction: float = 1.0
    reason: str = ""
    statistic: bool = False
    pending: str = ""
    site: Site = ()
    acts_on: frozenset[int] = frozenset()
    before: str | None = None
    looked: tuple[int, ...] = ()
    stacked: tuple[int, ...] = ()
    tied: tuple[int, ...] = ()
    places: tuple[int, ...] = ()
    factor: float = 1.0
    shards: tuple[tuple[int, int], ...] = ()
    multiplied: bool = False
    bent: bool = False

    def has_foreign(self) -> bool:
        """Whether broadcasting repeats the leaf along some dimension."""
        return any(not f.axes and f.size > 1 for dim in self.dims for f in dim.factors)


def repeated(size: int) -> Dim:
    """A dimension along which a leaf is repeated."""
    return Dim((Factor((), size),), size)


def whole_leaf(leaf: int, shape: Sequence[int]) -> View:
    """The view of a leaf as it stands."""
    dims = (Dim((Factor((axis,), size),), size) for axis, size in enumerate(shape))
    return View(leaf, tuple(dims))


def with_dims(view: View, dims: Iterable[Dim]) -> View:
    """The view with other dimensions, its fraction brought up to date."""
    dims = tuple(dims)
    before = math.prod(dim.own for dim in view.dims)
    after = math.prod(dim.own for dim in dims)
    # Dropping a dimension of one place is no loss; a slice of n places is one.
    fraction = view.fraction * after / before if before else view.fraction
    return view._replace(dims=dims, fraction=fraction)


def blur(view: View, reason: str) -> View:
    """The view of an array that depends on the leaf in no readable way."""
    return view if view.reason else view._replace(dims=(), reason=reason)


def transpose(view: View, permutation: Sequence[int]) -> View:
    """The dimensions in another order."""
    return view._replace(dims=tuple(view.dims[axis] for axis in permutation))


def broadcast(view: View, shape: Sequence[int], dimensions: Sequence[int]) -> View:
    """`broadcast_in_dim`: each dimension goes to its place, the rest repeat."""
    dims = [repeated(size) for size in shape]
    for dim, place in zip(view.dims, dimensions, strict=True):
        if dim.size == shape[place]:
            dims[place] = dim
        else:
            factors = (*dim.factors, Factor((), shape[place]))
            dims[place] = Dim(factors, shape[place])
    return view._replace(dims=tuple(dims))


def stretch(view: View, shape: Sequence[int]) -> View:
    """The view as an operation on arrays of `shape` takes it.

    Such operations broadcast scalars and dimensions of size 1.
    """
    if view.reason or len(shape) == len(view.dims) == 0:
        return view
    if not view.dims:
        return view._replace(dims=tuple(repeated(size) for size in shape))
    return broadcast(view, shape, range(len(shape)))


def tile(view: View, counts: Sequence[int]) -> View:
    """The array repeated `counts` times along each dimension."""
    dims = [
        dim if count == 1 else Dim((Factor((), count), *dim.factors), dim.size * count)
        for dim, count in zip(view.dims, counts, strict=True)
    ]
    return view._replace(dims=tuple(dims))


def drop(view: View, dimensions: Sequence[int]) -> View:
    """The dimensions without some, which one index or a loop has consumed."""
    gone = set(dimensions)
    kept = (dim for axis, dim in enumerate(view.dims) if axis not in gone)
    return view._replace(dims=tuple(kept))


def insert(view: View, place: int, size: int) -> View:
    """A further dimension along which the leaf is repeated."""
    dims = (*view.dims[:place], repeated(size), *view.dims[place:])
    return view._replace(dims=dims)


def window(view: View, place: int, size: int, start: int) -> View:
    """The view inside a longer dimension: a concatenation, or padding."""
    dim = view.dims[place]
    dims = list(view.dims)
    dims[place] = Dim(dim.factors, size, dim.start + start)
    return view._replace(dims=tuple(dims))


def share(view: View, counts: Sequence[int]) -> View:
    """One device's part of an array that is spread over `counts` along each dimension.

    Sizes are local from here on; `shards` keeps what makes them whole again.
    """
    if view.reason:
        return view
    dims = list(view.dims)
    shards = dict(view.shards)
    for k, count in enumerate(counts):
        if count == 1:
            continue
        dim = dims[k]
        size = dim.size // count
        dims[k] = Dim(_shrink(dim.factors, 0, min(size, dim.length)), size)
        for axis in axes_of(dim)[:1]:
            shards[axis] = shards.get(axis, 1) * count
    return view._replace(dims=tuple(dims), shards=tuple(sorted(shards.items())))


def gather(view: View, place: int, count: int, tiled: bool) -> View:
    """The array that `count` devices hold together, each a part of one dimension."""
    if view.reason:
        return view
    if not tiled:
        return insert(view, place, count)
    dim = view.dims[place]
    shards = dict(view.shards)
    axes = [axis for axis in axes_of(dim) if shards.get(axis, 1) % count == 0]
    dims = list(view.dims)
    if axes and dim.factors[0].axes == (axes[0],):
        shards[axes[0]] //= count
        major = Factor(dim.factors[0].axes, dim.factors[0].size * count)
        dims[place] = Dim((major, *dim.factors[1:]), dim.size * count)
    else:
        dims[place] = Dim((Factor((), count), *dim.factors), dim.size * count)
    left = ((axis, n) for axis, n in shards.items() if n > 1)
    return view._replace(dims=tuple(dims), shards=tuple(sorted(left)))


def adjoin(left: View, right: View, place: int) -> View | None:
    """Two parts of one leaf, side by side along a dimension; None if they do not fit.

    Rolling an axis makes such parts, and they run along the axis together; whole
    copies repeat the leaf.
    """
    one, two = left.dims[place], right.dims[place]
    rest = [view.dims[:place] + view.dims[place + 1 :] for view in (left, right)]
    fits = rest[0] == rest[1] and one.start + one.length == two.start
    if not fits:
        return None
    dims = list(left.dims)
    if not axes_of(one) and not axes_of(two) and left.fraction + right.fraction > 1:
        dims[place] = Dim((Factor((), one.length + two.length),), one.size, one.start)
        return left._replace(dims=tuple(dims))
    if not one.factors or not two.factors:
        return None
    (a, *minor), (b, *other) = one.factors, two.factors
    if a.axes != b.axes or minor != other:
        return None
    factors = (Factor(a.axes, a.size + b.size), *minor)
    dims[place] = Dim(factors, one.size, one.start)
    return left._replace(dims=tuple(dims), fraction=left.fraction + right.fraction)


def _shrink(factors: tuple[Factor, ...], start: int, n: int) -> tuple[Factor, ...]:
    """The factors of `n` places from `start` on."""
    if not factors or n == math.prod(factor.size for factor in factors):
        return factors
    major, minor = factors[0], factors[1:]
    inner = math.prod(factor.size for factor in minor)
    if start % inner == 0 and n % inner == 0:
        return (Factor(major.axes, n // inner), *minor)
    if start // inner == (start + n - 1) // inner:
        return _shrink(minor, start % inner, n)
    axes = sorted({axis for factor in factors for axis in factor.axes})
    return (Factor(tuple(axes), n),)


def _slice_dim(dim: Dim, start: int, limit: int, stride: int) -> Dim | None:
    """The places of `dim` from `start` to `limit`; None where the leaf has none."""
    first = max(start, dim.start)
    if (late := (first - start) % stride) != 0:
        first += stride - late
    last = min(limit, dim.start + dim.length)
    if last <= first:
        return None
    n = -(-(last - first) // stride)
    factors = _shrink(dim.factors, first - dim.start, n)
    return Dim(factors, -(-(limit - start) // stride), (first - start) // stride)


def slice_view(
    view: View, starts: Sequence[int], limits: Sequence[int], strides: Sequence[int]
) -> View | None:
    """A strided slice; None where it leaves nothing of the leaf."""
    dims: list[Dim] = []
    for dim, *bounds in zip(view.dims, starts, limits, strides, strict=True):
        part = _slice_dim(dim, *bounds)
        if part is None:
            return None
        dims.append(part)
    return with_dims(view, dims)


def take_dim(dim: Dim, size: int) -> Dim:
    """`size` places of a dimension, somewhere."""
    if dim.size == size:
        return dim
    return Dim(_shrink(dim.factors, 0, min(size, dim.length)), size)


def take(view: View, sizes: Sequence[int]) -> View:
    """A slice of known size at an unknown start, in a loop as a rule.

    The fraction stays, since the loop goes over the whole leaf.
    """
    dims = (take_dim(*pair) for pair in zip(view.dims, sizes, strict=True))
    return view._replace(dims=tuple(dims))


def only_repeats(dims: Iterable[Dim]) -> bool:
    """Whether a leaf fills dimensions with one place of its own, over and over."""
    dims = tuple(dims)
    own, length = math.prod(d.own for d in dims), math.prod(d.length for d in dims)
    return own == 1 < length


def axes_of(dim: Dim) -> tuple[int, ...]:
    """The leaf axes that a dimension runs along."""
    return tuple(axis for factor in dim.factors for axis in factor.axes)
