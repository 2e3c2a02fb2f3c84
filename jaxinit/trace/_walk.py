"""The walk over a jaxpr: one rule for each primitive, and what the rules record.

A rule has the signature `rule(trace, eqn, *values) -> list[Value]` and stands in the
table `RULES` under its primitive's name. The rules are in the modules named after
what they do: `_layout`, `_entrywise`, `_sinks` and `_calls`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from ._axes import Labels
from ._layer import Use
from ._roles import entry_use
from ._value import CONST, Info, Value, blur_all, join_infos, join_views, renew
from ._view import Site, View

Rule = Callable[..., list[Value]]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enters a function in the table, under the primitives it is the rule of."""

    def enter(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return enter


def shape_of(atom: Any) -> tuple[int, ...]:
    """The shape of an operand or a result of an equation."""
    return tuple(atom.aval.shape)


def _number(literal: Literal) -> float | None:
    """The number that a literal is, None for arrays and for what is not real."""
    kinds = (jnp.floating, jnp.integer, jnp.bool_)
    aval: Any = literal.aval
    real = any(jnp.issubdtype(aval.dtype, kind) for kind in kinds)
    return float(literal.val) if real and aval.shape == () else None


def _vmaps(eqn: JaxprEqn) -> int:
    """How many `vmap`s an equation was traced under, within its program."""
    stack = eqn.source_info.name_stack.stack
    return sum(getattr(entry, "name", "") == "vmap" for entry in stack)


class Record(NamedTuple):
    """A use in the making.

    Attributes:
        use: the use, but for `acts_on`.
        fraction: how much of the leaf it sees.
        acts_on: numbers of the leaves whose outputs it meets.
    """

    use: Use
    fraction: float
    acts_on: frozenset[int]


class Trace:
    """The state of one walk: where it is, and what it has found.

    Attributes:
        shapes: the shapes of the leaves.
        site: the numbers of the equations that the walk is inside of.
        vmaps: how many `vmap`s it is inside of.
        records: uses by the site and the leaf's number, in order of execution. A value
            that several operations read is one use, since it has one site.
        hints: for leaves that are seen in no readable way, why.
        feeds: for each leaf, in order, the kernels its output reaches.
        after: for each leaf the first nonlinearity its output meets, and at which base.
        normalised: leaves divided by a function of their own products.
        sums: pairs of the roots of a trunk and of a branch that were added.
        reach: for each kernel the roots of its inputs.
        tokens: numbers below 0 for what is not a leaf: inputs and carries.
        labels: the axes of leaves that activations run along.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        self.shapes = shapes
        self.site: Site = ()
        self.vmaps = 0
        self.records: dict[tuple[Site, int], Record] = {}
        self.hints: dict[int, str] = {}
        self.feeds: dict[int, dict[int, None]] = {}
        self.after: dict[int, tuple[Site, str]] = {}
        self.normalised: set[int] = set()
        self.sums: dict[tuple[frozenset[int], frozenset[int]], None] = {}
        self.reach: dict[int, frozenset[int]] = {}
        self.tokens: dict[Site, int] = {}
        self.labels = Labels()

    def run(
        self,
        jaxpr: Jaxpr,
        values: Iterable[Value],
        consts: Iterable[Value] = (),
        given: Mapping[Any, Value] = MappingProxyType({}),
    ) -> list[Value]:
        """Walks one jaxpr, from the values of its inputs to those of its outputs.

        Variables that it computes may be `given` another value than they would have.
        """
        env: dict[Any, Value] = dict(zip(jaxpr.constvars, consts, strict=False))
        env.update(zip(jaxpr.invars, values, strict=True))

        def read(atom: Any) -> Value:
            if not isinstance(atom, Literal):
                return env.get(atom, CONST)
            return Value(scalar=_number(atom))

        outer, vmaps = self.site, self.vmaps
        for number, eqn in enumerate(jaxpr.eqns):
            self.site = (*outer, number)
            self.vmaps = vmaps + _vmaps(eqn)
            apply = RULES.get(eqn.primitive.name, unreadable)
            outs = apply(self, eqn, *(read(atom) for atom in eqn.invars))
            for k, out in enumerate(outs[1:], 1):
                # Several results of one equation are not one value.
                if out.info and out.info.base == self.site:
                    info = out.info._replace(base=(*self.site, -1 - k))
                    outs[k] = out._replace(info=info)
            env.update(zip(eqn.outvars, outs, strict=True))
            env.update((var, given[var]) for var in eqn.outvars if var in given)
        self.site, self.vmaps = outer, vmaps
        return [read(atom) for atom in jaxpr.outvars]

    def inside(self, number: int) -> Site:
        """Steps into one of several jaxprs of an equation; returns where it was."""
        outer = self.site
        self.site = (*outer, number)
        return outer

    def save(self) -> tuple[Any, ...]:
        """What has been found so far, to go back to."""
        feeds = {leaf: dict(fed) for leaf, fed in self.feeds.items()}
        found = dict(self.records), dict(self.hints), feeds, dict(self.after)
        return (*found, set(self.normalised), dict(self.sums), dict(self.reach))

    def restore(self, saved: tuple[Any, ...]) -> None:
        """Goes back to what `save` returned."""
        self.records, self.hints, self.feeds, *rest = saved
        self.after, self.normalised, self.sums, self.reach = rest

    def token(self, number: int, site: Site | None = None) -> frozenset[int]:
        """The root that stands for an input, a table, or a carry of the loop here."""
        key = (*(self.site if site is None else site), -1 - number)
        return frozenset({self.tokens.setdefault(key, -1 - len(self.tokens))})

    def record(self, view: View, use: Use, site: Site | None = None) -> None:
        """Enters a use of a leaf; an array that is only mixed from it gives a hint."""
        if view.reason:
            self.hints.setdefault(view.leaf, view.reason)
            return
        key = (self.site if site is None else site, view.leaf)
        known = self.records.get(key)
        # A scale whose sum only serves a mean is a scale all the same.
        if known is None or (known.use.kind == "dense" and use.kind == "scale"):
            self.records[key] = Record(use, view.fraction, view.acts_on)

    def settle(self, value: Value, reason: str = "") -> Value:
        """The value as activations alone, with the uses of its leaves recorded.

        Args:
            value: any value.
            reason: if not empty, why a leaf's use here cannot be told.
        """
        if not value.views:
            return value if value.info else Value(info=Info(base=self.site))
        info = value.info or Info(base=self.site)
        for view in value.views:
            kind = view.pending or ("unknown" if reason else "embedding")
            use = entry_use(view, self.shapes[view.leaf], kind, reason)
            use = replace(use, activation_before=view.before)
            self.record(view, use, view.site if view.pending else None)
            if kind == "embedding" and not view.reason:
                roots = info.roots | self.token(view.leaf, ())
                info = info._replace(sources=info.sources | {view.leaf}, roots=roots)
                dims = (self.labels.named(dim, view.leaf) for dim in view.dims)
                info = info._replace(layout=tuple(dims))
        return Value(info=info)

    def end(self, value: Value) -> None:
        """Notes a result of the program."""
        self.settle(value, "" if value.info else "It is returned as it is.")
        if value.info is not None:
            self.labels.judge(value.info.layout)

    def bend(self, info: Info, name: str | None) -> Info:
        """Notes that activations went through a nonlinearity."""
        if name is None or name == "one_hot":
            return info._replace(act=name or info.base_act)
        for source in info.sources:
            base, _ = self.after.get(source, (info.base, ""))
            # A square may only serve a variance: it counts once a kernel takes it.
            if base == info.base and name != "squared_relu":
                self.after[source] = (base, name)
        return info._replace(act=name)

    def add(self, left: Info, right: Info) -> None:
        """Notes a sum of activations, which may end a residual branch."""
        none = frozenset[int]()
        for trunk, branch in ((left, right), (right, left)):
            self.sums[none if trunk.gated else trunk.roots, branch.roots] = None

    def kernel(
        self, view: View, use: Use, info: Info, site: Site | None = None
    ) -> None:
        """Enters the use of a leaf as a kernel on activations."""
        self.record(view, use, site)
        self.reach[view.leaf] = self.reach.get(view.leaf, frozenset()) | info.roots
        for source in info.sources:
            base, name = self.after.get(source, ((), ""))
            if use.activation_before == "squared_relu" and name == "relu":
                self.after[source] = (base, "squared_relu")
            self.feeds.setdefault(source, {})[view.leaf] = None


def unreadable(trace: Trace, eqn: JaxprEqn, *values: Value) -> list[Value]:
    """The rule of every primitive without one: activations stay activations."""
    name = eqn.primitive.name
    outs = len(eqn.outvars)
    if all(value.is_const for value in values):
        return [CONST] * outs
    if not any(value.info for value in values):
        views = join_views(view for value in values for view in value.views)
        reason = f"It is only seen through `{name}`, which mixes its entries."
        return [blur_all(Value(views), reason)] * outs
    reason = f"It enters `{name}` together with activations."
    out = mixed(trace, values, reason)
    data = [k for k, value in enumerate(values) if value.info]
    if len(data) == 1 and out.info and (info := values[data[0]].info):
        # What keeps the shape, such as a cumulated sum, keeps the axes in place.
        kept = out.info._replace(layout=info.layout)
        shape = shape_of(eqn.invars[data[0]])
        return [
            Value(info=kept if shape_of(var) == shape else out.info)
            for var in eqn.outvars
        ]
    return [out] * outs


def mixed(trace: Trace, values: Sequence[Value], reason: str = "") -> Value:
    """Activations made of several values, whatever leaves they hold settled."""
    settled = [trace.settle(value, reason) for value in values if not value.is_const]
    infos = [value.info for value in settled if value.info]
    if not infos:
        return CONST
    if len(infos) == 1:
        return Value(info=renew(infos[0], trace.site)._replace(layout=None))
    return Value(info=join_infos(infos, trace.site))
