"""Rules of the reductions, of which a sum may be the second half of a product."""

from jax.extend.core import JaxprEqn

from . import _axes, _view
from ._roles import BATCH, IN, OUT, kernel_use
from ._sinks import axes_of_kernel
from ._value import CONST, Info, Value
from ._view import View, blur, only_repeats
from ._walk import Trace, mixed, rule, shape_of


@rule(
    *"reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or argmax "
    "argmin".split()
)
def _reduce(trace: Trace, eqn: JaxprEqn, value: Value, *_: Value) -> list[Value]:
    axes = eqn.params["axes"]
    if value.info is not None:
        product = _contract(trace, eqn, value)
        if product is not None:
            return [product]
        info = mixed(trace, (value,)).info
        assert info is not None
        trace.labels.judge(value.info.layout)

        def drop(view: View) -> View:
            return _view.drop(view, axes)

        layout = _axes.moved(value.info.layout, drop)
        return [Value(info=info._replace(reduced=True, layout=layout))]
    if value.is_const:
        return [CONST]
    views: list[View] = []
    for view in value.views:
        if not view.reason and all(view.dims[axis].own == 1 for axis in axes):
            kept = (d for k, d in enumerate(view.dims) if k not in axes)
            views.append(view._replace(dims=tuple(kept)))
        else:
            name = eqn.primitive.name
            reason = f"It is only seen through `{name}`, a statistic of its entries."
            statistic = view.statistic or not view.reason
            views.append(blur(view, reason)._replace(statistic=statistic))
    return [Value(tuple(views))]


def _contract(trace: Trace, eqn: JaxprEqn, value: Value) -> Value | None:
    """A product by hand: leaves times activations entry by entry, then summed.

    Args:
        trace: the walk.
        eqn: a reduction.
        value: what is reduced.

    Returns:
        The activations after the kernels that the leaves are; None if they are scales,
        since the sum is not over their own entries.
    """
    axes, info = eqn.params["axes"], value.info
    readable = all(
        view.pending == "scale"
        and not (view.reason or view.bent)
        and (view.site, view.leaf) not in trace.records
        for view in value.views
    )
    if eqn.primitive.name != "reduce_sum" or info is None or not readable:
        return None
    if not value.views:
        return None
    if any(all(v.dims[axis].own == 1 for axis in axes) for v in value.views):
        return None
    layout = info.layout or ()
    spread = {k for k, dim in enumerate(layout) if only_repeats([dim])}
    kept = [k for k in range(len(shape_of(eqn.invars[0]))) if k not in axes]
    pairs = [(k, k) for k in axes], [(k, k) for k in kept]
    trace.labels.meet(info.layout, value.views, *pairs)
    nodes: set[int] = set()
    for view in value.views:
        # Where the activations are repeated they have no axis: the output gets one.
        roles = [
            (IN if dim.own > 1 else BATCH)
            if k in axes
            else (OUT if k in spread else BATCH)
            for k, dim in enumerate(view.dims)
        ]
        shape = trace.shapes[view.leaf]
        use = kernel_use(view, shape, "dense", roles, before=info.act)
        nodes.add(trace.kernel(view, use, info, certain=False))
    found = info.sources | {view.leaf for view in value.views}
    own = _axes.overlay((info.layout, axes_of_kernel(trace, value)))
    layout = _axes.moved(own, lambda view: _view.drop(view, axes))
    made = frozenset(nodes)
    out = Info(found, base=trace.site, roots=made, reach=made, layout=layout)
    return Value(info=out)
