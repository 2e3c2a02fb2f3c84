"""Rules of the products: where a leaf shows itself to be a kernel."""

import math
from collections.abc import Sequence
from dataclasses import replace

from jax.extend.core import JaxprEqn

from . import _axes, _view
from ._axes import Layout
from ._entrywise import entrywise
from ._layout import move
from ._roles import BATCH, IN, MULTIPLIED, OUT, RECEPTIVE, entry_use, kernel_use
from ._value import CONST, Info, Span, Value, blur_all, join_infos, join_views, with_act
from ._view import Dim, Factor, View, only_repeats, repeated
from ._walk import Trace, mixed, rule, shape_of, unreadable


def _as_kernel(
    trace: Trace,
    value: Value,
    other: Value,
    summed: Sequence[int],
    shared: Sequence[int] = (),
) -> bool:
    """Whether a product shows pending views to be a kernel that something modulates.

    It does if the other side is activations that no such kernel is in, and no leaf is
    repeated along an axis of the activations, as the scale of a normalisation is: only
    a kernel with outputs of its own may be repeated, and only over the examples that
    it goes along with, each of which scales it. Rows that were looked up are a kernel
    if the product sums over a row; if over the rows, it weighs embeddings. A leaf that
    activations were added to is a kernel if it has been one: a step of training.

    Args:
        trace: the walk.
        value: the side that may be a kernel.
        other: the other side.
        summed: the dimensions of `value` that the product sums over.
        shared: those that it has in common with the other side.
    """
    if not value.views or value.info is None or other.info is None:
        return False
    if not all(view.pending and view.has_foreign() for view in other.views):
        return False
    for view in value.views:
        if view.reason or (view.pending == "scale" and value.info.centred):
            return False
        if view.pending == "embedding":
            if only_repeats([view.dims[k] for k in summed]):
                return False
            continue
        apart = [k for k in range(len(view.dims)) if k not in (*summed, *shared)]
        own = any(view.dims[k].own > 1 for k in apart)
        dims = [d for k, d in enumerate(view.dims) if not (own and k in shared)]
        repeated = view._replace(dims=tuple(dims)).has_foreign()
        alone = view.pending != "bias" or not value.info.sources
        if repeated or not (alone or trace.is_kernel(view.leaf)):
            return False
    return True


def _data_like(value: Value) -> bool:
    """Whether leaves were repeated over examples, and so stand for activations."""
    return all(view.has_foreign() for view in value.views if not view.reason)


def _two_params(
    trace: Trace, eqn: JaxprEqn, left: Value, right: Value
) -> tuple[Value, Value] | list[Value]:
    """Two leaves multiplied: activations if one is, else which is what is open."""
    for value, other in ((left, right), (right, left)):
        if value.views and all(view.leaf in trace.inputs for view in value.views):
            settled = trace.settle(value)
            return (settled, other) if value is left else (other, settled)
    if _data_like(left) != _data_like(right):
        if _data_like(left):
            return trace.settle(left), right
        return left, trace.settle(right)
    leaves = {view.leaf for view in left.views} & {view.leaf for view in right.views}
    if leaves:
        views = join_views((*left.views, *right.views))
        reason = "It is only seen through products with itself."
        return [blur_all(Value(views), reason)]
    return [mixed(trace, (left, right), MULTIPLIED)]


@rule("dot_general")
def _dot_general(trace: Trace, eqn: JaxprEqn, left: Value, right: Value) -> list[Value]:
    if left.is_const and right.is_const:
        return [CONST]
    contract, batch = eqn.params["dimension_numbers"]
    if not contract[0]:
        return [_outer(trace, eqn, left, right)]
    if left.is_param and right.is_param:
        sides = _two_params(trace, eqn, left, right)
        if isinstance(sides, list):
            return sides
        left, right = sides
    if left.is_const or right.is_const:
        value = right if left.is_const else left
        if value.is_param:
            reason = "It is only seen through a product with a constant array."
            return [blur_all(value, reason)]
        return [mixed(trace, (value,))]
    pairs = ((left, right, contract[0], batch[0]), (right, left, contract[1], batch[1]))
    modulated = [_as_kernel(trace, *pair) for pair in pairs]
    if left.is_param or (not right.is_param and modulated[0]):
        kernel, data, side = left, right, 0
    elif right.is_param or modulated[1]:
        kernel, data, side = right, left, 1
    else:
        infos = [info for v in (left, right) if (info := trace.settle(v).info)]
        joined = join_infos(infos, trace.site, gated=True)
        if any(info.is_gate for info in infos):
            # Attention weights average: what they average decides.
            let = (info.act for info in infos if not info.is_gate)
            joined = with_act(joined, next(let, None))
        layouts = [v.info.layout if v.info else None for v in (left, right)]
        layout = _product((layouts[0], layouts[1]), contract, batch)
        return [Value(info=joined._replace(layout=layout))]
    return [_contract(trace, eqn, kernel, data, side)]


def _contract(
    trace: Trace, eqn: JaxprEqn, kernel: Value, data: Value, side: int
) -> Value:
    """What a kernel makes of activations: which of its axes are summed tells its fans.

    Args:
        trace: the walk.
        eqn: a `dot_general`.
        kernel: one operand.
        data: the other.
        side: which the kernel is, 0 or 1.
    """
    contract, batch = eqn.params["dimension_numbers"]
    roles = [OUT] * len(shape_of(eqn.invars[side]))
    for dim in contract[side]:
        roles[dim] = IN
    for dim in batch[side]:
        roles[dim] = BATCH
    data = trace.settle(data)
    assert data.info is not None
    met = [*zip(contract[1 - side], contract[side], strict=True)]
    mean = [pair for pair in met if trace.labels.is_average(data.info.layout, pair[0])]
    if len(mean) < len(met):
        # Experts that weights mix: each sums over the rest alone.
        for _, dim in mean:
            roles[dim] = BATCH
        met = [pair for pair in met if pair not in mean]
    # Gates that several outputs hang on may mix kernels: a later product will tell.
    free = [k for k, role in enumerate(roles) if role == OUT]
    readable = [view for view in kernel.views if not view.reason]
    wide = [k for k in free if any(view.dims[k].own > 1 for view in readable)]
    mixing = data.info.is_gate and len(wide) > 1
    out = _apply(trace, kernel, data, "dense", roles, certain=not mixing)
    assert out.info is not None
    own = axes_of_kernel(trace, kernel)
    kept = [*zip(batch[1 - side], batch[side], strict=True), *mean]
    trace.labels.meet(data.info.layout, kernel.views, met, kept)
    places = len(shape_of(eqn.invars[1 - side])) - len(contract[1 - side])
    trace.labels.vmapped(own, roles, trace.vmaps - places)
    sides = (own, data.info.layout) if side == 0 else (data.info.layout, own)
    layout = _product(sides, contract, batch)
    info = out.info._replace(layout=layout)
    if mixing:
        return Value(_mixture(trace, eqn, kernel, side), info)
    return Value(info=info._replace(spans=_spans(eqn, kernel, side, roles)))


def _mixture(trace: Trace, eqn: JaxprEqn, kernel: Value, side: int) -> tuple[View, ...]:
    """Kernels that gates mix to one for each example, pending what it is used for."""
    contract, batch = eqn.params["dimension_numbers"]
    shape = shape_of(eqn.outvars[0])
    views: list[View] = []
    for view in kernel.views:
        if view.reason:
            continue
        gone = {*contract[side], *batch[side]}
        free = [dim for k, dim in enumerate(view.dims) if k not in gone]
        first = len(batch[0]) if side == 0 else len(shape) - len(free)
        dims = [repeated(size) for size in shape]
        dims[first : first + len(free)] = free
        for place, k in enumerate(batch[side]):
            dims[place] = view.dims[k]
        mixed = tuple(a for k in contract[side] for a in _view.axes_of(view.dims[k]))
        pending = view._replace(dims=tuple(dims), pending="mixture", site=trace.site)
        views.append(pending._replace(looked=mixed))
    return tuple(views)


def _outer(trace: Trace, eqn: JaxprEqn, left: Value, right: Value) -> Value:
    """A product that sums nothing, as one entry by entry."""
    _, batch = eqn.params["dimension_numbers"]
    shape = shape_of(eqn.outvars[0])
    spread: list[Value] = []
    first = len(batch[0])
    for value, atom, shared in zip((left, right), eqn.invars, batch, strict=True):
        free = [k for k in range(len(shape_of(atom))) if k not in shared]
        order = [*shared, *free]
        places = [*range(len(shared)), *range(first, first + len(free))]
        first += len(free)

        def put(
            view: View, order: list[int] = order, places: list[int] = places
        ) -> View:
            return _view.broadcast(_view.transpose(view, order), shape, places)

        out = move(trace, value, put)
        # Both are moved here, but are not one value.
        info = out.info and out.info._replace(base=(*trace.site, -1 - len(spread)))
        spread.append(out._replace(info=info))
    return entrywise(trace, "mul", spread)


def axes_of_kernel(trace: Trace, kernel: Value) -> Layout | None:
    """The layout that a kernel hands on to what it puts out."""
    return _axes.overlay(
        tuple(trace.labels.named(dim, view.leaf) for dim in view.dims)
        for view in kernel.views
        if not view.reason
    )


def _product(
    sides: tuple[Layout | None, Layout | None],
    contract: Sequence[Sequence[int]],
    batch: Sequence[Sequence[int]],
) -> Layout | None:
    """The layout of a product: batch dimensions, those left, those of the right."""
    left, right = sides
    if left is None or right is None:
        return None
    shared = _axes.overlay(
        tuple(layout[k] for k in dims)
        for layout, dims in zip((left, right), batch, strict=True)
    )
    free = (
        dim
        for layout, *gone in zip((left, right), contract, batch, strict=True)
        for k, dim in enumerate(layout)
        if k not in gone[0] and k not in gone[1]
    )
    return None if shared is None else (*shared, *free)


def _spans(
    eqn: JaxprEqn, kernel: Value, side: int, roles: Sequence[str]
) -> tuple[Span, ...]:
    """Where kernels that were concatenated before the product put their outputs."""
    free = [dim for dim, role in enumerate(roles) if role == OUT]
    # The output has the batch dimensions, those left of the left side, then the right.
    last = len(shape_of(eqn.outvars[0])) - len(free)
    first = last if side == 1 else roles.count(BATCH)
    return tuple(
        (view.leaf, first + k, dim.start, dim.start + dim.length)
        for view in kernel.views
        if not view.reason
        for k, dim in enumerate(view.dims[d] for d in free)
        if not dim.whole
    )


def _apply(
    trace: Trace,
    kernel: Value,
    data: Value,
    kind: str,
    roles: Sequence[str],
    certain: bool = True,
    **geometry: tuple[int, ...],
) -> Value:
    """Activations after a kernel; each of its leaves is one, with its own fans."""
    info = trace.settle(data).info
    assert info is not None
    sources = set[int](kernel.info.sources if kernel.info else ())
    nodes: set[int] = set()
    for view in kernel.views:
        shape = trace.shapes[view.leaf]
        if view.reason:
            trace.hints.setdefault(view.leaf, view.reason)
            sources.add(view.leaf)
            continue
        before = None if info.act == "mask" else info.act
        use = kernel_use(view, shape, kind, roles, before=before, **geometry)
        use = replace(use, multiplier=use.multiplier * info.factor)
        if info.act == "one_hot" and kind == "dense":
            looked = view._replace(looked=use.in_axes)
            use = entry_use(_without(looked, roles), shape, "embedding")
        nodes.add(
            trace.kernel(view, use, info, certain=certain and use.kind != "unknown")
        )
        sources.add(view.leaf)
    # What chose or modulated the kernel is no part of what it puts out.
    made = frozenset(nodes)
    out = Info(frozenset(sources), base=trace.site, roots=made, reach=made)
    return Value(info=out)


def _without(view: View, roles: Sequence[str]) -> View:
    """The view without the dimensions that a one-hot product looks up."""
    dims = zip(view.dims, roles, strict=True)
    return view._replace(dims=tuple(dim for dim, role in dims if role != IN))


def _split_groups(dim: Dim, groups: int) -> tuple[Dim, Dim]:
    """The output channels of a grouped convolution as groups and channels in one.

    Leaf axes that are groups through and through are layers side by side, as `vmap`
    makes them; the last factor keeps the channels, though there be only one.
    """
    if not dim.whole or groups == 1:
        return Dim((), 1), dim
    major: list[Factor] = []
    minor = list(dim.factors)
    while groups > 1 and minor:
        head = minor[0]
        if groups % head.size == 0 and len(minor) > 1:
            major.append(minor.pop(0))
            groups //= head.size
            continue
        n = math.gcd(groups, head.size)
        major.append(Factor(head.axes, n))
        minor[0] = Factor(head.axes, head.size // n)
        break
    sizes = [math.prod(factor.size for factor in part) for part in (major, minor)]
    return Dim(tuple(major), sizes[0]), Dim(tuple(minor), sizes[1])


@rule("ragged_dot_general")
def _ragged_dot(
    trace: Trace, eqn: JaxprEqn, data: Value, kernel: Value, sizes: Value
) -> list[Value]:
    if not kernel.is_param or data.info is None:
        return unreadable(trace, eqn, data, kernel, sizes)
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    contract, batch = numbers.dot_dimension_numbers
    roles = [OUT] * len(shape_of(eqn.invars[1]))
    for dim in contract[1]:
        roles[dim] = IN
    for dim in (*batch[1], *numbers.rhs_group_dimensions):
        roles[dim] = BATCH
    return [_apply(trace, kernel, data, "dense", roles)]


@rule("conv_general_dilated")
def _conv(trace: Trace, eqn: JaxprEqn, data: Value, kernel: Value) -> list[Value]:
    if data.is_const and kernel.is_const:
        return [CONST]
    if data.is_param and kernel.is_param:
        data = trace.settle(data)
    numbers = eqn.params["dimension_numbers"]
    out_dim, in_dim, *spatial = numbers.rhs_spec
    groups = eqn.params["feature_group_count"] * eqn.params["batch_group_count"]
    shape = shape_of(eqn.invars[1])
    views: list[View] = []
    for view in kernel.views:
        if not view.reason:
            part, channels = _split_groups(view.dims[out_dim], groups)
            dims = list(view.dims)
            dims[out_dim] = part
            view = view._replace(dims=(*dims, channels))
        views.append(view)
    parted = kernel._replace(views=tuple(views))
    if not kernel.is_param and not _as_kernel(
        trace, parted, data, (in_dim, *spatial), (out_dim,)
    ):
        return [mixed(trace, (data, kernel))]
    if data.is_const:
        reason = "It is only seen through a convolution of a constant array."
        return [blur_all(kernel, reason)]
    roles = [RECEPTIVE] * len(numbers.rhs_spec)
    roles[in_dim] = IN
    roles[out_dim] = BATCH
    out = _apply(
        trace,
        parted,
        data,
        "conv",
        [*roles, OUT],
        window=tuple(shape[dim] for dim in spatial),
        stride=tuple(eqn.params["window_strides"]),
        upsample=tuple(eqn.params["lhs_dilation"]),
        dilation=tuple(eqn.params["rhs_dilation"]),
    )
    assert out.info is not None and data.info is not None
    layout = _convolved(trace, eqn, kernel, data.info.layout)
    return [Value(info=out.info._replace(layout=layout))]


def _convolved(
    trace: Trace, eqn: JaxprEqn, kernel: Value, data: Layout | None
) -> Layout | None:
    """The layout of a convolution's output."""
    own = axes_of_kernel(trace, kernel)
    numbers = eqn.params["dimension_numbers"]
    if data is None or own is None:
        return None
    groups, channels = _split_groups(
        data[numbers.lhs_spec[1]], eqn.params["feature_group_count"]
    )
    trace.labels.convolve(groups, channels)
    layout = [repeated(size) for size in shape_of(eqn.outvars[0])]
    layout[numbers.out_spec[0]] = data[numbers.lhs_spec[0]]
    layout[numbers.out_spec[1]] = own[numbers.rhs_spec[0]]
    for to, out_of in zip(numbers.out_spec[2:], numbers.lhs_spec[2:], strict=True):
        layout[to] = _axes.merged(data[out_of], layout[to].size)
    return tuple(layout)
