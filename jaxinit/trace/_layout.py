"""Rules of the operations that move entries about and change none."""

from collections.abc import Callable, Sequence

from jax.extend.core import JaxprEqn, Literal

from . import _axes, _view
from ._reshape import reshape
from ._value import CONST, Value, join_views, renew
from ._value import cut as cut_info
from ._view import View
from ._walk import Trace, mixed, rule, shape_of, steered, unreadable


def move(trace: Trace, value: Value, change: Callable[[View], View | None]) -> Value:
    """The value with each of its views moved; one that moves out of sight settles."""
    views: list[View] = []
    for view in value.views:
        # A blurred view has no dimensions left to move.
        moved = view if view.reason else change(view)
        if moved is not None:
            views.append(moved)
        elif view.pending:
            trace.settle(Value((view,), value.info))
    info = value.info
    if info is not None:
        layout = _axes.moved(info.layout, change)
        info = renew(info, trace.site)._replace(layout=layout)
    return Value(tuple(views), info, value.scalar)


@rule("reshape")
def _reshape(trace: Trace, eqn: JaxprEqn, value: Value, *_: Value) -> list[Value]:
    sizes, order = eqn.params["new_sizes"], eqn.params["dimensions"]

    def regroup(view: View) -> View:
        view = view if order is None else _view.transpose(view, order)
        return reshape(view, sizes)

    return [move(trace, value, regroup)]


@rule("transpose")
def _transpose(trace: Trace, eqn: JaxprEqn, value: Value) -> list[Value]:
    order = eqn.params["permutation"]
    return [move(trace, value, lambda view: _view.transpose(view, order))]


@rule("broadcast_in_dim")
def _broadcast(trace: Trace, eqn: JaxprEqn, value: Value, *_: Value) -> list[Value]:
    shape, places = eqn.params["shape"], eqn.params["broadcast_dimensions"]
    return [move(trace, value, lambda view: _view.broadcast(view, shape, places))]


@rule("squeeze")
def _squeeze(trace: Trace, eqn: JaxprEqn, value: Value) -> list[Value]:
    gone = eqn.params["dimensions"]
    return [move(trace, value, lambda view: _view.drop(view, gone))]


@rule("rev")
def _turn(trace: Trace, eqn: JaxprEqn, value: Value, *_: Value) -> list[Value]:
    return [move(trace, value, lambda view: view)]


@rule("tile")
def _tile(trace: Trace, eqn: JaxprEqn, value: Value) -> list[Value]:
    return [move(trace, value, lambda view: _view.tile(view, eqn.params["reps"]))]


@rule("unstack")
def _unstack(trace: Trace, eqn: JaxprEqn, value: Value) -> list[Value]:
    axis, shape = eqn.params["axis"], shape_of(eqn.invars[0])
    parts: list[Value] = []
    for k in range(len(eqn.outvars)):
        starts, limits = [0] * len(shape), list(shape)
        starts[axis], limits[axis] = k, k + 1
        part = _part(trace, value, starts, limits)
        parts.append(move(trace, part, lambda view: _view.drop(view, (axis,))))
    return parts


@rule("stack")
def _stack(trace: Trace, eqn: JaxprEqn, *values: Value) -> list[Value]:
    axis = eqn.params["axis"]
    if any(value.info for value in values):
        out, place = mixed(trace, values).info, _axes.of_input([len(values)])
        assert out is not None
        layouts = (v.info.layout for v in values if v.info)
        stacked = (x and (*x[:axis], *place, *x[axis:]) for x in layouts)
        return [Value(info=out._replace(layout=_axes.overlay(stacked)))]
    views: list[View] = []
    for k, value in enumerate(values):
        for view in value.views:
            if not view.reason:
                view = _view.insert(view, axis, 1)
                view = _view.window(view, axis, len(values), k)
            views.append(view)
    return [Value(join_views(_side_by_side(views, axis)))]


@rule("slice")
def _slice(trace: Trace, eqn: JaxprEqn, value: Value) -> list[Value]:
    starts, limits = eqn.params["start_indices"], eqn.params["limit_indices"]
    return [_part(trace, value, starts, limits, eqn.params["strides"])]


def _part(
    trace: Trace,
    value: Value,
    starts: Sequence[int],
    limits: Sequence[int],
    strides: Sequence[int] | None = None,
) -> Value:
    """The value of a slice."""
    strides = strides or (1,) * len(starts)

    def cut(view: View) -> View | None:
        return _view.slice_view(view, starts, limits, strides)

    if value.info is not None:
        trace.labels.judge(value.info.layout)
    return move(trace, _cut_info(value, starts, limits), cut)


def _cut_info(value: Value, starts: Sequence[int], limits: Sequence[int]) -> Value:
    """The value of a slice, without the sources that lie outside of it."""
    info = value.info
    if info is not None:
        for dim, (start, limit) in enumerate(zip(starts, limits, strict=True)):
            info = cut_info(info, dim, start, limit)
    return value._replace(info=info)


@rule("split")
def _split(trace: Trace, eqn: JaxprEqn, value: Value) -> list[Value]:
    axis, sizes = eqn.params["axis"], [int(size) for size in eqn.params["sizes"]]
    shape = shape_of(eqn.invars[0])
    parts: list[Value] = []
    start = 0
    for size in sizes:
        starts, limits = [0] * len(shape), list(shape)
        starts[axis], limits[axis] = start, start + size
        parts.append(_part(trace, value, starts, limits))
        start += size
    return parts


@rule("dynamic_update_slice")
def _dynamic_update_slice(
    trace: Trace, eqn: JaxprEqn, value: Value, update: Value, *starts: Value
) -> list[Value]:
    if value.info or update.info or any(start.info for start in starts):
        return [mixed(trace, (value, update))]
    shape = shape_of(eqn.outvars[0])
    moved: list[View] = []
    for view in update.views:
        for place, atom in enumerate(eqn.invars[2:] if not view.reason else ()):
            start = int(atom.val) if isinstance(atom, Literal) else 0
            view = _view.window(view, place, shape[place], start)
        moved.append(view)
    return [Value(join_views((*value.views, *moved)))]


@rule(*"scatter scatter-add scatter-sub scatter-mul scatter-min scatter-max".split())
def _scatter(
    trace: Trace, eqn: JaxprEqn, value: Value, index: Value, update: Value
) -> list[Value]:
    if value.is_param and index.is_const and update.is_const:
        # A few entries are overwritten, such as the row of a padding token.
        return [value]
    if eqn.primitive.name == "scatter-add" and value.info and update.info:
        trace.add(value, update)  # to some of the places
    if (value.info or update.info) and index.info:
        return [steered(trace, mixed(trace, (value, update)), index)]
    return unreadable(trace, eqn, value, index, update)


@rule("concatenate")
def _concatenate(trace: Trace, eqn: JaxprEqn, *values: Value) -> list[Value]:
    if len(values) == 1:
        return list(values)
    axis = eqn.params["dimension"]
    size = shape_of(eqn.outvars[0])[axis]
    if any(value.info for value in values):
        # Leaves among activations are inputs of their own: a class token.
        out = mixed(trace, values)
        layouts = [value.info.layout for value in values if value.info]
        assert out.info is not None
        return [Value(info=out.info._replace(layout=_joined(layouts, axis, size)))]
    views: list[View] = []
    start = 0
    for value, atom in zip(values, eqn.invars, strict=True):
        for view in value.views:
            views.append(view if view.reason else _view.window(view, axis, size, start))
        start += shape_of(atom)[axis]
    return [Value(join_views(_side_by_side(views, axis)))]


def _joined(
    layouts: Sequence[_axes.Layout | None], axis: int, size: int
) -> _axes.Layout | None:
    """The layout of activations side by side along a dimension."""
    known = [
        (*layout[:axis], _axes.merged(layout[axis], size), *layout[axis + 1 :])
        for layout in layouts
        if layout is not None
    ]
    return _axes.overlay(known) if len(known) == len(layouts) else None


def _side_by_side(views: Sequence[View], axis: int) -> list[View]:
    """The views with parts of one leaf, put next to each other, joined again."""
    joined: dict[int, View] = {}
    for view in views:
        other = joined.get(view.leaf)
        if other is None or other.reason:
            joined[view.leaf] = view
        elif not view.reason:
            joined[view.leaf] = _view.adjoin(other, view, axis) or other
    return list(joined.values())


@rule("pad")
def _pad(trace: Trace, eqn: JaxprEqn, value: Value, fill: Value) -> list[Value]:
    config = eqn.params["padding_config"]
    shape = shape_of(eqn.outvars[0])

    def place(view: View) -> View:
        for k, (low, _, _) in enumerate(config):
            view = _view.window(view, k, shape[k], max(low, 0))
        return view

    def cut(view: View) -> View | None:
        # Negative padding cuts off; interior padding leaves the factors as they are.
        starts = [max(-low, 0) for low, _, _ in config]
        limits = [
            dim.size - max(-high, 0)
            for dim, (_, high, _) in zip(view.dims, config, strict=True)
        ]
        part = _view.slice_view(view, starts, limits, [1] * len(starts))
        return None if part is None else place(part)

    if value.is_const and fill.is_const:
        return [CONST]
    return [move(trace, value, cut)]
