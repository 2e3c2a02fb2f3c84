"""What differs between releases of JAX, each entry with the release that changed it.

Where an equation of a jaxpr can tell by itself how it is built, it is read by the shape
of what is found; elsewhere a constant says what the JAX at hand does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

NORMALS_ROUND_ONCE: bool = jax.__version_info__ >= (0, 12)
"""Whether `jax.nn.initializers` multiplies sqrt(2) and the standard deviation first.

Since 0.12 an untruncated normal is `(sqrt(2) * stddev) * erf_inv(u)`, eagerly as under
`jit`; before, it was `(sqrt(2) * erf_inv(u)) * stddev`, rounded twice when eager.
"""


def body(inner: ClosedJaxpr | Jaxpr) -> Jaxpr:
    """The program without its constants. Since 0.11 both classes are one."""
    return inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner


def consts(inner: ClosedJaxpr | Jaxpr) -> Sequence[Any]:
    """The constants that a program carries; before 0.11 a `Jaxpr` carried none."""
    return getattr(inner, "consts", ())


CALLS = (
    "jit custom_jvp_call custom_vjp_call closed_call call remat2 remat_opt composite "
    "custom_vmap_call linear_call compute_on xla_metadata_call"
).split()
"""Primitives that only call a program."""

# A composite's program was named `jaxpr` before 0.11.
_CALLED = ("jaxpr", "call_jaxpr", "fwd_jaxpr", "call", "callee")


def called(eqn: JaxprEqn) -> ClosedJaxpr | Jaxpr:
    """The program that an equation calls, of a primitive in `CALLS`."""
    return next(eqn.params[name] for name in _CALLED if name in eqn.params)


class Scan(NamedTuple):
    """The parts of a scan.

    Attributes:
        jaxpr: the program of one iteration, from (*constants, *carry, *slices of xs)
            to (*carry, *slices of ys).
        consts: how many operands are constants.
        carry: how many are carried.
        length: the number of iterations.
        reverse: whether the last slice comes first.
    """

    jaxpr: ClosedJaxpr | Jaxpr
    consts: int
    carry: int
    length: int
    reverse: bool


def scan(eqn: JaxprEqn) -> Scan:
    """The parts of a `scan`; since 0.11 a tree of operands says how many are which."""
    params = eqn.params
    if "ft_in" in params:
        constants, carry, _ = (len(list(part)) for part in params["ft_in"].unpack())
    else:
        constants, carry = params["num_consts"], params["num_carry"]
    return Scan(params["jaxpr"], constants, carry, params["length"], params["reverse"])


class While(NamedTuple):
    """The parts of a while loop.

    Attributes:
        test: the program of the condition, from (*its constants, *carry).
        turn: the program of one iteration, from (*its constants, *carry).
        test_consts: how many operands are the condition's constants; they come first.
        turn_consts: how many are the iteration's constants; they come second.
    """

    test: ClosedJaxpr | Jaxpr
    turn: ClosedJaxpr | Jaxpr
    test_consts: int
    turn_consts: int


def while_loop(eqn: JaxprEqn) -> While:
    """The parts of a `while`."""
    params = eqn.params
    return While(
        params["cond_jaxpr"],
        params["body_jaxpr"],
        params["cond_nconsts"],
        params["body_nconsts"],
    )


def branches(eqn: JaxprEqn) -> Sequence[ClosedJaxpr | Jaxpr]:
    """The programs of a `cond`, of which its first operand chooses one."""
    return eqn.params["branches"]


class ShardMap(NamedTuple):
    """The parts of a shard_map.

    Attributes:
        jaxpr: the program of one device.
        mesh: the mesh, concrete or abstract.
        axes: the names of the mesh axes that it is mapped over.
        in_specs: for each operand the mesh axes that each of its axes is split over.
        out_specs: the same for each result.
        check_vma: whether it is checked over which axes values vary.
    """

    jaxpr: ClosedJaxpr | Jaxpr
    mesh: Any
    axes: frozenset[Any]
    in_specs: Sequence[Sequence[Any]]
    out_specs: Sequence[Sequence[Any]]
    check_vma: bool

    @property
    def sizes(self) -> dict[Any, int]:
        """The number of devices along each axis of the mesh."""
        return dict(self.mesh.shape)


def shard_map(eqn: JaxprEqn) -> ShardMap:
    """The parts of a `shard_map`."""
    params = eqn.params
    return ShardMap(
        params["jaxpr"],
        params["mesh"],
        params["newly_manual_axes"],
        params["in_specs"],
        params["out_specs"],
        params["check_vma"],
    )
