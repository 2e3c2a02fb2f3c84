"""Points: where a program shows something of a signal besides its products.

They are places of the same replay: what is added to a residual stream, the softmax of
an attention, and the nonlinearities that saturate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

from jax.extend.core import Jaxpr, JaxprEqn, Var

from jaxinit import _compat

from ._products import (
    OWN_DERIVATIVE,
    Loop,
    Product,
    Program,
    enclosing,
    loops_of,
    within,
)
from ._trace import gates_of
from ._view import Site
from ._walk import shape_of

_CARRIES = frozenset(
    "add sub mul div neg max min tanh select_n convert_element_type reshape transpose "
    "broadcast_in_dim squeeze expand_dims copy optimization_barrier".split()
)
"""Operations whose result is as much the logits of an attention as its operand is."""

_SHOWS = frozenset({"convert_element_type", "select_n", "mul", "jit"})
"""Operations between the exponential of a softmax and its sum or quotient."""

_WIDENS = _SHOWS | {"broadcast_in_dim", "reshape", "squeeze", "add", "max"}
"""Operations between the sum of a softmax and its quotient."""

_BOUNDED = {"tanh": "tanh", "logistic": "sigmoid"}


class Point(NamedTuple):
    """A place that shows something of a signal.

    Attributes:
        site: the operation.
        kind: "stream" for what is added to a residual stream, whose result is the
            stream; "attention" for the softmax of an attention, or the exponential in
            it; "tanh" or "sigmoid" for a nonlinearity.
        axis: of the operation's result that weights of an attention sum to 1 over.
        after: paths of the kernels whose outputs it holds.
        loops: what is around it, from outside to inside.
    """

    site: Site
    kind: str
    axis: int | None
    after: tuple[str, ...]
    loops: tuple[Loop, ...]

    @property
    def product(self) -> Product:
        """It as a place that `replay` visits."""
        return Product(self.site, (), 0, (), self.loops, "")


def points(program: Program) -> dict[Site, Point]:
    """The points of a program by site, in order of execution.

    `replay` visits them as it visits products, if `point.product` is entered in
    `program.products` at their site.

    Those within a function that brings its own derivative are left out, as are those
    in operations that `replay` does not enter.
    """
    found: dict[Site, Point] = {}
    kinds: list[tuple[Site, str, int | None]] = []
    places = program.trace.stream.places(gates_of(program.trace))
    kinds += [(site, "stream", None) for site in places]
    kinds += [(site, "attention", axis) for site, axis in _attention(program)]
    kinds += [(site, kind, None) for site, kind in _bounded(program)]
    for site, kind, axis in sorted(kinds, key=lambda entry: entry[0]):
        around = list(enclosing(program.jaxpr, site))
        *outside, (last, eqn) = around
        hidden = any(each.primitive.name in OWN_DERIVATIVE for _, each in outside)
        if last != site or len(eqn.outvars) != 1 or hidden:
            continue
        operands = program.trace.operands.get(site, ())
        sources = [s for of in operands if of.info for s in of.info.sources]
        paths = dict.fromkeys(program.names[s] for s in sorted(sources))
        found[site] = Point(site, kind, axis, tuple(paths), loops_of(outside))
    return found


def _bounded(program: Program) -> Iterator[tuple[Site, str]]:
    """Nonlinearities that are a whole activation, and no part of one such as gelu."""
    after = program.trace.after
    for site, operands in program.trace.operands.items():
        *_, (last, eqn) = enclosing(program.jaxpr, site)
        kind = _BOUNDED.get(eqn.primitive.name)
        if kind is None or last != site or operands[0].info is None:
            continue
        info = operands[0].info
        told = [after.get(source, ((), "")) for source in info.sources]
        if told and all(pair == (info.base, kind) for pair in told):
            yield site, kind


def _attention(program: Program) -> list[tuple[Site, int]]:
    """The softmaxes of products of activations with activations, and their axes."""
    found: dict[Site, int] = {}
    _Logits(program, found).run(program.jaxpr, [False] * len(program.jaxpr.invars), ())
    return list(found.items())


class _Logits:
    """A walk that follows products of activations to the softmax that takes them."""

    def __init__(self, program: Program, found: dict[Site, int]) -> None:
        self.program = program
        self.found = found

    def run(self, jaxpr: Jaxpr, held: Sequence[bool], outer: Site) -> list[bool]:
        """Which results are logits, from which arguments are."""
        env: dict[Any, bool] = dict(zip(jaxpr.invars, held, strict=True))
        for number, eqn in enumerate(jaxpr.eqns):
            site = (*outer, number)
            flags = [
                env.get(x, False) if isinstance(x, Var) else False for x in eqn.invars
            ]
            outs = self.through(jaxpr, eqn, flags, site)
            env.update(zip(eqn.outvars, outs, strict=True))
        return [
            env.get(x, False) if isinstance(x, Var) else False for x in jaxpr.outvars
        ]

    def through(
        self, jaxpr: Jaxpr, eqn: JaxprEqn, flags: Sequence[bool], site: Site
    ) -> list[bool]:
        name = eqn.primitive.name
        inner = within(eqn)
        if inner:
            return self.enter(eqn, inner, flags, site)
        if name == "dot_general":
            met = self.program.trace.operands.get(site, ())
            both = len(met) == 2 and all(x.info for x in met)
            return [both and site not in self.program.products]
        if name == "exp" and any(flags):
            axis = _summed_over(jaxpr, eqn)
            if axis is not None:
                self.found[site] = axis
        return [name in _CARRIES and any(flags)] * len(eqn.outvars)

    def enter(
        self,
        eqn: JaxprEqn,
        inner: Mapping[Site, Any],
        flags: Sequence[bool],
        site: Site,
    ) -> list[bool]:
        before = dict(self.found)
        results: list[list[bool]] = []
        for prefix, program in inner.items():
            body = _compat.body(program)
            own = list(flags)[len(flags) - len(body.invars) :]
            results.append(self.run(body, own, (*site, *prefix)))
        new = [at for at in self.found if at not in before]
        if eqn.primitive.name in OWN_DERIVATIVE and new:
            # It is entered by no one: the softmax itself is the point.
            shape = shape_of(eqn.outvars[0])
            axes = {self.found.pop(at) for at in new}
            if len(eqn.outvars) == 1 and len(axes) == 1 and len(new) == 1:
                if shape == shape_of(eqn.invars[0]):
                    self.found[site] = axes.pop()
            return [False] * len(eqn.outvars)
        outs = [any(each) for each in zip(*results, strict=True)]
        return outs if len(outs) == len(eqn.outvars) else [False] * len(eqn.outvars)


def _summed_over(jaxpr: Jaxpr, exp: JaxprEqn) -> int | None:
    """The axis of a softmax, of which an exponential is the numerator; None if none."""
    (numerator,) = exp.outvars
    users: dict[Any, list[JaxprEqn]] = {}
    for eqn in jaxpr.eqns:
        for atom in eqn.invars:
            if isinstance(atom, Var):
                users.setdefault(atom, []).append(eqn)
    tops = _reached(users, numerator, _SHOWS)
    for top in list(tops):
        for eqn in users.get(top, ()):
            if eqn.primitive.name != "reduce_sum" or len(eqn.params["axes"]) != 1:
                continue
            for var in _reached(users, eqn.outvars[0], _WIDENS):
                for user in users.get(var, ()):
                    if user.primitive.name == "div" and user.invars[0] in tops:
                        return int(eqn.params["axes"][0])
    return None


def _reached(
    users: Mapping[Any, Sequence[JaxprEqn]], start: Any, names: Set[str]
) -> list[Any]:
    """The variables that are made of one by operations of these names."""
    found, waiting = {start: None}, [start]
    while waiting:
        for eqn in users.get(waiting.pop(), ()):
            var = eqn.outvars[0]
            if eqn.primitive.name in names and var not in found:
                found[var] = None
                waiting.append(var)
    return list(found)
