"""Rules of the operations that hold programs: calls, branches and loops."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from jax.extend.core import Jaxpr, JaxprEqn, Literal

from jaxinit import _compat
from jaxinit._compat import body

from . import _axes, _view
from ._activations import ENTRYWISE, OVER_AXIS, activation_name, curve_name
from ._layer import KERNELS
from ._value import (
    ANY,
    CONST,
    Value,
    choose,
    join_infos,
    join_views,
    one_leaf,
    renew,
    with_act,
)
from ._view import View
from ._walk import Trace, mixed, number_of, rule, shape_of, unreadable


@rule(*(name for name in _compat.CALLS if name != "jit"))
def _call(trace: Trace, eqn: JaxprEqn, *values: Value) -> list[Value]:
    return trace.run(body(_compat.called(eqn)), values)


@rule("jit")
def _jit(trace: Trace, eqn: JaxprEqn, *values: Value) -> list[Value]:
    name = activation_name(eqn.params["name"])
    data = [value for value in values if not value.is_const]
    if name is None or len(data) != 1 or len(eqn.outvars) != 1:
        return _call(trace, eqn, *values)
    if data[0].is_param:
        # A function of each entry, such as the softplus of a scale.
        if name in ENTRYWISE:
            return [data[0]]
        return _call(trace, eqn, *values)
    info = trace.settle(data[0]).info
    assert info is not None
    if name in OVER_AXIS:
        bent = trace.bend(info, name)
        out = with_act(renew(bent, trace.site), name)
        same = shape_of(eqn.outvars[0]) == shape_of(eqn.invars[0])
        return [Value(info=out if same else out._replace(layout=None))]
    info = info._replace(ops=info.ops | {name}, factor=1.0)
    return [Value(info=trace.bend(info, curve_name(info.ops)))]


def _settle_active(trace: Trace, values: Sequence[Value]) -> list[Value]:
    """Activations without pending leaves; parameter arrays stay as they are."""
    return [trace.settle(value) if value.info else value for value in values]


def _given(trace: Trace, values: Sequence[Value]) -> list[Value]:
    """What a loop or a branch reads: a kernel that state has changed stays one."""
    return [
        value if value.is_modulated or not value.info else trace.settle(value)
        for value in values
    ]


def _join(trace: Trace, values: Sequence[Value], number: int) -> Value:
    """What is known of an array that is one of several values."""
    values = [value for value in values if not value.is_const]
    if not values:
        return CONST
    if not any(value.info for value in values):
        leaves: dict[int, set[Any]] = {}
        for value in values:
            for view in value.views:
                leaves.setdefault(view.leaf, set()).add(view.dims)
        views = join_views(view for value in values for view in value.views)
        return Value(
            tuple(
                _view.blur(view, "A loop or a branch moves it about.")
                if len(leaves[view.leaf]) > 1
                else view
                for view in views
            )
        )
    infos = [info for value in values if (info := trace.settle(value).info)]
    # One of them, entry by entry.
    joined = join_infos(infos, (*trace.site, -1 - number), entrywise=True)
    return Value(info=joined._replace(spans=()))


@rule("cond")
def _cond(trace: Trace, eqn: JaxprEqn, index: Value, *values: Value) -> list[Value]:
    values = tuple(_given(trace, values))
    results: list[list[Value]] = []
    for number, branch in enumerate(_compat.branches(eqn)):
        outer = trace.inside(number)
        results.append(trace.run(body(branch), values))
        trace.site = outer
    trace.stream.switches.add(trace.site)
    outs = [
        one_leaf([out for out in outs if not out.is_const], trace.site)
        or _join(trace, _alternatives(trace, outs), k)
        for k, outs in enumerate(zip(*results, strict=True))
    ]
    chosen = Value(info=index.info)
    return [chosen if out.is_const and index.info else out for out in outs]


def _alternatives(trace: Trace, values: Sequence[Value]) -> list[Value]:
    """Values of which one runs: what not all of them hold is as behind a gate."""
    values = _settle_active(trace, values)
    infos = [value.info for value in values if value.info]
    if not infos:
        return values
    chosen = iter(choose(infos, frozenset(-1 - node for node in trace.token(0))))
    return [v._replace(info=next(chosen)) if v.info else v for v in values]


def _fixed_point(
    trace: Trace,
    carry: Sequence[Value],
    step: Callable[[Sequence[Value]], list[Value]],
    turns: int | None,
) -> tuple[list[Value], set[int]]:
    """What is known of a loop's carry at any turn, found by iteration without records.

    Returns:
        The carry; and the places where a leaf is carried that each turn uses as a
        layer, and puts an updated one in its place.
    """
    trace.stream.loops[trace.site] = turns

    def enter(values: Sequence[Value]) -> list[Value]:
        entered: list[Value] = []
        for k, value in enumerate(values):
            info, node = value.info, trace.token(k)
            if info is not None:
                info = info._replace(roots=node, reach=node, gated=frozenset())
                of_start = start[k].info
                reach = of_start.reach if of_start else frozenset[int]()
                for number in node:
                    trace.stream.starts[number] = reach
            entered.append(value._replace(info=info))
        return entered

    start = [_join(trace, [v], k) if v.info else v for k, v in enumerate(carry)]
    current, kept = enter(start), set[int]()
    # What is known only grows, a layer's distance a turn, and a delay line passes it on
    # one place a turn; the records are made after.
    for turn in range(len(carry) + 8):
        saved = trace.save()
        # Settled here, so that uses a guess leaves open are forgotten with it.
        after = _settle_active(trace, step(current))
        if turn == 0:
            kept = _updated(trace, start)
        trace.restore(saved)
        after = [start[k] if k in kept else value for k, value in enumerate(after)]
        groups = zip(start, current, after, strict=True)
        joined = enter([_join(trace, group, k) for k, group in enumerate(groups)])
        if turn == 0:
            joined = [
                Value(info=with_act(new.info, ANY))
                if old.is_const and new.info
                else new
                for old, new in zip(start, joined, strict=True)
            ]
        if joined == current:
            break
        current = joined
    return current, kept


def _updated(trace: Trace, start: Sequence[Value]) -> set[int]:
    """Where a carry is a layer's leaf: gradient descent as a loop.

    Some leaf that is carried is a kernel within the loop, unlike a state that starts
    from one; what else is carried is so too if it is used as a leaf of a layer is.
    """
    depth = len(trace.site)
    kinds: dict[int, set[str]] = {}
    for (site, leaf), record in trace.records.items():
        if site[:depth] == trace.site:
            kinds.setdefault(leaf, set()).add(record.use.kind)
    carried = {
        k: {kind for view in value.views for kind in kinds.get(view.leaf, ())}
        for k, value in enumerate(start)
        if value.is_param
    }
    if not any(found & set(KERNELS) for found in carried.values()):
        return set()
    return {k for k, found in carried.items() if found and "embedding" not in found}


@rule("scan")
def _scan(trace: Trace, eqn: JaxprEqn, *values: Value) -> list[Value]:
    inner, n_consts, n_carry, length, _ = _compat.scan(eqn)
    turn = body(inner)
    n_read = n_consts + n_carry
    consts, slices = _given(trace, values[:n_consts]), _given(trace, values[n_read:])
    carry = _settle_active(trace, values[n_consts:n_read])

    part = trace.enter_loop()

    def first(value: Value) -> Value:
        views = (v if v.reason else _view.drop(v, (0,)) for v in value.views)
        info = value.info
        if info is not None:
            layout = _axes.moved(info.layout, lambda v: _view.drop(v, (0,)))
            info = info._replace(layout=layout, reach=info.reach | part)
        return value._replace(views=tuple(views), info=info)

    slices = [first(value) for value in slices]

    def step(current: Sequence[Value]) -> list[Value]:
        return trace.run(turn, [*consts, *current, *slices])[:n_carry]

    current, kept = _fixed_point(trace, carry, step, length)
    outs = trace.run(turn, [*consts, *current, *slices])
    outs = [current[k] if k in kept else out for k, out in enumerate(outs)]
    # A carry that no turn changes leaves as it came; the others hold the last turn's.
    results = _settle_active(trace, outs)

    def stack(view: View) -> View:
        return view if view.reason else _view.insert(view, 0, length)

    def pile(value: Value) -> Value:
        info = value.info
        if info is not None:
            info = info._replace(layout=_axes.moved(info.layout, stack))
        return Value(tuple(stack(view) for view in value.views), info)

    stacked = [pile(value) for value in results[n_carry:]]
    return [*results[:n_carry], *stacked]


@rule("while")
def _while(trace: Trace, eqn: JaxprEqn, *values: Value) -> list[Value]:
    test, turn, n_test, n_body = _compat.while_loop(eqn)
    n_read = n_test + n_body
    given, carry = _given(trace, values[:n_read]), values[n_read:]
    test_consts, body_consts = given[:n_test], given[n_test:]
    carry = _settle_active(trace, carry)

    def step(current: Sequence[Value]) -> list[Value]:
        return trace.run(body(turn), [*body_consts, *current])

    turns = _count(body(test), body(turn), test_consts, carry)
    outer = trace.inside(0)
    trace.enter_loop()
    current, kept = _fixed_point(trace, carry, step, turns)
    outs = step(current)
    outs = [current[k] if k in kept else out for k, out in enumerate(outs)]
    outs = _settle_active(trace, outs)
    trace.site = outer
    outer = trace.inside(1)
    trace.run(body(test), [*test_consts, *current])
    trace.site = outer
    pairs = zip(current, outs, strict=True)
    return [_join(trace, pair, k) for k, pair in enumerate(pairs)]


def _count(
    test: Jaxpr, turn: Jaxpr, consts: Sequence[Value], carry: Sequence[Value]
) -> int | None:
    """How many turns a loop has that counts up to a number; None if nobody knows."""
    if [eqn.primitive.name for eqn in test.eqns] not in (["lt"], ["le"]):
        return None
    (eqn,) = test.eqns
    before, after = turn.invars[len(turn.invars) - len(carry) :], turn.outvars
    steps: dict[Any, tuple[Any, float | None]] = {
        new: (eqn.invars[0], number_of(eqn.invars[1].val))
        for eqn in turn.eqns
        if eqn.primitive.name == "add" and isinstance(eqn.invars[1], Literal)
        for new in eqn.outvars
    }

    def known(atom: Any) -> tuple[float | None, float | None]:
        """What a side of the test starts from, and by how much each turn moves it."""
        if isinstance(atom, Literal):
            return number_of(atom.val), 0.0
        place = test.invars.index(atom) - len(consts)
        if place < 0:
            return consts[place].scalar, 0.0
        old, new = before[place], after[place]
        start = carry[place].scalar
        if new is old:
            return start, 0.0
        moved = None if isinstance(new, Literal) else steps.get(new)
        return start, moved[1] if moved and moved[0] is old else None

    (start, step), (stop, still) = map(known, eqn.invars)
    if start is None or stop is None or not step or step < 0 or still != 0:
        return None
    turns = (stop - start) / step
    if not math.isfinite(turns):
        return None
    last = eqn.primitive.name == "le"
    return max(0, math.floor(turns) + 1 if last else math.ceil(turns))


@rule("custom_linear_solve")
def _solve(trace: Trace, eqn: JaxprEqn, *values: Value) -> list[Value]:
    """A kernel whose product with the solution is given: its fans are the product's."""
    lengths, programs = eqn.params["const_lengths"], eqn.params["jaxprs"]
    given = values[sum(lengths) :]
    consts = values[: lengths.matvec]
    if not all(value.info for value in given):
        return unreadable(trace, eqn, *values)
    solved = [trace.settle(value) for value in given]
    trace.run(body(programs.matvec), [*consts, *solved])
    return [mixed(trace, (value,)) for value in solved]


@rule("shard_map")
def _shard_map(trace: Trace, eqn: JaxprEqn, *values: Value) -> list[Value]:
    parts = _compat.shard_map(eqn)
    sizes = parts.sizes
    inner: list[Value] = []
    for value, spec in zip(values, parts.in_specs, strict=True):
        names = [entry if isinstance(entry, tuple) else (entry,) for entry in spec]
        counts = [math.prod(sizes.get(n, 1) for n in entry if n) for entry in names]
        views = (_view.share(view, counts) for view in value.views)
        info = value.info and value.info._replace(layout=None)
        inner.append(value._replace(views=tuple(views), info=info))
    outs = trace.run(body(parts.jaxpr), inner)
    return _settle_active(trace, outs)


@rule("all_gather")
def _all_gather(trace: Trace, eqn: JaxprEqn, value: Value) -> list[Value]:
    if value.info is not None:
        settled = trace.settle(value).info
        assert settled is not None
        return [Value(info=renew(settled, trace.site)._replace(layout=None))]
    axis, count = eqn.params["all_gather_dimension"], eqn.params["axis_size"]
    views = (_view.gather(v, axis, count, eqn.params["tiled"]) for v in value.views)
    return [Value(tuple(views))]
