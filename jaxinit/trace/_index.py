"""Rules of the operations that pick parts of a table by an index.

A constant index, a loop's counter for one, only says which of several stacked layers
is used. An index out of the activations looks rows up: an embedding, if they become
activations as they are, and one of several kernels, if they meet some in a product.
"""

import math

from jax.extend.core import JaxprEqn, Literal

from . import _axes, _view
from ._layout import move
from ._value import Info, Value, join_infos, renew, with_act
from ._view import View
from ._walk import Trace, mixed, rule, shape_of, steered


@rule("dynamic_slice")
def _dynamic_slice(
    trace: Trace, eqn: JaxprEqn, value: Value, *starts: Value
) -> list[Value]:
    sizes = eqn.params["slice_sizes"]
    shape = shape_of(eqn.invars[0])
    given = eqn.invars[1:]
    places = [
        int(atom.val) if isinstance(atom, Literal) else 0 if size == full else None
        for atom, size, full in zip(given, sizes, shape, strict=False)
    ]
    known = [place for place in places if place is not None]

    def cut(view: View) -> View | None:
        if len(known) < len(shape):
            return _view.take(view, sizes)
        # InitialParams are clamped so that the slice fits.
        begin = [
            min(max(p, 0), n - s) for p, n, s in zip(known, shape, sizes, strict=True)
        ]
        ends = [b + s for b, s in zip(begin, sizes, strict=True)]
        return _view.slice_view(view, begin, ends, [1] * len(shape))

    infos = [start.info for start in starts if start.info]
    if value.info is not None or not infos:
        moved = move(trace, value, cut)
        if len(known) < len(shape) and moved.info is not None:
            reach = moved.info.reach | trace.part()  # by the number of a turn
            moved = moved._replace(info=moved.info._replace(reach=reach))
        return [moved]
    # Activations say which part: a row of an embedding, or one of several kernels.
    info = join_infos(infos, trace.site)
    cut_dims = [k for k, (s, n) in enumerate(zip(sizes, shape, strict=True)) if s < n]
    return [lookup(trace, move(trace, value, cut), value, cut_dims, info)]


def lookup(
    trace: Trace, picked: Value, table: Value, dims: list[int], info: Info
) -> Value:
    """Parts of a table that an index picked along some of its dimensions."""
    axes = {
        view.leaf: tuple(a for dim in dims for a in _view.axes_of(view.dims[dim]))
        for view in table.views
        if not view.reason
    }
    views = tuple(
        view._replace(
            pending="embedding", site=trace.site, looked=axes.get(view.leaf, ())
        )
        for view in picked.views
    )
    info = renew(info, trace.site)._replace(layout=None)
    return Value(views, with_act(info, None))


def _index_view(view: View, eqn: JaxprEqn, given: bool) -> View:
    """A view of `table[indices]`: indexed dimensions go, those of the index come.

    A given index picks its own places of the leaf, one out of the activations picks
    for every example anew.
    """
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shared = dict(
        zip(
            numbers.start_indices_batching_dims,
            numbers.operand_batching_dims,
            strict=True,
        )
    )
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    kept = iter(
        dim if size == dim.size else _view.take_dim(dim, size)
        for k, (dim, size) in enumerate(zip(view.dims, sizes, strict=True))
        if k not in gone
    )
    axes = {a for k in numbers.start_index_map for a in _view.axes_of(view.dims[k])}
    own = tuple(sorted(axes)) if given else ()
    index = iter(range(len(shape_of(eqn.invars[1])) - 1))
    dims: list[_view.Dim] = []
    for place, size in enumerate(shape_of(eqn.outvars[0])):
        if place in numbers.offset_dims:
            dims.append(next(kept))
        else:
            k = next(index)
            picked = _view.Dim((_view.Factor(own, size),), size)
            dims.append(view.dims[shared[k]] if k in shared else picked)
    stacked = (axis for k in shared.values() for axis in _view.axes_of(view.dims[k]))
    wide = [n for n in shape_of(eqn.invars[1])[:-1] if n > 1]
    tied = own if len(wide) > 1 else ()
    return view._replace(
        dims=tuple(dims), stacked=(*view.stacked, *stacked), tied=(*view.tied, *tied)
    )


@rule("gather")
def _gather(trace: Trace, eqn: JaxprEqn, table: Value, index: Value) -> list[Value]:
    state = table.info if table.is_modulated else None
    if not table.is_param and state is None:
        if table.is_const:
            return [mixed(trace, (index,))]
        picked = mixed(trace, (table,)).info
        assert picked is not None and table.info is not None
        layout = _axes.moved(table.info.layout, lambda v: _index_view(v, eqn, True))
        turn = trace.part() if index.is_const else frozenset[int]()
        picked = picked._replace(layout=layout, reach=picked.reach | turn)
        return [steered(trace, Value(info=picked), index)]
    numbers = eqn.params["dimension_numbers"]
    places = shape_of(eqn.invars[1])[:-1]
    shared = numbers.start_indices_batching_dims
    count = math.prod(n for k, n in enumerate(places) if k not in shared)
    given = index.info is None

    def pick(view: View) -> View:
        return _index_view(view, eqn, given)

    picked = move(trace, table, pick)
    if given and count == 1:
        return [picked]
    dims = [
        k
        for k in numbers.start_index_map
        if eqn.params["slice_sizes"][k] < shape_of(eqn.invars[0])[k]
        or k in numbers.collapsed_slice_dims
    ]
    infos = [info for info in (index.info, state) if info] or [Info(base=trace.site)]
    info = infos[0] if len(infos) == 1 else join_infos(infos, trace.site)
    return [lookup(trace, picked, table, dims, info)]
