"""Rules of the operations that work entry by entry, and of reductions."""

from collections.abc import Sequence
from typing import Any

from jax.extend.core import JaxprEqn

from . import _axes
from ._activations import BENDS, COMPARISONS, curve_name
from ._numbers import multiplied, of_numbers, times
from ._roles import entry_use
from ._value import (
    CONST,
    Info,
    Value,
    choose,
    cut,
    join_infos,
    join_views,
    one_leaf,
    with_act,
)
from ._view import View, blur, stretch
from ._walk import Trace, rule, shape_of

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
# What a quantised array goes through stays, up to rounding, what it was.
_ROUND = frozenset("round floor ceil sign".split())
_KINDS = {"mul": "scale", "div": "scale", "add": "bias", "sub": "bias"}
_KINDS["add_any"] = "bias"


@rule(*_LINEAR)
def linear(trace: Trace, eqn: JaxprEqn, value: Value, *_: Value) -> list[Value]:
    """Sign and precision leave entries where they are, and curves as they bend."""
    aval: Any = eqn.invars[0].aval
    if value.info is not None and aval.dtype == bool:
        # A condition as a number lets through or not.
        info = trace.settle(value).info
        assert info is not None
        return [Value(info=info._replace(act="mask"))]
    return [value]


@rule("optimization_barrier", "device_put")
def _barrier(trace: Trace, eqn: JaxprEqn, *values: Value) -> list[Value]:
    return list(values)


def _bend(trace: Trace, info: Info, ops: frozenset[str]) -> Info:
    """Activations after further operations on the same base."""
    if info.reduced:
        ops -= {"max", "min", "clamp", "select_n", "zero"}
    info = info._replace(ops=info.ops | ops, factor=1.0)
    return trace.bend(info, curve_name(info.ops)) if ops else info


@rule(*_UNARY)
def unary(trace: Trace, eqn: JaxprEqn, value: Value, *_: Value) -> list[Value]:
    """A function of each entry: the layout stays, the curve bends."""
    name = eqn.primitive.name
    if value.info is None:
        number = value.scalar
        known = name in ("sqrt", "rsqrt") and number is not None and number > 0
        root = number ** (0.5 if name == "sqrt" else -0.5) if known and number else None
        return [value._replace(scalar=root)]
    if name == "integer_pow" and eqn.params["y"] == 2:
        name = "square"
    info = value.info if value.is_modulated else trace.settle(value).info
    assert info is not None
    views = value.views
    if name not in _ROUND:
        views = _bent(value)
    if name in BENDS:
        info = _bend(trace, info, frozenset({name}))
    if name == "erf_inv" and info.is_noise:
        info = info._replace(centred=True)  # as a normal's draw ends
    return [Value(views, info)]


@rule(*_BINARY)
def binary(trace: Trace, eqn: JaxprEqn, *values: Value) -> list[Value]:
    """Sums, products, comparisons and their like."""
    name = eqn.primitive.name
    fitted = _fit(eqn, values)
    pairs = [*zip(fitted, (value.is_modulated for value in values), strict=True)]
    views = [view for value, own in pairs if own for view in value.views]
    repeated = any(view.has_foreign() for view in views)
    others = [info for value, own in pairs if not own and (info := value.info)]
    late = any(info.sources for info in others)
    if late and name not in ("mul", "div"):
        # A scaled input is the stream, to which a branch that began from it is added.
        state = (info.reach for v, own in pairs if own and (info := v.info))
        begun = frozenset[int]().union(*state)
        late = not trace.stream.begins(begun, (info.reach for info in others))
    if name in _KINDS and views and (repeated or late):
        # Only now do the leaves that state has changed meet activations.
        fitted = tuple(
            part
            for value, own in pairs
            for part in (_apart(value) if own else (value,))
        )
    return [entrywise(trace, name, fitted)]


def _apart(value: Value) -> tuple[Value, Value]:
    """A parameter array that state has changed, and the state."""
    views = (view._replace(pending="", bent=False) for view in value.views)
    return Value(tuple(views)), Value(info=value.info)


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
    told = [case for case in cases if not case.is_const]
    if (same := one_leaf(told, trace.site)) is not None:
        return [same]
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
    if which.info.sources and not bent:
        infos = [info for case in data if (info := trace.settle(case).info)]
        chosen = choose(infos, which.info.sources)
        joined = join_infos(chosen, trace.site, entrywise=True)
        if out.info is not None:
            info = out.info._replace(roots=joined.roots, gated=joined.gated)
            return [out._replace(info=info)]
    return [out]


def _same(one: Info, other: Info) -> bool:
    """Whether both are functions of the same value, entry by entry."""
    return one.base == other.base


def entrywise(trace: Trace, name: str, values: Sequence[Value]) -> Value:
    """The value that an operation makes of arrays of one shape, entry by entry."""
    if all(value.is_const for value in values):
        return Value(scalar=of_numbers(name, [value.scalar for value in values]))
    if not any(value.info for value in values):
        merged = _merge(trace, name, [value for value in values if value.views])
        return multiplied(name, merged, values)
    if any(value.is_param for value in values):
        if any(view.leaf in trace.inputs for v in values for view in v.views):
            # What has been activations before is added as such: latents that are read.
            values = [trace.settle(value) if value.views else value for value in values]
            return entrywise(trace, name, values)
        merged = _modified(trace, name, values)
        return _meet(trace, name, values) if merged is None else merged
    data = [value for value in values if value.info]
    if len(data) > 1 and not any(value.views for value in data):
        # Noise is to activations what a constant is.
        told = [value for value in data if value.info and not value.info.is_noise]
        data = told if told else data
    if len(data) == 1:
        if name == "mul" or (name == "div" and values[0] is data[0]):
            return times(trace, name, data[0], values)
        return _with_constants(trace, name, data[0], values)
    for value in data:
        if _KINDS.get(name) == "bias" and _is_updated(trace, value):
            # A further step: the sum is the leaf's, and none of activations.
            infos = [other.info for other in data if other.info]
            return Value(value.views, join_infos(infos, trace.site, entrywise=True))
    return Value(_kept(name, data), _join(trace, name, data))


def _bent(value: Value) -> tuple[View, ...]:
    """The leaves in a curve of a value that may still be kernels."""
    if not value.is_modulated and any(v.pending != "scale" for v in value.views):
        return ()
    return tuple(view._replace(bent=True) for view in value.views)


def _is_updated(trace: Trace, value: Value) -> bool:
    """Whether a value is a kernel to which something of its own shape was added."""
    return bool(value.views) and all(
        view.pending == "bias" and not view.has_foreign() and trace.is_kernel(view.leaf)
        for view in value.views
    )


def _modified(trace: Trace, name: str, values: Sequence[Value]) -> Value | None:
    """A kernel that state has changed and a leaf modifies; None if it is no such pair.

    The magnitude of a kernel that was decomposed is the leaf, for one.
    """
    held = [value for value in values if value.is_modulated and value.info]
    params = [value for value in values if value.is_param]
    if len(held) != 1 or len(params) != 1 or len(values) != 2:
        return None
    (kernel,), (leaf,) = held, params
    views = kernel.views
    if not all(_is_modifier(trace, view, views) for view in leaf.views):
        return None
    _merge(trace, name, [_apart(kernel)[0], leaf])
    return kernel


def _kept(name: str, data: Sequence[Value]) -> tuple[View, ...]:
    """The leaves that may still be kernels after activations met each other."""
    holders = [value for value in data if value.views]
    if all(value.is_modulated for value in holders):
        return join_views(view for value in holders for view in value.views)
    scaled = all(view.pending == "scale" for view in holders[0].views)
    if name == "mul" or (name == "div" and holders[0] is data[0]):
        return holders[0].views if len(holders) == 1 and scaled else ()
    return ()


def _with_constants(
    trace: Trace, name: str, value: Value, values: Sequence[Value]
) -> Value:
    """Activations and constants: thresholds bend, the rest scales and shifts."""
    views = value.views if value.is_modulated else _bent(value)
    info = value.info if value.is_modulated else trace.settle(value).info
    assert info is not None
    ops: set[str] = set()
    if name in ("add", "sub") or name in COMPARISONS:
        info = info._replace(centred=False)
    if name in BENDS or name in COMPARISONS:
        ops = {name}
        if name in ("max", "select_n") and any(v.scalar == 0.0 for v in values):
            ops.add("zero")
        if name == "select_n" and not info.ops & COMPARISONS:
            ops = set()
        if name in ("max", "min") and "zero" not in ops and not info.ops & BENDS:
            # A threshold elsewhere guards a logarithm or a quotient.
            ops = set() if not info.ops else ops
    return Value(views, _bend(trace, info, frozenset(ops)))


def _join(trace: Trace, name: str, data: Sequence[Value]) -> Info:
    """Several activations: one curve if they are functions of one value."""
    settled = [value if value.is_modulated else trace.settle(value) for value in data]
    infos = [info for value in settled if (info := value.info)]
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
        joined = join_infos(infos, trace.site, entrywise=True)
        return with_act(joined._replace(spans=()), "softmax")
    if name in ("add", "sub", "add_any") and len(infos) == 2:
        trace.add(*data)
    gated = name in ("mul", "div")
    parts = {info.reduced: (info.sources, info.reach) for info in infos}
    if gated and len(parts) == 2 and parts[True] == parts[False]:
        sources, reach = parts[True]
        if len(sources) == len(reach) == 1:  # and nothing was added to its output
            trace.normed |= sources
    for info in infos if gated else ():
        if info.is_gate and info.act in ("softmax", "sigmoid"):
            others = [other.layout for other in infos if other is not info]
            trace.labels.weigh(info.layout, others)
    return join_infos(infos, trace.site, gated=gated, entrywise=True)


def _meet(trace: Trace, name: str, values: Sequence[Value]) -> Value:
    """Leaves meet activations: a scale or a bias, unless a product follows."""
    leaves = [view for value in values if value.is_param for view in value.views]
    own = {view.leaf for view in leaves}
    # A leaf that meets itself, rounded by state, meets the state.
    settled = (
        value if own.issuperset(v.leaf for v in value.views) else trace.settle(value)
        for value in values
    )
    infos = [value.info for value in settled if value.info]
    info = join_infos(infos, trace.site, entrywise=True)
    if name == "select_n":
        # Chosen in place of activations: a mask token.
        settled = trace.settle(Value(tuple(leaves), info)).info
        return Value(info=settled)
    kind = _KINDS.get(name)
    if kind == "bias" and info.reduced and _is_update(trace, leaves):
        return Value(join_views(leaves))
    if kind is None and not info.sources and not any(v.has_foreign() for v in leaves):
        kind = "unknown"
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
        pending = view._replace(
            pending=kind, site=trace.site, before=info.act, bent=False
        )
        if kind == "bias":
            pending = pending._replace(places=_axes.places(view, info.layout))
        views.append(pending._replace(acts_on=acts_on))
    return Value(tuple(views), info)


def _is_update(trace: Trace, leaves: Sequence[View]) -> bool:
    """Whether leaves of layers are changed by a statistic: a step of training."""
    used = {leaf for _, leaf in trace.records}
    return all(view.leaf in used and not view.has_foreign() for view in leaves)


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
    left = {view.leaf for view in kept if not view.reason}
    factors = [value for value in values if left & {view.leaf for view in value.views}]
    if name in ("mul", "div") and len(factors) > 1 and len(left) > 1:
        kept = [view._replace(multiplied=True) for view in kept]
    return Value(tuple(kept))
