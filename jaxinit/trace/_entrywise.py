"""Rules of the operations that work entry by entry, and of reductions."""

from collections.abc import Sequence

from jax.extend.core import JaxprEqn

from . import _axes, _view
from ._activations import BENDS, COMPARISONS, curve_name
from ._roles import entry_use
from ._sinks import contract
from ._value import CONST, Info, Value, cut, join_infos, join_views, with_act
from ._view import View, blur, stretch
from ._walk import Trace, mixed, rule, shape_of

_LINEAR = (
    "neg convert_element_type copy reduce_precision real stop_gradient "
    "sharding_constraint layout_constraint reshard name pvary pbroadcast preduced "
    "reduced_vary_cast_p vary_unreduced_cast_p"
).split()
_UNARY = (
    "tanh logistic erf erfc erf_inv exp exp2 expm1 log log1p abs sin cos tan atan sinh "
    "cosh asinh acosh atanh asin acos sqrt rsqrt cbrt square integer_pow "
    "sign floor ceil round is_finite not lgamma digamma imag conj population_count clz"
).split()
_BINARY = (
    "mul div add sub add_any max min pow atan2 rem nextafter complex and or "
    "xor gt ge lt le eq ne shift_left shift_right_logical shift_right_arithmetic"
).split()
_KINDS = {"mul": "scale", "div": "scale", "add": "bias", "sub": "bias"}
_KINDS["add_any"] = "bias"


@rule(*_LINEAR)
def linear(trace: Trace, eqn: JaxprEqn, value: Value, *_: Value) -> list[Value]:
    """Sign and precision leave entries where they are, and curves as they bend."""
    return [value]


@rule("optimization_barrier", "device_put")
def _barrier(trace: Trace, eqn: JaxprEqn, *values: Value) -> list[Value]:
    return list(values)


def _bend(trace: Trace, info: Info, ops: frozenset[str]) -> Info:
    """Activations after further operations on the same base."""
    if info.reduced:
        ops -= {"max", "min", "clamp", "select_n", "zero"}
    info = info._replace(ops=info.ops | ops)
    return trace.bend(info, curve_name(info.ops)) if ops else info


@rule(*_UNARY)
def unary(trace: Trace, eqn: JaxprEqn, value: Value, *_: Value) -> list[Value]:
    """A function of each entry: the layout stays, the curve bends."""
    if value.info is None:
        return [value._replace(scalar=None)]
    name = eqn.primitive.name
    if name == "integer_pow" and eqn.params["y"] == 2:
        name = "square"
    info = trace.settle(value).info
    assert info is not None
    if name not in BENDS:
        return [Value(info=info)]
    return [Value(info=_bend(trace, info, frozenset({name})))]


@rule(*_BINARY)
def binary(trace: Trace, eqn: JaxprEqn, *values: Value) -> list[Value]:
    """Sums, products, comparisons and their like."""
    return [entrywise(trace, eqn.primitive.name, _fit(eqn, values))]


def _fit(eqn: JaxprEqn, values: Sequence[Value]) -> tuple[Value, ...]:
    """The operands broadcast to the shape of the result."""
    shape = shape_of(eqn.outvars[0])
    fitted: list[Value] = []
    for value in values:
        views = tuple(stretch(view, shape) for view in value.views)
        info = value.info
        if info is not None:
            layout = _axes.moved(info.layout, lambda view: stretch(view, shape))
            info = info._replace(layout=layout)
        fitted.append(value._replace(views=views, info=info))
    return tuple(fitted)


@rule("clamp")
def _clamp(trace: Trace, eqn: JaxprEqn, *values: Value) -> list[Value]:
    return [entrywise(trace, "clamp", _fit(eqn, values))]


@rule("select_n")
def _select(trace: Trace, eqn: JaxprEqn, which: Value, *cases: Value) -> list[Value]:
    cases = _fit(eqn, cases)
    if which.info is None or all(case.is_const for case in cases):
        if all(case.is_const for case in cases):
            return [which if which.info else CONST]
        return [entrywise(trace, "select_n", cases)]
    data = [case for case in cases if case.info]
    if not data:
        # A mask made from activations or random numbers multiplies the leaves.
        return [_meet(trace, "mul", [*cases, which])]
    out = entrywise(trace, "select_n", cases)
    bent = [case.info for case in data if case.info and _same(case.info, which.info)]
    if bent and which.info.ops & COMPARISONS:
        # Where one side of a threshold on the value is the value: relu, written out.
        zero = {"zero"} if any(case.scalar == 0.0 for case in cases) else set[str]()
        ops = frozenset({"select_n", *zero}).union(*(info.ops for info in bent))
        return [Value(info=_bend(trace, bent[0], ops))]
    return [out]


def _same(one: Info, other: Info) -> bool:
    """Whether both are functions of the same value, entry by entry."""
    return one.base == other.base


def entrywise(trace: Trace, name: str, values: Sequence[Value]) -> Value:
    """The value that an operation makes of arrays of one shape, entry by entry."""
    if all(value.is_const for value in values):
        return CONST
    if not any(value.info for value in values):
        return _merge(trace, name, [value for value in values if value.views])
    if any(value.is_param for value in values):
        return _meet(trace, name, values)
    data = [value for value in values if value.info]
    if len(data) == 1:
        if name in ("mul", "div") and values[0] is data[0]:
            return data[0]
        return _with_constants(trace, name, data[0], values)
    infos = [info for value in data if (info := trace.settle(value).info)]
    return Value(info=_join(trace, name, infos))


def _with_constants(
    trace: Trace, name: str, value: Value, values: Sequence[Value]
) -> Value:
    """Activations and constants: thresholds bend, the rest scales and shifts."""
    if name == "mul":
        return value
    info = trace.settle(value).info
    assert info is not None
    ops: set[str] = set()
    if name in BENDS or name in COMPARISONS:
        ops = {name}
        if name in ("max", "select_n") and any(v.scalar == 0.0 for v in values):
            ops.add("zero")
        if name == "select_n" and not info.ops & COMPARISONS:
            ops = set()
        if name in ("max", "min") and "zero" not in ops and not info.ops & BENDS:
            # A threshold elsewhere guards a logarithm or a quotient.
            ops = set() if not info.ops else ops
    return Value(info=_bend(trace, info, frozenset(ops)))


def _join(trace: Trace, name: str, infos: Sequence[Info]) -> Info:
    """Several activations: one curve if they are functions of one value."""
    first = infos[0]
    if all(_same(first, info) for info in infos):
        ops = frozenset[str]().union(*(info.ops for info in infos))
        if name == "mul" and any(not info.ops for info in infos):
            ops |= {"itself"} if ops else {"square"}
        if name in BENDS or name in COMPARISONS:
            ops |= {name}
        merged = first._replace(ops=frozenset())
        return _bend(trace, merged, ops)
    if name == "div" and [info.act for info in infos] == ["exp", "exp"]:
        trace.bend(first, "softmax")
        return with_act(join_infos(infos, trace.site), "softmax")
    if name in ("add", "sub", "add_any") and len(infos) == 2:
        trace.add(first, infos[1])
    gated = name in ("mul", "div")
    return join_infos(infos, trace.site, gated=gated, entrywise=True)


def _meet(trace: Trace, name: str, values: Sequence[Value]) -> Value:
    """Leaves meet activations: a scale or a bias, unless a product follows."""
    infos = [
        info for value in values if value.info and (info := trace.settle(value).info)
    ]
    info = join_infos(infos, trace.site, entrywise=True)
    leaves = [view for value in values if value.is_param for view in value.views]
    if name == "select_n":
        # Chosen in place of activations: a mask token.
        settled = trace.settle(Value(tuple(leaves), info)).info
        return Value(info=settled)
    kind = _KINDS.get(name)
    if kind is None:
        reason = f"It meets activations in `{name}`."
        for view in leaves:
            use = entry_use(view, trace.shapes[view.leaf], "unknown", reason)
            trace.record(view, use)
        return Value(info=info)
    views: list[View] = []
    for view in join_views(leaves):
        if view.reason:
            trace.hints.setdefault(view.leaf, view.reason)
            continue
        if kind == "scale" and view.leaf in info.sources:
            trace.normalised.add(view.leaf)
        acts_on = info.sources
        for k, dim in enumerate(view.dims):
            acts_on &= cut(info, k, dim.start, dim.start + dim.length).sources
        pending = view._replace(pending=kind, site=trace.site, before=info.act)
        views.append(pending._replace(acts_on=acts_on))
    return Value(tuple(views), info)


def _is_modifier(trace: Trace, view: View, others: Sequence[View]) -> bool:
    """Whether a leaf is repeated along a dimension that another leaf fills.

    The gains of weight normalisation are, next to the kernel they scale; they have
    fewer axes even where the kernel's input is of size 1.
    """
    if view.reason:
        return False
    wider = narrower = lower = False
    for other in others:
        if other.reason or other.leaf == view.leaf:
            continue
        lower |= len(trace.shapes[view.leaf]) < len(trace.shapes[other.leaf])
        for mine, its in zip(view.dims, other.dims, strict=True):
            wider |= mine.own < its.own and mine.length >= its.length
            narrower |= its.own < mine.own and its.length >= mine.length
    return (wider or lower) and not narrower


def _overlaid(views: Sequence[View]) -> set[int]:
    """The leaves of which several entries meet in one place of a sum.

    A sum with the leaf's own mean, or with parts that zeros keep apart, is none.
    """
    places: dict[int, View] = {}
    found: set[int] = set()
    for view in views:
        if view.statistic:
            continue
        other = places.setdefault(view.leaf, view)
        if (other.dims, other.reason) == (view.dims, view.reason):
            continue
        pairs = zip(other.dims, view.dims, strict=False)
        apart = any(
            one.start + one.length <= two.start or two.start + two.length <= one.start
            for one, two in pairs
        )
        if not apart:
            found.add(view.leaf)
    return found


def _merge(trace: Trace, name: str, values: Sequence[Value]) -> Value:
    """Leaves and constants: each leaf keeps its place, gains and offsets are told."""
    given = [view for value in values for view in value.views]
    views = join_views(given)
    if name in ("add", "sub", "add_any"):
        overlaid = _overlaid(given)
        views = tuple(
            blur(view, "It is added to a moved or mixed copy of itself.")
            if view.leaf in overlaid
            else view
            for view in views
        )
    kept: list[View] = []
    for view in views:
        if _is_modifier(trace, view, views) and name in _KINDS:
            kind = _KINDS[name]
            trace.record(view, entry_use(view, trace.shapes[view.leaf], kind))
        else:
            kept.append(view)
    if name in ("mul", "div") and sum(not view.reason for view in kept) > 1:
        kept = [view._replace(multiplied=True) for view in kept]
    return Value(tuple(kept))


@rule(
    *"reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or argmax "
    "argmin".split()
)
def _reduce(trace: Trace, eqn: JaxprEqn, value: Value, *_: Value) -> list[Value]:
    axes = eqn.params["axes"]
    if value.info is not None:
        contracted = contract(trace, eqn, value)
        if contracted is not None:
            return [contracted]
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
