"""Row-major reshapes of views: factors split and joined, block by block."""

import math
from collections.abc import Iterable, Sequence

from ._view import Dim, Factor, View, blur


def _distribute(
    factors: Iterable[Factor], sizes: Sequence[int]
) -> list[tuple[Factor, ...]]:
    """Deals factors out to dimensions of given sizes, splitting where needed."""
    queue = list(factors)
    dealt: list[tuple[Factor, ...]] = []
    for size in sizes:
        mine: list[Factor] = []
        if size == 1 and queue and queue[0].size == 1:
            mine.append(queue.pop(0))
        while size > 1:
            head = queue.pop(0)
            if size % head.size == 0:
                mine.append(head)
                size //= head.size
            elif head.size % size == 0:
                mine.append(Factor(head.axes, size))
                queue.insert(0, Factor(head.axes, head.size // size))
                size = 1
            else:
                # 6 x 4 read as 8 x 3: the digits mix, and are one digit from here on.
                other = queue.pop(0)
                axes = tuple(sorted({*head.axes, *other.axes}))
                queue.insert(0, Factor(axes, head.size * other.size))
        dealt.append(tuple(mine))
    if queue and dealt:
        dealt[-1] = (*dealt[-1], *queue)
    return dealt


def _blocks(
    old: Sequence[int], new: Sequence[int]
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The smallest runs of old and of new dimensions that hold the same places."""
    blocks: list[tuple[tuple[int, int], tuple[int, int]]] = []
    i = j = 0
    while i < len(old) and j < len(new):
        i0, j0 = i, j
        a, b = old[i], new[j]
        i, j = i + 1, j + 1
        while a != b:
            if a < b:
                a *= old[i]
                i += 1
            else:
                b *= new[j]
                j += 1
        blocks.append(((i0, i), (j0, j)))
    # What is left has size 1, and goes with the last block.
    if not blocks:
        return [((0, len(old)), (0, len(new)))]
    (i0, _), (j0, _) = blocks[-1]
    blocks[-1] = ((i0, len(old)), (j0, len(new)))
    return blocks


def _reshape_windowed(dims: Sequence[Dim], sizes: Sequence[int]) -> list[Dim] | None:
    """A block in which the leaf fills a window; None where the window breaks up."""
    # The window is a run of the block's places if all dimensions after the first
    # partly filled one are filled, and all before it hold one place.
    partial = next(k for k, dim in enumerate(dims) if not dim.whole)
    before, after = dims[:partial], dims[partial + 1 :]
    if any(dim.length > 1 for dim in before) or not all(dim.whole for dim in after):
        return None
    start = 0
    for dim in dims:
        start = start * dim.size + dim.start
    factors = [factor for dim in dims for factor in dim.factors]
    length = math.prod(factor.size for factor in factors)
    out: list[Dim] = []
    inner = math.prod(sizes)
    for k, size in enumerate(sizes):
        inner //= size
        if length > inner:
            n = -(-length // inner)
            place = start // inner
            if length != n * inner or start % inner or place + n > size:
                return None
            rest = _distribute(factors, (n, *sizes[k + 1 :]))
            out.append(Dim(rest[0], size, place))
            out.extend(Dim(f, s) for f, s in zip(rest[1:], sizes[k + 1 :], strict=True))
            return out
        out.append(Dim((), size, start // inner))
        start %= inner
    out[-1] = out[-1]._replace(factors=tuple(factors))
    return out


def reshape(view: View, shape: Sequence[int]) -> View:
    """Row-major reshape: splits and joins factors, block by block."""
    if 0 in shape:
        return blur(view, "Its array has no entries.")
    dims: list[Dim] = []
    for (i0, i1), (j0, j1) in _blocks([dim.size for dim in view.dims], shape):
        old, sizes = view.dims[i0:i1], shape[j0:j1]
        if all(dim.whole for dim in old):
            factors = (factor for dim in old for factor in dim.factors)
            parts = _distribute(factors, sizes)
            dims.extend(Dim(f, s) for f, s in zip(parts, sizes, strict=True))
            continue
        moved = _reshape_windowed(old, sizes)
        if moved is None:
            return blur(view, "A reshape breaks up a padded or concatenated array.")
        dims.extend(moved)
    return view._replace(dims=tuple(dims))
