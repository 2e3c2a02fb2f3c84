"""The products of a function with its kernels: where they are, and of what."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from jaxinit import _compat
from jaxinit._types import is_array

from ._layer import KERNELS, Layer, Use
from ._linear import linear
from ._trace import Recorded, assembled, recorded
from ._view import Site, View
from ._walk import Record, Trace, shape_of

OWN_DERIVATIVE = ("custom_jvp_call", "custom_vjp_call")
"""Calls of functions that bring their own derivative."""


class Loop(NamedTuple):
    """A loop, or the devices of a mesh, around a product.

    Attributes:
        site: the operation.
        kind: "scan", "while" or "shard_map".
        length: the number of iterations, or of devices; None for a while loop, whose
            number nobody knows beforehand. All others are a leading axis of what
            `replay` is given and finds.
        reverse: whether a scan goes from the last place to the first.
    """

    site: Site
    kind: str
    length: int | None
    reverse: bool = False


class Part(NamedTuple):
    """A leaf in the kernel of a product.

    Attributes:
        path: of the leaf.
        use: the leaf's use here.
        number: which of the leaf's products it is, from 1 in order of execution.
        axes: for each loop around the product the leaf's axis through whose places
            the loop goes; None where every iteration uses the same ones. Loops that
            share an axis share its places, the outer loop the major part.
        span: result dimension, start and stop of the leaf's outputs, where kernels
            were concatenated; None where it has them all.
        linear: whether the kernel doubles where the leaf does, as far as the
            operations between them tell; one that is normalized does not.
    """

    path: str
    use: Use
    number: int
    axes: tuple[int | None, ...]
    span: tuple[int, int, int] | None
    linear: bool


class Product(NamedTuple):
    """A product or a convolution of activations with a kernel.

    Attributes:
        site: the operation whose result is the output.
        parts: the leaves in the kernel.
        operand: which operand is the activations; None for a product by hand, of
            multiplications and a sum.
        features: the result's dimensions that are the kernel's outputs.
        loops: what is around it, from outside to inside.
        unseen: why its gradient cannot be seen from outside; empty where it can.
    """

    site: Site
    parts: tuple[Part, ...]
    operand: int | None
    features: tuple[int, ...]
    loops: tuple[Loop, ...]
    unseen: str


class Program(NamedTuple):
    """A function as a program, with its products.

    Attributes:
        jaxpr: the program. consts: its constants.
        arrays: its arguments, concrete or not, parameters first.
        names: paths of the parameters.
        products: by site, in order of execution.
        missed: kernels, by path, with a use within an operation that `replay` does not
            enter, and which.
        rebuild: from the program's results to what the function returns.
        trace: what the walk found.
    """

    jaxpr: Jaxpr
    consts: list[Any]
    arrays: list[Any]
    names: list[str]
    products: dict[Site, Product]
    missed: dict[str, str]
    rebuild: Callable[[Sequence[Any]], Any]
    trace: Trace

    def layers(self) -> list[Layer]:
        """Its layers, as `jaxinit.trace.layers` lists them, with no further trace."""
        return assembled(self.trace, self.names, self.arrays[: len(self.names)])


def program(apply: Callable[..., Any], params: Any, *inputs: Any) -> Program:
    """Trace `apply(params, *inputs)` for `replay`.

    Args:
        apply: as in `layers`.
        params: as in `layers`.
        inputs: as in `layers`.

    Returns:
        The `Program`.

    Raises:
        TypeError: as `layers`.

    Example:
        >>> import jax.numpy as jnp
        >>> apply = lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"]
        >>> made = program(apply, {"w": jnp.eye(2), "v": jnp.eye(2)}, jnp.ones((1, 2)))
        >>> [product.parts[0].path for product in made.products.values()]
        ['w', 'v']
    """
    walked = recorded(apply, params, *inputs)
    by_site: dict[Site, list[tuple[int, Record]]] = {}
    for (_, leaf), record in walked.trace.records.items():
        if record.use.kind in KERNELS:
            by_site.setdefault(record.site, []).append((leaf, record))
    straight = linear(walked.jaxpr, len(walked.names), by_site, within)
    products: dict[Site, Product] = {}
    missed: dict[str, str] = {}
    counts: dict[int, int] = {}
    for site, found in sorted(by_site.items()):
        around = list(enclosing(walked.jaxpr, site))
        if around[-1][0] != site:
            for leaf, _ in found:
                missed.setdefault(walked.names[leaf], around[-1][1].primitive.name)
            continue
        for leaf, _ in found:
            counts[leaf] = counts.get(leaf, 0) + 1
        products[site] = _product(walked, around, found, counts, straight)
    jaxpr, consts, arrays, names, trace, rebuild = walked
    return Program(jaxpr, consts, arrays, names, products, missed, rebuild, trace)


def arrays_of(*trees: Any) -> list[Any]:
    """The arrays of the parameters and inputs of a program, in its order."""
    return [leaf for leaf in jax.tree.leaves(trees) if is_array(leaf)]


def within(eqn: JaxprEqn) -> dict[Site, ClosedJaxpr | Jaxpr]:
    """The programs that an operation runs, by what stands in the sites within.

    None for operations that `replay` does not enter; of a while loop not the test.
    """
    name = eqn.primitive.name
    if name in _compat.CALLS:
        return {(): _compat.called(eqn)}
    if name == "scan":
        return {(): _compat.scan(eqn).jaxpr}
    if name == "while":
        return {(0,): _compat.while_loop(eqn).turn}
    if name == "cond":
        return {(k,): branch for k, branch in enumerate(_compat.branches(eqn))}
    if name == "shard_map":
        return {(): _compat.shard_map(eqn).jaxpr}
    return {}


def enclosing(
    jaxpr: Jaxpr, site: Site, outer: Site = ()
) -> Iterator[tuple[Site, JaxprEqn]]:
    """The operations around a site, from outside to inside, and the one that is there.

    It ends early at an operation that is not entered.
    """
    here, rest = site[:1], site[1:]
    eqn = jaxpr.eqns[here[0]]
    outer = (*outer, *here)
    yield outer, eqn
    if rest:
        for prefix, inner in within(eqn).items():
            if rest[: len(prefix)] == prefix:
                place = (*outer, *prefix)
                yield from enclosing(_compat.body(inner), rest[len(prefix) :], place)


def _product(
    walked: Recorded,
    around: Sequence[tuple[Site, JaxprEqn]],
    found: Sequence[tuple[int, Record]],
    counts: Mapping[int, int],
    straight: Mapping[tuple[Site, int], bool],
) -> Product:
    *outside, (site, eqn) = around
    loops = loops_of(outside)
    operands = walked.trace.operands[site]
    side = _side(operands, found[0][0])
    places = _places(eqn, side)
    features: set[int] = set()
    parts: list[Part] = []
    for leaf, record in found:
        span = None
        for dim, place in places.items():
            axes = {a for factor in record.view.dims[dim].factors for a in factor.axes}
            if axes & set(record.use.out_axes):
                features.add(place)
                window = record.view.dims[dim]
                if not window.whole:
                    span = (place, window.start, window.start + window.length)
        axes = tuple(_axis(walked, loop, leaf) for loop in loops)
        name, is_linear = walked.names[leaf], straight.get((site, leaf), False)
        parts.append(Part(name, record.use, counts[leaf], axes, span, is_linear))
    return Product(
        site,
        tuple(parts),
        1 - side if len(operands) > 1 else None,
        tuple(sorted(features)),
        loops,
        _unseen(outside, found),
    )


def loops_of(outside: Sequence[tuple[Site, JaxprEqn]]) -> tuple[Loop, ...]:
    """The loops among the operations around a site."""
    return tuple(loop for place in outside if (loop := _loop(*place)) is not None)


def _loop(site: Site, eqn: JaxprEqn) -> Loop | None:
    name = eqn.primitive.name
    if name == "scan":
        scan = _compat.scan(eqn)
        return Loop(site, name, scan.length, scan.reverse)
    if name == "while":
        return Loop(site, name, None)
    if name == "shard_map":
        parts = _compat.shard_map(eqn)
        length = math.prod(parts.sizes[axis] for axis in parts.axes)
        return Loop(site, name, length)
    return None


def _side(operands: Sequence[Any], leaf: int) -> int:
    """Which operand of a product is the kernel that holds the leaf."""
    holds = [any(view.leaf == leaf for view in value.views) for value in operands]
    alone = [k for k, held in enumerate(holds) if held and operands[k].is_param]
    return alone[0] if alone else holds.index(True)


def _places(eqn: JaxprEqn, side: int) -> dict[int, int]:
    """From dimensions of the kernel that a product keeps to those of its result."""
    name = eqn.primitive.name
    if name == "dot_general":
        contract, batch = eqn.params["dimension_numbers"]
        kept = [
            [k for k in range(len(shape_of(atom))) if k not in {*summed, *shared}]
            for atom, summed, shared in zip(eqn.invars, contract, batch, strict=True)
        ]
        first = len(batch[0]) + (len(kept[0]) if side == 1 else 0)
        return {dim: first + k for k, dim in enumerate(kept[side])}
    if name == "conv_general_dilated":
        # The walk puts the channels that a group makes last.
        return {-1: eqn.params["dimension_numbers"].out_spec[1]}
    if name == "ragged_dot_general":
        rank = len(shape_of(eqn.invars[1]))
        return {rank - 1: len(shape_of(eqn.outvars[0])) - 1}
    summed = eqn.params.get("axes", ())
    left = [k for k in range(len(shape_of(eqn.invars[0]))) if k not in summed]
    return {dim: k for k, dim in enumerate(left)}


def _axis(walked: Recorded, loop: Loop, leaf: int) -> int | None:
    """The leaf's axis through whose places a scan goes."""
    if loop.kind != "scan":
        return None
    scan = _compat.scan(next(_at(walked.jaxpr, loop.site)))
    slices = walked.trace.operands[loop.site][scan.consts + scan.carry :]
    views: list[View] = [view for value in slices for view in value.views]
    for view in views:
        if view.leaf == leaf and not view.reason:
            axes = [a for factor in view.dims[0].factors for a in factor.axes]
            return axes[0] if len(axes) == 1 else None
    return None


def _at(jaxpr: Jaxpr, site: Site) -> Iterator[JaxprEqn]:
    """The operation at a site."""
    return (eqn for place, eqn in enclosing(jaxpr, site) if place == site)


def _unseen(
    outside: Sequence[tuple[Site, JaxprEqn]], found: Sequence[tuple[int, Record]]
) -> str:
    """Why the gradient by a product's result cannot be seen; empty if it can."""
    for _, eqn in outside:
        name = eqn.primitive.name
        if name in OWN_DERIVATIVE:
            return "It is within a function that brings its own derivative."
        if name == "while":
            return "It is within a while loop, through which no gradient goes back."
        if name == "shard_map" and not _compat.shard_map(eqn).check_vma:
            return "It is within a shard_map that does not check what varies."
    for _, record in found:
        if any(axis in record.use.in_axes for axis, _ in record.view.shards):
            return "Each device sees its part of the sum alone."
    return ""
