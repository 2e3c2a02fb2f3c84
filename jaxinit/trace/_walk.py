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
from jax.core import Tracer
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from ._axes import Labels, of_input, resized
from ._layer import Use
from ._roles import MULTIPLIED, entry_use
from ._stream import NONE, Addition, Stream
from ._value import CHOICES, CONST, Info, Value, blur_all, join_infos, join_views, renew
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


def number_of(value: Any) -> float | None:
    """The number that a constant is, None for arrays and for what is not real."""
    dtype = getattr(value, "dtype", None) or jnp.result_type(value)
    kinds = (jnp.floating, jnp.integer, jnp.bool_)
    real = any(jnp.issubdtype(dtype, kind) for kind in kinds)
    alone = jnp.shape(value) == () and not isinstance(value, Tracer)
    return float(value) if real and alone else None


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
        certain: whether it is a product, which no other use of the value outweighs.
        site: the operation that shows it, whose result a kernel's output is.
        view: the leaf as that operation meets it.
    """

    use: Use
    fraction: float
    acts_on: frozenset[int]
    certain: bool
    site: Site
    view: View


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
        normed: leaves whose outputs are divided by a statistic of themselves.
        factors: for leaves the number that multiplies their outputs alone.
        stream: the graph of kernels, and the sums of activations.
        labels: the axes of leaves that activations run along.
        narrow: uses of kernels that have one output.
        inputs: leaves that have become activations as they are.
        operands: by site what an operation met when it was last walked.
    """

    def __init__(
        self, shapes: Sequence[tuple[int, ...]], inputs: Iterable[int] = ()
    ) -> None:
        self.shapes = shapes
        self.site: Site = ()
        self.vmaps = 0
        self.records: dict[tuple[Site, int], Record] = {}
        self.hints: dict[int, str] = {}
        self.feeds: dict[int, dict[int, None]] = {}
        self.after: dict[int, tuple[Site, str]] = {}
        self.normalised: set[int] = set()
        self.normed: set[int] = set()
        self.factors: dict[int, float] = {}
        self.stream = Stream()
        self.labels = Labels()
        self.narrow: set[int] = set()
        self.inputs = set(inputs)
        self.operands: dict[Site, list[Value]] = {}

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
            return Value(scalar=number_of(atom.val))

        outer, vmaps = self.site, self.vmaps
        for number, eqn in enumerate(jaxpr.eqns):
            self.site = (*outer, number)
            self.vmaps = vmaps + _vmaps(eqn)
            apply = RULES.get(eqn.primitive.name, unreadable)
            operands = [read(atom) for atom in eqn.invars]
            self.operands[self.site] = operands
            outs = apply(self, eqn, *operands)
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
        graph = dict(self.stream.sums), dict(self.stream.reach)
        sets = set(self.normalised), set(self.normed), set(self.inputs)
        return (*found, dict(self.factors), *sets, *graph)

    def restore(self, saved: tuple[Any, ...]) -> None:
        """Goes back to what `save` returned."""
        self.records, self.hints, self.feeds, *rest = saved
        self.after, self.factors, *rest = rest
        self.normalised, self.normed, self.inputs, *graph = rest
        self.stream.sums, self.stream.reach = graph

    def token(self, number: int, site: Site | None = None) -> frozenset[int]:
        """The node that stands for an input, a table, or a carry of the loop here."""
        at = self.site if site is None else site
        return frozenset({self.stream.node(at, -1 - number)})

    def enter_loop(self) -> frozenset[int]:
        """Notes a loop here; the node stands for what each turn takes a place of."""
        part = self.token(0, (*self.site, -1))
        self.stream.slices[self.site] = part
        return part

    def part(self) -> frozenset[int]:
        """The node of what a turn of the innermost loop takes a place of, if any."""
        around = (self.site[:k] for k in range(len(self.site), 0, -1))
        slices = self.stream.slices
        return next((slices[site] for site in around if site in slices), frozenset())

    def record(
        self, view: View, use: Use, site: Site | None = None, certain: bool = False
    ) -> None:
        """Enters a use of a leaf; an array that is only mixed from it gives a hint."""
        if view.reason:
            self.hints.setdefault(view.leaf, view.reason)
            return
        key = (self.site if site is None else site, view.leaf)
        known = self.records.get(key)
        # A scale whose sum only serves a mean is a scale all the same; a scaled kernel
        # whose norm is taken on the way to its product is a kernel.
        weak = known is not None and not known.certain
        if known is None or (weak and (certain or use.kind == "scale")):
            found = use, view.fraction, view.acts_on, certain, self.site, view
            self.records[key] = Record(*found)

    def is_kernel(self, leaf: int) -> bool:
        """Whether a product has shown a leaf to be a kernel."""
        return any(
            record.certain for (_, seen), record in self.records.items() if seen == leaf
        )

    def is_table(self, leaf: int) -> bool:
        """Whether a leaf has only been an embedding so far."""
        kinds = [r.use.kind for (_, seen), r in self.records.items() if seen == leaf]
        return bool(kinds) and all(kind == "embedding" for kind in kinds)

    def latents(self) -> set[int]:
        """Leaves that meet a leaf in a product, and elsewhere are as activations are.

        They are latents that one example reads, whose queries are of a kernel.
        """
        kinds: dict[int, set[str]] = {}
        for (_, leaf), record in self.records.items():
            product = record.use.reason == MULTIPLIED
            kinds.setdefault(leaf, set()).add("product" if product else record.use.kind)
        others = {"bias", "embedding"}
        return {k for k, met in kinds.items() if "product" in met and met & others}

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
            if view.pending == "mixture":
                continue  # recorded as it was mixed
            kind = view.pending or ("unknown" if reason else "embedding")
            if kind == "unknown":
                reason = reason or "It meets activations, but in no product or sum."
            use = entry_use(view, self.shapes[view.leaf], kind, reason)
            use = replace(use, activation_before=view.before)
            self.record(view, use, view.site if view.pending else None)
            if kind == "embedding" and not view.reason:
                self.inputs.add(view.leaf)
                node = self.token(view.leaf, ())
                info = info._replace(
                    sources=info.sources | {view.leaf},
                    roots=info.roots | node,
                    reach=info.reach | node,
                )
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
        if name is None or name in CHOICES:
            return info._replace(act=name or info.base_act)
        for source in info.sources:
            base, _ = self.after.get(source, (info.base, ""))
            # A square may only serve a variance: it counts once a kernel takes it.
            if base == info.base and name != "squared_relu":
                self.after[source] = (base, name)
        return info._replace(act=name)

    def add(self, left: Value, right: Value) -> None:
        """Notes a sum of activations, which may end a residual branch."""
        for side, pair in enumerate(((left, right), (right, left))):
            trunk, branch = (self.settle(value).info or Info() for value in pair)
            scaled = any(view.pending == "scale" for view in pair[0].views)
            held = {node: gate for node, gate in branch.gated}
            held.update((node, NONE) for node in branch.roots)
            if branch.layout is not None:
                # What has no output axis there is a gate, or was averaged away.
                seen = self.labels.leaves_of(branch.layout)
                held = {
                    node: gate
                    for node, gate in held.items()
                    if self.stream.leaf(node) in seen or node in self.narrow
                }
            whole = trunk.roots.union(node for node, _ in trunk.gated)
            self.stream.sums[self.site, side] = Addition(
                self.site, trunk.roots, whole, tuple(held.items()), branch.reach, scaled
            )

    def kernel(self, view: View, use: Use, info: Info, *, certain: bool) -> int:
        """Enters the use of a leaf as a kernel on activations; returns its node."""
        self.record(view, use, view.site if view.pending else None, certain)
        node = self.stream.node(self.site, view.leaf)
        self.stream.reach[node] = self.stream.reach.get(node, NONE) | info.reach
        if use.fan_out == 1:
            self.narrow.add(node)
        for source in info.sources:
            base, name = self.after.get(source, ((), ""))
            if use.activation_before == "squared_relu" and name == "relu":
                self.after[source] = (base, "squared_relu")
            self.feeds.setdefault(source, {})[view.leaf] = None
        return node


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
        # What keeps the dimensions, such as a cumulated sum, keeps the axes in place.
        layouts = (resized(info.layout, shape_of(var)) for var in eqn.outvars)
        return [Value(info=out.info._replace(layout=layout)) for layout in layouts]
    return [out] * outs


@rule(*"random_bits rng_bit_generator rng_uniform threefry2x32".split())
def _noise(trace: Trace, eqn: JaxprEqn, *values: Value) -> list[Value]:
    """Random numbers are activations, though their key is no input."""
    return [
        Value(info=Info(base=trace.site, layout=of_input(shape_of(var))))
        for var in eqn.outvars
    ]


def steered(trace: Trace, value: Value, index: Value) -> Value:
    """Activations of which an index says where they are: it is no part of them."""
    info, by = value.info, trace.settle(index).info
    if info is None or by is None:
        return value
    sources, reach = info.sources | by.sources, info.reach | by.reach
    return value._replace(info=info._replace(sources=sources, reach=reach))


def mixed(trace: Trace, values: Sequence[Value], reason: str = "") -> Value:
    """Activations made of several values, whatever leaves they hold settled."""
    settled = [trace.settle(value, reason) for value in values if not value.is_const]
    infos = [value.info for value in settled if value.info]
    if not infos:
        return CONST
    if len(infos) == 1:
        return Value(info=renew(infos[0], trace.site)._replace(layout=None))
    return Value(info=join_infos(infos, trace.site))
