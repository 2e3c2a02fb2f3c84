"""Whether a kernel is linear in a leaf: does it double as the leaf does?

A kernel may be a function of its leaf: normalized by its own norm, squared, added to a
product of others. Scaling the leaf then does not scale the kernel. The walk tells by
the operations between leaf and kernel; what it cannot tell is not linear.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from jaxinit import _compat

from ._view import Site
from ._walk import shape_of

_MOVES = frozenset(
    "reshape transpose broadcast_in_dim squeeze expand_dims slice dynamic_slice gather "
    "rev tile split unstack convert_element_type reduce_precision reduce_sum cumsum "
    "neg copy copy_p real imag conj sharding_constraint device_put pvary pcast "
    "all_gather psum".split()
)
"""Operations that are linear in their first operand; others are places in it."""

_JOINS = frozenset("concatenate stack pad dynamic_update_slice select_n".split())
"""Operations that put operands side by side, each in its own part of the result."""

_SUMS = frozenset("add sub add_any".split())
_PRODUCTS = frozenset("mul dot_general conv_general_dilated ragged_dot_general".split())
_CONTRACTIONS = _PRODUCTS - {"mul"}


class _Of(NamedTuple):
    """What an array depends on.

    Attributes:
        leaves: for each leaf whether the array is linear in it.
        data: whether it depends on inputs. Of such an array only those leaves are kept
            that may still be modulated kernels.
    """

    leaves: dict[int, bool] = {}
    data: bool = False


_CONST = _Of()


def linear(
    jaxpr: Jaxpr,
    count: int,
    sites: Collection[Site],
    within: Callable[[JaxprEqn], dict[Site, Any]],
) -> dict[tuple[Site, int], bool]:
    """For sites and leaves of their operands: whether an operand is linear in the leaf.

    Args:
        jaxpr: the program.
        count: how many of its first arguments are leaves; the others are inputs.
        sites: of the operations that are asked about.
        within: the programs that an operation runs, as replay enters them.
    """
    walk = _Walk(sites, within)
    leaves = [_Of({leaf: True}) for leaf in range(count)]
    inputs = [_Of(data=True)] * (len(jaxpr.invars) - count)
    walk.run(jaxpr, [*leaves, *inputs], ())
    return walk.found


class _Walk:
    def __init__(
        self, sites: Collection[Site], within: Callable[[JaxprEqn], dict[Site, Any]]
    ) -> None:
        self.sites = frozenset(sites)
        self.within = within
        self.found: dict[tuple[Site, int], bool] = {}

    def run(self, jaxpr: Jaxpr, values: Sequence[_Of], outer: Site) -> list[_Of]:
        env: dict[Any, _Of] = dict(zip(jaxpr.invars, values, strict=True))

        def read(atom: Any) -> _Of:
            return _CONST if isinstance(atom, Literal) else env.get(atom, _CONST)

        for number, eqn in enumerate(jaxpr.eqns):
            site = (*outer, number)
            operands = [read(atom) for atom in eqn.invars]
            if site in self.sites:
                for operand in operands:
                    for leaf, straight in operand.leaves.items():
                        known = self.found.get((site, leaf), True)
                        self.found[site, leaf] = known and straight
            inner = self.within(eqn)
            if inner and any(x.leaves or x.data for x in operands):
                outs = self.enter(eqn, inner, operands, site)
            else:
                outs = [_result(eqn, operands)] * len(eqn.outvars)
            env.update(zip(eqn.outvars, outs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def enter(
        self, eqn: JaxprEqn, inner: dict[Site, Any], operands: Sequence[_Of], site: Site
    ) -> list[_Of]:
        name = eqn.primitive.name
        first = carried = 0
        if name == "scan":
            scan = _compat.scan(eqn)
            first, carried = scan.consts, scan.carry
        elif name == "while":
            loop = _compat.while_loop(eqn)
            operands = operands[loop.test_consts :]
            first = loop.turn_consts
            carried = len(operands) - first
        elif name == "cond":
            operands = operands[1:]
        data = any(x.data for x in operands)

        def carry(of: _Of) -> _Of:
            """What goes from one iteration to the next is linear in nothing."""
            return _Of({} if data else dict.fromkeys(of.leaves, False), data)

        last = first + carried
        operands = [
            carry(of) if first <= k < last else of for k, of in enumerate(operands)
        ]
        results = [
            self.run(_compat.body(program), operands, (*site, *prefix))
            for prefix, program in inner.items()
        ]
        outs = [_joined(each) for each in zip(*results, strict=True)]
        return [carry(of) if k < carried else of for k, of in enumerate(outs)]


def _joined(parts: Sequence[_Of]) -> _Of:
    leaves: dict[int, bool] = {}
    for part in parts:
        for leaf, straight in part.leaves.items():
            leaves[leaf] = leaves.get(leaf, True) and straight
    return _Of(leaves, any(part.data for part in parts))


def _bent(of: _Of) -> _Of:
    return _Of(dict.fromkeys(of.leaves, False), of.data)


def _result(eqn: JaxprEqn, operands: Sequence[_Of]) -> _Of:
    """What the results of an operation depend on, from what its operands do."""
    name = eqn.primitive.name
    together = _joined(operands)
    kinds = [getattr(var.aval, "dtype", None) for var in eqn.outvars]
    if not any(
        kind is not None and jnp.issubdtype(kind, jnp.inexact) for kind in kinds
    ):
        return _bent(together)  # rounded to integers, or compared
    if name in _MOVES:
        return _joined([operands[0], *map(_bent, operands[1:])])
    if together.data and (name in _CONTRACTIONS or name not in (*_PRODUCTS, "div")):
        return _Of(data=True)
    if name in _JOINS:
        # The first operand of a choice is what decides.
        split = 1 if name == "select_n" else 0
        return _joined([*map(_bent, operands[:split]), *operands[split:]])
    if name in _SUMS:
        terms = [
            of
            for of, atom in zip(operands, eqn.invars, strict=True)
            if not _is_zero(atom)
        ]
        return _Of(
            {
                leaf: straight and all(leaf in of.leaves for of in terms)
                for leaf, straight in together.leaves.items()
            }
        )
    if name in _PRODUCTS:
        left, right = (set(of.leaves) for of in operands[:2])
        return _without(together, left & right)
    if name == "div":
        top, bottom = operands
        return _joined([_without(top, bottom.leaves), _bent(bottom)])
    return _bent(together)


def _without(of: _Of, bent: Collection[int]) -> _Of:
    """The same, but linear in none of these leaves."""
    return _Of({k: f and k not in bent for k, f in of.leaves.items()}, of.data)


def _is_zero(atom: Any) -> bool:
    """Whether it is the number 0 as it stands in the program."""
    return isinstance(atom, Literal) and not shape_of(atom) and atom.val == 0
